//! A caller session: all that is known of one active caller.
//!
//! - What a ring or a search needs is [`Published`]: read at once by anybody,
//!   without asking an actor, also while a call is being learned.
//! - What changes it is the [`SessionActor`]: there is one for each caller
//!   whose calls are being worked on, it makes one change at a time, and it
//!   alone writes what is published. Its mailbox is the queue of changes.
//!
//! The actor comes with the first change and goes when there are no more, so
//! that a caller who only rings costs a few hundred bytes.

mod index;
mod load;
mod published;
mod table;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::memory_vectors::MemoryVectors;
use super::worker::Worker;
use crate::compute::Compute;
use crate::domain::caller_id::CallerId;
use crate::domain::learning::Learning;
use crate::domain::name::CallerName;
use crate::domain::tiers::{Greeted, Learned, NewGreeting, Renamed, Tiers};
use crate::metric_definitions::Metrics;
use crate::store::{Claim, Erasure, Ledger, MemoryStore, Register, StoreError, VectorStore, erase};
use crate::telemetry::CallerIdFormat;

pub(super) use index::IndexBudget;
pub use published::{CallerView, Published};
pub(super) use table::SessionTable;

/// Longest time for one change. A memory engine may take seconds for a call
/// with many memories; the SQL stores have limits of their own.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(4 * 60);

/// What every session works with.
pub(super) struct Dependencies {
    pub store: Arc<dyn MemoryStore>,
    /// For erasures, which begin there.
    pub ledger: Arc<dyn Ledger>,
    /// For erasures that go on after a restart.
    pub register: Arc<dyn Register>,
    /// For indexes and searches.
    pub compute: Compute,
    /// `None` without an embeddings model.
    pub vectors: Option<MemoryVectors>,
    /// For vectors whose caller is merged into another.
    pub vector_store: Arc<dyn VectorStore>,
    pub indexes: Arc<IndexBudget>,
    pub metrics: Arc<Metrics>,
    pub caller_ids: CallerIdFormat,
}

/// Why a session did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// It keeps failing and pauses, or there is no place for it.
    #[error("the caller's session is not available")]
    Unavailable,
    /// It failed before it was done; what was asked for may have happened.
    #[error("the caller's session failed")]
    Failed,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who waits for the end of a change. Dropped if the session fails.
pub(super) type Reply<T> = oneshot::Sender<Result<T, SessionError>>;

/// A change of what is stored of the caller. Each can be repeated.
pub(super) enum Change {
    Learn {
        learning: Learning,
        claim: Claim,
        reply: Reply<Learned>,
    },
    StoreGreeting {
        greeting: NewGreeting,
        claim: Claim,
        reply: Reply<Option<Greeted>>,
    },
    /// An operator's name for the caller.
    Rename {
        name: CallerName,
        reply: Reply<Option<Renamed>>,
    },
    /// Everything is removed, and nobody knows the caller any more.
    Erase {
        /// Only if an erasure has begun and the stores are not done: it may have
        /// been asked for again meanwhile, and calls since then stay.
        resumed: bool,
        reply: Reply<Option<Erasure>>,
    },
    /// What is known of another number of the same person is taken over.
    Merge { number: CallerId, reply: Reply<()> },
    /// The number is another caller's now, whose session takes over what is
    /// known of it: once this one is `ready` it changes nothing until that is
    /// `done`.
    HandOver {
        ready: oneshot::Sender<()>,
        done: oneshot::Receiver<()>,
        reply: Reply<()>,
    },
}

