//! The first stage of a call: reading the event and learning it.

use ractor::ActorRef;

use super::change::Change;
use super::{Message, Published, State};
use crate::actors::ticket::Ticket;
use crate::domain::call_event::{self, Call, CallEvent};
use crate::domain::learning::Learning;
use crate::store::{InboxEvent, Settlement, Stage};

/// What an event asks for.
pub(in crate::actors) enum Read {
    Learn(Learning),
    Greet(Call),
    /// It can no longer be worked on; the reason holds nothing of the caller.
    Unusable(&'static str),
}

impl State {
    pub(super) fn process(
        &mut self,
        myself: &ActorRef<Message>,
        published: &Published,
        ticket: Ticket,
    ) {
        if ticket.event().payload.len() <= call_event::LARGE_BODY {
            let read = read(ticket.event());
            self.work_on(myself, published, ticket, read);
            return;
        }
        let reading = self.tools.reading.clone();
        let event = ticket.event().clone();
        self.start(myself, async move {
            let read = reading.run(move || read(&event)).await;
            let read = read.unwrap_or(Read::Unusable("reading the event panicked"));
            Message::Read {
                ticket,
                read: Box::new(read),
            }
        });
    }

    pub(super) fn work_on(
        &mut self,
        myself: &ActorRef<Message>,
        published: &Published,
        ticket: Ticket,
        read: Read,
    ) {
        match read {
            Read::Learn(learning) => self.learn(myself, ticket, learning),
            Read::Greet(call) => self.greet(myself, published, ticket, call),
            Read::Unusable(why) => ticket.settle(Settlement::Dead {
                error: why.to_owned(),
            }),
        }
    }

    fn learn(&mut self, myself: &ActorRef<Message>, ticket: Ticket, learning: Learning) {
        tracing::info!(
            conversation = %learning.conversation_id,
            "Processing memories for caller: {}, agent: {}",
            self.tools.caller_ids.show(&self.caller),
            learning.agent,
        );
        self.change(myself, Change::Learn { ticket, learning });
    }
}

fn read(event: &InboxEvent) -> Read {
    let Ok(CallEvent::Transcription(call)) = call_event::parse(&event.payload, event.received_at)
    else {
        return Read::Unusable("the event can no longer be read as a call");
    };
    match event.stage {
        Stage::Learn => Learning::from_call(&call).map_or(
            Read::Unusable("the call has no caller to learn from"),
            Read::Learn,
        ),
        Stage::Greet => Read::Greet(call),
    }
}
