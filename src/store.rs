//! What is kept: a trait for each nature that it has.
//!
//! - [`Ledger`]: the durable inbox, dead letters and agent profiles. Always a
//!   SQL database of our own ([`Database`]): SQLite for one instance, PostgreSQL
//!   for several.
//! - [`Register`]: what operators decided about callers, and what they did.
//!   Beside the ledger.
//! - [`MemoryStore`]: both tiers and the memories of callers. A SQL database,
//!   or a memory engine that the operator runs already.
//!
//! Learning is idempotent in the `MemoryStore` itself: a crash between the two
//! costs a repetition, never a double count, whichever backends are combined.
//!
//! Nothing here knows of actors or HTTP.

mod archive;
mod database;
mod erasure;
mod ledger;
mod memory;
mod openmemory;
mod postgres;
mod register;
mod report;
mod sqlite;
mod transfer;
mod vectors;

pub use archive::{Archive, ArchiveOptions, AudioSpool, BatchTurn, BucketOptions, Removed};
pub use database::{Database, DatabaseUrl};
pub use erasure::{Erasure, Receipt, erase};
pub use ledger::{
    Accepted, Claim, Claimed, DeadLetter, ErasedEvents, EventId, Fleet, InboxEvent, InboxStats,
    LONGEST_PAUSE, Ledger, NewEvent, RetryCause, Settled, Settlement, Stage, StoredAgent,
    Unarchived,
};
pub use memory::{ErasedMemory, KnownCalls, MemoryStore};
pub use openmemory::{Adopted, OpenMemoryStore};
pub use postgres::{
    Clock, PostgresDatabase, PostgresLedger, PostgresMemoryStore, PostgresRegister,
    PostgresVectorStore, move_ledger,
};
pub use register::{AuditEntry, Decision, PendingErasure, Register};
pub use report::{CallerReport, DecisionsReport, ShownCaller};
pub use sqlite::{
    BackupProgress, Contents, Restored, SqliteDatabase, SqliteLedger, SqliteMemoryStore,
    SqliteRecordIndex, SqliteRegister, SqliteVectorStore, back_up, restore,
};
pub use transfer::{CallerExport, Moved, call_mark, caller_mark};
pub use vectors::{Urgency, VectorStore, WantingCaller};

/// Why the store could not do what was asked. Never holds a caller's data.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is down, full, locked or too slow. Trying again may help.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A file or folder cannot be used as it is: an operator has to see to it.
    #[error("{0}")]
    File(String),
    /// Another process holds the database, such as a running service.
    #[error("{0} is in use by another process, such as a running service")]
    InUse(String),
    /// What is stored cannot be read as what it should be.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
    /// The call was erased: nothing of it is taken any more.
    #[error("the call was erased")]
    Erased,
    /// Another instance works on the event now.
    #[error("another instance has taken the event over")]
    TakenOver,
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Whether `id` stands in a text, and is not the beginning of a longer one.
fn names(text: &[u8], id: &str) -> bool {
    let id = id.as_bytes();
    text.windows(id.len()).enumerate().any(|(at, window)| {
        let next = text.get(at + id.len());
        window == id && !next.is_some_and(u8::is_ascii_alphanumeric)
    })
}

/// The folder that a file is in.
fn folder_of(path: &std::path::Path) -> &std::path::Path {
    let folder = path.parent().filter(|folder| *folder != "");
    folder.unwrap_or(".".as_ref())
}
