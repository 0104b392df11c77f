//! What operators decided about callers, where rings read it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::domain::caller_id::CallerId;
use crate::domain::standing::{Standing, Standings};
use crate::store::{Decision, Register, Result, StoreError};

/// Why two numbers are not linked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// The two are one already, or would be each other's alias.
    #[error("both numbers are the same person's already, or one number")]
    Itself,
    /// Its memory would be torn from the other person's.
    #[error("the number is another person's already; unlink it first")]
    Linked,
    /// A mistyped number would become a person.
    #[error("nobody is known under the number to link to: whoever it is has to have called first")]
    Unknown,
    /// Nothing may be kept under the link.
    #[error("one of the two has opted out")]
    OptedOut,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The handle. Cheap to clone; asking it waits for nothing.
#[derive(Clone)]
pub struct Directory {
    standings: Arc<ArcSwap<Standings>>,
    register: Arc<dyn Register>,
    /// One decision at a time, so that what is read is what was decided last.
    deciding: Arc<Mutex<()>>,
}

impl Directory {
    pub(super) async fn load(register: Arc<dyn Register>) -> Result<Self> {
        let standings = register.standings().await?;
        Ok(Self {
            standings: Arc::new(ArcSwap::from_pointee(standings)),
            register,
            deciding: Arc::default(),
        })
    }

    /// How a caller is to be treated.
    #[must_use]
    pub fn standing(&self, caller: &CallerId) -> Standing {
        self.standings.load().of(caller)
    }

    /// As [`Self::standing`], but nobody has opted out who has not by now: what
    /// follows from that cannot be undone.
    pub(super) async fn confirmed_standing(&self, caller: &CallerId) -> Result<Standing> {
        let standing = self.standing(caller);
        if standing != Standing::OptedOut {
            return Ok(standing);
        }
        self.catch_up().await?;
        Ok(self.standing(caller))
    }

    /// The person behind a number, by now.
    pub(super) async fn confirmed_person(&self, caller: &CallerId) -> Result<CallerId> {
        self.catch_up().await?;
        Ok(self.person(caller))
    }

    /// The person behind a number.
    #[must_use]
    pub fn person(&self, caller: &CallerId) -> CallerId {
        self.standings.load().person(caller).clone()
    }

    /// Whether another instance has decided something since: `version` is that of
    /// the decisions by now.
    #[must_use]
    pub(super) fn is_outdated(&self, version: u64) -> bool {
        version > self.standings.load().version
    }

    /// Reads what other instances have decided, if they have.
    pub(super) async fn catch_up(&self) -> Result<()> {
        if self.is_outdated(self.register.version().await?) {
            self.refresh().await?;
        }
        Ok(())
    }

    /// Reads what other instances have decided.
    pub(super) async fn refresh(&self) -> Result<()> {
        let _deciding = self.deciding.lock().await;
        self.read().await
    }

    /// Takes over what the register has. By whoever is `deciding`.
    async fn read(&self) -> Result<()> {
        let standings = self.register.standings().await?;
        self.standings.store(Arc::new(standings));
        Ok(())
    }

    /// Everything that is decided.
    #[must_use]
    pub(super) fn standings(&self) -> Arc<Standings> {
        self.standings.load_full()
    }

    /// Makes `number` another number of `caller`, who may be another's already:
    /// the person that it is linked to.
    pub(super) async fn link(
        &self,
        number: &CallerId,
        caller: &CallerId,
    ) -> std::result::Result<CallerId, LinkError> {
        self.catch_up().await?;
        let _deciding = self.deciding.lock().await;
        let standings = self.standings();
        let person = standings.person(caller).clone();
        if caller == number || person == *number {
            return Err(LinkError::Itself);
        }
        if standings
            .aliases
            .get(number)
            .is_some_and(|linked| *linked != person)
        {
            return Err(LinkError::Linked);
        }
        if [number, &person]
            .iter()
            .any(|c| standings.opted_out.contains(*c))
        {
            return Err(LinkError::OptedOut);
        }
        let link = Decision::Link(number.clone(), Some(person.clone()));
        self.register.decide(link, Timestamp::now()).await?;
        self.read().await?;
        Ok(person)
    }

    /// Takes a decision. It is durable, and in force everywhere, when this
    /// returns.
    pub(super) async fn decide(&self, decision: Decision) -> Result<()> {
        let _deciding = self.deciding.lock().await;
        self.register.decide(decision, Timestamp::now()).await?;
        self.read().await?;
        Ok(())
    }
}
