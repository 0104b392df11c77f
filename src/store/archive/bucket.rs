//! The archive in an S3-compatible bucket, which several instances share
//! without a common volume.
//!
//! What is under way when its time is up may still arrive: the bucket has no
//! way to take a request back.

use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig, client::HttpError};
use rustc_hash::FxHashSet;
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempPath;
use tokio::io::AsyncReadExt;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{timeout, timeout_at};

use super::incoming::{AudioSpool, Incoming, create_file};
use super::{
    ArchiveFiles, BatchTurn, OPERATION_TIMEOUT, Removed, blocking, decode, file_name, is_stem,
    unavailable as unreadable,
};
use crate::domain::call_event::EventKey;
use crate::domain::ids::ConversationId;
use crate::store::{Result, StoreError, call_mark};

/// Longest wait for one request: long enough for a part on a slow line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests at a time for bodies.
const UPLOADS: usize = 16;
/// Recordings on their way at a time: each holds some parts in memory.
const RECORDINGS: usize = 4;
/// What is larger is sent in parts of this size; S3 takes none under 5 MiB.
const PART: usize = 5 << 20;
/// What a line must do at the least, in bytes a second: it gives a large file
/// more time.
const SLOWEST: u64 = 1 << 20;
/// Longest wait for a place among the recordings under way.
const PLACE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for going through all names of the bucket.
const LISTING_TIMEOUT: Duration = Duration::from_secs(600);
/// How long old files are looked for in one go.
const EXPIRY_PORTION: Duration = Duration::from_secs(60);
/// Files that are removed with one request.
const DELETED_AT_ONCE: usize = 1_000;
/// How long a successful check counts: each is paid for.
const CHECKED: Duration = Duration::from_secs(30);
/// What a check writes: no conversation has such a name.
const CHECK: &str = ".elaoms-check";

/// A bucket, and how to get in.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    pub bucket: String,
    /// What the names of all files begin with, without a slash at its ends.
    pub prefix: String,
    /// `AWS_ENDPOINT_URL`, for other servers than Amazon's.
    pub endpoint: Option<String>,
    /// `AWS_REGION`
    pub region: Option<String>,
    /// `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; without them the role of
    /// the machine or container is used.
    pub key: Option<(String, SecretString)>,
}

impl BucketOptions {
    /// `s3://bucket/prefix`: the bucket and the prefix, which may be missing.
    #[must_use]
    pub fn parse(url: &str) -> Option<(String, String)> {
        let rest = url.strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let prefix = prefix.trim_matches('/');
        let is_folder = |name: &str| {
            !name.is_empty() && name != "." && name != ".." && name.chars().all(is_name)
        };
        let is_usable =
            is_folder(bucket) && (prefix.is_empty() || prefix.split('/').all(is_folder));
        is_usable.then(|| (bucket.to_owned(), prefix.to_owned()))
    }

    /// As a URL, for operators.
    #[must_use]
    pub fn place(&self) -> String {
        let (bucket, prefix) = (&self.bucket, &self.prefix);
        format!("s3://{bucket}/{prefix}")
            .trim_end_matches('/')
            .to_owned()
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Bucket {
    files: Arc<AmazonS3>,
    options: BucketOptions,
    incoming: Arc<Incoming>,
    recordings: Semaphore,
    /// When a check has succeeded last.
    checked: Mutex<Option<Instant>>,
    expiry: Mutex<Expiry>,
}

/// How far old files are looked for: a large bucket takes many goes.
#[derive(Debug, Default)]
struct Expiry {
    /// Up to this name.
    after: Option<Path>,
    /// All were gone through, for those before this time.
    ended: Option<SystemTime>,
}

/// What is sent to the bucket.
enum Source {
    Bytes(Bytes),
    File(tokio::fs::File),
}

impl Source {
    /// The next bytes, as many as [`PART`] unless they are the last.
    async fn next(&mut self) -> std::io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.split_to(PART.min(bytes.len()))),
            Self::File(file) => {
                let mut part = BytesMut::with_capacity(PART);
                while part.len() < PART && file.read_buf(&mut part).await? > 0 {}
                Ok(part.freeze())
            }
        }
    }
}

impl Bucket {
    pub fn new(options: &BucketOptions, incoming: Arc<Incoming>) -> Result<Self> {
        let is_plain = |url: &String| url.starts_with("http://");
        let client = ClientOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(options.endpoint.as_ref().is_some_and(is_plain));
        let retry = RetryConfig {
            max_retries: 2,
            retry_timeout: OPERATION_TIMEOUT,
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&options.bucket)
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some((id, secret)) = &options.key {
            builder = builder
                .with_access_key_id(id)
                .with_secret_access_key(secret.expose_secret());
        }
        let files = builder.build().map_err(|_| {
            StoreError::File(
                "the settings of the bucket (PAYLOAD_STORAGE_URL, AWS_…) cannot be used".into(),
            )
        })?;
        Ok(Self {
            files: Arc::new(files),
            options: options.clone(),
            incoming,
            recordings: Semaphore::new(RECORDINGS),
            checked: Mutex::new(None),
            expiry: Mutex::default(),
        })
    }

