//! OpenMemory as the memory, and the way over from the legacy system.

use std::time::Duration;

use elaoms::clients::Generation;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::openmemory_stand_in::{KEY, OpenMemoryStandIn, Trouble};
use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_AGENT, OTHER_CALLER, Service, greeting_in, until};

const BOTH: [Generation; 2] = [Generation::First, Generation::Second];

async fn start(generation: Generation) -> (OpenMemoryStandIn, Service) {
    let server = OpenMemoryStandIn::start(generation).await;
    let url = server.url();
    let settings: [(&'static str, &str); 2] = [("OPENMEMORY_PORT", &url), ("OPENMEMORY_KEY", KEY)];
    let service = Service::start_with(&settings).await;
    (server, service)
}

/// Against a real server: the same, with OPENMEMORY_TEST_URL and _KEY set.
#[tokio::test]
#[ignore = "needs a real OpenMemory server"]
async fn a_real_server_holds_the_guides_promises() {
    let setting = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (url, key) = (
        setting("OPENMEMORY_TEST_URL"),
        setting("OPENMEMORY_TEST_KEY"),
    );
    let service = Service::start_with(&[("OPENMEMORY_PORT", &url), ("OPENMEMORY_KEY", &key)]).await;
    guides_promises(&service).await;
}

#[tokio::test]
async fn the_guides_promises_hold_on_both_generations() {
    for generation in BOTH {
        let (_server, service) = start(generation).await;
        guides_promises(&service).await;
    }
}

async fn guides_promises(service: &Service) {
    // The validation tests.
    assert_eq!(greeting_in(&service.ring(CALLER, AGENT).await), None);
    let first = call("conv_om_1", AGENT, CALLER)
        .agent("Hello.")
        .caller("Hi, my name is Nora. I like roses.");
    service.end_call_and_settle(&first).await;
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("roses")
    );
    let other = service.ring(CALLER, OTHER_AGENT).await;
    assert_eq!(
        (
            greeting_in(&other),
            &other["dynamic_variables"]["user_name"]
        ),
        (None, &json!("Nora"))
    );
    service
        .end_call_and_settle(
            &call("conv_om_2", OTHER_AGENT, CALLER)
                .caller("A risotto.")
                .later(60),
        )
        .await;
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("roses")
    );
    assert!(
        service
            .greeting(CALLER, OTHER_AGENT)
            .await
            .unwrap()
            .contains("risotto")
    );

    // Two callers with identical words; a name is never overwritten.
    let same = call("conv_om_3", AGENT, OTHER_CALLER).caller("Hi, my name is Nora. I like roses.");
    service.end_call_and_settle(&same).await;
    service
        .end_call_and_settle(
            &call("conv_om_4", AGENT, CALLER)
                .caller("My name is Tom.")
                .later(120),
        )
        .await;
    assert_eq!(service.caller(CALLER).await["name"], "Nora");
    assert_eq!(service.caller(OTHER_CALLER).await["total_interactions"], 1);
    for caller in [CALLER, OTHER_CALLER] {
        assert_eq!(
            service.found(caller, AGENT, "roses").await,
            ["Hi, my name is Nora. I like roses."]
        );
    }
    assert!(service.found(CALLER, OTHER_AGENT, "roses").await.is_empty());

    // Fifty calls at once are counted exactly; the newest greeting wins.
    let calls = (0..50).map(|i| {
        let said = call(&format!("conv_om_many_{i}"), AGENT, CALLER)
            .caller(&format!("This is call {i}."))
            .later(600 + i);
        async move { service.end_call(&said).await }
    });
    futures_util::future::join_all(calls).await;
    service.settle().await;
    let shown = service.caller(CALLER).await;
    assert_eq!(shown["total_interactions"], 53);
    assert_eq!(shown["agents"][AGENT]["conversation_count"], 52);
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("call 49.")
    );
}

#[tokio::test]
async fn what_openmemory_holds_survives_a_restart() {
    for generation in BOTH {
        let (_server, mut service) = start(generation).await;
        service
            .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("My name is Nora."))
            .await;
        service.crash_and_restart().await;
        assert_eq!(
            service.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"],
            "Nora"
        );
        let ready: Value = service
            .http
            .get(format!("{}/health/ready", service.ops))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert!(
            ready["memory"].as_str().unwrap().contains("generation"),
            "{ready}"
        );
        service.terminate().await;
        let (status, text) = service.run(&["check", "memory"]).await;
        assert!(status == 0 && text.contains("generation"), "{text}");
    }
}

