//! What is being received or written: files that are not whole yet.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::distr::{Alphanumeric, SampleString};
use tokio::sync::Semaphore;

use super::{blocking, unavailable};
use crate::store::{Result, StoreError};

/// Below the archive's folder.
const INCOMING: &str = ".incoming";
/// Locked by the instance whose folder it is in.
const LOCK: &str = "lock";
/// Threads that wait for the volume at a time, if it hangs even for good.
const THREADS: usize = 16;

/// A folder for such files.
#[derive(Debug)]
pub(super) struct Incoming {
    folder: PathBuf,
    /// Of that folder, where other instances have others.
    _lock: Option<File>,
    next_part: AtomicU64,
    /// Whether anything is received or written.
    is_used: bool,
    /// See [`THREADS`].
    pub threads: Arc<Semaphore>,
    /// The same, for checks.
    check: Arc<Semaphore>,
}

impl Incoming {
    /// The folder of the only instance: removes what a killed process left half
    /// received.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = root.join(INCOMING);
        create_folder(&folder)?;
        for entry in std::fs::read_dir(&folder).map_err(unavailable)? {
            let path = entry.map_err(unavailable)?.path();
            if !path.is_dir() {
                std::fs::remove_file(path).map_err(unavailable)?;
            }
        }
        Ok(Self::new(folder, None))
    }

    /// A folder of an instance's own, which it holds locked: what those that are
    /// gone have left is removed.
    pub fn open_shared(root: &Path) -> Result<Self> {
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
        let folder = all.join(Alphanumeric.sample_string(&mut rand::rng(), 16));
        create_folder(&folder)?;
        let lock = create_file(&folder.join(LOCK)).map_err(unavailable)?;
        lock.lock().map_err(unavailable)?;
        Ok(Self::new(folder, Some(lock)))
    }

    /// For those who receive and write nothing.
    pub fn none(root: &Path) -> Self {
        Self {
            is_used: false,
            ..Self::new(root.join(INCOMING), None)
        }
    }

    fn new(folder: PathBuf, lock: Option<File>) -> Self {
        Self {
            folder,
            _lock: lock,
            next_part: AtomicU64::new(0),
            is_used: true,
            threads: Arc::new(Semaphore::new(THREADS)),
            check: Arc::new(Semaphore::new(1)),
        }
    }

    /// The path of a new file.
    pub fn part(&self) -> PathBuf {
        let number = self.next_part.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{number}.part"))
    }

    /// Writes and removes a file. One check at a time: however often it is asked
    /// of a volume that hangs, one thread waits.
    pub async fn check_writable(&self) -> Result<()> {
        if !self.is_used {
            return Ok(());
        }
        let path = self.part();
        blocking(&self.check, move || {
            let written = create_file(&path).and_then(|mut file| file.write_all(b"elaoms"));
            std::fs::remove_file(&path).and(written)
        })
        .await
    }

    /// A place for the recording of a body that is being received.
    pub async fn spool(&self) -> Result<AudioSpool> {
        let (path, threads) = (self.part(), Arc::clone(&self.threads));
        blocking(&self.threads, move || {
            let file = create_file(&path)?;
            Ok(AudioSpool {
                path,
                writer: BufWriter::new(file),
                threads,
            })
        })
        .await
    }
}

/// A recording that is being received, still in base64. Dropping it deletes it.
#[derive(Debug)]
pub struct AudioSpool {
    path: PathBuf,
    writer: BufWriter<File>,
    threads: Arc<Semaphore>,
}

impl AudioSpool {
    /// Ends the receiving; where the text is, for as long as this is kept.
    pub(super) fn finish(&mut self) -> std::io::Result<&Path> {
        self.writer.flush()?;
        Ok(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// If the disk refuses it.
    pub async fn append(mut self, piece: Vec<u8>) -> Result<Self> {
        let threads = Arc::clone(&self.threads);
        blocking(&threads, move || {
            self.writer.write_all(&piece)?;
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

pub(super) fn create_file(path: &Path) -> std::io::Result<File> {
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
