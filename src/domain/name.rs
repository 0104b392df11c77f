//! The caller's name: what counts as one, and how it is heard.
//!
//! A wrong name is worse than none: it is spoken aloud at the start of every
//! later call. So only the caller's own turns are read, only clear
//! self-introductions count, and whatever looks doubtful is passed over; the
//! language model may still name the caller afterwards (`caller_name`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use super::call_event::{Fact, Role, Turn};

/// Longest name kept, in characters.
pub const MAX_NAME_CHARS: usize = 60;
/// Most words in a name.
const MAX_NAME_WORDS: usize = 5;

/// A name that may be spoken to a caller: letters of any script, joined by
/// apostrophes, hyphens, dots and spaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct CallerName(Arc<str>);

/// The string is no name that may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no name of 1 to {MAX_NAME_CHARS} letters, apostrophes and hyphens")]
pub struct NotAName;

impl CallerName {
    /// Takes a name as a person or a form gives it.
    ///
    /// # Errors
    /// [`NotAName`] if it holds digits or other symbols, is a placeholder
    /// ("unknown", "N/A"), or is longer than [`MAX_NAME_CHARS`].
    pub fn parse(raw: &str) -> Result<Self, NotAName> {
        let composed: String = raw.nfc().collect();
        let words: Vec<&str> = composed.split_whitespace().collect();
        let name = words.join(" ");
        let fits = (1..=MAX_NAME_WORDS).contains(&words.len())
            && name.chars().count() <= MAX_NAME_CHARS
            && words.iter().all(|w| is_name_word(w));
        if !fits || is_placeholder(&name) {
            return Err(NotAName);
        }
        Ok(Self(name.trim_end_matches([',', '.']).into()))
    }

    /// The name as it is spoken.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CallerName {
    type Error = NotAName;
    fn try_from(raw: String) -> Result<Self, NotAName> {
        Self::parse(&raw)
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name_word(word: &str) -> bool {
    let mut letters = 0;
    for c in word.chars() {
        match c {
            _ if c.is_alphabetic() && !c.is_numeric() => letters += 1,
            '\'' | '’' | 'ʼ' | '-' | '‐' | '.' | '·' => {}
            // Marks that no composed letter exists for (Devanagari, Thai …).
            _ if unicode_normalization::char::is_combining_mark(c) => {}
            _ => return false,
        }
    }
    letters > 0
}

fn is_placeholder(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "unknown",
        "none",
        "null",
        "nil",
        "na",
        "n.a",
        "n.a.",
        "anonymous",
        "undefined",
        "not provided",
        "not given",
        "not specified",
        "not available",
        "not mentioned",
        "not stated",
        "no name",
        "nobody",
        "no one",
        "someone",
        "somebody",
        "caller",
        "the caller",
        "user",
        "customer",
        "guest",
        "unnamed",
        "private",
        "withheld",
        "test",
        "agent",
        "assistant",
    ];
    let folded = name.to_lowercase();
    WORDS.contains(&folded.as_str())
}

/// How much an introduction says by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strength {
    /// "my name is …": nothing but a name follows.
    Clear,
    /// "this is …", "I'm …": a name follows only if the sentence ends there.
    Weak,
}