#[tokio::test]
async fn openmemory_in_trouble_loses_and_doubles_nothing() {
    for generation in BOTH {
        let server = OpenMemoryStandIn::start(generation).await;
        let url = server.url();
        let settings: [(&'static str, &str); 3] = [
            ("OPENMEMORY_PORT", &url),
            ("OPENMEMORY_KEY", KEY),
            ("CLIENT_DATA_DEADLINE_MS", "400"),
        ];
        let service = Service::start_with(&settings).await;
        service
            .end_call_and_settle(&call("conv_0", AGENT, CALLER).caller("My name is Nora."))
            .await;

        for (i, trouble) in [Trouble::Status(500), Trouble::Hangs, Trouble::Nonsense]
            .into_iter()
            .enumerate()
        {
            server.set_trouble(trouble);
            let said = call(&format!("conv_{}", i + 1), AGENT, CALLER)
                .caller("I like roses.")
                .later(60);
            service.end_call(&said).await;
            // Known callers are greeted from memory, others get the defaults in time.
            assert_eq!(
                service.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"],
                "Nora"
            );
            let started = tokio::time::Instant::now();
            let stranger = service.ring(&format!("+1612556{i:04}"), AGENT).await;
            assert_eq!(stranger["dynamic_variables"], json!({}));
            assert!(
                started.elapsed() < Duration::from_secs(3),
                "{:?}",
                started.elapsed()
            );
        }
        if generation == Generation::First {
            let phrase = "HTTP error querying universal profile for +16125560000";
            service.wait_for_log(phrase).await;
        } else {
            // The index knows without asking that a stranger has no records.
            service
                .wait_for_log("New caller +16125560000 - using agent defaults")
                .await;
        }
        server.set_trouble(Trouble::LosesAnswers(2));
        sleep(Duration::from_millis(500)).await;
        server.set_trouble(Trouble::None);
        service.settle().await;
        assert_eq!(
            service.caller(CALLER).await["total_interactions"],
            4,
            "{generation:?}"
        );
        assert_eq!(
            service.query("SELECT count(*) FROM inbox WHERE state = 'dead'"),
            0
        );
        let errors = service
            .metric(r#"elaoms_tier_queries_total{tier="1",result="error"}"#)
            .await;
        assert_eq!(errors > 0.0, generation == Generation::First);
    }
}

#[tokio::test]
async fn the_rollback_answers_from_one_tier_and_loses_nothing() {
    let mut service = Service::start_with(&[("USE_TWO_TIER", "false")]).await;
    service.upstream.add_agent(AGENT, true, json!({}));
    service
        .end_call_and_settle(
            &call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses."),
        )
        .await;
    let legacy = service.ring(CALLER, AGENT).await;
    assert_eq!(
        greeting_in(&legacy).unwrap(),
        "Hello Nora, this is Margaret. How can I help you today?"
    );
    let variables = legacy["dynamic_variables"].as_object().unwrap();
    assert_eq!(
        variables.keys().collect::<Vec<_>>(),
        ["last_call_summary", "user_name", "user_profile_summary"]
    );

    // Both tiers went on being written.
    service.terminate().await;
    service.set("USE_TWO_TIER", "true");
    service.respawn().await;
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("roses")
    );
}

fn legacy_callers(server: &OpenMemoryStandIn, count: usize) {
    for i in 0..count {
        let phone = format!("+1612{i:07}");
        let metadata = json!({"user_id": phone, "conversation_id": format!("old_{i}")});
        match i % 3 {
            0 => server.add_legacy(&phone, &format!("fact {i} about x{i}y"), json!({
                "user_id": phone, "conversation_id": "old", "field": "first_name", "value": "Nora"})),
            1 => server.add_legacy(&phone, &format!("My name is Tomasz. I want item q{i}z"), metadata),
            _ => server.add_legacy(&phone, &format!("I ordered number z{i}k"), metadata),
        }
    }
}

/// The numbers of a summary, by their line.
fn summary(text: &str) -> Vec<(String, usize)> {
    let number = |line: &str| {
        let (what, rest) = line.split_once(": ")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((what.to_owned(), digits.parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_legacy_callers_interrupted_and_run_again() {
    const CALLERS: usize = 10_000;
    for generation in BOTH {
        let (server, mut service) = start(generation).await;
        service.terminate().await;
        legacy_callers(&server, CALLERS);
        let (status, text) = service.run(&["migrate", "--all", "--dry-run"]).await;
        assert_eq!((status, server.len()), (0, CALLERS), "{text}");
        assert!(
            text.contains(&format!("would be migrated: {CALLERS}")),
            "{text}"
        );

        let mut interrupted = service.start_command(&["migrate", "--all"]);
        until("a half-done migration", async || {
            server.len() > CALLERS + CALLERS / 3
        })
        .await;
        interrupted.start_kill().unwrap();
        interrupted.wait().await.unwrap();
        let done = server.len() - CALLERS;
        assert!(done < CALLERS, "it was not interrupted");

        let (status, text) = service.run(&["migrate", "--all"]).await;
        assert_eq!(status, 0, "{text}");
        let found = summary(&text);
        let get = |what: &str| {
            found
                .iter()
                .find(|(w, _)| w == what)
                .unwrap_or_else(|| panic!("{what}: {text}"))
                .1
        };
        assert_eq!(get("migrated") + get("already there"), CALLERS, "{text}");
        assert_eq!(get("failed"), 0, "{text}");
        let (_, again) = service.run(&["migrate", "--all"]).await;
        assert!(
            again.contains(&format!("already there: {CALLERS}")),
            "{again}"
        );
        assert_eq!(
            server.len(),
            2 * CALLERS,
            "one Tier 1 record for each caller"
        );

        service.respawn().await;
        let named = service.caller("+16120000001").await;
        assert_eq!(
            (&named["name"], &named["total_interactions"]),
            (&json!("Tomasz"), &json!(1))
        );
        assert_eq!(service.caller("+16120000002").await["name"], json!(null));
        assert_eq!(
            service.ring("+16120000003", AGENT).await["dynamic_variables"]["user_name"],
            "Nora"
        );
        assert_eq!(
            service.found("+16120000002", AGENT, "number").await,
            ["I ordered number z2k"]
        );
    }
}

#[tokio::test]
async fn named_callers_are_migrated_from_arguments_and_files() {
    let (server, mut service) = start(Generation::First).await;
    service.terminate().await;
    legacy_callers(&server, 4);
    std::fs::write(
        service.path("callers.csv"),
        "name,phone_number\nx,+1 612 000 0001\ny,+16125559999\n",
    )
    .unwrap();
    let (status, text) = service
        .run(&["migrate", "--file", "callers.csv", "+16120000000"])
        .await;
    assert_eq!(status, 0, "{text}");
    assert!(
        text.contains("\nmigrated: 2 ") && text.contains("without legacy memories: 1"),
        "{text}"
    );
    let (status, text) = service.run(&["migrate", "nonsense", "+16120000001"]).await;
    assert!(
        status == 1 && text.contains("not a caller id: 1") && text.contains("already there: 1"),
        "{text}"
    );
    let (status, text) = service.run(&["migrate"]).await;
    assert!(status == 1 && text.contains("nothing to do"), "{text}");
}

#[tokio::test]
async fn everything_is_copied_between_stores_and_verified() {
    for generation in BOTH {
        let (server, mut service) = start(generation).await;
        for i in 0..6 {
            let said = call(
                &format!("conv_{i}"),
                AGENT,
                &format!("+1612555{:04}", i % 3),
            )
            .caller(&format!("I like flower number {i}."))
            .later(i);
            service.end_call_and_settle(&said).await;
        }
        service.terminate().await;
        let (status, text) = service
            .run(&["migrate", "--from", "openmemory", "--to", "sqlite"])
            .await;
        assert!(
            status == 0 && text.contains("copied and verified: 3, with 6 memories"),
            "{text}"
        );
        let (status, text) = service
            .run(&["migrate", "--from", "openmemory", "--to", "sqlite"])
            .await;
        assert!(
            status == 0 && text.contains("the same already: 3"),
            "{text}"
        );

        // On SQLite now: nothing is missing.
        service.set("OPENMEMORY_PORT", "");
        service.respawn().await;
        assert!(
            service
                .greeting("+16125550002", AGENT)
                .await
                .unwrap()
                .contains("flower number 5")
        );
        assert_eq!(
            service.found("+16125550002", AGENT, "flower").await.len(),
            2
        );
        service
            .end_call_and_settle(
                &call("conv_new", AGENT, "+16125550002")
                    .caller("And tulips.")
                    .later(60),
            )
            .await;
        assert_eq!(
            service.caller("+16125550002").await["total_interactions"],
            3
        );

        // And back.
        service.terminate().await;
        service.set("OPENMEMORY_PORT", &server.url());
        let (status, text) = service
            .run(&["migrate", "--from", "sqlite", "--to", "openmemory"])
            .await;
        assert!(
            status == 0 && text.contains("copied and verified: 1, with 3 memories"),
            "{text}"
        );
        service.respawn().await;
        assert_eq!(
            service.caller("+16125550002").await["total_interactions"],
            3
        );
    }
}

#[tokio::test]
async fn a_call_learned_elsewhere_counts_once_and_newer_calls_are_never_undone() {
    for generation in BOTH {
        let (_server, mut service) = start(generation).await;
        let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
        service.end_call_and_settle(&said).await;
        service.terminate().await;
        let copy = ["migrate", "--from", "openmemory", "--to", "sqlite"];
        assert_eq!(service.run(&copy).await.0, 0);

        // The inbox forgets, ElevenLabs sends again.
        let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
        database.execute("DELETE FROM inbox", []).unwrap();
        drop(database);
        let url = service.set("OPENMEMORY_PORT", "");
        service.respawn().await;
        service.end_call_and_settle(&said).await;
        assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
        assert_eq!(service.query("SELECT count(*) FROM memories"), 1);

        service
            .end_call_and_settle(
                &call("conv_2", AGENT, CALLER)
                    .caller("My name is Nora.")
                    .later(60),
            )
            .await;
        service.terminate().await;
        service.set("OPENMEMORY_PORT", &url);
        let (status, text) = service.run(&copy).await;
        assert!(status == 1 && text.contains("newer calls"), "{text}");
        service.set("OPENMEMORY_PORT", "");
        service.respawn().await;
        assert_eq!(service.caller(CALLER).await["name"], "Nora");
    }
}

#[tokio::test]
async fn a_caller_who_rang_before_the_migration_keeps_the_legacy_name() {
    for generation in BOTH {
        let (server, mut service) = start(generation).await;
        let metadata = |id: &str| json!({"user_id": CALLER, "conversation_id": id});
        server.add_legacy(CALLER, "My name is Nora.", metadata("old_1"));
        server.add_legacy(CALLER, "I like roses.", metadata("old_2"));
        service
            .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("It is me again."))
            .await;
        service.terminate().await;
        for expected in ["merged into a Tier 1 that was there: 1", "already there: 1"] {
            let (status, text) = service.run(&["migrate", CALLER]).await;
            assert!(status == 0 && text.contains(expected), "{text}");
        }
        service.respawn().await;
        let shown = service.caller(CALLER).await;
        assert_eq!(
            (&shown["name"], &shown["total_interactions"]),
            (&json!("Nora"), &json!(3))
        );
    }
}

#[tokio::test]
async fn an_index_from_a_backup_catches_up() {
    let (_server, mut service) = start(Generation::Second).await;
    service.terminate().await;
    std::fs::copy(service.path("elaoms.db"), service.path("backup.db")).unwrap();
    service.respawn().await;
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("My name is Nora."))
        .await;
    service.terminate().await;
    std::fs::copy(service.path("backup.db"), service.path("elaoms.db")).unwrap();
    service.respawn().await;
    assert_eq!(
        service.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"],
        "Nora"
    );
    assert_eq!(
        service.found(CALLER, AGENT, "name").await,
        ["My name is Nora."]
    );
}

#[tokio::test]
async fn one_odd_field_loses_neither_the_others_nor_itself() {
    for generation in BOTH {
        let (server, mut service) = start(generation).await;
        let first = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
        service.end_call_and_settle(&first).await;
        service.terminate().await;
        let records = server.len();
        server.edit("profile", |profile| {
            profile["name"] = json!("R2-D2 (4000)");
            profile["first_seen"] = json!("long ago");
            profile["shoe_size"] = json!(44);
        });
        server.edit("state", |state| {
            state["sentiment"] = json!("ecstatic");
            state["key_topics"] = json!(["roses", 7]);
            state["last_call_date"] = Value::Null;
            state["ring"] = json!("blue");
        });
        service.respawn().await;

        // What can be read is used, and nothing else.
        let ring = service.ring(CALLER, AGENT).await;
        assert!(greeting_in(&ring).unwrap().contains("roses"), "{ring}");
        let variables = &ring["dynamic_variables"];
        assert_eq!(variables["key_topics"], "roses");
        assert_eq!(
            (&variables["user_name"], &variables["user_sentiment"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(service.caller(CALLER).await["total_interactions"], 1);

        // A further call counts in the same records, which keep what is odd.
        let second = call("conv_2", AGENT, CALLER)
            .caller("It is me again.")
            .later(60);
        service.end_call_and_settle(&second).await;
        let shown = service.caller(CALLER).await;
        assert_eq!(
            (&shown["name"], &shown["total_interactions"]),
            (&Value::Null, &json!(2))
        );
        assert_eq!(shown["agents"][AGENT]["conversation_count"], 2);
        assert_eq!(server.len(), records + 1, "one memory more");
        let (profile, state) = (&server.metadata("profile")[0], &server.metadata("state")[0]);
        assert_eq!(
            (&profile["name"], &profile["shoe_size"]),
            (&json!("R2-D2 (4000)"), &json!(44))
        );
        assert_eq!(
            (&state["ring"], &state["conversation_count"]),
            (&json!("blue"), &json!(2))
        );

        // A name that may be spoken takes its place, and it is kept beside.
        let third = call("conv_3", AGENT, CALLER)
            .caller("My name is Nora.")
            .later(120);
        service.end_call_and_settle(&third).await;
        assert_eq!(service.caller(CALLER).await["name"], "Nora");
        let profile = &server.metadata("profile")[0];
        assert_eq!(
            (&profile["name"], &profile["name_unread"]),
            (&json!("Nora"), &json!("R2-D2 (4000)"))
        );
    }
}

#[tokio::test]
async fn a_memory_that_cannot_be_read_is_shown_to_nobody() {
    let remove =
        |memory: &mut Value, field: &str| drop(memory.as_object_mut().unwrap().remove(field));
    let spoilings: [&dyn Fn(&mut Value); 5] = [
        &|memory| memory["agent"] = json!(7),
        &|memory| remove(memory, "agent"),
        &|memory| remove(memory, "ordinal"),
        &|memory| memory["elaoms"] = json!("something later"),
        &|memory| *memory = json!({}),
    ];
    for generation in BOTH {
        for spoil in spoilings {
            let (server, mut service) = start(generation).await;
            let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
            service.end_call_and_settle(&said).await;
            assert_eq!(service.found(CALLER, AGENT, "roses").await.len(), 1);
            service.terminate().await;
            server.edit("memory", spoil);
            service.respawn().await;
            for agent in [AGENT, OTHER_AGENT] {
                let found = service.found(CALLER, agent, "roses").await;
                assert!(found.is_empty(), "{generation:?}: {found:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_deleted_on_the_server_is_found_no_more() {
    for generation in BOTH {
        let (server, mut service) = start(generation).await;
        let said = call("conv_1", AGENT, CALLER)
            .caller("I like red roses.")
            .agent("And?")
            .caller("I like white roses.");
        service.end_call_and_settle(&said).await;
        assert_eq!(service.found(CALLER, AGENT, "roses").await.len(), 2);
        service.terminate().await;
        server.delete(|metadata| metadata["content"] == "I like red roses.");
        service.respawn().await;

        // A ring asks for both tiers and nothing else.
        let before = server.requests();
        assert!(service.greeting(CALLER, AGENT).await.is_some());
        assert!(server.requests() - before <= 4, "{generation:?}");
        assert_eq!(
            service.found(CALLER, AGENT, "roses").await,
            ["[Agent: And?]\nI like white roses."]
        );
        if generation == Generation::Second {
            let indexed = "SELECT count(*) FROM record_index WHERE key NOT LIKE 'user:%'";
            assert_eq!(service.query(indexed), 1);
        }

        server.delete(|_| true);
        service.crash_and_restart().await;
        assert!(service.found(CALLER, AGENT, "roses").await.is_empty());
        let ring = service.ring(CALLER, AGENT).await;
        assert_eq!(
            (greeting_in(&ring), &ring["dynamic_variables"]),
            (None, &json!({}))
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_at_the_start_is_asked_once_for_all_who_wait() {
    for generation in BOTH {
        let server = OpenMemoryStandIn::start(generation).await;
        server.set_trouble(Trouble::Hangs);
        let url = server.url();
        let settings: [(&'static str, &str); 3] = [
            ("OPENMEMORY_PORT", &url),
            ("OPENMEMORY_KEY", KEY),
            ("CLIENT_DATA_DEADLINE_MS", "400"),
        ];
        let service = Service::start_with(&settings).await;
        let callers: Vec<String> = (0..20).map(|i| format!("+1612557{i:04}")).collect();
        let rings = callers.iter().map(|caller| service.ring(caller, AGENT));
        futures_util::future::join_all(rings).await;
        until("the end of all reads", async || {
            service
                .log()
                .matches("HTTP error querying universal profile")
                .count()
                >= callers.len()
        })
        .await;
        assert!(server.requests() <= 2, "{} requests", server.requests());

        // Known to hang, it keeps no ring waiting for a while.
        let mut caller = 0;
        until("a ring that is told at once", async || {
            caller += 1;
            service.ring(&format!("+1612558{caller:04}"), AGENT).await;
            let page = service.metrics().await;
            page.contains("elaoms_client_data_duration_seconds_count{outcome=\"error\"}")
                && service
                    .metric("elaoms_client_data_duration_seconds_count{outcome=\"error\"}")
                    .await
                    > 0.0
        })
        .await;

        server.set_trouble(Trouble::None);
        let said = call("conv_1", AGENT, CALLER).caller("My name is Nora.");
        service.end_call_and_settle(&said).await;
        assert_eq!(service.caller(CALLER).await["name"], "Nora");
    }
}

/// In the guide's first phase both systems may have stored the same call.
#[tokio::test]
async fn a_call_that_both_systems_saw_is_migrated_once() {
    for generation in BOTH {
        let (server, mut service) = start(generation).await;
        for id in ["old_1", "conv_1", "conv_2"] {
            let metadata = json!({"user_id": CALLER, "conversation_id": id});
            server.add_legacy(CALLER, &format!("I like roses, {id}."), metadata);
        }
        let first = call("conv_1", AGENT, CALLER).caller("I like roses.");
        service.end_call_and_settle(&first).await;
        service.terminate().await;
        let (status, text) = service.run(&["migrate", CALLER]).await;
        assert_eq!(status, 0, "{text}");
        service.respawn().await;
        assert_eq!(service.caller(CALLER).await["total_interactions"], 3);

        // Delivered late, it is learned, and not counted again.
        let second = call("conv_2", AGENT, CALLER)
            .caller("And tulips.")
            .later(60);
        service.end_call_and_settle(&second).await;
        let shown = service.caller(CALLER).await;
        assert_eq!(shown["total_interactions"], 3);
        assert_eq!(shown["agents"][AGENT]["conversation_count"], 2);
        let third = call("conv_3", AGENT, CALLER)
            .caller("And violets.")
            .later(120);
        service.end_call_and_settle(&third).await;
        assert_eq!(service.caller(CALLER).await["total_interactions"], 4);
    }
}

/// The guide's first phase and its rollback: nothing changes for callers.
#[tokio::test]
async fn in_a_single_tier_callers_are_known_from_their_legacy_memories() {
    for generation in BOTH {
        let server = OpenMemoryStandIn::start(generation).await;
        let metadata = |id: &str| json!({"user_id": CALLER, "conversation_id": id});
        server.add_legacy(
            CALLER,
            "My name is Tomasz. I like roses.",
            metadata("old_1"),
        );
        let mut fact = metadata("old_2");
        fact["first_name"] = json!("Nora");
        server.add_legacy(CALLER, "A fact.", fact);
        server.add_legacy(CALLER, "I like tulips.", metadata("conv_1"));
        let mut unnamed = metadata("old_3");
        unnamed["user_id"] = json!(OTHER_CALLER);
        server.add_legacy(OTHER_CALLER, "I like violets.", unnamed);
        let url = server.url();
        let settings: [(&'static str, &str); 3] = [
            ("OPENMEMORY_PORT", &url),
            ("OPENMEMORY_KEY", KEY),
            ("USE_TWO_TIER", "false"),
        ];
        let mut service = Service::start_with(&settings).await;

        // Facts first; and nothing is written for a ring.
        let ring = service.ring(CALLER, AGENT).await;
        assert_eq!(
            ring["dynamic_variables"]["user_name"], "Nora",
            "{generation:?}"
        );
        assert!(
            greeting_in(&ring).unwrap().starts_with("Hello Nora, "),
            "{ring}"
        );
        assert_eq!(service.caller(CALLER).await["total_interactions"], 3);
        let other = service.ring(OTHER_CALLER, AGENT).await;
        assert_eq!(
            (
                greeting_in(&other),
                &other["dynamic_variables"]["user_name"]
            ),
            (None, &Value::Null)
        );
        assert_eq!(service.found(CALLER, OTHER_AGENT, "roses").await.len(), 1);
        let stranger = service.ring("+16125550199", AGENT).await;
        assert_eq!(stranger["dynamic_variables"], json!({}));
        assert_eq!((server.len(), server.metadata("profile").len()), (4, 0));

        // A call that tells no name changes nothing of that, in this session
        // and the next; one that both systems saw counts once.
        for (id, total) in [("conv_1", 3), ("conv_2", 4)] {
            let said = call(id, AGENT, CALLER).caller("It is me again.");
            service.end_call_and_settle(&said).await;
            for _ in 0..2 {
                let ring = service.ring(CALLER, AGENT).await;
                assert!(
                    greeting_in(&ring).unwrap().starts_with("Hello Nora, "),
                    "{ring}"
                );
                assert_eq!(service.caller(CALLER).await["total_interactions"], total);
                service.crash_and_restart().await;
            }
        }
        assert_eq!(server.metadata("profile")[0]["name"], Value::Null);

        // The migration makes it last; with two tiers it was not known before.
        service.terminate().await;
        service.set("USE_TWO_TIER", "true");
        service.respawn().await;
        let ring = service.ring(CALLER, AGENT).await;
        assert_eq!(ring["dynamic_variables"]["user_name"], Value::Null);
        service.terminate().await;
        let (status, text) = service.run(&["migrate", CALLER]).await;
        assert_eq!(status, 0, "{text}");
        for two_tier in ["true", "false"] {
            service.set("USE_TWO_TIER", two_tier);
            service.respawn().await;
            let shown = service.caller(CALLER).await;
            assert_eq!(
                (&shown["name"], &shown["total_interactions"]),
                (&json!("Nora"), &json!(4))
            );
            service.terminate().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_caller_is_gone_from_the_server_and_stays_gone() {
    for generation in BOTH {
        let (server, mut service) = start(generation).await;
        server.add_legacy(CALLER, "I ordered gloves.", json!({"user_id": CALLER}));
        let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
        let other = call("conv_2", AGENT, OTHER_CALLER).caller("My name is Tomasz.");
        for call in [&said, &other] {
            service.end_call_and_settle(call).await;
        }
        let erase = service.admin(reqwest::Method::DELETE, &format!("callers/{CALLER}"));
        let receipt: Value = erase.send().await.unwrap().json().await.unwrap();
        assert_eq!(receipt["profile"], true, "{receipt}");
        assert_eq!(receipt["memories"], 2, "{receipt}");
        assert_eq!(receipt["left"], json!([]), "{receipt}");
        for _ in 0..2 {
            service.end_call_and_settle(&said).await;
            let ring = service.ring(CALLER, AGENT).await;
            assert_eq!(ring["dynamic_variables"], json!({}));
            assert!(
                service
                    .found(CALLER, AGENT, "roses gloves")
                    .await
                    .is_empty()
            );
            service.crash_and_restart().await;
        }
        let left = service.ring(OTHER_CALLER, AGENT).await;
        assert_eq!(left["dynamic_variables"]["user_name"], "Tomasz");
    }
}
