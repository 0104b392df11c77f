//! Copies everything from one store to another, and proves it.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{CONCURRENT, MAX_SHOWN, Output, StoreName, progress};
use crate::app::openmemory_store;
use crate::config::Services;
use crate::domain::caller_id::CallerId;
use crate::store::{
    self, CallerExport, Database, DatabaseUrl, MemoryStore, OpenMemoryStore, SqliteDatabase,
    StoreError, VectorStore,
};

/// What became of one caller.
enum Outcome {
    Copied { memories: usize },
    Same,
    Failed(String),
}

/// A store that is open.
enum Opened {
    Database(Database),
    /// With the database in which its index is.
    Openmemory(Arc<OpenMemoryStore>, SqliteDatabase),
}

impl Opened {
    async fn open(name: &StoreName, services: &Services, is_target: bool) -> Result<Self, String> {
        let url = match (name, &services.database) {
            (StoreName::Openmemory, DatabaseUrl::Sqlite(file)) => {
                let (url, key) = services
                    .openmemory
                    .clone()
                    .ok_or("OPENMEMORY_PORT is not set: it says where that is")?;
                let index = SqliteDatabase::open(file).map_err(told)?;
                let store = openmemory_store(url, key, &index).map_err(|e| e.to_string())?;
                return Ok(Self::Openmemory(Arc::new(store), index));
            }
            (StoreName::Sqlite, url @ DatabaseUrl::Sqlite(_))
            | (StoreName::Postgres, url @ DatabaseUrl::Postgres(_))
            | (StoreName::Url(url), _) => url,
            _ => return Err("DATABASE_URL is another kind of database".into()),
        };
        let opened = if is_target {
            Database::open(url).await
        } else {
            Database::open_existing(url).await
        };
        opened.map(Self::Database).map_err(told)
    }

    fn memory_store(&self) -> Arc<dyn MemoryStore> {
        match self {
            Self::Database(database) => database.memory_store(),
            Self::Openmemory(store, _) => Arc::clone(store) as Arc<dyn MemoryStore>,
        }
    }

    /// The file, where it is one, which two stores cannot both hold.
    fn file(&self) -> Option<&SqliteDatabase> {
        match self {
            Self::Database(Database::Sqlite(file)) | Self::Openmemory(_, file) => Some(file),
            Self::Database(Database::Postgres(_)) => None,
        }
    }

    fn vector_store(&self) -> Arc<dyn VectorStore> {
        match self {
            Self::Database(database) => database.vector_store(),
            Self::Openmemory(_, index) => Database::Sqlite(index.clone()).vector_store(),
        }
    }

    async fn close(&self) {
        match self {
            Self::Database(database) => database.close().await,
            Self::Openmemory(_, index) => index.close().await,
        }
    }
}

fn told(error: StoreError) -> String {
    match error {
        StoreError::InUse(_) => format!("{error}; stop it before you migrate"),
        other => other.to_string(),
    }
}

/// Copies and verifies; false if anything failed.
pub(super) async fn run(
    from: &StoreName,
    to: &StoreName,
    services: &Services,
    dry_run: bool,
    output: &mut Output,
) -> Result<bool, String> {
    let (source, target) = open_both(from, to, services).await?;
    let done = copy_all(&source, &target, dry_run, output).await;
    source.close().await;
    target.close().await;
    done
}

/// Between OpenMemory and the file that holds its index, one is opened once.
async fn open_both(
    from: &StoreName,
    to: &StoreName,
    services: &Services,
) -> Result<(Opened, Opened), String> {
    use StoreName::{Openmemory, Sqlite};
    match (from, to) {
        (Sqlite, Sqlite) | (Openmemory, Openmemory) => {
            Err("--from and --to name the same store".into())
        }
        (Openmemory, Sqlite) | (Sqlite, Openmemory) => {
            let openmemory = Opened::open(&Openmemory, services, false).await?;
            let Some(file) = openmemory.file().cloned() else {
                return Err("DATABASE_URL is another kind of database".into());
            };
            let file = Opened::Database(Database::Sqlite(file));
            Ok(match from {
                Openmemory => (openmemory, file),
                _ => (file, openmemory),
            })
        }
        _ => {
            let source = Opened::open(from, services, false).await?;
            Ok((source, Opened::open(to, services, true).await?))
        }
    }
}

