//! Where the records of a caller are in an OpenMemory of the second generation.

use async_trait::async_trait;
use jiff::Timestamp;

use super::keys::legacy_key;
use super::records::{Metadata, legacy_caller};
use crate::clients::Record;
use crate::store::Result;

/// What a [`RecordIndex`] keeps of a record.
#[derive(Debug, Clone)]
pub struct IndexedRecord {
    /// The key it is found under.
    pub key: String,
    /// Whose it is.
    pub caller: String,
    /// Its id in the store.
    pub id: String,
    /// When it was stored, in milliseconds since 1970.
    pub created_at: i64,
    /// How the store classifies it.
    pub sector: String,
}

impl IndexedRecord {
    /// Of a record of ours: where it is, not what it says.
    pub(super) fn of(metadata: &Metadata, id: String, sector: String, created_at: i64) -> Self {
        Self {
            key: metadata.key(),
            caller: metadata.caller().to_owned(),
            id,
            created_at,
            sector,
        }
    }

    /// Of any record that is to be found again: ours, and what the legacy
    /// system left of a caller.
    pub(super) fn of_record(record: &Record) -> Option<Self> {
        let (id, sector) = (record.id.clone(), record.primary_sector.clone());
        if let Some(metadata) = Metadata::of(record) {
            return Some(Self::of(&metadata, id, sector, record.created_at));
        }
        let caller = legacy_caller(record)?;
        Some(Self {
            key: legacy_key(&caller),
            caller: caller.as_str().to_owned(),
            id,
            created_at: record.created_at,
            sector,
        })
    }
}

/// Where the records of a caller are in a store that cannot be asked for them:
/// OpenMemory's second generation. A cache, which can be rebuilt.
#[async_trait]
pub trait RecordIndex: Send + Sync + 'static {
    /// The records under a key, newest first, at most `limit`.
    async fn records(&self, key: &str, limit: usize) -> Result<Vec<IndexedRecord>>;

    /// Notes records; returns how many were new.
    async fn insert(&self, records: Vec<IndexedRecord>) -> Result<usize>;

    /// Forgets records under a key that the store has no longer.
    async fn remove(&self, key: &str, ids: Vec<String>) -> Result<()>;

    /// Forgets every record of a caller.
    async fn forget_caller(&self, caller: &str) -> Result<()>;

    /// Whether the call with this mark was erased.
    async fn is_erased(&self, mark: &str) -> Result<bool>;

    /// Whether everything in the store was indexed once.
    async fn is_complete(&self) -> Result<bool>;

    /// Everything in the store is indexed now.
    async fn set_complete(&self) -> Result<()>;

    /// Records of this caller may be stored from now on without being
    /// indexed. Noted already, the earlier time stands.
    async fn note_uncertain(&self, caller: &str, now: Timestamp) -> Result<()>;

    /// Since when that may be, if it may.
    async fn uncertain_since(&self, caller: &str) -> Result<Option<Timestamp>>;

    /// Everything of this caller is indexed.
    async fn forget_uncertain(&self, caller: &str) -> Result<()>;
}
