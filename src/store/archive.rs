//! The archive of transcripts and recordings:
//! `PAYLOAD_STORAGE_PATH/<conversation_id>/<conversation_id>_transcription.json`.
//!
//! A file is written beside, then renamed, so that it appears under its name
//! only when it is whole. What is reported as stored is on disk.

use std::fs::{DirBuilder, DirEntry, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::distr::{Alphanumeric, SampleString};
use rustc_hash::FxHashSet;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use super::{Result, StoreError, call_mark, folder_of};
use crate::domain::call_event::{EventKey, EventKind};
use crate::domain::ids::{ConversationId, is_plain};

/// Threads that wait for the volume at a time.
const THREADS: usize = 16;
/// Longest wait for any single operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long old conversations are removed in one go.
const EXPIRY_PORTION: Duration = Duration::from_secs(5);
/// Where bodies wait that are not authenticated yet.
const INCOMING: &str = ".incoming";
/// Locked by the instance whose folder it is in.
const LOCK: &str = "lock";

/// The archive folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    root: Arc<Path>,
    /// Where files are that are not whole yet.
    incoming: Arc<Path>,
    /// Of that folder, where other instances have others.
    _lock: Option<Arc<File>>,
    next_part: Arc<AtomicU64>,
    /// Threads that may wait for the volume at a time, if it hangs even for good.
    threads: Arc<Semaphore>,
    /// The same, for checks.
    check: Arc<Semaphore>,
    /// Held from reading bodies until they are written: a removal in between
    /// would be undone.
    batch: Arc<Mutex<()>>,
}

/// The right to write a batch of bodies; see [`Archive::begin_batch`].
#[derive(Debug)]
pub struct BatchTurn {
    _turn: OwnedMutexGuard<()>,
}

impl Archive {
    /// Opens the archive, creating its folder, and removes what a killed
    /// process left half received.
    ///
    /// # Errors
    /// If the folder cannot be created or written.
    pub fn open(root: &Path) -> Result<Self> {
        let incoming = root.join(INCOMING);
        create_folder(&incoming)?;
        for entry in std::fs::read_dir(&incoming).map_err(unavailable)? {
            let path = entry.map_err(unavailable)?.path();
            if !path.is_dir() {
                std::fs::remove_file(path).map_err(unavailable)?;
            }
        }
        Ok(Self::new(root, incoming, None))
    }

