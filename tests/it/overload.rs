//! Events on many connections as fast as they go, more than can be learned from:
//! rings go on, every event that was acknowledged is learned, memory stays bounded,
//! and soon all is as before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::payloads::call;
use crate::service::{AGENT, CALLER, Service, greeting_in};

/// Turns of each call: each becomes a memory, while the event is one row.
const TURNS: usize = 12;
/// Connections that send events as fast as they go.
const SENDERS: usize = 256;
/// So long.
const STORM: Duration = Duration::from_secs(3);
/// Longest wait for the backlog.
const PATIENCE: Duration = Duration::from_secs(120);
/// Phones that ring one after the other meanwhile.
const RINGING: usize = 4;
/// `CLIENT_DATA_DEADLINE_MS`
const DEADLINE: Duration = Duration::from_millis(400);
/// What the service may hold more than before: bodies under way, the lanes and
/// parsed calls are bounded to some 32 MiB each, the rest is for the allocator.
const BOUND: u64 = 256 * 1024 * 1024;

fn resident(service: &Service) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{}/statm", service.pid())).unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_of_events_delays_no_ring_and_loses_nothing() {
    let deadline = DEADLINE.as_millis().to_string();
    let service = Service::start_with(&[("CLIENT_DATA_DEADLINE_MS", &deadline)]).await;
    let known = call("conv_known", AGENT, CALLER).caller("I like roses.");
    service.end_call_and_settle(&known).await;
    let before = resident(&service);
    let (acknowledged, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let end = Instant::now() + STORM;
    let (service, acknowledged, refused) = (&service, &acknowledged, &refused);
    let senders = (0..SENDERS).map(|sender| async move {
        let mut said = call("conv_#", AGENT, &format!("+1612555{sender:04}"));
        for turn in 0..TURNS {
            said = said.caller_only(&format!("Turn {turn} is about the roses."));
        }
        let body = String::from_utf8(said.body()).unwrap();
        let mut i = 0;
        while Instant::now() < end {
            i += 1;
            let body = body.replace("conv_#", &format!("conv_{sender}_{i}"));
            let answer = service.post_call(body.into_bytes()).send().await.unwrap();
            match answer.status().as_u16() {
                200 => acknowledged.fetch_add(1, Ordering::SeqCst),
                503 => refused.fetch_add(1, Ordering::SeqCst),
                status => panic!("an event is answered {status}"),
            };
        }
    });
    let rings = (0..RINGING).map(|_| async {
        let (mut waits, mut most) = (Vec::new(), 0);
        while Instant::now() < end {
            let started = Instant::now();
            let answer = service.ring(CALLER, AGENT).await;
            waits.push(started.elapsed());
            let greeting = greeting_in(&answer).unwrap_or_default();
            assert!(greeting.contains("roses"), "{answer}");
            most = most.max(resident(service));
            sleep(Duration::from_millis(5)).await;
        }
        (waits, most)
    });
    let (_, rings) = tokio::join!(join_all(senders), join_all(rings));
    let mut most = rings.iter().map(|(_, most)| *most).max().unwrap();
    let mut waits: Vec<Duration> = rings.into_iter().flat_map(|(waits, _)| waits).collect();
    waits.sort();
    let unlearned =
        "SELECT count(*) FROM inbox WHERE state IN ('queued', 'ready') AND stage = 'learn'";
    let waiting = service.query(unlearned);
    let storm_over = Instant::now();

    // A new call is taken at once, and greeted although others wait.
    let known = call("conv_after", AGENT, CALLER)
        .caller("I like tulips.")
        .later(60);
    service.end_call(&known).await;
    service.wait_for_greeting(CALLER, AGENT, "tulips").await;
    let recovered = storm_over.elapsed();
    while service.query(unlearned) > 0 {
        assert!(
            storm_over.elapsed() < PATIENCE,
            "the backlog is not learned"
        );
        most = most.max(resident(service));
        sleep(Duration::from_millis(20)).await;
    }
    let drained = storm_over.elapsed();
    service.settle().await;
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    let p99 = waits[waits.len() * 99 / 100];
    eprintln!(
        "{acknowledged} events acknowledged and {} refused in {STORM:?}; {waiting} of them were learned in \
         {drained:?} afterwards, and a new call was greeted after {recovered:?}; \
         {} rings, p99 {p99:?}, longest {:?}; {} MiB more than before",
        refused.load(Ordering::SeqCst),
        waits.len(),
        waits[waits.len() - 1],
        most.saturating_sub(before) / 1024 / 1024,
    );
    let learned = service.query("SELECT sum(total_interactions) FROM callers");
    assert_eq!(learned, i64::try_from(acknowledged).unwrap() + 2);
    let memories = service.query("SELECT count(*) FROM memories");
    assert_eq!(memories, i64::try_from(acknowledged * TURNS).unwrap() + 2);
    let grown = most.saturating_sub(before);
    assert!(grown < BOUND, "{grown} bytes more than before");
    // The machine is shared with what makes the load, and the build is slow.
    assert!(p99 < DEADLINE * 6, "{p99:?}");
}
