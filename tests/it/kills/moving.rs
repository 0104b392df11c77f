//! Copies between stores that are killed on the way, there and back: in the end
//! all is there as it was.

use std::path::Path;
use std::time::Duration;

use elaoms::clients::Generation;
use rand::RngExt;
use rand::rngs::StdRng;
use rusqlite::{Connection, OpenFlags};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::PATIENCE;
use crate::openmemory_stand_in::{KEY, OpenMemoryStandIn};
use crate::service::Service;

const TABLES: [&str; 3] = [
    "SELECT caller || ' ' || total_interactions || ' ' || first_seen FROM callers ORDER BY caller",
    "SELECT caller || ' ' || agent || ' ' || conversation_count || ' ' || last_call_date || ' '
         || ifnull(next_greeting, '') FROM conversation_states ORDER BY caller, agent",
    "SELECT caller || ' ' || conversation_id || ' ' || ordinal || ' ' || content FROM memories
     ORDER BY caller, conversation_id, ordinal",
];

/// The rows of all tiers and memories; `None` if there is no such database yet.
fn rows(database: &Path) -> Option<Vec<Vec<String>>> {
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    database.busy_timeout(Duration::from_secs(10)).ok()?;
    let table = |sql: &&str| -> rusqlite::Result<Vec<String>> {
        database
            .prepare(sql)?
            .query_map([], |row| row.get(0))?
            .collect()
    };
    TABLES.iter().map(|sql| table(sql).ok()).collect()
}

/// Kills a command once there is so much, or notices that it is through.
async fn kill_at(mut command: Child, portion: usize, mut there: impl FnMut() -> usize) -> bool {
    let end = Instant::now() + PATIENCE;
    while there() < portion {
        if command.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < end, "a copy takes too long");
        sleep(Duration::from_millis(1)).await;
    }
    let was_running = command.try_wait().unwrap().is_none();
    command.start_kill().unwrap();
    command.wait().await.unwrap();
    was_running
}

/// From SQLite to OpenMemory and back into an empty database. The service must
/// not be running. Returns how many kills hit.
pub async fn killed_copies(service: &mut Service, rng: &mut StdRng, kills: usize) -> usize {
    let source = rows(&service.path("elaoms.db")).unwrap();
    let all: usize = source.iter().map(Vec::len).sum();
    let server = OpenMemoryStandIn::start(Generation::First).await;
    service.set("OPENMEMORY_PORT", &server.url());
    service.set("OPENMEMORY_KEY", KEY);
    let mut hits = 0;
    let (there, back) = (kills / 2, kills - kills / 2);

    let copy = ["migrate", "--from", "sqlite", "--to", "openmemory"];
    for kill in 0..there {
        let portion = all * kill / there + rng.random_range(0..=all / there);
        let command = service.start_command(&copy);
        hits += usize::from(kill_at(command, portion, || server.len()).await);
    }
    let (status, text) = service.run(&copy).await;
    assert_eq!(status, 0, "{text}");
    let (status, text) = service.run(&copy).await;
    let same = format!("the same already: {}", source[0].len());
    assert!(status == 0 && text.contains(&same), "{text}");
    assert_eq!(server.len(), all, "a record is doubled or missing");

    let target = service.path("back.db");
    service.set("DATABASE_URL", &format!("sqlite://{}", target.display()));
    let copy = ["migrate", "--from", "openmemory", "--to", "sqlite"];
    for kill in 0..back {
        let portion = all * kill / back + rng.random_range(0..=all / back);
        let command = service.start_command(&copy);
        let there = || rows(&target).map_or(0, |rows| rows.iter().map(Vec::len).sum());
        hits += usize::from(kill_at(command, portion, there).await);
    }
    let (status, text) = service.run(&copy).await;
    assert_eq!(status, 0, "{text}");
    for (found, expected) in rows(&target).unwrap().iter().zip(&source) {
        assert!(found == expected, "a copy differs from what was copied");
    }
    hits
}
