//! Finds calls whose webhook never came, and has the inbox take them: every hour
//! those of late, and as far back as an operator asks for.
//!
//! What is fetched is an event like any other, under the same key, so that it is
//! learned once whoever brings it; and calls are fed in the order in which they
//! started. What is known is not fetched again: a round that was broken off goes
//! on where it was.

mod of_caller;
mod round;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use rustc_hash::FxHashSet;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::connection::{Connection, Place};
use super::inbox::{Delivery, Inbox, Receipt};
use super::slot::Slot;
use super::worker::Worker;
use crate::clients::ElevenLabsError;
use crate::compute::Compute;
use crate::domain::call_event::LARGE_BODY;
use crate::domain::caller_id::CallerId;
use crate::domain::caller_rules::CallerRules;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::reconciliation::{OVERLAP, Verdict, verdict};
use crate::metric_definitions::{Metrics, Reconciled};
use crate::store::{Ledger, Result, StoreError};

/// The job that one instance does for all.
const JOB: &str = "reconcile";
/// Before the first round after a start: an outage has just ended, perhaps.
const FIRST_ROUND: Duration = Duration::from_secs(10);
/// How far back the very first round looks.
const FIRST_LOOK: SignedDuration = SignedDuration::from_hours(24);
/// How far back a round looks after a long standstill. More is an operator's to ask for.
const LONGEST_LOOK: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Longest wait of a webhook for a call to be fetched.
const CONFIRMATION: Duration = Duration::from_secs(20);
/// Most calls that are fetched at once because their events came late.
const MAX_CONFIRMATIONS: usize = 2;
/// Most calls that are remembered as not to be had.
const MAX_GIVEN_UP: usize = 10_000;
/// Most calls that are named in a report.
const MAX_NAMED: usize = 100;

/// Which calls are looked for.
#[derive(Debug, Clone)]
pub struct Search {
    pub since: Timestamp,
    /// Of this agent; `None` of all that are connected.
    pub agent: Option<AgentId>,
    /// Of this caller.
    pub caller: Option<CallerId>,
    /// Whether they are only counted.
    pub dry_run: bool,
}

/// Why a look does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    #[error("ELEVENLABS_API_KEY is not set: calls cannot be fetched")]
    NoKey,
    #[error(
        "PUBLIC_URL is not set: it is not known which agents are connected; run elaoms setup, or set it"
    )]
    NotConnected,
    #[error("a look for calls is under way; see how far it is, and wait for its end")]
    Running,
}

/// How far a look is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There was none since the start.
    #[default]
    None,
    Running,
    Done,
    /// It was broken off; what was done is done.
    Failed,
}

/// What a look has found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    pub state: State,
    /// Whether calls are only counted.
    pub dry_run: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Until when it is done: by the start of calls.
    pub reached: Option<Timestamp>,
    /// Connected agents.
    pub agents: usize,
    /// Calls that ElevenLabs has of them.
    pub listed: u64,
    /// Calls that were known.
    pub known: u64,
    /// Calls that were missing, and are in the inbox now (or would be).
    pub fetched: u64,
    /// Calls of callers who opted out, or were erased since.
    pub unwanted: u64,
    /// Calls that are not over, or not transcribed yet.
    pub not_yet: u64,
    /// Calls that cannot be had any more.
    pub lost: u64,
    /// Some of these, and why.
    pub lost_calls: Vec<LostCall>,
    /// Agents whose calls cannot be had at all, and why.
    pub remarks: Vec<String>,
    /// Why it was broken off.
    pub error: Option<String>,
}

/// A call that cannot be had any more.
#[derive(Debug, Clone, Serialize)]
pub struct LostCall {
    pub conversation_id: String,
    pub reason: &'static str,
}

/// What became of a call whose signature is good, but old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// It is known, or was fetched.
    Taken,
    /// ElevenLabs knows no such call, or cannot be asked.
    Unconfirmed,
    /// Later, perhaps.
    Later(String),
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Reconciler {
    slot: Slot<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    connection: Option<Connection>,
    inbox: Inbox,
    ledger: Arc<dyn Ledger>,
    /// For large conversations.
    reading: Compute,
    metrics: Arc<Metrics>,
    progress: Mutex<Progress>,
    /// One look at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
    /// Whether old calls are being fed: their greetings wait for the newest.
    feeding: Arc<AtomicBool>,
    /// Calls that cannot be had: they are not asked for again and again.
    given_up: Mutex<FxHashSet<ConversationId>>,
    /// Calls fetched at a time because their events came late.
    confirming: Semaphore,
    /// How callers are told.
    caller_rules: Arc<CallerRules>,
    /// The agents that are connected, and when they were read.
    connected: Mutex<Option<(Instant, round::Connected)>>,
}

