//! The whole service: builds every part, runs it, and stops it in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use warp::Reply;
use warp::filters::BoxedFilter;

use crate::actors::{ActorSystem, StartError, Stuck, SystemOptions};
use crate::clients::{ElevenLabs, Embeddings, OpenAi, OpenMemory};
use crate::compute::Compute;
use crate::config::{Config, Services};
use crate::domain::caller_rules::CallerRules;
use crate::http::{self, AdminState, Connections, Limits, OpsState, PublicState};
use crate::metric_definitions::{Figures, Metrics};
use crate::secrets::{AdminKey, KeySet, WebhookKeys};
use crate::store::{
    Archive, Database, Ledger, MemoryStore, OpenMemoryStore, Register, SqliteDatabase,
    SqliteRecordIndex,
};

/// How long open requests may take after a stop was asked for.
const REQUEST_GRACE: Duration = Duration::from_secs(10);
/// How long calls under way may take after that. What is not done then is in
/// the inbox and done after the next start.
const WORK_GRACE: Duration = Duration::from_secs(5);
/// Longest wait for figures to be written: a stop does not hang on them.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(2);
/// How often metrics are tidied.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the service does not start, or has stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database or archive.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Actors(#[from] StartError),
    /// An address is in use or not ours.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// TLS cannot be set up.
    #[error("cannot set up HTTPS: {0}")]
    Tls(#[from] reqwest::Error),
    /// Actors failed too often.
    #[error("the actors failed too often")]
    GaveUp,
}

/// Everything behind the listeners.
struct Parts {
    system: ActorSystem,
    database: Database,
    register: Arc<dyn Register>,
    metrics: Arc<Metrics>,
    rendered: PrometheusHandle,
}

impl Parts {
    /// Opens the stores and starts the actors. Unless it `works`, calls stay in
    /// the inbox.
    async fn build(services: &Services, works: bool) -> Result<Self, AppError> {
        let (metrics, rendered) = Metrics::new();
        let metrics = Arc::new(metrics);
        let is_shared = services.database.file().is_none();
        let (database, archive) = if works {
            let database = Database::open(&services.database).await?;
            (database, Archive::open_for(&services.archive, is_shared)?)
        } else {
            // Made for nothing but a command, an empty one would answer it with
            // "nothing is kept", whatever is kept elsewhere.
            let database = Database::open_existing(&services.database).await?;
            (
                database,
                Archive::open_existing(&services.archive, is_shared)?,
            )
        };
        let (ledger, register) = (database.ledger(), database.register());
        let store = memory_store(services, &database)?;
        // Beside the start: the store may be down, or have an index to rebuild.
        let described = Arc::clone(&store);
        tokio::spawn(async move {
            tracing::info!("Memories are in {}", described.describe().await);
        });
        // A folder has just been opened; a bucket was not asked yet.
        if works && services.archive.bucket.is_some() {
            let archive = archive.clone();
            tokio::spawn(async move {
                match archive.check_writable().await {
                    Ok(()) => tracing::info!("Calls are archived in {}", archive.place()),
                    Err(error) => tracing::error!(
                        %error,
                        "Calls cannot be archived in {}; they wait",
                        archive.place()
                    ),
                }
            });
        }
        let elevenlabs = services.elevenlabs.clone();
        let openai = services.openai.clone().filter(|_| works);
        let system = ActorSystem::start(SystemOptions {
            background: Compute::background(),
            ledger,
            store,
            register: Arc::clone(&register),
            archive,
            elevenlabs: elevenlabs
                .map(|(url, key)| ElevenLabs::new(url, key))
                .transpose()?,
            public_url: services.public_url.clone(),
            webhook_id: services.webhook_id.clone(),
            reconcile_interval: services.reconcile_interval,
            openai: openai
                .map(|(options, limits)| OpenAi::new(options).map(|client| (client, limits)))
                .transpose()?,
            embeddings: services
                .embeddings
                .clone()
                .map(|(options, limits)| Embeddings::new(options).map(|client| (client, limits)))
                .transpose()?,
            vector_store: database.vector_store(),
            agent_ttl: services.agent_ttl,
            greeting_retry: services.greeting_retry,
            retention: services.retention,
            sessions: services.sessions,
            metrics: Arc::clone(&metrics),
            caller_ids: services.caller_ids.clone(),
            caller_rules: Arc::clone(&services.caller_rules),
            works,
        })
        .await?;
        Ok(Self {
            system,
            database,
            register,
            metrics,
            rendered,
        })
    }

