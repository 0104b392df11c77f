//! `elaoms migrate`: the way over from the legacy system (guide, Phase 3), and
//! from one store to another.
//!
//! Both can be broken off and run again: what is there already stays.

mod copy;
mod numbers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use super::{refuse_config, services};
use crate::app::openmemory_store;
use crate::domain::caller_id::CallerId;
use crate::domain::legacy::LegacyProfile;
use crate::store::{
    Adopted, Database, DatabaseUrl, MemoryStore, OpenMemoryStore, SqliteDatabase, StoreError,
};

/// Callers worked on at a time.
const CONCURRENT: usize = 8;
/// Most failures printed one by one.
const MAX_SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct MigrateArguments {
    /// Callers whose legacy profiles become Tier 1.
    numbers: Vec<String>,
    /// A file with callers: one a line, or a CSV with a column phone_number.
    #[arg(long, conflicts_with_all = ["all", "from"])]
    file: Option<PathBuf>,
    /// Every caller with legacy memories.
    #[arg(long, conflicts_with_all = ["numbers", "from"])]
    all: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Copy everything from this store: sqlite, postgres (DATABASE_URL),
    /// openmemory (OPENMEMORY_PORT), or a URL as in DATABASE_URL …
    #[arg(long, requires = "to", conflicts_with = "numbers")]
    from: Option<StoreName>,
    /// … to this one.
    #[arg(long, requires = "from")]
    to: Option<StoreName>,
}

/// A store, as it is named on the command line.
#[derive(Debug, Clone)]
enum StoreName {
    /// `DATABASE_URL`, which has to be such a file.
    Sqlite,
    /// `DATABASE_URL`, which has to be such a server.
    Postgres,
    /// `OPENMEMORY_PORT`
    Openmemory,
    Url(DatabaseUrl),
}

impl FromStr for StoreName {
    type Err = &'static str;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" => Ok(Self::Postgres),
            "openmemory" => Ok(Self::Openmemory),
            url => DatabaseUrl::parse(url).map(Self::Url).ok_or(
                "sqlite, postgres, openmemory, sqlite://path/to/file.db or postgres://… is expected",
            ),
        }
    }
}

pub(super) async fn run(arguments: MigrateArguments, file: Option<&Path>) -> ExitCode {
    let services = match services(file) {
        Ok(services) => services,
        Err(code) => return code,
    };
    if let (Some(from), Some(to)) = (&arguments.from, &arguments.to) {
        let mut output = Output::new();
        return match copy::run(from, to, &services, arguments.dry_run, &mut output).await {
            Ok(complete) => output.status(complete),
            Err(error) => {
                eprintln!("elaoms: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let Some((url, key)) = services.openmemory.clone() else {
        return refuse_config(&"OPENMEMORY_PORT is not set: it says where the legacy data is");
    };
    let Some(file) = services.database.file() else {
        return refuse_config(&"migrate works with DATABASE_URL=sqlite://…");
    };
    let opened = SqliteDatabase::open(file).and_then(|database| {
        let store = openmemory_store(url, key, &database)
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        Ok((database, store))
    });
    let (database, openmemory) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!(
                "elaoms: {error}\nStop the service before you migrate: it holds the database."
            );
            return ExitCode::FAILURE;
        }
    };
    let mut output = Output::new();
    let done = legacy(&arguments, &openmemory, &mut output).await;
    let vectors = Database::Sqlite(database.clone()).vector_store();
    let done = match (done, vectors.forget_kind().await) {
        (Ok(_), Err(error)) => Err(error.to_string()),
        (done, _) => done,
    };
    database.close().await;
    match done {
        Ok(complete) => output.status(complete),
        Err(error) => {
            eprintln!("elaoms: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What became of one caller.
enum Outcome {
    Migrated { named: bool },
    Merged,
    AlreadyThere,
    Failed(String),
}

/// The sum of all outcomes.
#[derive(Default)]
struct Summary {
    migrated: usize,
    unnamed: usize,
    merged: usize,
    already_there: usize,
    without_memories: usize,
    unreadable: usize,
    failed: Vec<String>,
}

impl Summary {
    fn add(&mut self, caller: &CallerId, outcome: Outcome) {
        match outcome {
            Outcome::Migrated { named } => {
                self.migrated += 1;
                self.unnamed += usize::from(!named);
            }
            Outcome::Merged => self.merged += 1,
            Outcome::AlreadyThere => self.already_there += 1,
            Outcome::Failed(why) => self.failed.push(format!("{}: {why}", caller.as_str())),
        }
    }

    fn print(&self, output: &mut Output, dry_run: bool) {
        let would = if dry_run {
            "would be migrated"
        } else {
            "migrated"
        };
        writeln!(
            output,
            "{would}: {} (of these without a name: {})",
            self.migrated, self.unnamed
        );
        writeln!(
            output,
            "merged into a Tier 1 that was there: {}",
            self.merged
        );
        writeln!(output, "already there: {}", self.already_there);
        writeln!(output, "without legacy memories: {}", self.without_memories);
        writeln!(output, "not a caller id: {}", self.unreadable);
        writeln!(output, "failed: {}", self.failed.len());
        for failure in self.failed.iter().take(MAX_SHOWN) {
            writeln!(output, "  {failure}");
        }
        if self.failed.len() > MAX_SHOWN {
            writeln!(output, "  … and {} more", self.failed.len() - MAX_SHOWN);
        }
    }
}

async fn legacy(
    arguments: &MigrateArguments,
    store: &OpenMemoryStore,
    output: &mut Output,
) -> Result<bool, String> {
    let mut summary = Summary::default();
    let wanted = if arguments.all {
        None
    } else {
        let given = numbers::read(&arguments.numbers, arguments.file.as_deref())?;
        if given.callers.is_empty() && given.unreadable == 0 {
            return Err("nothing to do: name callers, or use --file or --all".into());
        }
        summary.unreadable = given.unreadable;
        Some(given.callers)
    };
    writeln!(
        output,
        "Legacy memories are read from {}",
        store.describe().await
    );
    let found = store
        .legacy_profiles(wanted.as_deref())
        .await
        .map_err(|e| e.to_string())?;
    if let Some(wanted) = &wanted {
        summary.without_memories = wanted.len() - found.len();
    }
    let bar = progress(found.len());
    let outcomes: Vec<(CallerId, Outcome)> = stream::iter(&found)
        .map(async |legacy| {
            let outcome = adopt(store, legacy, arguments.dry_run).await;
            bar.inc(1);
            (legacy.profile.phone_number.clone(), outcome)
        })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await;
    bar.finish_and_clear();
    for (caller, outcome) in outcomes {
        summary.add(&caller, outcome);
    }
    summary.print(output, arguments.dry_run);
    Ok(summary.failed.is_empty() && summary.unreadable == 0)
}

async fn adopt(store: &OpenMemoryStore, legacy: &LegacyProfile, dry_run: bool) -> Outcome {
    let named = legacy.profile.name.is_some();
    match store.adopt(legacy, dry_run).await {
        Ok(Adopted::New) => Outcome::Migrated { named },
        Ok(Adopted::Merged) => Outcome::Merged,
        Ok(Adopted::AlreadyThere) => Outcome::AlreadyThere,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// A bar on the terminal; nothing where there is none.
fn progress(total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} callers, {eta} left");
    ProgressBar::new(total as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
