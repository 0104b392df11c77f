//! What operators do with callers: show, export, correct, erase, leave alone,
//! link (design, "Privacy").
//!
//! What changes a caller goes through the caller's session, so that it takes
//! its turn among the calls that are being learned.

use std::sync::Arc;

use jiff::Timestamp;

use super::directory::Directory;
use super::lanes::Lanes;
use super::parsed_calls::ParsedCalls;
use super::router::{SessionError, Sessions};
use crate::clients::ElevenLabs;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::name::CallerName;
use crate::domain::profile::UniversalProfile;
use crate::store::{
    Archive, CallerReport, Decision, Erasure, MemoryStore, PendingErasure, Receipt, Register,
    StoreError,
};

/// Why something was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallerError {
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The two are one already, or would be each other's alias.
    #[error("a caller cannot be linked to itself")]
    Itself,
    /// It opted out: nothing may be kept under the link.
    #[error("one of the two has opted out")]
    OptedOut,
}

impl From<StoreError> for CallerError {
    fn from(error: StoreError) -> Self {
        Self::Session(error.into())
    }
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Callers {
    pub(super) sessions: Sessions,
    pub(super) directory: Directory,
    pub(super) store: Arc<dyn MemoryStore>,
    pub(super) register: Arc<dyn Register>,
    pub(super) archive: Archive,
    pub(super) lanes: Lanes,
    pub(super) calls: ParsedCalls,
    /// `None` without `ELEVENLABS_API_KEY`.
    pub(super) elevenlabs: Option<Arc<ElevenLabs>>,
}

impl Callers {
    /// Both tiers as rings see them. `None` for a caller whom nobody knows.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn show(&self, caller: &CallerId) -> Result<Option<CallerReport>, CallerError> {
        let person = self.directory.person(caller);
        let view = self.sessions.open(&person, None).await?.view();
        Ok(view.profile.as_ref().map(|profile| {
            let states = view.states.iter();
            let states = states.map(|(agent, state)| (agent.to_string(), &**state));
            CallerReport::of_tiers(profile, states)
        }))
    }

