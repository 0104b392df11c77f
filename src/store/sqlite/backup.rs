//! Backup of a database in use, and restoring one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::integrity::{Contents, RESTORING, examine, verify};
use super::{connect, lock, sibling};
use crate::store::{Result, StoreError, folder_of};

/// Pages copied between two reports of progress (4 MiB).
const PAGES: i32 = 1_024;
/// Bytes copied between two reports of progress.
const BYTES: usize = 4 << 20;

/// How far a backup or restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many parts of so many are copied.
    Copied(u64, u64),
    /// Everything is copied, and read again.
    Verifying,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What is in the database now.
    pub contents: Contents,
    /// Where the database is that was there before.
    pub kept: Option<PathBuf>,
}

/// Copies the database, which may be in use, to a new file that nobody else
/// may read. The copy is the database as it was when this began: all that was
/// acknowledged by then is in it. The file appears when it is whole and
/// verified, or not at all; one that is there is replaced only if `replace`.
///
/// # Errors
/// If the database cannot be read or the copy not be written, or is damaged.
pub fn back_up(
    database: &Path,
    file: &Path,
    replace: bool,
    mut progress: impl FnMut(Progress),
) -> Result<Contents> {
    if is_part_of(file, database) {
        return Err(unusable(
            file,
            "cannot be the backup",
            &"it belongs to the database itself",
        ));
    }
    if !replace && file.exists() {
        return Err(already_there(file));
    }
    only_a_file(file, "cannot be the backup")?;
    if !examine(database)? {
        return Err(unusable(
            database,
            "cannot be backed up",
            &"there is no such file",
        ));
    }
    let partial = Partial::create(file, ".partial")?;
    copy_pages(database, &partial.path, &mut progress)?;
    progress(Progress::Verifying);
    let contents = verify(&single_file(&partial.path)?)?;
    partial.become_file(file, replace)?;
    Ok(contents)
}

/// Puts a backup in the place of the database. What was there is kept beside
/// it under another name, with its log.
///
/// # Errors
/// If a service holds the database, or the backup is no whole database that
/// this program knows; then the database is as it was.
pub fn restore(
    file: &Path,
    database: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Restored> {
    if is_part_of(file, database) {
        return Err(unusable(
            file,
            "cannot be restored",
            &"it belongs to the database itself",
        ));
    }
    // A database in use changes while it is copied.
    let in_use = |lock: File| lock.try_lock().is_err();
    if File::open(sibling(file, ".lock")).is_ok_and(in_use) {
        return Err(unusable(
            file,
            "cannot be restored",
            &"it is in use; make a backup of it first",
        ));
    }
    // Before anything is made beside the database.
    only_a_file(file, "cannot be restored")?;
    File::open(file).map_err(|e| unusable(file, "cannot be read", &e))?;
    let _lock = lock(database).map_err(|e| {
        let why = format!("{e}; stop it first");
        unusable(file, "is not restored", &why)
    })?;
    let partial = Partial::create(database, RESTORING)?;
    let log = sibling(&partial.path, "-wal");
    copy_bytes(file, &partial.path, &mut progress)?;
    // What was copied with other tools may have a log that belongs to it.
    if sibling(file, "-wal").exists() {
        copy_bytes(&sibling(file, "-wal"), &log, &mut progress)?;
    }
    progress(Progress::Verifying);
    let described = |e: StoreError| match e {
        StoreError::Corrupt(why) => unusable(file, "cannot be restored", &why),
        other => unusable(file, "cannot be restored", &other),
    };
    let copy = single_file(&partial.path).map_err(described);
    let verified = copy.and_then(|copy| {
        let contents = verify(&copy).map_err(described)?;
        forget_index(&copy).map_err(described)?;
        Ok(contents)
    });
    let _ = fs::remove_file(log);
    let contents = verified?;
    give_to_owner_of_folder(&partial.path)?;
    // Nothing but these renames stands between the old and the new one. Broken
    // off in between, no database is there, and `examine` refuses to make an
    // empty one, because the new one still has its former name.
    let kept = set_aside(database)?;
    partial.become_file(database, false)?;
    Ok(Restored { contents, kept })
}

/// SQLite's online backup, from one read transaction. The connection reads
/// only and takes no lock that the service wants. `VACUUM INTO` would do as
/// well, but parses and rebuilds every row: that takes several times as long,
/// in which the service's log grows; and a page that is damaged would end it,
/// or be left out.
fn copy_pages(from: &Path, to: &Path, progress: &mut impl FnMut(Progress)) -> Result<()> {
    let source = connect(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // The snapshot is taken by the first read. Without it each commit of the
    // service would make the copy begin anew.
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    let mut target = connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // A copy that breaks off is thrown away.
    target.pragma_update(None, "synchronous", "OFF")?;
    let backup = Backup::new(&source, &mut target)?;
    loop {
        let step = backup.step(PAGES)?;
        let pages = backup.progress();
        let count = |n: i32| u64::from(n.unsigned_abs());
        progress(Progress::Copied(
            count(pages.pagecount - pages.remaining),
            count(pages.pagecount),
        ));
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => {
                return Err(unusable(
                    from,
                    "cannot be read",
                    &"another process holds it locked",
                ));
            }
        }
    }
}

/// The database with its log folded in, and set to have none.
fn single_file(path: &Path) -> Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Then no file is needed that other connections would share.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    Ok(connection)
}

