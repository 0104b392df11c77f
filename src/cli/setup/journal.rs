//! What set-up has done at ElevenLabs: written before it is done, so that a run
//! that was broken off can be completed, and all of it be undone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::env_file::write_private;
use crate::domain::connection::{Change, Scope};

/// Beside the file with the settings.
pub(super) const FILE: &str = ".elaoms-setup.json";

/// What was done. Secrets are in it as digests only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// Every webhook of ours that agents may refer to, and addresses we had.
    pub ours: BTreeSet<String>,
    /// Webhooks that we made, or replaced: one that was there before, and is used, is not
    /// deleted with the rest.
    pub made_webhooks: BTreeSet<String>,
    /// Webhooks of ours that others have replaced, to be deleted.
    pub retired: BTreeSet<String>,
    /// Where the webhooks are attached.
    pub scope: Option<Scope>,
    /// The webhook that is being replaced: retired once the settings name another.
    pub replacing: Option<String>,
    /// Since when secrets are being changed, with the webhook from before: a run that
    /// was broken off is completed, and makes no further ones.
    pub rotating: Option<Rotation>,
    /// Whether the retries of the present webhook were switched on.
    pub retries_on: bool,
    /// The workspace's secrets, by what they are for.
    pub secrets: BTreeMap<String, KnownSecret>,
    pub tool: Option<KnownTool>,
    /// What was changed of each agent, or `agent/branch`, with what was before.
    pub agents: BTreeMap<String, Vec<Change>>,
    /// What was changed of the workspace's settings.
    pub workspace: Vec<Change>,
    /// What is being made: it may be there, though nobody has its id.
    pub making: BTreeSet<String>,
    /// Digests of secrets that others have replaced, with when that was (seconds
    /// since 1970).
    pub superseded: BTreeMap<String, i64>,
}

/// Secrets are being changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Rotation {
    /// The webhook whose secret is replaced.
    pub from: Option<String>,
    /// Digests of the keys that are replaced, by what they are for.
    pub from_keys: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KnownSecret {
    pub id: String,
    pub name: String,
    /// Of the value that ElevenLabs has.
    pub digest: String,
    /// Whether we made it.
    pub created: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KnownTool {
    pub id: String,
    pub created: bool,
    /// What it was before we changed it, if it was not ours.
    pub before: Option<Value>,
}

impl Record {
    /// Notes what is about to change. What was before the first change stays.
    pub fn remember(known: &mut Vec<Change>, changes: &[Change]) {
        for change in changes {
            match known.iter_mut().find(|known| known.path == change.path) {
                Some(known) => known.after = change.after.clone(),
                None => known.push(change.clone()),
            }
        }
    }
}

/// The record, kept in a file.
pub(super) struct Journal {
    path: PathBuf,
    saved: Record,
    pub record: Record,
}

impl Journal {
    /// # Errors
    /// If there is one that cannot be read.
    pub fn open(path: &Path) -> Result<Self, String> {
        let unreadable = |why: &dyn std::fmt::Display| {
            format!(
                "{} cannot be read: {why}\nIt tells what was set up; without it nothing can be undone. Correct it, or \
                 remove it to start anew.",
                path.display()
            )
        };
        let record = match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| unreadable(&e))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => return Err(unreadable(&error)),
        };
        Ok(Self {
            path: path.to_owned(),
            saved: record.clone(),
            record,
        })
    }

    /// Makes it durable, if it has changed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&mut self) -> Result<(), String> {
        if self.record == self.saved {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&self.record).map_err(|e| e.to_string())?;
        write_private(&self.path, &text)
            .map_err(|error| format!("{} cannot be written: {error}", self.path.display()))?;
        self.saved = self.record.clone();
        Ok(())
    }

    /// Nothing of it is there any more.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&mut self) -> Result<(), String> {
        self.record = Record::default();
        self.saved = Record::default();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!(
                "{} cannot be removed: {error}",
                self.path.display()
            )),
            _ => Ok(()),
        }
    }
}

/// What tells a secret from another without telling it.
pub(super) fn digest(secret: &[u8]) -> String {
    hex::encode(&Sha256::digest(secret)[..12])
}