    /// Everything that is kept of a caller.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn export(&self, caller: &CallerId) -> Result<Option<CallerReport>, CallerError> {
        let person = self.directory.person(caller);
        let Some(export) = self.store.export(&person).await? else {
            return Ok(None);
        };
        let calls = self.store.calls(&person).await?;
        Ok(Some(CallerReport::of_export(&export, calls)))
    }

    /// Replaces a caller's name. `None` if there is no such caller.
    ///
    /// # Errors
    /// If the store or the session fails.
    pub async fn rename(
        &self,
        caller: &CallerId,
        name: CallerName,
    ) -> Result<Option<UniversalProfile>, CallerError> {
        let person = self.directory.person(caller);
        Ok(self.sessions.rename(&person, name).await?)
    }

    /// Removes everything of a caller, for good. What fails for a while is in
    /// the receipt and is tried again at the next start.
    ///
    /// # Errors
    /// If a database fails: then it has to be asked for again.
    pub async fn erase(
        &self,
        caller: &CallerId,
        at_elevenlabs: bool,
    ) -> Result<Receipt, CallerError> {
        let person = self.directory.person(caller);
        let erasure = self.sessions.erase(&person, false).await?;
        let erasure = erasure.unwrap_or_default();
        Ok(self.complete(&person, erasure, at_elevenlabs).await)
    }

    /// Removes what is left when the databases hold nothing any more.
    async fn complete(&self, person: &CallerId, erasure: Erasure, at_elevenlabs: bool) -> Receipt {
        // A greeting that is being made is not waited for, and refused.
        self.lanes.cancel(&erasure.events.events);
        for event in &erasure.events.events {
            self.calls.forget(*event);
        }
        let mut receipt = Receipt::new(person, &erasure, Timestamp::now());
        let conversations = erasure.events.conversations;
        self.remove_files(person, conversations.clone(), &mut receipt)
            .await;
        if at_elevenlabs {
            self.delete_conversations(&conversations, &mut receipt)
                .await;
        }
        receipt
    }

    async fn remove_files(
        &self,
        caller: &CallerId,
        conversations: Vec<ConversationId>,
        receipt: &mut Receipt,
    ) {
        let removed = match self.archive.remove(conversations).await {
            Ok(removed) => removed,
            Err(error) => {
                let left = format!("files in the archive ({error}); removed at the next start");
                return receipt.left.push(left);
            }
        };
        receipt.files = removed;
        if let Err(error) = self.register.end_erasure(caller).await {
            tracing::warn!(%error, "An erasure could not be ended; it is ended at the next start");
        }
    }

    async fn delete_conversations(&self, conversations: &[ConversationId], receipt: &mut Receipt) {
        let Some(elevenlabs) = &self.elevenlabs else {
            let left = "conversations at ElevenLabs: ELEVENLABS_API_KEY is not set".to_owned();
            return receipt.left.push(left);
        };
        let mut deleted = 0;
        for conversation in conversations {
            match elevenlabs.delete_conversation(conversation).await {
                Ok(()) => deleted += 1,
                Err(error) => receipt.left.push(format!(
                    "conversation {conversation} at ElevenLabs: {error}"
                )),
            }
        }
        receipt.elevenlabs = Some(deleted);
    }

    /// Keeps nothing of a caller from now on, and erases what is kept.
    ///
    /// # Errors
    /// If a database fails: then it has to be asked for again.
    pub async fn opt_out(&self, caller: &CallerId) -> Result<Receipt, CallerError> {
        // First, so that no call comes in between.
        self.directory
            .decide(Decision::OptOut(caller.clone(), true))
            .await?;
        self.erase(caller, false).await
    }

    /// Keeps what a caller says again.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn opt_in(&self, caller: &CallerId) -> Result<(), CallerError> {
        Ok(self
            .directory
            .decide(Decision::OptOut(caller.clone(), false))
            .await?)
    }

    /// Several people use a number, or not any more.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn share(&self, caller: &CallerId, shared: bool) -> Result<(), CallerError> {
        Ok(self
            .directory
            .decide(Decision::Share(caller.clone(), shared))
            .await?)
    }

    /// Makes `alias` another number of `caller`, and gives the caller what was
    /// known of the alias. Broken off anywhere, it can be repeated: the marks of
    /// learned calls tell what was moved.
    ///
    /// # Errors
    /// [`CallerError::Itself`], or if a database fails: then it has to be asked
    /// for again, and goes on where it broke off.
    pub async fn link(&self, alias: &CallerId, caller: &CallerId) -> Result<(), CallerError> {
        let person = self.directory.person(caller);
        if caller == alias || person == *alias {
            return Err(CallerError::Itself);
        }
        let standings = self.directory.standings();
        if [alias, &person]
            .iter()
            .any(|c| standings.opted_out.contains(*c))
        {
            return Err(CallerError::OptedOut);
        }
        // First, so that every later call is the person's.
        self.directory
            .decide(Decision::Link(alias.clone(), Some(person.clone())))
            .await?;
        Ok(self.sessions.hand_over(alias, &person).await?)
    }

    /// Parts a number from its person, who keeps what is known.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unlink(&self, alias: &CallerId) -> Result<(), CallerError> {
        Ok(self
            .directory
            .decide(Decision::Link(alias.clone(), None))
            .await?)
    }

    /// Goes on with what a stop or a crash broke off.
    pub(super) async fn resume(&self) {
        let pending = match self.register.pending_erasures().await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(%error, "Erasures that were broken off cannot be read");
                return;
            }
        };
        for PendingErasure { caller, .. } in pending {
            let erasure = match self.sessions.erase(&caller, true).await {
                Ok(Some(erasure)) => erasure,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%error, "An erasure is not complete");
                    continue;
                }
            };
            let receipt = self.complete(&caller, erasure, false).await;
            if receipt.left.is_empty() {
                tracing::info!("An erasure that was broken off is complete");
            } else {
                tracing::error!("An erasure is not complete: {:?}", receipt.left);
            }
        }
        for (alias, person) in &self.directory.standings().aliases {
            if let Err(error) = self.sessions.hand_over(alias, person).await {
                tracing::error!(%error, "What is known of a linked number is not moved yet");
            }
        }
    }
}
