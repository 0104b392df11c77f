//! Several instances on one PostgreSQL: what one has committed the others know,
//! and whatever happens to them, each call is learned once, in its order.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;

use crate::payloads::{CallBody, call};
use crate::postgres::{Pooler, Postgres, TLS_ADDRESS, certificate, url_at};
use crate::service::{AGENT, CALLER, OTHER_AGENT, OTHER_CALLER, Service, until};

/// The ring's deadline, and what a busy test machine may add to it.
const SLACK: Duration = Duration::from_secs(5);
/// How long an instance is believed to live that says nothing.
const LIFE: Duration = Duration::from_secs(10);

async fn instances<const N: usize>(url: &str) -> [Service; N] {
    let settings = [("DATABASE_URL", url)];
    let all = join_all((0..N).map(|_| Service::start_with(&settings))).await;
    all.try_into().unwrap_or_else(|_| unreachable!())
}

async fn admin(service: &Service, method: Method, path: &str, body: Value) -> Value {
    let request = service.admin(method, path).json(&body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.json().await.unwrap()
}

/// Waits until everything that was taken is learned, greeted and archived.
async fn settle(server: &Postgres) {
    let open = "SELECT count(*) FROM inbox WHERE state NOT IN ('done', 'dead') OR NOT archived";
    until("an empty inbox", async || {
        server.query("fleet", open).await == "0"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_has_committed_every_other_knows_at_once() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database("fleet").await;
    every_other_knows_at_once(&server, &url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_behind_a_transaction_pooler() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let Some(pooler) = Pooler::start(&server).await else {
        return;
    };
    server.database("fleet").await;
    every_other_knows_at_once(&server, &pooler.url("fleet")).await;
}

async fn every_other_knows_at_once(server: &Postgres, url: &str) {
    let [a, b] = instances(url).await;
    // Both know of nobody, and one searches.
    for service in [&a, &b] {
        assert_eq!(
            service.ring(CALLER, AGENT).await["dynamic_variables"],
            json!({})
        );
        assert!(service.found(CALLER, AGENT, "roses").await.is_empty());
    }
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    a.end_call(&said).await;
    a.wait_for_greeting(CALLER, AGENT, "roses").await;
    let greeting = b.greeting(CALLER, AGENT).await.unwrap();
    assert!(greeting.contains("roses"), "{greeting}");
    assert_eq!(b.found(CALLER, AGENT, "roses").await.len(), 1);
    let next = call("conv_2", AGENT, CALLER)
        .caller("I like tulips.")
        .later(60);
    b.end_call(&next).await;
    b.wait_for_greeting(CALLER, AGENT, "tulips").await;
    assert!(a.greeting(CALLER, AGENT).await.unwrap().contains("tulips"));
    assert_eq!(
        a.found(CALLER, AGENT, "tulips").await.len(),
        1,
        "an index of before"
    );

    // What operators decide holds everywhere with the next request.
    let path = format!("callers/{CALLER}");
    let name = json!({"name": "Nina"});
    admin(&a, Method::PUT, &format!("{path}/name"), name).await;
    assert_eq!(
        b.ring(CALLER, OTHER_AGENT).await["dynamic_variables"]["user_name"],
        "Nina"
    );
    let to = json!({"caller": CALLER});
    admin(&b, Method::PUT, &format!("callers/{OTHER_CALLER}/link"), to).await;
    assert_eq!(
        a.ring(OTHER_CALLER, AGENT).await["dynamic_variables"]["user_name"],
        "Nina"
    );
    admin(&a, Method::PUT, &format!("{path}/shared"), json!({})).await;
    assert_eq!(b.ring(CALLER, AGENT).await["dynamic_variables"], json!({}));
    admin(&a, Method::DELETE, &format!("{path}/shared"), json!({})).await;
    let receipt = admin(&a, Method::PUT, &format!("{path}/opt-out"), json!({})).await;
    assert_eq!(receipt["memories"], 2, "{receipt}");
    let late = call("conv_3", AGENT, CALLER)
        .caller("I like lilies.")
        .later(120);
    b.end_call(&late).await;
    for service in [&a, &b] {
        assert_eq!(
            service.ring(CALLER, AGENT).await["dynamic_variables"],
            json!({})
        );
        assert!(service.found(CALLER, AGENT, "lilies").await.is_empty());
    }
    assert_eq!(
        server.query("fleet", "SELECT count(*) FROM inbox").await,
        "0"
    );
    admin(&b, Method::DELETE, &format!("{path}/opt-out"), json!({})).await;
    let again = call("conv_4", AGENT, CALLER)
        .caller("My name is Nora.")
        .later(180);
    a.end_call(&again).await;
    until("a ring with the name", async || {
        a.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"] == "Nora"
    })
    .await;
    assert_eq!(
        b.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"],
        "Nora"
    );
    settle(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_and_their_invalidation_reach_every_instance() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database("fleet").await;
    let [a, b] = instances(&url).await;
    // Only one of them can fetch it.
    a.upstream
        .add_agent(AGENT, true, json!({"user_name": "there"}));
    let hears = async |service: &Service, name: &str| {
        until(&format!("{name:?} to be heard"), async || {
            service.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"] == name
        })
        .await;
    };
    hears(&a, "there").await;
    hears(&b, "there").await;
    a.upstream
        .add_agent(AGENT, true, json!({"user_name": "friend"}));
    let path = format!("agents/{AGENT}/invalidate");
    admin(&b, Method::POST, &path, json!({})).await;
    hears(&a, "friend").await;
    hears(&b, "friend").await;
    // Each knows how many they are, and that one has left.
    let counts = async |service: &Service, instances: u32| {
        let line = format!("elaoms_instances {instances}");
        until(&line, async || service.metrics().await.contains(&line)).await;
    };
    counts(&a, 2).await;
    let mut b = b;
    b.terminate().await;
    counts(&a, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_call_erased_while_another_instance_archives_it_no_file_stays() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database("fleet").await;
    let archive = tempfile::tempdir().unwrap();
    let folder = archive.path().to_str().unwrap();
    let settings = [("DATABASE_URL", &*url), ("PAYLOAD_STORAGE_PATH", folder)];
    let writer = Service::start_with(&settings).await;
    // Opening a pipe that nobody reads holds up whoever writes the first file.
    let own = std::fs::read_dir(archive.path().join(".incoming")).unwrap();
    let own = own.map(|entry| entry.unwrap().path()).next().unwrap();
    let pipe = own.join("0.part");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
    writer.end_call(&said).await;
    until("the call to be learned and archived", async || {
        let open = "SELECT count(*) FROM inbox WHERE state = 'done' AND archiver IS NOT NULL";
        server.query("fleet", open).await == "1"
    })
    .await;
    let eraser = Service::start_with(&settings).await;
    assert!(
        own.exists(),
        "an instance that starts leaves those of others"
    );
    let receipt = admin(
        &eraser,
        Method::DELETE,
        &format!("callers/{CALLER}"),
        json!({}),
    )
    .await;
    assert_eq!(
        (&receipt["memories"], &receipt["left"]),
        (&json!(1), &json!([]))
    );
    let read = tokio::task::spawn_blocking(move || std::fs::read(pipe));
    assert!(!read.await.unwrap().unwrap().is_empty());
    writer
        .end_call(&call("conv_2", AGENT, OTHER_CALLER).caller("Hello!"))
        .await;
    settle(&server).await;
    until("the file to go", async || {
        !archive.path().join("conv_1").exists()
    })
    .await;
    assert!(archive.path().join("conv_2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_or_hangs_rings_get_defaults_and_nothing_is_lost() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let url = server.database("fleet").await;
    let [service] = instances(&url).await;
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call(&said).await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    let next = call("conv_2", AGENT, CALLER)
        .caller("I like tulips.")
        .later(60);
    let without = async |what: &str| {
        let begun = Instant::now();
        let ring = service.ring(CALLER, AGENT).await;
        assert_eq!(ring["dynamic_variables"], json!({}), "{what}");
        assert!(begun.elapsed() < SLACK, "{what}: {:?}", begun.elapsed());
        let refused = service.post_call(next.body()).send().await.unwrap();
        assert_eq!(refused.status(), 503, "{what}");
        let ready = format!("{}/health/ready", service.ops);
        let ready = service.http.get(ready).send().await.unwrap();
        assert_eq!(ready.status(), 503, "{what}");
    };
    server.stop().await;
    without("away").await;
    server.start_again().await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;

    server.signal("-STOP").await;
    without("hangs").await;
    server.signal("-CONT").await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    // Taken while it hung or not, it counts once.
    service.end_call(&next).await;
    service.wait_for_greeting(CALLER, AGENT, "tulips").await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 2);
    settle(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_insists_on_tls_has_to_show_the_right_certificate() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    server.database("fleet").await;
    let own = server.offer_tls().await;
    let url = |certificate: &Path| {
        let certificate = certificate.display();
        format!(
            "postgres://elaoms@{TLS_ADDRESS}/fleet?sslmode=verify-full&sslrootcert={certificate}"
        )
    };
    let [mut service] = instances(&url(&own)).await;
    let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
    service.end_call(&said).await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    let encrypted = "SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE ssl AND application_name = 'elaoms'";
    assert_eq!(server.query("fleet", encrypted).await, "t");
    service.terminate().await;
    // Another authority.
    let foreign = tempfile::tempdir().unwrap();
    certificate(foreign.path()).await;
    service.set("DATABASE_URL", &url(&foreign.path().join("ca.crt")));
    let (status, text) = service.run(&["check", "memory"]).await;
    assert_eq!(status, 1);
    assert!(text.contains("TLS certificate is not accepted"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_everything_acknowledged_is_there_and_the_fleet_goes_on() {
    let Some(mut primary) = Postgres::start().await else {
        return;
    };
    primary.database("fleet").await;
    let standby = primary.standby().await;
    // What a name is elsewhere: it leads to the primary, whichever that is.
    let name = tempfile::tempdir().unwrap();
    let place = name.path().join("primary");
    symlink(primary.folder(), &place).unwrap();
    let url = url_at(&place, "fleet");
    let [a, b] = instances(&url).await;
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    a.end_call(&said).await;
    a.wait_for_greeting(CALLER, AGENT, "roses").await;
    // Acknowledged a moment before the primary is lost.
    let next = call("conv_2", AGENT, CALLER)
        .caller("I like tulips.")
        .later(60);
    b.end_call(&next).await;
    primary.stop().await;
    for service in [&a, &b] {
        let ring = service.ring(CALLER, AGENT).await;
        assert_eq!(ring["dynamic_variables"], json!({}));
    }
    standby.promote().await;
    std::fs::remove_file(&place).unwrap();
    symlink(standby.folder(), &place).unwrap();
    for service in [&a, &b] {
        service.wait_for_greeting(CALLER, AGENT, "tulips").await;
    }
    let last = call("conv_3", AGENT, CALLER)
        .caller("I like asters.")
        .later(120);
    until("a call to be taken", async || {
        let answer = a.post_call(last.body()).send().await;
        answer.unwrap().status() == 200
    })
    .await;
    b.wait_for_greeting(CALLER, AGENT, "asters").await;
    assert_eq!(b.caller(CALLER).await["total_interactions"], 3);
    settle(&standby).await;
}

/// What happens to the fleet while calls end.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// An instance ends without warning, and comes back.
    Kill,
    /// An instance stands still for longer than it is believed to live.
    Pause,
    /// The database crashes, and comes back.
    Database,
}

/// Sends a signal to an instance.
async fn signal(service: &Service, signal: &str) {
    let pid = service.pid().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status();
    assert!(sent.await.unwrap().success());
}

/// Delivers a call until it is acknowledged, somewhere.
async fn deliver(bases: &[String], http: &reqwest::Client, key: &[u8], said: &CallBody, at: usize) {
    for attempt in 0.. {
        let (body, base) = (said.body(), &bases[(at + attempt) % bases.len()]);
        let signature = elaoms::http::sign(&body, key, jiff::Timestamp::now());
        let request = http
            .post(format!("{base}/webhook/post-call"))
            .header("ElevenLabs-Signature", signature)
            .timeout(Duration::from_secs(5))
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status() == 200 => return,
            _ => sleep(Duration::from_millis(100)).await,
        }
        assert!(attempt < 600, "never acknowledged");
    }
}

/// Notes who works on a caller's calls and when: what the rows themselves tell
/// only of the last.
const WITNESS: &str = "
    CREATE TABLE witness (id BIGSERIAL PRIMARY KEY, caller TEXT, event BIGINT, owner TEXT, begins BOOLEAN);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.stage = 'learn' AND OLD.state = 'running' THEN
            INSERT INTO witness (caller, event, owner, begins) VALUES (OLD.caller, OLD.id, OLD.owner, FALSE);
        END IF;
        IF NEW.stage = 'learn' AND NEW.state = 'running' THEN
            INSERT INTO witness (caller, event, owner, begins) VALUES (NEW.caller, NEW.id, NEW.owner, TRUE);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER witness AFTER UPDATE ON inbox FOR EACH ROW EXECUTE FUNCTION note();";

/// `FLEET_CALLERS` and `FLEET_EVENTS` set the size, `SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_instances_and_database_each_call_is_learned_once_in_order() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let number = |name: &str, or: usize| -> usize {
        std::env::var(name).map_or(or, |text| text.parse().unwrap())
    };
    let (callers, events) = (number("FLEET_CALLERS", 300), number("FLEET_EVENTS", 6_000));
    let seed = number("SEED", 20_261_125) as u64;
    println!("SEED={seed} FLEET_CALLERS={callers} FLEET_EVENTS={events}");
    let mut random = StdRng::seed_from_u64(seed);
    let url = server.database("fleet").await;
    // One of them behind a pooler, where there is one.
    let pooler = Pooler::start(&server).await;
    let pooled = pooler
        .as_ref()
        .map_or(url.clone(), |pooler| pooler.url("fleet"));
    let [one, two] = instances(&url).await;
    let [three] = instances(&pooled).await;
    let mut fleet = [one, two, three];
    server.query("fleet", WITNESS).await;
    // They are found at the same places again after a restart.
    for service in &mut fleet {
        let address = service.base.trim_start_matches("http://").to_owned();
        service.set("BIND_ADDR", &address);
    }
    let bases: Vec<String> = fleet.iter().map(|s| s.base.clone()).collect();
    let key = fleet[0].post_call_key();
    let http = elaoms::clients::client_builder()
        .no_proxy()
        .build()
        .unwrap();

    // Of each caller one call after the other; callers side by side; some twice.
    let mut plan: Vec<Vec<(usize, bool, u64)>> = vec![Vec::new(); callers];
    for event in 0..events {
        let pause = random.random_range(0..2_000);
        plan[random.random_range(0..callers)].push((event, random.random_bool(0.1), pause));
    }
    let deliveries = join_all(plan.iter().enumerate().map(|(who, calls)| {
        let (bases, http) = (&bases, &http);
        async move {
            for (place, (event, twice, pause)) in calls.iter().enumerate() {
                // While one trouble follows the other.
                sleep(Duration::from_millis(*pause)).await;
                let caller = format!("+1612555{who:04}");
                let said = call(&format!("conv_{event}"), AGENT, &caller)
                    .caller(&format!("My name is Nora. This is call {place}."))
                    .later(60 * place as i64);
                deliver(bases, http, key, &said, *event).await;
                if *twice {
                    deliver(bases, http, key, &said, *event + 1).await;
                }
            }
        }
    }));
    let troubles = async {
        use Trouble::{Database, Kill, Pause};
        for trouble in [Kill, Pause, Kill, Database, Kill] {
            sleep(Duration::from_millis(500)).await;
            let victim = random.random_range(0..fleet.len());
            match trouble {
                Kill => {
                    fleet[victim].kill().await;
                    sleep(Duration::from_millis(300)).await;
                    fleet[victim].respawn().await;
                }
                Pause => {
                    signal(&fleet[victim], "-STOP").await;
                    sleep(LIFE + Duration::from_secs(3)).await;
                    signal(&fleet[victim], "-CONT").await;
                }
                Database => {
                    server.stop().await;
                    sleep(Duration::from_millis(500)).await;
                    server.start_again().await;
                }
            }
        }
    };
    tokio::join!(deliveries, troubles);
    let open = "SELECT count(*) FROM inbox WHERE state <> 'done' OR NOT archived";
    let ends = Instant::now() + Duration::from_secs(120);
    while server.query("fleet", open).await != "0" {
        assert!(Instant::now() < ends, "not all is done");
        sleep(Duration::from_millis(200)).await;
    }

    let count = async |sql: &str| server.query("fleet", sql).await;
    let all = events.to_string();
    assert_eq!(count("SELECT count(*) FROM learned_calls").await, all);
    assert_eq!(
        count("SELECT sum(total_interactions) FROM callers").await,
        all
    );
    assert_eq!(
        count("SELECT sum(conversation_count) FROM conversation_states").await,
        all
    );
    assert_eq!(count("SELECT count(*) FROM memories").await, all);
    let disorder = "SELECT count(*) FROM (SELECT said_at, lag(said_at) OVER (PARTITION BY caller ORDER BY id) AS before
                    FROM memories) m WHERE said_at < before";
    assert_eq!(count(disorder).await, "0", "out of order");
    // Never two instances, or two calls, at one caller at a time.
    let overlaps = "SELECT count(*) FROM (SELECT begins, lag(begins) OVER (PARTITION BY caller ORDER BY id) AS before
                    FROM witness) w WHERE begins = coalesce(before, FALSE)";
    assert_eq!(count(overlaps).await, "0", "two at one caller at a time");
    let taken_over = "SELECT count(*) FROM (SELECT event FROM witness WHERE begins GROUP BY event
                      HAVING count(DISTINCT owner) > 1) w";
    println!("events that changed hands: {}", count(taken_over).await);
    // The newest call's greeting stands, on every instance.
    for (who, calls) in plan
        .iter()
        .enumerate()
        .filter(|(_, calls)| !calls.is_empty())
    {
        let caller = format!("+1612555{who:04}");
        let service = &fleet[who % fleet.len()];
        let greeting = service.greeting(&caller, AGENT).await.unwrap_or_default();
        let newest = format!("call {}", calls.len() - 1);
        assert!(
            greeting.contains(&newest),
            "{caller}: {greeting}, not {newest}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_moves_from_sqlite_to_postgresql_with_all_it_has() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let url = server.database("fleet").await;
    let mut service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
    let decided = [
        "callers/+16125550199/opt-out",
        "callers/+16125550198/shared",
    ];
    for path in decided {
        admin(&service, Method::PUT, path, json!({})).await;
    }
    let gone = call("conv_gone", AGENT, OTHER_CALLER).caller("I like lilies.");
    service.end_call_and_settle(&gone).await;
    let path = format!("callers/{OTHER_CALLER}");
    admin(&service, Method::DELETE, &path, json!({})).await;
    let body = br#"{"type":"tomorrow"}"#.to_vec();
    assert_eq!(service.post_call(body).send().await.unwrap().status(), 200);
    // Two calls are not learned yet.
    service.set("OPENAI_BASE_URL", "http://127.0.0.1:1/v1");
    service.terminate().await;
    let file = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    file.execute_batch(
        "CREATE TRIGGER held BEFORE INSERT ON memories BEGIN SELECT RAISE(ABORT, 'held'); END",
    )
    .unwrap();
    service.respawn().await;
    for (i, word) in ["tulips", "asters"].into_iter().enumerate() {
        let said = call(&format!("conv_{word}"), AGENT, CALLER)
            .caller(&format!("I like {word}."))
            .later(60 * (i as i64 + 1));
        service.end_call(&said).await;
    }
    service.terminate().await;
    file.execute_batch("DROP TRIGGER held").unwrap();
    drop(file);

    let sqlite = service.set("DATABASE_URL", &url);
    let arguments = ["migrate", "--from", &sqlite, "--to", "postgres"];
    let dry = [&arguments[..], &["--dry-run"]].concat();
    let (status, text) = service.run(&dry).await;
    assert!(status == 0 && text.contains("would be copied: 1"), "{text}");
    assert_eq!(
        server.query("fleet", "SELECT count(*) FROM inbox").await,
        "0"
    );
    // Twice, as after a connection that broke off.
    for copied in [
        "copied and verified: 1, with 1 memories",
        "the same already: 1",
    ] {
        let (status, text) = service.run(&arguments).await;
        assert!(status == 0 && text.contains(copied), "{text}");
    }
    let figures = "SELECT count(*) || ' ' || sum(value) FROM figures";
    let counted = server.query("fleet", figures).await;
    let numbers =
        ["count(*)", "sum(value)"].map(|of| service.query(&format!("SELECT {of} FROM figures")));
    assert_eq!(counted, format!("{} {}", numbers[0], numbers[1]));
    service.set(
        "OPENAI_BASE_URL",
        &format!("http://{}/v1", service.upstream.addr),
    );
    service.respawn().await;
    let (status, text) = service.run(&arguments).await;
    assert!(status == 1 && text.contains("stop them first"), "{text}");
    service.wait_for_greeting(CALLER, AGENT, "asters").await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 3);
    // Nothing counts twice, and what was erased or decided stays so.
    for said in [&said, &gone] {
        service.end_call(said).await;
    }
    settle(&server).await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 3);
    let decisions = admin(&service, Method::GET, "callers", json!({})).await;
    assert_eq!(decisions["opted_out"], json!(["+16125550199"]));
    assert_eq!(decisions["shared"], json!(["+16125550198"]));
    let letters = admin(&service, Method::GET, "dead-letters", json!({})).await;
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 1);
    let log = admin(&service, Method::GET, "audit", json!({})).await;
    let actions: Vec<&str> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["action"].as_str().unwrap())
        .collect();
    assert!(actions.contains(&"erase caller"), "{actions:?}");
    let export = admin(
        &service,
        Method::GET,
        &format!("callers/{CALLER}/export"),
        json!({}),
    )
    .await;
    assert_eq!(
        export["conversations"],
        json!(["conv_1", "conv_asters", "conv_tulips"])
    );
}
