//! stub
use std::process::ExitCode;
use clap::Args;
#[derive(Debug, Args)]
pub(super) struct DemoArguments {}
pub(super) async fn run(_: DemoArguments) -> ExitCode { ExitCode::SUCCESS }
