//! `elaoms reconcile`: fetches calls whose webhook never came, or that were before
//! ELAOMS was.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use super::admin::{Operations, Request};
use super::output::Output;
use super::services;

/// Between two looks at how far it is.
const POLL: Duration = Duration::from_millis(300);
/// The steps of the progress bar.
const STEPS: u64 = 1_000;
/// Looks that may fail in a row before it is given up: the service may restart.
const PATIENCE: u32 = 20;

#[derive(Debug, Args)]
pub(super) struct ReconcileArguments {
    /// How far back: 24h, 7d, 365d; or a time such as 2026-01-31T00:00:00Z.
    #[arg(long, default_value = "24h", value_parser = parse_since)]
    since: Timestamp,
    /// Of this agent alone.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Of this caller alone: calls since ELAOMS answers their rings.
    #[arg(long, value_name = "NUMBER")]
    caller: Option<String>,
    /// Count what is missing, and fetch nothing.
    #[arg(long)]
    dry_run: bool,
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: i64 = number.parse().ok().filter(|number| *number >= 0)?;
        let hours = match unit {
            "h" => number,
            "d" => number.checked_mul(24)?,
            "w" => number.checked_mul(7 * 24)?,
            _ => return None,
        };
        let ago = SignedDuration::try_from_hours(hours)?;
        Timestamp::now().checked_sub(ago).ok()
    };
    ago()
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "24h, 7d, 4w or a time such as 2026-01-31T00:00:00Z is expected".to_owned())
}

pub(super) async fn run(arguments: ReconcileArguments, file: Option<&Path>) -> ExitCode {
    let services = match services(file) {
        Ok(services) => services,
        Err(code) => return code,
    };
    let operations = match Operations::of(&services).await {
        Ok(operations) => operations,
        Err(error) => return failed(&error),
    };
    let is_own = operations.is_own();
    let ended = follow(&arguments, &operations).await;
    operations.close().await;
    match ended {
        Ok(progress) => report(&progress, is_own),
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("elaoms: {error}");
    ExitCode::FAILURE
}

/// Begins the look, and follows it to its end.
async fn follow(arguments: &ReconcileArguments, operations: &Operations) -> Result<Value, String> {
    let wanted = json!({"since": arguments.since, "agent": arguments.agent, "caller": arguments.caller,
        "dry_run": arguments.dry_run});
    let route = || "reconcile".to_owned();
    operations
        .send(Request::new(Method::POST, route()).with(wanted))
        .await?;
    let bar = ProgressBar::new(STEPS);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}") {
        bar.set_style(style);
    }
    let mut failures = 0;
    loop {
        tokio::time::sleep(POLL).await;
        let progress = match operations.send(Request::new(Method::GET, route())).await {
            Ok(progress) => progress,
            Err(_) if failures < PATIENCE => {
                failures += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        failures = 0;
        bar.set_position(done(&progress));
        bar.set_message(format!(
            "{} calls, {} fetched",
            progress["listed"], progress["fetched"]
        ));
        if progress["state"] != "running" {
            bar.finish_and_clear();
            return Ok(progress);
        }
    }
}

/// How much of the time that is looked at is done, in steps.
fn done(progress: &Value) -> u64 {
    let seconds = |name: &str| -> Option<i64> {
        let time: Timestamp = progress[name].as_str()?.parse().ok()?;
        Some(time.as_second())
    };
    let share = || {
        let (since, until) = (seconds("since")?, seconds("until")?);
        let reached = seconds("reached")?;
        let whole = u64::try_from(until - since).ok()?.max(1);
        Some(u64::try_from(reached - since).ok()? * STEPS / whole)
    };
    share().unwrap_or_default()
}

fn report(progress: &Value, is_own: bool) -> ExitCode {
    let mut output = Output::new();
    let number = |name: &str| progress[name].as_u64().unwrap_or_default();
    let is_dry = progress["dry_run"] == true;
    let is_done = progress["state"] == "done";
    if !is_done && number("listed") == 0 {
        let error = progress["error"]
            .as_str()
            .unwrap_or("it was broken off by a restart");
        eprintln!("elaoms: {error}");
        return output.status(false);
    }
    writeln!(
        output,
        "{} calls of {} agents since {}: {} were known, {} {}.",
        number("listed"),
        number("agents"),
        progress["since"].as_str().unwrap_or("?"),
        number("known"),
        number("fetched"),
        if is_dry {
            "are missing"
        } else {
            "were missing and are fetched"
        },
    );
    for (name, what) in [
        (
            "not_yet",
            "are not over or not transcribed yet: they are for the next time",
        ),
        (
            "unwanted",
            "are of callers who opted out or were erased since: nothing of them is kept",
        ),
        ("lost", "cannot be fetched any more"),
    ] {
        if number(name) > 0 {
            writeln!(output, "{} {what}.", number(name));
        }
    }
    for call in progress["lost_calls"].as_array().into_iter().flatten() {
        let text = |name: &str| call[name].as_str().unwrap_or("?");
        writeln!(output, "  {}: {}", text("conversation_id"), text("reason"));
    }
    for remark in progress["remarks"].as_array().into_iter().flatten() {
        writeln!(output, "Note: {}.", remark.as_str().unwrap_or_default());
    }
    if is_own && number("fetched") > 0 && !is_dry {
        writeln!(
            output,
            "No service runs: they are learned when it is started."
        );
    }
    if !is_done {
        let error = progress["error"]
            .as_str()
            .unwrap_or("it was broken off by a restart");
        eprintln!("elaoms: {error}\nRun it again: it goes on where it was.");
    }
    output.status(is_done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_look_back_is_read() {
        let ago = |text: &str| {
            let since = parse_since(text).unwrap();
            Timestamp::now().duration_since(since).as_secs() / 3600
        };
        assert_eq!(
            (ago("24h"), ago("365d"), ago("2w")),
            (24, 365 * 24, 14 * 24)
        );
        assert!(parse_since("2026-01-31T00:00:00Z").is_ok());
        for wrong in ["", "h", "-1d", "24", "yesterday", "99999999999999d", "1é"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }
}