impl Reconciler {
    pub(super) fn new(
        connection: Option<Connection>,
        inbox: Inbox,
        ledger: Arc<dyn Ledger>,
        reading: Compute,
        metrics: Arc<Metrics>,
        feeding: Arc<AtomicBool>,
        caller_rules: Arc<CallerRules>,
    ) -> Self {
        Self {
            slot: Slot::default(),
            shared: Arc::new(Shared {
                connection,
                inbox,
                ledger,
                reading,
                metrics,
                progress: Mutex::default(),
                looking: Arc::default(),
                feeding,
                caller_rules,
                given_up: Mutex::default(),
                confirming: Semaphore::new(MAX_CONFIRMATIONS),
                connected: Mutex::default(),
            }),
        }
    }

    pub(super) fn slot(&self) -> &Slot<Message> {
        &self.slot
    }

    /// Begins to look. It goes on by itself; [`Self::progress`] tells how far it is.
    ///
    /// # Errors
    /// [`ReconcileError`]
    pub fn start(&self, search: Search) -> std::result::Result<(), ReconcileError> {
        self.begin(search, false)
    }

    fn begin(&self, search: Search, background: bool) -> std::result::Result<(), ReconcileError> {
        let shared = Arc::clone(&self.shared);
        let connection = shared.connection.as_ref().ok_or(ReconcileError::NoKey)?;
        let place = connection.place().ok_or(ReconcileError::NotConnected)?;
        let looking = Arc::clone(&shared.looking);
        let looking = looking
            .try_lock_owned()
            .map_err(|_| ReconcileError::Running)?;
        let connection = connection.clone();
        tokio::spawn(async move {
            shared.look(&connection, &place, search, background).await;
            drop(looking);
        });
        Ok(())
    }

    /// How far the last look is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.progress().clone()
    }

    /// Set-up has put us somewhere else.
    pub fn move_to(&self, place: Place) {
        if let Some(connection) = &self.shared.connection {
            connection.move_to(place);
            self.agents_changed();
        }
    }

    /// Where we are.
    #[must_use]
    pub fn place(&self) -> Place {
        let connection = self.shared.connection.as_ref();
        let place = connection.and_then(Connection::place);
        place.map(|place| (*place).clone()).unwrap_or_default()
    }

    /// Whether ElevenLabs can be asked with the key that we have.
    ///
    /// # Errors
    /// Why not.
    pub async fn try_account(&self) -> std::result::Result<(), String> {
        let Some(connection) = &self.shared.connection else {
            return Err(ReconcileError::NoKey.to_string());
        };
        let asked = connection
            .account
            .ask(|api| async move { api.workspace_settings().await });
        match timeout(CONFIRMATION, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// An agent's settings have changed: which are connected is read anew.
    pub fn agents_changed(&self) {
        *self.shared.connected() = None;
    }

    /// The conversations of connected agents that ElevenLabs has of these callers, as
    /// far as it was told who calls. Each is read: that a client says to be somebody is
    /// no reason to take that one's conversation.
    ///
    /// # Errors
    /// Why not all of them are known. Nothing is known, and that is none, without a
    /// connection.
    pub(super) async fn calls_of(
        &self,
        callers: &[CallerId],
    ) -> std::result::Result<Vec<ConversationId>, String> {
        let connection = self.shared.connection.as_ref();
        let Some((connection, place)) = connection.and_then(|c| Some((c, c.place()?))) else {
            return Ok(Vec::new());
        };
        let found = self.shared.calls_of(connection, &place, callers).await;
        found.map_err(|error| error.to_string())
    }

    /// Fetches a call whose event cannot be trusted, though its signature is good:
    /// it is old.
    pub async fn confirm(&self, conversation: &ConversationId) -> Confirmation {
        let Some(connection) = &self.shared.connection else {
            return Confirmation::Unconfirmed;
        };
        // Bodies of others do not wait for places that these hold.
        let Ok(_permit) = self.shared.confirming.try_acquire() else {
            return Confirmation::Later("others are being fetched".to_owned());
        };
        let confirmed = self.shared.confirm(connection, conversation);
        match timeout(CONFIRMATION, confirmed).await {
            Ok(Ok(confirmation)) => confirmation,
            Ok(Err(error)) => Confirmation::Later(error.to_string()),
            Err(_) => Confirmation::Later("no answer in time".to_owned()),
        }
    }
}

impl Shared {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) -> std::sync::MutexGuard<'_, Option<(Instant, round::Connected)>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn given_up(&self) -> std::sync::MutexGuard<'_, FxHashSet<ConversationId>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_given_up(&self, conversation: &ConversationId) -> bool {
        self.given_up().contains(conversation)
    }

    /// Notes that a call cannot be had.
    fn give_up(&self, conversation: &ConversationId) {
        let mut given_up = self.given_up();
        if given_up.len() >= MAX_GIVEN_UP {
            given_up.clear();
        }
        given_up.insert(conversation.clone());
    }

    async fn confirm(
        &self,
        connection: &Connection,
        conversation: &ConversationId,
    ) -> Result<Confirmation> {
        let unknown = self
            .ledger
            .unknown_calls(vec![conversation.clone()])
            .await?;
        if unknown.is_empty() {
            return Ok(Confirmation::Taken);
        }
        // Whoever has kept its event may send it as often as they like.
        if self.is_given_up(conversation) {
            return Ok(Confirmation::Unconfirmed);
        }
        let told = connection
            .account
            .ask(|api| async move { api.conversation(conversation).await })
            .await;
        Ok(match told {
            Ok(told) => match self.judge(told).await? {
                Verdict::Event(event) => {
                    self.take(event).await?;
                    Confirmation::Taken
                }
                Verdict::NotYet => Confirmation::Later("it is not transcribed yet".to_owned()),
                Verdict::NoTranscript | Verdict::NeverConnected | Verdict::Unreadable => {
                    self.give_up(conversation);
                    Confirmation::Unconfirmed
                }
            },
            Err(ElevenLabsError::NotFound) => {
                self.give_up(conversation);
                Confirmation::Unconfirmed
            }
            Err(
                ElevenLabsError::NotAnId
                | ElevenLabsError::InvalidKey(_)
                | ElevenLabsError::Forbidden { .. },
            ) => Confirmation::Unconfirmed,
            Err(error) => Confirmation::Later(error.to_string()),
        })
    }

    /// Large conversations are read off the runtime.
    async fn judge(&self, told: Vec<u8>) -> Result<Verdict> {
        if told.len() <= LARGE_BODY {
            return Ok(verdict(&told));
        }
        let judged = self.reading.run(move || verdict(&told)).await;
        judged.map_err(|_| StoreError::Unavailable("reading a conversation panicked".into()))
    }

    /// Has the inbox take an event.
    async fn take(&self, event: Vec<u8>) -> Result<Receipt> {
        let now = Timestamp::now();
        let delivery = Delivery::fetched(event, self.inbox.recording(), now);
        let taken = self.inbox.take(delivery).await?;
        if matches!(taken, Receipt::Event(_)) {
            self.metrics
                .reconciled
                .get(Reconciled::Fetched)
                .increment(1);
        }
        Ok(taken)
    }
}

