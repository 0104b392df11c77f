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
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::error::{self, ApiError, Response};
use super::signature::{SignatureError, Verifier};
use crate::actors::{Delivery, Receipt};
use crate::domain::envelope::EnvelopeSplitter;
use crate::store::StoreError;

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

/// The sender has to send again.
fn not_stored(error: &StoreError) -> ApiError {
    tracing::error!(%error, "A post-call event cannot be stored now");
    ApiError::Unavailable("the event cannot be stored now; please send it again")
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
    let verifier = Verifier::new(signature, state.post_call_key.values(), now)
        .inspect_err(|error| tracing::warn!(%error, "post-call webhook refused"))?;
    let (delivery, _budget) = read(shared, verifier, body, now).await?;
    let receipt = state.inbox.take(delivery).await;
    Ok(answer(&receipt.map_err(|e| not_stored(&e))?))
}

/// An authentic body, with the memory that it takes from the budget until its
/// event is stored.
async fn read<S, B>(
    shared: &Shared,
    mut verifier: Verifier,
    body: S,
    received_at: Timestamp,
) -> Result<(Delivery, Option<OwnedSemaphorePermit>), ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let limit = shared.state.max_body;
    let mut body = std::pin::pin!(body);
    let mut splitter = EnvelopeSplitter::default();
    let mut recording = shared.state.inbox.recording();
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
        splitter.push(&chunk, |bytes| recording.push(bytes));
        budget.cover(splitter.envelope_len())?;
        disk.cover(total - splitter.envelope_len())?;
        recording.flush().await.map_err(|e| not_stored(&e))?;
    }
    verifier
        .verify()
        .inspect_err(|error| tracing::warn!(%error, "post-call webhook refused"))?;
    let delivery = Delivery {
        envelope: splitter.finish(),
        recording,
        received_at,
    };
    Ok((delivery, budget.taken))
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

fn answer(receipt: &Receipt) -> Response {
    error::json(&match receipt {
        Receipt::Event(key) => json!({
            "status": "received",
            "type": key.kind.as_str(),
            "conversation_id": key.conversation_id,
            "message": "Webhook received and queued for processing",
        }),
        Receipt::Unknown => json!({
            "status": "received",
            "type": null,
            "conversation_id": null,
            "message": "Webhook received and kept: it is no known event",
        }),
    })
}
