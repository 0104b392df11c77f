//! The archive of transcripts and recordings:
//! `<conversation_id>/<conversation_id>_transcription.json`, in a folder
//! (`PAYLOAD_STORAGE_PATH`) or a bucket (`PAYLOAD_STORAGE_URL`).
//!
//! A file appears under its name only when it is whole, and what is reported as
//! stored is durable.

mod bucket;
mod folder;
mod incoming;

use std::fmt::{self, Debug};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rustc_hash::FxHashSet;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use super::{Result, StoreError};
use crate::domain::call_event::{EventKey, EventKind};
use crate::domain::ids::{ConversationId, is_plain};

use bucket::Bucket;
pub use bucket::BucketOptions;
use folder::Folder;
pub use incoming::AudioSpool;
use incoming::Incoming;

/// Longest wait for any single operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the archive is.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// `PAYLOAD_STORAGE_PATH`: the archive, or where recordings wait on their
    /// way to the bucket.
    pub folder: PathBuf,
    /// `PAYLOAD_STORAGE_URL`
    pub bucket: Option<BucketOptions>,
}

impl fmt::Display for ArchiveOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bucket {
            Some(bucket) => f.write_str(&bucket.place()),
            None => fmt::Display::fmt(&self.folder.display(), f),
        }
    }
}

/// Where the files are that are whole.
#[async_trait]
trait ArchiveFiles: Debug + Send + Sync {
    /// See [`Archive::place`].
    fn place(&self) -> String;

    /// See [`Archive::store_all`]. `turn` is kept until nothing is written any more.
    async fn store_all(
        &self,
        bodies: Vec<(EventKey, Bytes)>,
        turn: BatchTurn,
    ) -> Result<Vec<Result<()>>>;

    /// See [`Archive::store_audio`].
    async fn store_audio(&self, key: &EventKey, spool: AudioSpool) -> Result<()>;

    /// See [`Archive::remove`].
    async fn remove(&self, conversations: Vec<ConversationId>) -> Result<Removed>;

    /// See [`Archive::find`].
    async fn find(&self, marks: FxHashSet<String>) -> Result<Vec<ConversationId>>;

    /// See [`Archive::expire`].
    async fn expire(&self, before: SystemTime) -> Result<u64>;

    /// See [`Archive::check_writable`].
    async fn check_writable(&self) -> Result<()>;
}

/// The archive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    files: Arc<dyn ArchiveFiles>,
    incoming: Arc<Incoming>,
    /// Held from reading bodies until they are written: a removal in between
    /// would be undone.
    batch: Arc<Mutex<()>>,
}

/// The right to write a batch of bodies; see [`Archive::begin_batch`].
#[derive(Debug)]
pub struct BatchTurn {
    _turn: OwnedMutexGuard<()>,
}

/// What [`Archive::remove`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files that are gone now.
    pub files: u64,
    /// Conversations of which there was no file.
    pub without_files: Vec<ConversationId>,
}

