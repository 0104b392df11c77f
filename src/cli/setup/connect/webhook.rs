//! The post-call webhook, whose secret ElevenLabs shows once.

use secrecy::{ExposeSecret, SecretString};

use super::keys::with_old;
use super::{NOT_MADE, Options, Seen, UNCONNECTED};
use crate::cli::setup::journal::Rotation;
use crate::cli::setup::probe::Probe;
use crate::cli::setup::{Outcome, Session, Trouble};
use crate::clients::Webhook;
use crate::domain::connection::WEBHOOK_NAME;
use crate::secrets::Secrets;

impl Session {
    /// The webhook that is to be replaced: for another address, or a new secret.
    pub(super) fn replaced_webhook(
        &self,
        seen: &Seen,
        options: &Options,
    ) -> Outcome<Option<Webhook>> {
        if let Some(known) = self.known_webhook(seen) {
            let rotating = self.journal.record.rotating.as_ref();
            // Another one was made by a rotation that was broken off.
            let is_to_be_changed = rotating.is_some_and(|r| r.from.as_ref() == Some(&known.id));
            return Ok((is_to_be_changed || !options.is_reached_by(known)).then(|| known.clone()));
        }
        let mut unknown = seen.webhooks.iter();
        let unknown = unknown.find(|w| options.is_reached_by(w) && !self.is_lost(w));
        match unknown {
            None => Ok(None),
            Some(webhook) if self.rotates => Ok(Some(webhook.clone())),
            // The secret is that of another webhook, which is gone.
            Some(webhook) if self.webhook_id.is_some() => Err(Trouble::new(
                format!(
                    "the webhook {:?} is not the one whose secret is in the settings; that one is gone",
                    webhook.name
                ),
                "run it with --rotate: a new webhook is made, and takes its place",
            )),
            Some(webhook) if self.has_entered_secret() => {
                if webhook.most_recent_failure_error_code == Some(401) {
                    return Err(Trouble::new(
                        format!(
                            "the webhook {:?} was refused with 401 when it delivered last: its secret is another than \
                             ELEVENLABS_POST_CALL_KEY",
                            webhook.name
                        ),
                        "run it with --rotate: a new webhook is made, and takes its place",
                    ));
                }
                Ok(None)
            }
            Some(webhook) => Err(Trouble::new(
                format!(
                    "there is a webhook {:?} for this address, and its secret is not in the settings",
                    webhook.name
                ),
                "set ELEVENLABS_POST_CALL_KEY to its secret if you have it; else run it with --rotate: a new webhook \
                 is made, and takes its place",
            )),
        }
    }

