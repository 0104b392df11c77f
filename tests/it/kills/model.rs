//! What is sent, what came of it, and what has to be in the stores for that.
//!
//! Times are those of one clock that counts what happens on the sender's side:
//! of two calls that overlap, either may have come first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::RngExt;
use rand::rngs::StdRng;
use rusqlite::Connection;
use serde_json::json;

use crate::payloads::call;
use crate::service::{AGENT, OTHER_AGENT};

/// How a call is delivered.
#[derive(Clone, Copy, PartialEq)]
pub enum Delivery {
    /// Until it is acknowledged.
    Once,
    /// Two at a time until one is acknowledged.
    Twice,
    /// Tried once: without an answer nobody knows what became of it.
    GivenUp,
}

/// A call that will be made.
pub struct Planned {
    pub caller: String,
    pub agent: &'static str,
    pub delivery: Delivery,
    conversation: String,
    started_at: i64,
    turns: Vec<String>,
    fact: Option<String>,
}

impl Planned {
    /// The body of its event, always the same.
    pub fn body(&self) -> Vec<u8> {
        let start = json!(self.started_at);
        let mut body = call(&self.conversation, self.agent, &self.caller)
            .with("/data/metadata/start_time_unix_secs", start);
        for turn in &self.turns {
            body = body.agent("And then?").caller(turn);
        }
        if let Some(fact) = &self.fact {
            body = body.fact("order", fact.clone().into());
        }
        body.body()
    }

    fn memories(&self) -> usize {
        self.turns.len() + usize::from(self.fact.is_some())
    }
}

/// Something to do, in this order.
#[derive(Clone, Copy)]
pub enum Work {
    Send(usize),
    /// The same body once more, if it was acknowledged.
    Again(usize),
    /// Erase the caller of this call.
    Erase(usize),
}

/// Calls of so many callers, several of one caller in a row, with redeliveries
/// and erasures in between.
pub fn plan(rng: &mut StdRng, events: usize, callers: usize) -> (Vec<Planned>, Vec<Work>) {
    let now = jiff::Timestamp::now().as_second();
    let mut calls = Vec::new();
    let mut work = Vec::new();
    while calls.len() < events {
        let caller = format!("+1612{:07}", 2_000_000 + rng.random_range(0..callers));
        for _ in 0..rng.random_range(1..=4) {
            let i = calls.len();
            if i == events {
                break;
            }
            let turns = rng.random_range(1..=3);
            calls.push(Planned {
                caller: caller.clone(),
                agent: if rng.random_bool(0.6) {
                    AGENT
                } else {
                    OTHER_AGENT
                },
                delivery: match rng.random_range(0..20) {
                    0 | 1 => Delivery::GivenUp,
                    2..=5 => Delivery::Twice,
                    _ => Delivery::Once,
                },
                conversation: format!("conv_{i}"),
                started_at: now - rng.random_range(60..86_400),
                turns: (1..=turns)
                    .map(|turn| format!("Turn {turn} speaks of flower {i} today."))
                    .collect(),
                fact: rng.random_bool(0.3).then(|| format!("bouquet {i}")),
            });
            work.push(Work::Send(i));
            if rng.random_bool(0.01) {
                work.push(Work::Erase(i));
            }
            if i > 40 && rng.random_bool(0.1) {
                work.push(Work::Again(i - rng.random_range(1..=40)));
            }
        }
    }
    (calls, work)
}

/// What became of a call, as its sender knows.
#[derive(Clone, Copy, Default)]
struct Sent {
    begun: Option<u64>,
    acknowledged: Option<u64>,
}

/// From the first request to the receipt.
struct Erased {
    begun: u64,
    receipt: u64,
}

/// All that senders know.
#[derive(Default)]
pub struct History {
    clock: AtomicU64,
    sent: Mutex<HashMap<usize, Sent>>,
    erased: Mutex<HashMap<String, Vec<Erased>>>,
}

impl History {
    pub fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub fn begin(&self, call: usize) {
        let now = self.now();
        let mut sent = self.sent.lock().unwrap();
        sent.entry(call).or_default().begun.get_or_insert(now);
    }

