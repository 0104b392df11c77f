//! The names that callers give, heard without a model.

use std::collections::BTreeMap;

use elaoms::domain::call_event::{Role, Turn};
use elaoms::domain::name;
use serde::Deserialize;

/// As the [calls](crate::calls): one set to build with, one to check.
const SETS: [(&str, &str); 2] = [
    ("development", include_str!("data/names_a.jsonl")),
    ("check", include_str!("data/names_b.jsonl")),
];

#[derive(Deserialize)]
struct Line {
    lang: String,
    /// Who, and what was said.
    turns: Vec<(String, String)>,
    name: Option<String>,
}

#[derive(Default)]
struct Count {
    named: usize,
    heard: usize,
    right: usize,
}

pub fn measure(verbose: bool) {
    for (name, text) in SETS {
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        for line in text.lines() {
            let line: Line = serde_json::from_str(line).expect("good data");
            let heard = line.heard();
            let is_right = heard.is_some() && heard == line.name;
            if verbose && heard != line.name {
                println!(
                    "  {} wanted {:?}, heard {heard:?}: {:?}",
                    line.lang, line.name, line.turns
                );
            }
            for language in [line.lang.as_str(), "~all"] {
                let count = counts.entry(language.to_owned()).or_default();
                count.named += usize::from(line.name.is_some());
                count.heard += usize::from(heard.is_some());
                count.right += usize::from(is_right);
            }
        }
        println!("\nnames, {name} set");
        println!("| language | names | precision | recall |");
        println!("|---|---|---|---|");
        for (language, count) in counts {
            println!(
                "| {} | {} | {:.3} | {:.3} |",
                language.trim_start_matches('~'),
                count.named,
                count.right as f64 / count.heard.max(1) as f64,
                count.right as f64 / count.named.max(1) as f64
            );
        }
    }
}

impl Line {
    fn heard(&self) -> Option<String> {
        let turns: Vec<Turn> = self
            .turns
            .iter()
            .map(|(who, text)| Turn {
                role: if who == "agent" {
                    Role::Agent
                } else {
                    Role::Caller
                },
                text: text.clone(),
            })
            .collect();
        let (name, _) = name::told(&turns, &[]).given?;
        Some(name.to_string())
    }
}