    /// The webhook whose secret is in the settings.
    pub(super) fn known_webhook<'a>(&self, seen: &'a Seen) -> Option<&'a Webhook> {
        let known = self.webhook_id.as_ref()?;
        seen.webhooks.iter().find(|webhook| webhook.id == *known)
    }

    /// A replacement that was broken off: if the settings name another webhook, the
    /// old one is to be deleted; else it is not replaced.
    pub(super) fn settle_replacement(&mut self) {
        let record = &mut self.journal.record;
        if let Some(old) = record.replacing.take()
            && self.webhook_id.as_ref() != Some(&old)
        {
            record.made_webhooks.insert(old.clone());
            record.retired.insert(old);
        }
        if let Some(kept) = &self.webhook_id {
            record.retired.remove(kept);
        }
    }

    /// Notes from which webhook on secrets are changed. A rotation that was broken off
    /// goes on; it makes nothing anew that it has made.
    pub(super) fn begin_rotation(&mut self, seen: &Seen, options: &Options) {
        self.rotates = options.rotate || self.journal.record.rotating.is_some();
        if !options.rotate || self.journal.record.rotating.is_some() {
            return;
        }
        let from = self.known_webhook(seen);
        let from = from.or_else(|| seen.webhooks.iter().find(|w| options.is_reached_by(w)));
        let from = from.map(|webhook| webhook.id.clone());
        // Written with the first new secret, not before.
        self.journal.record.rotating = Some(Rotation {
            from,
            from_keys: self.key_digests(),
        });
    }

    /// Whether a webhook was made by a run that was broken off before it had the
    /// secret, which is shown once.
    fn is_lost(&self, webhook: &Webhook) -> bool {
        let is_unused = webhook.usage.as_ref().is_none_or(Vec::is_empty);
        webhook.name == WEBHOOK_NAME && is_unused && self.journal.record.making.contains("webhook")
    }

    fn has_entered_secret(&self) -> bool {
        let first = self.keys.post_call.first();
        first.is_some_and(|secret| !secret.expose_secret().starts_with(UNCONNECTED))
    }

    /// The id of the webhook whose secret we have. It is enabled, with retries, and
    /// the service behind our address knows the secret.
    pub(super) async fn keep_webhook(
        &mut self,
        seen: &Seen,
        options: &Options,
        replaced: Option<Webhook>,
    ) -> Outcome<String> {
        let title = format!("webhook {WEBHOOK_NAME}");
        let kept = self.known_webhook(seen).filter(|_| replaced.is_none());
        let mut adopted = seen.webhooks.iter();
        let adopted =
            adopted.find(|w| replaced.is_none() && options.is_reached_by(w) && !self.is_lost(w));
        let Some(webhook) = kept.or(adopted) else {
            return self.make_webhook(seen, options, replaced).await;
        };
        let record = &mut self.journal.record;
        record.ours.insert(webhook.id.clone());
        if kept.is_none() {
            self.report.changed(
                title.clone(),
                "there is one for this address; taken over, with the secret in the settings",
            );
            self.write_settings(&[("ELEVENLABS_WEBHOOK_ID", webhook.id.clone())])?;
            self.webhook_id = Some(webhook.id.clone());
        }
        let secret = self.keys.post_call.first().cloned();
        self.prove_secret(options, &secret.unwrap_or_default())
            .await?;
        let mut wrong = Vec::new();
        if webhook.is_disabled || webhook.is_auto_disabled {
            wrong.push(match webhook.is_auto_disabled {
                true => "was disabled by ElevenLabs after failures",
                false => "was disabled",
            });
        }
        if webhook.retry_enabled == Some(false)
            || (webhook.retry_enabled.is_none() && !self.journal.record.retries_on)
        {
            wrong.push("had no retries");
        }
        if wrong.is_empty() {
            self.report.kept(title.clone(), "enabled, with retries");
        } else {
            self.enable_webhook(&webhook.id).await?;
            let how = if self.dry_run {
                "to be corrected"
            } else {
                "corrected"
            };
            self.report
                .changed(title.clone(), format!("{}: {how}", wrong.join(", ")));
        }
        if webhook.most_recent_failure_error_code == Some(401) {
            self.report.warn(
                title,
                "its last failure was a 401: if calls go on being refused, run this with --rotate",
            );
        }
        Ok(webhook.id.clone())
    }

    async fn make_webhook(
        &mut self,
        seen: &Seen,
        options: &Options,
        replaced: Option<Webhook>,
    ) -> Outcome<String> {
        let title = format!("webhook {WEBHOOK_NAME}");
        if self.dry_run {
            self.report.changed(
                title,
                format!("would be made for {}", options.url.post_call()),
            );
            return Ok(NOT_MADE.to_owned());
        }
        let lost: Vec<String> = seen
            .webhooks
            .iter()
            .filter(|webhook| options.is_reached_by(webhook) && self.is_lost(webhook))
            .map(|webhook| webhook.id.clone())
            .collect();
        for id in &lost {
            let deleted = self.delete_webhook(id).await;
            deleted.map_err(|e| Trouble::api("a webhook whose secret was lost", &e))?;
        }
        self.journal.record.making.insert("webhook".to_owned());
        self.journal.record.retries_on = false;
        if let Some(replaced) = &replaced {
            self.journal.record.ours.insert(replaced.id.clone());
            self.journal.record.replacing = Some(replaced.id.clone());
        }
        self.journal.save()?;
        let url = &options.url.post_call();
        let made = self
            .account
            .ask_once(|api| async move { api.create_webhook(WEBHOOK_NAME, url).await })
            .await;
        if let Err(error) = &made
            && error.is_definite()
        {
            // None was made: nothing is to be looked for later.
            self.journal.record.making.remove("webhook");
            self.journal.save()?;
        }
        let made = made.map_err(|e| Trouble::api("a webhook", &e))?;
        // Its secret is shown this once: nothing else comes first.
        let known = match self.has_entered_secret() {
            true => self.keys.post_call.clone(),
            false => Secrets::default(),
        };
        self.journal.record.supersede(&known);
        let values = with_old(&made.secret, &known);
        self.write_settings(&[
            ("ELEVENLABS_POST_CALL_KEY", values.clone()),
            ("ELEVENLABS_WEBHOOK_ID", made.id.clone()),
        ])?;
        self.keys.post_call = Secrets::parse(&values);
        self.webhook_id = Some(made.id.clone());
        self.settle_replacement();
        let record = &mut self.journal.record;
        record.making.remove("webhook");
        record.ours.insert(made.id.clone());
        record.made_webhooks.insert(made.id.clone());
        self.journal.save()?;
        self.report.changed(
            title,
            format!("made for {url}, its secret written to the settings"),
        );
        self.prove_secret(options, &made.secret).await?;
        self.enable_webhook(&made.id).await?;
        Ok(made.id)
    }

    /// The service takes what is signed with the secret. Nothing is attached before.
    async fn prove_secret(&mut self, options: &Options, secret: &SecretString) -> Outcome<()> {
        self.tell_keys(Some(secret)).await;
        match Probe::new(&options.url)?.post_call(secret).await {
            Ok(()) => {
                self.report.kept(
                    "a signed test event",
                    "was taken, and one with a wrong signature refused",
                );
                Ok(())
            }
            Err((reason, remedy)) if self.dry_run => {
                self.report
                    .warn("a signed test event", format!("{reason}\n{remedy}"));
                Ok(())
            }
            Err((reason, remedy)) => Err(Trouble::new(reason, remedy)),
        }
    }

    async fn enable_webhook(&mut self, id: &str) -> Outcome<()> {
        if self.dry_run {
            return Ok(());
        }
        let enabled = self
            .account
            .ask(|api| async move { api.enable_webhook(id, WEBHOOK_NAME).await })
            .await;
        enabled.map_err(|e| Trouble::api("the webhook's retries", &e))?;
        self.journal.record.retries_on = true;
        Ok(self.journal.save()?)
    }

    pub(super) async fn delete_retired(&mut self, seen: &Seen) -> Outcome<()> {
        if self.dry_run {
            return Ok(());
        }
        for id in &self.journal.record.retired.clone() {
            if seen.webhooks.iter().any(|webhook| webhook.id == *id) {
                let deleted = self.delete_webhook(id).await;
                if let Err(error) = deleted {
                    self.report.warn(
                        "the old webhook",
                        format!("cannot be deleted ({error}): something still refers to it, in another agent perhaps; \
                                 until then its secret has to stay in the settings"),
                    );
                    continue;
                }
                self.report.changed("the old webhook", "deleted");
            }
            self.journal.record.retired.remove(id);
            self.journal.save()?;
        }
        Ok(())
    }
}
