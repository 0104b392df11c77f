//! `elaoms init`: the settings of a new installation, with secrets of its own.

use std::path::Path;
use std::process::ExitCode;

use secrecy::{ExposeSecret, SecretString};

use super::output::Output;
use super::setup::connect::{UNCONNECTED, new_secret};
use super::setup::env_file::EnvFile;
use crate::config::{Environment, SETTINGS_FILE};

/// Every setting, with what it is for.
const EXAMPLE: &str = include_str!("../../.env.example");

/// What somebody else gives: where to get it, and what goes without it.
const TO_ENTER: [(&str, &str); 2] = [
    (
        "ELEVENLABS_API_KEY",
        "from ElevenLabs, under API Keys; with read and write access to Agents and webhooks for `elaoms setup`",
    ),
    (
        "OPENAI_API_KEY",
        "from https://platform.openai.com/api-keys; without it callers are recognised, but not greeted",
    ),
];

pub(super) fn run(file: Option<&Path>) -> ExitCode {
    match write(file.unwrap_or(Path::new(SETTINGS_FILE))) {
        Ok(output) => output.status(true),
        Err(error) => {
            eprintln!("elaoms: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(path: &Path) -> Result<Output, String> {
    let mut file = EnvFile::open(path)?;
    let is_new = file.is_empty();
    if is_new {
        file.begin_with(EXAMPLE);
    }
    let env = match is_new {
        true => Environment::from_pairs::<String, String>([]),
        false => Environment::load(Some(path))?,
    };
    let is_missing = |name: &str| env.get(name).is_none_or(|value| value.trim().is_empty());
    let unconnected = SecretString::from(format!("{UNCONNECTED}{}", new_secret().expose_secret()));
    let made: Vec<(&str, SecretString)> = [
        ("ELEVENLABS_CLIENT_DATA_KEY", new_secret()),
        ("ELEVENLABS_SEARCH_DATA_KEY", new_secret()),
        // ElevenLabs makes the real one when the webhook is created.
        ("ELEVENLABS_POST_CALL_KEY", unconnected),
        ("ADMIN_KEY", new_secret()),
    ]
    .into_iter()
    .filter(|(name, _)| is_missing(name) && is_missing(&format!("{name}_FILE")))
    .collect();
    let lines: Vec<(&str, Option<&str>)> = made
        .iter()
        .map(|(name, value)| (*name, Some(value.expose_secret())))
        .collect();
    file.set(&lines)?;

    let mut output = Output::new();
    let shown = path.display();
    match (is_new, made.is_empty()) {
        (true, _) => writeln!(
            output,
            "{shown} is written, with secrets made for this installation."
        ),
        (false, true) => writeln!(
            output,
            "{shown} has every secret already; nothing was changed."
        ),
        (false, false) => {
            let names: Vec<&str> = made.iter().map(|(name, _)| *name).collect();
            writeln!(output, "{shown} has these now, too: {}.", names.join(", "));
        }
    }
    let missing: Vec<_> = TO_ENTER
        .iter()
        .filter(|(name, _)| is_missing(name))
        .collect();
    if !missing.is_empty() {
        writeln!(output, "\nEnter in it:");
        for (name, whence) in missing {
            writeln!(output, "  {name}: {whence}");
        }
    }
    let with = match path == Path::new(SETTINGS_FILE) {
        true => String::new(),
        false => format!("--env-file {shown} "),
    };
    writeln!(
        output,
        "\nThen start the service, with a reverse proxy for HTTPS in front of it, and connect your agents:\n\
         \n  elaoms {with}serve\n  elaoms {with}setup --url https://your.host     (choose the agents from a list, or give --agent or --all-agents)"
    );
    Ok(output)
}
