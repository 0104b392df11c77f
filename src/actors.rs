//! The supervised actors, each behind a typed handle.
//!
//! ```text
//! RootSupervisor ─┬─ SessionRouter (shards by caller) ── CallerSession, one per active caller
//!                 ├─ AgentCache
//!                 ├─ OpenAiClient
//!                 ├─ Inbox
//!                 ├─ Archiver
//!                 ├─ Retention
//!                 ├─ Reconciler
//!                 └─ WebhookWatch
//! ```
//!
//! Actor references and messages never leave their module: the rest of the
//! program holds handles. A handle outlives its actor; after a restart it
//! reaches the new one.
//!
//! No handler waits for the network or a store but these: a session for the
//! change that it makes, and the OpenAI client for the first of its queue.
//! The others start a task, and its answer comes back as a message.

mod agent_cache;
mod archiver;
mod breaker;
mod callers;
mod connection;
mod directory;
mod fleet;
mod health;
mod inbox;
mod intensity;
mod lanes;
mod memory_vectors;
mod openai;
mod parsed_calls;
mod pipeline;
mod progress;
mod reconciler;
mod retention;
mod router;
mod session;
mod single_flight;
mod slot;
mod supervisor;
mod webhook_watch;
mod worker;

pub use agent_cache::AgentCache;
pub use callers::{CallerError, Callers};
pub use connection::{Connection, Place};
pub use directory::{Directory, LinkError};
pub use health::{Health, Readiness};
pub use inbox::{Delivery, Inbox, Receipt, Recording};
pub use openai::{GreetingFailure, OpenAiClient, OpenAiLimits};
pub use progress::Stuck;
pub use reconciler::{Confirmation, Progress, ReconcileError, Reconciler, Search};
pub use retention::Retention;
pub use router::{SessionError, SessionOptions, Sessions};
pub use session::{CallerView, Published};
pub use supervisor::{ActorSystem, StartError, SystemOptions};
