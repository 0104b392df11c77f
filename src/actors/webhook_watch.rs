//! Looks after our post-call webhook at ElevenLabs: a webhook that was disabled,
//! detached or deleted brings nothing, and nothing else would tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ractor::{ActorProcessingErr, ActorRef};

use super::connection::{Connection, Place};
use super::worker::Worker;
use crate::clients::{ElevenLabsError, Webhook};
use crate::metric_definitions::{Label, Metrics, WebhookState};

/// Between two looks.
const ROUND: Duration = Duration::from_secs(5 * 60);
/// Before the first look after a start.
const FIRST_ROUND: Duration = Duration::from_secs(5);
/// A failure is of now for so long, in seconds: three rounds.
const RECENT: i64 = 15 * 60;

pub(super) enum Message {
    Tick,
}

/// What the actor needs to (re)start.
#[derive(Clone)]
pub(super) struct Setup {
    /// `None` without `ELEVENLABS_API_KEY`.
    pub connection: Option<Connection>,
    pub metrics: Arc<Metrics>,
    /// The state that was told last.
    pub told: Arc<Mutex<Option<WebhookState>>>,
}

pub(super) struct WebhookWatch {
    setup: Setup,
}

impl Worker for WebhookWatch {
    type Message = Message;
    type Setup = Setup;

    fn start(setup: Setup, myself: &ActorRef<Message>) -> Self {
        if setup.connection.is_some() {
            myself.send_after(FIRST_ROUND, || Message::Tick);
            myself.send_interval(ROUND, || Message::Tick);
        }
        Self { setup }
    }

    async fn handle(
        &mut self,
        _: &ActorRef<Message>,
        Message::Tick: Message,
    ) -> Result<(), ActorProcessingErr> {
        let setup = self.setup.clone();
        tokio::spawn(async move { setup.look().await });
        Ok(())
    }
}

impl Setup {
    async fn look(&self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let Some(place) = connection.place() else {
            return;
        };
        let webhooks = connection
            .account
            .ask(|api| async move { api.webhooks().await })
            .await;
        let (state, detail) = assess(&place, webhooks.as_deref(), Timestamp::now());
        for known in WebhookState::ALL {
            let value = if *known == state { 1.0 } else { 0.0 };
            self.metrics.webhook_state.get(*known).set(value);
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.replace(state) == Some(state) {
            return;
        }
        match state {
            WebhookState::Ok => tracing::info!("The post-call webhook at ElevenLabs: {detail}"),
            WebhookState::Unknown | WebhookState::Failing => {
                tracing::warn!("The post-call webhook at ElevenLabs: {detail}");
            }
            WebhookState::Disabled | WebhookState::Detached | WebhookState::Missing => {
                tracing::error!(
                    "The post-call webhook at ElevenLabs: {detail}; no call that ends arrives: run elaoms check setup"
                );
            }
        }
    }
}

/// The state of our webhook, and what an operator reads of it.
fn assess(
    place: &Place,
    webhooks: Result<&[Webhook], &ElevenLabsError>,
    now: Timestamp,
) -> (WebhookState, String) {
    let webhooks = match webhooks {
        Ok(webhooks) => webhooks,
        Err(error) => return (WebhookState::Unknown, format!("it cannot be read: {error}")),
    };
    let known = place.webhook_id.as_deref();
    let url = place.public_url.as_ref().map(|url| url.post_call());
    let by_id = webhooks.iter().find(|webhook| known == Some(&*webhook.id));
    let by_url = || {
        webhooks
            .iter()
            .find(|webhook| Some(&webhook.url) == url.as_ref())
    };
    let Some(webhook) = by_id.or_else(by_url) else {
        return (
            WebhookState::Missing,
            "there is none that leads here".into(),
        );
    };
    if webhook.is_auto_disabled {
        let state = WebhookState::Disabled;
        return (state, "ElevenLabs has disabled it, after failures".into());
    }
    if webhook.is_disabled {
        return (WebhookState::Disabled, "it is disabled".into());
    }
    if webhook.usage.as_ref().is_some_and(Vec::is_empty) {
        let detail = "it is attached to no agent and not to the workspace";
        return (WebhookState::Detached, detail.into());
    }
    let failed = webhook.most_recent_failure_timestamp.unwrap_or_default();
    match webhook.most_recent_failure_error_code {
        Some(status) if now.as_second() - failed < RECENT => (
            WebhookState::Failing,
            format!("its last delivery was answered {status}"),
        ),
        _ => (WebhookState::Ok, "enabled and attached".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::connection::PublicUrl;

    #[test]
    fn each_way_in_which_a_webhook_brings_nothing_is_told_apart() {
        let place = Place {
            public_url: PublicUrl::parse("https://your.host").ok(),
            webhook_id: Some("wh_1".into()),
        };
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let check = |more: Value, expected: WebhookState| {
            let mut webhook = json!({"webhook_id": "wh_1", "name": "n", "webhook_url": "https://x", "usage": [{}]});
            for (key, value) in more.as_object().unwrap() {
                webhook[key] = value.clone();
            }
            let webhooks: Vec<Webhook> = vec![serde_json::from_value(webhook).unwrap()];
            let (state, detail) = assess(&place, Ok(&webhooks), now);
            assert_eq!(state, expected, "{more}: {detail}");
        };
        check(json!({}), WebhookState::Ok);
        check(json!({"usage": null}), WebhookState::Ok);
        check(json!({"usage": []}), WebhookState::Detached);
        check(json!({"is_disabled": true}), WebhookState::Disabled);
        check(
            json!({"is_auto_disabled": true, "is_disabled": true}),
            WebhookState::Disabled,
        );
        check(json!({"webhook_id": "wh_2"}), WebhookState::Missing);
        check(
            json!({"webhook_id": "wh_2", "webhook_url": "https://your.host/webhook/post-call"}),
            WebhookState::Ok,
        );
        let failed = |ago: i64| json!({"most_recent_failure_error_code": 503, "most_recent_failure_timestamp": now.as_second() - ago});
        check(failed(60), WebhookState::Failing);
        check(failed(3_600), WebhookState::Ok);
        let (state, _) = assess(&place, Err(&ElevenLabsError::NotFound), now);
        assert_eq!(state, WebhookState::Unknown);
    }
}
