//! Finding records by their key, in either generation.

use std::time::Duration;

use super::*;

/// Most records looked at for one tier.
const TIER_RECORDS: usize = 10;
/// Most records looked at for the legacy profile of a caller who rings.
const LEGACY_RECORDS: usize = 2_000;
/// Records in a page: one request, a few megabytes.
const PAGE: usize = 500;
/// How far the server's clock may be behind ours.
const CLOCK_MARGIN: Duration = Duration::from_secs(10 * 60);

impl OpenMemoryStore {
    /// The records of a tier: one, or a few if answers were lost.
    pub(super) async fn find_tier(&self, key: &str) -> Result<Vec<Record>> {
        self.find(key, TIER_RECORDS, &self.requests).await
    }

    /// The newest memories of a caller: ours, at most `limit` of them, and the
    /// legacy system's.
    pub(super) async fn find_memories(
        &self,
        caller: &CallerId,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let lane = &self.memory_requests;
        let mut found = self.find(&memories_key(caller), limit, lane).await?;
        if self.generation().await? == Generation::Second {
            let key = legacy_key(caller);
            found.extend(self.find_by_index(&key, limit, lane).await?);
        }
        Ok(found)
    }

    /// What the legacy system left of a caller who rings: of the newest
    /// [`LEGACY_RECORDS`] records.
    pub(super) async fn find_legacy(&self, caller: &CallerId) -> Result<Vec<Record>> {
        let lane = &self.requests;
        let mut found = match self.generation().await? {
            Generation::First => {
                let key = memories_key(caller);
                self.find_by_user(&key, LEGACY_RECORDS, lane).await?
            }
            Generation::Second => {
                let key = legacy_key(caller);
                self.find_by_index(&key, LEGACY_RECORDS, lane).await?
            }
        };
        found.retain(is_legacy);
        Ok(found)
    }

    async fn find(&self, key: &str, limit: usize, lane: &Semaphore) -> Result<Vec<Record>> {
        match self.generation().await? {
            Generation::First => self.find_by_user(key, limit, lane).await,
            Generation::Second => self.find_by_index(key, limit, lane).await,
        }
    }

    async fn find_by_user(&self, key: &str, limit: usize, lane: &Semaphore) -> Result<Vec<Record>> {
        let mut found = Vec::new();
        while found.len() < limit {
            let count = PAGE.min(limit - found.len());
            let page = {
                let _permit = permit(lane).await?;
                self.client.user_page(key, count, found.len()).await
            };
            let page = self.noticed(page).await?;
            let last = page.len() < count;
            found.extend(page);
            if last {
                break;
            }
        }
        Ok(found)
    }

    /// Each record is fetched: the index knows where records were, the server
    /// whether they still are.
    async fn find_by_index(
        &self,
        key: &str,
        limit: usize,
        lane: &Semaphore,
    ) -> Result<Vec<Record>> {
        let indexed = self.index.records(key, limit).await?;
        let records: Vec<(String, Option<Record>)> = stream::iter(indexed)
            .map(async |IndexedRecord { id, .. }| {
                let _permit = permit(lane).await?;
                let record = self.client.get(&id).await?;
                Ok::<_, StoreError>((id, record))
            })
            .buffered(CONCURRENT_REQUESTS)
            .try_collect()
            .await?;
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        for (id, record) in records {
            match record {
                // The index is only a list: what a record is, it says itself.
                Some(record) if IndexedRecord::of_record(&record).is_some_and(|r| r.key == key) => {
                    found.push(record);
                }
                Some(_) => {}
                None => gone.push(id),
            }
        }
        if !gone.is_empty() {
            self.index.remove(key, gone).await?;
        }
        Ok(found)
    }

    /// Brings the index up to what the tenant holds: all of it the first
    /// time; later what is newer than the index, as after the restoring of a
    /// backup or on another server.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let complete = self.index.is_complete().await?;
        let count = self.index_pages(|_, new| complete && new == 0).await?;
        self.index.set_complete().await?;
        if count > 0 {
            tracing::info!("{count} records of OpenMemory were added to the index");
        }
        Ok(())
    }

    /// Indexes our records created since then.
    async fn index_records_since(&self, since: i64) -> Result<()> {
        let old = |page: &[Record]| page.last().is_some_and(|r| r.created_at < since);
        self.index_pages(|page, _| old(page)).await.map(drop)
    }

    /// Indexes page after page, newest first, until `done` says so of a page
    /// and the number of records in it that were new.
    async fn index_pages(&self, done: impl Fn(&[Record], usize) -> bool + Send) -> Result<usize> {
        let (mut offset, mut count) = (0, 0);
        loop {
            let page = self.page(offset).await?;
            offset += page.len();
            let records = page.iter().filter_map(IndexedRecord::of_record);
            let new = self.index.insert(records.collect()).await?;
            count += new;
            if page.len() < PAGE || done(&page, new) {
                return Ok(count);
            }
        }
    }

    /// Shows every record that the key may see. What is added meanwhile comes
    /// first in the list and only makes some records be seen twice.
    pub(super) async fn each_page(&self, mut see: impl FnMut(&[Record]) + Send) -> Result<()> {
        let mut offset = 0;
        loop {
            let page = self.page(offset).await?;
            offset += page.len();
            see(&page);
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    async fn page(&self, offset: usize) -> Result<Vec<Record>> {
        let _permit = permit(&self.requests).await?;
        Ok(self.client.page(PAGE, offset).await?)
    }

    /// Before records are added in the second generation: should their ids
    /// not reach the index, they are looked for later.
    pub(super) async fn note_uncertain(&self, caller: &CallerId) -> Result<()> {
        match self.generation().await? {
            Generation::First => Ok(()),
            Generation::Second => {
                self.index
                    .note_uncertain(caller.as_str(), Timestamp::now())
                    .await
            }
        }
    }

    /// All that was added is in the index.
    pub(super) async fn forget_uncertain(&self, caller: &CallerId) -> Result<()> {
        match self.generation().await? {
            Generation::First => Ok(()),
            Generation::Second => self.index.forget_uncertain(caller.as_str()).await,
        }
    }

    /// Looks for records whose ids were lost on the way.
    pub(super) async fn settle_uncertain(&self, caller: &CallerId) -> Result<()> {
        if self.generation().await? == Generation::First {
            return Ok(());
        }
        if let Some(since) = self.index.uncertain_since(caller.as_str()).await? {
            let since = since
                .checked_sub(CLOCK_MARGIN)
                .unwrap_or(Timestamp::UNIX_EPOCH);
            self.index_records_since(since.as_millisecond()).await?;
        }
        Ok(())
    }
}