    pub fn acknowledge(&self, call: usize) {
        let mut sent = self.sent.lock().unwrap();
        let now = self.now();
        sent.entry(call)
            .or_default()
            .acknowledged
            .get_or_insert(now);
    }

    pub fn is_acknowledged(&self, call: usize) -> bool {
        let sent = self.sent.lock().unwrap();
        sent.get(&call).is_some_and(|s| s.acknowledged.is_some())
    }

    pub fn acknowledged(&self) -> usize {
        let sent = self.sent.lock().unwrap();
        sent.values().filter(|s| s.acknowledged.is_some()).count()
    }

    /// A caller was erased; `begun` is when it was first asked for.
    pub fn erase(&self, caller: &str, begun: u64) {
        let receipt = self.now();
        let mut erased = self.erased.lock().unwrap();
        let erasures = erased.entry(caller.to_owned()).or_default();
        erasures.push(Erased { begun, receipt });
    }

    pub fn erasures(&self) -> usize {
        self.erased.lock().unwrap().values().map(Vec::len).sum()
    }
}

/// What has to be there of a call.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    There,
    Gone,
    /// Nobody could know; but all of it or nothing.
    Either,
}

fn fate(sent: Sent, erased: &[Erased]) -> Fate {
    let Some(begun) = sent.begun else {
        return Fate::Gone;
    };
    match sent.acknowledged {
        Some(at) if erased.iter().any(|e| at < e.begun) => Fate::Gone,
        Some(_) if erased.iter().all(|e| e.receipt < begun) => Fate::There,
        _ => Fate::Either,
    }
}

/// What differs from the model.
#[derive(Default)]
pub struct Verdict {
    pub lost: Vec<String>,
    pub doubled: Vec<String>,
    pub disordered: Vec<String>,
    /// Of callers who were erased.
    pub remains: Vec<String>,
    /// Half of something.
    pub torn: Vec<String>,
    pub calls: usize,
    pub memories: usize,
    pub greetings: usize,
    /// Of unknown outcome, and there.
    pub unknown_stored: usize,
}

impl Verdict {
    pub fn all(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("out of order", &self.disordered),
            ("left of erased callers", &self.remains),
            ("torn", &self.torn),
        ]
    }
}

/// What the database holds.
struct Stored {
    /// By conversation: place in the inbox, caller, agent.
    inbox: HashMap<String, (i64, String, String)>,
    unfinished: Vec<String>,
    /// By conversation: caller, agent.
    learned: HashMap<String, (String, String)>,
    /// By caller.
    totals: HashMap<String, i64>,
    /// By caller and agent: calls, greeting.
    states: HashMap<(String, String), (i64, Option<String>)>,
    /// Of each caller in the order of learning: conversation, ordinal, content.
    memories: HashMap<String, Vec<(String, i64, String)>>,
}

