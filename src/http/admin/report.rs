//! `/admin/report`: calls, recognised callers, latency and spend, by day.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use warp::filters::BoxedFilter;
use warp::{Filter, path};

use super::audit::Operator;
use super::{ApiError, Response, error, finish, store_failed};
use crate::domain::prices;
use crate::domain::report::Report;

/// Most days reported.
const MAX_DAYS: u16 = 1_000;

/// What is wanted.
#[derive(Deserialize)]
struct Wanted {
    /// So many days, today included.
    days: u16,
}

pub(super) fn routes(admin: &BoxedFilter<(Operator,)>) -> BoxedFilter<(Response,)> {
    admin
        .clone()
        .and(path!("report"))
        .and(warp::get())
        .and(warp::query())
        .then(async |operator: Operator, wanted: Wanted| finish(report(&operator, wanted)).await)
        .boxed()
}

async fn report(operator: &Operator, wanted: Wanted) -> Result<Response, ApiError> {
    let days = i64::from(wanted.days.clamp(1, MAX_DAYS)) - 1;
    let since = Timestamp::now() - SignedDuration::from_hours(days * 24);
    let since = since.strftime("%Y-%m-%d").to_string();
    let figures = operator.state.ledger.figures(since.clone()).await;
    let figures = figures.map_err(|e| store_failed(&e))?;
    let (mut by_day, mut all) = (BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::new());
    for (day, name, value) in figures {
        *all.entry(name.clone()).or_insert(0) += value;
        by_day.entry(day).or_default().insert(name, value);
    }
    let days: Vec<_> = by_day
        .iter()
        .map(|(day, figures)| json!({"day": day, "report": Report::of(figures)}))
        .collect();
    Ok(error::json(
        &json!({"since": since, "prices_as_of": prices::AS_OF, "days": days,
        "all": Report::of(&all)}),
    ))
}
