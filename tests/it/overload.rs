//! Far more events than can be learned from: rings go on, every event that was
//! acknowledged is learned, memory stays bounded, and soon all is as before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, Service, greeting_in, until};

/// Turns of each call: learned from one by one, they cost far more than the event.
const TURNS: usize = 12;
/// Connections that send events as fast as they go.
const SENDERS: usize = 96;
/// So long.
const STORM: Duration = Duration::from_secs(4);
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
        let caller = format!("+1612555{sender:04}");
        let mut i = 0;
        while Instant::now() < end {
            i += 1;
            let mut said = call(&format!("conv_{sender}_{i}"), AGENT, &caller).later(i);
            for turn in 0..TURNS {
                said = said.caller(&format!("This is turn {turn} of call {i} of mine."));
            }
            let answer = service.post_call(said.body()).send().await.unwrap();
            match answer.status().as_u16() {
                200 => acknowledged.fetch_add(1, Ordering::SeqCst),
                503 => refused.fetch_add(1, Ordering::SeqCst),
                status => panic!("an event is answered {status}"),
            };
        }
    });
    let rings = async {
        let mut waits = Vec::new();
        let mut most = 0;
        while Instant::now() < end {
            let started = Instant::now();
            let answer = service.ring(CALLER, AGENT).await;
            waits.push(started.elapsed());
            let greeting = greeting_in(&answer).unwrap_or_default();
            assert!(greeting.contains("roses"), "{answer}");
            most = most.max(resident(service));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        waits.sort();
        (waits, most)
    };
    let (_, (waits, mut most)) = tokio::join!(join_all(senders), rings);
    let waiting = service.inbox_pending();
    let drained = Instant::now();

    // A new call is taken at once; what was acknowledged is learned.
    let known = call("conv_after", AGENT, CALLER)
        .caller("I like tulips.")
        .later(60);
    service.end_call(&known).await;
    until("the backlog to be learned", async || {
        most = most.max(resident(service));
        service.inbox_pending() == 0
    })
    .await;
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    let p99 = waits[waits.len() * 99 / 100];
    eprintln!(
        "{acknowledged} events acknowledged and {} refused in {STORM:?}; {waiting} waited at the end, {:?} long; \
         {} rings, p99 {p99:?}, longest {:?}; {} MiB more than before",
        refused.load(Ordering::SeqCst),
        drained.elapsed(),
        waits.len(),
        waits[waits.len() - 1],
        most.saturating_sub(before) / 1024 / 1024,
    );
    let learned = service.query("SELECT sum(total_interactions) FROM callers");
    assert_eq!(learned, i64::try_from(acknowledged).unwrap() + 2);
    let memories = service.query("SELECT count(*) FROM memories");
    assert_eq!(memories, i64::try_from(acknowledged * TURNS).unwrap() + 2);
    service.wait_for_greeting(CALLER, AGENT, "tulips").await;
    let grown = most.saturating_sub(before);
    assert!(grown < BOUND, "{grown} bytes more than before");
    // The machine is shared with what makes the load, and the build is slow.
    assert!(p99 < DEADLINE * 4, "{p99:?}");
}
