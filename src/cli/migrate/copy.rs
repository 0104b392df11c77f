//! Copies everything from one store to another, and proves it.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{CONCURRENT, MAX_SHOWN, Output, StoreName, progress};
use crate::domain::caller_id::CallerId;
use crate::store::{CallerExport, MemoryStore, OpenMemoryStore, SqliteDatabase, SqliteMemoryStore};

/// What became of one caller.
enum Outcome {
    Copied { memories: usize },
    Same,
    Failed(String),
}

/// Copies and verifies; false if anything failed.
pub(super) async fn run(
    from: StoreName,
    to: StoreName,
    database: &SqliteDatabase,
    openmemory: OpenMemoryStore,
    dry_run: bool,
    output: &mut Output,
) -> Result<bool, String> {
    if from == to {
        return Err("--from and --to name the same store".into());
    }
    let openmemory: Arc<dyn MemoryStore> = Arc::new(openmemory);
    let sqlite: Arc<dyn MemoryStore> = Arc::new(SqliteMemoryStore::new(database.clone()));
    let store = |name| match name {
        StoreName::Sqlite => &*sqlite,
        StoreName::Openmemory => &*openmemory,
    };
    let (source, target) = (store(from), store(to));
    writeln!(
        output,
        "From {} to {}",
        source.describe().await,
        target.describe().await
    );
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
