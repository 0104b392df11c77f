//! The first stage of a call: learning it.

use ractor::ActorRef;

use super::change::Change;
use super::{Message, Published, State};
use crate::actors::ticket::Ticket;
use crate::domain::call_event::{self, Call, CallEvent};
use crate::domain::learning::Learning;
use crate::store::{InboxEvent, Settlement, Stage};

impl State {
    pub(super) fn process(
        &mut self,
        myself: &ActorRef<Message>,
        published: &Published,
        ticket: Ticket,
    ) {
        let Some(call) = call_of(ticket.event()) else {
            let error = "the event can no longer be read as a call".to_owned();
            ticket.settle(Settlement::Dead { error });
            return;
        };
        match ticket.event().stage {
            Stage::Learn => self.learn(myself, ticket, &call),
            Stage::Greet => self.greet(myself, published, ticket, call),
        }
    }

    fn learn(&mut self, myself: &ActorRef<Message>, ticket: Ticket, call: &Call) {
        let Some(learning) = Learning::from_call(call) else {
            let error = "the call has no caller to learn from".to_owned();
            ticket.settle(Settlement::Dead { error });
            return;
        };
        tracing::info!(
            conversation = %learning.conversation_id,
            "Processing memories for caller: {}, agent: {}",
            self.tools.caller_ids.show(&self.caller),
            learning.agent,
        );
        self.change(myself, Change::Learn { ticket, learning });
    }
}

fn call_of(event: &InboxEvent) -> Option<Call> {
    match call_event::parse(&event.payload, event.received_at) {
        Ok(CallEvent::Transcription(call)) => Some(call),
        _ => None,
    }
}
