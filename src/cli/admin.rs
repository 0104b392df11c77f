//! The admin routes from the command line: those of the running service where
//! there is one, else of one that is started for the command alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use rand::distr::{Alphanumeric, SampleString};
use reqwest::{Client, Method};
use secrecy::ExposeSecret;
use serde_json::Value;

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
/// Whom the audit log names then.
const COMMAND_LINE: &str = "command-line";

#[derive(Debug, Args)]
pub(super) struct DeadLettersArguments {
    #[command(subcommand)]
    what: DeadLetters,
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

pub(super) async fn dead_letters(arguments: DeadLettersArguments) -> ExitCode {
    let (method, path) = match arguments.what {
        DeadLetters::List => (Method::GET, "dead-letters".to_owned()),
        DeadLetters::Show { id } => (Method::GET, format!("dead-letters/{id}")),
        DeadLetters::Retry { id } => (Method::POST, format!("dead-letters/{id}/retry")),
        DeadLetters::Discard { id } => (Method::DELETE, format!("dead-letters/{id}")),
    };
    run(Request::new(method, path)).await
}

pub(super) async fn audit() -> ExitCode {
    run(Request::new(Method::GET, "audit".to_owned())).await
}

/// A request to an admin route.
pub(super) struct Request {
    method: Method,
    /// Below `/admin/`.
    path: String,
    body: Option<Value>,
}

impl Request {
    pub fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            body: None,
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
pub(super) async fn run(request: Request) -> ExitCode {
    let services = match services() {
        Ok(services) => services,
        Err(code) => return code,
    };
    match make(request, &services).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("elaoms: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn make(request: Request, services: &Services) -> Result<bool, String> {
    let client = Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .build()
        .map_err(|e| e.to_string())?;
    let ops_addr = reachable(services.ops_addr);
    if tokio::net::TcpStream::connect(ops_addr).await.is_ok() {
        let key = services.admin_keys.first().ok_or_else(|| {
            format!("a service is running at {ops_addr}; set ADMIN_KEY to its key to talk to it")
        })?;
        return send(&client, ops_addr, key, request).await;
    }
    let key = AdminKey {
        name: COMMAND_LINE.to_owned(),
        key: Alphanumeric
            .sample_string(&mut rand::rng(), KEY_LENGTH)
            .into(),
    };
    let administration = Administration::start(services, key.clone())
        .await
        .map_err(|e| format!("{e}\nNo service answers at {ops_addr} (OPS_ADDR), and its stores cannot be used without one."))?;
    let done = send(&client, administration.ops_addr, &key, request).await;
    administration.stop().await;
    done
}

/// An address at which a listener on all addresses is reached.
fn reachable(addr: SocketAddr) -> SocketAddr {
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
) -> Result<bool, String> {
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
        eprintln!("elaoms: {error} ({status})");
        return Ok(false);
    }
    match serde_json::from_str::<Value>(&body) {
        Ok(answer) => println!("{answer:#}"),
        Err(_) => println!("{body}"),
    }
    Ok(true)
}
