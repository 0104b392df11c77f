//! The names that callers give, heard without a model.

use std::collections::BTreeMap;

use elaoms::domain::call_event::{Role, Turn};
use elaoms::domain::name::{self, CallerName};
use serde::Deserialize;

/// As the [calls](crate::calls): one set to build with, one to check.
const SETS: [(&str, &str); 2] = [
    ("development", include_str!("data/names_a.jsonl")),
    ("check", include_str!("data/names_b.jsonl")),
];

/// Names in the lines whose caller gives none: of agents, of others, of places.
const SPOKEN_OF: &[&str] = &[
    "tom",
    "nora",
    "priya",
    "emma",
    "dave",
    "margaret",
    "paris",
    "kevin",
    "jessica",
    "charlie",
    "robert",
    "susan",
    "jackson",
    "luis",
    "nguyen",
    "monika",
    "clara",
    "pablo",
    "sofía",
    "laurent",
    "lyon",
    "léa",
    "paola",
    "milano",
    "alice",
    "júlia",
    "lisboa",
    "henk",
    "lotte",
    "utrecht",
    "göran",
    "maja",
    "malmö",
    "zosia",
    "krzysztof",
    "светлана",
    "анна",
    "linda",
    "sam",
    "marco",
    "anders",
    "jan",
    "peter",
    "anna",
    "maria",
    "thomas",
    "lena",
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
        let lines: Vec<Line> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("good data"))
            .collect();
        let named = lines.iter().filter(|line| line.name.is_some()).count();
        let kept = lines
            .iter()
            .filter(|line| line.keeps_the_truth(verbose))
            .count();
        let made_up: Vec<String> = lines
            .iter()
            .flat_map(|line| line.takes_what_is_made_up())
            .collect();
        if verbose {
            println!("  made up: {made_up:?}");
        }
        println!("\nnames, {name} set");
        println!(
            "with a model that hears right {kept} of {named}; of names that a model makes up {} are taken",
            made_up.len()
        );
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
    fn turns(&self) -> Vec<Turn> {
        let turns = self.turns.iter();
        turns
            .map(|(who, text)| Turn {
                role: if who == "agent" {
                    Role::Agent
                } else {
                    Role::Caller
                },
                text: text.clone(),
            })
            .collect()
    }

    /// Whether the right name is known once a model has named it.
    fn keeps_the_truth(&self, verbose: bool) -> bool {
        let Some(name) = &self.name else {
            return false;
        };
        let name = CallerName::parse(name).expect("a name");
        let kept = name::confirmed_by_turns(name, &self.turns()).is_some();
        if verbose && !kept {
            println!("  not confirmed {:?}: {:?}", self.name, self.turns);
        }
        kept
    }

    /// A model names everybody who is spoken of where the caller names nobody.
    fn takes_what_is_made_up(&self) -> Vec<String> {
        if self.name.is_some() {
            return Vec::new();
        }
        let said = self.turns.iter().map(|(_, text)| text.as_str());
        let words = said.flat_map(|text| text.split(|c: char| !(c.is_alphabetic() || c == '-')));
        words
            .filter(|word| SPOKEN_OF.contains(&&*word.to_lowercase()))
            .filter_map(|word| CallerName::parse(word).ok())
            .filter_map(|name| name::confirmed_by_turns(name, &self.turns()))
            .map(|name| format!("{name}: {:?}", self.turns))
            .collect()
    }

    fn heard(&self) -> Option<String> {
        let turns = self.turns();
        let (name, _) = name::told(&turns, &[]).given?;
        Some(name.to_string())
    }
}
