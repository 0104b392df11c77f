//! `/admin/callers/…`: see [`Callers`](crate::actors::Callers).

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::filters::BoxedFilter;
use warp::{Filter, path};

use super::audit::Operator;
use super::{AdminState, ApiError, Response, error, parse_caller, parse_ringing, store_failed};
use crate::actors::{CallerError, SessionError};
use crate::domain::caller_id::CallerId;
use crate::domain::caller_rules::CallerRules;
use crate::domain::name::CallerName;
use crate::http::body;

/// What the rules for names come to, for an operator who typed one.
const NOT_A_NAME: &str = "this is no name that may be spoken: at most three words of letters, besides \
     titles (Dr.) and particles (van), no digits or symbols, no placeholder, and no words of an order";
const NO_SUCH_CALLER: ApiError = ApiError::NoSuchThing("no such caller");

impl From<CallerError> for ApiError {
    fn from(error: CallerError) -> Self {
        match error {
            CallerError::Session(SessionError::Store(error)) => store_failed(&error),
            CallerError::Session(error) => {
                tracing::error!(%error, "An administrative operation failed");
                Self::Unavailable("the caller's session is not available")
            }
            CallerError::Undecided(what) => Self::NoSuchThing(what),
            error @ (CallerError::Link(_) | CallerError::NoElevenLabs) => {
                Self::Invalid(error.to_string())
            }
        }
    }
}

#[derive(Deserialize)]
struct EraseOptions {
    /// Whether the conversations at ElevenLabs are deleted as well.
    #[serde(default)]
    elevenlabs: bool,
}

type State = Arc<AdminState>;

pub(super) fn routes(admin: &BoxedFilter<(Operator,)>) -> BoxedFilter<(Response,)> {
    let caller = || admin.clone().and(path!("callers" / String / ..));
    let show = caller().and(warp::path::end()).and(warp::get()).then(
        async |operator: Operator, id: String| {
            operator.about(parse_caller, &id, "show caller", show).await
        },
    );
    let decisions =
        admin
            .clone()
            .and(path!("callers"))
            .and(warp::get())
            .then(async |operator: Operator| {
                let work = decisions(Arc::clone(&operator.state));
                operator.act("list decisions", String::new(), work).await
            });
    let export = caller().and(path!("export")).and(warp::get()).then(
        async |operator: Operator, id: String| {
            operator
                .about(parse_caller, &id, "export caller", export)
                .await
        },
    );
    let erase = caller()
        .and(warp::path::end())
        .and(warp::delete())
        .and(warp::query())
        .then(
            async |operator: Operator, id: String, options: EraseOptions| {
                let erase = |state, caller| erase(state, caller, options);
                operator
                    .about(parse_caller, &id, "erase caller", erase)
                    .await
            },
        );
    let rename = caller()
        .and(path!("name"))
        .and(warp::put())
        .and(warp::body::stream())
        .then(
            async |operator: Operator, id: String, body| match body::read_small(body).await {
                Ok(body) => {
                    let rename = |state, caller| rename(state, caller, body);
                    operator
                        .about(parse_caller, &id, "rename caller", rename)
                        .await
                }
                Err(error) => error.into_response(),
            },
        );
    let opt_out = caller().and(path!("opt-out")).and(warp::put()).then(
        async |operator: Operator, id: String| {
            operator
                .about(parse_ringing, &id, "opt caller out", opt_out)
                .await
        },
    );
    let opt_in = caller().and(path!("opt-out")).and(warp::delete()).then(
        async |operator: Operator, id: String| {
            operator
                .about(parse_caller, &id, "opt caller in", opt_in)
                .await
        },
    );
    show.or(decisions)
        .unify()
        .or(export)
        .unify()
        .or(erase)
        .unify()
        .or(rename)
        .unify()
        .or(opt_out)
        .unify()
        .or(opt_in)
        .unify()
        .or(identity(admin))
        .unify()
        .boxed()
}

/// Who is who: linked and shared numbers.
fn identity(admin: &BoxedFilter<(Operator,)>) -> BoxedFilter<(Response,)> {
    let caller = || admin.clone().and(path!("callers" / String / ..));
    let share = caller().and(path!("shared")).and(warp::put()).then(
        async |operator: Operator, id: String| {
            let share = |state, caller| set_shared(state, caller, true);
            operator
                .about(parse_ringing, &id, "share number", share)
                .await
        },
    );
    let unshare = caller().and(path!("shared")).and(warp::delete()).then(
        async |operator: Operator, id: String| {
            let unshare = |state, caller| set_shared(state, caller, false);
            operator
                .about(parse_caller, &id, "unshare number", unshare)
                .await
        },
    );
    let link = caller()
        .and(path!("link"))
        .and(warp::put())
        .and(warp::body::stream())
        .then(
            async |operator: Operator, id: String, body| match body::read_small(body).await {
                Ok(body) => {
                    let link = |state, caller| link(state, caller, body);
                    operator
                        .about(parse_ringing, &id, "link number", link)
                        .await
                }
                Err(error) => error.into_response(),
            },
        );
    let unlink = caller().and(path!("link")).and(warp::delete()).then(
        async |operator: Operator, id: String| {
            operator
                .about(parse_caller, &id, "unlink number", unlink)
                .await
        },
    );
    share
        .or(unshare)
        .unify()
        .or(link)
        .unify()
        .or(unlink)
        .unify()
        .boxed()
}