    /// A name below the prefix.
    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.options.prefix))
    }

    fn path_of(&self, key: &EventKey) -> Path {
        let (folder, name) = file_name(key);
        self.path(&format!("{folder}/{name}"))
    }

    /// The conversation whose file this is, as its names have it.
    fn stem<'p>(&self, path: &'p Path) -> Option<&'p str> {
        let below = path.as_ref().strip_prefix(&self.options.prefix)?;
        let (folder, name) = below.trim_start_matches('/').split_once('/')?;
        let rest = name.strip_prefix(folder)?;
        (is_stem(folder) && rest.starts_with('_')).then_some(folder)
    }

    /// Removes files; how many.
    async fn delete(&self, paths: Vec<Path>) -> Result<u64> {
        let paths = stream::iter(paths).map(Ok).boxed();
        let gone = self.files.delete_stream(paths);
        let gone: Vec<Path> = gone.try_collect().await.map_err(unavailable)?;
        Ok(gone.len() as u64)
    }

    /// Sends something under this name, within a time that grows with its size.
    async fn upload(&self, source: Source, length: u64, to: Path) -> Result<()> {
        let time = OPERATION_TIMEOUT + Duration::from_secs(length / SLOWEST);
        let files = Arc::clone(&self.files);
        // In a task of its own: whoever asked may be gone before it is ended
        // properly.
        let sent = tokio::spawn(async move { send(&files, source, &to, time).await });
        let gone = |_| StoreError::Unavailable("the archive: a write panicked".into());
        let sent = sent.await.map_err(gone)?;
        // The next check does not rest on what was so before. One that is under way
        // sees for itself.
        if sent.is_err()
            && let Ok(mut checked) = self.checked.try_lock()
        {
            *checked = None;
        }
        sent
    }
}

async fn send(files: &AmazonS3, mut source: Source, to: &Path, time: Duration) -> Result<()> {
    let end = tokio::time::Instant::now() + time;
    let first = source.next().await.map_err(unreadable)?;
    if first.len() < PART {
        let sent = timeout_at(end, files.put(to, first.into())).await;
        return sent.map_err(|_| late())?.map(drop).map_err(unavailable);
    }
    let begun = timeout_at(end, files.put_multipart(to)).await;
    let mut upload = begun.map_err(|_| late())?.map_err(unavailable)?;
    let parts = async {
        let mut part = first;
        while !part.is_empty() {
            let next = source.next();
            let (sent, next) = tokio::join!(upload.put_part(part.into()), next);
            sent.map_err(unavailable)?;
            part = next.map_err(unreadable)?;
        }
        upload.complete().await.map(drop).map_err(unavailable)
    };
    let sent = timeout_at(end, parts).await.map_err(|_| late()).flatten();
    if sent.is_err() {
        // Parts of an upload that is given up would stay for good, unseen.
        let aborted = timeout(OPERATION_TIMEOUT, upload.abort()).await;
        if !matches!(aborted, Ok(Ok(()))) {
            tracing::warn!("Parts of an upload to the bucket of the archive may be left there");
        }
    }
    sent
}

#[async_trait]
impl ArchiveFiles for Bucket {
    fn place(&self) -> String {
        format!("{} (PAYLOAD_STORAGE_URL)", self.options.place())
    }

    async fn store_all(
        &self,
        bodies: Vec<(EventKey, Bytes)>,
        turn: BatchTurn,
    ) -> Result<Vec<Result<()>>> {
        let written = stream::iter(bodies)
            .map(async |(key, body)| {
                let length = body.len() as u64;
                self.upload(Source::Bytes(body), length, self.path_of(&key))
                    .await
            })
            .buffered(UPLOADS)
            .collect()
            .await;
        drop(turn);
        Ok(written)
    }

    async fn store_audio(&self, key: &EventKey, mut spool: AudioSpool) -> Result<()> {
        let (path, part) = (self.path_of(key), self.incoming.part());
        let (spool, decoded) = blocking(&self.incoming.threads, move || {
            let decoded = TempPath::try_from_path(&part)?;
            let mut file = BufWriter::new(create_file(&part)?);
            let encoded = BufReader::new(std::fs::File::open(spool.finish()?)?);
            match decode(encoded, &mut file).and_then(|()| file.flush()) {
                Ok(()) => Ok((spool, Some(decoded))),
                Err(error) if error.kind() == ErrorKind::InvalidData => Ok((spool, None)),
                Err(error) => Err(error),
            }
        })
        .await?;
        let place = timeout(PLACE_TIMEOUT, self.recordings.acquire()).await;
        let _place = place.map_err(|_| late())?.map_err(|_| late())?;
        let (file, path) = match &decoded {
            Some(decoded) => (&**decoded, path),
            None => {
                let raw = path.as_ref().trim_end_matches("mp3");
                (spool.path(), Path::from(format!("{raw}b64")))
            }
        };
        let file = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let length = file.metadata().await.map_err(unreadable)?.len();
        self.upload(Source::File(file), length, path).await
    }

