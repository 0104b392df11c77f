//! Group commit: events that come together are taken in one transaction, with
//! one statement for all of them.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use sqlx::Row;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::connections::{Connections, Transaction};
use super::rows::millis;
use super::{lock_callers, slot};
use crate::domain::caller_id::CallerId;
use crate::domain::ids::AgentId;
use crate::store::{Accepted, EventId, NewEvent, Result, StoreError, call_mark};

/// Events that may wait.
const QUEUE: usize = 1_024;
/// Most events in one transaction.
const MAX_EVENTS: usize = 256;
/// Most bytes of bodies in one transaction, but for a single event.
const MAX_BYTES: usize = 8 << 20;
/// Transactions at a time: while one waits for the disk, the next is made.
pub(super) const WRITERS: usize = 4;
/// Tries of a batch that another instance's got in the way of.
const TRIES: usize = 3;

/// Who waits for what becomes of an event.
type Reply = oneshot::Sender<Result<Accepted>>;

/// An event, and who waits for it.
struct Waiting {
    event: NewEvent,
    reply: Reply,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(super) struct Acceptor {
    queue: mpsc::Sender<Waiting>,
    connections: Connections,
}

impl Acceptor {
    pub fn start(pool: Connections) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..WRITERS {
            let (pool, waiting) = (pool.clone(), Arc::clone(&waiting));
            tokio::spawn(async move {
                loop {
                    // Whoever holds the queue takes a batch, and lets go.
                    let batch = next_batch(&mut *waiting.lock().await).await;
                    if batch.is_empty() {
                        return;
                    }
                    take(&pool, batch).await;
                }
            });
        }
        Self {
            queue,
            connections: pool,
        }
    }

    pub async fn close(&self) {
        self.connections.close().await;
    }

    /// Takes an event. When this returns it is durable.
    pub async fn accept(&self, event: NewEvent) -> Result<Accepted> {
        let (reply, accepted) = oneshot::channel();
        let gone = |_| StoreError::Unavailable("the database is being closed".into());
        let sent = self.queue.send(Waiting { event, reply }).await;
        sent.map_err(|_| gone(()))?;
        accepted.await.unwrap_or_else(|_| Err(gone(())))
    }
}

/// What waits, up to a limit; empty when nobody sends any more.
async fn next_batch(waiting: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let Some(first) = waiting.recv().await else {
        return Vec::new();
    };
    let mut bytes = first.event.payload.len();
    let mut batch = vec![first];
    while batch.len() < MAX_EVENTS && bytes < MAX_BYTES {
        let Ok(next) = waiting.try_recv() else {
            break;
        };
        bytes += next.event.payload.len();
        batch.push(next);
    }
    batch
}

async fn take(pool: &Connections, batch: Vec<Waiting>) {
    let (events, replies): (Vec<NewEvent>, Vec<_>) =
        batch.into_iter().map(|w| (w.event, w.reply)).unzip();
    take_all(pool, &events, replies).await;
}

