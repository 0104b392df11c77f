//! The actors over stores that misbehave, in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use elaoms::actors::{ActorSystem, Delivery, Retention, SessionOptions, SystemOptions};
use elaoms::compute::Compute;
use elaoms::domain::caller_id::CallerId;
use elaoms::domain::envelope::EnvelopeSplitter;
use elaoms::domain::learning::Learning;
use elaoms::domain::memory::Memory;
use elaoms::domain::name::CallerName;
use elaoms::domain::tiers::{Greeted, Learned, NewGreeting, Renamed, Tiers};
use elaoms::metric_definitions::Metrics;
use elaoms::store::{
    Archive, CallerExport, Claim, ErasedMemory, KnownCalls, Ledger, MemoryStore, Result,
    SqliteDatabase, SqliteLedger, SqliteMemoryStore, SqliteRegister, SqliteVectorStore, StoreError,
};
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use tempfile::TempDir;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, until};

/// A store that panics, fails or hangs as told.
struct Troubled {
    store: SqliteMemoryStore,
    panics: AtomicU32,
    fails: AtomicBool,
    hangs: AtomicBool,
}

impl Troubled {
    async fn trouble(&self) -> Result<()> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("made to fail".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl MemoryStore for Troubled {
    async fn tiers(&self, caller: &CallerId) -> Result<Tiers> {
        self.trouble().await?;
        self.store.tiers(caller).await
    }
    async fn learn(&self, learning: &Learning, claim: Option<Claim>) -> Result<Learned> {
        self.trouble().await?;
        let learned = self.store.learn(learning, claim).await;
        // After the effect: the worst moment.
        let left = self
            .panics
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        assert!(left.is_err(), "made to panic");
        learned
    }
    async fn store_greeting(
        &self,
        greeting: &NewGreeting,
        claim: Option<Claim>,
    ) -> Result<Option<Greeted>> {
        self.store.store_greeting(greeting, claim).await
    }
    async fn rename(
        &self,
        caller: &CallerId,
        name: &CallerName,
        now: Timestamp,
    ) -> Result<Option<Renamed>> {
        self.store.rename(caller, name, now).await
    }
    async fn calls(&self, caller: &CallerId) -> Result<KnownCalls> {
        self.store.calls(caller).await
    }
    async fn erase(&self, caller: &CallerId) -> Result<ErasedMemory> {
        self.store.erase(caller).await
    }
    async fn expire_memories(&self, before: Timestamp) -> Result<u64> {
        self.store.expire_memories(before).await
    }
    async fn memories(&self, caller: &CallerId, limit: usize) -> Result<Vec<Memory>> {
        self.trouble().await?;
        self.store.memories(caller, limit).await
    }
    async fn check_writable(&self) -> Result<()> {
        self.store.check_writable().await
    }
    async fn callers(&self) -> Result<Vec<CallerId>> {
        self.store.callers().await
    }
    async fn export(&self, caller: &CallerId) -> Result<Option<CallerExport>> {
        self.store.export(caller).await
    }
    async fn import(&self, export: &CallerExport) -> Result<()> {
        self.store.import(export).await
    }
    async fn describe(&self) -> String {
        self.store.describe().await
    }
}

struct World {
    system: ActorSystem,
    store: Arc<Troubled>,
    ledger: Arc<dyn Ledger>,
    page: PrometheusHandle,
    _folder: TempDir,
}

impl World {
    async fn start(idle: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::open(&folder.path().join("x.db")).unwrap();
        let store = Arc::new(Troubled {
            store: SqliteMemoryStore::new(database.clone()),
            panics: AtomicU32::new(0),
            fails: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
        });
        let ledger: Arc<dyn Ledger> = Arc::new(SqliteLedger::new(database.clone()));
        let (metrics, page) = Metrics::new();
        let system = ActorSystem::start(SystemOptions {
            ledger: Arc::clone(&ledger),
            store: Arc::clone(&store) as Arc<dyn MemoryStore>,
            archive: Archive::open(&folder.path().join("payloads")).unwrap(),
            elevenlabs: None,
            public_url: None,
            webhook_id: None,
            reconcile_interval: None,
            openai: None,
            embeddings: None,
            vector_store: Arc::new(SqliteVectorStore::new(database.clone())),
            agent_ttl: Duration::from_secs(3600),
            greeting_retry: Duration::from_secs(3600),
            retention: Retention::default(),
            register: Arc::new(SqliteRegister::new(database)),
            background: Compute::background(),
            sessions: SessionOptions { most: 1000, idle },
            metrics: Arc::new(metrics),
            caller_ids: Default::default(),
            caller_rules: Arc::default(),
            works: true,
        })
        .await
        .unwrap();
        Self {
            system,
            store,
            ledger,
            page,
            _folder: folder,
        }
    }

    async fn end_call(&self, i: i64) {
        let said = call(&format!("conv_{i}"), AGENT, CALLER)
            .caller(&format!("This is call {i}."))
            .later(i);
        let mut splitter = EnvelopeSplitter::default();
        splitter.push(&said.body(), |_| unreachable!("there is no audio"));
        let recording = self.system.inbox.recording();
        let delivery = Delivery::new(splitter.finish(), recording, Timestamp::now());
        self.system.inbox.take(delivery).await.unwrap();
    }

    async fn settle(&self) {
        until("an empty inbox", async || {
            self.ledger.stats().await.unwrap().pending == 0
        })
        .await;
    }

    async fn interactions(&self) -> u64 {
        let caller = CallerId::parse(CALLER).unwrap();
        let opened = self.system.sessions.open(&caller, None).await.unwrap();
        opened
            .view()
            .profile
            .as_ref()
            .map_or(0, |p| p.total_interactions)
    }
}

#[tokio::test]
async fn a_session_that_panics_is_replaced_and_its_call_learned_once() {
    let world = World::start(Duration::from_secs(600)).await;
    world.store.panics.store(2, Ordering::Relaxed);
    for i in 0..3 {
        world.end_call(i).await;
    }
    world.settle().await;
    assert_eq!(world.interactions().await, 3);
    let page = world.page.render();
    assert!(
        page.contains(r#"elaoms_actor_restarts_total{actor="session"} 2"#),
        "{page}"
    );
    assert_eq!(world.ledger.stats().await.unwrap().dead_letters, 0);
    world.system.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_store_that_is_down_fails_rings_and_loses_no_call() {
    let world = World::start(Duration::from_secs(600)).await;
    world.store.fails.store(true, Ordering::Relaxed);
    world.end_call(0).await;
    // A store that is down is no reason to give up.
    until("a failed read", async || {
        let page = world.page.render();
        page.contains(r#"elaoms_tier_queries_total{tier="1",result="error"}"#)
            && !page.contains(r#"elaoms_tier_queries_total{tier="1",result="error"} 0"#)
    })
    .await;
    assert!(
        world
            .system
            .sessions
            .open(&CallerId::parse(CALLER).unwrap(), None)
            .await
            .is_err()
    );
    world.store.fails.store(false, Ordering::Relaxed);
    world.settle().await;
    assert_eq!(world.interactions().await, 1);
}

#[tokio::test]
async fn sessions_come_and_go_under_load_and_never_count_wrong() {
    // Let go at once when idle: every few calls a new session.
    let world = World::start(Duration::from_millis(1)).await;
    for i in 0..150 {
        world.end_call(i).await;
        if i % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            world.interactions().await;
        }
    }
    world.settle().await;
    assert_eq!(world.interactions().await, 150);
    until("the session to go", async || {
        world.page.render().contains("elaoms_sessions_active 0")
    })
    .await;
    assert_eq!(world.interactions().await, 150, "and back");
}

#[tokio::test]
async fn a_store_that_hangs_does_not_hang_the_stop() {
    let world = World::start(Duration::from_secs(600)).await;
    world.store.hangs.store(true, Ordering::Relaxed);
    world.end_call(0).await;
    let caller = CallerId::parse(CALLER).unwrap();
    let ring = tokio::time::timeout(
        Duration::from_millis(300),
        world.system.sessions.open(&caller, None),
    )
    .await;
    assert!(ring.is_err(), "the edge limits the wait");
    let stop = world.system.stop(Duration::from_millis(200));
    tokio::time::timeout(Duration::from_secs(10), stop)
        .await
        .expect("it stops all the same");
}
