//! Hears a caller's introduction of themselves.

use unicode_normalization::UnicodeNormalization;

use super::words::{INTRODUCTIONS, MAY_FOLLOW, NOT_NAMES, PARTICLES, REPORTED, Strength, TITLES};
use super::{CallerName, MAX_NAME_WORDS};
use crate::domain::call_event::{Role, Turn};

/// The caller's name from the caller's own turns, the first clear
/// introduction before any weaker one.
#[must_use]
pub fn from_turns(turns: &[Turn]) -> Option<CallerName> {
    let said_by = |role: Role, strength: Strength| {
        turns
            .iter()
            .filter(move |t| t.role == role)
            .find_map(move |t| introduced(&t.text, strength))
    };
    if let Some(name) = said_by(Role::Caller, Strength::Clear) {
        return Some(name);
    }
    // "This is Margaret, right?" asks for the agent: a weak introduction with
    // the name by which the agent introduced itself is not the caller's.
    let agents_own: Vec<CallerName> = [Strength::Clear, Strength::Weak]
        .into_iter()
        .filter_map(|strength| said_by(Role::Agent, strength))
        .collect();
    said_by(Role::Caller, Strength::Weak).filter(|name| !agents_own.contains(name))
}

fn introduced(text: &str, wanted: Strength) -> Option<CallerName> {
    let text: String = text
        .nfc()
        .map(|c| if c == '’' { '\'' } else { c })
        .collect();
    sentences(&text).find_map(|sentence| introduced_in(sentence, wanted))
}

/// Splits at what ends a sentence, but not at the dot of "Dr. Smith".
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest
            .char_indices()
            .find(|&(i, c)| match c {
                '!' | '?' | ';' | '\n' | '…' | '—' => true,
                '.' => {
                    let word = rest[..i].rsplit(char::is_whitespace).next().unwrap_or("");
                    !TITLES.contains(&word.to_lowercase().as_str()) && word.chars().count() > 1
                }
                _ => false,
            })
            .map_or(rest.len(), |(i, c)| i + c.len_utf8());
        let (sentence, tail) = rest.split_at(end);
        rest = tail;
        Some(sentence)
    })
}

fn introduced_in(sentence: &str, wanted: Strength) -> Option<CallerName> {
    // Capitals are the evidence that a word is a name; shouting has none.
    if !sentence.chars().any(char::is_lowercase) {
        return None;
    }
    let words: Vec<&str> = sentence.split_whitespace().collect();
    let folded: Vec<String> = words
        .iter()
        .map(|w| {
            w.trim_matches(|c: char| ",.!?;:\"()«»“”".contains(c))
                .to_lowercase()
        })
        .collect();
    for (phrase, strength) in INTRODUCTIONS {
        if *strength != wanted {
            continue;
        }
        let phrase: Vec<&str> = phrase.split(' ').collect();
        for start in 0..folded.len().saturating_sub(phrase.len()) {
            let after = start + phrase.len();
            if folded[start..after]
                .iter()
                .map(String::as_str)
                .ne(phrase.iter().copied())
            {
                continue;
            }
            // "My name is, uh, Nora" is fine; "this is, Monday" is not.
            let reported = folded[..start]
                .iter()
                .rev()
                .take(4)
                .any(|w| REPORTED.contains(&w.as_str()));
            if reported {
                continue;
            }
            if let Some(name) = name_at(&words[after..], wanted) {
                return Some(name);
            }
        }
    }
    None
}

/// The name that starts at the first of `words`, if one does.
fn name_at(words: &[&str], strength: Strength) -> Option<CallerName> {
    const HESITATIONS: &[&str] = &["uh", "um", "er", "erm", "äh", "ähm", "eh", "euh"];
    let bare = |w: &str| {
        w.trim_matches(|c: char| ",.!?;:\"()«»“”".contains(c))
            .to_owned()
    };
    let skip = words
        .iter()
        .take_while(|w| HESITATIONS.contains(&bare(w).to_lowercase().as_str()))
        .count();
    let words = &words[skip..];

    let mut taken: Vec<String> = Vec::new();
    let mut used = 0;
    let mut closed = false;
    for word in words.iter().take(MAX_NAME_WORDS) {
        let lower = bare(word).to_lowercase();
        let titled = TITLES.contains(&word.to_lowercase().as_str());
        let particle = !taken.is_empty() && PARTICLES.contains(&word.to_lowercase().as_str());
        if !(particle || titled || starts_like_a_name(word))
            || (NOT_NAMES.contains(&lower.as_str()) && !titled)
        {
            break;
        }
        // "This is Nora's husband" introduces somebody else.
        if lower.ends_with("'s") {
            return None;
        }
        used += 1;
        taken.push(if titled {
            (*word).to_owned()
        } else {
            bare(word)
        });
        if !titled && word.ends_with([',', '.', '!', '?', ';', ':', '"', '”', '»', ')', '—', '…'])
        {
            closed = true;
            break;
        }
    }
    // A particle belongs to the name only if a name follows it.
    while taken
        .last()
        .is_some_and(|w| PARTICLES.contains(&w.as_str()))
    {
        taken.pop();
        used -= 1;
    }
    let only_titles = taken
        .iter()
        .all(|w| TITLES.contains(&w.to_lowercase().as_str()));
    if taken.is_empty() || only_titles {
        return None;
    }
    let next = words.get(used).map(|w| bare(w).to_lowercase());
    if strength == Strength::Weak {
        let ends = closed || next.as_deref().is_none_or(|w| MAY_FOLLOW.contains(&w));
        let asked = words[used - 1].ends_with('?')
            || next
                .as_deref()
                .is_some_and(|w| matches!(w, "right" | "correct" | "isn't" | "oder" | "verdad"));
        // Four capitals in a row are a company or a title more often than a person.
        if !ends || asked || taken.len() > 3 {
            return None;
        }
    }
    CallerName::parse(&taken.join(" ")).ok()
}

/// A capital, or a letter of a script that has none.
fn starts_like_a_name(word: &str) -> bool {
    let mut letters = word.chars().filter(|c| c.is_alphabetic());
    let Some(first) = letters.next() else {
        return false;
    };
    let caseless = !first.is_lowercase() && !first.is_uppercase();
    let acronym = word.chars().filter(|c| c.is_uppercase()).count() > 2
        && !word.chars().any(char::is_lowercase);
    caseless || (first.is_uppercase() && !acronym)
}
