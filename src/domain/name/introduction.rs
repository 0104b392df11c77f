//! Hears a caller's introduction of themselves.

use std::borrow::Cow;
use std::cell::LazyCell;

use rustc_hash::FxHashSet;
use unicode_normalization::UnicodeNormalization;

use super::words::{
    INSTRUCTIONS, INTRODUCTIONS, MAY_FOLLOW, NAME_QUESTIONS, NOT_NAMES, OPENERS, PARTICLES,
    REPORTED, SUPPOSED, Strength, TITLES,
};
use super::{CallerName, Evidence, MAX_CORE_WORDS, MAX_NAME_WORDS};
use crate::domain::call_event::{Role, Turn};

/// The caller's name from the caller's own turns, and how it was given: the
/// first clear introduction, else the first answer to an agent that asked,
/// else the first telephone greeting.
#[must_use]
pub fn from_turns(turns: &[Turn]) -> Option<(CallerName, Evidence)> {
    let callers = || {
        turns
            .iter()
            .enumerate()
            .filter(|(_, t)| t.role == Role::Caller)
    };
    if let Some(name) = callers().find_map(|(_, t)| introduced(&t.text, Strength::Clear)) {
        return Some((name, Evidence::Stated));
    }
    let agents_own = LazyCell::new(|| agents_names(turns));
    let not_the_agents = |name: &CallerName| !agents_own.contains(name);
    callers()
        .filter(|(i, _)| asked_for_name(turns, *i))
        .find_map(|(_, t)| {
            introduced(&t.text, Strength::Asked).or_else(|| introduced(&t.text, Strength::Phone))
        })
        .filter(not_the_agents)
        .map(|name| (name, Evidence::Answered))
        .or_else(|| {
            callers()
                .find_map(|(_, t)| introduced(&t.text, Strength::Phone))
                .filter(|name| !name.as_str().contains(' '))
                .filter(not_the_agents)
                .map(|name| (name, Evidence::Mentioned))
        })
}

/// Whether the agent's turn right before asks for the name.
fn asked_for_name(turns: &[Turn], position: usize) -> bool {
    let Some(before) = position.checked_sub(1).map(|i| &turns[i]) else {
        return false;
    };
    let folded = straight(&before.text).to_lowercase();
    before.role == Role::Agent && NAME_QUESTIONS.iter().any(|q| folded.contains(q))
}

/// Names by which the agent calls itself: "this is Margaret, right?" asks for
/// the agent.
fn agents_names(turns: &[Turn]) -> FxHashSet<CallerName> {
    const SPEAKING: &[&str] = &["with", "to", "mit"];
    let mut names = FxHashSet::default();
    for turn in turns.iter().filter(|t| t.role == Role::Agent) {
        for strength in [Strength::Clear, Strength::Phone, Strength::Asked] {
            names.extend(introduced(&turn.text, strength));
        }
        let words: Vec<&str> = turn.text.split_whitespace().collect();
        for (i, word) in words.iter().enumerate() {
            let behind_speaking = i >= 2
                && fold(words[i - 2]) == "speaking"
                && SPEAKING.contains(&&*fold(words[i - 1]));
            let before_here = words
                .get(i + 1)
                .is_some_and(|w| matches!(&*fold(w), "here" | "speaking"));
            if behind_speaking || before_here {
                names.extend(CallerName::parse(bare(word)).ok());
            }
        }
    }
    names
}

fn introduced(text: &str, wanted: Strength) -> Option<CallerName> {
    let text = straight(text);
    let mut first = true;
    sentences(&text).find_map(|sentence| {
        let at_start = std::mem::take(&mut first);
        // "Yes. This is Tomasz." is still the start of the turn.
        if at_start
            && sentence
                .split_whitespace()
                .all(|w| OPENERS.contains(&&*fold(w)))
        {
            first = true;
        }
        introduced_in(sentence, wanted, at_start)
    })
}

/// Composed, with straight apostrophes.
pub(super) fn straight(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let composed = text.nfc().map(|c| if c == '’' { '\'' } else { c });
    Cow::Owned(composed.collect())
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
                    let word = word_before(&rest[..i]);
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

/// The last word of `text`; of a very long one only its end, so that dots
/// without spaces cost no more than their number.
fn word_before(text: &str) -> &str {
    const LONGEST: usize = 64;
    let start = text.len().saturating_sub(LONGEST);
    let start = (start..=text.len())
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(text.len());
    text[start..]
        .rsplit(char::is_whitespace)
        .next()
        .unwrap_or("")
}

fn bare(word: &str) -> &str {
    let is_around = |c: char| {
        matches!(
            c,
            ',' | '.' | '!' | '?' | ';' | ':' | '"' | '(' | ')' | '«' | '»' | '“' | '”'
        )
    };
    word.trim_matches(is_around)
}

/// In lower case, without what stands around it. Most words are so already.
pub(super) fn fold(word: &str) -> Cow<'_, str> {
    let word = bare(word);
    if word
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        return Cow::Borrowed(word);
    }
    Cow::Owned(word.to_lowercase())
}

