//! Memories: what a caller said and the facts collected of them.

use jiff::Timestamp;
use serde_json::Value;

use strum::{EnumString, IntoStaticStr};

use super::call_event::{Call, Fact, Role, shortened};
use super::ids::{AgentId, ConversationId};
use super::language::Language;
use super::search::TextLanguage;
use super::vector::Vector;

/// Salience of a collected fact (design, "Learning from a call").
pub const FACT_SALIENCE: f32 = 0.9;
/// Salience of a caller's turn.
pub const TURN_SALIENCE: f32 = 0.7;
/// A turn shorter than this many characters is no memory.
const MIN_TURN_CHARS: usize = 3;
/// How much of the neighbouring dialogue is kept with a turn, in characters.
const MAX_CONTEXT_CHARS: usize = 600;

/// A turn up to this long, in characters, says little without what was asked:
/// "Yes, on Tuesdays."
const SHORT_TURN: usize = 60;
/// How much of what the agent had asked goes with a short turn, in characters,
/// its end.
const MAX_ASKED: usize = 160;
/// How much of a memory an embeddings model is given, in characters: more than
/// anybody says in a turn, less than any model takes.
const MAX_PASSAGE_CHARS: usize = 1_500;

/// Where a memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum MemoryKind {
    /// A collected value.
    Fact,
    /// Something the caller said.
    Turn,
}

impl MemoryKind {
    /// The name in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The sector of a memory of this kind, where the store has none of its own.
    #[must_use]
    pub fn sector(self) -> Sector {
        match self {
            Self::Fact => Sector::Semantic,
            Self::Turn => Sector::Episodic,
        }
    }
}

/// A sector of memory, in OpenMemory's words. Our own stores use the first
/// two; OpenMemory classifies by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Sector {
    /// A fact.
    Semantic,
    /// An event.
    Episodic,
    /// A way of doing something.
    Procedural,
    /// A feeling.
    Emotional,
    /// A thought about thoughts.
    Reflective,
}

impl Sector {
    /// The name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One memory of one caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// The agent to whom it was said; no other agent finds it. `None` for
    /// memories of a time before agents were told apart: every agent finds them.
    pub agent: Option<AgentId>,
    /// The call it comes from.
    pub conversation_id: ConversationId,
    /// Its place among the memories of that call.
    pub ordinal: u32,
    /// Fact or turn.
    pub kind: MemoryKind,
    /// What the store takes it for.
    pub sector: Sector,
    /// What is shown to the agent.
    pub content: String,
    /// What the agent said right before, searched but never shown.
    pub before: String,
    /// What the agent said right after, searched but never shown.
    pub after: String,
    /// 0 to 1; permanent, there is no decay.
    pub salience: f32,
    /// When the call took place.
    pub timestamp: Timestamp,
    /// In what language it was said, where that is known.
    pub language: Option<Language>,
}

impl Memory {
    /// What the agent had asked, its end, where the turn says little without it;
    /// else nothing.
    #[must_use]
    pub fn asked(&self) -> &str {
        if self.content.chars().count() > SHORT_TURN {
            return "";
        }
        end_of(&self.before, MAX_ASKED)
    }

    /// What an embeddings model is given of it: of a short turn what was asked,
    /// too.
    #[must_use]
    pub fn passage(&self) -> String {
        match self.asked() {
            "" => shortened(self.content.clone(), MAX_PASSAGE_CHARS),
            asked => format!("{asked}\n{}", self.content),
        }
    }

    /// Whether an agent may know it.
    #[must_use]
    pub fn is_known_to(&self, agent: &AgentId) -> bool {
        self.agent.as_ref().is_none_or(|own| own == agent)
    }

    /// Whether both are the caller's turns in one call: neighbours, where they
    /// stand beside each other.
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        (self.kind, other.kind) == (MemoryKind::Turn, MemoryKind::Turn)
            && self.conversation_id == other.conversation_id
            && self.agent == other.agent
    }
}

/// The vector of a memory.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryVector {
    /// With [`Self::ordinal`], which of its caller's memories it is of.
    pub conversation_id: ConversationId,
    pub ordinal: u32,
    /// When the memory was said.
    pub timestamp: Timestamp,
    pub vector: Vector,
}