    async fn remove(&self, conversations: Vec<ConversationId>) -> Result<Removed> {
        let found = stream::iter(conversations)
            .map(async |conversation| {
                let folder = self.path(&conversation.path_stem());
                let files = self.files.list(Some(&folder));
                let files: Vec<Path> = in_time(async {
                    files
                        .map_ok(|file| file.location)
                        .try_collect()
                        .await
                        .map_err(unavailable)
                })
                .await?;
                let ours = files.into_iter().filter(|path| self.stem(path).is_some());
                Ok::<_, StoreError>((conversation, ours.collect::<Vec<_>>()))
            })
            .buffered(UPLOADS)
            .try_collect::<Vec<_>>()
            .await?;
        let mut removed = Removed::default();
        let mut paths = Vec::new();
        for (conversation, files) in found {
            if files.is_empty() {
                removed.without_files.push(conversation);
            }
            paths.extend(files);
        }
        removed.files = in_time(self.delete(paths)).await?;
        Ok(removed)
    }

    async fn find(&self, marks: FxHashSet<String>) -> Result<Vec<ConversationId>> {
        let prefix = Path::from(self.options.prefix.as_str());
        let mut found = Vec::new();
        let all = async {
            let mut files = self.files.list(Some(&prefix));
            while let Some(file) = files.try_next().await.map_err(unavailable)? {
                let id = self
                    .stem(&file.location)
                    .and_then(|stem| ConversationId::parse(stem).ok())
                    .filter(|id| marks.contains(&call_mark(id)));
                // Files of one conversation come one after the other.
                found.extend(id.filter(|id| found.last() != Some(id)));
            }
            Ok::<_, StoreError>(())
        };
        timeout(LISTING_TIMEOUT, all).await.map_err(|_| late())??;
        Ok(found)
    }

    /// By the age of each file, from where it was left the last time.
    async fn expire(&self, before: SystemTime) -> Result<u64> {
        let mut expiry = self.expiry.lock().await;
        if expiry.ended == Some(before) {
            return Ok(0);
        }
        let oldest = Timestamp::try_from(before)
            .unwrap_or(Timestamp::MIN)
            .as_second();
        let prefix = Path::from(self.options.prefix.as_str());
        let mut last = expiry.after.take();
        let mut files = match &last {
            Some(after) => self.files.list_with_offset(Some(&prefix), after),
            None => self.files.list(Some(&prefix)),
        };
        let end = tokio::time::Instant::now() + EXPIRY_PORTION;
        let (mut old, mut removed) = (Vec::new(), 0);
        loop {
            let Ok(next) = timeout_at(end, files.try_next()).await else {
                break; // The next go goes on from here.
            };
            let Some(file) = next.map_err(unavailable)? else {
                last = None;
                break;
            };
            let is_old = file.last_modified.timestamp() < oldest;
            last = Some(file.location.clone());
            if is_old && self.stem(&file.location).is_some() {
                old.push(file.location);
            }
            if old.len() == DELETED_AT_ONCE {
                removed += in_time(self.delete(std::mem::take(&mut old))).await?;
            }
        }
        removed += in_time(self.delete(old)).await?;
        expiry.ended = last.is_none().then_some(before);
        expiry.after = last;
        Ok(removed)
    }

    async fn check_writable(&self) -> Result<()> {
        // One check at a time, however often it is asked for.
        let mut checked = self.checked.lock().await;
        if checked.is_some_and(|at| at.elapsed() < CHECKED) {
            return Ok(());
        }
        *checked = None;
        let path = self.path(CHECK);
        in_time(async {
            let written = self.files.put(&path, "elaoms".into()).await;
            written.map(drop).map_err(unavailable)
        })
        .await?;
        *checked = Some(Instant::now());
        Ok(())
    }
}

fn late() -> StoreError {
    StoreError::Unavailable("the bucket of the archive: no answer in time".into())
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(OPERATION_TIMEOUT, work).await.map_err(|_| late())?
}

/// Nothing that the server says is passed on: it may repeat what it was sent.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn unavailable(error: object_store::Error) -> StoreError {
    use object_store::Error as E;
    let why = match &error {
        E::NotFound { .. } => "it is not there",
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => "the key may not do this",
        other if is_unreachable(other) => "it cannot be reached",
        _ => "it does not do what it is asked",
    };
    StoreError::Unavailable(format!("the bucket of the archive: {why}"))
}

fn is_unreachable(error: &object_store::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            use object_store::client::HttpErrorKind as K;
            return matches!(error.kind(), K::Connect | K::Timeout);
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_whose_names_come_back_as_they_are_count() {
        let parsed = |url| BucketOptions::parse(url);
        let of = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(parsed("s3://bucket"), of("bucket", ""));
        assert_eq!(parsed("s3://bucket/"), of("bucket", ""));
        assert_eq!(parsed("s3://bucket/a/b.c/"), of("bucket", "a/b.c"));
        for bad in [
            "s3://",
            "s3:///a",
            "s3://bucket/a//b",
            "s3://bucket/./a",
            "s3://bucket/a/..",
            "s3://bucket/a b",
            "s3://key:secret@bucket/a",
            "https://bucket/a",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
