//! The reverse proxies of `deploy`, as they are but for ports and
//! certificates, in front of the service.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use reqwest::{Body, Client};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::observability::repository;
use crate::payloads::call;
use crate::postgres::Postgres;
use crate::service::{AGENT, CALLER, Service, free_port, until};
use crate::tools;

const MIB: usize = 1024 * 1024;
/// Of 4 MiB so much that nobody else's recording finds room beside it.
const ALMOST: usize = 4 * MIB - MIB / 2;

/// A self-signed certificate for `localhost` in this folder.
async fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args("req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost".split(' '))
        .args("-addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem".split(' '))
        .current_dir(folder)
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// The file of `deploy` with each of these texts replaced.
fn edited(file: &str, replacements: &[(&str, String)]) -> String {
    let path = repository().join("deploy").join(file);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (old, new) in replacements {
        assert!(text.contains(old), "{old} is not in {file}");
        text = text.replace(old, new);
    }
    text
}

/// A client that comes to `localhost:port` from this address.
fn client(port: u16, from: Ipv4Addr) -> Client {
    elaoms::clients::client_builder()
        .no_proxy()
        .danger_accept_invalid_certs(true)
        .local_address(IpAddr::V4(from))
        .resolve("localhost", SocketAddr::from(([127, 0, 0, 1], port)))
        .build()
        .unwrap()
}

/// A proxy under test; it ends with this.
struct Proxy {
    port: u16,
    folder: TempDir,
    _child: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- the log of the proxy ---\n{}", log.unwrap());
        }
    }
}

async fn start(program: &str, folder: TempDir, base: &str, arguments: &[&str]) -> Proxy {
    let port: u16 = base.rsplit(':').next().unwrap().parse().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let child = Command::new(program)
        .args(arguments)
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let proxy = Proxy {
        port,
        folder,
        _child: child,
    };
    let client = client(port, Ipv4Addr::LOCALHOST);
    until(&format!("{program} to answer"), async || {
        let health = client.get(format!("{base}/health"));
        health.send().await.is_ok_and(|r| r.status() == 200)
    })
    .await;
    proxy
}

async fn service() -> Service {
    Service::start_with(&[("MAX_BODY_MB", "4"), ("TRUSTED_PROXIES", "127.0.0.1")]).await
}

