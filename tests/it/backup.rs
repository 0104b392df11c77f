//! `elaoms backup` and `elaoms restore`, and a database that is damaged.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::json;
use tokio::time::timeout;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, SOON, Service, until};

/// Post-call connections in use while the backup is made.
const CONNECTIONS: usize = 50;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn back_up(service: &Service, file: &Path) -> String {
    let (status, text) = service.run(&["backup", text(file)]).await;
    assert_eq!(status, 0, "{text}");
    text
}

/// A service that is stopped, and has learned one call of Nora's.
async fn stopped() -> Service {
    let mut service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("Hi, my name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
    service.terminate().await;
    service
}

/// What a service that does not start says.
async fn refusal(service: &Service, what: &str) -> (i32, String) {
    timeout(SOON, service.run(&["serve"]))
        .await
        .unwrap_or_else(|_| panic!("{what}: it started"))
}

#[tokio::test]
async fn a_backup_holds_all_that_was_acknowledged_before_it_began() {
    let mut source = Service::start_with(&[("OPENAI_API_KEY", "")]).await;
    // One event stays open, as if its turn had not come yet.
    Connection::open(source.path("elaoms.db"))
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER held BEFORE INSERT ON memories WHEN NEW.conversation_id = 'held'
             BEGIN SELECT RAISE(ABORT, 'held'); END",
        )
        .unwrap();
    source
        .end_call(&call("held", AGENT, CALLER).caller("I like roses."))
        .await;

    let acknowledged = Mutex::new(vec!["held".to_owned()]);
    let count = || acknowledged.lock().unwrap().len();
    let enough = AtomicBool::new(false);
    let file = source.path("backup.db");
    let calls = join_all((0..CONNECTIONS).map(async |connection| {
        for n in 0.. {
            if enough.load(Ordering::Relaxed) {
                break;
            }
            let id = format!("conv_{connection}_{n}");
            let caller = format!("+1612555{connection:04}");
            source
                .end_call(&call(&id, AGENT, &caller).caller("I like tulips."))
                .await;
            acknowledged.lock().unwrap().push(id);
        }
    }));
    let backup = async {
        until("calls to end", async || count() > 4 * CONNECTIONS).await;
        let before = acknowledged.lock().unwrap().clone();
        let printed = back_up(&source, &file).await;
        let during = count() - before.len();
        enough.store(true, Ordering::Relaxed);
        assert!(during > 0, "no call ended during the backup");
        assert!(printed.contains("open events: "), "{printed}");
        assert!(!printed.contains("open events: 0"), "{printed}");
        before
    };
    let (_, before) = tokio::join!(calls, backup);
    source.kill().await;
    // Nobody but the service's user may read callers' data.
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    for left in ["backup.db.partial", "backup.db-wal", "backup.db-shm"] {
        assert!(!source.path(left).exists(), "{left}");
    }

    let folder = tempfile::tempdir().unwrap();
    let restored = folder.path().join("new/elaoms.db");
    let url = format!("sqlite://{}", restored.display());
    source.set("DATABASE_URL", &url);
    let (status, printed) = source.run(&["restore", text(&file)]).await;
    assert_eq!(status, 0, "{printed}");
    assert_eq!(fs::metadata(&restored).unwrap().mode() & 0o777, 0o600);
    let database = Connection::open(&restored).unwrap();
    database.execute_batch("DROP TRIGGER held").unwrap();
    source.respawn().await;
    until("all calls to be learned", async || {
        before.iter().all(|id| {
            let sql = "SELECT count(*) FROM learned_calls WHERE conversation_id = ?1";
            let learned: i64 = database.query_row(sql, [id], |row| row.get(0)).unwrap();
            learned == 1
        })
    })
    .await;
}