fn introduced_in(sentence: &str, wanted: Strength, at_start: bool) -> Option<CallerName> {
    // Capitals are the evidence that a word is a name; shouting has none.
    let shouted =
        sentence.chars().any(char::is_uppercase) && !sentence.chars().any(char::is_lowercase);
    if shouted {
        return None;
    }
    let words: Vec<&str> = sentence.split_whitespace().collect();
    let folded: Vec<Cow<'_, str>> = words.iter().map(|w| fold(w)).collect();
    // Behind "he said", every introduction is somebody else's. Found once, so
    // that a phrase repeated for minutes costs no more than its length.
    let reported_from = folded
        .iter()
        .position(|w| REPORTED.contains(&&**w))
        .unwrap_or(folded.len());
    for (phrase, strength) in INTRODUCTIONS {
        if *strength != wanted {
            continue;
        }
        for start in 0..folded.len() {
            let Some(after) = end_of(phrase, &folded, start).filter(|end| *end < folded.len())
            else {
                continue;
            };
            if start > reported_from {
                break;
            }
            let supposed = folded[start.saturating_sub(4)..start]
                .iter()
                .any(|w| SUPPOSED.contains(&&**w));
            // "Hello Margaret, this is Nora": a name may be greeted before.
            let opening = at_start
                && start <= 4
                && words[..start].iter().enumerate().all(|(i, w)| {
                    OPENERS.contains(&&*folded[i]) || (i > 0 && starts_like_a_name(w))
                });
            if supposed || (wanted == Strength::Phone && !opening) {
                continue;
            }
            if let Some(name) = name_at(&words[after..], wanted) {
                return Some(name);
            }
        }
    }
    None
}

/// Where `phrase` ends in `words` if it begins at `start`.
pub(super) fn end_of(phrase: &str, words: &[Cow<'_, str>], start: usize) -> Option<usize> {
    // Of many phrases at many places hardly one begins alike.
    if words[start].as_bytes().first() != phrase.as_bytes().first() {
        return None;
    }
    let mut end = start;
    for word in phrase.split(' ') {
        if words.get(end)? != word {
            return None;
        }
        end += 1;
    }
    Some(end)
}

/// Hesitations passed over before a name: a bound, for a caller who says
/// nothing else.
const MAX_HESITATIONS: usize = 8;

/// The name that starts at the first of `words`, if one does.
pub(super) fn name_at(words: &[&str], strength: Strength) -> Option<CallerName> {
    const HESITATIONS: &[&str] = &["uh", "um", "er", "erm", "äh", "ähm", "eh", "euh"];
    let skip = words
        .iter()
        .take(MAX_HESITATIONS)
        .take_while(|w| HESITATIONS.contains(&&*fold(w)))
        .count();
    let words = &words[skip..];

    let mut taken: Vec<&str> = Vec::new();
    let mut closed = false;
    for word in words.iter().take(MAX_NAME_WORDS) {
        let lower = fold(word);
        let titled = TITLES.contains(&word.to_lowercase().as_str());
        let particle = !taken.is_empty() && PARTICLES.contains(&word.to_lowercase().as_str());
        if !(particle || titled || starts_like_a_name(word))
            || (NOT_NAMES.contains(&&*lower) && !titled)
        {
            break;
        }
        // "This is Nora's husband" introduces somebody else.
        if lower.ends_with("'s") {
            return None;
        }
        taken.push(if titled { word } else { bare(word) });
        if !titled
            && word.ends_with([
                ',', '.', '!', '?', ';', ':', '"', '”', '»', ')', '—', '…', '।', '。',
            ])
        {
            closed = true;
            break;
        }
    }
    // A particle belongs to the name only if a name follows it.
    while taken.last().is_some_and(|w| PARTICLES.contains(w)) {
        taken.pop();
    }
    let titles = taken
        .iter()
        .take_while(|w| TITLES.contains(&w.to_lowercase().as_str()))
        .count();
    // "N, O, R, A" is a spelling, "K as in Karen" too.
    let first = taken.get(titles)?;
    if first.chars().filter(|c| c.is_alphabetic()).count() < 2 {
        return None;
    }
    let next = words.get(taken.len()).map(|w| fold(w));
    let ends = closed || next.as_deref().is_none_or(|w| MAY_FOLLOW.contains(&w));
    let cased = first.chars().next().is_some_and(char::is_uppercase);
    if !cased && taken.len() > 2 {
        return None;
    }
    if !ends {
        // Without a pause the next capital may begin another thought, or be a
        // German noun: only the first word is sure, and only if capitals mean
        // something in its script.
        if strength != Strength::Clear || !cased {
            return None;
        }
        taken.truncate(titles + 1);
    }
    if strength != Strength::Clear {
        let doubted = words[taken.len() - 1].ends_with('?')
            || next
                .as_deref()
                .is_some_and(|w| matches!(w, "right" | "correct" | "isn't" | "oder" | "verdad"));
        // Four capitals in a row are a company or a title more often than a person.
        if doubted || taken.len() > 3 {
            return None;
        }
    }
    // More words than a name has are cut to the surest, unless they are an order.
    if taken.len() - titles > MAX_CORE_WORDS && !is_order(&taken) {
        let core = taken.iter().filter(|w| !PARTICLES.contains(w)).count() - titles;
        if core > MAX_CORE_WORDS {
            taken.truncate(titles + 1);
        }
    }
    CallerName::parse(&taken.join(" ")).ok()
}

/// Whether words instruct whoever reads them.
pub(super) fn is_order(words: &[&str]) -> bool {
    words
        .iter()
        .any(|word| INSTRUCTIONS.contains(&&*fold(word)))
}

/// A capital, or a letter of a script that has none. Neither an acronym nor a
/// brand ("DoorDash"): of capitals inside a word, only "McKay" and "O'Neil".
pub(super) fn starts_like_a_name(word: &str) -> bool {
    let word = bare(word);
    let Some(first) = word.chars().find(|c| c.is_alphabetic()) else {
        return false;
    };
    let brand = word.split(['\'', '-', '.']).any(|part| {
        let rest = part
            .strip_prefix("Mc")
            .or_else(|| part.strip_prefix("Mac"))
            .unwrap_or(part);
        rest.chars().skip(1).any(char::is_uppercase)
    });
    !first.is_lowercase() && !brand
}
