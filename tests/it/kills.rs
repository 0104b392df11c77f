//! Kills without warning under load, compared with a model of what the senders
//! know: nothing lost, nothing doubled, nothing out of order, and nothing left
//! of callers who were erased.
//!
//! A seed decides what is sent and when it is killed; it does not decide how
//! threads and disks interleave, so that a run is repeated in kind.

mod model;
mod moving;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, params};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::service::{Service, until};
use model::{Delivery, History, Planned, Work};

/// Senders at a time.
const SENDERS: usize = 24;
/// Longest wait for whatever a run of this size takes.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Before every retention.
const OLD: i64 = 0;

struct Size {
    kills: usize,
    events: usize,
    callers: usize,
    seed: u64,
}

impl Size {
    fn from_env() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let number =
            |name: &str, usual: usize| read(name).map_or(usual, |v| v.parse().expect("a number"));
        Self {
            kills: number("KILLS", 500),
            // Of these some 20,000 are acknowledged: every tenth sender gives up.
            events: number("EVENTS", 20_500),
            callers: number("CALLERS", 2_000),
            seed: read("SEED").map_or_else(rand::random, |v| v.parse().expect("a number")),
        }
    }
}

/// Where the service is now; `None` while it is down.
type Address = Option<(String, String)>;

/// All that senders share.
struct Line {
    http: reqwest::Client,
    key: &'static [u8],
    admin_key: &'static str,
    address: watch::Receiver<Address>,
    calls: Vec<Planned>,
    work: Vec<Work>,
    next: AtomicUsize,
    /// So much of the work may be begun: it lasts until the last kill.
    allowed: watch::Receiver<usize>,
    history: History,
    erasing: AtomicUsize,
    refused: AtomicUsize,
    unanswered: AtomicUsize,
    redelivered: AtomicUsize,
}

impl Line {
    async fn address(&self) -> (String, String) {
        let mut address = self.address.clone();
        let there = address.wait_for(Option::is_some).await.unwrap();
        there.clone().unwrap()
    }

    /// Whether it is acknowledged now.
    async fn post(&self, call: usize) -> bool {
        let (base, _) = self.address().await;
        let body = self.calls[call].body();
        let signature = elaoms::http::sign(&body, self.key, jiff::Timestamp::now());
        let request = self.http.post(format!("{base}/webhook/post-call"));
        let answer = request
            .header("ElevenLabs-Signature", signature)
            .header("Content-Type", "application/json")
            .body(body)
            .send()
            .await;
        match answer.map(|a| a.status().as_u16()) {
            Ok(200) => {
                self.history.acknowledge(call);
                return true;
            }
            Ok(503) => self.refused.fetch_add(1, Ordering::Relaxed),
            Ok(status) => panic!("an event is answered {status}"),
            Err(_) => self.unanswered.fetch_add(1, Ordering::Relaxed),
        };
        false
    }

