//! Columns to values and back.

use jiff::Timestamp;
use rusqlite::{Connection, Row};

use crate::domain::call_event::EventKey;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::language::Language;
use crate::domain::memory::Memory;
use crate::domain::name::{CallerName, NameSource};
use crate::domain::profile::{CallOrder, ConversationState, UniversalProfile};
use crate::store::{Result, StoreError};

/// Every row of a query.
pub(super) fn query<T>(
    db: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The first row, if there is one.
pub(super) fn first<T>(
    db: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

pub(super) fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

pub(super) fn time(row: &Row<'_>, column: &str) -> Result<Timestamp> {
    let millis: i64 = row.get(column)?;
    Timestamp::from_millisecond(millis).map_err(|_| unreadable(column))
}

pub(super) fn unreadable(column: &str) -> StoreError {
    StoreError::Corrupt(format!("column {column} has an unexpected value"))
}

pub(super) fn caller(row: &Row<'_>) -> Result<CallerId> {
    let text: String = row.get("caller")?;
    CallerId::from_stored(&text).ok_or_else(|| unreadable("caller"))
}

pub(super) fn agent(row: &Row<'_>) -> Result<AgentId> {
    let text: String = row.get("agent")?;
    AgentId::parse(&text).map_err(|_| unreadable("agent"))
}

pub(super) fn conversation_id(row: &Row<'_>) -> Result<ConversationId> {
    let text: String = row.get("conversation_id")?;
    ConversationId::parse(&text).map_err(|_| unreadable("conversation_id"))
}

pub(super) fn event_key(row: &Row<'_>) -> Result<EventKey> {
    let kind: String = row.get("kind")?;
    let agent: Option<String> = row.get("agent")?;
    Ok(EventKey {
        kind: kind.parse().map_err(|_| unreadable("kind"))?,
        conversation_id: conversation_id(row)?,
        agent_id: agent.and_then(|a| AgentId::parse(&a).ok()),
    })
}

pub(super) fn profile(row: &Row<'_>) -> Result<UniversalProfile> {
    let name: Option<String> = row.get("name")?;
    let total: i64 = row.get("total_interactions")?;
    // A name that today's rules refuse is not told to any agent; it stays in
    // its row until another one is given.
    let name = name.and_then(|n| CallerName::parse(&n).ok());
    let name_source = name.as_ref().and_then(|_| name_source(row));
    Ok(UniversalProfile {
        phone_number: caller(row)?,
        name,
        name_source,
        first_seen: time(row, "first_seen")?,
        total_interactions: u64::try_from(total).map_err(|_| unreadable("total_interactions"))?,
    })
}

/// Only a part of what is known of a name: unreadable, it is left out.
fn name_source(row: &Row<'_>) -> Option<NameSource> {
    let evidence: Option<String> = row.get("name_evidence").ok()?;
    let conversation: Option<String> = row.get("name_conversation").ok()?;
    Some(NameSource {
        evidence: evidence?.parse().ok()?,
        conversation_id: conversation.and_then(|id| ConversationId::parse(&id).ok()),
        at: time(row, "name_at").ok()?,
    })
}

pub(super) fn state(row: &Row<'_>) -> Result<ConversationState> {
    let count: i64 = row.get("conversation_count")?;
    let topics: String = row.get("key_topics")?;
    let sentiment: Option<String> = row.get("sentiment")?;
    let language: Option<String> = row.get("language")?;
    let arrival: Option<i64> = row.get("greeted_arrival")?;
    let greeted_from = match arrival {
        Some(arrival) => Some(CallOrder {
            started_at: time(row, "greeted_started_at")?,
            arrival,
        }),
        None => None,
    };
    Ok(ConversationState {
        conversation_count: u64::try_from(count).map_err(|_| unreadable("conversation_count"))?,
        last_call_date: time(row, "last_call_date")?,
        next_greeting: row.get("next_greeting")?,
        key_topics: serde_json::from_str(&topics).map_err(|_| unreadable("key_topics"))?,
        sentiment: sentiment.and_then(|s| s.parse().ok()),
        conversation_summary: row.get("conversation_summary")?,
        greeted_from,
        language: language.and_then(|code| Language::parse(&code).ok()),
    })
}

pub(super) fn memory(row: &Row<'_>) -> Result<Memory> {
    let sector: String = row.get("sector")?;
    let kind: String = row.get("kind")?;
    let agent_id: Option<String> = row.get("agent")?;
    let language: Option<String> = row.get("language")?;
    Ok(Memory {
        agent: agent_id.map(|_| agent(row)).transpose()?,
        conversation_id: conversation_id(row)?,
        ordinal: row.get("ordinal")?,
        kind: kind.parse().map_err(|_| unreadable("kind"))?,
        sector: sector.parse().map_err(|_| unreadable("sector"))?,
        content: row.get("content")?,
        before: row.get("said_before")?,
        after: row.get("said_after")?,
        salience: row.get("salience")?,
        timestamp: time(row, "said_at")?,
        language: language.and_then(|code| Language::parse(&code).ok()),
    })
}
