//! Where a handle finds its actor, also after a restart.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, Message};

/// The present actor of a kind. Cheap to clone; all clones see a restart.
pub(super) struct Slot<M>(Arc<ArcSwapOption<ActorRef<M>>>);

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Default for Slot<M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<M: Message> Slot<M> {
    /// Puts a (re)started actor in place.
    pub fn set(&self, actor: ActorRef<M>) {
        self.0.store(Some(Arc::new(actor)));
    }

    /// Sends a message. False if no actor is there to take it; what the
    /// message holds is dropped then.
    pub fn send(&self, message: M) -> bool {
        self.0
            .load()
            .as_ref()
            .is_some_and(|actor| actor.send_message(message).is_ok())
    }
}
