//! `/admin/dead-letters`: what was given up, to be read, tried again or dropped.

use serde_json::json;
use warp::filters::BoxedFilter;
use warp::{Filter, path};

use super::audit::Operator;
use super::{ApiError, Response, error, finish, store_failed};
use crate::store::EventId;

const NO_SUCH_LETTER: ApiError = ApiError::NoSuchThing("no dead letter with this id");

pub(super) fn routes(admin: &BoxedFilter<(Operator,)>) -> BoxedFilter<(Response,)> {
    let list = admin
        .clone()
        .and(path!("dead-letters"))
        .and(warp::get())
        .then(async |operator: Operator| finish(list(&operator)).await);
    let show = admin
        .clone()
        .and(path!("dead-letters" / i64))
        .and(warp::get())
        .then(async |operator: Operator, id: i64| {
            let work = show(operator.clone(), id);
            operator.act("read dead letter", id.to_string(), work).await
        });
    let retry = admin
        .clone()
        .and(path!("dead-letters" / i64 / "retry"))
        .and(warp::post())
        .then(async |operator: Operator, id: i64| {
            let work = retry(operator.clone(), id);
            operator
                .act("retry dead letter", id.to_string(), work)
                .await
        });
    let discard = admin
        .clone()
        .and(path!("dead-letters" / i64))
        .and(warp::delete())
        .then(async |operator: Operator, id: i64| {
            let work = discard(operator.clone(), id);
            operator
                .act("discard dead letter", id.to_string(), work)
                .await
        });
    list.or(show)
        .unify()
        .or(retry)
        .unify()
        .or(discard)
        .unify()
        .boxed()
}

async fn list(operator: &Operator) -> Result<Response, ApiError> {
    let letters = operator.state.inbox.dead_letters().await;
    let letters = letters.map_err(|e| store_failed(&e))?;
    Ok(error::json(&json!({"dead_letters": letters})))
}

/// With its body: the text as it was received.
async fn show(operator: Operator, id: i64) -> Result<Response, ApiError> {
    let found = operator.state.inbox.dead_letter(EventId(id)).await;
    let found = found.map_err(|e| store_failed(&e))?;
    let (letter, body) = found.ok_or(NO_SUCH_LETTER)?;
    let body = String::from_utf8_lossy(&body);
    Ok(error::json(&json!({"dead_letter": letter, "body": body})))
}

async fn retry(operator: Operator, id: i64) -> Result<Response, ApiError> {
    let revived = operator.state.inbox.revive(EventId(id)).await;
    if revived.map_err(|e| store_failed(&e))? {
        Ok(error::json(&json!({"id": id, "status": "queued"})))
    } else {
        let found = operator.state.inbox.dead_letter(EventId(id)).await;
        Err(match found.map_err(|e| store_failed(&e))? {
            Some(_) => ApiError::Invalid(
                "this dead letter is no event that can be worked on (its kind is unknown): read or \
                 discard it"
                    .to_owned(),
            ),
            None => NO_SUCH_LETTER,
        })
    }
}

async fn discard(operator: Operator, id: i64) -> Result<Response, ApiError> {
    let discarded = operator.state.inbox.discard(EventId(id)).await;
    if discarded.map_err(|e| store_failed(&e))? {
        Ok(error::json(&json!({"id": id, "status": "discarded"})))
    } else {
        Err(NO_SUCH_LETTER)
    }
}