/// The index of an OpenMemory server knows nothing of what was stored there
/// since the backup. Empty, it is rebuilt from the server at the next start.
fn forget_index(db: &Connection) -> Result<()> {
    db.execute_batch(
        "BEGIN; DELETE FROM record_index; DELETE FROM record_index_state WHERE caller = ''; COMMIT",
    )?;
    Ok(())
}

fn copy_bytes(from: &Path, to: &Path, progress: &mut impl FnMut(Progress)) -> Result<()> {
    let unreadable = |e: std::io::Error| unusable(from, "cannot be read", &e);
    let unwritable = |e: std::io::Error| unusable(to, "cannot be written", &e);
    let mut source = File::open(from).map_err(unreadable)?;
    let total = source.metadata().map_err(unreadable)?.len();
    let mut target = super::private_file(to).map_err(unwritable)?;
    target.set_len(0).map_err(unwritable)?;
    let mut buffer = vec![0; BYTES];
    let mut copied = 0;
    loop {
        let count = source.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            return Ok(());
        }
        target.write_all(&buffer[..count]).map_err(unwritable)?;
        copied += count as u64;
        progress(Progress::Copied(copied, total.max(copied)));
    }
}

/// Renames the database and its log; where the database is then.
fn set_aside(database: &Path) -> Result<Option<PathBuf>> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let kept = sibling(database, &format!(".replaced-{now}"));
    let mut moved = false;
    for suffix in ["", "-wal"] {
        let from = sibling(database, suffix);
        match rename_new(&from, &sibling(&kept, suffix)) {
            Ok(()) => moved = true,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(unusable(&from, "cannot be renamed", &e)),
        }
    }
    // SQLite builds it anew from the log.
    let _ = fs::remove_file(sibling(database, "-shm"));
    Ok(moved.then_some(kept))
}

/// A file that is being made. Removed unless it [becomes](Self::become_file)
/// what it is made for.
struct Partial {
    path: PathBuf,
    /// Held as a lock: two at a time would write into each other.
    file: File,
}

impl Partial {
    /// Made beside the file that it is to become, with a suffix of its own.
    fn create(target: &Path, suffix: &str) -> Result<Self> {
        let path = sibling(target, suffix);
        let unwritable = |e: std::io::Error| unusable(target, "cannot be written", &e);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(unwritable)?;
        if file.try_lock().is_err() {
            return Err(unusable(
                target,
                "cannot be written",
                &"another process does so",
            ));
        }
        // Another attempt was broken off.
        file.set_len(0).map_err(unwritable)?;
        Ok(Self { path, file })
    }

    /// Once this returns, the file has survived a power loss.
    fn become_file(self, path: &Path, replace: bool) -> Result<()> {
        let unwritable = |e: std::io::Error| unusable(path, "cannot be written", &e);
        self.file.sync_all().map_err(unwritable)?;
        if replace {
            fs::rename(&self.path, path).map_err(unwritable)?;
        } else {
            rename_new(&self.path, path).map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists => already_there(path),
                _ => unwritable(e),
            })?;
        }
        let folder = File::open(folder_of(path)).map_err(unwritable)?;
        folder.sync_all().map_err(unwritable)
    }
}

impl Drop for Partial {
    /// After it has become what it was made for, nothing has this name.
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let _ = fs::remove_file(sibling(&self.path, suffix));
        }
    }
}

/// Renames without ever replacing a file.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems cannot.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if to.exists() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        other => Ok(other?),
    }
}

/// An operator restores as root; the service runs as another user.
fn give_to_owner_of_folder(path: &Path) -> Result<()> {
    let given = folder_of(path).metadata().and_then(|owner| {
        let file = path.metadata()?;
        if (owner.uid(), owner.gid()) == (file.uid(), file.gid()) || file.uid() != 0 {
            return Ok(());
        }
        chown(path, Some(owner.uid()), Some(owner.gid()))
    });
    given.map_err(|e| unusable(path, "cannot be given to the service's user", &e))
}

/// Whether it is the database or one of the files that belong to it.
fn is_part_of(file: &Path, database: &Path) -> bool {
    let folder = |path: &Path| folder_of(path).canonicalize().ok();
    let name = file.file_name().map(OsStr::to_owned);
    let parts = ["", "-wal", "-shm", "-journal", ".lock", RESTORING];
    let has_its_name = parts
        .iter()
        .any(|suffix| sibling(database, suffix).file_name().map(OsStr::to_owned) == name);
    let is_linked = file
        .metadata()
        .and_then(|a| Ok((a, database.metadata()?)))
        .is_ok_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()));
    has_its_name && folder(file) == folder(database) || is_linked
}

/// A device or pipe that is replaced is gone, and one that is read has no end.
fn only_a_file(file: &Path, what: &str) -> Result<()> {
    if file.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(unusable(file, what, &"it is no regular file"));
    }
    Ok(())
}

fn already_there(file: &Path) -> StoreError {
    unusable(
        file,
        "is not overwritten",
        &"it exists; choose another name, or use --force",
    )
}

fn unusable(path: &Path, what: &str, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::File(format!("{} {what}: {why}", path.display()))
}
