//! Which agents are left alone for a while, after a fetch that failed.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::table::MAX_AGENTS;
use crate::backoff::Backoff;
use crate::domain::ids::AgentId;

/// How long to leave ElevenLabs alone after a failed fetch.
const PAUSE: Backoff = Backoff {
    base: Duration::from_secs(2),
    cap: Duration::from_secs(5 * 60),
};

/// Failures in a row, and until when an agent is not asked for.
#[derive(Default)]
pub(super) struct Pauses(FxHashMap<AgentId, (u32, Instant)>);

impl Pauses {
    pub fn contains(&self, agent: &AgentId, now: Instant) -> bool {
        self.0.get(agent).is_some_and(|(_, until)| now < *until)
    }

    /// A fetch has failed once more.
    pub fn failed(&mut self, agent: &AgentId, now: Instant, jitter: f64) {
        let failures = self.0.get(agent).map_or(0, |(failures, _)| *failures) + 1;
        self.pause(agent, failures, now, PAUSE.delay(failures, jitter));
    }

    /// The agent is not asked for during `pause`.
    pub fn rest(&mut self, agent: &AgentId, now: Instant, pause: Duration) {
        self.pause(agent, 0, now, pause);
    }

    /// The agent may be asked for at once.
    pub fn end(&mut self, agent: &AgentId) {
        self.0.remove(agent);
    }

    /// Which agents there are is a stranger's word: when it is full, pauses
    /// that are over are forgotten, and if none is, the new one is not kept.
    fn pause(&mut self, agent: &AgentId, failures: u32, now: Instant, pause: Duration) {
        if self.0.len() >= MAX_AGENTS {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() < MAX_AGENTS || self.0.contains_key(agent) {
            self.0.insert(agent.clone(), (failures, now + pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_end_and_are_bounded() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let agent = |i: usize| AgentId::parse(&format!("agent_{i}")).unwrap();
        let after = |seconds| now + Duration::from_secs(seconds);
        pauses.failed(&agent(0), now, 0.0);
        assert!(pauses.contains(&agent(0), after(1)) && !pauses.contains(&agent(0), after(2)));
        pauses.failed(&agent(0), after(2), 0.0);
        assert!(pauses.contains(&agent(0), after(5)));
        pauses.end(&agent(0));
        assert!(!pauses.contains(&agent(0), after(5)));

        for i in 0..MAX_AGENTS + 100 {
            pauses.failed(&agent(i), now, 0.0);
        }
        assert_eq!(pauses.0.len(), MAX_AGENTS);
        pauses.rest(&agent(MAX_AGENTS), after(2), PAUSE.cap);
        assert_eq!(pauses.0.len(), 1, "the others were over");
        assert!(pauses.contains(&agent(MAX_AGENTS), after(200)));
    }
}
