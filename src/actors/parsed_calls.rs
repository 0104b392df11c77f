//! Calls that were parsed, between their receipt and the end of their work.
//!
//! A call is parsed when it is received. It is kept here so that it need
//! neither be read from the ledger nor parsed again; what no longer fits is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::domain::call_event::Call;
use crate::store::EventId;

/// Memory for calls that wait, in bytes of their bodies; the oldest go first.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// How long a call is kept that nobody has worked on here: another instance may
/// have, and nothing tells of that.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Parsed calls by event. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct ParsedCalls(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: FxHashMap<EventId, Kept>,
    /// In the order in which they were kept, by their stamps; those forgotten
    /// since leave theirs behind.
    order: VecDeque<(EventId, u64, Instant)>,
    bytes: usize,
    stamps: u64,
}

struct Kept {
    call: Arc<Call>,
    bytes: usize,
    stamp: u64,
}

impl State {
    fn remove(&mut self, id: EventId) {
        if let Some(kept) = self.calls.remove(&id) {
            self.bytes -= kept.bytes;
        }
    }

    /// Drops what is too old, and makes room for so many bytes more.
    fn make_room(&mut self, bytes: usize, now: Instant) {
        let is_old = |kept: &(_, _, Instant)| now.duration_since(kept.2) > LONGEST;
        while self.bytes + bytes > MOST_BYTES || self.order.front().is_some_and(is_old) {
            let Some((id, stamp, _)) = self.order.pop_front() else {
                return;
            };
            if self.is_present(id, stamp) {
                self.remove(id);
            }
        }
    }

    fn is_present(&self, id: EventId, stamp: u64) -> bool {
        self.calls.get(&id).is_some_and(|kept| kept.stamp == stamp)
    }

    /// Drops what was left behind, when it is most of the order.
    fn tidy(&mut self) {
        if self.order.len() > 2 * self.calls.len() + 16 {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|(id, stamp, _)| self.is_present(*id, *stamp));
            self.order = order;
        }
    }
}

impl ParsedCalls {
    /// Keeps a call for whoever works on the event.
    pub fn keep(&self, id: EventId, call: Arc<Call>, bytes: usize) {
        if bytes > MOST_BYTES {
            return;
        }
        let mut state = self.state();
        state.remove(id);
        let now = Instant::now();
        state.make_room(bytes, now);
        state.stamps += 1;
        let stamp = state.stamps;
        state.calls.insert(id, Kept { call, bytes, stamp });
        state.order.push_back((id, stamp, now));
        state.bytes += bytes;
        state.tidy();
    }

    /// The call of an event, if it is here.
    pub fn get(&self, id: EventId) -> Option<Arc<Call>> {
        let state = self.state();
        state.calls.get(&id).map(|kept| Arc::clone(&kept.call))
    }

    /// Nothing is left to be done with an event.
    pub fn forget(&self, id: EventId) {
        self.state().remove(id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::call_event::{EventKey, EventKind};
    use crate::domain::ids::ConversationId;

    fn call() -> Arc<Call> {
        Arc::new(Call {
            key: EventKey {
                kind: EventKind::Transcription,
                conversation_id: ConversationId::parse("c").unwrap(),
                agent_id: None,
            },
            caller: None,
            started_at: Timestamp::UNIX_EPOCH,
            language: None,
            turns: Vec::new(),
            facts: Vec::new(),
        })
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let calls = ParsedCalls::default();
        for id in 0..5 {
            calls.keep(EventId(id), call(), MOST_BYTES / 4);
        }
        let kept: Vec<bool> = (0..5).map(|id| calls.get(EventId(id)).is_some()).collect();
        assert_eq!(kept, [false, true, true, true, true]);
        (0..5).for_each(|id| calls.forget(EventId(id)));
        assert_eq!(calls.state().bytes, 0);
    }

    #[test]
    fn calls_that_come_and_go_leave_nothing_behind() {
        let calls = ParsedCalls::default();
        calls.keep(EventId(-1), call(), 1);
        for id in 0..10_000 {
            calls.keep(EventId(id), call(), 1_000);
            calls.forget(EventId(id));
        }
        // A dead letter that is tried again and again.
        for _ in 0..1_000 {
            calls.keep(EventId(-1), call(), 1);
        }
        assert!(calls.state().order.len() < 100);
        assert!(calls.get(EventId(-1)).is_some(), "the one that waits stays");
    }
}
