//! Finding records by their key, in either generation.

use std::time::Duration;

use super::*;

/// Records in a page: one request, a few megabytes.
const PAGE: usize = 500;
/// How far the server's clock may be behind ours.
const CLOCK_MARGIN: Duration = Duration::from_secs(10 * 60);

impl OpenMemoryStore {
    /// The newest records under a key, at most `limit` of them.
    pub(super) async fn find(&self, key: &str, limit: usize) -> Result<Vec<Record>> {
        match self.generation().await? {
            Generation::First => self.find_by_user(key, limit).await,
            Generation::Second => self.find_by_index(key, limit).await,
        }
    }

    async fn find_by_user(&self, key: &str, limit: usize) -> Result<Vec<Record>> {
        let mut found = Vec::new();
        while found.len() < limit {
            let count = PAGE.min(limit - found.len());
            let page = {
                let _permit = permit(&self.requests).await?;
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

    async fn find_by_index(&self, key: &str, limit: usize) -> Result<Vec<Record>> {
        let indexed = self.index.records(key, limit).await?;
        let records: Vec<Option<Record>> = stream::iter(indexed)
            .map(async |indexed| {
                let IndexedRecord {
                    id,
                    created_at,
                    sector: primary_sector,
                    metadata,
                    ..
                } = indexed;
                if let Some(metadata) = metadata.and_then(|m| serde_json::from_str(&m).ok()) {
                    let content = String::new();
                    let record = Record {
                        id,
                        content,
                        metadata,
                        created_at,
                        primary_sector,
                        user_id: None,
                    };
                    return Ok(Some(record));
                }
                let _permit = permit(&self.requests).await?;
                Ok::<_, StoreError>(self.client.get(&id).await?)
            })
            .buffered(CONCURRENT_REQUESTS)
            .try_collect()
            .await?;
        // The index is only a list: what a record is, it says itself.
        let ours = |r: &Record| Metadata::of(r).is_some_and(|m| m.key() == key);
        Ok(records.into_iter().flatten().filter(ours).collect())
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
            let ours = page.iter().filter_map(|record| {
                let metadata = Metadata::of(record)?;
                let (id, sector) = (record.id.clone(), record.primary_sector.clone());
                Some(indexed(
                    &metadata,
                    id,
                    sector,
                    record.created_at,
                    &record.metadata,
                ))
            });
            let new = self.index.insert(ours.collect()).await?;
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
