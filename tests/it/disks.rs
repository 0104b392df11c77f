//! A disk that is full, and an archive that takes nothing: nothing that was
//! acknowledged is lost, and nothing else stands still.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, OTHER_CALLER, Service, until};

/// A small disk of its own, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where nothing can be mounted, as in most containers.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|done| done.status.success()) {
            return Some(Self(folder));
        }
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: a full disk needs mount, which only root may, outside of most containers"
        );
        None
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Takes all the room there is.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    for size in [64 * 1024, 4 * 1024, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_events_and_loses_none() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let database = format!("sqlite://{}", disk.path("elaoms.db"));
    let service = Service::start_with(&[
        ("DATABASE_URL", &database),
        ("PAYLOAD_STORAGE_PATH", &disk.path("payloads")),
    ])
    .await;
    let query = |sql: &str| -> i64 {
        let database = rusqlite::Connection::open(disk.path("elaoms.db")).unwrap();
        database.busy_timeout(crate::service::SOON).unwrap();
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let settled = async || {
        until("an empty inbox", async || {
            query("SELECT count(*) FROM inbox WHERE state IN ('queued', 'ready') OR archived = 0")
                == 0
        })
        .await;
    };
    let known = call("conv_known", AGENT, CALLER).caller("I like roses.");
    service.end_call(&known).await;
    settled().await;

    let ballast = disk.path("ballast");
    fill(Path::new(&ballast));
    let large = |i: usize| {
        call(&format!("conv_{i}"), AGENT, OTHER_CALLER)
            .caller(&"And so on. ".repeat(300))
            .caller(&format!("Call {i} of many."))
            .later(i64::try_from(i).unwrap() * 60)
    };
    let (mut acknowledged, mut refused) = (0, 0);
    let mut i = 0;
    // The log of the database may have some room in its last page.
    while refused < 3 {
        assert!(i < 100, "a full disk refuses nothing");
        let answer = service.post_call(large(i).body()).send().await.unwrap();
        match answer.status().as_u16() {
            200 => acknowledged += 1,
            503 => refused += 1,
            status => panic!("an event is answered {status}"),
        }
        i += 1;
    }
    let greeting = service.greeting(CALLER, AGENT).await.unwrap_or_default();
    assert!(greeting.contains("roses"), "{greeting}");
    let ready = service.http.get(format!("{}/health/ready", service.ops));
    assert_eq!(ready.send().await.unwrap().status(), 503);

    std::fs::remove_file(&ballast).unwrap();
    // ElevenLabs sends everything again.
    for again in 0..i {
        service.end_call(&large(again)).await;
    }
    settled().await;
    let sql = format!("SELECT total_interactions FROM callers WHERE caller = '{OTHER_CALLER}'");
    assert_eq!(query(&sql), i64::try_from(i).unwrap(), "{acknowledged}");
    let sql = format!("SELECT count(*) FROM memories WHERE caller = '{OTHER_CALLER}'");
    assert_eq!(query(&sql), i64::try_from(2 * i).unwrap());
    let words = format!("Call {} of many.", i - 1);
    service.wait_for_greeting(OTHER_CALLER, AGENT, &words).await;
    let ready = service.http.get(format!("{}/health/ready", service.ops));
    assert_eq!(ready.send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_takes_nothing_is_made_up_for() {
    let service = Service::start().await;
    // For root, too, a file is no folder.
    let (archive, away) = (service.path("payloads"), service.path("away"));
    std::fs::rename(&archive, &away).unwrap();
    std::fs::write(&archive, "").unwrap();
    let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
    service.end_call(&said).await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    service
        .wait_for_log("A post-call event cannot be archived")
        .await;
    assert_eq!(
        service.query("SELECT count(*) FROM inbox WHERE archived"),
        0
    );
    let ready = service.http.get(format!("{}/health/ready", service.ops));
    assert_eq!(ready.send().await.unwrap().status(), 503);

    std::fs::remove_file(&archive).unwrap();
    std::fs::rename(&away, &archive).unwrap();
    until("the event to be archived", async || {
        service.query("SELECT count(*) FROM inbox WHERE archived AND payload IS NULL") == 1
    })
    .await;
    let file = service.path("payloads/conv_1/conv_1_transcription.json");
    assert_eq!(std::fs::read(file).unwrap(), said.body());
    let ready = service.http.get(format!("{}/health/ready", service.ops));
    assert_eq!(ready.send().await.unwrap().status(), 200);
}
