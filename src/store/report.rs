//! A caller as operators see it, and as a person who asks gets it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rustc_hash::FxHashSet;
use serde::Serialize;

use super::{CallerExport, KnownCalls};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::ConversationId;
use crate::domain::memory::Memory;
use crate::domain::name::{CallerName, NameSource};
use crate::domain::profile::{ConversationState, UniversalProfile};
use crate::domain::standing::{Standing, Standings};

/// Most decisions of each kind that are listed.
const MAX_LISTED: usize = 10_000;

/// A caller, with what operators decided.
#[derive(Debug, Clone, Serialize)]
pub struct ShownCaller {
    /// The id that was asked for, as it is stored.
    pub caller: String,
    /// `None` if nothing is kept.
    #[serde(flatten)]
    pub report: Option<CallerReport>,
    /// Nothing is kept from now on.
    pub opted_out: bool,
    /// Several people use the number.
    pub shared: bool,
    /// Whose further number it is.
    pub linked_to: Option<String>,
    /// Further numbers of the caller.
    pub further_numbers: Vec<String>,
}

impl ShownCaller {
    /// `None` if nothing is kept of the caller and nothing decided.
    #[must_use]
    pub fn new(
        caller: &CallerId,
        report: Option<CallerReport>,
        standings: &Standings,
    ) -> Option<Self> {
        let person = standings.person(caller);
        let mut further_numbers: Vec<String> = standings
            .numbers_of(person)
            .into_iter()
            .map(|number| number.as_str().to_owned())
            .collect();
        further_numbers.sort();
        let shown = Self {
            caller: caller.as_str().to_owned(),
            report,
            opted_out: standings.of(caller) == Standing::OptedOut,
            shared: standings.shared.contains(caller),
            linked_to: (person != caller).then(|| person.as_str().to_owned()),
            further_numbers,
        };
        let is_somebody = shown.report.is_some()
            || shown.opted_out
            || shown.shared
            || shown.linked_to.is_some()
            || !shown.further_numbers.is_empty();
        is_somebody.then_some(shown)
    }
}

/// What operators decided, for all callers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DecisionsReport {
    pub opted_out: Vec<String>,
    pub shared: Vec<String>,
    pub links: Vec<LinkReport>,
    /// How many more there are than are listed.
    pub more: usize,
}

/// Two numbers of one person.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LinkReport {
    pub number: String,
    pub caller: String,
}

impl DecisionsReport {
    /// In order of the numbers; of each kind no more than some thousands.
    #[must_use]
    pub fn of(standings: &Standings) -> Self {
        let mut more = 0;
        let ids =
            |callers: &FxHashSet<CallerId>| callers.iter().map(|c| c.as_str().to_owned()).collect();
        let links = standings.aliases.iter().map(|(number, caller)| LinkReport {
            number: number.as_str().to_owned(),
            caller: caller.as_str().to_owned(),
        });
        Self {
            opted_out: listed(ids(&standings.opted_out), &mut more),
            shared: listed(ids(&standings.shared), &mut more),
            links: listed(links.collect(), &mut more),
            more,
        }
    }
}

fn listed<T: Ord>(mut all: Vec<T>, more: &mut usize) -> Vec<T> {
    all.sort_unstable();
    *more += all.len().saturating_sub(MAX_LISTED);
    all.truncate(MAX_LISTED);
    all
}

/// Everything that is kept of a caller.
#[derive(Debug, Clone, Serialize)]
pub struct CallerReport {
    pub phone_number: String,
    pub name: Option<CallerName>,
    pub name_source: Option<NameSource>,
    pub first_seen: Timestamp,
    pub total_interactions: u64,
    /// Tier 2 by agent.
    pub agents: BTreeMap<String, AgentReport>,
    /// `None` where only the tiers were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memories: Option<Vec<MemoryReport>>,
    /// Calls learned, as far as their ids are known: their transcripts are in
    /// the archive under these names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversations: Option<Vec<ConversationId>>,
}

/// What one agent knows of the caller.
#[derive(Debug, Clone, Serialize)]
pub struct AgentReport {
    conversation_count: u64,
    last_call_date: Timestamp,
    next_greeting: Option<String>,
    key_topics: Vec<String>,
    sentiment: Option<&'static str>,
    conversation_summary: Option<String>,
}

/// One memory.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryReport {
    agent: Option<String>,
    conversation_id: ConversationId,
    content: String,
    /// What the agent said around it, kept to find it by.
    said_before: String,
    said_after: String,
    sector: &'static str,
    salience: f32,
    timestamp: Timestamp,
}

impl CallerReport {
    /// The tiers alone.
    #[must_use]
    pub fn of_tiers<'a>(
        profile: &UniversalProfile,
        states: impl IntoIterator<Item = (String, &'a ConversationState)>,
    ) -> Self {
        let states = states.into_iter();
        Self {
            phone_number: profile.phone_number.as_str().to_owned(),
            name: profile.name.clone(),
            name_source: profile.name_source.clone(),
            first_seen: profile.first_seen,
            total_interactions: profile.total_interactions,
            agents: states
                .map(|(agent, state)| (agent, AgentReport::from(state)))
                .collect(),
            memories: None,
            conversations: None,
        }
    }

    /// Everything.
    #[must_use]
    pub fn of_export(export: &CallerExport, calls: KnownCalls) -> Self {
        let states = export.states.iter();
        let states = states.map(|(agent, state)| (agent.to_string(), state));
        Self {
            memories: Some(export.memories.iter().map(MemoryReport::from).collect()),
            conversations: Some(calls.conversations),
            ..Self::of_tiers(&export.profile, states)
        }
    }
}

impl From<&ConversationState> for AgentReport {
    fn from(state: &ConversationState) -> Self {
        Self {
            conversation_count: state.conversation_count,
            last_call_date: state.last_call_date,
            next_greeting: state.next_greeting.clone(),
            key_topics: state.key_topics.clone(),
            sentiment: state.sentiment.map(|sentiment| sentiment.as_str()),
            conversation_summary: state.conversation_summary.clone(),
        }
    }
}

impl From<&Memory> for MemoryReport {
    fn from(memory: &Memory) -> Self {
        Self {
            agent: memory.agent.as_ref().map(ToString::to_string),
            conversation_id: memory.conversation_id.clone(),
            content: memory.content.clone(),
            said_before: memory.before.clone(),
            said_after: memory.after.clone(),
            sector: memory.sector.as_str(),
            salience: memory.salience,
            timestamp: memory.timestamp,
        }
    }
}
