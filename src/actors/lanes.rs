//! The lanes: how many events of each stage are worked on at a time, and who
//! holds which.
//!
//! A lane has room for so many events and so many bytes of them, so that slow
//! greetings do not hold up learning and large calls do not fill the memory.
//! Whoever works on an event holds its [`Lease`]; dropping that gives the
//! place back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::progress::{Beacon, Watched};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::store::{EventId, InboxEvent, Stage};

/// Memory for the events of a lane, in bytes of their bodies. A larger event
/// is worked on alone.
const LANE_BYTES: usize = 32 * 1024 * 1024;

/// Events of a stage that are worked on at a time.
fn places(stage: Stage) -> usize {
    match stage {
        Stage::Learn => 256,
        Stage::Greet => 128,
    }
}

/// How long a lane that has work may go without ending or starting any. Above
/// all limits on what it waits for, so that only a fault of ours exceeds it.
fn patience(stage: Stage) -> Duration {
    match stage {
        Stage::Learn => Duration::from_secs(5 * 60),
        Stage::Greet => Duration::from_secs(15 * 60),
    }
}

/// The lanes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lanes(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    emptied: Notify,
    /// Tells whoever hands out events that a place is free.
    freed: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    learn: Lane,
    greet: Lane,
    /// Whose greeting is being made: one at a time for a caller and agent.
    greeted: FxHashSet<(CallerId, AgentId)>,
    /// Nothing is begun any more.
    closed: bool,
}

/// An event under way.
struct Held {
    bytes: usize,
    /// Ends the work on it.
    cancelled: CancellationToken,
}

#[derive(Default)]
struct Lane {
    events: FxHashMap<EventId, Held>,
    bytes: usize,
    beacon: Beacon,
}

impl Lane {
    fn has_room(&self, stage: Stage, bytes: usize) -> bool {
        self.events.len() < places(stage)
            && (self.events.is_empty() || self.bytes + bytes <= LANE_BYTES)
    }
}

impl State {
    fn lane(&mut self, stage: Stage) -> &mut Lane {
        match stage {
            Stage::Learn => &mut self.learn,
            Stage::Greet => &mut self.greet,
        }
    }

    fn take(&mut self, event: &InboxEvent, cancelled: &CancellationToken) -> bool {
        let (stage, bytes) = (event.stage, event.payload_bytes);
        let pair = greeted_pair(event);
        let greets_already = pair
            .as_ref()
            .is_some_and(|pair| self.greeted.contains(pair));
        let lane = self.lane(stage);
        if !lane.has_room(stage, bytes) || greets_already || lane.events.contains_key(&event.id) {
            return false;
        }
        let cancelled = cancelled.clone();
        lane.events.insert(event.id, Held { bytes, cancelled });
        lane.bytes += bytes;
        lane.beacon.busy();
        self.greeted.extend(pair);
        true
    }

    fn give_back(&mut self, event: &InboxEvent) {
        let lane = self.lane(event.stage);
        if let Some(held) = lane.events.remove(&event.id) {
            lane.bytes -= held.bytes;
        }
        if lane.events.is_empty() {
            lane.beacon.idle();
        } else {
            lane.beacon.busy();
        }
        if let Some(pair) = greeted_pair(event) {
            self.greeted.remove(&pair);
        }
    }
}

fn greeted_pair(event: &InboxEvent) -> Option<(CallerId, AgentId)> {
    match (event.stage, &event.caller, &event.key.agent_id) {
        (Stage::Greet, Some(caller), Some(agent)) => Some((caller.clone(), agent.clone())),
        _ => None,
    }
}