    fn ops_routes(
        &self,
        caller_rules: Arc<CallerRules>,
        keys: Vec<AdminKey>,
        webhook_keys: Option<WebhookKeys>,
    ) -> BoxedFilter<(impl Reply + use<>,)> {
        let system = &self.system;
        http::ops_routes(OpsState {
            metrics: self.rendered.clone(),
            health: system.health.clone(),
            admin: AdminState {
                callers: system.callers.clone(),
                agents: system.agents.clone(),
                ledger: self.database.ledger(),
                inbox: system.inbox.clone(),
                reconciler: system.reconciler.clone(),
                register: Arc::clone(&self.register),
                caller_rules,
                keys,
                webhook_keys,
            },
        })
    }
}

/// The admin routes without the service, for as long as a command of an
/// operator takes: on loopback, behind a key of their own.
pub struct Administration {
    pub ops_addr: SocketAddr,
    parts: Parts,
    stop: CancellationToken,
    ops: JoinHandle<()>,
}

impl Administration {
    /// Starts them. No call is worked on.
    ///
    /// # Errors
    /// [`AppError`]
    pub async fn start(services: &Services, key: AdminKey) -> Result<Self, AppError> {
        let (listener, ops_addr) = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let parts = Parts::build(services, false).await?;
        let routes = parts.ops_routes(Arc::clone(&services.caller_rules), vec![key], None);
        let stop = CancellationToken::new();
        let ops = tokio::spawn(http::serve(listener, routes, stop.clone(), REQUEST_GRACE));
        Ok(Self {
            ops_addr,
            parts,
            stop,
            ops,
        })
    }

    /// Stops them, and closes the database.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.ops.await;
        self.parts.system.stop(Duration::ZERO).await;
        self.parts.database.close().await;
    }
}

pub struct App {
    /// Where the webhooks listen.
    pub public_addr: SocketAddr,
    /// Where metrics and health are.
    pub ops_addr: SocketAddr,
    system: ActorSystem,
    database: Database,
    metrics: Arc<Metrics>,
    stop_public: CancellationToken,
    stop_ops: CancellationToken,
    public: JoinHandle<()>,
    ops: JoinHandle<()>,
}

