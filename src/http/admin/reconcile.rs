//! `/admin/reconcile`: calls whose webhook never came are looked for.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use warp::filters::BoxedFilter;
use warp::{Filter, path};

use super::audit::Operator;
use super::{ApiError, Response, error, finish, parse_ringing};
use crate::actors::Search;
use crate::domain::ids::AgentId;
use crate::http::body;

/// Which calls are looked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    since: Timestamp,
    agent: Option<String>,
    caller: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

pub(super) fn routes(admin: &BoxedFilter<(Operator,)>) -> BoxedFilter<(Response,)> {
    let progress =
        admin
            .clone()
            .and(path!("reconcile"))
            .and(warp::get())
            .then(async |operator: Operator| {
                let progress = operator.state.reconciler.progress();
                finish(async { Ok(error::json(&progress)) }).await
            });
    let start = admin
        .clone()
        .and(path!("reconcile"))
        .and(warp::post())
        .and(warp::body::stream())
        .then(
            async |operator: Operator, body| match body::read_small(body).await {
                Ok(body) => match serde_json::from_slice(&body) {
                    Ok(wanted) => {
                        let subject = subject(&wanted);
                        let work = start(operator.clone(), wanted);
                        operator.act("reconcile", subject, work).await
                    }
                    Err(error) => ApiError::from(error).into_response(),
                },
                Err(error) => error.into_response(),
            },
        );
    progress.or(start).unify().boxed()
}

/// What the audit log says of it: no caller.
fn subject(wanted: &Wanted) -> String {
    let agent = wanted.agent.as_deref().unwrap_or("all agents");
    let whose = wanted.caller.as_ref().map_or("", |_| ", one caller");
    format!("{agent} since {}{whose}", wanted.since)
}

async fn start(operator: Operator, wanted: Wanted) -> Result<Response, ApiError> {
    let state = &operator.state;
    let agent = wanted.agent.map(|id| AgentId::parse(&id)).transpose();
    let agent = agent.map_err(|e| ApiError::Invalid(format!("the agent id {e}")))?;
    let caller = match wanted.caller {
        Some(id) => {
            let caller = parse_ringing(&state.caller_rules, &id)?;
            Some(state.callers.person(&caller).await?)
        }
        None => None,
    };
    let search = Search {
        since: wanted.since,
        agent,
        caller,
        dry_run: wanted.dry_run,
    };
    let started = state.reconciler.start(search);
    started.map_err(|why| ApiError::Invalid(why.to_string()))?;
    Ok(error::json(&json!({"started": true})))
}