impl Lanes {
    /// `freed` is called whenever a place is.
    pub fn new(freed: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            emptied: Notify::new(),
            freed: Box::new(freed),
        }))
    }

    /// Which events of a stage are under way, and how many more there is a
    /// place for. No place once closed.
    pub fn room(&self, stage: Stage) -> (Vec<EventId>, usize) {
        let mut state = self.state();
        let closed = state.closed;
        let events = &state.lane(stage).events;
        let free = places(stage).saturating_sub(events.len());
        (
            events.keys().copied().collect(),
            if closed { 0 } else { free },
        )
    }

    /// Takes a place for an event in the lane of its stage. `None` if there is
    /// none now, or if it or a greeting of its caller and agent is under way.
    pub fn take(&self, event: InboxEvent) -> Option<Lease> {
        let mut state = self.state();
        let cancelled = CancellationToken::new();
        (!state.closed && state.take(&event, &cancelled)).then(|| Lease {
            event,
            cancelled,
            lanes: self.clone(),
        })
    }

    /// The events are gone: whoever works on one of them stops.
    pub fn cancel(&self, events: &[EventId]) {
        let mut state = self.state();
        for stage in [Stage::Learn, Stage::Greet] {
            for event in events {
                if let Some(held) = state.lane(stage).events.get(event) {
                    held.cancelled.cancel();
                }
            }
        }
    }

    /// Begins nothing more.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// Begins nothing more, and waits until what is under way has ended.
    pub async fn drain(&self) {
        self.close();
        loop {
            let emptied = self.0.emptied.notified();
            let is_empty = {
                let state = self.state();
                state.learn.events.is_empty() && state.greet.events.is_empty()
            };
            if is_empty {
                return;
            }
            emptied.await;
        }
    }

    pub fn watched(&self) -> [Watched; 2] {
        let mut state = self.state();
        [(Stage::Learn, "learning"), (Stage::Greet, "greetings")].map(|(stage, name)| Watched {
            name,
            beacon: state.lane(stage).beacon.clone(),
            limit: patience(stage),
            vital: true,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to work on one stage of an event.
pub(super) struct Lease {
    event: InboxEvent,
    cancelled: CancellationToken,
    lanes: Lanes,
}

impl Lease {
    pub fn event(&self) -> &InboxEvent {
        &self.event
    }

    /// Goes on to the event's next stage, if its lane has a place; else the
    /// inbox hands the event out when it has.
    pub fn enter(&mut self, stage: Stage) -> bool {
        let mut next = self.event.clone();
        (next.stage, next.attempts) = (stage, 0);
        if stage == Stage::Greet {
            next.greet_since = Some(Timestamp::now());
        }
        let mut state = self.lanes.state();
        if state.closed || !state.take(&next, &self.cancelled) {
            return false;
        }
        state.give_back(&self.event);
        drop(state);
        self.event = next;
        (self.lanes.0.freed)();
        true
    }

    /// Is cancelled when the event is gone.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// What is waited for is known to be away, and watched by others.
    pub fn beat(&self) {
        self.lanes.state().lane(self.event.stage).beacon.busy();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lanes.state().give_back(&self.event);
        (self.lanes.0.freed)();
        self.lanes.0.emptied.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call_event::{EventKey, EventKind};
    use crate::domain::ids::ConversationId;
    use crate::domain::profile::CallOrder;
    use futures_util::FutureExt;

    fn event(id: i64, stage: Stage, agent: &str, payload_bytes: usize) -> InboxEvent {
        InboxEvent {
            id: EventId(id),
            stage,
            fence: 0,
            key: EventKey {
                kind: EventKind::Transcription,
                conversation_id: ConversationId::parse("c").unwrap(),
                agent_id: AgentId::parse(agent).ok(),
            },
            caller: CallerId::parse("+16125550101").ok(),
            order: CallOrder {
                started_at: Timestamp::UNIX_EPOCH,
                arrival: id,
            },
            attempts: 3,
            crashes: 0,
            unusable: 0,
            received_at: Timestamp::UNIX_EPOCH,
            greet_since: None,
            trace: None,
            payload_bytes,
        }
    }

    #[test]
    fn a_lane_is_full_by_events_or_by_bytes_and_a_giant_goes_alone() {
        let lanes = Lanes::new(|| {});
        let giant = lanes.take(event(0, Stage::Learn, "a", 2 * LANE_BYTES));
        assert!(giant.is_some() && lanes.take(event(1, Stage::Learn, "a", 1)).is_none());
        drop(giant);
        let half = LANE_BYTES / 2;
        let two = [1, 2].map(|id| lanes.take(event(id, Stage::Learn, "a", half)).unwrap());
        assert!(lanes.take(event(3, Stage::Learn, "a", 1)).is_none());
        drop(two);
        let all: Vec<_> = (0..300)
            .filter_map(|id| lanes.take(event(id, Stage::Learn, "a", 1)))
            .collect();
        assert_eq!(all.len(), places(Stage::Learn));
        assert_eq!(lanes.room(Stage::Learn).1, 0);
    }

    #[test]
    fn one_greeting_of_a_caller_and_agent_at_a_time() {
        let lanes = Lanes::new(|| {});
        let mut learned = lanes.take(event(1, Stage::Learn, "a", 1)).unwrap();
        let other = lanes.take(event(2, Stage::Greet, "b", 1));
        let first = lanes.take(event(3, Stage::Greet, "a", 1));
        assert!(other.is_some() && first.is_some());
        assert!(lanes.take(event(4, Stage::Greet, "a", 1)).is_none());
        assert!(!learned.enter(Stage::Greet), "its pair is being greeted");
        assert_eq!(learned.event().stage, Stage::Learn);
        drop(first);
        assert!(learned.enter(Stage::Greet));
        assert_eq!(
            (learned.event().stage, learned.event().attempts),
            (Stage::Greet, 0)
        );
        assert_eq!(lanes.room(Stage::Learn).0, []);
    }

    #[test]
    fn draining_waits_for_what_is_under_way_and_begins_nothing() {
        let lanes = Lanes::new(|| {});
        let mut lease = lanes.take(event(1, Stage::Learn, "a", 1)).unwrap();
        let mut drained = Box::pin(lanes.drain());
        assert_eq!(drained.as_mut().now_or_never(), None);
        assert!(!lease.enter(Stage::Greet));
        assert!(lanes.take(event(2, Stage::Learn, "a", 1)).is_none());
        drop(lease);
        assert_eq!(drained.now_or_never(), Some(()));
    }
}
