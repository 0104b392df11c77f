//! What is known of agents. Pure: whoever asks says what time it is.
//!
//! A profile that is known stands until there is a better one, because
//! ElevenLabs ends a call in which a declared variable is missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustc_hash::FxHashMap;

use crate::domain::agent_profile::AgentProfile;
use crate::domain::ids::AgentId;
use crate::metric_definitions::CacheResult;

/// How long an unknown agent is not asked for again.
pub(super) const NOT_FOUND_TTL: Duration = Duration::from_secs(5 * 60);
/// Most agents held: bounds what a stranger with the webhook's key can fill.
pub(super) const MAX_AGENTS: usize = 10_000;
/// A known agent is given up when it was not found so often …
const GONE_AFTER_TIMES: u32 = 3;
/// … over so long: one 404 may be a fault of the other side.
const GONE_AFTER: Duration = Duration::from_secs(10 * 60);
/// When a profile was fetched that is stale however long it may be kept.
pub(super) const STALE: Timestamp = Timestamp::UNIX_EPOCH;

#[derive(Default)]
pub(super) struct Table(FxHashMap<AgentId, Known>);

enum Known {
    Profile {
        profile: Arc<AgentProfile>,
        fetched_at: Timestamp,
        /// How often in a row it was not found since, and when for the first time.
        absent: Option<(u32, Instant)>,
    },
    /// There is no such agent, as far as we were told until then.
    NotFound { until: Instant },
}

/// What it means that an agent was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// Its profile stands for now.
    Doubted,
    /// Its profile is gone.
    Gone,
    /// Nothing was known of it.
    Unknown,
}

impl Table {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn look_up(
        &self,
        agent: &AgentId,
        ttl: SignedDuration,
        (today, now): (Timestamp, Instant),
    ) -> (CacheResult, Option<Arc<AgentProfile>>) {
        match self.0.get(agent) {
            Some(Known::Profile {
                profile,
                fetched_at,
                ..
            }) => {
                let result = if today.duration_since(*fetched_at) < ttl {
                    CacheResult::Hit
                } else {
                    CacheResult::Stale
                };
                (result, Some(Arc::clone(profile)))
            }
            Some(Known::NotFound { until }) if now < *until => (CacheResult::Negative, None),
            _ => (CacheResult::Miss, None),
        }
    }

    /// The profile, however old.
    pub fn profile(&self, agent: &AgentId) -> Option<Arc<AgentProfile>> {
        match self.0.get(agent)? {
            Known::Profile { profile, .. } => Some(Arc::clone(profile)),
            Known::NotFound { .. } => None,
        }
    }

    /// This is the agent's profile now.
    pub fn keep(
        &mut self,
        agent: &AgentId,
        profile: Arc<AgentProfile>,
        fetched_at: Timestamp,
        now: Instant,
    ) {
        let known = Known::Profile {
            profile,
            fetched_at,
            absent: None,
        };
        self.insert(agent, known, now);
    }

    /// ElevenLabs knows no such agent.
    pub fn not_found(&mut self, agent: &AgentId, now: Instant) -> Absence {
        let absence = match self.0.get_mut(agent) {
            Some(Known::Profile { absent, .. }) => {
                let (times, since) = absent.unwrap_or((0, now));
                *absent = Some((times + 1, since));
                if times + 1 < GONE_AFTER_TIMES || now.duration_since(since) < GONE_AFTER {
                    return Absence::Doubted;
                }
                Absence::Gone
            }
            Some(Known::NotFound { .. }) | None => Absence::Unknown,
        };
        let until = now + NOT_FOUND_TTL;
        self.insert(agent, Known::NotFound { until }, now);
        absence
    }

    /// What is known of the agent is to be asked anew: a profile stands until
    /// then, but is stale. False if nothing was known.
    pub fn invalidate(&mut self, agent: &AgentId) -> bool {
        match self.0.get_mut(agent) {
            Some(Known::Profile { fetched_at, .. }) => *fetched_at = STALE,
            Some(Known::NotFound { .. }) => drop(self.0.remove(agent)),
            None => return false,
        }
        true
    }