async fn copy_all(
    from: &Opened,
    to: &Opened,
    dry_run: bool,
    output: &mut Output,
) -> Result<bool, String> {
    let (source, target) = (from.memory_store(), to.memory_store());
    let (source, target) = (&*source, &*target);
    writeln!(
        output,
        "From {} to {}",
        source.describe().await,
        target.describe().await
    );
    if let (
        Opened::Database(Database::Sqlite(file)),
        Opened::Database(Database::Postgres(server)),
        false,
    ) = (from, to, dry_run)
    {
        let moved = store::move_ledger(file, server).await.map_err(told)?;
        writeln!(
            output,
            "events of the inbox: {}, entries of the audit log: {}, agents' profiles: {}",
            moved.events, moved.audit, moved.agents
        );
    }
    let callers = source.callers().await.map_err(|e| e.to_string())?;
    let bar = progress(callers.len());
    let outcomes: Vec<(&CallerId, Outcome)> = stream::iter(&callers)
        .map(async |caller| {
            let outcome = copy(source, target, caller, dry_run)
                .await
                .unwrap_or_else(Outcome::Failed);
            bar.inc(1);
            (caller, outcome)
        })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await;
    bar.finish_and_clear();
    if !dry_run {
        to.vector_store().forget_kind().await.map_err(told)?;
    }

    let (mut copied, mut same, mut memories, mut failed) = (0, 0, 0, Vec::new());
    for (caller, outcome) in outcomes {
        match outcome {
            Outcome::Copied { memories: count } => {
                copied += 1;
                memories += count;
            }
            Outcome::Same => same += 1,
            Outcome::Failed(why) => failed.push(format!("{}: {why}", caller.as_str())),
        }
    }
    let would = if dry_run {
        "would be copied"
    } else {
        "copied and verified"
    };
    writeln!(output, "callers read: {}", callers.len());
    writeln!(output, "{would}: {copied}, with {memories} memories");
    writeln!(output, "the same already: {same}");
    writeln!(output, "failed: {}", failed.len());
    for failure in failed.iter().take(MAX_SHOWN) {
        writeln!(output, "  {failure}");
    }
    Ok(failed.is_empty() && copied + same == callers.len())
}

/// Copies one caller and reads it back.
async fn copy(
    source: &dyn MemoryStore,
    target: &dyn MemoryStore,
    caller: &CallerId,
    dry_run: bool,
) -> Result<Outcome, String> {
    let failed = |e: crate::store::StoreError| e.to_string();
    let read = source
        .export(caller)
        .await
        .map_err(failed)?
        .ok_or("it vanished from the source")?;
    let there = target.export(caller).await.map_err(failed)?;
    if let Some(there) = there {
        // Calls were learned there since: copying would undo them.
        if there.profile.total_interactions > read.profile.total_interactions {
            return Ok(Outcome::Failed(
                "the target knows newer calls; it is left alone".into(),
            ));
        }
        if matches(there, &read) {
            return Ok(Outcome::Same);
        }
    }
    let memories = read.memories.len();
    if dry_run {
        return Ok(Outcome::Copied { memories });
    }
    target.import(&read).await.map_err(failed)?;
    let back = target
        .export(caller)
        .await
        .map_err(failed)?
        .ok_or("it cannot be read back")?;
    if back.memories.len() < memories {
        return Err(format!(
            "{memories} memories were read, {} can be read back",
            back.memories.len()
        ));
    }
    if !matches(back, &read) {
        return Err("what can be read back differs from what was read".into());
    }
    Ok(Outcome::Copied { memories })
}

/// Whether everything that was read is there.
fn matches(mut there: CallerExport, read: &CallerExport) -> bool {
    there.keep_memories_of(read);
    there.checksum() == read.checksum()
}
