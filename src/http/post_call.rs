//! `POST /webhook/post-call`: a call has ended.
//!
//! The signature is checked while the body comes in; a recording goes to disk
//! on the way and is never held in memory. 200 is answered only when the event
//! is durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{self, ApiError, Response};
use super::signature::{SignatureError, Verifier};
use super::{PublicState, Shared};
use crate::domain::call_event::{self, CallEvent, EventError, EventKey};
use crate::domain::envelope::{Envelope, EnvelopeSplitter};
use crate::store::{Accepted, Archive, AudioSpool, NewEvent, StoreError};

/// How long a whole body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the sender may pause within a body.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(15);
/// A body that is slower than this, in bytes a second, after its first
/// seconds: a sender without the key could otherwise hold a place for long.
const SLOWEST: u64 = 16 * 1024;
/// See [`SLOWEST`].
const SLOW_START: Duration = Duration::from_secs(5);
/// A body up to this size, in bytes, needs no place: however many trickle in,
/// the ordinary event passes.
const SMALL_BODY: usize = 64 * 1024;
/// How long a larger body waits for a place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(3);
/// Audio is written to disk in portions of this size, in bytes.
const AUDIO_PORTION: usize = 256 * 1024;
/// Up to this size the JSON of a body is not counted against the budget, in bytes.
const FREE_JSON: usize = 1024 * 1024;

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> Self {
        Self::Unauthorized(match error {
            SignatureError::Unreadable => {
                "the ElevenLabs-Signature header is missing or not t=...,v0=..."
            }
            SignatureError::Stale => "the signature is too old, or from the future",
            SignatureError::Wrong => "the signature is wrong",
        })
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "A post-call event cannot be stored now");
        Self::Unavailable("the event cannot be stored now; please send it again")
    }
}

pub(super) async fn receive<S, B>(
    shared: &Shared,
    signature: Option<&str>,
    body: S,
) -> Result<Response, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let state = &shared.state;
    let now = Timestamp::now();
    let verifier = Verifier::new(
        signature,
        state.post_call_key.expose_secret().as_bytes(),
        now,
    )
    .inspect_err(|error| tracing::warn!(%error, "post-call webhook refused"))?;
    let received = read(shared, verifier, body).await?;
    take(state, received, now).await
}

/// An authentic body.
struct Received {
    envelope: Envelope,
    audio: Audio,
    /// Memory taken from the budget until the event is stored.
    _budget: Option<OwnedSemaphorePermit>,
}

async fn read<S, B>(shared: &Shared, mut verifier: Verifier, body: S) -> Result<Received, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let limit = shared.state.max_body;
    let mut body = std::pin::pin!(body);
    let mut splitter = EnvelopeSplitter::default();
    let mut audio = Audio::default();
    let mut budget = Budget {
        pool: Arc::clone(&shared.body_budget),
        taken: None,
    };
    let mut disk = Budget {
        pool: Arc::clone(&shared.audio_budget),
        taken: None,
    };
    let mut place = None;
    let mut total = 0;
    let start = Instant::now();
    let end = start + BODY_TIMEOUT;
    loop {
        let chunk_end = end.min(Instant::now() + CHUNK_TIMEOUT);
        let Some(chunk) = timeout_at(chunk_end, body.next())
            .await
            .map_err(|_| ApiError::TooSlow)?
        else {
            break;
        };
        let mut chunk = chunk.map_err(|_| ApiError::TooSlow)?;
        let chunk: Bytes = chunk.copy_to_bytes(chunk.remaining());
        total += chunk.len();
        if total > limit {
            return Err(ApiError::TooLarge { limit });
        }
        let slow_after = SLOW_START + Duration::from_secs(total as u64 / SLOWEST);
        if start.elapsed() > slow_after {
            return Err(ApiError::TooSlow);
        }
        if total > SMALL_BODY && place.is_none() {
            let permit = timeout(PLACE_TIMEOUT, shared.post_calls.acquire()).await;
            let busy = ApiError::Unavailable("too many large post-call events at once");
            place = Some(permit.map_err(|_| busy)?.map_err(|_| ApiError::Internal)?);
        }
        verifier.update(&chunk);
        splitter.push(&chunk, |bytes| audio.pending.extend_from_slice(bytes));
        budget.cover(splitter.envelope_len())?;
        disk.cover(total - splitter.envelope_len())?;
        if audio.pending.len() >= AUDIO_PORTION {
            audio.flush(&shared.state.archive).await?;
        }
    }
    verifier
        .verify()
        .inspect_err(|error| tracing::warn!(%error, "post-call webhook refused"))?;
    Ok(Received {
        envelope: splitter.finish(),
        audio,
        _budget: budget.taken,
    })
}

/// The base64 of a recording: its last portion, the others on disk.
#[derive(Default)]
struct Audio {
    spool: Option<AudioSpool>,
    pending: Vec<u8>,
}

