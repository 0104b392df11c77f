//! Request bodies, bounded in size and time.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use super::error::ApiError;

/// Largest body of client-data and search-data, in bytes.
const MAX_SMALL_BODY: usize = 64 * 1024;
/// How long such a body may take to arrive.
const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a small body.
pub(super) async fn read_small<S, B>(body: S) -> Result<Bytes, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    timeout(SMALL_BODY_TIMEOUT, collect(body))
        .await
        .unwrap_or(Err(ApiError::TooSlow))
}

async fn collect<S, B>(body: S) -> Result<Bytes, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| ApiError::TooSlow)?;
        if whole.len() + chunk.remaining() > MAX_SMALL_BODY {
            return Err(ApiError::TooLarge {
                limit: MAX_SMALL_BODY,
            });
        }
        if whole.is_empty() {
            // The usual case: one chunk, which is taken over without a copy.
            let bytes = chunk.copy_to_bytes(chunk.remaining());
            whole = bytes
                .try_into_mut()
                .unwrap_or_else(|bytes| BytesMut::from(&bytes[..]));
        } else {
            while chunk.has_remaining() {
                let part = chunk.chunk();
                whole.extend_from_slice(part);
                let length = part.len();
                chunk.advance(length);
            }
        }
    }
    Ok(whole.freeze())
}