    fn insert(&mut self, agent: &AgentId, known: Known, now: Instant) {
        if self.len() >= MAX_AGENTS {
            self.0
                .retain(|_, known| !matches!(known, Known::NotFound { until } if *until <= now));
        }
        if self.len() < MAX_AGENTS || self.0.contains_key(agent) {
            self.0.insert(agent.clone(), known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);
    const MINUTE: Duration = Duration::from_secs(60);

    fn agent() -> AgentId {
        AgentId::parse("agent_margaret").unwrap()
    }

    /// A table that knows the agent, and the time.
    fn known() -> (Table, Timestamp, Instant) {
        let (mut table, today, now) = (Table::default(), Timestamp::now(), Instant::now());
        table.keep(&agent(), Arc::default(), today, now);
        (table, today, now)
    }

    fn found(table: &Table, today: Timestamp, now: Instant) -> CacheResult {
        let (result, profile) = table.look_up(&agent(), DAY, (today, now));
        assert_eq!(profile, table.profile(&agent()));
        result
    }

    #[test]
    fn a_known_agent_is_gone_only_when_it_was_not_found_again_and_again() {
        let (mut table, today, now) = known();
        let mut not_found = |minutes| table.not_found(&agent(), now + minutes * MINUTE);
        // However often in a short time, and once more after a long one.
        for minutes in [0, 1, 2, 3, 9] {
            assert_eq!(not_found(minutes), Absence::Doubted, "after {minutes}");
        }
        assert_eq!(not_found(10), Absence::Gone);
        let later = now + 11 * MINUTE;
        assert_eq!(found(&table, today, later), CacheResult::Negative);
        assert_eq!(table.not_found(&agent(), later), Absence::Unknown);

        let (mut table, ..) = known();
        let mut not_found = |minutes| table.not_found(&agent(), now + minutes * MINUTE);
        assert_eq!(not_found(0), Absence::Doubted);
        assert_eq!(not_found(60), Absence::Doubted, "twice is not enough");
        assert_eq!(not_found(61), Absence::Gone);
    }

    #[test]
    fn an_agent_that_is_found_again_is_doubted_anew() {
        let (mut table, today, now) = known();
        for minutes in [0, 5] {
            table.not_found(&agent(), now + minutes * MINUTE);
        }
        table.keep(&agent(), Arc::default(), today, now + 6 * MINUTE);
        let absence = table.not_found(&agent(), now + 10 * MINUTE);
        assert_eq!(absence, Absence::Doubted);
    }

    #[test]
    fn an_invalidated_profile_is_stale_and_stands() {
        let (mut table, today, now) = known();
        assert_eq!(found(&table, today, now), CacheResult::Hit);
        assert!(table.invalidate(&agent()));
        assert_eq!(found(&table, today, now), CacheResult::Stale);
        table.keep(&agent(), Arc::default(), today, now);
        assert_eq!(found(&table, today, now), CacheResult::Hit);

        let mut empty = Table::default();
        assert!(!empty.invalidate(&agent()));
        empty.not_found(&agent(), now);
        assert!(empty.invalidate(&agent()));
        assert_eq!(found(&empty, today, now), CacheResult::Miss);
    }

    #[test]
    fn strangers_fill_it_to_its_bound_and_for_a_while() {
        let (mut table, today, now) = known();
        for i in 0..=MAX_AGENTS {
            table.not_found(&AgentId::parse(&format!("agent_{i}")).unwrap(), now);
        }
        assert_eq!(table.len(), MAX_AGENTS);
        let newcomer = AgentId::parse("agent_luigi").unwrap();
        table.keep(&newcomer, Arc::default(), today, now + NOT_FOUND_TTL);
        assert_eq!(table.len(), 2);
    }
}
