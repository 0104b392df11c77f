//! `POST /webhook/post-call`: a call has ended.
//!
//! The signature is checked while the body comes in; a recording goes to disk
//! on the way and is never held in memory. 200 is answered only when the event
//! is durable.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use tracing::Instrument;

use super::Shared;
use super::bodies::{Body, Full, Holding, Missed};
use super::connections::Client;
use super::error::{self, ApiError, Response};
use super::peers::Peer;
use super::signature::{Age, SignatureError, Verifier};
use crate::actors::{Confirmation, Delivery, Receipt, Recording};
use crate::domain::connection::TEST_EVENT;
use crate::domain::envelope::EnvelopeSplitter;
use crate::metric_definitions::Dropped;
use crate::store::StoreError;
use crate::telemetry::traces::{self, step};

/// How long a whole body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the sender may pause within a body.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(15);
/// How long what is refused is still read.
const LINGER: Duration = Duration::from_secs(2);
/// A body that is slower than this, in bytes a second, after its first
/// seconds: a sender without the key could otherwise hold a place for long.
const SLOWEST: u64 = 16 * 1024;
/// See [`SLOWEST`].
const SLOW_START: Duration = Duration::from_secs(5);
/// A body that goes on behind these bytes needs a place among the large ones:
/// however many trickle in, the ordinary event passes. Who sends so much and
/// stops has none yet.
const SMALL_BODY: usize = 64 * 1024;
/// Up to this size what a body holds of our memory is not counted, in bytes.
const FREE_MEMORY: usize = 1024 * 1024;

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> Self {
        Self::Unauthorized(match error {
            SignatureError::Unreadable => {
                "the ElevenLabs-Signature header is missing or not t=...,v0=..."
            }
            SignatureError::Future => "the signature is from the future",
            SignatureError::Wrong => "the signature is wrong",
        })
    }
}

/// The sender has to send again.
fn not_stored(error: &StoreError) -> ApiError {
    tracing::error!(%error, "A post-call event cannot be stored now");
    ApiError::Unavailable("the event cannot be stored now; please send it again")
}

impl From<Full> for ApiError {
    fn from(Full: Full) -> Self {
        Self::Unavailable("too many large post-call events at once")
    }
}

/// What the headers of an event say.
pub(super) struct Headers<'a> {
    /// `ElevenLabs-Signature`
    pub signature: Option<&'a str>,
    /// `Content-Length`
    pub length: Option<usize>,
    /// `traceparent`
    pub trace: Option<&'a str>,
}

pub(super) async fn receive<S, B>(
    shared: &Shared,
    client: Option<&Client>,
    headers: Headers<'_>,
    body: S,
) -> Result<Response, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf + Send,
{
    let place = shared.bodies.enter(
        client.map_or(Peer::UNKNOWN, |client| client.peer),
        client.is_some_and(Client::is_proven),
    )?;
    let mut body = Box::pin(body);
    let delivery = async {
        let now = Timestamp::now();
        let keys = shared.state.keys.post_call.now();
        let verifier = Verifier::new(headers.signature, keys.values(), now)
            .inspect_err(|error| tracing::warn!(%error, "post-call webhook refused"))?;
        let limit = shared.state.max_body;
        if headers.length.is_some_and(|length| length > limit) {
            return Err(ApiError::TooLarge { limit });
        }
        read(shared, client, &place, verifier, body.as_mut(), now).await
    };
    match delivery.await {
        Ok((delivery, Age::Stale)) => confirm(shared, delivery).await,
        Ok((delivery, Age::Fresh)) => {
            // Only of whom has shown a key: nobody else fills the traces.
            let span = step!("post-call received");
            traces::go_on_from(&span, headers.trace);
            let receipt = shared.state.inbox.take(delivery).instrument(span).await;
            Ok(answer(&receipt.map_err(|e| not_stored(&e))?))
        }
        Err(error) => {
            // Who is cut off while still sending may never see the answer, and a
            // proxy makes a 502 of it, which ElevenLabs would send again.
            place.is_refused();
            tokio::spawn(async move {
                let end = Instant::now() + LINGER;
                while let Some(Some(Ok(_))) = place.next_refused(body.next(), end).await {}
            });
            Err(error)
        }
    }
}

