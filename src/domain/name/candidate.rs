//! The name that may start at a word: where it ends, and whether it is believed.

use std::borrow::Cow;

use super::given::{GivenName, given_name, is_function_word};
use super::text::{bare, fold, is_closed, straight};
use super::words::{
    BETWEEN, INSTRUCTIONS, MAY_FOLLOW, NO_NAME_AFTER, NOT_NAMES, OPENERS, OTHERS, PARTICLES,
    RELATIVE, RINGS, Strength,
};
use super::{CallerName, MAX_CORE_WORDS, MAX_NAME_WORDS, is_particle, is_title};

/// A name spelled letter by letter: "A-O-I-F-E", "S T E F A N".
pub(super) fn spelled(text: &str) -> Option<CallerName> {
    const SHORTEST: usize = 3;
    const AROUND: &[&str] = &[
        "it", "is", "it's", "that's", "my", "name", "sure", "yes", "okay", "ok", "so", "um", "uh",
        "ja", "also", "sí", "oui", "sì", "sim", "tak", "да", "ähm", "spelled",
    ];
    let text = straight(text);
    let parts = text
        .split(|c: char| !c.is_alphabetic())
        .filter(|p| !p.is_empty());
    let mut letters = String::new();
    let mut count = 0;
    for part in parts {
        if part.chars().count() == 1 {
            letters.push_str(part);
            count += 1;
        } else if count > 0 || !AROUND.contains(&&*part.to_lowercase()) {
            // Letters in between other words spell something else.
            return None;
        }
    }
    if count < SHORTEST {
        return None;
    }
    CallerName::parse(&capitalised(&[&letters.to_lowercase()])).ok()
}

/// Hesitations passed over before a name: a bound, for a caller who says
/// nothing else.
const MAX_HESITATIONS: usize = 8;

/// How a name is introduced.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub strength: Strength,
    /// Somebody has just asked for it.
    pub is_asked: bool,
    /// Whether capitals mean something in the text.
    pub is_cased: bool,
}

impl Manner {
    /// "This is Will, …", "it's June" to who has asked: a name, though another word.
    fn may_be_ambiguous(self, word: &str, next: Option<&&str>) -> bool {
        let is_given = given_name(&fold(word)).is_some();
        let ends = is_closed(word) || next.is_none();
        let is_introduced = self.strength == Strength::Phone || self.is_asked;
        is_given && ends && is_introduced
    }
}

/// The name that starts at the first of `words`, if one does.
pub(super) fn name_at(words: &[&str], manner: Manner) -> Option<CallerName> {
    let skip = words
        .iter()
        .take(MAX_HESITATIONS)
        .take_while(|w| BETWEEN.contains(&&*fold(w)))
        .count();
    let is_of_article = words[..skip]
        .iter()
        .any(|w| matches!(&*fold(w), "der" | "die" | "o"));
    let manner = Manner {
        // "Hier spricht die Polizei."
        strength: if is_of_article {
            Strength::Weak
        } else {
            manner.strength
        },
        ..manner
    };
    let mut words = &words[skip..];
    // "This is Mi- Michelle."
    if words.first().is_some_and(|w| w.ends_with('-')) {
        words = &words[1..];
    }
    // "My name is Will, Will Baxter."
    if let [first, second, ..] = words
        && fold(first) == fold(second)
    {
        words = &words[1..];
    }
    if manner.strength == Strength::Clear
        && let Some(name) = spelled_first(words)
    {
        return Some(name);
    }
    let cased = manner.is_cased || words.first().is_some_and(|w| has_no_case(w));
    if cased && words.first().is_some_and(|w| starts_like_a_name(w)) {
        return cased_name(words, manner);
    }
    plain_name(words, manner)
}