#[tokio::test]
async fn a_restored_caller_is_greeted_by_name_and_the_database_before_is_kept() {
    let mut service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("Hi, my name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
    let file = service.path("backup.db");
    let printed = back_up(&service, &file).await;
    for line in [
        "callers: 1",
        "memories: 1",
        "open events: 0",
        "dead letters: 0",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    let renamed = service
        .admin(reqwest::Method::PUT, &format!("callers/{CALLER}/name"))
        .json(&json!({"name": "Eleonora"}))
        .send()
        .await
        .unwrap();
    assert!(renamed.status().is_success());

    let (status, refused) = service.run(&["restore", text(&file)]).await;
    assert_eq!(status, 1, "{refused}");
    assert!(refused.contains("in use by another process"), "{refused}");

    // Killed, it leaves a log with what is not in the database file yet.
    service.kill().await;
    assert!(service.path("elaoms.db-wal").metadata().unwrap().len() > 0);
    let (status, printed) = service.run(&["restore", text(&file)]).await;
    assert_eq!(status, 0, "{printed}");
    assert!(!service.path("elaoms.db-wal").exists());
    assert!(!service.path("elaoms.db-shm").exists());
    service.respawn().await;
    let answer = service.ring(CALLER, AGENT).await;
    assert_eq!(answer["dynamic_variables"]["user_name"], "Nora");
    service.wait_for_greeting(CALLER, AGENT, "Nora").await;

    let kept = printed
        .lines()
        .find_map(|line| line.strip_prefix("What was there before is "))
        .unwrap()
        .trim_end_matches('.');
    let name: String = Connection::open(kept)
        .unwrap()
        .query_row("SELECT name FROM callers", [], |row| row.get(0))
        .unwrap();
    assert_eq!(name, "Eleonora");
}

#[tokio::test]
async fn a_backup_overwrites_nothing_unasked_and_never_the_database() {
    let service = stopped().await;
    let file = service.path("backup.db");
    fs::write(&file, "precious").unwrap();
    let (status, printed) = service.run(&["backup", text(&file)]).await;
    assert_eq!(status, 1, "{printed}");
    assert!(printed.contains("--force"), "{printed}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let (status, printed) = service.run(&["backup", text(&file), "--force"]).await;
    assert_eq!(status, 0, "{printed}");
    assert!(fs::read(&file).unwrap().starts_with(b"SQLite format 3"));

    let database = service.path("elaoms.db");
    let before = fs::read(&database).unwrap();
    for part in ["elaoms.db", "elaoms.db-wal", "elaoms.db.lock"] {
        let path = service.path(part);
        let (status, printed) = service.run(&["backup", text(&path), "--force"]).await;
        assert_eq!(status, 1, "{printed}");
        assert!(printed.contains("belongs to the database"), "{printed}");
    }
    assert!(fs::read(&database).unwrap() == before);
}

#[tokio::test]
async fn what_is_no_whole_backup_of_ours_is_not_restored() {
    let mut service = stopped().await;
    let good = service.path("good.db");
    back_up(&service, &good).await;
    let bytes = fs::read(&good).unwrap();
    let database = fs::read(service.path("elaoms.db")).unwrap();
    // Any bit flipped in the cells of a table: only reading every page tells.
    let mut damaged = bytes.clone();
    let middle = bytes.len() / 4096 / 2 * 4096;
    damaged[middle..middle + 64].fill(0xff);
    let altered = |sql: &str| {
        let path = service.path("altered.db");
        fs::write(&path, &bytes).unwrap();
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        fs::read(&path).unwrap()
    };
    let newer = altered("PRAGMA user_version = 99");
    let foreign = altered("DROP TABLE inbox");
    for (what, content, reason) in [
        ("text", b"My name is Nora.".repeat(999), "not a database"),
        ("empty", Vec::new(), "no database of ELAOMS"),
        ("truncated", bytes[..bytes.len() / 2].to_vec(), "malformed"),
        ("damaged", damaged, ""),
        ("newer", newer, "schema version 99"),
        ("foreign", foreign, "no database of ELAOMS"),
    ] {
        let file = service.path(&format!("{what}.db"));
        fs::write(&file, &content).unwrap();
        let (status, printed) = service.run(&["restore", text(&file)]).await;
        assert_eq!(status, 1, "{what}: {printed}");
        assert!(printed.contains(text(&file)), "{what}: {printed}");
        assert!(printed.contains(reason), "{what}: {printed}");
        assert!(
            fs::read(service.path("elaoms.db")).unwrap() == database,
            "{what}"
        );
        assert!(fs::read(&file).unwrap() == content, "{what}");
        assert!(!service.path("elaoms.db.restoring").exists(), "{what}");
    }
    service.respawn().await;
    service.wait_for_greeting(CALLER, AGENT, "Nora").await;
}

#[tokio::test]
async fn a_backup_of_an_older_version_is_migrated_at_the_start() {
    let mut service = stopped().await;
    let old = service.path("old.db");
    let script = include_str!("../../src/store/sqlite/migrations/0001_initial.sql");
    let database = Connection::open(&old).unwrap();
    database.execute_batch(script).unwrap();
    database
        .execute_batch(&format!(
            "PRAGMA user_version = 1;
             INSERT INTO callers VALUES ('{CALLER}', 'Nora', 0, 3);
             INSERT INTO record_index_state VALUES ('', 0);"
        ))
        .unwrap();
    drop(database);
    let (status, printed) = service.run(&["restore", text(&old)]).await;
    assert_eq!(status, 0, "{printed}");
    assert!(printed.contains("schema version: 1"), "{printed}");
    service.respawn().await;
    let answer = service.ring(CALLER, AGENT).await;
    assert_eq!(answer["dynamic_variables"]["user_name"], "Nora");
    // An index of OpenMemory's records that misses the newest is made anew.
    assert_eq!(service.query("SELECT count(*) FROM record_index_state"), 0);
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_as_it_is() {
    let service = stopped().await;
    let path = service.path("elaoms.db");
    let whole = fs::read(&path).unwrap();
    let mut without_schema = whole.clone();
    without_schema[100..4096].fill(0);
    let mut without_root = whole.clone();
    without_root[4096..3 * 4096].fill(0);
    let damages: [(&str, &[u8]); 6] = [
        ("text", b"My name is Nora. I like roses.\n"),
        ("truncated", &whole[..whole.len() / 2]),
        ("truncated within a page", &whole[..whole.len() - 1_000]),
        ("without a schema", &without_schema),
        ("with a table zeroed", &without_root),
        ("empty", b""),
    ];
    for (what, bytes) in damages {
        fs::write(&path, bytes).unwrap();
        let (status, printed) = refusal(&service, what).await;
        assert_eq!(status, 1, "{what}: {printed}");
        for said in [text(&path), "elaoms restore"] {
            assert!(printed.contains(said), "{what}: {printed}");
        }
        assert!(!printed.contains("I like roses"), "{what}: {printed}");
        assert!(fs::read(&path).unwrap() == bytes, "{what}");
    }
    for left in ["elaoms.db-wal", "elaoms.db.restoring"] {
        fs::remove_file(&path).unwrap();
        fs::write(service.path(left), "log").unwrap();
        let (status, printed) = refusal(&service, left).await;
        assert_eq!(status, 1, "{left}: {printed}");
        for said in [text(&path), left, "elaoms restore"] {
            assert!(printed.contains(said), "{left}: {printed}");
        }
        assert!(!path.exists(), "{left}");
        fs::remove_file(service.path(left)).unwrap();
        fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test]
async fn a_crash_is_no_damage() {
    let mut service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER).caller("Hi, my name is Nora. I like roses.");
    service.end_call_and_settle(&said).await;
    service.crash_and_restart().await;
    service.wait_for_greeting(CALLER, AGENT, "Nora").await;
    // A database that no service uses is backed up as well, log included.
    service.kill().await;
    let printed = back_up(&service, &service.path("backup.db")).await;
    assert!(printed.contains("callers: 1"), "{printed}");
}

/// Root may write everywhere, so the program runs as nobody.
#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named_at_the_start() {
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let program = folder.path().join("elaoms");
    fs::copy(env!("CARGO_BIN_EXE_elaoms"), &program).unwrap();
    let is_root = folder.path().metadata().unwrap().uid() == 0;
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(folder.path(), 0o755);
    if is_root {
        chown(&data, Some(NOBODY), None).unwrap();
    }
    set_mode(&data, 0o555);
    let database = data.join("elaoms.db");
    let mut command = tokio::process::Command::new(&program);
    command
        .arg("serve")
        .env_clear()
        .env("DATABASE_URL", format!("sqlite://{}", database.display()))
        .envs(
            [
                "ELEVENLABS_CLIENT_DATA_KEY",
                "ELEVENLABS_SEARCH_DATA_KEY",
                "ELEVENLABS_POST_CALL_KEY",
            ]
            .map(|name| (name, "k")),
        )
        .envs(["BIND_ADDR", "OPS_ADDR"].map(|name| (name, "127.0.0.1:0")))
        .current_dir(folder.path())
        .kill_on_drop(true);
    if is_root {
        command.uid(NOBODY);
    }
    let output = timeout(SOON, command.output()).await.unwrap().unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    for said in [text(&database), "for writing", "ermission denied"] {
        assert!(printed.contains(said), "{printed}");
    }
    set_mode(&data, 0o755);
}