impl Stored {
    fn read(database: &Connection) -> rusqlite::Result<Self> {
        let mut stored = Self {
            inbox: HashMap::new(),
            unfinished: Vec::new(),
            learned: HashMap::new(),
            totals: HashMap::new(),
            states: HashMap::new(),
            memories: HashMap::new(),
        };
        let mut inbox = database.prepare(
            "SELECT conversation_id, id, caller, agent, state, archived, payload IS NULL AS dropped
             FROM inbox WHERE conversation_id LIKE 'conv_%'",
        )?;
        let mut rows = inbox.query([])?;
        while let Some(row) = rows.next()? {
            let conversation: String = row.get(0)?;
            let (state, archived, dropped): (String, bool, bool) =
                (row.get(4)?, row.get(5)?, row.get(6)?);
            if state != "done" || !archived || !dropped {
                let how = format!("{conversation}: {state}, archived: {archived}");
                stored.unfinished.push(how);
            }
            let at = (row.get(1)?, row.get(2)?, row.get(3)?);
            stored.inbox.insert(conversation, at);
        }
        let mut learned =
            database.prepare("SELECT conversation_id, caller, agent FROM learned_calls")?;
        let mut rows = learned.query([])?;
        while let Some(row) = rows.next()? {
            let at = (row.get(1)?, row.get(2)?);
            stored.learned.insert(row.get(0)?, at);
        }
        let mut callers = database.prepare("SELECT caller, total_interactions FROM callers")?;
        let mut rows = callers.query([])?;
        while let Some(row) = rows.next()? {
            stored.totals.insert(row.get(0)?, row.get(1)?);
        }
        let mut states = database.prepare(
            "SELECT caller, agent, conversation_count, next_greeting FROM conversation_states",
        )?;
        let mut rows = states.query([])?;
        while let Some(row) = rows.next()? {
            let at = (row.get(0)?, row.get(1)?);
            stored.states.insert(at, (row.get(2)?, row.get(3)?));
        }
        let mut memories = database.prepare(
            "SELECT caller, conversation_id, ordinal, content FROM memories ORDER BY id",
        )?;
        let mut rows = memories.query([])?;
        while let Some(row) = rows.next()? {
            let of_caller = stored.memories.entry(row.get(0)?).or_default();
            of_caller.push((row.get(1)?, row.get(2)?, row.get(3)?));
        }
        Ok(stored)
    }
}

/// Compares the stores with what the senders know.
pub fn check(calls: &[Planned], history: &History, database: &Path, archive: &Path) -> Verdict {
    let database = Connection::open(database).unwrap();
    let stored = Stored::read(&database).unwrap();
    let mut verdict = Verdict::default();
    verdict.lost.extend(stored.unfinished.iter().cloned());
    let sent = history.sent.lock().unwrap();
    let erased = history.erased.lock().unwrap();
    let mut of_callers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, planned) in calls.iter().enumerate() {
        let sent = sent.get(&i).copied().unwrap_or_default();
        let erasures = erased.get(&planned.caller).map_or(&[][..], Vec::as_slice);
        let fate = fate(sent, erasures);
        if check_call(planned, fate, &stored, archive, &mut verdict) {
            of_callers.entry(&planned.caller).or_default().push(i);
            verdict.unknown_stored += usize::from(sent.acknowledged.is_none());
        }
    }
    for (caller, there) in &of_callers {
        check_caller(caller, there, calls, &sent, &stored, &mut verdict);
    }
    for caller in calls.iter().map(|c| &c.caller).collect::<HashSet<_>>() {
        if !of_callers.contains_key(caller.as_str()) {
            let tiers = stored.totals.contains_key(caller);
            let states = stored.states.keys().any(|(of, _)| of == caller);
            if tiers || states || stored.memories.contains_key(caller) {
                verdict.remains.push(format!("tiers of {caller}"));
            }
        }
    }
    verdict
}

/// Whether the call is there; then all of it has to be.
fn check_call(
    planned: &Planned,
    fate: Fate,
    stored: &Stored,
    archive: &Path,
    verdict: &mut Verdict,
) -> bool {
    let id = &planned.conversation;
    let is_there = stored.inbox.contains_key(id);
    let learned = stored.learned.get(id);
    let memories = stored.memories.get(&planned.caller);
    let memories: Vec<_> = memories
        .into_iter()
        .flatten()
        .filter(|(conversation, ..)| conversation == id)
        .collect();
    let folder = archive.join(id);
    let file = std::fs::read(folder.join(format!("{id}_transcription.json")));
    if !is_there {
        let leavings = [
            ("learned", learned.is_some()),
            ("memories", !memories.is_empty()),
            ("files", folder.exists()),
        ];
        for (what, _) in leavings.iter().filter(|(_, left)| *left) {
            verdict.remains.push(format!("{what} of {id} ({fate:?})"));
        }
        if fate == Fate::There {
            verdict.lost.push(format!("{id} of {}", planned.caller));
        }
        return false;
    }
    if fate == Fate::Gone {
        verdict.remains.push(format!("{id} of {}", planned.caller));
    }
    let owner = (planned.caller.clone(), planned.agent.to_owned());
    if learned != Some(&owner) {
        verdict.lost.push(format!("{id} is not learned"));
    }
    if file.ok() != Some(planned.body()) {
        verdict.lost.push(format!("{id} is not archived"));
    }
    verdict.calls += 1;
    verdict.memories += memories.len();
    match memories.len().cmp(&planned.memories()) {
        std::cmp::Ordering::Less => verdict.torn.push(format!("{id}: too few memories")),
        std::cmp::Ordering::Greater => verdict.doubled.push(format!("memories of {id}")),
        std::cmp::Ordering::Equal => {}
    }
    for (at, (_, ordinal, _)) in memories.iter().enumerate() {
        if usize::try_from(*ordinal) != Ok(at) {
            verdict.disordered.push(format!("memories of {id}"));
        }
    }
    let said = planned.turns.iter().chain(&planned.fact);
    for text in said {
        let found = memories
            .iter()
            .filter(|(.., content)| content.contains(text));
        if found.count() != 1 {
            verdict.torn.push(format!("{id}: {text}"));
        }
    }
    true
}

