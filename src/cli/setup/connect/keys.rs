//! Our own secrets: made, written to the settings, told to the service, and removed
//! when others have replaced them.

use std::collections::BTreeMap;

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
use crate::domain::connection::{CLIENT_DATA_SECRET, PublicUrl, SEARCH_DATA_SECRET};
use crate::secrets::Secrets;

impl Session {
    /// Secrets that are missing, or to be changed, are made and written down
    /// before anybody uses them.
    pub(super) async fn make_secrets(&mut self, options: &Options) -> Outcome<()> {
        let mut lines: Vec<(&str, String)> = Vec::new();
        for what in [CLIENT_DATA_SECRET, SEARCH_DATA_SECRET] {
            // What agents do not use is not changed: nobody would tell ElevenLabs.
            let is_used = what == CLIENT_DATA_SECRET || options.search;
            let known = self.keys.of(what).clone();
            let is_missing = known.first().is_none();
            let is_wanted = is_missing || (is_used && self.is_to_be_changed(what, &known));
            if !is_wanted {
                continue;
            }
            let (name, made) = (Keys::name(what), new_secret());
            self.report
                .changed(name, "made, and written to the settings");
            self.journal.record.supersede(&known);
            let values = with_old(&made, &known);
            lines.push((name, values.clone()));
            if !self.dry_run {
                *self.keys.of_mut(what) = Secrets::parse(&values);
            }
        }
        self.write_settings(&lines)?;
        self.tell_keys(None).await;
        Ok(())
    }

    /// Whether a rotation has still to make a new value: the one in the settings is
    /// that from before.
    fn is_to_be_changed(&self, what: &str, known: &Secrets) -> bool {
        let rotating = self.journal.record.rotating.as_ref();
        let before = rotating.and_then(|rotating| rotating.from_keys.get(what));
        let first = known
            .first()
            .map(|first| digest(first.expose_secret().as_bytes()));
        before.is_some() && before == first.as_ref()
    }

    /// Digests of the keys in use.
    pub(super) fn key_digests(&self) -> BTreeMap<String, String> {
        let keys = [CLIENT_DATA_SECRET, SEARCH_DATA_SECRET].into_iter();
        let digests = keys.filter_map(|what| {
            let first = self.keys.of(what).first()?;
            Some((what.to_owned(), digest(first.expose_secret().as_bytes())))
        });
        digests.collect()
    }

    /// Our address answers, with the secrets and not without.
    pub(super) async fn reach(&mut self, options: &Options, targets: &[Target]) -> Outcome<()> {
        let agent = targets.first().map_or("", |target| target.agent.as_str());
        let probe = Probe::new(&options.url)?;
        let (ring, search) = (
            self.keys.first(CLIENT_DATA_SECRET),
            self.keys.first(SEARCH_DATA_SECRET),
        );
        let mut reached = probe.client_data(agent, &ring).await;
        if reached.is_ok() && options.search {
            reached = probe.search_data(agent, &search).await;
        }
        match reached {
            Ok(()) => {
                let how = "answers with the key, and refuses without";
                self.report.kept(options.url.to_string(), how);
                // Not before: a mistyped one would be taken for ours.
                self.own(options);
                self.write_settings(&[("PUBLIC_URL", options.url.to_string())])
            }
            Err((reason, remedy)) if self.dry_run => {
                self.report
                    .warn(options.url.to_string(), format!("{reason}\n{remedy}"));
                Ok(())
            }
            Err((reason, remedy)) => match &self.config.public_url {
                Some(before) if *before != options.url => Err(Trouble::new(
                    format!("{reason}\nThe address before was {before}; nothing was changed."),
                    remedy,
                )),
                _ => Err(Trouble::new(reason, remedy)),
            },
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
    pub(super) async fn tell_keys(&mut self, post_call: Option<&SecretString>) {
        let keys = match post_call {
            Some(secret) => json!({"post_call": secret.expose_secret()}),
            None => json!({"client_data": self.keys.first(CLIENT_DATA_SECRET).expose_secret(),
                "search_data": self.keys.first(SEARCH_DATA_SECRET).expose_secret()}),
        };
        self.tell(Request::new(Method::POST, "keys".to_owned()).with(keys))
            .await;
    }

    /// The running service watches our webhook, and fetches what never came, from now
    /// on.
    pub(in crate::cli::setup) async fn tell_place(
        &mut self,
        url: Option<&PublicUrl>,
        webhook: Option<&str>,
    ) {
        let place = json!({"public_url": url.map(ToString::to_string), "webhook_id": webhook});
        let told = Request::new(Method::PUT, "connection".to_owned()).with(place);
        let answer = self.tell(told).await.unwrap_or_default();
        if let Some(error) = answer["elevenlabs"].as_str() {
            let error = format!(
                "cannot ask ElevenLabs ({error}): it neither knows which variables agents declare, nor fetches calls \
                 that never came; correct ELEVENLABS_API_KEY, and restart it"
            );
            self.report.warn("the running service", error);
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
        for (name, known) in self.keys.each() {
            // The first is the one in use, however old.
            let mut values = known.values();
            let kept: Vec<&[u8]> = values
                .next()
                .into_iter()
                .chain(values.filter(|v| !is_old(v)))
                .collect();
            if kept.len() < known.values().count() {
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

/// The webhooks' secrets as the settings have them now.
#[derive(Clone)]
pub(in crate::cli::setup) struct Keys {
    pub client_data: Secrets,
    pub search_data: Secrets,
    pub post_call: Secrets,
}

impl Keys {
    /// The name of the setting.
    fn name(what: &str) -> &'static str {
        match what {
            SEARCH_DATA_SECRET => "ELEVENLABS_SEARCH_DATA_KEY",
            _ => "ELEVENLABS_CLIENT_DATA_KEY",
        }
    }

    fn of(&self, what: &str) -> &Secrets {
        match what {
            SEARCH_DATA_SECRET => &self.search_data,
            _ => &self.client_data,
        }
    }

    fn of_mut(&mut self, what: &str) -> &mut Secrets {
        match what {
            SEARCH_DATA_SECRET => &mut self.search_data,
            _ => &mut self.client_data,
        }
    }

    /// The value in use from now on.
    pub fn first(&self, what: &str) -> SecretString {
        self.of(what).first().cloned().unwrap_or_default()
    }

    fn each(&self) -> [(&'static str, &Secrets); 3] {
        [
            ("ELEVENLABS_CLIENT_DATA_KEY", &self.client_data),
            ("ELEVENLABS_SEARCH_DATA_KEY", &self.search_data),
            ("ELEVENLABS_POST_CALL_KEY", &self.post_call),
        ]
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
    values.join(",")
}

/// 256 bits, as `openssl rand -hex 32` makes them.
pub(in crate::cli) fn new_secret() -> SecretString {
    Alphanumeric.sample_string(&mut rand::rng(), 43).into()
}