/// "My name is N, O, R, A", "my name is spelled N-O-R-A".
fn spelled_first(words: &[&str]) -> Option<CallerName> {
    let words = match words {
        [first, rest @ ..] if matches!(&*fold(first), "spelled" | "spelt") => rest,
        _ => words,
    };
    let first = words.first()?;
    let is_letter = first.chars().filter(|c| c.is_alphabetic()).count() == 1;
    let is_hyphenated =
        first.split('-').count() > 2 && first.split('-').all(|p| p.chars().count() <= 2);
    if !is_letter && !is_hyphenated {
        return None;
    }
    let letters = words.iter().take_while(|w| {
        w.split(|c: char| !c.is_alphabetic())
            .all(|part| part.chars().count() <= 1)
    });
    spelled(&letters.copied().collect::<Vec<_>>().join(" "))
}

/// In a text with capitals.
fn cased_name(words: &[&str], manner: Manner) -> Option<CallerName> {
    let strength = manner.strength;
    let mut taken: Vec<&str> = Vec::new();
    let mut closed = false;
    for word in words.iter().take(MAX_NAME_WORDS) {
        let lower = fold(word);
        let titled = is_title(word);
        let particle = !taken.is_empty() && is_particle(word);
        let is_no_name = NOT_NAMES.contains(&&*lower)
            && !titled
            && !(taken.is_empty() && manner.may_be_ambiguous(word, words.get(1)));
        if !(particle || titled || starts_like_a_name(word)) || is_no_name {
            break;
        }
        // "This is Nora's husband" introduces somebody else.
        if lower.ends_with("'s") {
            return None;
        }
        taken.push(if titled { word } else { bare(word) });
        if !titled && is_closed(word) {
            closed = true;
            break;
        }
    }
    // A particle belongs to the name only if a name follows it.
    while taken.last().is_some_and(|w| PARTICLES.contains(w)) {
        taken.pop();
    }
    let titles = taken.iter().take_while(|w| is_title(w)).count();
    let first = taken.get(titles)?;
    // "K as in Karen" is a spelling.
    if first.chars().filter(|c| c.is_alphabetic()).count() < 2 {
        return None;
    }
    let lower = first.to_lowercase();
    // "My name is Wrong in your system", "ich heiße Sie willkommen".
    let known = given_name(&lower);
    let is_ordinary =
        NO_NAME_AFTER.contains(&&*lower) || !lower.contains('\'') && is_function_word(&lower);
    if is_ordinary && known.is_none() {
        return None;
    }
    if taken.iter().any(|w| FIRMS.contains(&&*w.to_lowercase())) {
        return None;
    }
    let next = words.get(taken.len()).map(|w| fold(w));
    let next = next.as_deref();
    let ends = closed
        || next.is_none_or(|w| match strength {
            Strength::Weak if !manner.is_asked => begins_clause(w),
            _ => may_follow(w),
        });
    let cased = first.chars().next().is_some_and(char::is_uppercase);
    if !cased && taken.len() > 2 {
        return None;
    }
    if !ends {
        // Without a pause the next capital may begin another thought, or be a
        // German noun: only the first word is sure, and only if capitals mean
        // something in its script.
        let is_sure = strength == Strength::Clear || known == Some(GivenName::Only);
        if !is_sure || !cased {
            return None;
        }
        taken.truncate(titles + 1);
    }
    if strength != Strength::Clear {
        let doubted = words[taken.len() - 1].ends_with('?')
            || next.is_some_and(|w| matches!(w, "right" | "correct" | "isn't" | "oder" | "verdad"));
        // Four capitals in a row are a company or a title more often than a person.
        if doubted
            || taken.len() > 3
            || is_of_another(next, words, taken.len())
            || is_several(next, words, taken.len())
            || taken
                .iter()
                .any(|w| OTHERS.contains(&&*w.to_lowercase()) && !is_title(w))
        {
            return None;
        }
    }
    if !manner.is_asked {
        let cores = taken.len() - titles;
        let is_believed = match strength {
            Strength::Clear | Strength::Firm => true,
            // "Mówi Kowalski", "hier spricht Schmidt".
            Strength::Opening => cores == 1 || known.is_some() || titles > 0,
            // "This is Medicare calling."
            Strength::Phone => known.is_some() || titles > 0,
            Strength::Weak => match known {
                Some(GivenName::Only) => true,
                Some(GivenName::Also) => cores > 1 || next.is_some_and(|w| RETURNING.contains(&w)),
                None => titles > 0,
            },
        };
        if !is_believed {
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
    CallerName::parse(&capitalised(&taken)).ok()
}

/// In a text without capitals, as many transcripts are.
fn plain_name(words: &[&str], manner: Manner) -> Option<CallerName> {
    let strength = manner.strength;
    let folded: Vec<Cow<'_, str>> = words.iter().take(MAX_NAME_WORDS).map(|w| fold(w)).collect();
    let word = |i: usize| folded.get(i).map(|w| &**w);
    let ends_after =
        |i: usize| words.get(i).is_some_and(|w| is_closed(w)) || word(i + 1).is_none_or(may_follow);
    // Without capitals, only where a new clause begins is a surname told from a verb.
    let begins_anew = |i: usize| {
        words.get(i).is_some_and(|w| is_closed(w)) || word(i + 1).is_none_or(begins_clause)
    };
    let is_surname = |i: usize| {
        word(i).is_some_and(|w| {
            w.chars().count() > 1
                && w.chars()
                    .all(|c| c.is_alphabetic() || matches!(c, '\'' | '-'))
                && !may_follow(w)
                && !w.ends_with("ing")
                && !OTHERS.contains(&w)
                && !is_ordinary(w)
                && !w.contains("'s")
        })
    };
    let first = word(0)?;
    if first.ends_with("'s") || first.contains(|c: char| c.is_numeric()) {
        return None;
    }
    if is_title(words[0]) {
        let is_named = is_surname(1) && ends_after(1);
        return is_named.then(|| CallerName::parse(&capitalised(&words[..2])).ok())?;
    }
    let is_believed = match given_name(first) {
        Some(GivenName::Only) => true,
        Some(GivenName::Also) => match strength {
            Strength::Clear | Strength::Firm => true,
            Strength::Phone | Strength::Opening | Strength::Weak => {
                begins_anew(0) && (manner.is_asked || strength == Strength::Phone)
            }
        },
        None => {
            // "My name is taken", "my name is important": a new clause must tell it.
            strength == Strength::Clear
                && !manner.is_cased
                && word(1).is_some_and(|w| CLAUSE_STARTS.contains(&w))
                && is_surname(0)
                && !NO_NAME_AFTER.contains(&first)
        }
    };
    // "Det är hans fru."
    if word(1).is_some_and(|w| OTHERS.contains(&w)) {
        return None;
    }
    if !is_believed || is_of_another(word(1), words, 1) || words[0].ends_with('?') {
        return None;
    }
    let mut length = 1;
    if !is_closed(words[0]) {
        let ends = if strength == Strength::Clear {
            ends_after(1)
        } else {
            begins_anew(1)
        };
        if is_surname(1) && ends {
            length = 2;
        } else if word(1).is_some_and(is_particle) && is_surname(2) && begins_anew(2) {
            length = 3;
        }
    }
    // "It's Emma ordering …" and the like is too little.
    if length == 1 && strength == Strength::Weak && !begins_anew(0) {
        return None;
    }
    CallerName::parse(&capitalised(&words[..length])).ok()
}

/// Words with which callers go on after their name.
const CLAUSE_STARTS: &[&str] = &[
    "i",
    "i'm",
    "i've",
    "i'd",
    "i'll",
    "we",
    "my",
    "and",
    "but",
    "here",
    "calling",
    "speaking",
    "again",
    "from",
    "by",
    "about",
    "regarding",
    "ich",
    "mein",
    "meine",
    "wir",
    "und",
    "hier",
    "aus",
    "von",
    "nochmal",
    "yo",
    "mi",
    "y",
    "pero",
    "je",
    "j'ai",
    "j'appelle",
    "mon",
    "ma",
    "et",
    "io",
    "ho",
    "e",
    "il",
    "eu",
    "meu",
    "minha",
    "ik",
    "mijn",
    "en",
    "jag",
    "och",
    "min",
    "mam",
    "mój",
    "moja",
    "chcę",
    "chciałbym",
    "chciałabym",
    "dzwonię",
    "я",
    "и",
    "у",
    "мне",
    "мой",
];

/// Words of a firm's name: "this is Chase Bank".
const FIRMS: &[&str] = &[
    "bank",
    "dental",
    "insurance",
    "services",
    "service",
    "motors",
    "hotel",
    "gmbh",
    "inc",
    "ltd",
    "llc",
    "company",
    "garage",
    "clinic",
    "pharmacy",
    "group",
    "solutions",
    "logistics",
    "express",
    "support",
    "agency",
    "versicherung",
    "apotheke",
    "praxis",
    "autohaus",
    "seguros",
    "banco",
    "banque",
    "assurance",
    "assicurazioni",
    "verzekering",
    "försäkring",
    "ubezpieczenia",
];

/// What only somebody who rings adds to a name.
const RETURNING: &[&str] = &[
    "again", "calling", "here", "speaking", "ringing", "igen", "encore", "znowu",
];

/// Whether a firm or a couple is named: "it's Wilson and Sons".
fn is_several(next: Option<&str>, words: &[&str], at: usize) -> bool {
    let is_and = next.is_some_and(|w| {
        matches!(
            w,
            "and" | "und" | "&" | "y" | "et" | "e" | "en" | "och" | "i" | "и"
        )
    });
    let other = words.get(at + 1);
    is_and
        && other
            .is_some_and(|w| w.chars().count() > 2 && starts_like_a_name(w) && !w.contains('\''))
}

/// Whether a clause about somebody else follows: "c'est Paul qui m'a dit".
fn is_of_another(next: Option<&str>, words: &[&str], at: usize) -> bool {
    let verb = words.get(at + 1).map(|w| fold(w));
    next.is_some_and(|w| RELATIVE.contains(&w)) && !verb.is_some_and(|w| RINGS.contains(&&*w))
}

/// Whether callers go on with a word after their name.
fn begins_clause(word: &str) -> bool {
    // "… Silva de Lisboa", and "… preciso de um encanador".
    word != "de" && (CLAUSE_STARTS.contains(&word) || MAY_FOLLOW.contains(&word))
}

/// Whether a word may come right behind a name.
fn may_follow(word: &str) -> bool {
    MAY_FOLLOW.contains(&word) || is_function_word(word) || OPENERS.contains(&word)
}

fn is_ordinary(word: &str) -> bool {
    NOT_NAMES.contains(&word) || INSTRUCTIONS.contains(&word) || BETWEEN.contains(&word)
}

/// Whether a word's script has no capitals.
fn has_no_case(word: &str) -> bool {
    word.chars().any(char::is_alphabetic)
        && !word.chars().any(|c| c.is_lowercase() || c.is_uppercase())
}

/// Each word of a name with its capital, but for particles inside.
pub(super) fn capitalised(words: &[&str]) -> String {
    let mut name = String::new();
    for (i, word) in words.iter().enumerate() {
        let word = if is_title(word) {
            word.trim_end_matches(',')
        } else {
            bare(word).trim_matches('\'')
        };
        if i > 0 {
            name.push(' ');
            if is_particle(word) {
                name.push_str(word);
                continue;
            }
        }
        let mut at_start = true;
        for c in word.chars() {
            if at_start {
                name.extend(c.to_uppercase());
            } else {
                name.push(c);
            }
            at_start = matches!(c, '-' | '\'');
        }
    }
    name
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