/// Self-introductions, folded to lower case, in the languages that phone
/// agents are most used in.
const INTRODUCTIONS: &[(&str, Strength)] = &[
    // English
    ("my name is", Strength::Clear),
    ("my name's", Strength::Clear),
    ("my first name is", Strength::Clear),
    ("my full name is", Strength::Clear),
    ("you can call me", Strength::Weak),
    ("please call me", Strength::Weak),
    ("this is", Strength::Weak),
    ("i'm", Strength::Weak),
    ("i am", Strength::Weak),
    // German
    ("mein name ist", Strength::Clear),
    ("ich heiße", Strength::Clear),
    ("ich heisse", Strength::Clear),
    ("ich bin", Strength::Weak),
    ("hier ist", Strength::Weak),
    ("hier spricht", Strength::Weak),
    // Spanish
    ("me llamo", Strength::Clear),
    ("mi nombre es", Strength::Clear),
    ("soy", Strength::Weak),
    // Portuguese
    ("meu nome é", Strength::Clear),
    ("me chamo", Strength::Clear),
    ("chamo-me", Strength::Clear),
    // French
    ("je m'appelle", Strength::Clear),
    ("mon nom est", Strength::Clear),
    // Italian
    ("mi chiamo", Strength::Clear),
    ("il mio nome è", Strength::Clear),
    // Dutch
    ("mijn naam is", Strength::Clear),
    ("ik heet", Strength::Clear),
    // Polish
    ("mam na imię", Strength::Clear),
    ("nazywam się", Strength::Clear),
    // Nordic
    ("jag heter", Strength::Clear),
    ("mitt namn är", Strength::Clear),
    ("jeg hedder", Strength::Clear),
    ("jeg heter", Strength::Clear),
    ("mit navn er", Strength::Clear),
    ("mitt navn er", Strength::Clear),
    // Russian, Ukrainian
    ("меня зовут", Strength::Clear),
    ("моё имя", Strength::Clear),
    ("мое имя", Strength::Clear),
    ("мене звати", Strength::Clear),
    // Turkish
    ("benim adım", Strength::Clear),
    // Romanian, Czech
    ("numele meu este", Strength::Clear),
    ("mă numesc", Strength::Clear),
    ("jmenuji se", Strength::Clear),
];

/// Words before an introduction that make it somebody else's, a question or a
/// supposition: "you said my name is …", "if I'm …".
const REPORTED: &[&str] = &[
    "say", "says", "said", "saying", "tell", "told", "tells", "think", "thinks", "thought", "if",
    "not", "never", "why", "does", "did", "isn't", "pretend", "imagine", "like", "called", "where",
    "when", "that", "because", "until", "while", "sagte", "sagt", "wenn", "dass", "dijo", "dice",
    "si",
];

/// Lower-case words inside a name.
const PARTICLES: &[&str] = &[
    "van", "von", "der", "den", "de", "del", "della", "di", "da", "das", "do", "dos", "du", "la",
    "le", "ten", "ter", "zu", "bin", "ibn", "ben", "bint", "al", "el", "af", "av",
];

/// Capitalised words that follow an introduction and are no name, or that
/// start the next clause of a caller who does not pause.
const NOT_NAMES: &[&str] = &[
    // pronouns, clause starts
    "i",
    "i'm",
    "i'd",
    "i'll",
    "i've",
    "and",
    "but",
    "so",
    "because",
    "can",
    "could",
    "would",
    "will",
    "what",
    "when",
    "where",
    "why",
    "how",
    "who",
    "the",
    "a",
    "an",
    "my",
    "your",
    "we",
    "you",
    "he",
    "she",
    "it",
    "they",
    "is",
    "are",
    "do",
    "does",
    "did",
    "please",
    "thanks",
    "thank",
    "hello",
    "hi",
    "hey",
    "yes",
    "no",
    "ok",
    "okay",
    "well",
    "sorry",
    "not",
    "just",
    "also",
    "then",
    "now",
    "here",
    "there",
    "from",
    "in",
    "on",
    "at",
    "with",
    "for",
    "calling",
    "good",
    "great",
    "fine",
    "happy",
    "nobody",
    "none",
    "nothing",
    "anonymous",
    "unknown",
    "private",
    "someone",
    "somebody",
    "important",
    "god",
    "covid",
    "und",
    "ich",
    "aber",
    "bitte",
    "y",
    "e",
    "et",
    "и",
    "а",
    // days, months, times
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "january",
    "february",
    "march",
    "april",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "today",
    "tomorrow",
    "christmas",
    "easter",
    // nations, languages, faiths: "I'm Italian"
    "american",
    "british",
    "english",
    "irish",
    "scottish",
    "welsh",
    "canadian",
    "australian",
    "german",
    "french",
    "italian",
    "spanish",
    "portuguese",
    "brazilian",
    "mexican",
    "dutch",
    "polish",
    "russian",
    "ukrainian",
    "indian",
    "pakistani",
    "chinese",
    "japanese",
    "korean",
    "turkish",
    "greek",
    "swedish",
    "norwegian",
    "danish",
    "finnish",
    "swiss",
    "austrian",
    "belgian",
    "african",
    "asian",
    "european",
    "latino",
    "latina",
    "hispanic",
    "arab",
    "israeli",
    "egyptian",
    "nigerian",
    "kenyan",
    "vietnamese",
    "thai",
    "filipino",
    "catholic",
    "christian's",
    "muslim",
    "jewish",
    "hindu",
    "buddhist",
    "protestant",
    "vegan",
    "vegetarian",
    "republican",
    "democrat",
    "deutscher",
    "deutsche",
    "español",
    "española",
    "mexicano",
    "mexicana",
];

