//! Calls that were parsed, between their receipt and the end of their work.
//!
//! A call is parsed when it is received. It is kept here so that it need
//! neither be read from the ledger nor parsed again; what no longer fits is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use crate::domain::call_event::Call;
use crate::store::EventId;

/// Memory for calls that wait, in bytes of their bodies; the oldest go first.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Parsed calls by event. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::actors) struct ParsedCalls(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: FxHashMap<EventId, (Arc<Call>, usize)>,
    /// In the order in which they were kept; those forgotten since leave theirs behind.
    order: VecDeque<EventId>,
    bytes: usize,
}

impl State {
    fn remove(&mut self, id: EventId) {
        if let Some((_, bytes)) = self.calls.remove(&id) {
            self.bytes -= bytes;
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
        state.calls.insert(id, (call, bytes));
        state.order.push_back(id);
        state.bytes += bytes;
        // Also when calls come and go, the order does not grow.
        while state.bytes > MOST_BYTES || state.order.len() > 2 * state.calls.len() + 16 {
            let Some(oldest) = state.order.pop_front() else {
                break;
            };
            if state.bytes > MOST_BYTES {
                state.remove(oldest);
            } else if state.calls.contains_key(&oldest) {
                state.order.push_back(oldest);
            }
        }
    }

    /// The call of an event, if it is here.
    pub fn get(&self, id: EventId) -> Option<Arc<Call>> {
        let state = self.state();
        state.calls.get(&id).map(|(call, _)| Arc::clone(call))
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
        assert!(calls.state().order.len() < 100);
        assert!(calls.get(EventId(-1)).is_some(), "the one that waits stays");
    }
}
