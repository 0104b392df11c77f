//! The real program as a child process, and what ElevenLabs would send it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elaoms::http::sign;
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::fakes::Upstream;
use crate::payloads::CallBody;

pub const AGENT: &str = "agent_margaret";
pub const OTHER_AGENT: &str = "agent_luigi";
pub const CALLER: &str = "+16125550101";
pub const OTHER_CALLER: &str = "+48225550102";

const CLIENT_DATA_KEY: &str = "key-for-client-data-0001";
const SEARCH_DATA_KEY: &str = "key-for-search-data-0002";
const POST_CALL_KEY: &str = "wsec_key-for-post-call-0003";
const OPENAI_KEY: &str = "sk-key-for-openai-0004";
const ELEVENLABS_KEY: &str = "xi-key-for-elevenlabs-0005";
const ADMIN_KEY: &str = "key-for-admin-0006";

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(30);

/// A service with a folder and upstreams of its own.
pub struct Service {
    pub upstream: Upstream,
    pub base: String,
    pub ops: String,
    pub http: Client,
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Service {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further settings, which replace the usual ones.
    pub async fn start_with(more: &[(&'static str, &str)]) -> Self {
        let upstream = Upstream::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path(), &upstream);
        for (name, value) in more {
            settings.retain(|(n, _)| n != name);
            settings.push((name, (*value).to_owned()));
        }
        Self::launch(upstream, folder, settings).await
    }

    /// With its settings in `.env`, as users have them, and on addresses that stay.
    /// The secret of the post-call webhook is not known yet.
    pub async fn start_from_file(more: &[(&'static str, &str)]) -> Self {
        let upstream = Upstream::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut lines = settings(folder.path(), &upstream);
        let ports = [free_port(), free_port()];
        let addresses = ports.map(|port| format!("127.0.0.1:{port}"));
        let unconnected = "unconnected-0123456789abcdef";
        let own = [
            ("BIND_ADDR", addresses[0].as_str()),
            ("OPS_ADDR", &addresses[1]),
            ("ELEVENLABS_POST_CALL_KEY", unconnected),
        ];
        for (name, value) in own.iter().chain(more) {
            lines.retain(|(n, _)| n != name);
            lines.push((name, (*value).to_owned()));
        }
        let text: String = lines
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        std::fs::write(folder.path().join(".env"), format!("# Mine\n{text}")).unwrap();
        let settings = vec![("NO_PROXY", "127.0.0.1".to_owned())];
        Self::launch(upstream, folder, settings).await
    }

    async fn launch(
        upstream: Upstream,
        folder: TempDir,
        settings: Vec<(&'static str, String)>,
    ) -> Self {
        let log = Arc::default();
        let (child, base, ops) = spawn(folder.path(), &settings, &log).await;
        let http = elaoms::clients::client_builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            upstream,
            base,
            ops,
            http,
            folder,
            settings,
            child,
            log,
        }
    }

    /// Ends the program as a crash would, and starts it again on the same files.
    pub async fn crash_and_restart(&mut self) {
        self.kill().await;
        self.respawn().await;
    }

    /// Ends the program as a crash would.
    pub async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    /// Asks the program to stop, as systemd does, and checks that it does well.
    pub async fn terminate(&mut self) -> Duration {
        let pid = self.child.id().unwrap().to_string();
        let started = Instant::now();
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .await
            .unwrap();
        let status = timeout(SOON, self.child.wait())
            .await
            .expect("it stops in time")
            .unwrap();
        assert!(status.success(), "{status}");
        started.elapsed()
    }

    pub async fn respawn(&mut self) {
        (self.child, self.base, self.ops) =
            spawn(self.folder.path(), &self.settings, &self.log).await;
    }

    /// Changes a setting for the next start; returns what it was.
    pub fn set(&mut self, name: &'static str, value: &str) -> String {
        let old = self
            .settings
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.clone());
        self.settings.retain(|(n, _)| *n != name);
        self.settings.push((name, value.to_owned()));
        old.unwrap_or_default()
    }

    /// Runs a subcommand with the settings of this service, which must not be
    /// running if the command needs its database.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = command(self.folder.path(), &self.settings)
            .args(arguments)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap_or(-1), text)
    }

    /// Starts a subcommand and leaves it running.
    pub fn start_command(&self, arguments: &[&str]) -> Child {
        let mut command = command(self.folder.path(), &self.settings);
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub fn settings(&self) -> &[(&'static str, String)] {
        &self.settings
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Waits until OpenAI got its first request.
    pub async fn wait_for_openai(&self) {
        until("the request to OpenAI", async || self.upstream.asked() == 1).await;
    }

    /// Everything the program has printed.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub async fn wait_for_log(&self, phrase: &str) {
        until(&format!("{phrase:?} in the log"), async || {
            self.log().contains(phrase)
        })
        .await;
    }

    // --- client-data -----------------------------------------------------

    pub fn client_data(&self) -> RequestBuilder {
        self.http
            .post(format!("{}/webhook/client-data", self.base))
            .header("X-Api-Key", CLIENT_DATA_KEY)
    }

    /// The phone rings: the answer.
    pub async fn ring(&self, caller: &str, agent: &str) -> Value {
        let body = json!({"caller_id": caller, "agent_id": agent, "called_number": "+16125550000", "call_sid": "CA1"});
        let response = self.client_data().json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// The greeting with which a ring is answered, if any.
    pub async fn greeting(&self, caller: &str, agent: &str) -> Option<String> {
        greeting_in(&self.ring(caller, agent).await)
    }

    pub async fn wait_for_greeting(&self, caller: &str, agent: &str, words: &str) {
        until(&format!("a greeting with {words:?}"), async || {
            self.greeting(caller, agent)
                .await
                .is_some_and(|g| g.contains(words))
        })
        .await;
    }

    // --- search-data -----------------------------------------------------

    pub fn search_data(&self) -> RequestBuilder {
        self.http
            .post(format!("{}/webhook/search-data", self.base))
            .header("X-Api-Key", SEARCH_DATA_KEY)
    }

    pub async fn search(&self, caller: &str, agent: &str, query: &str) -> Value {
        let body = json!({"query": query, "user_id": caller, "agent_id": agent, "conversation_id": "c", "context": null});
        let response = self.search_data().json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// The contents of what a search finds.
    pub async fn found(&self, caller: &str, agent: &str, query: &str) -> Vec<String> {
        let answer = self.search(caller, agent, query).await;
        answer["memories"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["content"].as_str().unwrap().to_owned())
            .collect()
    }

    // --- post-call -------------------------------------------------------

    pub fn post_call(&self, body: Vec<u8>) -> RequestBuilder {
        let signature = sign(&body, POST_CALL_KEY.as_bytes(), Timestamp::now());
        self.post_call_signed(body, &signature)
    }

    pub fn post_call_signed(&self, body: Vec<u8>, signature: &str) -> RequestBuilder {
        self.http
            .post(format!("{}/webhook/post-call", self.base))
            .header("ElevenLabs-Signature", signature)
            .header("Content-Type", "application/json")
            .body(body)
    }

    pub fn post_call_key(&self) -> &'static [u8] {
        POST_CALL_KEY.as_bytes()
    }

    pub fn admin_key(&self) -> &'static str {
        ADMIN_KEY
    }

    /// A call ends.
    pub async fn end_call(&self, call: &CallBody) -> Value {
        let response = self.post_call(call.body()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// A call ends, and everything is done with it.
    pub async fn end_call_and_settle(&self, call: &CallBody) {
        self.end_call(call).await;
        self.settle().await;
    }

    // --- operations ------------------------------------------------------

    /// Waits until the inbox has nothing left to do.
    pub async fn settle(&self) {
        until("an empty inbox", async || self.inbox_pending() == 0).await;
    }

    /// Straight from the database: the metric is measured every two seconds only.
    pub fn inbox_pending(&self) -> i64 {
        self.query("SELECT count(*) FROM inbox WHERE state IN ('queued', 'ready') OR archived = 0")
    }

    /// A number from the database of the service.
    pub fn query(&self, sql: &str) -> i64 {
        let database = rusqlite::Connection::open_with_flags(
            self.path("elaoms.db"),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
        )
        .unwrap();
        database.busy_timeout(SOON).unwrap();
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub async fn metrics(&self) -> String {
        self.http
            .get(format!("{}/metrics", self.ops))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    /// The value of one series.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = self.metrics().await;
        let line = page.lines().find(|l| {
            l.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        let line = line.unwrap_or_else(|| panic!("no series {series} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub fn admin(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/admin/{path}", self.ops))
            .bearer_auth(ADMIN_KEY)
    }

    /// A caller as the admin route shows it.
    pub async fn caller(&self, caller: &str) -> Value {
        let path = format!("callers/{caller}");
        self.admin(reqwest::Method::GET, &path)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }
}

impl Drop for Service {
    /// Whatever a test did, no secret may have reached the log.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of the service ---\n{}", self.log());
            return;
        }
        let log = self.log();
        assert!(
            !log.contains(crate::openmemory_stand_in::KEY),
            "a key is in the log:\n{log}"
        );
        for secret in [
            CLIENT_DATA_KEY,
            SEARCH_DATA_KEY,
            POST_CALL_KEY,
            OPENAI_KEY,
            ELEVENLABS_KEY,
            ADMIN_KEY,
        ] {
            assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        }
        assert!(
            !log.contains(CANARY),
            "a caller's words are in the log:\n{log}"
        );
        assert!(!log.contains("panicked"), "something panicked:\n{log}");
    }
}

/// Words for transcripts that must never turn up in a log.
pub const CANARY: &str = "xylophone-canary";

pub fn greeting_in(answer: &Value) -> Option<String> {
    answer["conversation_config_override"]["agent"]["first_message"]
        .as_str()
        .map(str::to_owned)
}

/// Polls until something is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A port that nobody listens on, given to nobody else in this process.
///
/// Taken from below the range that the kernel gives out by itself (32768 and up
/// on Linux): a port of that range could become an outgoing connection's own
/// before the program that it is meant for has bound it, or while it restarts.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    // Another run of the tests on this machine begins elsewhere.
    let start = std::process::id().wrapping_mul(97);
    (0..COUNT)
        .map(|_| start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)))
        .map(|next| u16::try_from(FIRST + next % COUNT).unwrap())
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

fn settings(folder: &Path, upstream: &Upstream) -> Vec<(&'static str, String)> {
    vec![
        ("BIND_ADDR", "127.0.0.1:0".into()),
        ("OPS_ADDR", "127.0.0.1:0".into()),
        ("ELEVENLABS_CLIENT_DATA_KEY", CLIENT_DATA_KEY.into()),
        ("ELEVENLABS_SEARCH_DATA_KEY", SEARCH_DATA_KEY.into()),
        ("ELEVENLABS_POST_CALL_KEY", POST_CALL_KEY.into()),
        ("OPENAI_API_KEY", OPENAI_KEY.into()),
        ("ELEVENLABS_API_KEY", ELEVENLABS_KEY.into()),
        ("ADMIN_KEY", ADMIN_KEY.into()),
        ("OPENAI_BASE_URL", format!("http://{}/v1", upstream.addr)),
        ("ELEVENLABS_BASE_URL", format!("http://{}", upstream.addr)),
        (
            "DATABASE_URL",
            format!("sqlite://{}", folder.join("elaoms.db").display()),
        ),
        (
            "PAYLOAD_STORAGE_PATH",
            folder.join("payloads").display().to_string(),
        ),
        // A busy test machine must not turn greetings into defaults.
        ("CLIENT_DATA_DEADLINE_MS", "5000".into()),
        // The limiter has tests of its own.
        ("OPENAI_RPM", "100000".into()),
        ("OPENAI_TPM", "100000000".into()),
        ("NO_PROXY", "127.0.0.1".into()),
    ]
}

/// The program with exactly these settings.
pub fn command(folder: &Path, settings: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elaoms"));
    command
        .env_clear()
        .envs(settings.iter().map(|(name, value)| (*name, value)))
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn spawn(
    folder: &Path,
    settings: &[(&'static str, String)],
    log: &Arc<Mutex<String>>,
) -> (Child, String, String) {
    let mut child = command(folder, settings)
        .arg("serve")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (found, addresses) = tokio::sync::oneshot::channel();
    let mut found = Some(found);
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let kept = Arc::clone(log);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some((_, rest)) = line.split_once("Webhooks on ")
                && let Some((base, ops)) = rest.split_once(", metrics and health on ")
                && let Some(found) = found.take()
            {
                let ops = ops.split('"').next().unwrap().to_owned();
                let _ = found.send((base.to_owned(), ops));
            }
            let mut log = kept.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    let kept = Arc::clone(log);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = kept.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    let addresses = timeout(SOON, addresses)
        .await
        .expect("the service starts in time");
    let Ok((base, ops)) = addresses else {
        panic!("the service did not start:\n{}", log.lock().unwrap());
    };
    (child, base, ops)
}
