//! `elaoms backup` and `elaoms restore`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use super::services;
use crate::store::{self, BackupProgress, Contents};

#[derive(Debug, Args)]
pub(super) struct BackupArguments {
    /// The file to write.
    file: PathBuf,
    /// Replace it if it exists.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArguments {
    /// A file that `elaoms backup` wrote.
    file: PathBuf,
}

pub(super) fn back_up(arguments: &BackupArguments, file: Option<&Path>) -> ExitCode {
    let services = match services(file) {
        Ok(services) => services,
        Err(code) => return code,
    };
    let Some(database) = services.database.file() else {
        return not_a_file();
    };
    let bar = Bar::new();
    let made = store::back_up(database, &arguments.file, arguments.force, |progress| {
        bar.show(progress)
    });
    bar.end();
    match made {
        Ok(contents) => {
            let mut output = Output::new();
            writeln!(
                output,
                "{} is a backup of {}, verified:",
                arguments.file.display(),
                database.display()
            );
            print(&mut output, &contents, services.openmemory.is_some());
            writeln!(
                output,
                "The archive at {} is not part of it.",
                services.archive
            );
            output.status(true)
        }
        Err(error) => failed(&error),
    }
}

pub(super) fn restore(arguments: &RestoreArguments, file: Option<&Path>) -> ExitCode {
    let services = match services(file) {
        Ok(services) => services,
        Err(code) => return code,
    };
    let Some(database) = services.database.file() else {
        return not_a_file();
    };
    let bar = Bar::new();
    let done = store::restore(&arguments.file, database, |progress| {
        bar.show(progress);
    });
    bar.end();
    match done {
        Ok(restored) => {
            let mut output = Output::new();
            writeln!(
                output,
                "{} is restored from {}, verified:",
                database.display(),
                arguments.file.display()
            );
            print(
                &mut output,
                &restored.contents,
                services.openmemory.is_some(),
            );
            if let Some(kept) = restored.kept {
                writeln!(output, "What was there before is {}.", kept.display());
            }
            output.status(true)
        }
        Err(error) => failed(&error),
    }
}

/// PostgreSQL has tools of its own.
fn not_a_file() -> ExitCode {
    eprintln!("elaoms: DATABASE_URL is a PostgreSQL database: use pg_dump and pg_restore");
    ExitCode::FAILURE
}

fn failed(error: &store::StoreError) -> ExitCode {
    eprintln!("elaoms: {error}");
    ExitCode::FAILURE
}

fn print(output: &mut Output, contents: &Contents, openmemory: bool) {
    writeln!(output, "schema version: {}", contents.schema);
    writeln!(output, "callers: {}", contents.callers);
    writeln!(output, "memories: {}", contents.memories);
    writeln!(output, "open events: {}", contents.open_events);
    writeln!(output, "dead letters: {}", contents.dead_letters);
    if openmemory {
        writeln!(
            output,
            "records of OpenMemory in the index: {}",
            contents.indexed_records
        );
        writeln!(
            output,
            "Tiers and memories are in OpenMemory: back that up as well."
        );
    }
}

/// A bar on the terminal; nothing where there is none.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{msg:10} {bar:40} {percent}%, {eta} left");
        let bar =
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    fn show(&self, progress: BackupProgress) {
        match progress {
            BackupProgress::Copied(done, all) => {
                self.0.set_message("copying");
                self.0.set_length(all);
                self.0.set_position(done);
            }
            BackupProgress::Verifying => self.0.set_message("verifying"),
        }
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}
