//! `POST /webhook/search-data`: the agent looks something up during a call.

use std::time::{Duration, Instant};

use bytes::Buf;
use futures_util::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;
use tracing::Instrument;

use super::error::{self, ApiError, Response};
use super::{Shared, body};
use crate::actors::Published;
use crate::domain::caller_id::CallerId;
use crate::domain::caller_rules::CallerRules;
use crate::domain::ids::AgentId;
use crate::domain::search::Hit;
use crate::metric_definitions::SearchOutcome;
use crate::store::StoreError;
use crate::telemetry::traces;

/// After this long a search gets the empty answer: somebody is on the line.
const DEADLINE: Duration = Duration::from_secs(2);

/// Flat, or inside ElevenLabs' `{tool_name, tool_call_id, parameters: {…}}`.
#[derive(Deserialize)]
struct Request {
    #[serde(flatten)]
    flat: Parameters,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    query: Option<String>,
    /// Null counts as withheld.
    #[serde(default, deserialize_with = "present")]
    user_id: Option<Option<String>>,
    agent_id: Option<String>,
    /// Whatever the agent adds; a shared number's caller may be named in it.
    context: Option<Value>,
}

/// Tells null from absent.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

struct Query {
    query: String,
    context: String,
    caller: Option<CallerId>,
    agent: AgentId,
}

impl Query {
    fn parse(body: &[u8], rules: &CallerRules) -> Result<Self, ApiError> {
        let Request { flat, parameters } = serde_json::from_slice(body)?;
        let inner = parameters.unwrap_or(Parameters {
            query: None,
            user_id: None,
            agent_id: None,
            context: None,
        });
        let missing = |field: &str| ApiError::Invalid(format!("{field} is missing"));
        let agent = inner
            .agent_id
            .or(flat.agent_id)
            .ok_or_else(|| missing("agent_id"))?;
        let user = inner
            .user_id
            .or(flat.user_id)
            .ok_or_else(|| missing("user_id"))?;
        let context = inner.context.or(flat.context).unwrap_or_default();
        Ok(Self {
            context: context
                .as_str()
                .map_or_else(|| context.to_string(), str::to_owned),
            query: inner.query.or(flat.query).ok_or_else(|| missing("query"))?,
            caller: rules.caller(user.as_deref().unwrap_or_default()).ok(),
            agent: AgentId::parse(&agent)
                .map_err(|e| ApiError::Invalid(format!("agent_id {e}")))?,
        })
    }
}

impl Query {
    /// Whether the agent has heard the caller's name: it stands in what it asks.
    fn names(&self, published: &Published) -> bool {
        let view = published.view();
        let name = view.profile.as_ref().and_then(|p| p.name.as_ref());
        name.is_some_and(|name| {
            let first = name.first_word().to_lowercase();
            let said = format!("{} {}", self.query, self.context).to_lowercase();
            said.split(|c: char| !c.is_alphabetic() && c != '\'' && c != '-')
                .any(|word| word == first)
        })
    }
}

#[derive(Serialize, Default)]
struct Answer {
    profile: Option<ProfileAnswer>,
    memories: Vec<MemoryAnswer>,
}

#[derive(Serialize)]
struct ProfileAnswer {
    name: Option<String>,
    /// What this agent remembers of the last call.
    summary: Option<String>,
    phone_number: String,
}

#[derive(Serialize)]
struct MemoryAnswer {
    content: String,
    sector: &'static str,
    salience: f32,
    timestamp: Timestamp,
}

impl Answer {
    fn new(published: &Published, agent: &AgentId, memories: Vec<Hit>) -> Self {
        let view = published.view();
        let summary = view
            .states
            .get(agent)
            .and_then(|s| s.conversation_summary.clone());
        Self {
            profile: view.profile.as_ref().map(|profile| ProfileAnswer {
                name: profile.name.as_ref().map(ToString::to_string),
                summary,
                phone_number: profile.phone_number.as_str().to_owned(),
            }),
            memories: memories
                .into_iter()
                .map(|memory| MemoryAnswer {
                    content: memory.content,
                    sector: memory.sector.as_str(),
                    salience: memory.salience,
                    timestamp: memory.timestamp,
                })
                .collect(),
        }
    }
}

pub(super) async fn answer<S, B>(
    shared: &Shared,
    body: S,
    trace: Option<&str>,
    started: Instant,
) -> Result<Response, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let body = body::read_small(body).await?;
    let query = Query::parse(&body, &shared.state.caller_rules)?;
    let shown = query
        .caller
        .as_ref()
        .map(|c| shared.state.caller_ids.show(c));
    let span = tracing::info_span!(
        "search-data",
        agent = %query.agent,
        caller = shown.as_ref().map(tracing::field::display),
    );
    traces::go_on_from(&span, trace);
    let (outcome, answer) = search(shared, &query).instrument(span).await;
    shared
        .state
        .metrics
        .search_data
        .get(outcome)
        .record(started.elapsed());
    Ok(error::json(&answer))
}

async fn search(shared: &Shared, query: &Query) -> (SearchOutcome, Answer) {
    let state = &shared.state;
    let Some(caller) = &query.caller else {
        return (SearchOutcome::Withheld, Answer::default());
    };
    let shown = state.caller_ids.show(caller);
    let Ok(_permit) = shared.searches.try_acquire() else {
        tracing::error!("Too many searches at once - answering without memories");
        return (SearchOutcome::Error, Answer::default());
    };
    let search = async {
        let (standing, published) = state
            .sessions
            .meet(&state.directory, caller, &query.agent)
            .await?;
        let (Some((person, is_shared)), Some(published)) = (standing.person(), published) else {
            return Ok(None);
        };
        let sessions = &state.sessions;
        let found = sessions.search(person, &published, &query.agent, &query.query);
        Ok::<_, StoreError>(Some((is_shared, found.await?, published)))
    };
    match timeout(DEADLINE, search).await {
        Ok(Ok(None)) => (SearchOutcome::Withheld, Answer::default()),
        Ok(Ok(Some((true, _, published)))) if !query.names(&published) => {
            tracing::info!("Search-data webhook for {shown}: a shared number, and no name yet");
            (SearchOutcome::Empty, Answer::default())
        }
        Ok(Ok(Some((_, memories, published)))) => {
            let outcome = if memories.is_empty() {
                SearchOutcome::Empty
            } else {
                SearchOutcome::Found
            };
            tracing::info!(
                "Search-data webhook for {shown}, agent: {}: {} memories",
                query.agent,
                memories.len()
            );
            (outcome, Answer::new(&published, &query.agent, memories))
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "A search for {shown} failed - answering without memories");
            (SearchOutcome::Error, Answer::default())
        }
        Err(_) => {
            tracing::error!("No answer from the store in time for a search of {shown}");
            (SearchOutcome::Deadline, Answer::default())
        }
    }
}
