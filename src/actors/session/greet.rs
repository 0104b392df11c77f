//! The second stage of a call: the next greeting.

use std::sync::Arc;

use ractor::ActorRef;

use super::change::Change;
use super::{Message, Published, State, Tools};
use crate::actors::openai::GreetingFailure;
use crate::actors::ticket::Ticket;
use crate::domain::agent_profile::AgentProfile;
use crate::domain::call_event::Call;
use crate::domain::greeting::Greeting;
use crate::domain::ids::AgentId;
use crate::domain::name;
use crate::domain::profile::UniversalProfile;
use crate::domain::prompt::GreetingPrompt;
use crate::store::{NewGreeting, RetryCause, Settlement};

/// Unusable answers are paid for: so many rounds of tries, then it is given up.
const MAX_UNUSABLE: u32 = 5;

/// What the model made of a call.
pub(in crate::actors) struct GreetingMade {
    call: Call,
    result: Result<Greeting, GreetingFailure>,
}

impl State {
    pub(super) fn greet(
        &mut self,
        myself: &ActorRef<Message>,
        published: &Published,
        ticket: Ticket,
        call: Call,
    ) {
        let view = published.view();
        let agent = call.key.agent_id.clone();
        let state = agent.as_ref().and_then(|agent| view.states.get(agent));
        let wanted = state.is_some_and(|state| state.accepts_greeting_of(ticket.event().order));
        let (Some(agent), Some(openai), true) = (agent, self.tools.openai.clone(), wanted) else {
            // A newer call's greeting stands, or there is no model to ask any more.
            ticket.settle(Settlement::Greeted);
            return;
        };
        tracing::info!(
            conversation = %call.key.conversation_id,
            "Generating next greeting for {} with agent {agent}",
            self.tools.caller_ids.show(&self.caller),
        );
        let tools = Arc::clone(&self.tools);
        self.start(myself, async move {
            let prompt = prompt(&tools, &agent, view.profile.as_ref(), &call).await;
            let result = openai.greeting(prompt).await;
            let made = Box::new(GreetingMade { call, result });
            Message::GreetingMade { ticket, made }
        });
    }

    pub(super) fn greeting_made(
        &mut self,
        myself: &ActorRef<Message>,
        ticket: Ticket,
        GreetingMade { call, result }: GreetingMade,
    ) {
        let greeting = match result {
            Ok(greeting) => greeting,
            Err(failure) => return self.greeting_failed(ticket, failure),
        };
        let Some(agent) = call.key.agent_id.clone() else {
            return ticket.settle(Settlement::Dead {
                error: "the call names no agent".into(),
            });
        };
        let name = greeting.caller_name.clone();
        let new = NewGreeting {
            caller: self.caller.clone(),
            agent,
            conversation_id: call.key.conversation_id.clone(),
            order: ticket.event().order,
            name: name.and_then(|name| name::confirmed_by_turns(name, &call.turns)),
            greeting,
        };
        self.change(
            myself,
            Change::Greet {
                ticket,
                greeting: new,
            },
        );
    }

    fn greeting_failed(&self, ticket: Ticket, failure: GreetingFailure) {
        let (cause, error, retry_after) = match failure {
            GreetingFailure::Unavailable { error, retry_after } => {
                (RetryCause::Outage, error, retry_after)
            }
            GreetingFailure::Unusable { error } => (RetryCause::Unusable, error, None),
        };
        let unusable = u32::from(cause == RetryCause::Unusable) + ticket.event().unusable;
        let hopeless = cause == RetryCause::Unusable && unusable >= MAX_UNUSABLE;
        if hopeless || ticket.is_older_than(self.tools.greeting_retry) {
            tracing::error!(
                conversation = %ticket.event().key.conversation_id,
                "The greeting is given up: OpenAI error: {error}"
            );
            ticket.settle(Settlement::Dead { error });
        } else {
            ticket.retry(cause, error, retry_after);
        }
    }
}

/// An agent that ElevenLabs does not tell us about is still worth a greeting.
async fn prompt(
    tools: &Tools,
    agent: &AgentId,
    profile: Option<&UniversalProfile>,
    call: &Call,
) -> GreetingPrompt {
    let unknown = AgentProfile::default();
    let known = tools.agents.profile(agent).await;
    GreetingPrompt::new(
        agent,
        known.as_deref().unwrap_or(&unknown),
        profile,
        call.started_at,
        &call.turns,
    )
}
