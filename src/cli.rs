//! The command line: one module for each subcommand.

mod backup;
mod check;
mod demo;
mod migrate;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// The exit status for a configuration that cannot be used (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

/// The memory of voice agents that answer telephones.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer ElevenLabs' webhooks (the default).
    Serve,
    /// Show what callers would hear, on loopback, without any account.
    Demo(demo::DemoArguments),
    /// Try the configured services for real.
    Check(check::CheckArguments),
    /// Turn legacy profiles into Tier 1, or copy everything to another store.
    Migrate(migrate::MigrateArguments),
    /// Copy the database to a file, while the service runs or not.
    Backup(backup::BackupArguments),
    /// Put a backup in the place of the database; the service must be stopped.
    Restore(backup::RestoreArguments),
}

/// How long threads may take to end after everything else has.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("elaoms: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(async {
        match arguments.command.unwrap_or(Command::Serve) {
            Command::Serve => serve::run().await,
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Check(arguments) => check::run(arguments).await,
            Command::Migrate(arguments) => migrate::run(arguments).await,
            Command::Backup(arguments) => backup::back_up(&arguments),
            Command::Restore(arguments) => backup::restore(&arguments),
        }
    });
    // A thread that waits for a disk that hangs would be waited for for ever.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    status
}

/// Says why the configuration cannot be used.
fn refuse_config(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!(
        "elaoms: {error}\nSettings are read from the environment and from .env; .env.example explains each of them."
    );
    ExitCode::from(EXIT_CONFIG)
}