fn check_caller(
    caller: &str,
    there: &[usize],
    calls: &[Planned],
    sent: &HashMap<usize, Sent>,
    stored: &Stored,
    verdict: &mut Verdict,
) {
    let count = |n: usize| i64::try_from(n).unwrap();
    let mut counted = |what: String, found: i64, expected: usize| match found.cmp(&count(expected))
    {
        std::cmp::Ordering::Less => verdict.lost.push(format!("{what}: {found} of {expected}")),
        std::cmp::Ordering::Greater => {
            verdict
                .doubled
                .push(format!("{what}: {found} of {expected}"));
        }
        std::cmp::Ordering::Equal => {}
    };
    let total = stored.totals.get(caller).copied().unwrap_or_default();
    counted(format!("calls of {caller}"), total, there.len());
    let place = |i: usize| stored.inbox[&calls[i].conversation].0;
    for agent in [AGENT, OTHER_AGENT] {
        let of_agent: Vec<usize> = there
            .iter()
            .copied()
            .filter(|i| calls[*i].agent == agent)
            .collect();
        let state = stored.states.get(&(caller.to_owned(), agent.to_owned()));
        let found = state.map_or(0, |(count, _)| *count);
        counted(
            format!("calls of {caller} with {agent}"),
            found,
            of_agent.len(),
        );
        let newest = of_agent
            .iter()
            .max_by_key(|i| (calls[**i].started_at, place(**i)));
        if let Some(newest) = newest {
            let words = calls[*newest].turns.last().unwrap();
            let greeting = state.and_then(|(_, greeting)| greeting.clone());
            if greeting.as_ref().is_some_and(|g| g.ends_with(words)) {
                verdict.greetings += 1;
            } else {
                let what = format!("greeting of {caller} by {agent}: {greeting:?}, not {words}");
                verdict.disordered.push(what);
            }
        }
    }
    // Taken in the order in which they were acknowledged, and learned so.
    let mut by_arrival = there.to_vec();
    by_arrival.sort_by_key(|i| place(*i));
    for (at, earlier) in by_arrival.iter().enumerate() {
        for later in &by_arrival[at + 1..] {
            let acknowledged = sent.get(later).and_then(|s| s.acknowledged);
            let begun = sent.get(earlier).and_then(|s| s.begun);
            if acknowledged.is_some() && acknowledged < begun {
                let what = format!("call {later} before call {earlier}");
                verdict
                    .disordered
                    .push(format!("inbox of {caller}: {what}"));
            }
        }
    }
    let mut learned: Vec<&str> = Vec::new();
    for (conversation, ..) in stored.memories.get(caller).into_iter().flatten() {
        if learned.last() != Some(&conversation.as_str()) {
            learned.push(conversation);
        }
    }
    let arrived: Vec<&str> = by_arrival
        .iter()
        .map(|i| calls[*i].conversation.as_str())
        .collect();
    if learned != arrived {
        let what = format!("learning of {caller}: {learned:?}, not {arrived:?}");
        verdict.disordered.push(what);
    }
}