impl Archive {
    /// Opens the archive in a folder, creating it, and removes what a killed
    /// process left half received.
    ///
    /// # Errors
    /// If the folder cannot be created or written.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self::in_folder(root, Incoming::open(root)?))
    }

    /// Opens an archive, perhaps one that other instances use at the same time.
    ///
    /// # Errors
    /// As [`Self::open`], or if the bucket's settings cannot be used.
    pub fn open_for(options: &ArchiveOptions, shared: bool) -> Result<Self> {
        let root = &options.folder;
        let incoming = if shared {
            Incoming::open_shared(root)?
        } else {
            Incoming::open(root)?
        };
        match &options.bucket {
            Some(bucket) => Self::in_bucket(bucket, incoming),
            None => Ok(Self::in_folder(root, incoming)),
        }
    }

    /// Opens the archive of a service, for a command of an operator: one that is
    /// not there is not the service's.
    ///
    /// # Errors
    /// If there is none, or as [`Self::open_for`].
    pub fn open_existing(options: &ArchiveOptions, shared: bool) -> Result<Self> {
        if let Some(bucket) = &options.bucket {
            return Self::in_bucket(bucket, Incoming::none(&options.folder));
        }
        if !options.folder.is_dir() {
            return Err(StoreError::File(format!(
                "there is no archive at {} (PAYLOAD_STORAGE_PATH)",
                options.folder.display()
            )));
        }
        Self::open_for(options, shared)
    }

    fn in_folder(root: &Path, incoming: Incoming) -> Self {
        let incoming = Arc::new(incoming);
        Self::new(Folder::new(root, Arc::clone(&incoming)), incoming)
    }

    fn in_bucket(options: &BucketOptions, incoming: Incoming) -> Result<Self> {
        let incoming = Arc::new(incoming);
        let bucket = Bucket::new(options, Arc::clone(&incoming))?;
        Ok(Self::new(bucket, incoming))
    }

    fn new(files: impl ArchiveFiles + 'static, incoming: Arc<Incoming>) -> Self {
        Self {
            files: Arc::new(files),
            incoming,
            batch: Arc::default(),
        }
    }

    /// Where it is, and which setting says so.
    #[must_use]
    pub fn place(&self) -> String {
        self.files.place()
    }

    /// To be asked for before the bodies of a batch are read: until the batch is
    /// written nothing is [removed](Self::remove), so that no file comes back.
    ///
    /// # Errors
    /// If the batch before does not end in time.
    pub async fn begin_batch(&self) -> Result<BatchTurn> {
        let turn = Arc::clone(&self.batch).lock_owned();
        let turn = tokio::time::timeout(OPERATION_TIMEOUT, turn).await;
        turn.map(|turn| BatchTurn { _turn: turn })
            .map_err(|_| StoreError::Unavailable("the archive: no answer in time".into()))
    }

    /// Writes the bodies of events. When this returns, those that succeeded are
    /// durable under their names.
    ///
    /// # Errors
    /// If the archive takes nothing at all, or not in time.
    pub async fn store_all(
        &self,
        bodies: Vec<(EventKey, Bytes)>,
        turn: BatchTurn,
    ) -> Result<Vec<Result<()>>> {
        self.files.store_all(bodies, turn).await
    }

    /// A place for the recording of a body that is being received.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub async fn spool(&self) -> Result<AudioSpool> {
        self.incoming.spool().await
    }

    /// Decodes a received recording and stores it under the event's name.
    /// What is not base64 after all is kept as it came, as `…_audio.b64`.
    ///
    /// # Errors
    /// If the file cannot be written; the spool is lost then, and the sender
    /// has to send again.
    pub async fn store_audio(&self, key: &EventKey, spool: AudioSpool) -> Result<()> {
        self.files.store_audio(key, spool).await
    }

    /// Removes everything of these conversations, of the batch that is being
    /// written too.
    ///
    /// # Errors
    /// If a file cannot be removed, or not in time.
    pub async fn remove(&self, conversations: Vec<ConversationId>) -> Result<Removed> {
        let _turn = self.begin_batch().await?;
        self.files.remove(conversations).await
    }

    /// Finds conversations by the marks of their ids, among all that are here.
    ///
    /// # Errors
    /// If the archive cannot be read, or not in time.
    pub async fn find(&self, marks: FxHashSet<String>) -> Result<Vec<ConversationId>> {
        self.files.find(marks).await
    }

    /// Removes conversations to which nothing was added since `before`, some at
    /// a time; returns how many files, 0 when none is left.
    ///
    /// # Errors
    /// If a file cannot be removed, or not in time.
    pub async fn expire(&self, before: SystemTime) -> Result<u64> {
        self.files.expire(before).await
    }

    /// Writes something.
    ///
    /// # Errors
    /// If that fails, or not in time.
    pub async fn check_writable(&self) -> Result<()> {
        self.incoming.check_writable().await?;
        self.files.check_writable().await
    }
}

