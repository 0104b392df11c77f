//! The command line in the hands of an operator who mistypes, looks in the wrong
//! place, or pipes what is printed into something that ends.

use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};

use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_CALLER, Service, command, until};

const THIRD_CALLER: &str = "+16125550103";

async fn know_nora(service: &Service) {
    let said = call("conv_1", AGENT, CALLER).caller("My name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
}

/// The status of an admin request, and its answer.
async fn ask(service: &Service, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = service.admin(method, path).json(&body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_in_the_wrong_place_is_not_called_complete() {
    let mut service = Service::start().await;
    know_nora(&service).await;
    until("the transcript", async || {
        service.query("SELECT count(*) FROM inbox WHERE archived") == 1
    })
    .await;
    service.terminate().await;

    // Where nothing is, nothing is made, and nothing is said to be gone.
    let database = service.set("DATABASE_URL", "sqlite://elsewhere/x.db");
    for command in [
        &["caller", "erase", CALLER][..],
        &["caller", "show", CALLER],
        &["audit"],
        &["dead-letters", "list"],
        &["backup", "copy.db"],
    ] {
        let (status, text) = service.run(command).await;
        assert_eq!(status, 1, "{command:?}: {text}");
        assert!(text.contains("elsewhere/x.db"), "{command:?}: {text}");
        assert!(!service.path("elsewhere").exists(), "{command:?}");
        assert!(!service.path("copy.db").exists(), "{command:?}");
    }
    service.set("DATABASE_URL", &database);
    let archive = service.set("PAYLOAD_STORAGE_PATH", "nowhere");
    let (status, text) = service.run(&["caller", "erase", CALLER]).await;
    assert!(status == 1 && text.contains("nowhere"), "{text}");
    assert!(!service.path("nowhere").exists());

    // Another folder has none of the files that were written: they are left.
    std::fs::create_dir(service.path("another")).unwrap();
    service.set("PAYLOAD_STORAGE_PATH", "another");
    for again in [false, true] {
        let (status, text) = service.run(&["caller", "erase", CALLER]).await;
        assert_eq!(status, 1, "{again}: {text}");
        assert!(
            text.contains("files of 1 archived calls"),
            "{again}: {text}"
        );
    }
    assert!(service.path("payloads/conv_1").exists());

    // The service knows the right one, and writes down that it is done.
    service.set("PAYLOAD_STORAGE_PATH", &archive);
    service.respawn().await;
    until("the file to go", async || {
        !service.path("payloads/conv_1").exists()
    })
    .await;
    until("the entry in the log", async || {
        let (_, log) = ask(&service, Method::GET, "audit", json!(null)).await;
        let newest = &log["entries"][0];
        newest["who"] == "service" && newest["action"] == "complete erasure"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_about_callers_who_can_ring() {
    let service = Service::start().await;
    know_nora(&service).await;
    for nobody in ["abc", "0000000000", "+19999999999", "anonymous", "123"] {
        for what in ["opt-out", "shared", "link"] {
            let path = format!("callers/{nobody}/{what}");
            let (status, answer) =
                ask(&service, Method::PUT, &path, json!({"caller": CALLER})).await;
            assert_eq!(status, 422, "{path}: {answer}");
        }
    }
    let standings =
        "SELECT (SELECT count(*) FROM opted_out_callers) + (SELECT count(*) FROM shared_callers)
                     + (SELECT count(*) FROM caller_links)";
    assert_eq!(service.query(standings), 0);

    // Who is not known may have decided all the same; or the number is mistyped.
    let (status, answer) = ask(
        &service,
        Method::PUT,
        "callers/6125550101/opt-out",
        json!({}),
    )
    .await;
    assert_eq!((status, &answer["found"]), (200, &json!(false)));
    assert!(answer["remark"].as_str().unwrap().contains('+'), "{answer}");
    let (_, answer) = ask(
        &service,
        Method::PUT,
        &format!("callers/{CALLER}/shared"),
        json!({}),
    )
    .await;
    assert_eq!(answer, json!({"shared": true}));
    service.ring(CALLER, AGENT).await;
    service
        .wait_for_log("several people share the number")
        .await;

    // Nobody becomes a person by being linked to.
    let link = async |number: &str, caller: &str| {
        let path = format!("callers/{number}/link");
        ask(&service, Method::PUT, &path, json!({"caller": caller})).await
    };
    let (status, answer) = link(OTHER_CALLER, THIRD_CALLER).await;
    assert_eq!(status, 422, "{answer}");
    assert_eq!(link(OTHER_CALLER, CALLER).await.0, 200);
    let other = call("conv_3", AGENT, THIRD_CALLER).caller("My name is Tomasz.");
    service.end_call_and_settle(&other).await;
    let (status, answer) = link(OTHER_CALLER, THIRD_CALLER).await;
    assert!(
        status == 422 && answer["error"].as_str().unwrap().contains("unlink"),
        "{answer}"
    );

    // All of it can be seen.
    let (_, shown) = ask(
        &service,
        Method::GET,
        &format!("callers/{OTHER_CALLER}"),
        json!({}),
    )
    .await;
    assert_eq!(shown["linked_to"], CALLER);
    assert_eq!(shown["name"], "Nora");
    let (_, shown) = ask(
        &service,
        Method::GET,
        &format!("callers/{CALLER}"),
        json!({}),
    )
    .await;
    assert_eq!(
        (&shown["shared"], &shown["opted_out"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(shown["further_numbers"], json!([OTHER_CALLER]));
    let (status, shown) = ask(&service, Method::GET, "callers/6125550101", json!({})).await;
    assert_eq!(
        (status, &shown["opted_out"]),
        (200, &json!(true)),
        "{shown}"
    );
    let (_, decisions) = ask(&service, Method::GET, "callers", json!({})).await;
    let expected = json!({
        "opted_out": ["6125550101"],
        "shared": [CALLER],
        "links": [{"number": OTHER_CALLER, "caller": CALLER}],
        "more": 0,
    });
    assert_eq!(decisions, expected);
    let (_, log) = ask(&service, Method::GET, "audit?limit=2", json!({})).await;
    let actions: Vec<&Value> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["action"])
        .collect();
    assert_eq!(actions, ["list decisions", "show caller"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn opting_in_ends_an_erasure_that_would_take_the_next_call() {
    let service = Service::start().await;
    let path = format!("callers/{CALLER}/opt-out");
    assert_eq!(ask(&service, Method::PUT, &path, json!({})).await.0, 200);
    // As a store that was away leaves it. The timer would come within a minute.
    let database = rusqlite::Connection::open(service.path("elaoms.db")).unwrap();
    database.busy_timeout(crate::service::SOON).unwrap();
    let begun = "INSERT INTO pending_erasures VALUES (?1, '[]', 0, 0)";
    database.execute(begun, [CALLER]).unwrap();
    assert_eq!(ask(&service, Method::DELETE, &path, json!({})).await.0, 200);
    assert_eq!(service.query("SELECT count(*) FROM pending_erasures"), 0);
    know_nora(&service).await;
    assert_eq!(service.caller(CALLER).await["total_interactions"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_or_not_found_is_no_success() {
    let mut service = Service::start_with(&[("ELEVENLABS_API_KEY", "")]).await;
    know_nora(&service).await;
    service.terminate().await;
    let before = service.query("SELECT count(*) FROM callers");
    let (status, text) = service
        .run(&["caller", "erase", "--elevenlabs", CALLER])
        .await;
    assert_eq!(
        service.query("SELECT count(*) FROM callers"),
        before,
        "{text}"
    );
    assert!(
        status == 1 && text.contains("ELEVENLABS_API_KEY is not set"),
        "{text}"
    );
    let (status, text) = service.run(&["caller", "erase", OTHER_CALLER]).await;
    assert!(status == 1 && text.contains("nothing was kept"), "{text}");
    let (status, text) = service.run(&["caller", "show", ""]).await;
    assert!(status == 2 && text.contains("value is required"), "{text}");
    // Nothing that is no file is written, read or replaced.
    let pipe = service.path("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for command in [
        &["backup", "--force", "pipe"][..],
        &["restore", "pipe"],
        &["restore", "/dev/zero"],
    ] {
        let (status, text) = service.run(command).await;
        assert!(status == 1 && text.contains("no regular file"), "{text}");
    }
    assert!(!pipe.is_file());
    for undone in ["opt-in", "unshare", "unlink"] {
        let (status, text) = service.run(&["caller", undone, OTHER_CALLER]).await;
        assert_eq!(status, 1, "{undone}: {text}");
    }
    let (status, text) = service.run(&["restore", "nope.db"]).await;
    assert!(
        status == 1 && text.contains("nope.db cannot be read"),
        "{text}"
    );

    // Without keys the routes are not there, and the command line says why.
    let key = service.set("ADMIN_KEY", "");
    service.respawn().await;
    let ops = service.ops.trim_start_matches("http://").to_owned();
    service.set("OPS_ADDR", &ops);
    service.set("ADMIN_KEY", &key);
    let (status, text) = service.run(&["audit"]).await;
    assert!(status == 1 && text.contains("no admin routes"), "{text}");
    let (status, text) = service.run(&["restore", "elaoms.db-wal"]).await;
    assert!(status == 1, "{text}");
    std::fs::copy(service.path("elaoms.db"), service.path("copy.db")).unwrap();
    let (status, text) = service.run(&["restore", "copy.db"]).await;
    assert!(status == 1 && text.contains("stop it first"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_conversations_are_not_said_to_be_deleted_at_elevenlabs() {
    let service = Service::start().await;
    let said = call("conv 1/..", AGENT, CALLER).caller("I like roses.");
    service.end_call_and_settle(&said).await;
    let path = format!("callers/{CALLER}?elevenlabs=true");
    let (_, receipt) = ask(&service, Method::DELETE, &path, json!({})).await;
    assert_eq!(receipt["elevenlabs"], 0, "{receipt}");
    assert_eq!(receipt["left"].as_array().unwrap().len(), 1, "{receipt}");
    let path = format!("callers/{CALLER}?elevenlabs=perhaps");
    assert_eq!(ask(&service, Method::DELETE, &path, json!({})).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_takes_is_no_crash() {
    let mut service = Service::start().await;
    know_nora(&service).await;
    service.terminate().await;
    let settings = service.settings();
    let run = async |output: Stdio| {
        let mut export = command(&service.path("."), settings);
        export.args(["caller", "export", CALLER]).stdout(output);
        let running = export.stderr(Stdio::piped()).spawn().unwrap();
        let done = running.wait_with_output().await.unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!said.contains("panicked"), "{said}");
        (done.status.code(), said)
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()).await, (Some(0), String::new()));
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let (status, said) = run(full.into()).await;
    assert!(
        status == Some(1) && said.contains("cannot be written"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_those_of_the_working_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "OPENAI_TIMEOUT=many\n").unwrap();
    let below = folder.path().join("below");
    std::fs::create_dir(&below).unwrap();
    for (folder, is_read) in [(folder.path(), true), (&*below, false)] {
        let secrets = ["CLIENT_DATA", "SEARCH_DATA", "POST_CALL"]
            .map(|name| (format!("ELEVENLABS_{name}_KEY"), "a-secret-of-twenty-or-so"));
        let mut check = command(folder, &[]);
        check.envs(secrets).args(["check", "config"]);
        let checked = check.output().await.unwrap();
        let text = String::from_utf8(checked.stdout).unwrap();
        assert_eq!(text.contains("OPENAI_TIMEOUT"), is_read, "{text}");
    }
    // What cannot be read is named, and not repeated.
    std::fs::write(
        folder.path().join(".env"),
        "ADMIN_KEY=ana:to ken$1,ops:other\n",
    )
    .unwrap();
    let mut serve = command(folder.path(), &[]);
    let refused = serve.arg("serve").output().await.unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78));
    assert!(
        text.contains("ADMIN_KEY") && !text.contains("ken") && !text.contains("ops"),
        "{text}"
    );
    // A check of what is not there yet makes nothing either.
    let mut check = command(&below, &[]);
    let checked = check.args(["check", "memory"]).output().await.unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.starts_with("PASS memory"), "{text}");
    assert_eq!(std::fs::read_dir(&below).unwrap().count(), 0);
}

#[tokio::test]
async fn a_report_tells_what_the_days_brought_and_cost() {
    let mut service = Service::start_with(&[("OPENAI_PRICES", "2/10")]).await;
    service.ring(CALLER, AGENT).await;
    know_nora(&service).await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    service.ring(OTHER_CALLER, AGENT).await;
    // It is in the database when the service has ended, and not counted anew.
    service.terminate().await;
    let report = async |service: &Service| -> Value {
        let (status, text) = service.run(&["report", "--since", "2d", "--json"]).await;
        assert_eq!(status, 0, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let told = report(&service).await;
    let number = |name: &str| told["all"][name].as_u64().unwrap();
    assert!(number("greeted") >= 1 && number("rings") >= 3, "{told}");
    assert_eq!(number("rings") - number("recognised"), 2, "{told}");
    assert_eq!((number("calls"), number("greetings")), (1, 1), "{told}");
    assert_eq!(
        (number("prompt_tokens"), number("completion_tokens")),
        (500, 60),
        "{told}"
    );
    assert_eq!(told["all"]["cost_usd"], 0.0016, "{told}");
    assert!(told["all"]["ring_p95_ms"].is_number(), "{told}");
    service.respawn().await;
    service.ring(OTHER_CALLER, AGENT).await;
    service.terminate().await;
    let later = report(&service).await;
    assert_eq!(later["all"]["rings"].as_u64().unwrap(), number("rings") + 1);
    let (status, text) = service.run(&["report"]).await;
    assert!(
        status == 0 && text.contains("0.0016") && text.contains("list prices"),
        "{text}"
    );
}
