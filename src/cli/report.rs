//! `elaoms report`: what the last days brought, and what they cost.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::admin::{Operations, Request};
use super::output::Output;
use super::services;

#[derive(Debug, Args)]
pub(super) struct ReportArguments {
    /// How many days, today included: 7d.
    #[arg(long, default_value = "7d", value_parser = parse_days)]
    since: u16,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_days(text: &str) -> Result<u16, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    days.filter(|days| (1..=1_000).contains(days))
        .ok_or_else(|| "1d to 1000d is expected".to_owned())
}

pub(super) async fn run(arguments: ReportArguments, file: Option<&Path>) -> ExitCode {
    let services = match services(file) {
        Ok(services) => services,
        Err(code) => return code,
    };
    let asked = async {
        let operations = Operations::of(&services).await?;
        let path = format!("report?days={}", arguments.since);
        let report = operations.send(Request::new(Method::GET, path)).await;
        operations.close().await;
        report
    };
    let report = match asked.await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("elaoms: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut output = Output::new();
    if arguments.json {
        writeln!(output, "{report:#}");
        return output.status(true);
    }
    writeln!(
        output,
        "{:10}  {:>8}  {:>10}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>10}  {:>10}",
        "day (UTC)",
        "rings",
        "recognised",
        "greeted",
        "p95 ms",
        "p99 ms",
        "calls",
        "made",
        "tokens",
        "cost $"
    );
    for day in report["days"].as_array().into_iter().flatten() {
        line(
            &mut output,
            day["day"].as_str().unwrap_or("?"),
            &day["report"],
        );
    }
    line(&mut output, "all", &report["all"]);
    writeln!(
        output,
        "\nrecognised: callers who were known; greeted: with a greeting made for them; made: greetings that OpenAI \
         wrote.\nThe cost is an estimate: OpenAI's list prices of {}, or OPENAI_PRICES.",
        report["prices_as_of"].as_str().unwrap_or("?")
    );
    output.status(true)
}

fn line(output: &mut Output, day: &str, report: &Value) {
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    let time = |name: &str| {
        report[name]
            .as_f64()
            .map_or("-".to_owned(), |ms| format!("{ms}"))
    };
    writeln!(
        output,
        "{day:10}  {:>8}  {:>10}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>10}  {:>10.4}",
        number("rings"),
        number("recognised"),
        number("greeted"),
        time("ring_p95_ms"),
        time("ring_p99_ms"),
        number("calls"),
        number("greetings"),
        number("prompt_tokens") + number("completion_tokens"),
        report["cost_usd"].as_f64().unwrap_or_default(),
    );
}