impl Change {
    /// Turns whoever asked for it away.
    pub fn refuse(self, error: SessionError) {
        // Nobody may be waiting any more.
        match self {
            Self::Learn { reply, .. } => drop(reply.send(Err(error))),
            Self::StoreGreeting { reply, .. } => drop(reply.send(Err(error))),
            Self::Rename { reply, .. } => drop(reply.send(Err(error))),
            Self::Erase { reply, .. } => drop(reply.send(Err(error))),
            Self::Merge { reply, .. } => drop(reply.send(Err(error))),
            Self::HandOver { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

pub(super) struct Message {
    pub change: Change,
    /// Counts what the session has not done yet; see the router.
    pub pending: Arc<()>,
}

/// What a session's actor is started with.
pub(super) struct Setup {
    pub caller: CallerId,
    pub table: Arc<SessionTable>,
    pub dependencies: Arc<Dependencies>,
}

pub(super) struct SessionActor {
    setup: Setup,
    /// `None` until the first change.
    published: Option<Arc<Published>>,
}

impl Worker for SessionActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, _: &ActorRef<Message>) -> Self {
        Self {
            setup,
            published: None,
        }
    }

    async fn handle(
        &mut self,
        _: &ActorRef<Message>,
        Message { change, pending }: Message,
    ) -> Result<(), ActorProcessingErr> {
        match self.published().await {
            Ok(published) => self.make(change, &published).await,
            Err(error) => change.refuse(error.into()),
        }
        drop(pending);
        Ok(())
    }
}

impl SessionActor {
    async fn published(&mut self) -> Result<Arc<Published>, StoreError> {
        if let Some(published) = &self.published {
            return Ok(Arc::clone(published));
        }
        let published = self.setup.table.own(&self.setup.caller).await?;
        self.published = Some(Arc::clone(&published));
        Ok(published)
    }

    async fn make(&self, change: Change, published: &Published) {
        let dependencies = Arc::clone(&self.setup.dependencies);
        let store = &dependencies.store;
        match change {
            Change::Learn {
                mut learning,
                claim,
                reply,
            } => {
                let learned = async {
                    let learned = store.learn(&learning, Some(claim)).await?;
                    // In the same change, so that no erasure comes between.
                    if let Some(vectors) = &dependencies.vectors {
                        vectors.want(&self.setup.caller).await?;
                    }
                    Ok(learned)
                };
                let result = within_limit(learned).await;
                if let Ok(learned) = &result {
                    let (profile, state) = (learned.profile.clone(), learned.state.clone());
                    published.update(|view| {
                        view.profile = Some(profile);
                        view.states.insert(learning.agent.clone(), Arc::new(state));
                        for (agent, state) in &learned.others {
                            view.states.insert(agent.clone(), Arc::new(state.clone()));
                        }
                    });
                    let memories = learned
                        .applied
                        .then(|| std::mem::take(&mut learning.memories));
                    let index = Arc::clone(published.index());
                    if index.is_loaded() {
                        // A panic unloads nothing that searches cannot do without.
                        let noted = move || index.note_call(memories);
                        let _ = dependencies.compute.run(noted).await;
                    } else {
                        index.note_call(memories);
                    }
                }
                let _ = reply.send(result.map_err(SessionError::from));
            }
            Change::StoreGreeting {
                greeting,
                claim,
                reply,
            } => {
                let stored = store.store_greeting(&greeting, Some(claim));
                let result = within_limit(stored).await;
                if let Ok(Some(greeted)) = &result {
                    let (profile, state) = (greeted.profile.clone(), greeted.state.clone());
                    published.update(|view| {
                        view.profile = Some(profile);
                        view.states.insert(greeting.agent, Arc::new(state));
                    });
                }
                let _ = reply.send(result.map_err(SessionError::from));
            }
            Change::Rename { name, reply } => {
                let caller = self.setup.caller.clone();
                let result = within_limit(store.rename(&caller, &name, Timestamp::now())).await;
                if let Ok(Some(Renamed {
                    profile, states, ..
                })) = &result
                {
                    let (profile, states) = (profile.clone(), states.clone());
                    published.update(|view| {
                        *view = Tiers {
                            profile: Some(profile),
                            states,
                            ..Tiers::default()
                        }
                        .into();
                    });
                }
                let _ = reply.send(result.map_err(SessionError::from));
            }
            Change::Erase { resumed, reply } => {
                let result = within_limit(self.erase(resumed)).await;
                if let Ok(Some(_)) = &result {
                    published.forget();
                }
                let _ = reply.send(result.map_err(SessionError::from));
            }
            Change::Merge { number, reply } => {
                let result = within_limit(self.merge(&number)).await;
                if let Ok(tiers) = &result {
                    let tiers = tiers.clone();
                    published.update(|view| *view = tiers.into());
                    published.index().note_call(None);
                }
                let _ = reply.send(result.map(drop).map_err(SessionError::from));
            }
            Change::HandOver { ready, done, reply } => {
                let taken_over = async {
                    let _ = ready.send(());
                    let given_up =
                        |_| StoreError::Unavailable("nobody took the number over".into());
                    done.await.map_err(given_up)
                };
                let result = within_limit(taken_over).await;
                if result.is_ok() {
                    published.forget();
                }
                let _ = reply.send(result.map_err(SessionError::from));
            }
        }
    }

    async fn erase(&self, resumed: bool) -> Result<Option<Erasure>, StoreError> {
        let (caller, now) = (&self.setup.caller, Timestamp::now());
        let dependencies = &self.setup.dependencies;
        if resumed {
            let pending = dependencies.register.pending_erasures().await?;
            if !pending.iter().any(|p| p.caller == *caller && !p.forgotten) {
                return Ok(None);
            }
        }
        let erased = erase(&*dependencies.ledger, &*dependencies.store, caller, now).await?;
        // Whatever was queued or made while the stores were being emptied.
        dependencies.vector_store.forget(caller).await?;
        dependencies.register.note_forgotten(caller).await?;
        Ok(Some(erased))
    }

    async fn merge(&self, number: &CallerId) -> Result<Tiers, StoreError> {
        let (store, caller) = (&self.setup.dependencies.store, &self.setup.caller);
        store.merge(number, caller).await?;
        self.setup.dependencies.vector_store.forget(number).await?;
        if let Some(vectors) = &self.setup.dependencies.vectors {
            vectors.want(caller).await?;
        }
        store.tiers(caller).await
    }
}

/// A change that failed may have happened all the same. What is published stays
/// until it is repeated: a store that is down must not make a caller unknown.
async fn within_limit<T>(
    change: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || StoreError::Unavailable("a change took too long".into());
    let result = timeout(CHANGE_TIMEOUT, change).await;
    result.unwrap_or_else(|_| Err(late()))
}
