//! A kill at each boundary on the way of a call: between what is done and the
//! note that it is done. A trigger in the database holds the call there.

use rusqlite::Connection;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, Service, until};

/// Where a call is held.
struct Boundary {
    /// When the database refuses a statement.
    refused: &'static str,
    /// What the log says then.
    phrase: &'static str,
    /// Requests to OpenAI for the call, with a kill in between.
    asked: usize,
}

const BOUNDARIES: [Boundary; 5] = [
    // Accepted, not learned.
    Boundary {
        refused: "BEFORE INSERT ON memories",
        phrase: "A post-call event is tried again later",
        asked: 1,
    },
    // Learned, and the ledger does not know.
    Boundary {
        refused: "BEFORE UPDATE OF stage ON inbox",
        phrase: "The inbox cannot be written; it is tried again",
        asked: 1,
    },
    // The greeting is paid for, and dies with the process.
    Boundary {
        refused: "BEFORE INSERT ON conversation_states WHEN NEW.next_greeting IS NOT NULL",
        phrase: "A greeting cannot be stored; it is tried again",
        asked: 2,
    },
    // The greeting is stored, and the ledger does not know.
    Boundary {
        refused: "BEFORE UPDATE OF state ON inbox WHEN NEW.state = 'done'",
        phrase: "The inbox cannot be written; it is tried again",
        asked: 1,
    },
    // The file is written, and the ledger does not know.
    Boundary {
        refused: "BEFORE UPDATE OF archived ON inbox",
        phrase: "The inbox cannot be written; events will be archived again",
        asked: 1,
    },
];

async fn held_at(boundary: &Boundary) -> (Service, Connection) {
    let service = Service::start().await;
    let database = Connection::open(service.path("elaoms.db")).unwrap();
    database
        .busy_timeout(std::time::Duration::from_secs(10))
        .unwrap();
    let trigger = format!(
        "CREATE TRIGGER held {} BEGIN SELECT RAISE(ABORT, 'held'); END",
        boundary.refused
    );
    database.execute_batch(&trigger).unwrap();
    let said = call("conv_1", AGENT, CALLER).caller("I like roses.");
    service.end_call(&said).await;
    service.wait_for_log(boundary.phrase).await;
    (service, database)
}

async fn check(service: &Service, boundary: &Boundary, asked: usize) {
    service.settle().await;
    service.wait_for_greeting(CALLER, AGENT, "roses").await;
    let counted = |sql: &str| service.query(sql);
    let place = boundary.refused;
    assert_eq!(
        counted("SELECT total_interactions FROM callers"),
        1,
        "{place}"
    );
    assert_eq!(counted("SELECT count(*) FROM memories"), 1, "{place}");
    assert_eq!(
        counted("SELECT count(*) FROM inbox WHERE state <> 'done'"),
        0,
        "{place}"
    );
    until("the archive", async || {
        counted("SELECT count(*) FROM inbox WHERE archived AND payload IS NULL") == 1
    })
    .await;
    let file = service.path("payloads/conv_1/conv_1_transcription.json");
    assert!(
        std::fs::read_to_string(file)
            .unwrap()
            .contains("I like roses.")
    );
    assert_eq!(service.upstream.asked(), asked, "{place}");
}

#[tokio::test]
async fn a_kill_at_any_boundary_loses_and_doubles_nothing() {
    for boundary in &BOUNDARIES {
        let (mut service, database) = held_at(boundary).await;
        if boundary.refused.contains("archived") {
            // Nothing holds the greeting, which may be under way beside it.
            service.wait_for_log("Stored agent-specific state").await;
        }
        service.kill().await;
        database.execute_batch("DROP TRIGGER held").unwrap();
        service.respawn().await;
        check(&service, boundary, boundary.asked).await;
    }
}

#[tokio::test]
async fn work_that_is_done_waits_for_its_note_and_is_not_repeated() {
    for boundary in &BOUNDARIES {
        let (service, database) = held_at(boundary).await;
        database.execute_batch("DROP TRIGGER held").unwrap();
        check(&service, boundary, 1).await;
    }
}
