//! Columns to values and back.

use std::borrow::Cow;

use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::domain::call_event::EventKey;
use crate::domain::caller_id::CallerId;
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::language::Language;
use crate::domain::memory::Memory;
use crate::domain::name::{CallerName, NameSource};
use crate::domain::profile::{CallOrder, ConversationState, UniversalProfile};
use crate::store::{Result, StoreError};

pub(super) fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A limit as PostgreSQL takes it.
pub(super) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Text as PostgreSQL takes it: a NUL is none of its characters.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

pub(super) fn unreadable(column: &str) -> StoreError {
    StoreError::Corrupt(format!("column {column} has an unexpected value"))
}

pub(super) fn time(row: &PgRow, column: &str) -> Result<Timestamp> {
    Timestamp::from_millisecond(row.try_get(column)?).map_err(|_| unreadable(column))
}

pub(super) fn number<T: TryFrom<i64>>(row: &PgRow, column: &str) -> Result<T> {
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|_| unreadable(column))
}

pub(super) fn caller(row: &PgRow, column: &str) -> Result<CallerId> {
    CallerId::from_stored(row.try_get(column)?).ok_or_else(|| unreadable(column))
}

pub(super) fn agent(row: &PgRow) -> Result<AgentId> {
    AgentId::parse(row.try_get("agent")?).map_err(|_| unreadable("agent"))
}

pub(super) fn conversation(row: &PgRow) -> Result<ConversationId> {
    let id: &str = row.try_get("conversation_id")?;
    ConversationId::parse(id).map_err(|_| unreadable("conversation_id"))
}

pub(super) fn event_key(row: &PgRow) -> Result<EventKey> {
    let (kind, agent): (&str, Option<&str>) = (row.try_get("kind")?, row.try_get("agent")?);
    Ok(EventKey {
        kind: kind.parse().map_err(|_| unreadable("kind"))?,
        conversation_id: conversation(row)?,
        agent_id: agent.and_then(|a| AgentId::parse(a).ok()),
    })
}

pub(super) fn profile(row: &PgRow) -> Result<UniversalProfile> {
    let name: Option<&str> = row.try_get("name")?;
    // A name that today's rules refuse is not told to any agent; it stays in
    // its row until another one is given.
    let name = name.and_then(|n| CallerName::parse(n).ok());
    let name_source = name.as_ref().and_then(|_| name_source(row));
    Ok(UniversalProfile {
        phone_number: caller(row, "caller")?,
        name,
        name_source,
        first_seen: time(row, "first_seen")?,
        total_interactions: number(row, "total_interactions")?,
    })
}

/// Only a part of what is known of a name: unreadable, it is left out.
fn name_source(row: &PgRow) -> Option<NameSource> {
    let evidence: Option<&str> = row.try_get("name_evidence").ok()?;
    let conversation: Option<&str> = row.try_get("name_conversation").ok()?;
    Some(NameSource {
        evidence: evidence?.parse().ok()?,
        conversation_id: conversation.and_then(|id| ConversationId::parse(id).ok()),
        at: time(row, "name_at").ok()?,
    })
}

pub(super) fn state(row: &PgRow) -> Result<ConversationState> {
    let (topics, sentiment): (&str, Option<&str>) =
        (row.try_get("key_topics")?, row.try_get("sentiment")?);
    let language: Option<&str> = row.try_get("language")?;
    let arrival: Option<i64> = row.try_get("greeted_arrival")?;
    let greeted_from = match arrival {
        Some(arrival) => Some(CallOrder {
            started_at: time(row, "greeted_started_at")?,
            arrival,
        }),
        None => None,
    };
    Ok(ConversationState {
        conversation_count: number(row, "conversation_count")?,
        last_call_date: time(row, "last_call_date")?,
        next_greeting: row.try_get("next_greeting")?,
        key_topics: serde_json::from_str(topics).map_err(|_| unreadable("key_topics"))?,
        sentiment: sentiment.and_then(|s| s.parse().ok()),
        conversation_summary: row.try_get("conversation_summary")?,
        greeted_from,
        language: language.and_then(|code| Language::parse(code).ok()),
    })
}

pub(super) fn memory(row: &PgRow) -> Result<Memory> {
    let (kind, sector): (&str, &str) = (row.try_get("kind")?, row.try_get("sector")?);
    let agent_id: Option<&str> = row.try_get("agent")?;
    let language: Option<&str> = row.try_get("language")?;
    Ok(Memory {
        agent: agent_id.map(|_| agent(row)).transpose()?,
        conversation_id: conversation(row)?,
        ordinal: number(row, "ordinal")?,
        kind: kind.parse().map_err(|_| unreadable("kind"))?,
        sector: sector.parse().map_err(|_| unreadable("sector"))?,
        content: row.try_get("content")?,
        before: row.try_get("said_before")?,
        after: row.try_get("said_after")?,
        salience: row.try_get("salience")?,
        timestamp: time(row, "said_at")?,
        language: language.and_then(|code| Language::parse(code).ok()),
    })
}
