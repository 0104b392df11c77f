//! The changes a session makes in the store: one after the other, each
//! published before the next begins.

use std::sync::Arc;

use ractor::ActorRef;
use tokio::sync::oneshot;
use tracing::Span;

use super::{Loading, Message, Published, RenameResult, State};
use crate::actors::ticket::Ticket;
use crate::domain::learning::Learning;
use crate::domain::name::CallerName;
use crate::store::{Greeted, Learned, NewGreeting, Result, RetryCause, Settlement, StoreError};

/// A change to be made.
pub(in crate::actors) enum Change {
    Learn {
        ticket: Ticket,
        learning: Learning,
    },
    Greet {
        ticket: Ticket,
        greeting: NewGreeting,
    },
    Rename {
        name: CallerName,
        reply: oneshot::Sender<RenameResult>,
    },
}

/// A change that was made, or not.
pub(in crate::actors) enum Changed {
    Learned {
        ticket: Ticket,
        learning: Learning,
        result: Result<Learned>,
        /// The index was loaded, and holds the call's memories now.
        indexed: bool,
    },
    Greeted {
        ticket: Ticket,
        greeting: NewGreeting,
        result: Result<Option<Greeted>>,
    },
    Renamed {
        result: RenameResult,
        reply: oneshot::Sender<RenameResult>,
    },
}

impl Change {
    fn span(&self) -> Span {
        match self {
            Self::Learn { ticket, .. } | Self::Greet { ticket, .. } => ticket.span(),
            Self::Rename { .. } => Span::none(),
        }
    }
}

impl Changed {
    fn span(&self) -> Span {
        match self {
            Self::Learned { ticket, .. } | Self::Greeted { ticket, .. } => ticket.span(),
            Self::Renamed { .. } => Span::none(),
        }
    }
}

impl State {
    pub(super) fn change(&mut self, myself: &ActorRef<Message>, change: Change) {
        self.changes.push_back(change);
        self.next_change(myself);
    }

    fn next_change(&mut self, myself: &ActorRef<Message>) {
        if self.changing {
            return;
        }
        let Some(change) = self.changes.pop_front() else {
            return;
        };
        let Some(index) = self.published.as_ref().map(|p| p.index()) else {
            return;
        };
        self.changing = true;
        // A change may be started by the end of another call's.
        let _span = change.span().entered();
        let (store, caller) = (Arc::clone(&self.tools.store), self.caller.clone());
        let compute = self.tools.compute.clone();
        self.start(myself, async move {
            Message::Changed(Box::new(match change {
                Change::Learn {
                    ticket,
                    mut learning,
                } => {
                    let result = store.learn(&learning).await;
                    let memories = std::mem::take(&mut learning.memories);
                    let applied = result.as_ref().is_ok_and(|learned| learned.applied);
                    let indexed = applied
                        && index.is_loaded()
                        && compute.run(move || index.extend(memories)).await == Ok(true);
                    Changed::Learned {
                        ticket,
                        learning,
                        result,
                        indexed,
                    }
                }
                Change::Greet { ticket, greeting } => {
                    let result = store.store_greeting(&greeting).await;
                    Changed::Greeted {
                        ticket,
                        greeting,
                        result,
                    }
                }
                Change::Rename { name, reply } => {
                    let result = store.rename(&caller, &name).await;
                    Changed::Renamed { result, reply }
                }
            }))
        });
    }

    pub(super) fn changed(
        &mut self,
        myself: &ActorRef<Message>,
        published: &Published,
        changed: Changed,
    ) {
        self.under_way -= 1;
        self.changing = false;
        let span = changed.span().entered();
        match changed {
            Changed::Learned {
                ticket,
                learning,
                result: Ok(learned),
                indexed,
            } => {
                if !indexed {
                    self.index_lacks_a_call(myself, published);
                }
                self.learned(published, ticket, learning, learned);
            }
            Changed::Greeted {
                ticket,
                greeting,
                result: Ok(greeted),
            } => {
                self.greeted(published, ticket, greeting, greeted);
            }
            Changed::Learned {
                ticket,
                result: Err(error),
                ..
            }
            | Changed::Greeted {
                ticket,
                result: Err(error),
                ..
            } => store_failed(ticket, error),
            Changed::Renamed { result, reply } => {
                if let Ok(Some(renamed)) = &result {
                    published.update(|view| {
                        view.profile = Some(renamed.profile.clone());
                        view.states = renamed.states.iter().cloned().collect();
                    });
                }
                let _ = reply.send(result);
            }
        }
        drop(span);
        self.next_change(myself);
    }

    fn learned(&self, published: &Published, ticket: Ticket, learning: Learning, learned: Learned) {
        published.update(|view| {
            view.profile = Some(learned.profile);
            view.states.insert(learning.agent, learned.state);
        });
        tracing::info!(
            "Updated universal profile for {}",
            self.tools.caller_ids.show(&self.caller)
        );
        ticket.settle(Settlement::Learned);
    }

    /// A call was learned whose memories the index may lack: it was being
    /// loaded meanwhile, or the call was applied without our hearing of it.
    fn index_lacks_a_call(&mut self, myself: &ActorRef<Message>, published: &Published) {
        if let Some(loading) = &mut self.loading {
            loading.outdated = true;
        } else if published.is_indexed() {
            self.loading = Some(Loading::default());
            self.read_memories(myself);
        }
    }

    fn greeted(
        &self,
        published: &Published,
        ticket: Ticket,
        new: NewGreeting,
        greeted: Option<Greeted>,
    ) {
        if let Some(greeted) = greeted {
            if greeted.stored {
                let caller = self.tools.caller_ids.show(&self.caller);
                tracing::info!(
                    "Stored agent-specific state for {caller} with agent {}",
                    new.agent
                );
            }
            published.update(|view| {
                view.profile = Some(greeted.profile);
                view.states.insert(new.agent, greeted.state);
            });
        }
        ticket.settle(Settlement::Greeted);
    }
}

fn store_failed(ticket: Ticket, error: StoreError) {
    tracing::error!(%error, conversation = %ticket.event().key.conversation_id, "A call cannot be stored");
    match error {
        StoreError::Corrupt(error) => ticket.settle(Settlement::Dead { error }),
        StoreError::Unavailable(error) => ticket.retry(RetryCause::Outage, error, None),
    }
}
