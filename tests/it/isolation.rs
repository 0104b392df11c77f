//! No caller slows another: a stranger's ring while one caller, or a disk, is
//! at its worst. Delays are compared with how long the trouble itself lasts,
//! never with a clock alone.

use std::time::Duration;

use tokio::time::Instant;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_CALLER, Service, until};

/// Rings of another caller while `trouble` lasts: how many were answered, and
/// the longest wait.
async fn rings_during<T>(service: &Service, trouble: impl Future<Output = T>) -> (usize, Duration) {
    // Known and active, so that a ring needs nothing but a free worker.
    service.ring(OTHER_CALLER, AGENT).await;
    let mut trouble = std::pin::pin!(trouble);
    let (mut count, mut worst) = (0, Duration::ZERO);
    loop {
        let started = Instant::now();
        let ring = async {
            service.ring(OTHER_CALLER, AGENT).await;
            worst = worst.max(started.elapsed());
            count += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        tokio::select! {
            _ = &mut trouble => return (count, worst),
            () = ring => {}
        }
    }
}

/// A caller of many years, written into the database of the running service.
fn give_memories(service: &Service, caller: &str, count: u32) {
    let mut database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database.busy_timeout(Duration::from_secs(30)).unwrap();
    let transaction = database.transaction().unwrap();
    transaction
        .execute(
            "INSERT INTO callers (caller, name, first_seen, total_interactions) VALUES (?1, 'Nora', 0, 1)",
            [caller],
        )
        .unwrap();
    for i in 0..count {
        transaction
            .prepare_cached(
                "INSERT INTO memories (caller, agent, conversation_id, ordinal, kind, sector, content,
                     said_before, said_after, salience, said_at)
                 VALUES (?1, ?2, ?3, ?4, 'turn', 'episodic', ?5, ?6, 'Noted.', 0.7, 0)",
            )
            .unwrap()
            .execute(rusqlite::params![
                caller,
                AGENT,
                format!("conv_{}", i / 20),
                i % 20,
                format!("I would like number {i} of the roses delivered on day {}", i % 365),
                format!("Which of the {i} shall it be, and when?"),
            ])
            .unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_many_memories_delay_nobodys_ring() {
    let service = Service::start().await;
    let callers: Vec<String> = (0..6).map(|i| format!("+1612555020{i}")).collect();
    for caller in &callers {
        give_memories(&service, caller, 10_000);
    }
    let started = Instant::now();
    // A search answers empty after its deadline; the index is built all the same.
    let found = async |caller: &str| {
        until("the memories", async || {
            !service
                .found(caller, AGENT, "roses on day 7")
                .await
                .is_empty()
        })
        .await;
    };
    let trouble = futures_util::future::join_all(callers.iter().map(|caller| found(caller)));
    let (count, worst) = rings_during(&service, trouble).await;
    let lasted = started.elapsed();
    assert!(count > 20, "{count} rings in {lasted:?}");
    assert!(worst < lasted / 4, "a ring took {worst:?} of {lasted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_repeats_an_introduction_delays_nobodys_ring() {
    let service = Service::start().await;
    let trouble = async {
        for i in 0..4 {
            let said = "my name is ".repeat(6_000);
            let caller = format!("+1612555030{i}");
            let call = call(&format!("conv_{i}"), AGENT, &caller).caller(&said);
            service.end_call(&call).await;
        }
        service.settle().await;
    };
    let (_, worst) = rings_during(&service, trouble).await;
    // Quadratic, it took seconds in a release build, and minutes in this one.
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_transcripts_delay_nobodys_ring_and_their_memory_is_given_back() {
    let service = Service::start().await;
    let resident = || -> u64 {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", service.pid())).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
    };
    service
        .end_call_and_settle(&call("conv_0", AGENT, CALLER).caller("I like roses."))
        .await;
    let before = resident();
    let bodies: Vec<Vec<u8>> = (1..3)
        .map(|i| {
            let mut large = call(&format!("conv_{i}"), AGENT, CALLER);
            for turn in 0..40_000 {
                large = large.caller_only(&format!("Turn {turn} is about the roses."));
            }
            large.body()
        })
        .collect();
    assert!(bodies[0].len() > 2_000_000);
    let started = Instant::now();
    let trouble = async {
        for body in bodies {
            let answer = service.post_call(body).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        service.settle().await;
    };
    let (_, worst) = rings_during(&service, trouble).await;
    let lasted = started.elapsed();
    assert!(worst < lasted / 3, "a ring took {worst:?} of {lasted:?}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more than before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_hangs_stops_nothing_else_and_not_the_end() {
    let mut service = Service::start().await;
    // Opening a pipe that nobody reads blocks for ever, as a dead volume does.
    let pipes: Vec<_> = (0..200)
        .map(|i| service.path(&format!("payloads/.incoming/{i}.part")))
        .collect();
    let made = std::process::Command::new("mkfifo").args(&pipes).status();
    assert!(made.unwrap().success());

    // More than any window of the inbox.
    let callers: Vec<String> = (0..300).map(|i| format!("+1612557{i:04}")).collect();
    let trouble = async {
        for (i, caller) in callers.iter().enumerate() {
            let said = call(&format!("conv_{i}"), AGENT, caller).caller("I like roses.");
            service.end_call(&said).await;
        }
        until("every call to be learned and greeted", async || {
            service.query("SELECT count(*) FROM inbox WHERE state = 'done'") == 300
        })
        .await;
    };
    let started = Instant::now();
    let (count, worst) = rings_during(&service, trouble).await;
    assert!(count > 20 && worst < started.elapsed() / 4, "{worst:?}");
    assert_eq!(
        service.query("SELECT count(*) FROM inbox WHERE archived"),
        0
    );

    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", service.pid()));
        tasks.unwrap().count()
    };
    let before = threads();
    for _ in 0..4 {
        let probes = (0..10).map(|_| {
            let probe = service.http.get(format!("{}/health/ready", service.ops));
            async move { probe.send().await.unwrap().text().await }
        });
        for answer in futures_util::future::join_all(probes).await {
            let answer: serde_json::Value = serde_json::from_str(&answer.unwrap()).unwrap();
            assert_ne!(answer["checks"]["archive"], "ok", "{answer}");
            assert_eq!(answer["checks"]["inbox"], "ok", "{answer}");
        }
    }
    let after = threads();
    assert!(after <= before + 10, "{before} threads, then {after}");

    let took = service.terminate().await;
    assert!(took < Duration::from_secs(25), "{took:?}");
    service.respawn().await;
    service.settle().await;
    let path = service.path("payloads/conv_299/conv_299_transcription.json");
    assert!(path.exists());
}
