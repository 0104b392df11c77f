//! Databases with many callers, each with a name and one agent's greeting.

use std::path::Path;

use elaoms::domain::caller_id::CallerId;
use elaoms::domain::greeting::Sentiment;
use elaoms::domain::ids::AgentId;
use elaoms::domain::name::CallerName;
use elaoms::domain::profile::{CallOrder, ConversationState, UniversalProfile};
use elaoms::store::{CallerExport, MemoryStore, SqliteDatabase, SqliteMemoryStore};
use futures_util::stream::{self, TryStreamExt};
use jiff::Timestamp;

use super::Result;

/// The agent that knows them.
pub const AGENT: &str = "agent_bench";

/// The telephone number of a caller.
pub fn number(caller: usize) -> String {
    format!("+1612{:03}{:04}", 200 + caller / 10_000, caller % 10_000)
}

/// A caller for each place, neighbours far apart. The same as in `load.lua`.
pub fn scattered(place: usize, count: usize) -> usize {
    place * 7_919 % count
}

/// Makes a database that knows the first `count` callers.
#[tokio::main]
pub async fn callers(path: &Path, count: usize) -> Result<()> {
    let database = SqliteDatabase::open(path)?;
    let store = SqliteMemoryStore::new(database.clone());
    stream::iter((0..count).map(Ok))
        .try_for_each_concurrent(512, async |caller| {
            store.import(&known(caller)?).await.map_err(Into::into)
        })
        .await
        .map_err(|error: Box<dyn std::error::Error>| error)?;
    database.close().await;
    Ok(())
}

fn known(caller: usize) -> Result<CallerExport> {
    let called = Timestamp::from_second(1_700_000_000 + caller as i64)?;
    let state = ConversationState {
        conversation_count: 3,
        last_call_date: called,
        next_greeting: Some("Hi Nora! Did the slugs find your raised beds again?".into()),
        key_topics: vec!["slugs".into(), "raised beds".into(), "tomatoes".into()],
        sentiment: Some(Sentiment::Positive),
        conversation_summary: Some(
            "Nora asked how to keep slugs away from the tomatoes in her raised beds.".into(),
        ),
        greeted_from: Some(CallOrder {
            started_at: called,
            arrival: 1,
        }),
        language: None,
    };
    Ok(CallerExport {
        profile: UniversalProfile {
            phone_number: CallerId::parse(&number(caller))?,
            name: Some(CallerName::parse("Nora")?),
            name_source: None,
            first_seen: called,
            total_interactions: 3,
        },
        states: vec![(AgentId::parse(AGENT)?, state)],
        memories: Vec::new(),
        learned: Vec::new(),
    })
}
