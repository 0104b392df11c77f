//! The processes that are measured.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::Result;
use super::seed::AGENT;

/// The secret of every webhook.
pub const KEY: &str = "bench";

/// How long to wait for anything.
const PATIENCE: Duration = Duration::from_secs(180);

/// How the service is started.
pub struct Options {
    /// Beside it is whatever else the service writes.
    database: PathBuf,
    /// Of PostgreSQL, instead of the database.
    url: Option<String>,
    log: &'static str,
    sessions: usize,
}

impl Options {
    pub fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
            url: None,
            log: "info",
            sessions: 100_000,
        }
    }

    /// On PostgreSQL; `place` names what else the service writes.
    pub fn postgres(url: &str, place: &Path) -> Self {
        Self {
            url: Some(url.to_owned()),
            ..Self::new(place)
        }
    }

    /// `RUST_LOG`
    pub fn log(self, log: &'static str) -> Self {
        Self { log, ..self }
    }

    /// `MAX_SESSIONS`
    pub fn sessions(self, sessions: usize) -> Self {
        Self { sessions, ..self }
    }

    /// With a copy of the database: one file has one service.
    pub fn copy_in(self, folder: &Path) -> Result<Self> {
        let database = folder.join("copy.db");
        std::fs::copy(&self.database, &database)?;
        Ok(Self { database, ..self })
    }
}

/// A process that listens; killed when dropped.
pub struct Service {
    pub address: String,
    ops: String,
    database: PathBuf,
    process: Child,
}

impl Service {
    /// The service itself, its log in a file beside the database.
    pub fn start(options: &Options) -> Result<Self> {
        let (address, ops) = (free_address()?, free_address()?);
        let log = File::create(options.database.with_extension("log"))?;
        let file = || format!("sqlite://{}", options.database.display());
        let process = Command::new(env!("CARGO_BIN_EXE_elaoms"))
            .arg("serve")
            .env("BIND_ADDR", &address)
            .env("OPS_ADDR", &ops)
            .env("DATABASE_URL", options.url.clone().unwrap_or_else(file))
            .env(
                "PAYLOAD_STORAGE_PATH",
                options.database.with_extension("payloads"),
            )
            .env("ELEVENLABS_CLIENT_DATA_KEY", KEY)
            .env("ELEVENLABS_SEARCH_DATA_KEY", KEY)
            .env("ELEVENLABS_POST_CALL_KEY", KEY)
            .env("OPENAI_API_KEY", "")
            .env("ELEVENLABS_API_KEY", "")
            .env("MAX_SESSIONS", options.sessions.to_string())
            .env("RUST_LOG", options.log)
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()?;
        let database = options.database.clone();
        Self {
            address,
            ops,
            database,
            process,
        }
        .listening()
    }

    /// A baseline: this program in another role.
    pub fn bare(role: &str, arguments: &[&str]) -> Result<Self> {
        let address = free_address()?;
        let process = Command::new(std::env::current_exe()?)
            .arg(role)
            .arg(&address)
            .args(arguments)
            .spawn()?;
        Self {
            ops: address.clone(),
            address,
            database: PathBuf::new(),
            process,
        }
        .listening()
    }

    fn listening(self) -> Result<Self> {
        wait(|| Ok(http(&self.address, "GET", "/health", "").is_ok()))?;
        Ok(self)
    }

    /// The answer to a ring.
    pub fn ring(&self, caller: &str) -> Result<String> {
        let body = format!(r#"{{"caller_id":"{caller}","agent_id":"{AGENT}"}}"#);
        http(&self.address, "POST", "/webhook/client-data", &body)
    }

    fn metric(&self, name: &str) -> Result<f64> {
        let page = http(&self.ops, "GET", "/metrics", "")?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or("no such metric")?.parse()?)
    }

    pub fn sessions(&self) -> Result<usize> {
        Ok(self.metric("elaoms_sessions_active")? as usize)
    }

    /// Waits until every call is learned and archived; returns how long it took.
    pub fn drain(&self) -> Result<Duration> {
        let started = Instant::now();
        let database =
            Connection::open_with_flags(&self.database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sql = "SELECT EXISTS (SELECT 1 FROM inbox WHERE state IN ('queued', 'ready'))
                OR EXISTS (SELECT 1 FROM inbox WHERE archived = 0)";
        wait(|| Ok(!database.query_row(sql, [], |row| row.get::<_, bool>(0))?))?;
        Ok(started.elapsed())
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
        Ok(kilobytes.ok_or("no VmRSS")?.trim().parse::<f64>()? * 1024.0)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

pub fn wait(mut until: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !until()? {
        if started.elapsed() > PATIENCE {
            return Err("it took too long".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One request; the body of its answer.
fn http(address: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nX-Api-Key: {KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    Ok(body.to_owned())
}
