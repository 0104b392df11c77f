//! The archive in a folder of this machine, or of a volume that several share.

use std::fs::{DirBuilder, DirEntry, File};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustc_hash::FxHashSet;

use super::incoming::{AudioSpool, Incoming, create_file};
use super::{ArchiveFiles, BatchTurn, Removed, blocking, decode, file_name, is_stem, unavailable};
use crate::domain::call_event::EventKey;
use crate::domain::ids::ConversationId;
use crate::store::{Result, call_mark, folder_of};

/// How long old conversations are removed in one go.
const EXPIRY_PORTION: Duration = Duration::from_secs(5);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Folder {
    root: Arc<Path>,
    incoming: Arc<Incoming>,
}

impl Folder {
    pub fn new(root: &Path, incoming: Arc<Incoming>) -> Self {
        Self {
            root: root.into(),
            incoming,
        }
    }

    fn path(&self, key: &EventKey) -> PathBuf {
        let (folder, name) = file_name(key);
        self.root.join(folder).join(name)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(&self.incoming.threads, work).await
    }
}

#[async_trait]
impl ArchiveFiles for Folder {
    fn place(&self) -> String {
        format!("{} (PAYLOAD_STORAGE_PATH)", self.root.display())
    }

    /// All of them become durable at once.
    async fn store_all(
        &self,
        bodies: Vec<(EventKey, Bytes)>,
        turn: BatchTurn,
    ) -> Result<Vec<Result<()>>> {
        let files: Vec<_> = bodies
            .into_iter()
            .map(|(key, body)| (self.incoming.part(), self.path(&key), body))
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

    async fn store_audio(&self, key: &EventKey, mut spool: AudioSpool) -> Result<()> {
        let (part, path) = (self.incoming.part(), self.path(key));
        self.blocking(move || {
            let spooled = spool.finish()?;
            let decoded = write_file(&part, &path, |file| {
                let encoded = BufReader::new(File::open(spooled)?);
                decode(encoded, file)?;
                flush_content(file)
            });
            match decoded {
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    let raw = path.with_extension("b64");
                    write_file(&part, &raw, |file| {
                        std::io::copy(&mut File::open(spooled)?, file)?;
                        flush_content(file)
                    })?;
                    flush_name(&raw)
                }
                other => other.and_then(|()| flush_name(&path)),
            }
        })
        .await
    }

    async fn remove(&self, conversations: Vec<ConversationId>) -> Result<Removed> {
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

    async fn find(&self, marks: FxHashSet<String>) -> Result<Vec<ConversationId>> {
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

    async fn expire(&self, before: SystemTime) -> Result<u64> {
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

    async fn check_writable(&self) -> Result<()> {
        // What is being received is in the same folder.
        Ok(())
    }
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