pub(super) enum Message {
    Tick,
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    pub reconciler: Reconciler,
    /// Between two rounds; `None` if there are to be none.
    pub interval: Option<Duration>,
}

pub(super) struct ReconcilerActor {
    setup: Setup,
}

impl Worker for ReconcilerActor {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, myself: &ActorRef<Message>) -> Self {
        let can_ask = setup.reconciler.shared.connection.is_some();
        if let Some(interval) = setup.interval.filter(|_| can_ask) {
            myself.send_after(FIRST_ROUND, || Message::Tick);
            myself.send_interval(interval, || Message::Tick);
        }
        Self { setup }
    }

    async fn handle(
        &mut self,
        _: &ActorRef<Message>,
        Message::Tick: Message,
    ) -> std::result::Result<(), ActorProcessingErr> {
        let reconciler = self.setup.reconciler.clone();
        tokio::spawn(async move { reconciler.round().await });
        Ok(())
    }
}

impl Reconciler {
    /// Looks for the calls of late, if that is for this instance to do.
    async fn round(&self) {
        let connection = self.shared.connection.as_ref();
        if connection.is_none_or(|connection| connection.place().is_none()) {
            return;
        }
        let ledger = &self.shared.ledger;
        if !ledger.leads(JOB).await.unwrap_or(false) {
            return;
        }
        let now = Timestamp::now();
        let known = match ledger.reconciled_until().await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "Calls that never came cannot be looked for now");
                return;
            }
        };
        let since = match known {
            Some(known) => (known - OVERLAP).max(now - LONGEST_LOOK),
            None => now - FIRST_LOOK,
        };
        let search = Search {
            since,
            agent: None,
            caller: None,
            dry_run: false,
        };
        if let Err(error) = self.begin(search, true) {
            tracing::debug!(%error, "No round now");
        }
    }
}

impl Progress {
    fn lose(&mut self, conversation: &ConversationId, reason: &'static str) {
        self.lost += 1;
        if self.lost_calls.len() < MAX_NAMED {
            self.lost_calls.push(LostCall {
                conversation_id: conversation.to_string(),
                reason,
            });
        }
    }
}

/// Set while old calls are fed.
struct Feeding(Arc<AtomicBool>);

impl Feeding {
    fn begin(flag: &Arc<AtomicBool>) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(Arc::clone(flag))
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
