//! An actor that supervises nobody: all but the root and the session router.
//!
//! Written once, because ractor's defaults are not ours: without a supervision
//! handler of its own, an actor stops on any event of another that is linked
//! to it.

use std::marker::PhantomData;

use ractor::{Actor, ActorProcessingErr, ActorRef, Message, SupervisionEvent};

use super::progress::Beacon;

/// What such an actor does. Its state is the worker itself.
pub(super) trait Worker: Send + Sized + 'static {
    type Message: Message;
    /// What it is (re)started with.
    type Setup: Send + 'static;

    fn start(setup: Self::Setup, myself: &ActorRef<Self::Message>) -> Self;

    /// An error fails the actor: its supervisor starts a new one.
    fn handle(
        &mut self,
        myself: &ActorRef<Self::Message>,
        message: Self::Message,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send;
}

/// Runs a [`Worker`] as an actor.
pub(super) struct WorkerActor<W> {
    /// Shows how long the present message is being handled.
    beacon: Beacon,
    worker: PhantomData<fn() -> W>,
}

impl<W> WorkerActor<W> {
    pub fn new(beacon: Beacon) -> Self {
        // Whoever had it before has failed in the middle of something.
        beacon.idle();
        Self {
            beacon,
            worker: PhantomData,
        }
    }
}

impl<W: Worker + Sync> Actor for WorkerActor<W> {
    type Msg = W::Message;
    type State = W;
    type Arguments = W::Setup;

    async fn pre_start(
        &self,
        myself: ActorRef<W::Message>,
        setup: W::Setup,
    ) -> Result<W, ActorProcessingErr> {
        Ok(W::start(setup, &myself))
    }

    async fn handle(
        &self,
        myself: ActorRef<W::Message>,
        message: W::Message,
        worker: &mut W,
    ) -> Result<(), ActorProcessingErr> {
        self.beacon.busy();
        let handled = worker.handle(&myself, message).await;
        self.beacon.idle();
        handled
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<W::Message>,
        _: SupervisionEvent,
        _: &mut W,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
