//! What operators do with callers: show, export, correct, erase, leave alone,
//! link (design, "Privacy").
//!
//! What changes a caller goes through the caller's session, so that it takes
//! its turn among the calls that are being learned.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustc_hash::FxHashSet;

use super::directory::{Directory, LinkError};
use super::lanes::Lanes;
use super::parsed_calls::ParsedCalls;
use super::reconciler::Reconciler;
use super::router::{SessionError, Sessions};
use crate::clients::ElevenLabs;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::name::CallerName;
use crate::domain::profile::UniversalProfile;
use crate::store::{
    Archive, AuditEntry, CallerReport, Decision, DecisionsReport, Erasure, Ledger, MemoryStore,
    PendingErasure, Receipt, Register, ShownCaller, StoreError,
};

/// Whom the audit log names where the service goes on by itself.
const SERVICE: &str = "service";
/// How often erasures are looked for that were broken off.
const RESUME: Duration = Duration::from_secs(60);

/// Why something was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallerError {
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The two cannot be linked.
    #[error("{0}")]
    Link(LinkError),
    /// There is nothing to take back.
    #[error("{0}")]
    Undecided(&'static str),
    /// Afterwards nobody would know which conversations are to be deleted.
    #[error(
        "ELEVENLABS_API_KEY is not set, so nothing can be deleted at ElevenLabs; nothing was erased"
    )]
    NoElevenLabs,
}

impl From<LinkError> for CallerError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Store(error) => error.into(),
            error => Self::Link(error),
        }
    }
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
    /// Says which instance goes on with what was broken off.
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) archive: Archive,
    pub(super) lanes: Lanes,
    pub(super) calls: ParsedCalls,
    /// `None` without `ELEVENLABS_API_KEY`.
    pub(super) elevenlabs: Option<Arc<ElevenLabs>>,
    /// Knows which agents there are ours.
    pub(super) reconciler: Reconciler,
    /// How long files stay in the archive; `None` for ever.
    pub(super) payload_retention: Option<Duration>,
    /// Linked numbers whose memory is their person's for sure: at the start none,
    /// for a stop may have come in between, here or at another instance.
    pub(super) finished_links: Arc<Mutex<FxHashSet<CallerId>>>,
}