    /// Opens an archive that other instances use at the same time. What is not
    /// whole yet is in a folder of each, which it holds locked: what those that
    /// are gone have left is removed.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn open_shared(root: &Path) -> Result<Self> {
        let all = root.join(INCOMING);
        create_folder(&all)?;
        for entry in std::fs::read_dir(&all).map_err(unavailable)? {
            let path = entry.map_err(unavailable)?.path();
            let lock = File::open(path.join(LOCK));
            if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                // Another instance may be doing the same.
                let _ = std::fs::remove_dir_all(path);
            }
        }
        let incoming = all.join(Alphanumeric.sample_string(&mut rand::rng(), 16));
        create_folder(&incoming)?;
        let lock = create_file(&incoming.join(LOCK)).map_err(unavailable)?;
        lock.lock().map_err(unavailable)?;
        Ok(Self::new(root, incoming, Some(Arc::new(lock))))
    }

    fn new(root: &Path, incoming: PathBuf, lock: Option<Arc<File>>) -> Self {
        Self {
            root: root.into(),
            incoming: incoming.into(),
            _lock: lock,
            next_part: Arc::default(),
            threads: Arc::new(Semaphore::new(THREADS)),
            check: Arc::new(Semaphore::new(1)),
            batch: Arc::default(),
        }
    }

    /// Opens an archive, perhaps one that other instances use at the same time.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(root: &Path, shared: bool) -> Result<Self> {
        if shared {
            Self::open_shared(root)
        } else {
            Self::open(root)
        }
    }

    /// Opens the archive of a service, for a command of an operator: one that is
    /// not there is not the service's.
    ///
    /// # Errors
    /// If there is none, or as [`Self::open`].
    pub fn open_existing(root: &Path, shared: bool) -> Result<Self> {
        if !root.is_dir() {
            return Err(StoreError::File(format!(
                "there is no archive at {} (PAYLOAD_STORAGE_PATH)",
                root.display()
            )));
        }
        Self::open_for(root, shared)
    }

    /// The archive's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &EventKey) -> PathBuf {
        let stem = key.conversation_id.path_stem();
        let ending = match key.kind {
            EventKind::Transcription => "transcription.json",
            EventKind::InitiationFailure => "failure.json",
            EventKind::Audio => "audio.mp3",
        };
        self.root.join(&stem).join(format!("{stem}_{ending}"))
    }

    /// A new file among those that are not whole yet.
    fn part(&self) -> PathBuf {
        let number = self.next_part.fetch_add(1, Ordering::Relaxed);
        self.incoming.join(format!("{number}.part"))
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
    /// on disk under their names; all of them became durable at once.
    ///
    /// # Errors
    /// If the folder takes nothing at all, or not in time.
    pub async fn store_all(
        &self,
        bodies: Vec<(EventKey, bytes::Bytes)>,
        turn: BatchTurn,
    ) -> Result<Vec<Result<()>>> {
        let files: Vec<_> = bodies
            .into_iter()
            .map(|(key, body)| (self.part(), self.path(&key), body))
            .collect();
        let root = Arc::clone(&self.root);
        self.blocking(move || {
            let written = files
                .iter()
                .map(|(part, path, body)| {
                    write_file(part, path, |file| file.write_all(body)).map_err(unavailable)
                })
                .collect();
            // One flush for all. Should power fail before it, an event is not
            // marked as archived, and its file is written anew.
            rustix::fs::syncfs(File::open(root)?)?;
            // Kept by the thread for as long as it can still write.
            drop(turn);
            Ok(written)
        })
        .await
    }

    /// A place for the recording of a body that is being received.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub async fn spool(&self) -> Result<AudioSpool> {
        let (path, archive) = (self.part(), self.clone());
        self.blocking(move || {
            let file = create_file(&path)?;
            Ok(AudioSpool {
                path,
                writer: BufWriter::new(file),
                length: 0,
                threads: archive.threads,
            })
        })
        .await
    }

    /// Decodes a received recording and stores it under the event's name.
    /// What is not base64 after all is kept as it came, as `…_audio.b64`.
    ///
    /// # Errors
    /// If the file cannot be written; the spool is lost then, and the sender
    /// has to send again.
    pub async fn store_audio(&self, key: &EventKey, mut spool: AudioSpool) -> Result<()> {
        let (part, path) = (self.part(), self.path(key));
        self.blocking(move || {
            spool.writer.flush()?;
            let decoded = write_file(&part, &path, |file| {
                let encoded = BufReader::new(File::open(&spool.path)?);
                decode(encoded, file)?;
                flush_content(file)
            });
            match decoded {
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    let raw = path.with_extension("b64");
                    write_file(&part, &raw, |file| {
                        std::io::copy(&mut File::open(&spool.path)?, file)?;
                        flush_content(file)
                    })?;
                    flush_name(&raw)
                }
                other => other.and_then(|()| flush_name(&path)),
            }
        })
        .await
    }

    /// Removes everything of these conversations, of the batch that is being
    /// written too.
    ///
    /// # Errors
    /// If a file cannot be removed, or not in time.
    pub async fn remove(&self, conversations: Vec<ConversationId>) -> Result<Removed> {
        let _turn = self.begin_batch().await?;
        let root = Arc::clone(&self.root);
        self.blocking(move || {
            let mut removed = Removed::default();
            for conversation in conversations {
                match remove_folder(&root, &conversation.path_stem())? {
                    0 => removed.without_files.push(conversation),
                    files => removed.files += files,
                }
            }
            if removed.files > 0 {
                rustix::fs::syncfs(File::open(root)?)?;
            }
            Ok(removed)
        })
        .await
    }

    /// Finds conversations by the marks of their ids, among all that are here.
    ///
    /// # Errors
    /// If the folder cannot be read, or not in time.
    pub async fn find(&self, marks: FxHashSet<String>) -> Result<Vec<ConversationId>> {
        let root = Arc::clone(&self.root);
        self.blocking(move || {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&root)? {
                let name = entry?.file_name();
                let id = name
                    .to_str()
                    .and_then(|name| ConversationId::parse(name).ok());
                found.extend(id.filter(|id| marks.contains(&call_mark(id))));
            }
            Ok(found)
        })
        .await
    }

    /// Removes conversations to which nothing was added since `before`, some at
    /// a time; returns how many files, 0 when none is left.
    ///
    /// # Errors
    /// If a file cannot be removed, or not in time.
    pub async fn expire(&self, before: SystemTime) -> Result<u64> {
        let root = Arc::clone(&self.root);
        self.blocking(move || {
            let (begun, mut removed) = (Instant::now(), 0);
            for entry in std::fs::read_dir(&root)? {
                let entry = entry?;
                let name = entry.file_name();
                let Some(stem) = name.to_str().filter(|name| is_stem(name)) else {
                    continue;
                };
                // One folder that cannot be removed must not keep the others.
                let is_old = |entry: &DirEntry| -> std::io::Result<bool> {
                    let folder = entry.metadata()?;
                    Ok(folder.is_dir() && folder.modified()? < before)
                };
                let gone = is_old(&entry).and_then(|is_old| match is_old {
                    true => remove_folder(&root, stem),
                    false => Ok(0),
                });
                match gone {
                    Ok(files) => removed += files,
                    Err(error) => {
                        tracing::warn!(%error, "A file of the archive is too old, but stays")
                    }
                }
                if begun.elapsed() > EXPIRY_PORTION {
                    break;
                }
            }
            Ok(removed)
        })
        .await
    }

    /// Writes and removes a file. One check at a time: however often it is
    /// asked of a volume that hangs, one thread waits.
    ///
    /// # Errors
    /// If that fails, or not in time.
    pub async fn check_writable(&self) -> Result<()> {
        let path = self.part();
        blocking(&self.check, move || {
            let written = create_file(&path).and_then(|mut file| file.write_all(b"elaoms"));
            std::fs::remove_file(&path).and(written)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(&self.threads, work).await
    }
}

/// What [`Archive::remove`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files that are gone now.
    pub files: u64,
    /// Conversations of which there was no file.
    pub without_files: Vec<ConversationId>,
}

