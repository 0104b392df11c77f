//! What is kept: two traits, because what is kept has two natures.
//!
//! - [`Ledger`]: the durable inbox, dead letters and agent profiles. Always a
//!   SQL database of our own.
//! - [`MemoryStore`]: both tiers and the memories of callers. A SQL database,
//!   or a memory engine that the operator runs already.
//!
//! Learning is idempotent in the `MemoryStore` itself: a crash between the two
//! costs a repetition, never a double count, whichever backends are combined.
//!
//! Nothing here knows of actors or HTTP.

mod archive;
mod ledger;
mod memory;
mod openmemory;
mod sqlite;
mod transfer;

pub use archive::{Archive, AudioSpool};
pub use ledger::{
    Accepted, Claimed, DeadLetter, EventId, InboxEvent, InboxStats, Ledger, NewEvent, RetryCause,
    Settled, Settlement, Stage, StoredAgent, Unarchived,
};
pub use memory::MemoryStore;
pub use openmemory::{Adopted, OpenMemoryStore};
pub use sqlite::{
    BackupProgress, Contents, Restored, SqliteDatabase, SqliteLedger, SqliteMemoryStore,
    SqliteRecordIndex, back_up, restore,
};
pub use transfer::{CallerExport, call_mark};

/// Why the store could not do what was asked. Never holds a caller's data.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is down, full, locked or too slow. Trying again may help.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be read as what it should be.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;