impl App {
    /// Starts the service. When this returns, it answers.
    ///
    /// # Errors
    /// [`AppError`]
    pub async fn start(config: Config) -> Result<Self, AppError> {
        let services = config.services;
        // Listen first: an address in use is the commonest mistake.
        let (public_listener, public_addr) = listen(config.bind_addr).await?;
        let (ops_listener, ops_addr) = listen(services.ops_addr).await?;

        let parts = Parts::build(&services, true).await?;
        let keys = WebhookKeys {
            client_data: KeySet::new(config.client_data_key),
            search_data: KeySet::new(config.search_data_key),
            post_call: KeySet::new(config.post_call_key),
        };
        let ops_routes = parts.ops_routes(
            Arc::clone(&services.caller_rules),
            services.admin_keys.clone(),
            Some(keys.clone()),
        );
        let Parts {
            system,
            database,
            metrics,
            rendered: upkeep,
            ..
        } = parts;
        metrics.sessions_max.set(services.sessions.most as f64);
        let file = services.database.file().map(Path::to_owned);
        measure_storage(file.as_deref(), &metrics);
        let measured = Arc::clone(&metrics);
        let limits = Limits::public();
        let public_routes = http::routes(PublicState {
            sessions: system.sessions.clone(),
            agents: system.agents.clone(),
            inbox: system.inbox.clone(),
            reconciler: system.reconciler.clone(),
            directory: system.directory.clone(),
            metrics: Arc::clone(&metrics),
            caller_ids: services.caller_ids,
            caller_rules: services.caller_rules,
            keys: keys.clone(),
            client_data_deadline: services.client_data_deadline,
            max_body: services.max_body,
            connections: limits.connections,
            two_tier: services.two_tier,
        });

        let (stop_public, stop_ops) = (CancellationToken::new(), CancellationToken::new());
        let counted = Some(Arc::clone(&metrics));
        let connections = Connections::new(limits, config.trusted_proxies, counted);
        let public = tokio::spawn(http::serve_public(
            public_listener,
            public_routes,
            connections,
            stop_public.clone(),
            REQUEST_GRACE,
        ));
        let ops = tokio::spawn(http::serve(
            ops_listener,
            ops_routes,
            stop_ops.clone(),
            Duration::ZERO,
        ));
        let until = stop_ops.clone();
        let ledger = database.ledger();
        tokio::spawn(until.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
                measure_storage(file.as_deref(), &measured);
                write_figures(&measured.figures, &*ledger).await;
            }
        }));
        Ok(Self {
            public_addr,
            ops_addr,
            system,
            database,
            metrics,
            stop_public,
            stop_ops,
            public,
            ops,
        })
    }

    /// Whether everything gets on that a restart would set going again: what a
    /// watchdog wants to know.
    ///
    /// # Errors
    /// Who is stuck.
    pub fn alive(&self) -> Result<(), Stuck> {
        self.system.health.alive()
    }

    /// Returns when the service can no longer run. Never, if all is well.
    pub async fn failed(&mut self) -> AppError {
        self.system.failed().await;
        AppError::GaveUp
    }

    /// Stops in order: no new requests, open requests, work under way, actors,
    /// database. Takes some 20 seconds at most.
    pub async fn stop(self) {
        self.stop_public.cancel();
        let _ = self.public.await;
        self.system.stop(WORK_GRACE).await;
        self.stop_ops.cancel();
        let _ = self.ops.await;
        write_figures(&self.metrics.figures, &*self.database.ledger()).await;
        self.database.close().await;
    }
}

/// Adds what was counted to the figures of today.
async fn write_figures(figures: &Figures, ledger: &dyn Ledger) {
    let taken = figures.take();
    if taken.is_empty() {
        return;
    }
    let day = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let written = tokio::time::timeout(FIGURES_TIMEOUT, ledger.add_figures(day, taken.clone()));
    if !matches!(written.await, Ok(Ok(()))) {
        // They are written with the next ones. What was written and not answered
        // counts twice: better in a report than not at all.
        figures.give_back(&taken);
    }
}

/// The memory store that is configured.
///
/// # Errors
/// If no TLS can be set up.
pub fn memory_store(
    services: &Services,
    database: &Database,
) -> Result<Arc<dyn MemoryStore>, reqwest::Error> {
    Ok(match (services.openmemory.clone(), database) {
        (Some((url, key)), Database::Sqlite(file)) => {
            let store = openmemory_store(url, key, file)?;
            if services.two_tier {
                Arc::new(store)
            } else {
                Arc::new(store.with_legacy_profiles())
            }
        }
        // The configuration allows no OpenMemory beside PostgreSQL.
        _ => database.memory_store(),
    })
}

/// OpenMemory at this URL, with its index in the database.
///
/// # Errors
/// If no TLS can be set up.
pub fn openmemory_store(
    url: String,
    key: Option<SecretString>,
    database: &SqliteDatabase,
) -> Result<OpenMemoryStore, reqwest::Error> {
    let index = Arc::new(SqliteRecordIndex::new(database.clone()));
    Ok(OpenMemoryStore::new(OpenMemory::new(url, key)?, index))
}

/// How full the disk of the database is, if that is a file. Two system calls on a
/// local disk.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn measure_storage(database: Option<&Path>, metrics: &Metrics) {
    let Some(database) = database else {
        return;
    };
    match rustix::fs::statvfs(database) {
        Ok(disk) => {
            metrics
                .storage_free
                .set((disk.f_bavail * disk.f_frsize) as f64);
            metrics
                .storage_size
                .set((disk.f_blocks * disk.f_frsize) as f64);
        }
        Err(error) => tracing::warn!(%error, "The disk of the database cannot be measured"),
    }
}

async fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |e| AppError::Listen(addr, e);
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}
