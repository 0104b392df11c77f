//! The admin routes from the command line: those of the running service where
//! there is one, else of one that is started for the command alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use rand::distr::{Alphanumeric, SampleString};
use reqwest::{Client, Method};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::output::Output;
use super::services;
use crate::app::Administration;
use crate::config::Services;
use crate::secrets::AdminKey;

/// Longest wait for an answer: an erasure waits for its turn.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a service that may not be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Characters of the key of a service that is started for the command.
const KEY_LENGTH: usize = 40;

#[derive(Debug, Args)]
pub(super) struct DeadLettersArguments {
    #[command(subcommand)]
    what: DeadLetters,
}

#[derive(Debug, Args)]
pub(super) struct AuditArguments {
    /// How many entries, at most 1000.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// All of them, without their bodies.
    List,
    /// One with its body.
    Show { id: i64 },
    /// Give one another chance.
    Retry { id: i64 },
    /// Drop one for good.
    Discard { id: i64 },
}

pub(super) async fn dead_letters(arguments: DeadLettersArguments, file: Option<&Path>) -> ExitCode {
    let (method, path) = match arguments.what {
        DeadLetters::List => (Method::GET, "dead-letters".to_owned()),
        DeadLetters::Show { id } => (Method::GET, format!("dead-letters/{id}")),
        DeadLetters::Retry { id } => (Method::POST, format!("dead-letters/{id}/retry")),
        DeadLetters::Discard { id } => (Method::DELETE, format!("dead-letters/{id}")),
    };
    run(Request::new(method, path), file).await
}

pub(super) async fn audit(arguments: &AuditArguments, file: Option<&Path>) -> ExitCode {
    let path = format!("audit?limit={}", arguments.limit);
    run(Request::new(Method::GET, path), file).await
}

/// A request to an admin route.
pub(super) struct Request {
    method: Method,
    /// Below `/admin/`.
    path: String,
    body: Option<Value>,
    /// Whether finding nothing is a failure.
    must_find: bool,
}

impl Request {
    pub fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            body: None,
            must_find: false,
        }
    }

    /// An erasure that finds nothing may have been asked of a mistyped number.
    pub fn must_find(self) -> Self {
        Self {
            must_find: true,
            ..self
        }
    }

    pub fn with(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }
}

/// Makes the request and prints the answer. Status 0 if it was done.
pub(super) async fn run(request: Request, file: Option<&Path>) -> ExitCode {
    let services = match services(file) {
        Ok(services) => services,
        Err(code) => return code,
    };
    let must_find = request.must_find;
    match make(request, &services).await {
        Ok(answer) => {
            let mut output = Output::new();
            writeln!(output, "{answer:#}");
            let complaint = complaint(&answer, must_find);
            if let Some(complaint) = complaint {
                eprintln!("elaoms: {complaint}");
            }
            output.status(complaint.is_none())
        }
        Err(error) => {
            eprintln!("elaoms: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What an answer tells that whoever asked must not overlook.
fn complaint(answer: &Value, must_find: bool) -> Option<&'static str> {
    let left = answer["left"].as_array();
    if left.is_some_and(|left| !left.is_empty()) {
        Some("not everything could be removed: see \"left\"")
    } else if must_find && answer["found"] == false {
        Some("nothing was kept of this caller: is the number right?")
    } else {
        None
    }
}

async fn make(request: Request, services: &Services) -> Result<Value, String> {
    let operations = Operations::of(services).await?;
    let done = operations.send(request).await;
    operations.close().await;
    done
}

/// The admin routes of a service.
pub(super) struct Operations {
    client: Client,
    addr: SocketAddr,
    key: AdminKey,
    /// The service, if it was started for the command.
    own: Option<Administration>,
}

impl Operations {
    /// Those of the running service, else of one that is started for the command.
    pub async fn of(services: &Services) -> Result<Self, String> {
        let addr = reachable(services.ops_addr);
        if let Some(running) = Self::of_running(addr, services.admin_keys.first()).await {
            return running;
        }
        let key = AdminKey {
            // Whom the audit log names.
            name: format!("command-line:uid={}", rustix::process::getuid().as_raw()),
            key: Alphanumeric
                .sample_string(&mut rand::rng(), KEY_LENGTH)
                .into(),
        };
        let own = Administration::start(services, key.clone()).await.map_err(|e| {
            format!("{e}\nNo service answers at {addr} (OPS_ADDR), so its stores were to be used directly.")
        })?;
        Ok(Self {
            client: client()?,
            addr: own.ops_addr,
            key,
            own: Some(own),
        })
    }

    /// Those of the service that runs at this address; `None` if there is none.
    pub async fn of_running(
        addr: SocketAddr,
        key: Option<&AdminKey>,
    ) -> Option<Result<Self, String>> {
        let connected = tokio::net::TcpStream::connect(addr);
        tokio::time::timeout(CONNECT_TIMEOUT, connected)
            .await
            .ok()?
            .ok()?;
        let key = key.cloned().ok_or_else(|| {
            format!("a service is running at {addr}; set ADMIN_KEY to its key to talk to it")
        });
        Some(key.and_then(|key| {
            Ok(Self {
                client: client()?,
                addr,
                key,
                own: None,
            })
        }))
    }

    /// Whether it was started for the command, and does no work.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Makes a request; the answer.
    pub async fn send(&self, request: Request) -> Result<Value, String> {
        send(&self.client, self.addr, &self.key, request).await
    }

    /// Ends a service that was started for the command.
    pub async fn close(self) {
        if let Some(own) = self.own {
            own.stop().await;
        }
    }
}

fn client() -> Result<Client, String> {
    let client = crate::clients::client_builder()
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT);
    client.build().map_err(|e| e.to_string())
}

/// An address at which a listener on all addresses is reached.
pub(super) fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

async fn send(
    client: &Client,
    addr: SocketAddr,
    key: &AdminKey,
    request: Request,
) -> Result<Value, String> {
    let url = format!("http://{addr}/admin/{}", request.path);
    let mut sent = client
        .request(request.method, url)
        .bearer_auth(key.key.expose_secret());
    if let Some(body) = request.body {
        sent = sent.json(&body);
    }
    let failed =
        |e: reqwest::Error| format!("the service at {addr} does not answer: {}", e.without_url());
    let response = sent.send().await.map_err(failed)?;
    let (status, body) = (response.status(), response.text().await.map_err(failed)?);
    if !status.is_success() {
        let error = serde_json::from_str::<Value>(&body).unwrap_or_default();
        let error = error["error"].as_str().unwrap_or("no reason was given");
        return Err(match (status.as_u16(), error) {
            (404, "no such route") => format!(
                "the service at {addr} has no admin routes: set ADMIN_KEY for it, and restart it"
            ),
            (401, _) => format!(
                "the service at {addr} does not know the first key of ADMIN_KEY ({})",
                key.name
            ),
            _ => format!("{error} ({status})"),
        });
    }
    serde_json::from_str(&body).map_err(|_| format!("the answer of {addr} is not JSON"))
}
