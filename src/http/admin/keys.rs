//! `POST /admin/keys`: the webhooks take further keys, until the service ends.
//!
//! For a secret that is changed while calls come in: before ElevenLabs uses the
//! new one, the service has to know it. What is to stay is in its settings.

use bytes::Bytes;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use warp::filters::BoxedFilter;
use warp::{Filter, path};

use super::audit::Operator;
use super::{ApiError, Response, error};
use crate::http::body;

/// The keys to take.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    client_data: Option<String>,
    search_data: Option<String>,
    post_call: Option<String>,
}

pub(super) fn routes(admin: &BoxedFilter<(Operator,)>) -> BoxedFilter<(Response,)> {
    admin
        .clone()
        .and(path!("keys"))
        .and(warp::post())
        .and(warp::body::stream())
        .then(
            async |operator: Operator, body| match body::read_small(body).await {
                Ok(body) => {
                    let work = accept(operator.clone(), body);
                    operator
                        .act("accept keys", "webhooks".to_owned(), work)
                        .await
                }
                Err(error) => error.into_response(),
            },
        )
        .boxed()
}

async fn accept(operator: Operator, body: Bytes) -> Result<Response, ApiError> {
    // What cannot be read may hold a key: the error says nothing of it.
    let keys: Keys = serde_json::from_slice(&body).map_err(|_| {
        ApiError::Invalid("the body holds no client_data, search_data or post_call".into())
    })?;
    let Some(known) = &operator.state.webhook_keys else {
        return Err(ApiError::Invalid("no webhooks are served here".into()));
    };
    let mut accepted = Vec::new();
    for (name, set, key) in [
        ("client_data", &known.client_data, keys.client_data),
        ("search_data", &known.search_data, keys.search_data),
        ("post_call", &known.post_call, keys.post_call),
    ] {
        let Some(key) = key else { continue };
        if key.trim().is_empty() {
            return Err(ApiError::Invalid(format!("{name} is empty")));
        }
        if !set.add(&SecretString::from(key)) {
            return Err(ApiError::Invalid(format!(
                "{name} has too many keys; restart the service with those that are still used"
            )));
        }
        accepted.push(name);
    }
    Ok(error::json(&json!({"accepted": accepted})))
}