/// How a caller id is read.
type Parse = fn(&CallerRules, &str) -> Result<CallerId, ApiError>;

impl Operator {
    /// Does something about a caller, and writes it down.
    async fn about<F>(
        &self,
        parse: Parse,
        id: &str,
        action: &'static str,
        work: impl FnOnce(State, CallerId) -> F,
    ) -> Response
    where
        F: Future<Output = Result<Response, ApiError>> + Send + 'static,
    {
        match parse(&self.state.caller_rules, id) {
            Ok(caller) => {
                let subject = caller.masked();
                let work = work(Arc::clone(&self.state), caller);
                self.act(action, subject, work).await
            }
            Err(error) => error.into_response(),
        }
    }
}

fn answer(value: &impl Serialize) -> Result<Response, ApiError> {
    Ok(error::json(value))
}

async fn show(state: State, caller: CallerId) -> Result<Response, ApiError> {
    let report = state.callers.show(&caller).await?;
    report.map_or(Err(NO_SUCH_CALLER), |report| answer(&report))
}

async fn decisions(state: State) -> Result<Response, ApiError> {
    answer(&state.callers.decisions().await?)
}

async fn export(state: State, caller: CallerId) -> Result<Response, ApiError> {
    let report = state.callers.export(&caller).await?;
    report.map_or(Err(NO_SUCH_CALLER), |report| answer(&report))
}

async fn erase(
    state: State,
    caller: CallerId,
    options: EraseOptions,
) -> Result<Response, ApiError> {
    answer(&state.callers.erase(&caller, options.elevenlabs).await?)
}

async fn opt_out(state: State, caller: CallerId) -> Result<Response, ApiError> {
    let receipt = state.callers.opt_out(&caller).await?;
    let mut receipt = serde_json::to_value(receipt).map_err(|_| ApiError::Internal)?;
    if receipt["found"] == false {
        receipt["remark"] = json!(remark_on_unknown(&caller));
    }
    answer(&receipt)
}

/// A decision about somebody who has not called yet is taken, but may as well be
/// one about a mistyped number.
fn remark_on_unknown(caller: &CallerId) -> String {
    let plus = if caller.as_str().starts_with(|c: char| c.is_ascii_digit()) {
        "; a number without + is another caller than the same with +"
    } else {
        ""
    };
    format!("decided, though nobody is known under this id yet{plus}")
}

async fn opt_in(state: State, caller: CallerId) -> Result<Response, ApiError> {
    state.callers.opt_in(&caller).await?;
    answer(&json!({"opted_out": false}))
}

async fn set_shared(state: State, caller: CallerId, shared: bool) -> Result<Response, ApiError> {
    let known = !shared || state.callers.is_known(&caller).await?;
    state.callers.share(&caller, shared).await?;
    let mut done = json!({"shared": shared});
    if !known {
        done["remark"] = json!(remark_on_unknown(&caller));
    }
    answer(&done)
}

async fn unlink(state: State, alias: CallerId) -> Result<Response, ApiError> {
    state.callers.unlink(&alias).await?;
    answer(&json!({"linked_to": null}))
}

async fn rename(state: State, caller: CallerId, body: Bytes) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Request {
        name: String,
    }
    let Request { name } = serde_json::from_slice(&body)?;
    let name = CallerName::parse(&name).map_err(|_| ApiError::Invalid(NOT_A_NAME.to_owned()))?;
    let profile = state.callers.rename(&caller, name).await?;
    let profile = profile.ok_or(NO_SUCH_CALLER)?;
    answer(&json!({"phone_number": profile.phone_number.as_str(), "name": profile.name}))
}

async fn link(state: State, alias: CallerId, body: Bytes) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Request {
        caller: String,
    }
    let Request { caller } = serde_json::from_slice(&body)?;
    let caller = parse_caller(&state.caller_rules, &caller)?;
    let person = state.callers.link(&alias, &caller).await?;
    answer(&json!({"linked_to": person.as_str()}))
}
