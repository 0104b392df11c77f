//! The command line: one module for each subcommand.

mod admin;
mod backup;
mod caller;
mod check;
mod demo;
mod init;
mod migrate;
mod output;
mod reconcile;
mod report;
mod serve;
mod setup;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::clients::use_our_cryptography;
use crate::config::{ConfigError, Environment, SETTINGS_FILE, Services};

/// The exit status for a configuration that cannot be used (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

/// The memory of voice agents that answer telephones.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    /// Read settings from this file, not from .env in the working folder.
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer ElevenLabs' webhooks (the default).
    Serve,
    /// Show what callers would hear, on loopback, without any account.
    Demo(demo::DemoArguments),
    /// Write .env for a new installation, with secrets of its own.
    Init,
    /// Connect agents at ElevenLabs: webhooks, secrets, search tool.
    Setup(setup::SetupArguments),
    /// Try the configured services for real.
    Check(check::CheckArguments),
    /// Fetch calls whose webhook never came, or that were before.
    Reconcile(reconcile::ReconcileArguments),
    /// Calls, recognised callers, latency and spend, by day.
    Report(report::ReportArguments),
    /// Show, export, correct, erase or link a caller.
    Caller(caller::CallerArguments),
    /// Read, retry or drop what was given up.
    DeadLetters(admin::DeadLettersArguments),
    /// Show what operators did, the newest first.
    Audit(admin::AuditArguments),
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
    keep_memory_private();
    use_our_cryptography();
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
    let file = arguments.env_file.as_deref();
    let status = runtime.block_on(async {
        match arguments.command.unwrap_or(Command::Serve) {
            Command::Serve => serve::run(file).await,
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Init => init::run(file),
            Command::Setup(arguments) => setup::run(arguments, file).await,
            Command::Check(arguments) => check::run(arguments, file).await,
            Command::Reconcile(arguments) => reconcile::run(arguments, file).await,
            Command::Report(arguments) => report::run(arguments, file).await,
            Command::Caller(arguments) => caller::run(arguments, file).await,
            Command::DeadLetters(arguments) => admin::dead_letters(arguments, file).await,
            Command::Audit(arguments) => admin::audit(&arguments, file).await,
            Command::Migrate(arguments) => migrate::run(arguments, file).await,
            Command::Backup(arguments) => backup::back_up(&arguments, file),
            Command::Restore(arguments) => backup::restore(&arguments, file),
        }
    });
    // A thread that waits for a disk that hangs would be waited for for ever.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    status
}

/// Secrets and callers' words are in memory, and secrets in the environment that
/// was given to the process: neither is dumped when it crashes, nor shown to
/// other processes of the same user (`/proc/<pid>/environ`, `ptrace`).
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // Best effort: it works the same without.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
}

/// The environment, read as `settings` does. What is wrong with it is told.
fn load<T>(
    file: Option<&Path>,
    settings: impl FnOnce(&Environment) -> Result<T, ConfigError>,
) -> Result<T, ExitCode> {
    let env = Environment::load(file).map_err(|e| refuse_config(&e))?;
    settings(&env).map_err(|e| {
        let code = refuse_config(&e);
        if file.is_none() && !Path::new(SETTINGS_FILE).exists() {
            let folder = std::env::current_dir().unwrap_or_default();
            eprintln!(
                "There is no {SETTINGS_FILE} in {}: elaoms init writes one, with secrets of its own.",
                folder.display()
            );
        }
        code
    })
}

/// The settings of commands that work on the stores.
fn services(file: Option<&Path>) -> Result<Services, ExitCode> {
    load(file, Services::from_env)
}

/// Says why the configuration cannot be used.
fn refuse_config(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!(
        "elaoms: {error}\nSettings are read from the environment and from .env; .env.example explains each of them."
    );
    ExitCode::from(EXIT_CONFIG)
}
