//! Taking in what ElevenLabs delivers: an authentic body becomes an event of
//! the inbox, a recording in the archive, or a dead letter. Nothing is lost.

use std::sync::Arc;

use jiff::Timestamp;

use super::Inbox;
use crate::actors::directory::Directory;
use crate::compute::Compute;
use crate::domain::call_event::{self, Call, CallEvent, EventError, EventKey};
use crate::domain::caller_id::CallerId;
use crate::domain::caller_rules::CallerRules;
use crate::domain::envelope::Envelope;
use crate::domain::ids::ConversationId;
use crate::domain::standing::Standing;
use crate::metric_definitions::Metrics;
use crate::store::{Accepted, Archive, AudioSpool, NewEvent, Register, Result, StoreError};
use crate::telemetry::traces;

/// The outcome of an event of which nothing may be kept.
const NOT_KEPT: &str = "not kept";
/// Audio is written to disk in portions of this size, in bytes.
const AUDIO_PORTION: usize = 256 * 1024;

/// What taking in works with.
pub(in crate::actors) struct Intake {
    pub archive: Archive,
    /// Where large bodies are read.
    pub reading: Compute,
    pub caller_rules: Arc<CallerRules>,
    pub metrics: Arc<Metrics>,
    /// Whether there is a model to make greetings.
    pub greetings: bool,
    /// Of whom nothing is kept, and whose number is whose.
    pub directory: Directory,
    /// Calls of which nothing is kept.
    pub register: Arc<dyn Register>,
}

/// An authentic body.
pub struct Delivery {
    /// The JSON without its audio.
    pub envelope: Envelope,
    pub recording: Recording,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Whether we fetched it: its webhook never came, or came too late to be trusted.
    is_fetched: bool,
}

impl Delivery {
    /// What a webhook has brought.
    #[must_use]
    pub fn new(envelope: Envelope, recording: Recording, received_at: Timestamp) -> Self {
        Self {
            envelope,
            recording,
            received_at,
            is_fetched: false,
        }
    }

    /// The event of a conversation that was fetched, with an empty recording.
    pub(in crate::actors) fn fetched(
        event: Vec<u8>,
        recording: Recording,
        received_at: Timestamp,
    ) -> Self {
        Self {
            is_fetched: true,
            ..Self::new(Envelope::whole(event), recording, received_at)
        }
    }
}

/// What became of a delivery. All of these are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// It is an event, taken now or before.
    Event(EventKey),
    /// It was fetched, and nothing of it may be kept: its caller has opted out, or
    /// was erased since.
    Unwanted,
    /// Somebody tries whether a signature is good: nothing is kept.
    Test,
    /// It is nothing that we know; it is kept as a dead letter.
    Unknown,
}

/// The audio of a body that is being received, still in base64. A short one stays
/// in memory; of a longer one all but the last portion is on disk.
pub struct Recording {
    archive: Archive,
    spool: Option<AudioSpool>,
    pending: Vec<u8>,
}

impl Recording {
    /// Up to this size, in bytes, a recording does not touch the disk before its
    /// body is known to be authentic.
    pub const IN_MEMORY: usize = 1024 * 1024;

    fn new(archive: Archive) -> Self {
        Self {
            archive,
            spool: None,
            pending: Vec::new(),
        }
    }