async fn take_all(pool: &Connections, events: &[NewEvent], mut replies: Vec<Reply>) {
    match try_all(pool, events).await {
        Ok(accepted) => {
            for (reply, accepted) in replies.into_iter().zip(accepted) {
                let _ = reply.send(Ok(accepted));
            }
        }
        Err(Trouble::OfAnEvent(_)) if events.len() > 1 => {
            let middle = events.len() / 2;
            let second = replies.split_off(middle);
            Box::pin(take_all(pool, &events[..middle], replies)).await;
            Box::pin(take_all(pool, &events[middle..], second)).await;
        }
        Err(Trouble::OfAnEvent(error) | Trouble::OfAll(error)) => {
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

fn another() -> StoreError {
    StoreError::Unavailable("another instance took the same event".into())
}

/// Why a batch was not taken.
enum Trouble {
    /// One of the events is to blame, and not the others.
    OfAnEvent(StoreError),
    /// The database is.
    OfAll(StoreError),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        // Classes of SQLSTATE: data exception, integrity constraint violation,
        // rollback after a deadlock, program limit exceeded, a lock of one caller
        // that does not come.
        let of_an_event = error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| {
                ["22", "23", "40", "54", "55"]
                    .iter()
                    .any(|class| code.starts_with(class))
            });
        if of_an_event {
            Self::OfAnEvent(error.into())
        } else {
            Self::OfAll(error.into())
        }
    }
}

async fn try_all(
    pool: &Connections,
    events: &[NewEvent],
) -> std::result::Result<Vec<Accepted>, Trouble> {
    for _ in 0..TRIES {
        // Otherwise another batch had one of the events, which is seen next time.
        if let Some(accepted) = accept_all(pool, events).await? {
            return Ok(accepted);
        }
    }
    Err(Trouble::OfAnEvent(another()))
}

/// What is there already of a batch.
#[derive(Default)]
struct Known {
    /// Events that were taken before, by their keys.
    events: FxHashSet<String>,
    /// Marks of calls that were erased.
    erased: FxHashSet<String>,
    /// Callers of whom nothing is kept.
    opted_out: FxHashSet<String>,
    /// Callers with a call that is not learned yet.
    learning: FxHashSet<String>,
}

/// `None` if one of the events came in under our hands.
async fn accept_all(
    pool: &Connections,
    events: &[NewEvent],
) -> std::result::Result<Option<Vec<Accepted>>, Trouble> {
    let mut transaction = pool.begin().await?;
    let db = &mut transaction;
    let keys: Vec<String> = events.iter().map(|e| e.key.unique()).collect();
    let callers: Vec<&str> = events
        .iter()
        .filter_map(|e| e.caller.as_ref().map(CallerId::as_str))
        .collect();
    lock_callers(db, &callers).await?;
    let mut known = look(db, &keys, events, &callers).await?;

    let mut accepted = Vec::with_capacity(events.len());
    let mut rows = Rows::default();
    for (event, key) in events.iter().zip(&keys) {
        let caller = event.caller.as_ref().map(CallerId::as_str);
        let is_known = known.events.contains(key)
            || known
                .erased
                .contains(&call_mark(&event.key.conversation_id));
        accepted.push(if is_known {
            Accepted::Duplicate
        } else if caller.is_some_and(|caller| known.opted_out.contains(caller)) {
            Accepted::Unwanted
        } else {
            known.events.insert(key.clone());
            let is_first = caller.is_none_or(|caller| known.learning.insert(caller.to_owned()));
            rows.push(event, key, is_first);
            // Its number follows.
            Accepted::New(EventId(0))
        });
    }
    let ids = rows.insert(db).await?;
    for (accepted, key) in accepted.iter_mut().zip(&keys) {
        if let Accepted::New(id) = accepted {
            let Some(new) = ids.get(key) else {
                return Ok(None);
            };
            id.0 = *new;
        }
    }
    transaction.commit().await?;
    Ok(Some(accepted))
}

async fn look(
    db: &mut Transaction,
    keys: &[String],
    events: &[NewEvent],
    callers: &[&str],
) -> sqlx::Result<Known> {
    let marks: Vec<String> = events
        .iter()
        .map(|e| call_mark(&e.key.conversation_id))
        .collect();
    let rows = sqlx::query(
        "SELECT 'event' AS what, event_key AS id FROM inbox WHERE event_key = ANY($1)
         UNION ALL SELECT 'erased', mark FROM erased_calls WHERE mark = ANY($2)
         UNION ALL SELECT 'opted out', c FROM unnest($3::text[]) AS c WHERE EXISTS (
             SELECT 1 FROM opted_out_callers o WHERE o.caller = c
                 OR o.caller = (SELECT l.caller FROM caller_links l WHERE l.alias = c))
         UNION ALL SELECT 'learning', c FROM unnest($3::text[]) AS c WHERE EXISTS (
             SELECT 1 FROM inbox i WHERE i.caller = c AND i.stage = 'learn'
                 AND i.state IN ('queued', 'ready', 'running'))",
    )
    .bind(keys)
    .bind(marks)
    .bind(callers)
    .fetch_all(db)
    .await?;
    let mut known = Known::default();
    for row in rows {
        let (what, id): (&str, String) = (row.try_get("what")?, row.try_get("id")?);
        match what {
            "event" => known.events.insert(id),
            "erased" => known.erased.insert(id),
            "opted out" => known.opted_out.insert(id),
            _ => known.learning.insert(id),
        };
    }
    Ok(known)
}

/// The columns of the rows to be inserted.
#[derive(Default)]
struct Rows<'a> {
    keys: Vec<&'a str>,
    kinds: Vec<&'static str>,
    conversations: Vec<&'a str>,
    agents: Vec<Option<&'a str>>,
    callers: Vec<Option<&'a str>>,
    started_at: Vec<i64>,
    greeting_wanted: Vec<bool>,
    stages: Vec<&'static str>,
    states: Vec<&'static str>,
    received_at: Vec<i64>,
    payloads: Vec<&'a [u8]>,
    slots: Vec<Option<i32>>,
    traces: Vec<Option<String>>,
}

