//! Nobody gets in the way before authentication: idle and slow connections,
//! bodies with bogus signatures, recordings nobody vouches for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use elaoms::http::{Connections, Limits, TrustedProxies, serve_public};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use warp::Filter;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, SOON, Service, until};

const MIB: usize = 1024 * 1024;

/// Strangers' addresses; the service's own client is 127.0.0.1.
fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, n)
}

async fn connect(to: &str, from: Ipv4Addr) -> TcpStream {
    let to: SocketAddr = to.strip_prefix("http://").unwrap().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// The head of a post-call request whose signature is not ours, and the first
/// `sent` bytes of its `length`.
fn bogus(headers: &str, length: usize, sent: usize) -> Vec<u8> {
    let body = br#"{"type":"post_call_audio","data":{"conversation_id":"x","full_audio":""#;
    let now = Timestamp::now().as_second();
    let mut request = format!(
        "POST /webhook/post-call HTTP/1.1\r\nHost: x\r\n{headers}ElevenLabs-Signature: t={now},v0={}\r\nContent-Length: {length}\r\n\r\n",
        "00".repeat(32)
    )
    .into_bytes();
    request.extend_from_slice(body);
    request.resize(request.len() + sent - body.len(), b'A');
    request
}

/// Sends the beginning of a bogus body, and keeps the connection. The service
/// may refuse it on the way.
async fn stall(service: &Service, from: Ipv4Addr, headers: &str, sent: usize) -> TcpStream {
    let mut stream = connect(&service.base, from).await;
    let _ = stream.write_all(&bogus(headers, sent + 1, sent)).await;
    stream
}

/// What comes back until the end of the answer or connection.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while !text.windows(4).any(|w| w == b"\r\n\r\n") {
        match timeout(SOON, stream.read(&mut buffer)).await.unwrap() {
            Ok(0) | Err(_) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8(text).unwrap()
}

/// An event of some 200 KB.
fn large_event(conversation: &str) -> Vec<u8> {
    let mut said = call(conversation, AGENT, CALLER);
    for turn in 0..3_000 {
        said = said.caller_only(&format!("Turn {turn} is about the roses in the garden."));
    }
    let body = said.body();
    assert!(body.len() > 200_000, "{}", body.len());
    body
}

async fn send_large_event(service: &Service, conversation: &str) {
    let response = service.post_call(large_event(conversation)).send().await;
    let response = response.unwrap();
    let status = response.status();
    assert_eq!(status, 200, "{}", response.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stop_behind_64_kb_keep_no_event_out() {
    let service = Service::start().await;
    let mut strangers = Vec::new();
    for n in 0..300_u16 {
        // Some of them behind the address of the genuine sender, as all are
        // behind a proxy.
        let from = match (n % 10) as u8 {
            0 | 1 => Ipv4Addr::LOCALHOST,
            other => address(other),
        };
        strangers.push(stall(&service, from, "", 66 * 1024).await);
    }
    // One after the other, so that the last finds all of the strangers there.
    for n in 0..5 {
        send_large_event(&service, &format!("conv_{n}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_large_bodies_lose_their_places_to_an_event() {
    let service = Service::start().await;
    let mut strangers = Vec::new();
    for n in 0..300_u16 {
        strangers.push(stall(&service, address(1 + (n % 8) as u8), "", 160 * 1024).await);
    }
    // Nobody knows the sender yet; the second time he is known.
    send_large_event(&service, "conv_1").await;
    send_large_event(&service, "conv_2").await;
    let stalled = service
        .metric(r#"elaoms_connections_dropped_total{reason="stalled"}"#)
        .await;
    assert!(stalled >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_the_same_address_keep_no_event_out() {
    let service = Service::start().await;
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(stall(&service, Ipv4Addr::LOCALHOST, "", 160 * 1024).await);
    }
    // While the service is still busy with their arrival it cannot tell who has
    // stalled from whom it has not read yet, so an event may be refused, and is
    // sent again as ElevenLabs does. Then none is.
    let mut in_a_row = 0;
    until("five events in a row to be taken", async || {
        let event = large_event(&format!("conv_{in_a_row}"));
        let answer = service.post_call(event).send().await;
        let taken = answer.is_ok_and(|answer| answer.status() == 200);
        in_a_row = if taken { in_a_row + 1 } else { 0 };
        in_a_row == 5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_strangers_leave_and_who_has_shown_a_key_may_pause() {
    let service = Service::start().await;
    let slow_header = async {
        let mut stream = connect(&service.base, address(1)).await;
        let begun = Instant::now();
        // A byte now and then does not prolong it.
        for byte in b"POST /webhook/client-data HTTP/1.1\r\nX-Slow: 1" {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(answer(&mut stream).await, "");
        begun.elapsed()
    };
    // Longer than the listener has patience with anybody unknown.
    let pause = Duration::from_secs(32);
    let ring = br#"{"caller_id":"+16125550101","agent_id":"agent_margaret"}"#;
    let kept = async {
        let mut stream = connect(&service.base, address(2)).await;
        for round in 0..2 {
            let head = format!(
                "POST /webhook/client-data HTTP/1.1\r\nHost: x\r\nX-Api-Key: key-for-client-data-0001\r\nContent-Length: {}\r\n\r\n",
                ring.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(ring).await.unwrap();
            let mut buffer = [0; 4096];
            let count = timeout(SOON, stream.read(&mut buffer)).await.unwrap();
            let count = count.unwrap();
            assert!(buffer[..count].starts_with(b"HTTP/1.1 200"), "{round}");
            if round == 0 {
                tokio::time::sleep(pause).await;
            }
        }
    };
    let (slow, ()) = tokio::join!(slow_header, kept);
    assert!(slow < Duration::from_secs(15), "{slow:?}");
}

/// A listener with small limits, in this process.
struct Small {
    base: String,
    _stop: tokio_util::sync::DropGuard,
}

impl Small {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let connections = Connections::new(limits, TrustedProxies::default(), None);
        let stop = CancellationToken::new();
        let routes = warp::path!("ring").map(|| "answered").boxed();
        tokio::spawn(serve_public(
            listener,
            routes,
            connections,
            stop.clone(),
            Duration::ZERO,
        ));
        Self {
            base,
            _stop: stop.drop_guard(),
        }
    }

    async fn ring(&self, from: Ipv4Addr) -> String {
        let mut stream = connect(&self.base, from).await;
        let _ = stream
            .write_all(b"GET /ring HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        answer(&mut stream).await
    }
}

/// Whether the other side has closed it.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Few connections, of which none is closed for being silent.
const PATIENT: Limits = Limits {
    connections: 32,
    per_stranger: 8,
    patience: Duration::from_secs(600),
    proven_patience: Duration::from_secs(600),
};

#[tokio::test]
async fn idle_connections_give_way_to_a_ring() {
    let small = Small::start(PATIENT).await;
    let mut idle = Vec::new();
    for n in 0..40 {
        idle.push(connect(&small.base, address(1 + n / 4)).await);
    }
    for n in 0..10 {
        let answered = small.ring(address(100 + n)).await;
        assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    }
    // Those that have waited longest are gone.
    until("the first to be closed", async || is_closed(&idle[0])).await;
    assert!(!is_closed(&idle[39]));
}

#[tokio::test]
async fn a_stranger_with_many_connections_loses_his_own() {
    let small = Small::start(PATIENT).await;
    let other = connect(&small.base, address(2)).await;
    let mut own = Vec::new();
    for _ in 0..40 {
        own.push(connect(&small.base, address(1)).await);
    }
    until("all but eight to be closed", async || {
        own.iter().filter(|stream| !is_closed(stream)).count() == 8
    })
    .await;
    assert!(!is_closed(&other));
}

/// Of 4 MiB so much that nobody else's recording finds room beside it.
const ALMOST: usize = 4 * MIB - MIB / 2;

/// What lies on disk that nobody has vouched for.
fn spooled(service: &Service) -> u64 {
    let files = std::fs::read_dir(service.path("payloads/.incoming")).unwrap();
    files
        .filter_map(|file| file.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_spools_no_more_than_one_body() {
    let service = Service::start_with(&[("MAX_BODY_MB", "4")]).await;
    let _first = stall(&service, address(1), "", ALMOST).await;
    until("the first on disk", async || {
        spooled(&service) > 3 * MIB as u64
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(stall(&service, address(1), "", ALMOST).await);
    }
    // There is no room for the others.
    for stream in &mut strangers {
        let refused = answer(stream).await;
        assert!(
            refused.is_empty() || refused.starts_with("HTTP/1.1 503"),
            "{refused}"
        );
    }
    let on_disk = spooled(&service);
    assert!(on_disk <= 4 * MIB as u64, "{on_disk}");

    // What is short does not touch the disk.
    let other = Service::start().await;
    let _short = stall(&other, address(1), "", MIB - 1024).await;
    let _long = stall(&other, address(1), "", 2 * MIB).await;
    until("the long one on disk", async || {
        spooled(&other) > MIB as u64
    })
    .await;
    let files = std::fs::read_dir(other.path("payloads/.incoming")).unwrap();
    assert_eq!(files.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_past_the_cap_is_refused_before_it_is_sent() {
    let service = Service::start_with(&[("MAX_BODY_MB", "1")]).await;
    let mut stream = connect(&service.base, address(1)).await;
    stream.write_all(&bogus("", 2 * MIB, 100)).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_says_who_sends() {
    let service =
        Service::start_with(&[("MAX_BODY_MB", "4"), ("TRUSTED_PROXIES", "127.0.1.1")]).await;
    // The room of one stranger tells whom a body counts for.
    let send = async |from: Ipv4Addr, forwarded: &str| {
        let headers = format!("X-Forwarded-For: {forwarded}\r\n");
        stall(&service, from, &headers, ALMOST).await
    };
    let held = async |bytes: usize| {
        until("what is on disk", async || {
            spooled(&service) >= bytes as u64
        })
        .await;
    };
    let _first = send(address(1), "198.51.100.1").await;
    held(3 * MIB).await;
    let _second = send(address(1), "198.51.100.1, 198.51.100.2").await;
    held(6 * MIB).await;
    let mut same = send(address(1), "203.0.113.9, 198.51.100.2").await;
    assert!(answer(&mut same).await.starts_with("HTTP/1.1 503"));

    let _direct = send(address(2), "198.51.100.3").await;
    held(9 * MIB).await;
    let mut forged = send(address(2), "198.51.100.4").await;
    assert!(answer(&mut forged).await.starts_with("HTTP/1.1 503"));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted() {
    let service = Service::start().await;
    let streams = [
        connect(&service.base, address(1)).await,
        connect(&service.base, address(2)).await,
    ];
    until("both to be counted", async || {
        service.metric("elaoms_connections").await >= 2.0
    })
    .await;
    drop(streams);
    let silent = Arc::new(connect(&service.base, address(3)).await);
    until("the silent one to be closed", async || is_closed(&silent)).await;
    let dropped = r#"elaoms_connections_dropped_total{reason="silent"}"#;
    assert!(service.metric(dropped).await >= 1.0);
    until("none to be left", async || {
        service.metric("elaoms_connections").await == 0.0
    })
    .await;
}