    /// Appends a piece. [`Self::flush`] has to be called now and then.
    pub fn push(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    /// Writes to disk what has come together, if it is enough to be worth it.
    ///
    /// # Errors
    /// If the disk refuses it.
    pub async fn flush(&mut self) -> Result<()> {
        let portion = if self.spool.is_some() {
            AUDIO_PORTION
        } else {
            Self::IN_MEMORY + 1
        };
        if self.pending.len() >= portion {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<()> {
        let spool = match self.spool.take() {
            Some(spool) => spool,
            None => self.archive.spool().await?,
        };
        self.spool = Some(spool.append(std::mem::take(&mut self.pending)).await?);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.spool.is_none() && self.pending.is_empty()
    }

    /// Decodes the audio into the archive.
    async fn store(mut self, key: &EventKey) -> Result<()> {
        self.write().await?;
        let spool = match self.spool {
            Some(spool) => spool,
            None => self.archive.spool().await?,
        };
        self.archive.store_audio(key, spool).await
    }

    async fn into_bytes(self) -> Result<Vec<u8>> {
        let mut bytes = match self.spool {
            Some(spool) => spool.read_back().await?,
            None => Vec::new(),
        };
        bytes.extend_from_slice(&self.pending);
        Ok(bytes)
    }
}

impl Intake {
    async fn store(&self, recording: Recording, key: &EventKey) -> Result<()> {
        let stored = recording.store(key).await;
        // Even if it failed: the answer may be lost, and not the recording.
        let call = &key.conversation_id;
        if self.register.is_erased(call).await? {
            self.archive.remove(vec![call.clone()]).await?;
        }
        stored
    }
}

impl Inbox {
    /// A place for the audio of a body that is being received.
    #[must_use]
    pub fn recording(&self) -> Recording {
        Recording::new(self.intake.archive.clone())
    }

    /// What identifies the call that an event says has ended; `None` if it says
    /// something else. Nothing of it is kept.
    pub async fn ended_call(&self, delivery: Delivery) -> Option<EventKey> {
        let envelope = Arc::new(delivery.envelope);
        match self.read(&envelope, delivery.received_at).await {
            Ok(CallEvent::Transcription(call)) => Some(call.key),
            _ => None,
        }
    }

    /// Takes an authentic body. When this returns, what is in it is durable.
    ///
    /// # Errors
    /// If it cannot be stored now; the sender has to send it again.
    pub async fn take(&self, delivery: Delivery) -> Result<Receipt> {
        let Delivery {
            envelope,
            recording,
            received_at,
            is_fetched,
        } = delivery;
        let envelope = Arc::new(envelope);
        let event = self.read(&envelope, received_at).await;
        let envelope = Arc::unwrap_or_clone(envelope);
        let event = match event {
            // Nothing to put in place of a recording that may be there already.
            Ok(CallEvent::Audio(_)) if recording.is_empty() => Err(EventError::NoAudio),
            other => other,
        };
        let event = match event {
            Ok(event) => event,
            Err(EventError::Test) => return Ok(Receipt::Test),
            // Nobody waits for it to be kept.
            Err(_) if is_fetched => return Ok(Receipt::Unknown),
            Err(error) => {
                let body = envelope.with_audio(&recording.into_bytes().await?);
                self.keep_unknown(body, &error, received_at).await?;
                return Ok(Receipt::Unknown);
            }
        };
        let key = event.key().clone();
        let outcome = match event {
            event if is_fetched && self.was_erased(&event).await? => NOT_KEPT,
            event if self.is_unwanted(&event).await? => NOT_KEPT,
            // Written under its name, a recording sent again replaces itself.
            CallEvent::Audio(_) => {
                // It goes on though the sender may not wait: what was written of a
                // call that was erased meanwhile has to go.
                let (intake, key) = (Arc::clone(&self.intake), key.clone());
                let stored = tokio::spawn(async move { intake.store(recording, &key).await });
                let gone = |_| StoreError::Unavailable("storing the recording panicked".into());
                stored.await.map_err(gone)??;
                "archived"
            }
            CallEvent::Transcription(_) | CallEvent::InitiationFailure(_) => {
                let body = envelope.with_audio(&recording.into_bytes().await?);
                self.accept(event, body, received_at, is_fetched).await?
            }
        };
        if is_fetched {
            tracing::info!(conversation = %key.conversation_id, "A call that was fetched: {outcome}");
            return Ok(match outcome {
                NOT_KEPT => Receipt::Unwanted,
                _ => Receipt::Event(key),
            });
        }
        let metrics = &self.intake.metrics;
        metrics.last_post_call.set(received_at.as_second() as f64);
        tracing::info!(
            conversation = %key.conversation_id,
            "post-call webhook: {} {outcome}",
            key.kind.as_str()
        );
        Ok(Receipt::Event(key))
    }

    /// Whether a call was before the erasure of its caller: none of it was known
    /// then, so none of it is noted as erased.
    async fn was_erased(&self, event: &CallEvent) -> Result<bool> {
        match event {
            CallEvent::Transcription(call) => self.is_of_before(call).await,
            CallEvent::Audio(_) | CallEvent::InitiationFailure(_) => Ok(false),
        }
    }

    /// Whether a call is one of before its caller's erasure. It is known as erased
    /// then, and not fetched again.
    async fn is_of_before(&self, call: &Call) -> Result<bool> {
        let Some(caller) = &call.caller else {
            return Ok(false);
        };
        let register = &self.intake.register;
        let person = self.intake.directory.person(caller);
        for whose in [caller, &person] {
            let erased_at = register.erased_at(whose).await?;
            if erased_at.is_some_and(|erased_at| call.started_at <= erased_at) {
                let conversation = call.key.conversation_id.clone();
                register.bury(vec![conversation], Timestamp::now()).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether nothing of a call may be kept: its caller has opted out, or it
    /// was erased. The recording of such a call names no caller, and may come
    /// before or after: it goes with the call, by its id.
    async fn is_unwanted(&self, event: &CallEvent) -> Result<bool> {
        let conversation = &event.key().conversation_id;
        let register = &self.intake.register;
        match event {
            CallEvent::Transcription(call) => {
                let directory = &self.intake.directory;
                let Some(caller) = &call.caller else {
                    return Ok(false);
                };
                // An erased one is refused by the ledger.
                let standing = directory.confirmed_standing(caller).await?;
                if standing == Standing::OptedOut {
                    self.withdraw(caller, conversation.clone()).await?;
                }
                Ok(standing == Standing::OptedOut)
            }
            CallEvent::Audio(_) => register.is_erased(conversation).await,
            CallEvent::InitiationFailure(_) => Ok(false),
        }
    }

    /// Takes back a call of a caller of whom nothing is kept.
    async fn withdraw(&self, caller: &CallerId, conversation: ConversationId) -> Result<()> {
        let Intake {
            directory,
            register,
            archive,
            ..
        } = &*self.intake;
        let person = directory.person(caller);
        self.ledger
            .withdraw(&person, conversation.clone(), Timestamp::now())
            .await?;
        match archive.remove(vec![conversation.clone()]).await {
            Ok(_) => register.end_erasure(&person, vec![conversation]).await,
            Err(error) => {
                // It is noted, and tried again; nobody need send the event again.
                tracing::error!(%error, "Files of a caller who opted out cannot be removed yet");
                Ok(())
            }
        }
    }

    /// Large bodies are read off the runtime.
    async fn read(
        &self,
        envelope: &Arc<Envelope>,
        now: Timestamp,
    ) -> std::result::Result<CallEvent, EventError> {
        if envelope.bytes.len() <= call_event::LARGE_BODY {
            return call_event::parse(&envelope.bytes, now, &self.intake.caller_rules);
        }
        let (envelope, rules) = (Arc::clone(envelope), Arc::clone(&self.intake.caller_rules));
        let read = move || call_event::parse(&envelope.bytes, now, &rules);
        let read = self.intake.reading.run(read).await;
        read.unwrap_or(Err(EventError::Unreadable))
    }

    async fn accept(
        &self,
        event: CallEvent,
        payload: Vec<u8>,
        received_at: Timestamp,
        is_fetched: bool,
    ) -> Result<&'static str> {
        let key = event.key().clone();
        let conversation = key.conversation_id.clone();
        let call = match event {
            CallEvent::Transcription(call) => Some(Arc::new(call)),
            CallEvent::Audio(_) | CallEvent::InitiationFailure(_) => None,
        };
        let (call_ref, bytes) = (call.as_deref(), payload.len());
        let told_by = call_ref.and_then(|call| call.caller.clone());
        let accepted = self.ledger.accept(NewEvent {
            caller: call_ref
                .and_then(|call| call.caller.as_ref())
                .map(|caller| self.intake.directory.person(caller)),
            started_at: call_ref.map_or(received_at, |call| call.started_at),
            greeting_wanted: self.intake.greetings && call_ref.is_some_and(Call::caller_spoke),
            key,
            received_at,
            trace: traces::current(),
            payload,
        });
        let accepted = accepted.await?;
        if accepted == Accepted::Duplicate {
            return Ok("received again; nothing changed");
        }
        if let Some(caller) = told_by {
            let directory = &self.intake.directory;
            let is_unwanted = accepted == Accepted::Unwanted
                || directory.confirmed_standing(&caller).await? == Standing::OptedOut;
            if is_unwanted {
                // Decided since it was asked: whatever came before is erased already.
                self.withdraw(&caller, conversation.clone()).await?;
                return Ok(NOT_KEPT);
            }
        }
        let Accepted::New(id) = accepted else {
            return Ok(NOT_KEPT);
        };
        if let Some(call) = call.as_deref().filter(|_| is_fetched)
            && let Some(caller) = &call.caller
            && self.is_of_before(call).await?
        {
            // Erased since it was asked.
            self.withdraw(caller, conversation).await?;
            return Ok(NOT_KEPT);
        }
        if let Some(call) = call.filter(|call| call.caller.is_some()) {
            self.calls.keep(id, call, bytes);
        }
        self.news();
        Ok("received")
    }

    async fn keep_unknown(&self, body: Vec<u8>, error: &EventError, now: Timestamp) -> Result<()> {
        let reason = match error {
            // Its text quotes nothing of the body, but the position is enough.
            EventError::NotJson(_) => "the body is not JSON".to_owned(),
            other => other.to_string(),
        };
        tracing::warn!(
            reason,
            "post-call webhook: an authentic body is no known event; it is kept as a dead letter"
        );
        self.ledger.keep_unknown(body, &reason, now).await
    }
}