/// A signature is good and old: whoever has kept the body may have sent it. It is
/// not trusted beyond the call that it names, which is fetched from ElevenLabs.
async fn confirm(shared: &Shared, delivery: Delivery) -> Result<Response, ApiError> {
    const STALE: ApiError = ApiError::Unauthorized("the signature is too old");
    let key = shared.state.inbox.ended_call(delivery).await.ok_or(STALE)?;
    match shared.state.reconciler.confirm(&key.conversation_id).await {
        Confirmation::Taken => Ok(answer(&Receipt::Event(key))),
        Confirmation::Unconfirmed => {
            tracing::warn!(
                "post-call webhook refused: the signature is too old, and the call cannot be fetched"
            );
            Err(STALE)
        }
        Confirmation::Later(error) => {
            tracing::warn!(error, "A call whose event came late cannot be fetched now");
            Err(ApiError::Unavailable(
                "the call cannot be fetched now; please send the event again",
            ))
        }
    }
}

/// An authentic body. What it holds is counted in `place`, which has to last
/// until its event is stored.
async fn read<S, B>(
    shared: &Shared,
    client: Option<&Client>,
    place: &Body,
    mut verifier: Verifier,
    mut body: Pin<&mut S>,
    received_at: Timestamp,
) -> Result<(Delivery, Age), ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let limit = shared.state.max_body;
    let mut splitter = EnvelopeSplitter::default();
    let mut recording = shared.state.inbox.recording();
    let mut is_large = false;
    let mut total = 0;
    let start = Instant::now();
    let end = start + BODY_TIMEOUT;
    loop {
        let chunk_end = end.min(Instant::now() + CHUNK_TIMEOUT);
        let chunk = place.next(body.next(), chunk_end).await;
        let chunk = chunk.map_err(|missed| match missed {
            Missed::Late => ApiError::TooSlow,
            Missed::Lost => {
                let dropped = &shared.state.metrics.connections_dropped;
                dropped.get(Dropped::Stalled).increment(1);
                ApiError::Unavailable("the body paused while others waited for its place")
            }
        })?;
        let Some(chunk) = chunk else {
            break;
        };
        let mut chunk = chunk.map_err(|_| ApiError::TooSlow)?;
        let chunk: Bytes = chunk.copy_to_bytes(chunk.remaining());
        if total > SMALL_BODY && !is_large {
            place.become_large().await?;
            is_large = true;
        }
        total += chunk.len();
        place.received(chunk.len());
        if total > limit {
            return Err(ApiError::TooLarge { limit });
        }
        let slow_after = SLOW_START + Duration::from_secs(total as u64 / SLOWEST);
        if start.elapsed() > slow_after {
            return Err(ApiError::TooSlow);
        }
        verifier.update(&chunk);
        splitter.push(&chunk, |bytes| recording.push(bytes));
        let holding = holding(splitter.envelope_len(), total - splitter.envelope_len());
        if place.hold(holding).is_err() {
            // A ring of the same peer may have come since this body began.
            if client.is_some_and(Client::is_proven) {
                place.prove();
            }
            place.hold(holding)?;
        }
        recording.flush().await.map_err(|e| not_stored(&e))?;
    }
    place.is_whole();
    let age = verifier
        .verify()
        .inspect_err(|error| tracing::warn!(%error, "post-call webhook refused"))?;
    // Whoever has kept an old body has shown no key.
    if age == Age::Fresh {
        place.prove();
        if let Some(client) = client {
            client.prove();
        }
    }
    let delivery = Delivery::new(splitter.finish(), recording, received_at);
    Ok((delivery, age))
}

/// What a body with so many bytes of JSON and audio holds.
fn holding(envelope: usize, audio: usize) -> Holding {
    let (in_memory, on_disk) = if audio <= Recording::IN_MEMORY {
        (audio, 0)
    } else {
        (0, audio)
    };
    Holding {
        memory: (envelope + in_memory).saturating_sub(FREE_MEMORY),
        disk: on_disk,
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
        Receipt::Test => json!({
            "status": "received",
            "type": TEST_EVENT,
            "message": "The signature is good; nothing is kept of a test",
        }),
        Receipt::Unknown | Receipt::Unwanted => json!({
            "status": "received",
            "type": null,
            "conversation_id": null,
            "message": "Webhook received and kept: it is no known event",
        }),
    })
}
