//! LoCoMo (Maharana et al., 2024): ten long conversations, each speaker a caller.

use std::collections::BTreeMap;

use elaoms::domain::search::{Query, ROOM};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;

use crate::calls;
use crate::meaning::Meaning;

const FIRST: usize = 10;

#[derive(Deserialize)]
struct Data {
    callers: Vec<Caller>,
}

#[derive(Deserialize)]
struct Caller {
    /// When, and the turns with whether they are this caller's.
    sessions: Vec<(String, Vec<(Value, String)>)>,
    /// Question, the turns that answer, category.
    questions: Vec<(String, Vec<String>, Value)>,
}

pub fn measure(meaning: Option<&Meaning>) {
    let Ok(path) = std::env::var("LOCOMO") else {
        println!("\nLoCoMo: left out, LOCOMO names no file");
        return;
    };
    let text = std::fs::read_to_string(&path).expect("LOCOMO names a readable file");
    let data: Data = serde_json::from_str(&text).expect("LOCOMO is the prepared file");
    let mut categories: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    let agent = calls::agent();
    let mut chars = 0;
    for caller in &data.callers {
        let mut started = 1_672_531_200;
        let sessions: Vec<(i64, Value)> = caller
            .sessions
            .iter()
            .map(|(when, turns)| {
                started = seconds(when).unwrap_or(started + 86_400);
                let turns = turns.iter().map(|(mine, text)| {
                    let is_callers = mine.as_bool().unwrap_or(mine == &Value::from(1));
                    calls::turn(is_callers, text)
                });
                (started, turns.collect())
            })
            .collect();
        let index = calls::index_of(&sessions, None, meaning);
        for (text, evidence, category) in &caller.questions {
            let now = Timestamp::from_second(1_764_000_000).expect("a time");
            let vector = meaning.map(|meaning| meaning.of_question(text));
            let query = Query {
                vector: vector.as_ref(),
                text,
                agent: &agent,
                now,
            };
            let hits = index.search(&query);
            let mut left = ROOM;
            let read: Vec<String> = hits
                .iter()
                .take(FIRST)
                .map(|hit| {
                    chars += hit.content.chars().count();
                    let part: String = hit.content.chars().take(left).collect();
                    left -= part.chars().count();
                    part
                })
                .collect();
            let found = evidence
                .iter()
                .filter(|e| read.iter().any(|r| r.contains(*e)))
                .count();
            let sum = categories.entry(category.to_string()).or_default();
            sum.0 += found as f64 / evidence.len() as f64;
            sum.1 += 1;
        }
    }
    let (sum, count) = categories
        .values()
        .fold((0.0, 0), |(s, c), (a, b)| (s + a, c + b));
    let how = if meaning.is_some() {
        "words and meaning"
    } else {
        "words"
    };
    println!("\nLoCoMo, {how}: recall@{FIRST} within {ROOM} characters");
    for (category, (sum, count)) in &categories {
        println!(
            "| category {category} | {count} | {:.3} |",
            sum / *count as f64
        );
    }
    println!(
        "| all | {count} | {:.4} | {} characters an answer",
        sum / count as f64,
        chars / count
    );
}

/// "1:56 pm on 8 May, 2023", in UTC.
fn seconds(when: &str) -> Option<i64> {
    let time = DateTime::strptime("%I:%M %p on %d %B, %Y", when.trim()).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}
