//! Questions about calls in ten languages.

use elaoms::domain::call_event::{self, CallEvent};
use elaoms::domain::caller_rules::CallerRules;
use elaoms::domain::ids::AgentId;
use elaoms::domain::memory::{self, Memory};
use elaoms::domain::search::{Index, Query};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::meaning::Meaning;

/// Memories of an answer among which the right one must be.
const FIRST: usize = 3;

/// Written for the measurement: the one while the search was built, the other
/// by somebody else, to see whether it holds.
const SETS: [(&str, &str); 2] = [
    ("development", include_str!("data/calls_a.json")),
    ("check", include_str!("data/calls_b.json")),
];

#[derive(Deserialize)]
struct Sets {
    sets: Vec<Set>,
}

#[derive(Deserialize)]
struct Set {
    language: String,
    calls: Vec<Call>,
    questions: Vec<Question>,
}

#[derive(Deserialize)]
struct Call {
    date: String,
    turns: Vec<(u8, String)>,
}

#[derive(Deserialize)]
struct Question {
    q: String,
    evidence: String,
    kind: String,
}

pub fn agent() -> AgentId {
    AgentId::parse("agent").expect("a good id")
}

/// The memories of a call, as they are learned from its webhook.
pub fn memories(id: &str, started: i64, language: Option<&str>, turns: Value) -> Vec<Memory> {
    let body = json!({"type": "post_call_transcription", "data": {
        "agent_id": "agent", "conversation_id": id, "transcript": turns,
        "metadata": {"start_time_unix_secs": started, "main_language": language},
    }});
    let rules = CallerRules::default();
    match call_event::parse(body.to_string().as_bytes(), Timestamp::now(), &rules) {
        Ok(CallEvent::Transcription(call)) => memory::of_call(&call, &agent()),
        _ => panic!("no transcript in {id}"),
    }
}

pub fn index_of(
    calls: &[(i64, Value)],
    language: Option<&str>,
    meaning: Option<&Meaning>,
) -> Index {
    let calls = calls.iter().enumerate();
    let all: Vec<Memory> = calls
        .flat_map(|(i, (started, turns))| {
            memories(&format!("conv_{i}"), *started, language, turns.clone())
        })
        .collect();
    let vectors = meaning.map(|meaning| meaning.of_memories(&all));
    let mut index = Index::new(all);
    index.attach(vectors.unwrap_or_default());
    index
}

pub fn turn(is_callers: bool, text: &str) -> Value {
    json!({"role": if is_callers { "user" } else { "agent" }, "message": text})
}

pub fn measure(meaning: Option<&Meaning>, verbose: bool) {
    for (name, text) in SETS {
        let sets: Sets = serde_json::from_str(text).expect("good data");
        let how = if meaning.is_some() {
            "words and meaning"
        } else {
            "words"
        };
        println!("\nquestions about calls, {name} set, {how}: found among the first {FIRST}");
        println!("| language | questions | language told | language detected |");
        println!("|---|---|---|---|");
        let mut sums = [0.0; 2];
        let mut questions = 0;
        for set in &sets.sets {
            let told = set.found(Some(&set.language), meaning, verbose);
            let detected = set.found(None, meaning, false);
            let count = set.questions.len();
            println!(
                "| {} | {count} | {:.2} | {:.2} |",
                set.language,
                share(told, count),
                share(detected, count)
            );
            sums[0] += told as f64;
            sums[1] += detected as f64;
            questions += count;
        }
        let all = questions as f64;
        println!(
            "| all | {questions} | {:.3} | {:.3} |",
            sums[0] / all,
            sums[1] / all
        );
    }
}

fn share(found: usize, of: usize) -> f64 {
    found as f64 / of as f64
}

impl Set {
    fn found(&self, language: Option<&str>, meaning: Option<&Meaning>, verbose: bool) -> usize {
        let calls: Vec<(i64, Value)> = self
            .calls
            .iter()
            .map(|call| {
                let at: Timestamp = format!("{}T10:00:00Z", call.date).parse().expect("a date");
                let turns = call.turns.iter().map(|(who, text)| turn(*who == 1, text));
                (at.as_second(), turns.collect())
            })
            .collect();
        let index = index_of(&calls, language, meaning);
        let agent = agent();
        let is_found = |question: &&Question| {
            let vector = meaning.map(|meaning| meaning.of_question(&question.q));
            let query = Query {
                vector: vector.as_ref(),
                text: &question.q,
                agent: &agent,
                now: "2025-12-15T09:00:00Z".parse().expect("a time"),
            };
            let hits = index.search(&query);
            let found = hits
                .iter()
                .take(FIRST)
                .any(|hit| hit.content.contains(&question.evidence));
            if verbose && !found {
                println!("  {} {}: {}", self.language, question.kind, question.q);
                println!("      wanted {}", question.evidence);
                for hit in hits.iter().take(FIRST) {
                    println!("      got    {}", hit.content.replace('\n', " / "));
                }
            }
            found
        };
        self.questions.iter().filter(is_found).count()
    }
}
