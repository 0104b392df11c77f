//! `/admin/connection`: where we are at ElevenLabs. What is put here lasts until the
//! service ends; what is to stay is in its settings.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use warp::filters::BoxedFilter;
use warp::{Filter, path};

use super::audit::Operator;
use super::{ApiError, Response, error, finish};
use crate::actors::Place;
use crate::domain::connection::PublicUrl;
use crate::http::body;

/// Our place; without both we are nowhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    public_url: Option<String>,
    webhook_id: Option<String>,
}

pub(super) fn routes(admin: &BoxedFilter<(Operator,)>) -> BoxedFilter<(Response,)> {
    let show = admin
        .clone()
        .and(path!("connection"))
        .and(warp::get())
        .then(async |operator: Operator| finish(async { Ok(shown(&operator).await) }).await);
    let connect = admin
        .clone()
        .and(path!("connection"))
        .and(warp::put())
        .and(warp::body::stream())
        .then(
            async |operator: Operator, body| match body::read_small(body).await {
                Ok(body) => {
                    let work = connect(operator.clone(), body);
                    operator.act("connect", "webhook".to_owned(), work).await
                }
                Err(error) => error.into_response(),
            },
        );
    show.or(connect).unify().boxed()
}

async fn connect(operator: Operator, body: Bytes) -> Result<Response, ApiError> {
    let wanted: Wanted = serde_json::from_slice(&body)?;
    let public_url = wanted
        .public_url
        .map(|url| PublicUrl::parse(&url))
        .transpose();
    let place = Place {
        public_url: public_url.map_err(|why| ApiError::Invalid(format!("public_url: {why}")))?,
        webhook_id: wanted.webhook_id.filter(|id| !id.is_empty()),
    };
    operator.state.reconciler.move_to(place);
    Ok(shown(&operator).await)
}

/// Where we are, and why ElevenLabs cannot be asked, if so.
async fn shown(operator: &Operator) -> Response {
    let reconciler = &operator.state.reconciler;
    let place = reconciler.place();
    error::json(&json!({
        "public_url": place.public_url.map(|url| url.to_string()),
        "webhook_id": place.webhook_id,
        "elevenlabs": reconciler.try_account().await.err(),
    }))
}
