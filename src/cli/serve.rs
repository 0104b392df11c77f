//! `elaoms serve`: the service itself.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::load;
use crate::app::App;
use crate::config::Config;
use crate::telemetry;

/// How often systemd's watchdog is fed, if it watches.
const WATCHDOG: Duration = Duration::from_secs(5);

pub(super) async fn run(file: Option<&Path>) -> ExitCode {
    let config = match load(file, Config::from_env) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let _telemetry = telemetry::init(
        config.services.log_format,
        config.services.log_filter.as_deref(),
        config.services.traces.as_ref(),
    );
    for warning in &config.services.warnings {
        tracing::warn!("{warning}");
    }
    let (mut terminate, mut interrupt) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "Signals cannot be received");
            return ExitCode::FAILURE;
        }
    };
    let mut app = match App::start(config).await {
        Ok(app) => app,
        Err(error) => {
            tracing::error!("ELAOMS cannot start: {error}");
            if !tracing::enabled!(tracing::Level::ERROR) {
                eprintln!("elaoms: {error}");
            }
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(
        "Webhooks on http://{}, metrics and health on http://{}",
        app.public_addr,
        app.ops_addr
    );
    // Without systemd these do nothing.
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    let failed = watch(&mut app, &mut terminate, &mut interrupt).await;
    tracing::info!("Stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    app.stop().await;
    tracing::info!("Stopped");
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Waits for a signal (false) or the end of the service (true).
async fn watch(app: &mut App, terminate: &mut Signal, interrupt: &mut Signal) -> bool {
    loop {
        tokio::select! {
            error = app.failed() => {
                tracing::error!("{error}");
                return true;
            }
            _ = terminate.recv() => return false,
            _ = interrupt.recv() => return false,
            () = tokio::time::sleep(WATCHDOG) => {}
        }
        match app.alive() {
            Ok(()) => drop(sd_notify::notify(&[NotifyState::Watchdog])),
            // systemd ends the process when it hears nothing for a while.
            Err(stuck) => tracing::error!("The service does not get on: {stuck}"),
        }
    }
}
