//! How long a search takes.

use std::time::Instant;

use elaoms::domain::search::{Index, Query};
use jiff::Timestamp;
use serde_json::Value;

use crate::calls;

pub fn measure() {
    println!("\na search, in milliseconds, on one thread");
    println!("| memories | building | p50 | p99 |");
    println!("|---|---|---|---|");
    let agent = calls::agent();
    for count in [100, 1_000, 10_000] {
        let memories = (0..count / 10).flat_map(|call| {
            let turns: Vec<Value> = (0..10)
                .flat_map(|turn| {
                    let asked = format!("And what about number {}?", (call * 7 + turn) % 97);
                    [
                        calls::turn(false, &asked),
                        calls::turn(true, &sentence(call * 10 + turn)),
                    ]
                })
                .collect();
            let at = 1_700_000_000 + call as i64 * 86_400;
            calls::memories(&format!("conv_{call}"), at, Some("en"), turns.into())
        });
        let memories: Vec<_> = memories.collect();
        let started = Instant::now();
        let index = Index::new(memories);
        let building = started.elapsed();
        let mut times: Vec<f64> = (0..500)
            .map(|i| {
                let text = format!("when did {}", sentence(i * 13));
                let query = Query {
                    vector: None,
                    text: &text,
                    agent: &agent,
                    now: Timestamp::now(),
                };
                let started = Instant::now();
                assert!(!index.search(&query).is_empty());
                started.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "| {count} | {:.0} | {:.2} | {:.2} |",
            building.as_secs_f64() * 1e3,
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
}

/// Words that come again with the frequencies of talk: few often, most seldom.
fn sentence(seed: usize) -> String {
    const SYLLABLES: [&str; 12] = [
        "ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "vo",
    ];
    let mut state = seed as u64 * 2_654_435_761 + 12_345;
    let mut words = Vec::new();
    for _ in 0..12 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let uniform = (state >> 33) as f64 / (1u64 << 31) as f64;
        let mut rank = (8_000f64.powf(uniform)) as usize;
        let mut word = String::new();
        for _ in 0..4 {
            word.push_str(SYLLABLES[rank % 12]);
            rank /= 12;
        }
        words.push(word);
    }
    words.join(" ")
}