impl MemoryVector {
    /// The vector of this memory.
    #[must_use]
    pub fn of(memory: &Memory, vector: Vector) -> Self {
        Self {
            conversation_id: memory.conversation_id.clone(),
            ordinal: memory.ordinal,
            timestamp: memory.timestamp,
            vector,
        }
    }
}

/// The memories of a call: its facts, then its turns in order.
#[must_use]
pub fn of_call(call: &Call, agent: &AgentId) -> Vec<Memory> {
    let language = spoken_language(call);
    let memory = |kind: MemoryKind, salience, content, before, after| Memory {
        agent: Some(agent.clone()),
        conversation_id: call.key.conversation_id.clone(),
        ordinal: 0,
        kind,
        sector: kind.sector(),
        content,
        before,
        after,
        salience,
        timestamp: call.started_at,
        language: language.clone(),
    };
    let telling = call.facts.iter().filter(|fact| !says_nothing(&fact.value));
    let facts = telling.map(|fact| {
        memory(
            MemoryKind::Fact,
            FACT_SALIENCE,
            sentence(fact),
            String::new(),
            String::new(),
        )
    });
    let turns = call.turns.iter().enumerate().filter_map(|(i, turn)| {
        let worth = turn.role == Role::Caller
            && turn.text.chars().count() >= MIN_TURN_CHARS
            && turn.text.chars().any(char::is_alphanumeric);
        worth.then(|| {
            let before: Vec<&str> = agent_texts(call.turns[..i].iter().rev());
            let after: Vec<&str> = agent_texts(call.turns[i + 1..].iter());
            memory(
                MemoryKind::Turn,
                TURN_SALIENCE,
                turn.text.clone(),
                shorten(before.into_iter().rev()),
                shorten(after.into_iter()),
            )
        })
    });
    (0..)
        .zip(facts.chain(turns))
        .map(|(ordinal, memory)| Memory { ordinal, ..memory })
        .collect()
}

/// The last `most` characters of what was said, whole words.
fn end_of(text: &str, most: usize) -> &str {
    let text = text.trim();
    let start = text.char_indices().nth_back(most).map(|(at, _)| at);
    let Some(start) = start else {
        return text;
    };
    text[start..].split_once(' ').map_or("", |(_, rest)| rest)
}

/// As ElevenLabs tells it, else as the caller's words do.
fn spoken_language(call: &Call) -> Option<Language> {
    call.language.clone().or_else(|| {
        let said = call.turns.iter().filter(|turn| turn.role == Role::Caller);
        let detected = TextLanguage::detect(said.map(|turn| turn.text.as_str()))?;
        Language::parse(detected.code()).ok()
    })
}

fn agent_texts<'a>(turns: impl Iterator<Item = &'a super::call_event::Turn>) -> Vec<&'a str> {
    turns
        .take_while(|t| t.role == Role::Agent)
        .map(|t| t.text.as_str())
        .collect()
}

fn shorten<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = texts.collect();
    shortened(texts.join(" "), MAX_CONTEXT_CHARS)
}

/// A collected value as a sentence: `First Name = Nora` becomes "The caller's
/// first name is Nora."
fn sentence(fact: &Fact) -> String {
    let key = readable_key(&fact.key);
    let value = match &fact.value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    let stop = if value.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    // `fact_key` reads the key of either form again.
    if fact.value.is_boolean() || key.contains(IS) {
        format!("{ABOUT}{key}: {value}{stop}")
    } else {
        format!("{OWN}{key}{IS}{value}{stop}")
    }
}

const OWN: &str = "The caller's ";
const IS: &str = " is ";
const ABOUT: &str = "About the caller, ";

/// Whether a value was collected only because there must be one: "not provided".
/// It is nothing to remember, and no later value of what is known.
fn says_nothing(value: &Value) -> bool {
    const PLACEHOLDERS: &[&str] = &[
        "",
        "n/a",
        "na",
        "none",
        "null",
        "nil",
        "-",
        "unknown",
        "undefined",
        "unspecified",
        "not provided",
        "not given",
        "not mentioned",
        "not specified",
        "not stated",
        "not available",
        "not applicable",
        "not disclosed",
        "not discussed",
        "not known",
        "no information",
        "keine angabe",
        "unbekannt",
        "nicht angegeben",
        "no especificado",
        "no proporcionado",
        "desconocido",
        "non spécifié",
        "inconnu",
        "non specificato",
        "não informado",
        "onbekend",
        "niet vermeld",
        "okänt",
        "nie podano",
        "не указано",
    ];
    let Value::String(text) = value else {
        return value.is_null();
    };
    let text = text.trim().trim_end_matches('.').to_lowercase();
    PLACEHOLDERS.contains(&text.as_str())
}