impl Callers {
    /// Both tiers as rings see them, and what is decided about the caller. `None`
    /// if there is neither.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn show(&self, caller: &CallerId) -> Result<Option<ShownCaller>, CallerError> {
        let person = self.directory.confirmed_person(caller).await?;
        let view = self.sessions.open(&person, None).await?.view();
        let report = view.profile.as_ref().map(|profile| {
            let states = view.states.iter();
            let states = states.map(|(agent, state)| (agent.to_string(), &**state));
            CallerReport::of_tiers(profile, states)
        });
        Ok(self.with_decisions(caller, report))
    }

    /// Everything that is kept of a caller.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn export(&self, caller: &CallerId) -> Result<Option<ShownCaller>, CallerError> {
        let person = self.directory.confirmed_person(caller).await?;
        let report = match self.store.export(&person).await? {
            Some(export) => {
                let calls = self.store.calls(&person).await?;
                Some(CallerReport::of_export(&export, calls))
            }
            None => None,
        };
        Ok(self.with_decisions(caller, report))
    }

    fn with_decisions(
        &self,
        caller: &CallerId,
        report: Option<CallerReport>,
    ) -> Option<ShownCaller> {
        ShownCaller::new(caller, report, &self.directory.standings())
    }

    /// Every decision in force.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn decisions(&self) -> Result<DecisionsReport, CallerError> {
        self.directory.catch_up().await?;
        Ok(DecisionsReport::of(&self.directory.standings()))
    }

    /// The person behind a number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn person(&self, caller: &CallerId) -> Result<CallerId, CallerError> {
        Ok(self.directory.confirmed_person(caller).await?)
    }

    /// Whether a caller is known.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn is_known(&self, caller: &CallerId) -> Result<bool, CallerError> {
        let person = self.directory.confirmed_person(caller).await?;
        let view = self.sessions.open(&person, None).await?.view();
        Ok(view.profile.is_some())
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
        let person = self.directory.confirmed_person(caller).await?;
        Ok(self.sessions.rename(&person, name).await?)
    }

    /// Removes everything of a caller, for good. What fails for a while is in
    /// the receipt, and is tried again by itself.
    ///
    /// # Errors
    /// If a database fails: what was begun is tried again by itself.
    pub async fn erase(
        &self,
        caller: &CallerId,
        at_elevenlabs: bool,
    ) -> Result<Receipt, CallerError> {
        let person = self.directory.confirmed_person(caller).await?;
        if at_elevenlabs && self.elevenlabs.is_none() {
            return Err(CallerError::NoElevenLabs);
        }
        let mut receipt = Receipt::new(&person, Timestamp::now());
        // That two numbers are one person's is known of the person, too.
        let standings = self.directory.standings();
        let numbers = standings.numbers_of(&person);
        let asked: Vec<CallerId> = numbers.iter().copied().chain([&person]).cloned().collect();
        let mut conversations = Vec::new();
        for number in numbers.iter().copied().chain([&person]) {
            let erasure = self.sessions.erase(number, false).await?;
            let erased = self.complete(number, erasure.unwrap_or_default(), &mut receipt);
            conversations.extend(erased.await);
        }
        for number in numbers {
            let parted = Decision::Link(number.clone(), None);
            self.directory.decide(parted).await?;
        }
        conversations.sort();
        conversations.dedup();
        receipt.left.dedup();
        if at_elevenlabs {
            // Calls whose webhook never came are known there alone.
            match self.reconciler.calls_of(&asked).await {
                Ok(found) => conversations.extend(found),
                Err(error) => receipt.left.push(format!(
                    "conversations at ElevenLabs that were not known here: {error}"
                )),
            }
            conversations.sort();
            conversations.dedup();
            self.delete_conversations(&conversations, &mut receipt)
                .await;
        }
        Ok(receipt)
    }

    /// Removes what is left of a number when the stores have forgotten it; the
    /// calls that it was.
    async fn complete(
        &self,
        number: &CallerId,
        Erasure { events, memory }: Erasure,
        receipt: &mut Receipt,
    ) -> Vec<ConversationId> {
        let expected = self.still_in_the_archive(&events.archived);
        let coming = events.being_archived.iter().cloned().collect();
        // A greeting that is being made is not waited for, and refused.
        self.lanes.cancel(&events.events);
        for event in &events.events {
            self.calls.forget(*event);
        }
        receipt.add(&events, memory);
        let mut conversations = events.conversations;
        if !events.marks.is_empty() {
            // Calls that were learned elsewhere: their files tell their ids.
            match self.archive.find(events.marks.into_iter().collect()).await {
                Ok(found) => conversations.extend(found),
                Err(error) => receipt
                    .left
                    .push(format!("files of calls learned in another store ({error})")),
            }
        }
        self.remove_files(number, conversations.clone(), &expected, &coming, receipt)
            .await;
        conversations
    }

    /// Archived calls whose files cannot have gone by their age.
    fn still_in_the_archive(
        &self,
        archived: &[(ConversationId, Timestamp)],
    ) -> FxHashSet<ConversationId> {
        let now = Timestamp::now();
        let is_kept = |received: Timestamp| {
            let age = Duration::try_from(now.duration_since(received)).unwrap_or_default();
            self.payload_retention.is_none_or(|longest| age < longest)
        };
        let kept = archived.iter().filter(|(_, received)| is_kept(*received));
        kept.map(|(conversation, _)| conversation.clone()).collect()
    }

    /// Removes files. Those that are `expected` and not there may be in another
    /// archive: they are left, and looked for again by whoever resumes this, as are
    /// those that another instance may be writing (`coming`).
    async fn remove_files(
        &self,
        number: &CallerId,
        mut conversations: Vec<ConversationId>,
        expected: &FxHashSet<ConversationId>,
        coming: &FxHashSet<ConversationId>,
        receipt: &mut Receipt,
    ) {
        let removed = self.archive.remove(conversations.clone()).await;
        let ended = match removed {
            Ok(removed) => {
                receipt.files += removed.files;
                let absent: FxHashSet<_> = removed.without_files.into_iter().collect();
                let missing: Vec<_> = absent.intersection(expected).collect();
                if !missing.is_empty() {
                    receipt.left.push(format!(
                        "files of {} archived calls are not in {}; the service looks for them \
                         once more",
                        missing.len(),
                        self.archive.place()
                    ));
                }
                conversations.retain(|c| {
                    !absent.contains(c) || !(expected.contains(c) || coming.contains(c))
                });
                self.register.end_erasure(number, conversations).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            let left = format!("files in the archive ({error}); it is tried again");
            receipt.left.push(left);
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
        receipt.elevenlabs = Some(receipt.elevenlabs.unwrap_or_default() + deleted);
    }

    /// Keeps nothing of a caller from now on, and erases what is kept.
    ///
    /// # Errors
    /// If a database fails: then it has to be asked for again.
    pub async fn opt_out(&self, caller: &CallerId) -> Result<Receipt, CallerError> {
        let person = self.directory.confirmed_person(caller).await?;
        let standings = self.directory.standings();
        let numbers = standings.numbers_of(&person);
        // First, so that no call comes in between.
        for number in numbers.into_iter().chain([&person]) {
            let decision = Decision::OptOut(number.clone(), true);
            self.directory.decide(decision).await?;
        }
        self.erase(&person, false).await
    }

    /// Keeps what a caller says again.
    ///
    /// # Errors
    /// If a database fails: then the caller is still out.
    pub async fn opt_in(&self, caller: &CallerId) -> Result<(), CallerError> {
        // An erasure that a store has still to take part in is ended first:
        // resumed later, it would take what is said from now on.
        let person = self.directory.confirmed_person(caller).await?;
        if !self.directory.standings().opted_out.contains(caller) {
            return Err(CallerError::Undecided("this caller has not opted out"));
        }
        let pending = self.register.pending_erasures().await?;
        if pending.iter().any(|p| p.caller == person && !p.forgotten) {
            self.erase(&person, false).await?;
        }
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
        self.directory.catch_up().await?;
        if !shared && !self.directory.standings().shared.contains(caller) {
            return Err(CallerError::Undecided("this number is not shared"));
        }
        Ok(self
            .directory
            .decide(Decision::Share(caller.clone(), shared))
            .await?)
    }

    /// Makes `alias` another number of `caller`, and gives the caller what was
    /// known of the alias: the person. Broken off anywhere, it can be repeated: the marks of
    /// learned calls tell what was moved.
    ///
    /// # Errors
    /// [`CallerError::Link`], or if a database fails: then it has to be asked
    /// for again, and goes on where it broke off.
    pub async fn link(&self, alias: &CallerId, caller: &CallerId) -> Result<CallerId, CallerError> {
        if !self.is_known(caller).await? {
            return Err(CallerError::Link(LinkError::Unknown));
        }
        // First, so that every later call is the person's.
        let person = self.directory.link(alias, caller).await?;
        self.sessions.hand_over(alias, &person).await?;
        self.finished_links().insert(alias.clone());
        Ok(person)
    }

    fn finished_links(&self) -> MutexGuard<'_, FxHashSet<CallerId>> {
        self.finished_links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Parts a number from its person, who keeps what is known.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unlink(&self, alias: &CallerId) -> Result<(), CallerError> {
        self.directory.catch_up().await?;
        if !self.directory.standings().aliases.contains_key(alias) {
            return Err(CallerError::Undecided(
                "this number is not linked to another (the person's own number is not)",
            ));
        }
        self.finished_links().remove(alias);
        Ok(self
            .directory
            .decide(Decision::Link(alias.clone(), None))
            .await?)
    }

    /// Goes on with what a stop, a crash or a store that was away broke off, at
    /// the start and now and then.
    pub(super) async fn keep_on(&self) {
        loop {
            self.resume_erasures().await;
            self.resume_links().await;
            tokio::time::sleep(RESUME).await;
        }
    }

    async fn resume_erasures(&self) {
        match self.ledger.leads("erasures").await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "The ledger cannot be asked who goes on with erasures");
                return;
            }
        }
        let pending = match self.register.pending_erasures().await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(%error, "Erasures that were broken off cannot be read");
                return;
            }
        };
        for erasure in pending {
            let PendingErasure {
                caller,
                conversations,
                forgotten,
            } = erasure;
            let mut receipt = Receipt::new(&caller, Timestamp::now());
            // What has been said since the stores forgot the caller stays.
            if forgotten {
                let nothing = FxHashSet::default();
                self.remove_files(&caller, conversations, &nothing, &nothing, &mut receipt)
                    .await;
            } else {
                match self.sessions.erase(&caller, true).await {
                    Ok(Some(erasure)) => drop(self.complete(&caller, erasure, &mut receipt).await),
                    // Ended by another that was asked for meanwhile.
                    Ok(None) => {}
                    Err(error) => receipt.left.push(error.to_string()),
                }
            }
            if receipt.left.is_empty() {
                tracing::info!("The erasure of {} is complete now", receipt.caller);
                self.note_completed(receipt.caller).await;
            } else {
                tracing::error!(
                    "The erasure of {} is not complete yet: {:?}",
                    receipt.caller,
                    receipt.left
                );
            }
        }
    }

    /// Moves what is known of linked numbers, where that was broken off. Moved
    /// twice, nothing changes.
    async fn resume_links(&self) {
        let standings = self.directory.standings();
        let mut links: Vec<_> = standings.aliases.iter().collect();
        {
            let finished = self.finished_links();
            links.retain(|(alias, _)| !finished.contains(*alias));
        }
        for (alias, person) in links {
            match self.sessions.hand_over(alias, person).await {
                Ok(()) => drop(self.finished_links().insert(alias.clone())),
                Err(error) => {
                    tracing::error!(%error, "What is known of a linked number is not moved yet");
                }
            }
        }
        // Parted and linked again, a number begins anew.
        let aliases = &self.directory.standings().aliases;
        self.finished_links()
            .retain(|alias| aliases.contains_key(alias));
    }

    async fn note_completed(&self, masked: String) {
        let entry = AuditEntry {
            at: Timestamp::now(),
            who: SERVICE.to_owned(),
            action: "complete erasure".to_owned(),
            subject: masked,
            outcome: "done".to_owned(),
        };
        if let Err(error) = self.register.audit(entry).await {
            tracing::error!(%error, "The audit log cannot be written");
        }
    }
}