const TITLES: &[&str] = &[
    "mr.", "mrs.", "ms.", "dr.", "prof.", "mr", "mrs", "ms", "dr", "prof", "herr", "frau", "señor",
    "señora", "sir", "miss",
];

/// What may stand after a weakly introduced name: "this is Nora calling".
const MAY_FOLLOW: &[&str] = &[
    "and", "from", "calling", "speaking", "here", "again", "und", "aus", "von", "y", "de", "by",
];

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

/// The caller's name from the collected data: `first_name`, `name`,
/// `user_name`, `full_name`, in any case and spacing, in this order.
#[must_use]
pub fn from_facts(facts: &[Fact]) -> Option<CallerName> {
    ["firstname", "name", "username", "fullname"]
        .iter()
        .find_map(|wanted| {
            facts
                .iter()
                .filter(|fact| fold_key(&fact.key) == *wanted)
                .find_map(|fact| match &fact.value {
                    Value::String(text) => CallerName::parse(text).ok(),
                    _ => None,
                })
        })
}

fn fold_key(key: &str) -> String {
    key.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// The model's `caller_name`, accepted only if the caller said it: every word
/// of it stands in one of the caller's own turns.
#[must_use]
pub fn confirmed_by_turns(name: CallerName, turns: &[Turn]) -> Option<CallerName> {
    let words_of = |text: &str| -> Vec<String> {
        text.nfc()
            .collect::<String>()
            .split(|c: char| !c.is_alphabetic() && !"'’-".contains(c))
            .map(str::to_lowercase)
            .collect()
    };
    let wanted = words_of(name.as_str());
    turns
        .iter()
        .filter(|t| t.role == Role::Caller)
        .any(|turn| {
            let said = words_of(&turn.text);
            wanted
                .iter()
                .filter(|w| !w.is_empty())
                .all(|w| said.contains(w))
        })
        .then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heard(lines: &[(Role, &str)]) -> Option<String> {
        let turns: Vec<Turn> = lines
            .iter()
            .map(|(role, text)| Turn {
                role: *role,
                text: (*text).to_owned(),
            })
            .collect();
        from_turns(&turns).map(|n| n.to_string())
    }

    fn check(said: &str, expected: Option<&str>) {
        assert_eq!(
            heard(&[(Role::Caller, said)]).as_deref(),
            expected,
            "{said}"
        );
    }

    #[test]
    fn callers_introduce_themselves_in_many_ways() {
        check(
            "Hi, my name is Nora. I'd like raised beds for tomatoes.",
            Some("Nora"),
        );
        check("Hi, my name is Nora, can you help me?", Some("Nora"));
        check(
            "My name's Mary-Jane O'Neil and I have a question",
            Some("Mary-Jane O'Neil"),
        );
        check("my name is, uh, Nora", Some("Nora"));
        check("Yes, this is Tomasz.", Some("Tomasz"));
        check("Hello, this is Anna calling about the order", Some("Anna"));
        check("I'm Zoë and I live in Leeds", Some("Zoë"));
        check("My name is Dr. Smith.", Some("Dr. Smith"));
        check(
            "My name is Ludwig van Beethoven.",
            Some("Ludwig van Beethoven"),
        );
        check("My name is D’Angelo", Some("D'Angelo"));
    }

    #[test]
    fn in_many_languages() {
        check("Guten Tag, mein Name ist Jürgen Groß.", Some("Jürgen Groß"));
        check("Oi, meu nome é João.", Some("João"));
        check("Hola, me llamo José Luis", Some("José Luis"));
        check("Bonjour, je m’appelle Hélène", Some("Hélène"));
        check("Dzień dobry, mam na imię Łukasz.", Some("Łukasz"));
        check("Здравствуйте, меня зовут Наталья.", Some("Наталья"));
        check("Jag heter Åsa", Some("Åsa"));
    }

    #[test]
    fn what_is_no_introduction_names_nobody() {
        for said in [
            "My name is nobody you know.",
            "My name is on the account.",
            "My name is not Bob.",
            "My name isn't Bob.",
            "You said my name is Bob.",
            "Did she say my name is Bob?",
            "I'm Italian.",
            "I'm calling for Nora.",
            "This is Nora's husband.",
            "This is Monday's order.",
            "This is Great",
            "This is Margaret, right?",
            "Is this Margaret?",
            "I am happy with it.",
            "I'm Interested in the Large Garden Package",
            "My husband's name is Tom.",
            "I am Not sure",
            "MY NAME IS IMPORTANT",
            "I'm at Heathrow",
            "This is BBC.",
            "...",
            "",
        ] {
            check(said, None);
        }
    }

    #[test]
    fn the_agents_introduction_never_names_the_caller() {
        let agent = (Role::Agent, "Hi, my name is Margaret. How can I help?");
        assert_eq!(heard(&[agent, (Role::Caller, "I need compost.")]), None);
        assert_eq!(heard(&[agent, (Role::Caller, "This is Margaret.")]), None);
        assert_eq!(
            heard(&[agent, (Role::Caller, "Hello Margaret, this is Nora.")]).as_deref(),
            Some("Nora")
        );
        // Agent and caller may share a name, if the caller says so clearly.
        assert_eq!(
            heard(&[agent, (Role::Caller, "Funny, my name is Margaret, too.")]).as_deref(),
            Some("Margaret")
        );
    }

    #[test]
    fn collected_data_names_the_caller_in_any_spelling_of_the_key() {
        let fact = |key: &str, value: Value| Fact {
            key: key.into(),
            value,
        };
        let name = |facts: &[Fact]| from_facts(facts).map(|n| n.to_string());
        assert_eq!(
            name(&[fact("First Name", "Nora".into())]).as_deref(),
            Some("Nora")
        );
        assert_eq!(
            name(&[fact("USER-NAME", "Zoë".into())]).as_deref(),
            Some("Zoë")
        );
        let both = [
            fact("full_name", "Nora Lind".into()),
            fact("first_name", "Nora".into()),
        ];
        assert_eq!(name(&both).as_deref(), Some("Nora"));
        for value in ["unknown", "N/A", "", "not provided", "4711", "n.a."] {
            assert_eq!(name(&[fact("name", value.into())]), None, "{value}");
        }
        assert_eq!(
            name(&[fact("name", 7.into()), fact("company_name", "Acme".into())]),
            None
        );
    }

    #[test]
    fn the_models_name_must_have_been_said_by_the_caller() {
        let turns = [
            Turn {
                role: Role::Agent,
                text: "May I have your name? I am Margaret.".into(),
            },
            Turn {
                role: Role::Caller,
                text: "Nora, please.".into(),
            },
        ];
        let name = |raw| CallerName::parse(raw).unwrap();
        assert!(confirmed_by_turns(name("Nora"), &turns).is_some());
        assert!(confirmed_by_turns(name("Margaret"), &turns).is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_heard_is_a_name_that_may_be_spoken(said in "\\PC{0,120}") {
            let line = format!("my name is {said}");
            for text in [said.as_str(), line.as_str()] {
                if let Some(name) = heard(&[(Role::Caller, text)]) {
                    prop_assert!(name.chars().count() <= MAX_NAME_CHARS);
                    let unspeakable = name.contains(['{', '}', '<', '\n']);
                    prop_assert!(!unspeakable && !name.contains(char::is_numeric));
                    prop_assert!(CallerName::parse(&name).is_ok());
                }
            }
        }
    }
}