    async fn send(&self, call: usize) {
        self.history.begin(call);
        loop {
            let acknowledged = if self.calls[call].delivery == Delivery::Twice {
                let (one, other) = tokio::join!(self.post(call), self.post(call));
                one || other
            } else {
                self.post(call).await
            };
            if acknowledged || self.calls[call].delivery == Delivery::GivenUp {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until there is a receipt that says that all is gone.
    async fn erase(&self, caller: &str) {
        let begun = self.history.now();
        self.erasing.fetch_add(1, Ordering::SeqCst);
        loop {
            let (_, ops) = self.address().await;
            let path = format!("{ops}/admin/callers/{caller}");
            let request = self.http.delete(path).bearer_auth(self.admin_key);
            if let Ok(answer) = request.send().await
                && answer.status() == 200
                && let Ok(receipt) = answer.json::<serde_json::Value>().await
                && receipt["left"] == serde_json::json!([])
            {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        self.erasing.fetch_sub(1, Ordering::SeqCst);
        self.history.erase(caller, begun);
    }

    async fn work(self: Arc<Self>) {
        let mut allowed = self.allowed.clone();
        loop {
            let next = self.next.fetch_add(1, Ordering::SeqCst);
            let Some(work) = self.work.get(next) else {
                return;
            };
            allowed.wait_for(|allowed| next < *allowed).await.unwrap();
            match *work {
                Work::Send(call) => self.send(call).await,
                Work::Again(call) if self.history.is_acknowledged(call) => {
                    self.redelivered.fetch_add(1, Ordering::Relaxed);
                    self.post(call).await;
                }
                Work::Again(_) => {}
                Work::Erase(call) => self.erase(&self.calls[call].caller).await,
            }
        }
    }

    fn begun(&self) -> usize {
        self.next.load(Ordering::SeqCst).min(self.work.len())
    }
}

/// Past the test harness, which keeps the output of tests that pass.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What retention has to remove, put there while nobody has the database.
fn age(service: &Service, round: usize, portion: usize) {
    let mut database = Connection::open(service.path("elaoms.db")).unwrap();
    let transaction = database.transaction().unwrap();
    for i in 0..portion {
        let conversation = format!("old_{round}_{i}");
        transaction
            .prepare_cached(
                "INSERT INTO memories (caller, agent, conversation_id, ordinal, kind, sector, content,
                     said_before, said_after, salience, said_at)
                 VALUES ('+16135550100', NULL, ?1, 0, 'turn', 'episodic', ?1, '', '', 0.7, ?2)",
            )
            .unwrap()
            .execute(params![conversation, OLD])
            .unwrap();
        transaction
            .prepare_cached(
                "INSERT INTO inbox (event_key, kind, conversation_id, started_at, greeting_wanted, stage,
                     state, run_at, received_at, archived)
                 VALUES (?1, 'post_call_transcription', ?1, ?2, 0, 'greet', 'done', ?2, ?2, 1)",
            )
            .unwrap()
            .execute(params![conversation, OLD])
            .unwrap();
    }
    transaction.commit().unwrap();
    for i in 0..portion / 10 {
        let folder = service.path(&format!("payloads/old_{round}_{i}"));
        std::fs::create_dir_all(&folder).unwrap();
        let file = format!("old_{round}_{i}_transcription.json");
        std::fs::write(folder.join(file), "{}").unwrap();
        let folder = std::fs::File::open(folder).unwrap();
        folder.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
}

fn old_rows(service: &Service) -> i64 {
    service.query(
        "SELECT (SELECT count(*) FROM memories WHERE said_at = 0)
              + (SELECT count(*) FROM inbox WHERE received_at = 0)",
    )
}

fn old_folders(service: &Service) -> usize {
    let entries = std::fs::read_dir(service.path("payloads")).unwrap();
    let folders = entries.map(|e| e.unwrap()).filter(|folder| {
        let name = folder.file_name().into_string().unwrap();
        // A kill between the files and their folder leaves an empty one, which
        // goes when it is old again.
        // It may go meanwhile.
        let holds = || std::fs::read_dir(folder.path()).is_ok_and(|mut f| f.next().is_some());
        name.starts_with("old_") && holds()
    });
    folders.count()
}

/// How many kills came at which moment.
#[derive(Default)]
struct Kills {
    under_load: usize,
    starting: usize,
    erasing: usize,
    retaining: usize,
    copying: usize,
}

async fn wait_while(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn run(size: Size) {
    let Size {
        kills: most,
        events,
        callers,
        seed,
    } = size;
    say(&format!(
        "SEED={seed} KILLS={most} EVENTS={events} CALLERS={callers}"
    ));
    let started = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let (calls, work) = model::plan(&mut rng, events, callers);
    let mut service = Service::start_with(&[
        ("MEMORY_RETENTION_DAYS", "365"),
        ("PAYLOAD_RETENTION_DAYS", "30"),
        ("LOG_CALLER_IDS", "hashed"),
    ])
    .await;
    let here = |service: &Service| Some((service.base.clone(), service.ops.clone()));
    let (address, seen) = watch::channel(here(&service));
    let (allow, allowed) = watch::channel(0);
    let line = Arc::new(Line {
        http: service.http.clone(),
        key: service.post_call_key(),
        admin_key: service.admin_key(),
        address: seen,
        calls,
        work,
        next: AtomicUsize::new(0),
        allowed,
        history: History::default(),
        erasing: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
        unanswered: AtomicUsize::new(0),
        redelivered: AtomicUsize::new(0),
    });
    let mut tasks: Vec<_> = (0..SENDERS)
        .map(|_| tokio::spawn(Arc::clone(&line).work()))
        .collect();

    let copies = (most / 10).max(2);
    let mut kills = Kills::default();
    let mut rounds = 0;
    for kill in 0..most - copies {
        // Spread over the whole load, whatever the machine makes of it.
        let lives = most - copies - (most - copies) / 9;
        let portion = line.work.len() / lives.max(1);
        let from = kill * portion + rng.random_range(0..=portion);
        allow.send_replace((kill + 2) * portion);
        let reachable = from.min(line.work.len());
        wait_while("load", || line.begun() < reachable).await;
        if rng.random_bool(0.2) {
            let caller = line.calls[rng.random_range(0..line.calls.len())]
                .caller
                .clone();
            let line = Arc::clone(&line);
            tasks.push(tokio::spawn(async move { line.erase(&caller).await }));
        }
        // No synchronisation: the moment is to be any.
        let moment = if rng.random_bool(0.3) {
            rng.random_range(100_000..400_000)
        } else {
            rng.random_range(0..40_000)
        };
        sleep(Duration::from_micros(moment)).await;
        kills.erasing += usize::from(line.erasing.load(Ordering::SeqCst) > 0);
        address.send_replace(None);
        service.kill().await;
        kills.under_load += 1;
        kills.retaining += usize::from(old_rows(&service) > 0 || old_folders(&service) > 0);
        if kill % 8 == 3 && kills.under_load + kills.starting < most - copies {
            let mut child = service.start_command(&["serve"]);
            sleep(Duration::from_micros(rng.random_range(0..150_000))).await;
            child.start_kill().unwrap();
            child.wait().await.unwrap();
            kills.starting += 1;
        }
        if kill % 8 == 5 {
            age(&service, rounds, 2_500);
            rounds += 1;
        }
        service.respawn().await;
        address.send_replace(here(&service));
        if (kill + 1) % 50 == 0 {
            say(&format!(
                "{:>5.0} s: {} kills, {} events acknowledged, {} callers erased, {} waiting",
                started.elapsed().as_secs_f64(),
                kills.under_load + kills.starting,
                line.history.acknowledged(),
                line.history.erasures(),
                service.inbox_pending(),
            ));
        }
        if kills.under_load + kills.starting >= most - copies {
            break;
        }
    }
    allow.send_replace(usize::MAX);
    for task in tasks {
        task.await.unwrap();
    }
    wait_while("an empty inbox", || service.inbox_pending() > 0).await;
    // Retention begins its round at a start.
    service.crash_and_restart().await;
    until("what is old to go", async || {
        old_rows(&service) == 0 && old_folders(&service) == 0
    })
    .await;
    wait_while("an empty inbox", || service.inbox_pending() > 0).await;
    until("erasures to end", async || {
        service.query("SELECT count(*) FROM pending_erasures") == 0
    })
    .await;
    service.terminate().await;
    let load = started.elapsed();

    let (database, archive) = (service.path("elaoms.db"), service.path("payloads"));
    let verdict = model::check(&line.calls, &line.history, &database, &archive);
    let greetings = service.upstream.asked();
    let wrong: usize = verdict.all().iter().map(|(_, found)| found.len()).sum();
    if wrong == 0 {
        kills.copying = moving::killed_copies(&mut service, &mut rng, copies).await;
    }
    let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
    say(&format!(
        "\nSEED={seed}, {:.0} s, of these {:.0} s under load
kills                          {:>7}
  of the service under load    {:>7}
    during an erasure          {:>7}
    during retention           {:>7}
  of the service as it starts  {:>7}
  of a copy between stores     {:>7}
events acknowledged            {:>7}
  there in the end             {:>7}
  redelivered afterwards       {:>7}
requests without an answer     {:>7}
requests answered 503          {:>7}
unknown to the sender, stored  {:>7}
callers erased                 {:>7}
memories                       {:>7}
greetings that stand           {:>7}
requests to OpenAI             {:>7}",
        started.elapsed().as_secs_f64(),
        load.as_secs_f64(),
        kills.under_load + kills.starting + kills.copying,
        kills.under_load,
        kills.erasing,
        kills.retaining,
        kills.starting,
        kills.copying,
        line.history.acknowledged(),
        verdict.calls,
        count(&line.redelivered),
        count(&line.unanswered),
        count(&line.refused),
        verdict.unknown_stored,
        line.history.erasures(),
        verdict.memories,
        verdict.greetings,
        greetings,
    ));
    for (what, found) in verdict.all() {
        say(&format!("{what:<30} {:>7}", found.len()));
        for one in found.iter().take(10) {
            say(&format!("  {one}"));
        }
    }
    assert_eq!(wrong, 0, "SEED={seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_lose_double_and_disorder_nothing() {
    run(Size {
        kills: 10,
        events: 400,
        callers: 40,
        seed: 1,
    })
    .await;
}

/// `make crash-test`: KILLS, EVENTS, CALLERS and SEED set its size.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make crash-test"]
async fn many_kills_under_load_lose_double_and_disorder_nothing() {
    run(Size::from_env()).await;
}
