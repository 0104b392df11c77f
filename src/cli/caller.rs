//! `elaoms caller`: what operators do with callers (design, "Privacy").

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

#[derive(Debug, Subcommand)]
enum What {
    /// Both tiers, and what is decided about the caller.
    Show {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        caller: String,
    },
    /// Who has opted out, which numbers are shared, which are linked.
    Decisions,
    /// Everything that is kept, as JSON.
    Export {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        caller: String,
    },
    /// Remove everything, for good, and print a receipt.
    Erase {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        caller: String,
        /// Delete the conversations at ElevenLabs as well.
        #[arg(long)]
        elevenlabs: bool,
    },
    /// Replace the name.
    Rename {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        caller: String,
        name: String,
    },
    /// Keep nothing from now on, and remove what is kept.
    OptOut {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        caller: String,
    },
    /// Keep what the caller says again.
    OptIn {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        caller: String,
    },
    /// Two numbers are one person: the first becomes another number of the second.
    Link {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        number: String,
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        caller: String,
    },
    /// Part a number from its person, who keeps what is known.
    Unlink {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        number: String,
    },
    /// Several people use a number: say nothing personal before the name is heard.
    Share {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        number: String,
    },
    /// One person uses the number again.
    Unshare {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        number: String,
    },
}

pub(super) async fn run(arguments: CallerArguments) -> ExitCode {
    let path = |caller: &str, what: &str| {
        let caller = utf8_percent_encode(caller, NON_ALPHANUMERIC);
        format!("callers/{caller}{what}")
    };
    let request = match arguments.what {
        What::Show { caller } => Request::new(Method::GET, path(&caller, "")),
        What::Decisions => Request::new(Method::GET, "callers".to_owned()),
        What::Export { caller } => Request::new(Method::GET, path(&caller, "/export")),
        What::Erase { caller, elevenlabs } => {
            let path = format!("{}?elevenlabs={elevenlabs}", path(&caller, ""));
            Request::new(Method::DELETE, path).must_find()
        }
        What::Rename { caller, name } => {
            Request::new(Method::PUT, path(&caller, "/name")).with(json!({"name": name}))
        }
        What::OptOut { caller } => Request::new(Method::PUT, path(&caller, "/opt-out")),
        What::OptIn { caller } => Request::new(Method::DELETE, path(&caller, "/opt-out")),
        What::Link { number, caller } => {
            Request::new(Method::PUT, path(&number, "/link")).with(json!({"caller": caller}))
        }
        What::Unlink { number } => Request::new(Method::DELETE, path(&number, "/link")),
        What::Share { number } => Request::new(Method::PUT, path(&number, "/shared")),
        What::Unshare { number } => Request::new(Method::DELETE, path(&number, "/shared")),
    };
    admin::run(request).await
}