/// The folder and name of an event's file.
fn file_name(key: &EventKey) -> (String, String) {
    let stem = key.conversation_id.path_stem();
    let ending = match key.kind {
        EventKind::Transcription => "transcription.json",
        EventKind::InitiationFailure => "failure.json",
        EventKind::Audio => "audio.mp3",
    };
    let name = format!("{stem}_{ending}");
    (stem, name)
}

/// Whether a name is one that conversations have: nothing else below the
/// archive's folder is ours.
fn is_stem(name: &str) -> bool {
    !name.is_empty() && is_plain(name)
}

/// Decodes base64 in portions. JSON may escape the slash (`\/`).
fn decode(mut encoded: impl Read, decoded: &mut impl Write) -> std::io::Result<()> {
    let invalid = |e: base64::DecodeError| std::io::Error::new(std::io::ErrorKind::InvalidData, e);
    let mut pending: Vec<u8> = Vec::with_capacity(64 * 1024);
    let mut buffer = vec![0; 48 * 1024];
    loop {
        let count = encoded.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        pending.extend(buffer[..count].iter().filter(|b| **b != b'\\'));
        // Four characters are three bytes; padding may only come last.
        let whole = pending.len().saturating_sub(4) / 4 * 4;
        let bytes = STANDARD.decode(&pending[..whole]).map_err(invalid)?;
        decoded.write_all(&bytes)?;
        pending.drain(..whole);
    }
    decoded.write_all(&STANDARD.decode(&pending).map_err(invalid)?)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn unavailable(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("the archive: {error}"))
}

/// Runs `work` on a thread that may block. The thread keeps its permit until
/// the work really ends; who asked stops waiting before.
async fn blocking<T: Send + 'static>(
    threads: &Arc<Semaphore>,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let working = async {
        let permit = Arc::clone(threads).acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        })
        .await
    };
    tokio::time::timeout(OPERATION_TIMEOUT, working)
        .await
        .map_err(|_| StoreError::Unavailable("the archive: no answer in time".into()))?
        .map_err(|_| StoreError::Unavailable("the archive: a write panicked".into()))?
        .map_err(unavailable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(kind: EventKind) -> EventKey {
        EventKey {
            kind,
            conversation_id: ConversationId::parse("conv_1").unwrap(),
            agent_id: None,
        }
    }

    #[tokio::test]
    async fn a_recording_arrives_decoded_and_the_spool_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let spool = archive
            .spool()
            .await
            .unwrap()
            .append(b"SUQz".to_vec())
            .await
            .unwrap();
        archive
            .store_audio(&key(EventKind::Audio), spool)
            .await
            .unwrap();
        let stored = std::fs::read(folder.path().join("conv_1/conv_1_audio.mp3")).unwrap();
        assert_eq!(stored, b"ID3");
        assert_eq!(
            std::fs::read_dir(folder.path().join(".incoming"))
                .unwrap()
                .count(),
            0
        );
    }

    #[tokio::test]
    async fn what_is_not_base64_is_kept_as_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let spool = archive
            .spool()
            .await
            .unwrap()
            .append(b"not base64!".to_vec())
            .await
            .unwrap();
        archive
            .store_audio(&key(EventKind::Audio), spool)
            .await
            .unwrap();
        let stored = std::fs::read(folder.path().join("conv_1/conv_1_audio.b64")).unwrap();
        assert_eq!(stored, b"not base64!");
        assert!(!folder.path().join("conv_1/conv_1_audio.mp3").exists());
    }

    proptest! {
        // Several portions each, so fewer cases do.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn decoding_in_portions_is_decoding(data in prop::collection::vec(any::<u8>(), 0..200_000)) {
            let encoded = STANDARD.encode(&data).replace('/', "\\/");
            let mut decoded = Vec::new();
            decode(encoded.as_bytes(), &mut decoded).unwrap();
            prop_assert_eq!(decoded, data);
        }
    }
}
