//! What may go wrong between the service and its upstreams, made by a proxy of
//! our own: rings keep their deadline with the right content, events are
//! acknowledged and never hang, and once the fault is lifted all is made up for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use elaoms::clients::Generation;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::openmemory_stand_in::{KEY, OpenMemoryStandIn};
use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_CALLER, Service, greeting_in, until};

/// `CLIENT_DATA_DEADLINE_MS`
const DEADLINE: Duration = Duration::from_millis(400);
/// How much a busy test machine may add to any wait.
const SLACK: Duration = Duration::from_secs(4);

#[derive(Clone)]
enum Fault {
    None,
    /// Accepts, and never answers.
    Hangs,
    /// A byte a second.
    Drips,
    /// The server does its work, and the connection is reset in the middle of
    /// the answer.
    Resets,
    /// 200 with this body.
    Answers(Arc<str>),
    /// Something that is no HTTP.
    Garbage,
}

fn faults() -> Vec<(&'static str, Fault)> {
    let answers = |body: String| Fault::Answers(body.into());
    let shape = json!({"choices": "none", "items": 7, "user_id": [], "agent_id": {}});
    vec![
        ("hang", Fault::Hangs),
        ("drip", Fault::Drips),
        ("reset", Fault::Resets),
        ("no JSON", answers("<html>Welcome</html>".into())),
        ("another shape", answers(shape.to_string())),
        ("megabytes", answers(json!(vec![0; 4_000_000]).to_string())),
        ("deep", answers("[".repeat(200_000))),
        ("garbage", Fault::Garbage),
    ]
}