/// A recording that is being received, still in base64. Dropping it deletes it.
#[derive(Debug)]
pub struct AudioSpool {
    path: PathBuf,
    writer: BufWriter<File>,
    length: u64,
    threads: Arc<Semaphore>,
}

impl AudioSpool {
    /// Appends a piece.
    ///
    /// # Errors
    /// If the disk refuses it.
    pub async fn append(mut self, piece: Vec<u8>) -> Result<Self> {
        let threads = Arc::clone(&self.threads);
        blocking(&threads, move || {
            self.writer.write_all(&piece)?;
            self.length += piece.len() as u64;
            Ok(self)
        })
        .await
    }

    /// The base64 text received, for bodies that turn out to be no recording.
    ///
    /// # Errors
    /// If it cannot be read back.
    pub async fn read_back(mut self) -> Result<Vec<u8>> {
        let threads = Arc::clone(&self.threads);
        blocking(&threads, move || {
            self.writer.flush()?;
            std::fs::read(&self.path)
        })
        .await
    }
}

impl Drop for AudioSpool {
    fn drop(&mut self) {
        // Nothing to be done about a failure here; `Archive::open` cleans up.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a name is one that conversations have: nothing else below the
/// archive's folder is ours.
fn is_stem(name: &str) -> bool {
    !name.is_empty() && is_plain(name)
}

/// Removes the files of a conversation, and their folder if it is empty then;
/// returns how many there were. A folder that is not there holds none.
fn remove_folder(root: &Path, stem: &str) -> std::io::Result<u64> {
    let folder = root.join(stem);
    let files = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        files => files?,
    };
    let mut removed = 0;
    for file in files {
        let file = file?;
        let name = file.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(stem));
        if rest.is_some_and(|rest| rest.starts_with('_')) {
            std::fs::remove_file(file.path())?;
            removed += 1;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
        removed => removed?,
    }
    Ok(removed)
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

/// Writes `part`, then gives it its name. Durable with the next flush of the disk.
fn write_file(
    part: &Path,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let written = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder_of(path))
        .and_then(|()| {
            let mut writer = BufWriter::new(create_file(part)?);
            write(&mut writer)?;
            writer.flush()
        })
        .and_then(|()| std::fs::rename(part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(part);
    }
    written
}

/// Flushes what was written, so that no name is given to less than the whole.
fn flush_content(file: &mut BufWriter<File>) -> std::io::Result<()> {
    file.flush()?;
    file.get_ref().sync_all()
}

/// Flushes a file's name, which is durable only when its folder is.
fn flush_name(path: &Path) -> std::io::Result<()> {
    let folder = folder_of(path);
    File::open(folder)?.sync_all()?;
    File::open(folder_of(folder))?.sync_all()
}

fn create_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn create_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StoreError::Unavailable(format!("cannot create {}: {e}", path.display())))
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
            std::fs::read_dir(folder.path().join(INCOMING))
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
