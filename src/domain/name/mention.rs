//! Whether a caller who says a name means themselves.

use std::borrow::Cow;

use super::CallerName;
use super::introduction::agents_names;
use super::text::{fold, straight};
use super::words::{OTHERS, REPORTED};
use crate::domain::call_event::{Role, Turn};

/// Words before a name that make it somebody else's: who is asked for, called,
/// spoken to or of, and where somebody is.
const NOT_ONESELF: &[&str] = &[
    // who is called by name
    "hi",
    "hello",
    "hey",
    "thanks",
    "thank",
    "bye",
    "morning",
    "afternoon",
    "dear",
    "sorry",
    "hallo",
    "tschüss",
    "danke",
    "hola",
    "gracias",
    "bonjour",
    "merci",
    "salut",
    "ciao",
    "grazie",
    "buongiorno",
    "olá",
    "oi",
    "obrigado",
    "obrigada",
    "hoi",
    "dag",
    "bedankt",
    "hej",
    "tack",
    "cześć",
    "dziękuję",
    "привет",
    "здравствуйте",
    "спасибо",
    // who is asked about
    "your",
    "you",
    "ihr",
    "dein",
    "su",
    "tu",
    "votre",
    "suo",
    "tuo",
    "seu",
    "uw",
    "je",
    "ditt",
    "is",
    "are",
    "ist",
    "sind",
    "es",
    "usted",
    // who or what is spoken of, and places
    "for",
    "from",
    "in",
    "at",
    "to",
    "about",
    "called",
    "named",
    "see",
    "ask",
    "asked",
    "met",
    "saw",
    "für",
    "von",
    "aus",
    "nach",
    "bei",
    "heißt",
    "para",
    "de",
    "en",
    "a",
    "llama",
    "llamaba",
    "pour",
    "à",
    "appelle",
    "s'appelle",
    "per",
    "di",
    "da",
    "chiama",
    "em",
    "chama",
    "voor",
    "van",
    "uit",
    "naar",
    "heet",
    "för",
    "från",
    "till",
    "på",
    "heter",
    "dla",
    "od",
    "do",
    "w",
    "ma",
    "для",
    "от",
    "из",
    "в",
    "о",
    "зовут",
    "i",
    "как",
];

/// Verbs behind a name that make it somebody else's.
const DOES: &[&str] = &[
    "told",
    "said",
    "says",
    "called",
    "sent",
    "was",
    "is",
    "has",
    "had",
    "gave",
    "promised",
    "wants",
    "hat",
    "sagte",
    "ist",
    "war",
    "me",
    "dijo",
    "m'a",
    "est",
    "ha",
    "è",
    "disse",
    "heeft",
    "zei",
    "is",
    "sa",
    "har",
    "är",
    "powiedział",
    "powiedziała",
    "сказал",
    "сказала",
];

/// How far before a name such words count, in words.
const NEAR: usize = 2;
/// How far before it somebody else's part ("my husband …") counts.
const NEAR_OTHERS: usize = 4;

/// Whether all words of a name stand in a turn of the caller, at a place where
/// nobody else is meant.
pub(super) fn is_of_oneself(name: &CallerName, turns: &[Turn]) -> bool {
    let agents = agents_names(turns);
    if agents.iter().any(|own| own.is_same_person(name)) {
        return false;
    }
    let wanted: Vec<String> = name.as_str().split(' ').map(str::to_lowercase).collect();
    turns
        .iter()
        .filter(|turn| turn.role == Role::Caller)
        .any(|turn| is_said(&wanted, &straight(&turn.text)))
}

fn is_said(wanted: &[String], text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let folded: Vec<Cow<'_, str>> = words.iter().map(|word| fold(word)).collect();
    let is_there = |at: usize| {
        let spoken = folded[at..].iter().zip(wanted);
        folded.len() - at >= wanted.len() && spoken.into_iter().all(|(said, word)| said == word)
    };
    // Of names said for minutes the first ones tell enough.
    const MOST: usize = 32;
    (0..folded.len())
        .filter(|at| is_there(*at))
        .take(MOST)
        .any(|at| is_at(&words, &folded, at, wanted.len()))
}

/// Whether the name at a place is the caller's own.
fn is_at(words: &[&str], folded: &[Cow<'_, str>], at: usize, length: usize) -> bool {
    let end = at + length;
    if words[end - 1].ends_with('?') {
        return false;
    }
    // Words before a pause belong to what was said before: "Hallo Clara, Krüger".
    let has = |far: usize, list: &[&str]| {
        let near = (at.saturating_sub(far)..at).rev();
        let mut is_over = false;
        let mut near = near.take_while(|i| {
            let goes_on = !is_over;
            is_over = words[*i].ends_with([',', '.', '!', ';']);
            goes_on
        });
        near.any(|i| list.contains(&folded[i].trim_end_matches("'s")))
    };
    let next = folded.get(end).map(|word| &**word);
    let goes_on = !words[end - 1].ends_with([',', '.', '!', ';']);
    let does = goes_on && next.is_some_and(|word| DOES.contains(&word));
    // "This is", "it's": the caller's own, whatever else stands before.
    let is_shown = at > 0
        && matches!(
            &*folded[at - 1],
            "it's" | "i'm" | "soy" | "sono" | "c'est" | "это"
        )
        || at > 1
            && matches!(
                (&*folded[at - 2], &*folded[at - 1]),
                ("this" | "name", "is") | ("hier", "ist")
            );
    if does || has(NEAR_OTHERS, REPORTED) {
        return false;
    }
    if is_anothers_part(folded, at) {
        // "I'm her daughter, Naomi."
        return says_own_part(folded, at);
    }
    is_shown || !has(NEAR, NOT_ONESELF)
}

fn is_anothers_part(folded: &[Cow<'_, str>], at: usize) -> bool {
    let near = &folded[at.saturating_sub(NEAR_OTHERS)..at];
    near.iter()
        .any(|word| OTHERS.contains(&word.trim_end_matches("'s")))
}

/// "I'm her daughter, Naomi", "this is his wife, Helen".
fn says_own_part(folded: &[Cow<'_, str>], at: usize) -> bool {
    const OWN: &[&str] = &[
        "i'm", "am", "this", "soy", "sono", "bin", "ben", "är", "jestem", "это", "sou",
    ];
    let near = &folded[at.saturating_sub(NEAR_OTHERS)..at];
    near.iter().any(|word| OWN.contains(&&**word))
}