/// The proxy. It ends when this is dropped.
struct Proxy {
    addr: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    fault: watch::Sender<Fault>,
    /// Connections that met a fault.
    met: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (target, target_seen) = watch::channel(None);
        let (fault, fault_seen) = watch::channel(Fault::None);
        let (stop, met) = (CancellationToken::new(), Arc::default());
        let seen = Arc::clone(&met);
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut target, mut fault) = (target_seen.clone(), fault_seen.clone());
                let met = Arc::clone(&seen);
                tokio::spawn(async move {
                    let target = *target.wait_for(Option::is_some).await.unwrap();
                    let now = fault.borrow_and_update().clone();
                    // Every change ends what was there, as a restart does.
                    tokio::select! {
                        _ = fault.changed() => {}
                        () = connection(stream, target.unwrap(), &now, &met) => {}
                    }
                });
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Self {
            addr,
            target,
            fault,
            met,
            _stop: stop.drop_guard(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn leads_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    async fn met(&self) {
        until("the fault to be met", async || {
            self.met.load(Ordering::SeqCst) > 0
        })
        .await;
    }
}

async fn connection(mut stream: TcpStream, target: SocketAddr, fault: &Fault, met: &AtomicUsize) {
    let mut first = [0; 1];
    if stream.peek(&mut first).await.unwrap_or(0) == 0 {
        return;
    }
    if !matches!(fault, Fault::None) {
        met.fetch_add(1, Ordering::SeqCst);
    }
    let answer = match fault {
        Fault::None => {
            let Ok(mut server) = TcpStream::connect(target).await else {
                return;
            };
            let _ = copy_bidirectional(&mut stream, &mut server).await;
            return;
        }
        Fault::Resets => return reset(stream, target).await,
        Fault::Hangs => String::new(),
        Fault::Drips => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_owned(),
        Fault::Answers(body) => format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        Fault::Garbage => "\u{0}\u{1}SSH-2.0-OpenSSH_9.9\r\n\u{7f}\u{2}".to_owned(),
    };
    let (mut read, mut write) = stream.split();
    let answering = async {
        if matches!(fault, Fault::Drips) {
            for byte in answer.as_bytes() {
                let _ = write.write_all(&[*byte]).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let _ = write.write_all(answer.as_bytes()).await;
        if matches!(fault, Fault::Garbage) {
            let _ = write.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let mut ignored = sink();
    tokio::select! {
        _ = copy(&mut read, &mut ignored) => {}
        () = answering => {}
    }
}

async fn reset(mut stream: TcpStream, target: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let mut begun = [0; 24];
    {
        let (mut read, mut write) = stream.split();
        let (mut answers, mut questions) = server.split();
        tokio::select! {
            _ = copy(&mut read, &mut questions) => return,
            _ = answers.read_exact(&mut begun) => {}
        }
        let _ = write.write_all(&begun).await;
    }
    let _ = stream.set_zero_linger();
}

/// Answered in time, whatever happens upstream: the answer.
async fn ring(service: &Service, caller: &str, fault: &str) -> Value {
    let answer = timeout(DEADLINE + SLACK, service.ring(caller, AGENT)).await;
    answer.unwrap_or_else(|_| panic!("{fault}: a ring is not answered"))
}

async fn end_call(service: &Service, fault: &str) {
    let said = call("conv_2", AGENT, CALLER)
        .caller("I like tulips.")
        .later(60);
    let answer = timeout(SLACK, service.end_call(&said)).await;
    answer.unwrap_or_else(|_| panic!("{fault}: an event is not answered"));
}

/// A service with the proxy in place of the upstream of this name, which knows
/// one caller.
async fn start(
    upstream: &'static str,
    path: &str,
    more: &[(&'static str, &str)],
) -> (Service, Proxy) {
    let proxy = Proxy::start().await;
    let url = proxy.url(path);
    let deadline = DEADLINE.as_millis().to_string();
    let mut settings = vec![
        (upstream, url.as_str()),
        ("CLIENT_DATA_DEADLINE_MS", &deadline),
        ("OPENAI_TIMEOUT", "5"),
    ];
    settings.extend(more);
    let service = Service::start_with(&settings).await;
    (service, proxy)
}

async fn know_a_caller(service: &Service) {
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
}

/// Everything is made up for, exactly once.
async fn all_is_well(service: &Service, fault: &str) {
    service.wait_for_greeting(CALLER, AGENT, "tulips").await;
    service.settle().await;
    let shown = service.caller(CALLER).await;
    assert_eq!(shown["total_interactions"], 2, "{fault}");
    assert_eq!(shown["agents"][AGENT]["conversation_count"], 2, "{fault}");
    let export = service.admin(reqwest::Method::GET, &format!("callers/{CALLER}/export"));
    let export: Value = export.send().await.unwrap().json().await.unwrap();
    assert_eq!(export["memories"].as_array().unwrap().len(), 2, "{fault}");
    let dead = service.query("SELECT count(*) FROM inbox WHERE state = 'dead'");
    assert_eq!(dead, 0, "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_openai_does_callers_are_known_and_greeted_afterwards() {
    join_all(faults().into_iter().map(|(name, fault)| async move {
        let (service, proxy) = start("OPENAI_BASE_URL", "/v1", &[]).await;
        proxy.leads_to(service.upstream.addr);
        know_a_caller(&service).await;
        proxy.set(fault);
        end_call(&service, name).await;
        proxy.met().await;
        let known = ring(&service, CALLER, name).await;
        let greeting = greeting_in(&known).unwrap_or_default();
        assert!(greeting.contains("roses"), "{name}: {known}");
        let stranger = ring(&service, OTHER_CALLER, name).await;
        assert_eq!(stranger["dynamic_variables"], json!({}), "{name}");
        // Learned already.
        assert_eq!(service.caller(CALLER).await["total_interactions"], 2);
        proxy.set(Fault::None);
        all_is_well(&service, name).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_elevenlabs_does_callers_are_known_and_agents_afterwards() {
    join_all(faults().into_iter().map(|(name, fault)| async move {
        let (service, proxy) = start("ELEVENLABS_BASE_URL", "", &[]).await;
        let placeholders = json!({"user_name": "there"});
        service.upstream.add_agent(AGENT, true, placeholders);
        proxy.leads_to(service.upstream.addr);
        proxy.set(fault);
        let stranger = ring(&service, OTHER_CALLER, name).await;
        assert_eq!(stranger["dynamic_variables"], json!({}), "{name}");
        proxy.met().await;
        let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
        service.end_call(&said).await;
        until(&format!("{name}: the caller to be known"), async || {
            let known = ring(&service, CALLER, name).await;
            known["dynamic_variables"]["user_name"] == "Nora"
        })
        .await;
        end_call(&service, name).await;
        proxy.set(Fault::None);
        until(&format!("{name}: the agent's profile"), async || {
            let stranger = ring(&service, OTHER_CALLER, name).await;
            stranger["dynamic_variables"]["user_name"] == "there"
        })
        .await;
        all_is_well(&service, name).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_openmemory_does_callers_in_memory_are_greeted_and_all_is_learned_once() {
    join_all(faults().into_iter().map(|(name, fault)| async move {
        let server = OpenMemoryStandIn::start(Generation::First).await;
        let more = [("OPENMEMORY_KEY", KEY)];
        let (service, proxy) = start("OPENMEMORY_PORT", "", &more).await;
        proxy.leads_to(server.addr);
        know_a_caller(&service).await;
        proxy.set(fault);
        end_call(&service, name).await;
        let known = ring(&service, CALLER, name).await;
        let greeting = greeting_in(&known).unwrap_or_default();
        assert!(greeting.contains("roses"), "{name}: {known}");
        let stranger = ring(&service, OTHER_CALLER, name).await;
        assert_eq!(stranger["dynamic_variables"], json!({}), "{name}");
        let found = timeout(SLACK * 3, service.found(OTHER_CALLER, AGENT, "roses")).await;
        assert!(found.expect(name).is_empty(), "{name}");
        proxy.met().await;
        proxy.set(Fault::None);
        all_is_well(&service, name).await;
    }))
    .await;
}