impl<'a> Rows<'a> {
    /// Of the events of one caller that are to be learned, the first is ready.
    fn push(&mut self, event: &'a NewEvent, key: &'a str, is_first: bool) {
        let has_caller = event.caller.is_some();
        self.keys.push(key);
        self.kinds.push(event.key.kind.as_str());
        self.conversations.push(event.key.conversation_id.as_str());
        self.agents
            .push(event.key.agent_id.as_ref().map(AgentId::as_str));
        self.callers
            .push(event.caller.as_ref().map(CallerId::as_str));
        self.started_at.push(millis(event.started_at));
        self.greeting_wanted.push(event.greeting_wanted);
        // Without a caller there is nothing to learn.
        self.stages
            .push(if has_caller { "learn" } else { "archive" });
        self.states.push(match (has_caller, is_first) {
            (false, _) => "done",
            (true, true) => "ready",
            (true, false) => "queued",
        });
        self.received_at.push(millis(event.received_at));
        self.payloads.push(&event.payload);
        self.traces.push(event.trace.map(|trace| trace.to_string()));
        let caller = event.caller.as_ref();
        self.slots.push(caller.map(|caller| slot(caller.as_str())));
    }

    /// The number of each row that was inserted, with its key.
    async fn insert(self, db: &mut Transaction) -> sqlx::Result<FxHashMap<String, i64>> {
        if self.keys.is_empty() {
            return Ok(FxHashMap::default());
        }
        // In this order, so that numbers grow with arrival.
        let inserted: Vec<(String, i64)> = sqlx::query_as(
            concat!("INSERT INTO inbox (event_key, kind, conversation_id, agent, caller, slot, started_at,
                 greeting_wanted, stage, state, run_at, received_at, payload, trace)
             SELECT event_key, kind, conversation_id, agent, caller, slot, started_at, greeting_wanted, stage, state,
                 -- The clock of an instance that is fast delays nothing.
                 least(received_at, ", clock!(), "), received_at, payload, trace
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bool[],
                 $8::text[], $9::text[], $10::bigint[], $11::bytea[], $12::int[], $13::text[]) WITH ORDINALITY
                 AS e (event_key, kind, conversation_id, agent, caller, started_at, greeting_wanted, stage, state,
                     received_at, payload, slot, trace, place)
             ORDER BY place
             ON CONFLICT (event_key) DO NOTHING
             RETURNING event_key, id"),
        )
        .bind(self.keys)
        .bind(self.kinds)
        .bind(self.conversations)
        .bind(self.agents)
        .bind(self.callers)
        .bind(self.started_at)
        .bind(self.greeting_wanted)
        .bind(self.stages)
        .bind(self.states)
        .bind(self.received_at)
        .bind(self.payloads)
        .bind(self.slots)
        .bind(self.traces)
        .fetch_all(db)
        .await?;
        Ok(inserted.into_iter().collect())
    }
}
