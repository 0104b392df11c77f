//! Given names, and words so common that they are none.

use std::sync::LazyLock;

use rustc_hash::{FxHashMap, FxHashSet};

use super::words::PARTICLES;

/// How sure a word is a given name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenName {
    /// It is one and nothing else: "Priya".
    Only,
    /// It is another word as well: "Mark", "Rosa".
    Also,
}

/// A name in each line; an asterisk behind what is another word as well in one
/// of the languages that introductions are known in.
static GIVEN_NAMES: LazyLock<FxHashMap<&str, GivenName>> = LazyLock::new(|| {
    let lines = include_str!("given_names.txt").lines();
    let names = lines.map(|line| match line.strip_suffix('*') {
        Some(name) => (name, GivenName::Also),
        None if FUNCTION_WORDS.contains(line) => (line, GivenName::Also),
        None => (line, GivenName::Only),
    });
    // "Soy la secretaria."
    names
        .filter(|(name, _)| !PARTICLES.contains(name))
        .collect()
});

/// Of the languages in which introductions are known.
static FUNCTION_WORDS: LazyLock<FxHashSet<&str>> = LazyLock::new(|| {
    ["en", "de", "es", "fr", "it", "pt", "nl", "sv", "pl", "ru"]
        .into_iter()
        .filter_map(stop_words::lookup)
        .flatten()
        .copied()
        .collect()
});

/// Whether a word, in lower case, is a given name. "Anne-Marie" is one of two,
/// and so nothing else.
pub(super) fn given_name(word: &str) -> Option<GivenName> {
    let known = GIVEN_NAMES.get(word).copied();
    known.or_else(|| {
        let (first, second) = word.split_once('-')?;
        let first = GIVEN_NAMES.get(first).copied()?;
        let both = GIVEN_NAMES.contains_key(second);
        Some(if both { GivenName::Only } else { first })
    })
}

/// Whether a word, in lower case, only holds a sentence together: "and", "ich".
pub(super) fn is_function_word(word: &str) -> bool {
    let contracted = word.split('\'').next().unwrap_or_default();
    FUNCTION_WORDS.contains(word)
        || FUNCTION_WORDS.contains(contracted)
        || word.contains('\'') && contracted.len() <= 1
}
