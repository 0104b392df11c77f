//! Our own secrets: made, written to the settings, told to the service, and removed
//! when others have replaced them.

use jiff::Timestamp;
use rand::distr::{Alphanumeric, SampleString};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{OLD_SECRETS_LAST, Options};
use crate::cli::admin::Request;
use crate::cli::setup::journal::{Record, digest};
use crate::cli::setup::probe::Probe;
use crate::cli::setup::targets::Target;
use crate::cli::setup::{Outcome, Session, Trouble};
use crate::domain::connection::PublicUrl;
use crate::secrets::Secrets;

impl Session {
    /// Secrets that are missing, or to be changed, are made and written down
    /// before anybody uses them.
    pub(super) async fn make_secrets(&mut self, options: &Options) -> Outcome<()> {
        let made = |known: &Secrets| -> Option<SecretString> {
            (options.rotate || known.first().is_none()).then(new_secret)
        };
        let (client_data, search_data) = (
            made(&self.config.client_data_key),
            made(&self.config.search_data_key),
        );
        let mut lines: Vec<(&str, String)> = vec![("PUBLIC_URL", options.url.to_string())];
        for (name, made, known) in [
            (
                "ELEVENLABS_CLIENT_DATA_KEY",
                &client_data,
                &self.config.client_data_key,
            ),
            (
                "ELEVENLABS_SEARCH_DATA_KEY",
                &search_data,
                &self.config.search_data_key,
            ),
        ] {
            let Some(made) = made else { continue };
            self.report
                .changed(name, "made, and written to the settings");
            self.journal.record.supersede(known);
            lines.push((name, with_old(made, known)));
        }
        self.write_settings(&lines)?;
        let first = |made: Option<SecretString>, known: &Secrets| {
            made.or_else(|| known.first().cloned()).unwrap_or_default()
        };
        self.client_data_key = first(client_data, &self.config.client_data_key);
        self.search_data_key = first(search_data, &self.config.search_data_key);
        self.tell_keys(None).await
    }

    /// Our address answers, with the secrets and not without.
    pub(super) async fn reach(&mut self, options: &Options, targets: &[Target]) -> Outcome<()> {
        let agent = targets.first().map_or("", |target| target.agent.as_str());
        let probe = Probe::new(&options.url)?;
        let mut reached = probe.client_data(agent, &self.client_data_key).await;
        if reached.is_ok() && options.search {
            reached = probe.search_data(agent, &self.search_data_key).await;
        }
        match reached {
            Ok(()) => {
                let how = "answers with the key, and refuses without";
                self.report.kept(options.url.to_string(), how);
                Ok(())
            }
            Err((reason, remedy)) if self.dry_run => {
                self.report
                    .warn(options.url.to_string(), format!("{reason}\n{remedy}"));
                Ok(())
            }
            Err((reason, remedy)) => Err(Trouble::new(reason, remedy)),
        }
    }

    pub(super) fn write_settings(&mut self, lines: &[(&str, String)]) -> Outcome<()> {
        if self.dry_run {
            return Ok(());
        }
        let lines: Vec<(&str, Option<&str>)> = lines
            .iter()
            .map(|(name, value)| (*name, Some(value.as_str())))
            .collect();
        // First what was superseded: in the other order it could be forgotten.
        self.journal.save()?;
        Ok(self.env_file.set(&lines)?)
    }

    /// Has the running service take the secrets that are used from now on. If there
    /// is none here, or it cannot be asked, the probes will tell.
    pub(super) async fn tell_keys(&mut self, post_call: Option<&SecretString>) -> Outcome<()> {
        let Some(operations) = self.operations.as_ref().filter(|_| !self.dry_run) else {
            return Ok(());
        };
        let keys = match post_call {
            Some(secret) => json!({"post_call": secret.expose_secret()}),
            None => json!({"client_data": self.client_data_key.expose_secret(),
                "search_data": self.search_data_key.expose_secret()}),
        };
        let told = Request::new(Method::POST, "keys".to_owned()).with(keys);
        if let Err(error) = operations.send(told).await {
            self.report.warn("the running service", error);
        }
        Ok(())
    }

    /// The running service watches our webhook, and fetches what never came, from now
    /// on.
    pub(in crate::cli::setup) async fn tell_place(
        &mut self,
        url: Option<&PublicUrl>,
        webhook: Option<&str>,
    ) {
        let Some(operations) = self.operations.as_ref().filter(|_| !self.dry_run) else {
            return;
        };
        let place = json!({"public_url": url.map(ToString::to_string), "webhook_id": webhook});
        let told = Request::new(Method::PUT, "connection".to_owned()).with(place);
        match operations.send(told).await {
            Ok(answer) if answer["connected"] == false => self.report.warn(
                "the running service",
                "has no ELEVENLABS_API_KEY: it cannot fetch calls that never came, nor watch the webhook",
            ),
            Ok(_) => {}
            Err(error) => self.report.warn("the running service", error),
        }
    }

    /// Secrets that were replaced some hours ago leave the settings.
    pub(super) fn forget_old_secrets(&mut self) -> Outcome<()> {
        let now = Timestamp::now().as_second();
        let record = &self.journal.record;
        if self.dry_run || record.superseded.is_empty() || !record.retired.is_empty() {
            return Ok(());
        }
        let is_old = |value: &[u8]| {
            let since = record.superseded.get(&digest(value));
            since.is_some_and(|since| now - since > OLD_SECRETS_LAST)
        };
        let mut lines = Vec::new();
        for (name, known) in [
            ("ELEVENLABS_CLIENT_DATA_KEY", &self.config.client_data_key),
            ("ELEVENLABS_SEARCH_DATA_KEY", &self.config.search_data_key),
            ("ELEVENLABS_POST_CALL_KEY", &self.config.post_call_key),
        ] {
            let kept: Vec<&[u8]> = known.values().filter(|value| !is_old(value)).collect();
            if !kept.is_empty() && kept.len() < known.values().count() {
                lines.push((
                    name,
                    String::from_utf8_lossy(&kept.join(&b',')).into_owned(),
                ));
            }
        }
        if !lines.is_empty() {
            self.write_settings(&lines)?;
            self.report.changed(
                "old secrets",
                "removed from the settings; the service forgets them when it is restarted",
            );
        }
        let record = &mut self.journal.record;
        record
            .superseded
            .retain(|_, since| now - *since <= OLD_SECRETS_LAST);
        Ok(self.journal.save()?)
    }
}

impl Record {
    /// These values are good for a while, and no longer used.
    pub(super) fn supersede(&mut self, values: &Secrets) {
        let now = Timestamp::now().as_second();
        for value in values.values() {
            self.superseded.entry(digest(value)).or_insert(now);
        }
    }
}

/// A new secret before those that are good for a while: comma-separated.
pub(super) fn with_old(new: &SecretString, old: &Secrets) -> String {
    let mut values = vec![new.expose_secret().to_owned()];
    values.extend(
        old.values()
            .map(|value| String::from_utf8_lossy(value).into_owned()),
    );
    // More would be tried on whatever strangers send.
    values.truncate(4);
    values.join(",")
}

/// 256 bits, as `openssl rand -hex 32` makes them.
pub(in crate::cli) fn new_secret() -> SecretString {
    Alphanumeric.sample_string(&mut rand::rng(), 43).into()
}
