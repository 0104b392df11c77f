//! A PostgreSQL server of the bench's own, and what is measured on it.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use elaoms::store::{Ledger, PostgresDatabase, PostgresLedger, Stage};
use jiff::Timestamp;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::Result;
use super::seed::AGENT;
use super::service::wait;

/// Whom the server runs as where we are root, which it refuses.
const USER: &str = "postgres";
/// As the service has them.
const CONNECTIONS: u32 = 16;
/// Transactions of inserted events at a time, and events in one, as the service
/// has them.
const WRITERS: usize = 4;
const MOST: usize = 256;

/// Ended when dropped.
pub struct Server {
    folder: PathBuf,
    process: Child,
    runtime: Runtime,
}

impl Server {
    /// `None` where PostgreSQL is not installed.
    pub fn start(folder: &Path) -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            return Ok(None);
        };
        let folder = folder.join("postgres");
        std::fs::create_dir(&folder)?;
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            let id = |of: &str| -> Result<u32> {
                let output = Command::new("id").args([of, USER]).output()?;
                Ok(String::from_utf8(output.stdout)?.trim().parse()?)
            };
            chown(&folder, Some(id("-u")?), Some(id("-g")?))?;
        }
        let as_user = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]);
            if is_root {
                command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
            }
            command.arg("--").arg(programs.join(program));
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let made = as_user("initdb")
            .args(["--auth=trust", "--username=elaoms", "-D"])
            .arg(folder.join("data"))
            .status()?;
        if !made.success() {
            return Err("initdb failed; is the folder open to its user?".into());
        }
        let process = as_user("postgres")
            .arg("-D")
            .arg(folder.join("data"))
            .args(["-c", "listen_addresses=", "-c", "max_connections=200"])
            .args([
                "-c",
                &format!("unix_socket_directories={}", folder.display()),
            ])
            .spawn()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let server = Self {
            folder,
            process,
            runtime,
        };
        wait(|| Ok(server.run("postgres", "SELECT 1").is_ok()))?;
        Ok(Some(server))
    }

    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display();
        format!("postgres://elaoms@localhost/{database}?host={folder}")
    }

    /// A new database; its URL.
    pub fn database(&self, name: &str) -> Result<String> {
        self.run("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(name))
    }

    pub fn run(&self, database: &str, sql: &str) -> Result<()> {
        self.runtime.block_on(async {
            let pool = one_connection(&self.url(database)).await?;
            let ran = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await;
            pool.close().await;
            ran?;
            Ok(())
        })
    }

    /// The first `count` callers, as in [`seed`](super::seed).
    pub fn seed_callers(&self, database: &str, count: usize) -> Result<()> {
        self.runtime
            .block_on(PostgresDatabase::open(&self.url(database)))?;
        self.run(
            database,
            &format!(
                "INSERT INTO callers (caller, name, first_seen, total_interactions)
                     SELECT {NUMBER}, 'Nora', 1700000000000, 3 FROM generate_series(0, {last}) AS i;
                 INSERT INTO conversation_states (caller, agent, conversation_count, last_call_date,
                     next_greeting, key_topics, sentiment, conversation_summary, greeted_started_at, greeted_arrival)
                     SELECT {NUMBER}, '{AGENT}', 3, 1700000000000,
                         'Hi Nora! Did the slugs find your raised beds again?',
                         '[\"slugs\",\"raised beds\",\"tomatoes\"]', 'positive',
                         'Nora asked how to keep slugs away from the tomatoes in her raised beds.',
                         1700000000000, 1
                     FROM generate_series(0, {last}) AS i;
                 ANALYZE",
                last = count - 1
            ),
        )
    }

    /// Waits until everything taken in is learned and archived; how long it took.
    pub fn drain(&self, database: &str) -> Result<Duration> {
        let started = Instant::now();
        wait(|| self.is_drained(database))?;
        Ok(started.elapsed())
    }

    fn is_drained(&self, database: &str) -> Result<bool> {
        self.runtime
            .block_on(async {
                let pool = one_connection(&self.url(database)).await?;
                let open: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM inbox WHERE state IN ('queued', 'ready', 'running'))
                     OR EXISTS (SELECT 1 FROM inbox WHERE NOT archived)",
            )
            .fetch_one(&pool)
            .await?;
                pool.close().await;
                Ok(open)
            })
            .map(|open| !open)
    }

    /// How long it takes to claim 64 calls, with so many waiting, of so many
    /// callers: the median, in microseconds.
    pub fn claim_cost(&self, name: &str, waiting: usize, callers: usize) -> Result<f64> {
        let url = self.database(name)?;
        self.runtime.block_on(async {
            let database = PostgresDatabase::open(&url).await?;
            let ledger = PostgresLedger::new(database.clone());
            let pool = one_connection(&url).await?;
            let sql = format!(
                "INSERT INTO inbox (event_key, kind, conversation_id, agent, caller, slot, started_at,
                     greeting_wanted, stage, state, run_at, received_at, payload)
                 SELECT 'k' || n, 'post_call_transcription', 'c' || n, '{AGENT}', {NUMBER}, 0, n, FALSE, 'learn',
                     CASE WHEN n < {callers} THEN 'ready' ELSE 'queued' END, n, n, '{{}}'
                 FROM generate_series(0, {last}) AS n, LATERAL (SELECT n % {callers} AS i) AS caller;
                 ANALYZE",
                last = waiting - 1
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await?;
            let mut times = Vec::new();
            for _ in 0..100 {
                let started = Instant::now();
                let claimed = ledger
                    .claim(Stage::Learn, Timestamp::now(), 64, Vec::new())
                    .await?;
                times.push(started.elapsed().as_secs_f64() * 1e6);
                if claimed.events.len() != 64 {
                    return Err(format!("{} claimed", claimed.events.len()).into());
                }
                // Back to where they were.
                sqlx::raw_sql("UPDATE inbox SET state = 'ready', owner = NULL WHERE state = 'running'")
                    .execute(&pool)
                    .await?;
            }
            pool.close().await;
            database.close().await;
            times.sort_by(f64::total_cmp);
            Ok(times[times.len() / 2])
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The telephone number of caller `i`, as [`seed::number`](super::seed::number)
/// makes it.
const NUMBER: &str =
    "'+1612' || lpad((200 + i / 10000)::text, 3, '0') || lpad((i % 10000)::text, 4, '0')";

async fn one_connection(url: &str) -> sqlx::Result<PgPool> {
    PgPoolOptions::new().max_connections(1).connect(url).await
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

/// Bodies that wait to be inserted, and who waits for each.
pub type Queue = mpsc::Sender<(Bytes, oneshot::Sender<()>)>;

/// A bare loop of multi-row INSERTs: whatever has come together is one
/// statement, on as many connections as the service takes events in with.
pub async fn bare_inserts(url: &str) -> Result<Queue> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect(url)
        .await?;
    sqlx::raw_sql(
        "CREATE TABLE events (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body BYTEA)",
    )
    .execute(&pool)
    .await?;
    let (queue, waiting) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>(1_024);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..WRITERS {
        let (pool, waiting) = (pool.clone(), Arc::clone(&waiting));
        tokio::spawn(async move {
            loop {
                let mut batch = Vec::new();
                if waiting.lock().await.recv_many(&mut batch, MOST).await == 0 {
                    return;
                }
                let bodies: Vec<&[u8]> = batch.iter().map(|(body, _)| &body[..]).collect();
                let inserted =
                    sqlx::query("INSERT INTO events (body) SELECT * FROM unnest($1::bytea[])")
                        .bind(bodies)
                        .execute(&pool)
                        .await;
                if inserted.is_ok() {
                    for (_, done) in batch {
                        let _ = done.send(());
                    }
                }
            }
        });
    }
    Ok(queue)
}