impl Audio {
    fn is_empty(&self) -> bool {
        self.spool.is_none() && self.pending.is_empty()
    }

    async fn flush(&mut self, archive: &Archive) -> Result<(), StoreError> {
        let spool = match self.spool.take() {
            Some(spool) => spool,
            None => archive.spool().await?,
        };
        self.spool = Some(spool.append(std::mem::take(&mut self.pending)).await?);
        Ok(())
    }

    async fn into_spool(mut self, archive: &Archive) -> Result<AudioSpool, StoreError> {
        self.flush(archive).await?;
        match self.spool {
            Some(spool) => Ok(spool),
            None => archive.spool().await,
        }
    }

    async fn into_bytes(self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = match self.spool {
            Some(spool) => spool.read_back().await?,
            None => Vec::new(),
        };
        bytes.extend_from_slice(&self.pending);
        Ok(bytes)
    }
}

/// Memory for JSON, or disk for recordings, shared by all bodies under way.
struct Budget {
    pool: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Budget {
    fn cover(&mut self, bytes: usize) -> Result<(), ApiError> {
        let taken = self
            .taken
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(more) = bytes
            .saturating_sub(FREE_JSON)
            .checked_sub(taken)
            .filter(|more| *more > 0)
        else {
            return Ok(());
        };
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.pool)
            .try_acquire_many_owned(more)
            .map_err(|_| ApiError::Unavailable("too many large post-call events at once"))?;
        match &mut self.taken {
            Some(taken) => taken.merge(permit),
            None => self.taken = Some(permit),
        }
        Ok(())
    }
}

async fn take(
    state: &PublicState,
    received: Received,
    now: Timestamp,
) -> Result<Response, ApiError> {
    let Received {
        envelope,
        audio,
        _budget,
    } = received;
    let Envelope { bytes: json, .. } = &envelope;
    let parsed = if json.len() > call_event::LARGE_BODY {
        let json = json.clone();
        state
            .parsing
            .run(move || call_event::parse(&json, now))
            .await
            .map_err(|_| ApiError::Internal)?
    } else {
        call_event::parse(json, now)
    };
    let event = match parsed {
        Ok(event) => event,
        Err(error) => {
            return keep_unknown(
                state,
                envelope.with_audio(&audio.into_bytes().await?),
                &error,
                now,
            )
            .await;
        }
    };
    let (key, caller, started_at, caller_spoke) = match event {
        // Nothing to put in place of a recording that may be there already.
        CallEvent::Audio(_) if audio.is_empty() => {
            let error = EventError::NoAudio;
            return keep_unknown(state, envelope.bytes, &error, now).await;
        }
        CallEvent::Audio(key) => {
            state
                .archive
                .store_audio(&key, audio.into_spool(&state.archive).await?)
                .await?;
            state.metrics.last_post_call.set(now.as_second() as f64);
            tracing::info!(conversation = %key.conversation_id, "post-call webhook: recording archived");
            // Written under its name, a recording sent again replaces itself.
            return Ok(received_answer(&key));
        }
        CallEvent::InitiationFailure(key) => (key, None, now, false),
        CallEvent::Transcription(call) => {
            let spoke = call.caller_spoke();
            (call.key, call.caller, call.started_at, spoke)
        }
    };
    let event = NewEvent {
        key: key.clone(),
        caller,
        started_at,
        greeting_wanted: state.greetings && caller_spoke,
        received_at: now,
        payload: envelope.with_audio(&audio.into_bytes().await?),
    };
    let accepted = state.inbox.accept(event).await?;
    state.metrics.last_post_call.set(now.as_second() as f64);
    let again = if accepted == Accepted::Duplicate {
        " again; nothing changed"
    } else {
        ""
    };
    tracing::info!(conversation = %key.conversation_id, "post-call webhook: {} received{again}", key.kind.as_str());
    Ok(received_answer(&key))
}

fn received_answer(key: &EventKey) -> Response {
    error::json(&json!({
        "status": "received",
        "type": key.kind.as_str(),
        "conversation_id": key.conversation_id,
        "message": "Webhook received and queued for processing",
    }))
}

/// An authentic sender's data is never lost, even if we cannot read it.
async fn keep_unknown(
    state: &PublicState,
    body: Vec<u8>,
    error: &EventError,
    now: Timestamp,
) -> Result<Response, ApiError> {
    let reason = match error {
        // Its text quotes nothing of the body, but the position is enough.
        EventError::NotJson(_) => "the body is not JSON".to_owned(),
        other => other.to_string(),
    };
    tracing::warn!(
        reason,
        "post-call webhook: an authentic body is no known event; it is kept as a dead letter"
    );
    state.ledger.keep_unknown(body, &reason, now).await?;
    Ok(error::json(&json!({
        "status": "received",
        "type": null,
        "conversation_id": null,
        "message": "Webhook received and kept: it is no known event",
    })))
}
