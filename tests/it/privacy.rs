//! What operators do with callers: show, export, correct, erase, leave alone,
//! link; what is kept how long; and who did it.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fakes::OpenAi;
use crate::payloads::call;
use crate::service::{AGENT, CALLER, CANARY, OTHER_AGENT, OTHER_CALLER, Service, until};

/// An admin request that has to succeed: its answer.
async fn admin(service: &Service, method: Method, path: &str) -> Value {
    let response = service.admin(method, path).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.json().await.unwrap()
}

/// Files below a folder in which these bytes stand.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else {
            let content = std::fs::read(&path).unwrap();
            let holds = content.windows(text.len()).any(|w| w == text.as_bytes());
            found.extend(holds.then(|| path.display().to_string()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_caller_is_gone_everywhere_and_stays_gone() {
    let mut service = Service::start().await;
    let first = call("conv_1", AGENT, CALLER)
        .caller(&format!("My name is Nora. I like {CANARY} roses."))
        .fact("delivery", "Tuesday".into());
    let second = call("conv_2", OTHER_AGENT, CALLER)
        .caller("Tulips, please.")
        .later(60);
    let other = call("conv_3", AGENT, OTHER_CALLER).caller("My name is Tomasz.");
    for call in [&first, &second, &other] {
        service.end_call_and_settle(call).await;
    }
    let audio = json!({"type": "post_call_audio", "data": {"agent_id": AGENT,
        "conversation_id": "conv_1", "full_audio": "SUQz"}});
    let audio = audio.to_string().into_bytes();
    let stored = service.post_call(audio.clone()).send().await.unwrap();
    assert_eq!(stored.status(), 200);
    assert!(!files_with(&service.path("."), CANARY).is_empty());
    assert!(!service.found(CALLER, AGENT, "roses").await.is_empty());

    let receipt = admin(&service, Method::DELETE, &format!("callers/{CALLER}")).await;
    assert_eq!(receipt["profile"], true);
    assert_eq!(receipt["agents"], 2);
    assert_eq!(receipt["memories"], 3);
    assert_eq!(receipt["events"], 2);
    assert_eq!(receipt["files"], 3);
    assert_eq!(receipt["left"], json!([]));
    assert!(!receipt.to_string().contains(CALLER), "{receipt}");

    let gone = async |service: &Service| {
        let ring = service.ring(CALLER, AGENT).await;
        assert_eq!(ring["dynamic_variables"], json!({}));
        assert!(service.found(CALLER, AGENT, "roses").await.is_empty());
        let shown = service.admin(Method::GET, &format!("callers/{CALLER}"));
        assert_eq!(shown.send().await.unwrap().status(), StatusCode::NOT_FOUND);
        assert!(!service.path("payloads/conv_1").exists());
    };
    gone(&service).await;
    // Not even in the free pages of the database, or in its log.
    assert_eq!(files_with(&service.path("."), CANARY), [""; 0]);

    // What is delivered late brings nothing back, after a restart neither.
    for _ in 0..2 {
        for body in [first.body(), second.body(), audio.clone()] {
            let late = service.post_call(body).send().await.unwrap();
            assert_eq!(late.status(), 200);
        }
        service.settle().await;
        gone(&service).await;
        service.crash_and_restart().await;
    }
    assert_eq!(service.caller(OTHER_CALLER).await["name"], "Tomasz");
    // A new call is a new acquaintance.
    let anew = call("conv_4", AGENT, CALLER)
        .caller("I like lilies.")
        .later(600);
    service.end_call_and_settle(&anew).await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_ends_the_work_that_is_under_way() {
    let service = Service::start().await;
    service.upstream.set_openai(OpenAi {
        delay: Duration::from_secs(2),
        ..OpenAi::default()
    });
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call(&said).await;
    service.wait_for_openai().await;
    // Behind it waits a call that OpenAI has not been asked about.
    let next = call("conv_2", OTHER_AGENT, CALLER)
        .caller("Tulips.")
        .later(60);
    service.end_call(&next).await;
    let receipt = admin(&service, Method::DELETE, &format!("callers/{CALLER}")).await;
    assert_eq!(receipt["left"], json!([]), "{receipt}");
    service
        .wait_for_log("The work on an erased call has ended")
        .await;
    // A call since then is told from those before.
    service.upstream.set_openai(OpenAi::default());
    let anew = call("conv_3", AGENT, CALLER)
        .caller("I like lilies.")
        .later(600);
    service.end_call_and_settle(&anew).await;
    let greeting = service.greeting(CALLER, AGENT).await.unwrap();
    assert!(greeting.contains("lilies"), "{greeting}");
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
    assert!(service.found(CALLER, AGENT, "roses").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_erasing_leaves_an_erasure_that_goes_on() {
    let mut service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller(&format!("I like {CANARY}."));
    service.end_call_and_settle(&said).await;
    service.kill().await;
    // As a crash between the two stores leaves it.
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    let begun = "INSERT INTO pending_erasures VALUES (?1, '[\"conv_1\"]', 0, 0)";
    database.execute(begun, [CALLER]).unwrap();
    drop(database);
    service.respawn().await;
    let ended = async |service: &Service| {
        until("the erasure to end", async || {
            service.query("SELECT count(*) FROM pending_erasures") == 0
        })
        .await;
        assert!(!service.path("payloads/conv_1").exists());
    };
    ended(&service).await;
    assert_eq!(service.query("SELECT count(*) FROM callers"), 0);

    // Of an erasure that has only files left, what was said since is spared.
    let anew = call("conv_2", AGENT, CALLER)
        .caller("I like lilies.")
        .later(60);
    service.end_call_and_settle(&anew).await;
    std::fs::create_dir(service.path("payloads/conv_1")).unwrap();
    std::fs::write(service.path("payloads/conv_1/conv_1_audio.mp3"), CANARY).unwrap();
    service.kill().await;
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    let files_left = "INSERT INTO pending_erasures VALUES (?1, '[\"conv_1\"]', 0, 1)";
    database.execute(files_left, [CALLER]).unwrap();
    drop(database);
    service.respawn().await;
    ended(&service).await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
    assert_eq!(service.found(CALLER, AGENT, "lilies").await.len(), 1);
    assert!(service.path("payloads/conv_2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_work_is_done_and_written_down_though_nobody_waits() {
    let service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora.");
    service.end_call_and_settle(&said).await;
    // A writer elsewhere keeps the change waiting until its sender is gone.
    let mut other = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    other.busy_timeout(Duration::from_secs(30)).unwrap();
    let held = other
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    let rename = service
        .admin(Method::PUT, &format!("callers/{CALLER}/name"))
        .json(&json!({"name": "Nina"}))
        .timeout(Duration::from_millis(500));
    assert!(rename.send().await.unwrap_err().is_timeout());
    held.rollback().unwrap();
    until("the entry in the log", async || {
        let log = admin(&service, Method::GET, "audit").await;
        log["entries"][0]["action"] == "rename caller"
    })
    .await;
    assert_eq!(service.caller(CALLER).await["name"], "Nina");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_is_not_learned_once_its_caller_opts_out() {
    let mut service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller(&format!("I like {CANARY}."));
    service.end_call_and_settle(&said).await;
    service.kill().await;
    // As an event that was taken in at the very moment of the decision.
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database
        .execute_batch(
            "DELETE FROM callers; DELETE FROM conversation_states; DELETE FROM memories;
             DELETE FROM learned_calls;
             UPDATE inbox SET stage = 'learn', state = 'ready', run_at = 0, payload = CAST('{}' AS BLOB);
             INSERT INTO opted_out_callers SELECT DISTINCT caller, 0 FROM inbox;",
        )
        .unwrap();
    drop(database);
    service.respawn().await;
    until("the event to go", async || {
        service.query("SELECT count(*) FROM inbox") == 0
    })
    .await;
    assert_eq!(service.query("SELECT count(*) FROM callers"), 0);
    assert_eq!(service.query("SELECT count(*) FROM memories"), 0);
    // Its recording is refused, and its files go: now and then, or at a start.
    let audio = json!({"type": "post_call_audio", "data": {"agent_id": AGENT,
        "conversation_id": "conv_1", "full_audio": "SUQz"}});
    let audio = service.post_call(audio.to_string().into_bytes());
    assert_eq!(audio.send().await.unwrap().status(), 200);
    service.crash_and_restart().await;
    until("the files to go", async || {
        !service.path("payloads/conv_1").exists()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_who_opted_out() {
    let mut service = Service::start().await;
    let known = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call_and_settle(&known).await;
    let path = format!("callers/{CALLER}/opt-out");
    let receipt = admin(&service, Method::PUT, &path).await;
    assert_eq!(receipt["profile"], true);
    service.crash_and_restart().await;

    let said = call("conv_2", AGENT, CALLER)
        .caller(&format!("My name is Nora. {CANARY}"))
        .later(60);
    service.end_call(&said).await;
    let audio = json!({"type": "post_call_audio", "data": {"agent_id": AGENT,
        "conversation_id": "conv_2", "full_audio": "SUQz"}});
    let audio = service.post_call(audio.to_string().into_bytes());
    assert_eq!(audio.send().await.unwrap().status(), 200);
    let ring = service.ring(CALLER, AGENT).await;
    assert_eq!(ring["dynamic_variables"], json!({}));
    let found = service.search(CALLER, AGENT, "roses").await;
    assert_eq!(found["profile"], Value::Null);
    assert_eq!(service.query("SELECT count(*) FROM inbox"), 0);
    assert!(!service.path("payloads/conv_2").exists());
    assert_eq!(files_with(&service.path("."), CANARY), [""; 0]);

    // One left would be resumed within a minute, and take the next call.
    let unfinished = "SELECT count(*) FROM pending_erasures WHERE forgotten = 0";
    assert_eq!(
        service.query(unfinished),
        0,
        "of the call that was not kept"
    );
    admin(&service, Method::DELETE, &path).await;
    assert_eq!(service.query(unfinished), 0);
    let again = call("conv_3", AGENT, CALLER)
        .caller("My name is Nora.")
        .later(120);
    service.end_call_and_settle(&again).await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_everything() {
    let service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
    let export = admin(&service, Method::GET, &format!("callers/{CALLER}/export")).await;
    assert_eq!(export["name"], "Nora");
    assert_eq!(export["name_source"]["evidence"], "stated");
    assert_eq!(export["conversations"], json!(["conv_1"]));
    assert_eq!(
        export["memories"][0]["content"],
        "My name is Nora. I like roses."
    );
    let greeting = &export["agents"][AGENT]["next_greeting"];
    assert!(greeting.as_str().unwrap().contains("roses"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_numbers_of_one_person_are_one_caller() {
    let mut service = Service::start().await;
    let mobile = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    let home = call("conv_2", AGENT, OTHER_CALLER)
        .caller("I like tulips.")
        .later(60);
    let elsewhere = call("conv_3", OTHER_AGENT, OTHER_CALLER)
        .caller("A risotto.")
        .later(120);
    for call in [&mobile, &home, &elsewhere] {
        service.end_call_and_settle(call).await;
    }
    let link = format!("callers/{OTHER_CALLER}/link");
    let linked = async |service: &Service, to: &str| {
        let request = service
            .admin(Method::PUT, &link)
            .json(&json!({"caller": to}));
        request.send().await.unwrap().status()
    };
    // Twice, as after an answer that was lost.
    for _ in 0..2 {
        assert_eq!(linked(&service, CALLER).await, 200);
        for number in [CALLER, OTHER_CALLER] {
            let ring = service.ring(number, AGENT).await;
            assert_eq!(ring["dynamic_variables"]["user_name"], "Nora");
            assert!(
                service
                    .greeting(number, AGENT)
                    .await
                    .unwrap()
                    .contains("tulips")
            );
            assert_eq!(service.found(number, AGENT, "roses").await.len(), 1);
        }
        let shown = service.caller(CALLER).await;
        assert_eq!(shown["total_interactions"], 3);
        assert_eq!(shown["agents"][AGENT]["conversation_count"], 2);
        assert_eq!(shown["agents"][OTHER_AGENT]["conversation_count"], 1);
    }
    assert_eq!(service.query("SELECT count(*) FROM callers"), 1);
    assert_eq!(linked(&service, OTHER_CALLER).await, 422);
    service.crash_and_restart().await;
    // A redelivery counts no call twice, and a new one is the person's.
    service.end_call_and_settle(&home).await;
    let next = call("conv_4", AGENT, OTHER_CALLER)
        .caller("I like lilies.")
        .later(600);
    service.end_call_and_settle(&next).await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 4);
    service.wait_for_greeting(CALLER, AGENT, "lilies").await;

    admin(&service, Method::DELETE, &link).await;
    let parted = service.ring(OTHER_CALLER, AGENT).await;
    assert_eq!(parted["dynamic_variables"], json!({}));

    // Who opts out does so with all numbers, and the files of all go.
    assert_eq!(linked(&service, CALLER).await, 200);
    assert!(service.path("payloads/conv_3").exists());
    admin(
        &service,
        Method::PUT,
        &format!("callers/{OTHER_CALLER}/opt-out"),
    )
    .await;
    for (i, number) in [CALLER, OTHER_CALLER].iter().enumerate() {
        let late = call(&format!("conv_9{i}"), AGENT, number).caller("I like lilies.");
        service.end_call(&late).await;
        let ring = service.ring(number, AGENT).await;
        assert_eq!(ring["dynamic_variables"], json!({}), "{number}");
    }
    for i in 1..=4 {
        assert!(!service.path(&format!("payloads/conv_{i}")).exists(), "{i}");
    }
    assert_eq!(service.query("SELECT count(*) FROM callers"), 0);
    assert_eq!(service.query("SELECT count(*) FROM inbox"), 0);
    assert_eq!(service.query("SELECT count(*) FROM caller_links"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_several_people_share_says_nothing_personal_before_the_name() {
    let service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
    admin(&service, Method::PUT, &format!("callers/{CALLER}/shared")).await;
    let ring = service.ring(CALLER, AGENT).await;
    assert_eq!(ring["dynamic_variables"], json!({}));
    assert_eq!(ring.get("conversation_config_override"), None);
    let unnamed = service.search(CALLER, AGENT, "roses").await;
    assert_eq!(unnamed, json!({"profile": null, "memories": []}));
    let wrong = service.search(CALLER, AGENT, "Noraline wants roses").await;
    assert_eq!(wrong["profile"], Value::Null);
    let named = service.search(CALLER, AGENT, "roses of Nora").await;
    assert_eq!(named["profile"]["name"], "Nora");
    assert_eq!(named["memories"].as_array().unwrap().len(), 1);
    admin(
        &service,
        Method::DELETE,
        &format!("callers/{CALLER}/shared"),
    )
    .await;
    assert!(service.greeting(CALLER, AGENT).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_and_dropped_and_all_of_it_is_written_down() {
    let keys = [("ADMIN_KEY", "ana:key-for-ana-0007, key-for-admin-0006")];
    let service = Service::start_with(&keys).await;
    let body = br#"{"type":"tomorrow","data":{"from":"+161255501019"}}"#.to_vec();
    assert_eq!(
        service
            .post_call(body.clone())
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    // Who is erased has none of the letters of others, whatever is alike.
    for other in [CALLER, "5550101", "101"] {
        admin(&service, Method::DELETE, &format!("callers/{other}")).await;
    }
    let listed = admin(&service, Method::GET, "dead-letters").await;
    let id = listed["dead_letters"][0]["id"].as_i64().unwrap();
    let as_ana = |method, path: &str| {
        let url = format!("{}/admin/{path}", service.ops);
        let request = service.http.request(method, url);
        request.bearer_auth("key-for-ana-0007").send()
    };
    let read = as_ana(Method::GET, &format!("dead-letters/{id}"))
        .await
        .unwrap();
    let read: Value = read.json().await.unwrap();
    assert_eq!(read["body"].as_str().unwrap().as_bytes(), body);
    let dropped = as_ana(Method::DELETE, &format!("dead-letters/{id}"))
        .await
        .unwrap();
    assert_eq!(dropped.status(), 200);
    let again = as_ana(Method::DELETE, &format!("dead-letters/{id}"))
        .await
        .unwrap();
    assert_eq!(again.status(), 404);
    let renamed = service
        .admin(Method::PUT, &format!("callers/{CALLER}/name"))
        .json(&json!({"name": "Nora"}));
    assert_eq!(renamed.send().await.unwrap().status(), 404);

    let log = admin(&service, Method::GET, "audit").await;
    let entries: Vec<(&str, &str, &str, &str)> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            let text = |field: &str| e[field].as_str().unwrap();
            (
                text("who"),
                text("action"),
                text("subject"),
                text("outcome"),
            )
        })
        .collect();
    let id = id.to_string();
    assert_eq!(
        entries,
        [
            ("admin", "rename caller", "+16*******01", "404"),
            ("ana", "discard dead letter", &id, "404"),
            ("ana", "discard dead letter", &id, "200"),
            ("ana", "read dead letter", &id, "200"),
            ("admin", "erase caller", "101", "200"),
            ("admin", "erase caller", "555**01", "200"),
            ("admin", "erase caller", "+16*******01", "200"),
        ]
    );
    // Nobody shortens it, not even by hand.
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database.busy_timeout(Duration::from_secs(30)).unwrap();
    for sql in ["DELETE FROM audit_log", "UPDATE audit_log SET who = 'x'"] {
        let refused = database.execute(sql, []).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_enough_goes() {
    let mut service = Service::start().await;
    let old = call("conv_1", AGENT, CALLER).caller("I like roses.");
    service.end_call_and_settle(&old).await;
    let body = br#"{"type":"tomorrow"}"#.to_vec();
    assert_eq!(service.post_call(body).send().await.unwrap().status(), 200);
    service.kill().await;
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database
        .execute_batch("UPDATE memories SET said_at = 0; UPDATE inbox SET received_at = 0;")
        .unwrap();
    drop(database);
    let folder = std::fs::File::open(service.path("payloads/conv_1")).unwrap();
    folder.set_modified(std::time::UNIX_EPOCH).unwrap();
    service.respawn().await;
    // By default only dead letters and finished events go.
    until("old events to go", async || {
        service.query("SELECT count(*) FROM inbox") == 0
    })
    .await;
    assert_eq!(service.query("SELECT count(*) FROM memories"), 1);
    assert!(service.path("payloads/conv_1").exists());

    service.set("MEMORY_RETENTION_DAYS", "365");
    service.set("PAYLOAD_RETENTION_DAYS", "30");
    service.crash_and_restart().await;
    let new = call("conv_2", AGENT, CALLER)
        .caller("I like tulips.")
        .later(60);
    service.end_call_and_settle(&new).await;
    until("old memories and files to go", async || {
        service.query("SELECT count(*) FROM memories") == 1
            && !service.path("payloads/conv_1").exists()
    })
    .await;
    assert!(service.found(CALLER, AGENT, "roses").await.is_empty());
    assert!(service.path("payloads/conv_2").exists());
    assert_eq!(service.caller(CALLER).await["total_interactions"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_change_without_a_gap_and_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client-data");
    std::fs::write(&file, "new-key-0008, key-for-client-data-0001\n").unwrap();
    let service = Service::start_with(&[
        ("ELEVENLABS_CLIENT_DATA_KEY", ""),
        ("ELEVENLABS_CLIENT_DATA_KEY_FILE", file.to_str().unwrap()),
        (
            "ELEVENLABS_POST_CALL_KEY",
            "wsec_new-0009,wsec_key-for-post-call-0003",
        ),
    ])
    .await;
    let ring = |key: &str| {
        let url = format!("{}/webhook/client-data", service.base);
        let body = json!({"caller_id": CALLER, "agent_id": AGENT});
        service
            .http
            .post(url)
            .header("X-Api-Key", key)
            .json(&body)
            .send()
    };
    for (key, status) in [
        ("new-key-0008", 200),
        ("key-for-client-data-0001", 200),
        ("new-key-0008, key-for-client-data-0001", 401),
        ("", 401),
    ] {
        assert_eq!(ring(key).await.unwrap().status(), status, "{key}");
    }
    let body = call("conv_1", AGENT, CALLER).caller("Hi there.").body();
    for (key, status) in [
        ("wsec_new-0009", 200),
        ("wsec_key-for-post-call-0003", 200),
        ("wsec_other", 401),
    ] {
        let signature = elaoms::http::sign(&body, key.as_bytes(), jiff::Timestamp::now());
        let sent = service.post_call_signed(body.clone(), &signature);
        assert_eq!(sent.send().await.unwrap().status(), status, "{key}");
    }
    // Nor are they in a memory dump: there is none.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.pid())).unwrap();
    let core = limits
        .lines()
        .find(|l| l.starts_with("Max core file size"))
        .unwrap();
    let values: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{core}");
    let missing = ("ELEVENLABS_SEARCH_DATA_KEY_FILE", "/nowhere/key");
    let settings = [
        ("ELEVENLABS_SEARCH_DATA_KEY", String::new()),
        (missing.0, missing.1.into()),
    ];
    let refused = crate::service::command(folder.path(), &settings);
    let refused = { refused }.arg("serve").output().await.unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78));
    assert!(text.contains("/nowhere/key"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_talks_to_the_service_or_else_to_the_store() {
    let mut service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
    let ops = service.ops.trim_start_matches("http://").to_owned();
    service.set("OPS_ADDR", &ops);
    let (status, text) = service.run(&["caller", "rename", CALLER, "Нора"]).await;
    assert_eq!(status, 0, "{text}");
    let ring = service.ring(CALLER, AGENT).await;
    assert_eq!(ring["dynamic_variables"]["user_name"], "Нора");
    let (status, text) = service.run(&["caller", "show", OTHER_CALLER]).await;
    assert!(status == 1 && text.contains("no such caller"), "{text}");
    service.set("ADMIN_KEY", "");
    let (status, text) = service.run(&["caller", "show", CALLER]).await;
    assert!(status == 1 && text.contains("ADMIN_KEY"), "{text}");

    service.kill().await;
    let (status, text) = service.run(&["caller", "export", CALLER]).await;
    assert!(status == 0 && text.contains("roses"), "{text}");
    let (status, text) = service.run(&["caller", "erase", CALLER]).await;
    assert!(status == 0 && text.contains("\"memories\": 1"), "{text}");
    assert_eq!(service.query("SELECT count(*) FROM callers"), 0);
    let (status, text) = service.run(&["audit"]).await;
    assert_eq!(status, 0);
    for who in ["admin\"", "command-line:uid="] {
        assert!(text.contains(&format!("\"who\": \"{who}")), "{text}");
    }
    service.set("OPS_ADDR", "127.0.0.1:0");
    service.respawn().await;
    let ring = service.ring(CALLER, AGENT).await;
    assert_eq!(ring["dynamic_variables"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_that_is_being_archived_goes_with_its_caller() {
    let service = Service::start().await;
    // Opening a pipe that nobody reads blocks. The first holds up a batch of one
    // event, the second the batch of the two that have come meanwhile: their
    // bodies are read, and the last has no folder yet.
    let pipes = [0, 1].map(|i| service.path(&format!("payloads/.incoming/{i}.part")));
    let made = std::process::Command::new("mkfifo").args(&pipes).status();
    assert!(made.unwrap().success());
    let release = async |pipe: &Path| {
        let pipe = pipe.to_owned();
        let read = tokio::task::spawn_blocking(move || std::fs::read(pipe));
        assert!(!read.await.unwrap().unwrap().is_empty());
    };
    for (i, caller) in [OTHER_CALLER, OTHER_CALLER, CALLER].into_iter().enumerate() {
        let said = call(&format!("conv_{i}"), AGENT, caller).caller("I like roses.");
        service.end_call(&said).await;
        let done = format!("SELECT count(*) FROM inbox WHERE state = 'done' AND id > {i}");
        until("the call to be greeted", async || service.query(&done) == 1).await;
    }
    release(&pipes[0]).await;
    until("the second batch", async || {
        service.query("SELECT count(*) FROM inbox WHERE archived") == 1
            && service.path("payloads/conv_1").exists()
    })
    .await;
    let path = format!("callers/{CALLER}");
    let erased = async {
        until("the event to be erased", async || {
            service.query("SELECT count(*) FROM inbox WHERE conversation_id = 'conv_2'") == 0
        })
        .await;
        release(&pipes[1]).await;
    };
    let (receipt, ()) = tokio::join!(admin(&service, Method::DELETE, &path), erased);
    assert_eq!(receipt["left"], json!([]));
    until("the archiver to end", async || {
        service.query("SELECT count(*) FROM inbox WHERE archived") == 2
    })
    .await;
    assert!(!service.path("payloads/conv_2").exists(), "{receipt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_goes_on_after_a_crash_takes_no_call_since_its_receipt() {
    let mut service = Service::start().await;
    service.kill().await;
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    // So many that the last is still open when it is asked for again.
    for i in 0..300 {
        let caller = format!("+1613555{i:04}");
        database
            .execute(
                "INSERT INTO pending_erasures VALUES (?1, '[]', 0, 0)",
                [caller],
            )
            .unwrap();
    }
    database
        .execute(
            "INSERT INTO pending_erasures VALUES (?1, '[]', 1, 0)",
            [CALLER],
        )
        .unwrap();
    drop(database);
    service.respawn().await;
    let receipt = admin(&service, Method::DELETE, &format!("callers/{CALLER}")).await;
    assert_eq!(receipt["left"], json!([]));
    let anew = call("conv_1", AGENT, CALLER).caller("I like lilies.");
    service.end_call_and_settle(&anew).await;
    until("all erasures to end", async || {
        service.query("SELECT count(*) FROM pending_erasures") == 0
    })
    .await;
    service.wait_for_log("is complete now").await;
    service.settle().await;
    // The last of them ended before this.
    service.crash_and_restart().await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
    assert!(service.path("payloads/conv_1").exists());
}