/// A recording of `sent` bytes with a signature that is not ours, which then
/// does not go on.
fn stalled(service: &Service, from: &Client, sent: usize) -> reqwest::RequestBuilder {
    let mut body = br#"{"type":"post_call_audio","data":{"full_audio":""#.to_vec();
    body.resize(sent, b'A');
    let chunks: Vec<_> = body.chunks(64 * 1024).map(|c| Ok(c.to_vec())).collect();
    let body = stream::iter(chunks).chain(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let now = Timestamp::now().as_second();
    from.post(format!("{}/webhook/post-call", service.base))
        .header(
            "ElevenLabs-Signature",
            format!("t={now},v0={}", "00".repeat(32)),
        )
        .body(Body::wrap_stream(body))
}

fn spooled(service: &Service) -> usize {
    let files = std::fs::read_dir(service.path("payloads/.incoming")).unwrap();
    files
        .filter_map(|file| usize::try_from(file.ok()?.metadata().ok()?.len()).ok())
        .sum()
}

/// What must pass, and what must not.
async fn passes_the_webhooks(mut service: Service, proxy: Proxy) {
    let port = proxy.port;
    service.base = format!("https://localhost:{port}");
    service.http = client(port, Ipv4Addr::LOCALHOST);
    let refused = service.http.get(format!("{}/metrics", service.base));
    assert_eq!(refused.send().await.unwrap().status(), 404);

    // Who is limited are the senders, not the proxy.
    let [one, same, other] = [1, 1, 2].map(|n| client(port, Ipv4Addr::new(127, 0, 1, n)));
    let first = tokio::spawn(stalled(&service, &one, ALMOST).send());
    until("the first on disk", async || spooled(&service) > 3 * MIB).await;
    let refused = stalled(&service, &same, ALMOST).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    let second = tokio::spawn(stalled(&service, &other, ALMOST).send());
    until("both on disk", async || spooled(&service) > 6 * MIB).await;
    first.abort();
    second.abort();

    let mut large = call("conv_1", AGENT, CALLER).caller("My name is Nora.");
    for turn in 0..40_000 {
        large = large.caller_only(&format!("Turn {turn} is about the roses."));
    }
    let large = large.body();
    assert!(large.len() > 2_000_000 && large.len() < 4 * MIB);
    let taken = service.post_call(large).send().await.unwrap();
    assert_eq!(taken.status(), 200);
    service.settle().await;
    let answer = service.ring(CALLER, AGENT).await;
    assert_eq!(answer["dynamic_variables"]["user_name"], "Nora");

    let refused = service.post_call(vec![b' '; 5 * MIB]).send().await;
    assert_eq!(refused.unwrap().status(), 413);
}

async fn nginx(folder: TempDir, base: &str, site: &str) -> Proxy {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let config = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let prefix = folder.path().display().to_string();
    let arguments = ["-p", &prefix, "-e", "stderr", "-c", "nginx.conf"];
    start("nginx", folder, base, &arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_before_a_fleet_leaves_out_who_is_gone() {
    if !tools::installed(tools::NGINX) {
        return;
    }
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database("fleet").await;
    let settings = [("DATABASE_URL", &*url), ("TRUSTED_PROXIES", "127.0.0.1")];
    let mut service = Service::start_with(&settings).await;
    let mut other = Service::start_with(&settings).await;
    let address = |service: &Service| service.base.strip_prefix("http://").unwrap().to_owned();
    let port = free_port();
    let site = edited(
        "fleet/nginx.conf",
        &[
            ("listen 8080", format!("listen 127.0.0.1:{port}")),
            ("elaoms-1:8000", address(&service)),
            ("elaoms-2:8000", address(&other)),
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    let base = format!("http://localhost:{port}");
    let proxy = nginx(folder, &base, &site).await;
    service.base = base;
    service.http = client(proxy.port, Ipv4Addr::LOCALHOST);
    let end = async |n: i64| {
        let said = call(&format!("conv_{n}"), AGENT, CALLER)
            .caller(&format!("My name is Nora. This is call {n}."))
            .later(60 * n);
        service.end_call(&said).await;
    };
    let knows = async |n: i64| {
        let greeting = service.greeting(CALLER, AGENT).await;
        greeting.is_some_and(|greeting| greeting.contains(&format!("call {n}")))
    };
    for n in 0..4 {
        end(n).await;
    }
    until("both to know the newest", async || {
        knows(3).await && knows(3).await
    })
    .await;
    other.kill().await;
    // Whoever is sent to it hears the other one.
    for _ in 0..20 {
        assert!(knows(3).await);
    }
    for n in 4..8 {
        end(n).await;
    }
    until("the newest to be learned", async || knows(7).await).await;
    other.respawn().await;
    for _ in 0..20 {
        assert!(knows(7).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_passes_the_webhooks() {
    if !tools::installed(tools::NGINX) {
        return;
    }
    let service = service().await;
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path()).await;
    let port = free_port();
    let site = edited(
        "nginx.conf",
        &[
            ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
            ("    listen [::]:443 ssl;\n", String::new()),
            (
                "127.0.0.1:8000;",
                format!("{};", service.base.strip_prefix("http://").unwrap()),
            ),
            ("your.host;", "localhost;".into()),
            (
                "/etc/letsencrypt/live/your.host/fullchain.pem",
                "cert.pem".into(),
            ),
            (
                "/etc/letsencrypt/live/your.host/privkey.pem",
                "key.pem".into(),
            ),
            ("client_max_body_size 64m", "client_max_body_size 4m".into()),
        ],
    );
    let base = format!("https://localhost:{port}");
    let proxy = nginx(folder, &base, &site).await;
    passes_the_webhooks(service, proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_passes_the_webhooks() {
    if !tools::installed(tools::CADDY) {
        return;
    }
    let service = service().await;
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path()).await;
    let port = free_port();
    let config = edited(
        "Caddyfile",
        &[
            (
                "\nyour.host {\n",
                format!("\nhttps://localhost:{port} {{\n\ttls cert.pem key.pem\n"),
            ),
            (
                "{\n\tservers",
                "{\n\tadmin off\n\tauto_https disable_redirects\n\tservers".into(),
            ),
            (
                "127.0.0.1:8000 {",
                format!("{} {{", service.base.strip_prefix("http://").unwrap()),
            ),
            ("64MiB", "4MiB".into()),
        ],
    );
    std::fs::write(folder.path().join("Caddyfile"), config).unwrap();
    let arguments = ["run", "--config", "Caddyfile", "--adapter", "caddyfile"];
    let base = format!("https://localhost:{port}");
    let proxy = start("caddy", folder, &base, &arguments).await;
    passes_the_webhooks(service, proxy).await;
}