/// What a fact tells of the caller, whatever the value: "delivery day" of "The
/// caller's delivery day is Tuesday."
#[must_use]
pub fn fact_key(content: &str) -> Option<&str> {
    let own = content.strip_prefix(OWN);
    let about = content.strip_prefix(ABOUT);
    let own = own.and_then(|rest| rest.split_once(IS));
    let about = about.and_then(|rest| rest.split_once(": "));
    own.or(about).map(|(key, _)| key)
}

/// `First Name`, `first_name` and `firstName` all read "first name".
fn readable_key(key: &str) -> String {
    let mut words = String::with_capacity(key.len() + 4);
    let mut previous_lower = false;
    for c in key.chars() {
        if c.is_uppercase() && previous_lower {
            words.push(' ');
        }
        previous_lower = c.is_lowercase() || c.is_numeric();
        words.extend(if c == '_' || c == '-' || c == ':' {
            vec![' ']
        } else {
            c.to_lowercase().collect()
        });
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call_event::{CallEvent, parse};
    use crate::domain::caller_rules::CallerRules;

    fn memories(body: &serde_json::Value) -> Vec<Memory> {
        let CallEvent::Transcription(call) = parse(
            body.to_string().as_bytes(),
            Timestamp::UNIX_EPOCH,
            &CallerRules::default(),
        )
        .unwrap() else {
            panic!("no transcription")
        };
        of_call(&call, call.key.agent_id.as_ref().unwrap())
    }

    #[test]
    fn facts_and_turns_become_memories_with_their_neighbours() {
        let found = memories(&serde_json::json!({
            "type": "post_call_transcription",
            "data": {
                "agent_id": "a", "conversation_id": "c",
                "transcript": [
                    {"role": "agent", "message": "When would you like it delivered?"},
                    {"role": "user", "message": "Yes, on Tuesdays."},
                    {"role": "agent", "message": "Tuesdays it is."},
                    {"role": "user", "message": "ok"},
                    {"role": "user", "message": "..."},
                ],
                "analysis": {"data_collection_results": {
                    "firstName": {"value": "Nora"}, "wants_callback": {"value": true}, "plot-size": {"value": 24},
                }},
            }
        }));
        let contents: Vec<&str> = found.iter().map(|m| m.content.as_str()).collect();
        assert_eq!(
            contents,
            [
                "The caller's first name is Nora.",
                "The caller's plot size is 24.",
                "About the caller, wants callback: yes.",
                "Yes, on Tuesdays.",
            ]
        );
        let turn = &found[3];
        assert_eq!(
            (turn.before.as_str(), turn.after.as_str()),
            ("When would you like it delivered?", "Tuesdays it is.")
        );
        assert_eq!((turn.sector, turn.ordinal), (Sector::Episodic, 3));
    }

    #[test]
    fn a_fact_names_what_it_tells_of() {
        let told = |key: &str, value: Value| {
            let content = sentence(&Fact {
                key: key.into(),
                value,
            });
            fact_key(&content).map(str::to_owned)
        };
        for value in [
            Value::from("Tuesday: the day is free"),
            true.into(),
            7.into(),
        ] {
            for (key, expected) in [
                ("Delivery_Day", "delivery day"),
                ("what_is_wanted", "what is wanted"),
                ("what: is wanted", "what is wanted"),
            ] {
                assert_eq!(told(key, value.clone()).as_deref(), Some(expected));
            }
        }
        assert_eq!(fact_key("I like roses"), None);
        for value in ["Not provided.", "N/A", "", "unknown", "keine Angabe"] {
            assert!(says_nothing(&value.into()), "{value}");
        }
        for value in [Value::from("none of the roses"), false.into(), 0.into()] {
            assert!(!says_nothing(&value), "{value}");
        }
    }
}
