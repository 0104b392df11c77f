//! This process among the others: it says that it lives, and takes over the
//! work of those that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::distr::{Alphanumeric, SampleString};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::PostgresDatabase;
use super::connections::Connections;
use crate::store::{Fleet, Result, StoreError};

/// How often an instance says that it lives.
const BEAT: Duration = Duration::from_secs(2);
/// Longest wait for that: a pooler may have no connection to the database.
const LONGEST_BEAT: Duration = Duration::from_secs(4);
/// How long it is believed to live after that, in seconds: several beats, so
/// that one that is lost does not matter.
const LIFE: f64 = 10.0;
/// How long an instance has to have been heard itself before it takes over from
/// others: two beats of theirs.
const STEADY: Duration = Duration::from_secs(5);
/// After how long a dead instance is forgotten, in seconds.
const MEMORY: f64 = 3_600.0;

/// See the [module](self).
pub(super) struct Instance {
    id: String,
    voice: Connections,
    /// Events taken over from others.
    taken_over: Arc<AtomicU64>,
    /// How often others had taken ours over.
    refused: AtomicU64,
    _stop: DropGuard,
}

impl Instance {
    /// Joins the others under an id of its own: what a process has claimed is
    /// never taken for another's, not even its own from before a restart. What
    /// it says goes through a pool of its own.
    pub async fn start(voice: Connections, work: Connections) -> Result<Self> {
        let id = Alphanumeric.sample_string(&mut rand::rng(), 16);
        beat(&voice, &id).await?;
        let (stop, taken_over) = (CancellationToken::new(), Arc::default());
        let life = Life {
            id: id.clone(),
            voice: voice.clone(),
            work,
            taken_over: Arc::clone(&taken_over),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(life.go_on()));
        Ok(Self {
            id,
            voice,
            taken_over,
            refused: AtomicU64::new(0),
            _stop: stop.drop_guard(),
        })
    }

    /// What others know this process by.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Another instance has what this one had claimed.
    pub fn note_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub async fn fleet(&self, database: &PostgresDatabase) -> Result<Fleet> {
        // Who may not see a standby sees NULL for what it does.
        let (instances, standbys, lag): (i64, i64, Option<f64>) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM instances WHERE alive_until > clock_timestamp()), s.standbys, s.lag
             FROM (SELECT count(*) AS standbys, extract(epoch FROM max(replay_lag))::float8 AS lag
                 FROM pg_stat_replication WHERE state = 'streaming') AS s",
        )
        .fetch_one(&database.work)
        .await?;
        Ok(Fleet {
            // This one lives, whatever it has managed to say.
            instances: u32::try_from(instances).unwrap_or(u32::MAX).max(1),
            taken_over: self.taken_over.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            standbys: u32::try_from(standbys).unwrap_or(u32::MAX),
            replication_lag: Duration::try_from_secs_f64(lag.unwrap_or_default())
                .unwrap_or_default(),
            busy_connections: [database.rings.busy(), database.work.busy()],
        })
    }

    /// Gives back what is claimed, so that others need not wait.
    pub async fn leave(&self) {
        let left = sqlx::query("DELETE FROM instances WHERE id = $1")
            .bind(&self.id)
            .execute(&self.voice)
            .await;
        let given_back = take_over(&self.voice).await;
        if left.is_err() || given_back.is_err() {
            tracing::warn!(
                "What this instance has claimed is taken over by others in some seconds"
            );
        }
        self.voice.close().await;
    }
}

/// What an instance does for as long as it lives.
struct Life {
    id: String,
    voice: Connections,
    work: Connections,
    taken_over: Arc<AtomicU64>,
}

impl Life {
    async fn go_on(self) {
        // After an outage all seem dead: each gets the time to say otherwise.
        let mut steady_since = Instant::now();
        loop {
            tokio::time::sleep(BEAT).await;
            let beat = timeout(LONGEST_BEAT, beat(&self.voice, &self.id)).await;
            let late = |_| {
                Err(StoreError::Unavailable(
                    "PostgreSQL does not answer in time".into(),
                ))
            };
            if let Err(error) = beat.unwrap_or_else(late) {
                tracing::error!(%error, "This instance cannot say that it lives");
                steady_since = Instant::now();
                continue;
            }
            if steady_since.elapsed() < STEADY {
                continue;
            }
            match take_over(&self.work).await {
                Ok(0) => {}
                Ok(events) => {
                    self.taken_over.fetch_add(events, Ordering::Relaxed);
                    tracing::warn!(events, "Work of an instance that is gone is taken over");
                }
                Err(error) => tracing::error!(%error, "Work of others cannot be taken over"),
            }
        }
    }
}

async fn beat(pool: &Connections, id: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO instances (id, alive_until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
         ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until",
    )
    .bind(id)
    .bind(LIFE)
    .execute(pool)
    .await?;
    sqlx::query(
        "DELETE FROM instances WHERE alive_until < clock_timestamp() - make_interval(secs => $1)",
    )
    .bind(MEMORY)
    .execute(pool)
    .await?;
    Ok(())
}

/// Makes ready again what dead instances have claimed; how many events.
async fn take_over(pool: &Connections) -> Result<u64> {
    let taken = sqlx::query(
        "UPDATE inbox SET state = 'ready', owner = NULL
         WHERE id IN (
             SELECT id FROM inbox
             WHERE state = 'running' AND NOT EXISTS (
                 SELECT 1 FROM instances i WHERE i.id = inbox.owner AND i.alive_until > clock_timestamp())
             FOR UPDATE SKIP LOCKED)",
    )
    .execute(pool)
    .await?;
    Ok(taken.rows_affected())
}
