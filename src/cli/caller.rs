//! `elaoms caller`: what operators do with callers (design, "Privacy").

use std::path::Path;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::json;

use super::admin::{self, Request};

#[derive(Debug, Args)]
pub(super) struct CallerArguments {
    #[command(subcommand)]
    what: What,
}

/// Whom it is about.
#[derive(Debug, Args)]
struct Caller {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    caller: String,
}

/// Which of a caller's numbers it is about.
#[derive(Debug, Args)]
struct Number {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    number: String,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Both tiers, and what is decided about the caller.
    Show(Caller),
    /// Who has opted out, which numbers are shared, which are linked.
    Decisions,
    /// Everything that is kept, as JSON.
    Export(Caller),
    /// Remove everything, for good, and print a receipt.
    Erase {
        #[command(flatten)]
        of: Caller,
        /// Delete the conversations at ElevenLabs as well.
        #[arg(long)]
        elevenlabs: bool,
    },
    /// Replace the name.
    Rename {
        #[command(flatten)]
        of: Caller,
        name: String,
    },
    /// Keep nothing from now on, and remove what is kept.
    OptOut(Caller),
    /// Keep what the caller says again.
    OptIn(Caller),
    /// Two numbers are one person: the first becomes another number of the second.
    Link {
        #[command(flatten)]
        number: Number,
        #[command(flatten)]
        to: Caller,
    },
    /// Part a number from its person, who keeps what is known.
    Unlink(Number),
    /// Several people use a number: say nothing personal before the name is heard.
    Share(Number),
    /// One person uses the number again.
    Unshare(Number),
}

pub(super) async fn run(arguments: CallerArguments, file: Option<&Path>) -> ExitCode {
    let path = |caller: &str, what: &str| {
        let caller = utf8_percent_encode(caller, NON_ALPHANUMERIC);
        format!("callers/{caller}{what}")
    };
    let request = match arguments.what {
        What::Show(Caller { caller }) => Request::new(Method::GET, path(&caller, "")),
        What::Decisions => Request::new(Method::GET, "callers".to_owned()),
        What::Export(Caller { caller }) => Request::new(Method::GET, path(&caller, "/export")),
        What::Erase {
            of: Caller { caller },
            elevenlabs,
        } => {
            let path = format!("{}?elevenlabs={elevenlabs}", path(&caller, ""));
            Request::new(Method::DELETE, path).must_find()
        }
        What::Rename {
            of: Caller { caller },
            name,
        } => Request::new(Method::PUT, path(&caller, "/name")).with(json!({"name": name})),
        What::OptOut(Caller { caller }) => Request::new(Method::PUT, path(&caller, "/opt-out")),
        What::OptIn(Caller { caller }) => Request::new(Method::DELETE, path(&caller, "/opt-out")),
        What::Link {
            number: Number { number },
            to: Caller { caller },
        } => Request::new(Method::PUT, path(&number, "/link")).with(json!({"caller": caller})),
        What::Unlink(Number { number }) => Request::new(Method::DELETE, path(&number, "/link")),
        What::Share(Number { number }) => Request::new(Method::PUT, path(&number, "/shared")),
        What::Unshare(Number { number }) => Request::new(Method::DELETE, path(&number, "/shared")),
    };
    admin::run(request, file).await
}
