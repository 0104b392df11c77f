//! What holds whatever strangers send: each rule takes any bytes and panics if
//! it is broken. `make fuzz` looks for such bytes; `cargo test` tries those
//! that are kept in `fuzz/corpus`.

use elaoms::domain::call_event::{
    self, Call, CallEvent, Fact, MAX_FACTS, MAX_TURN_CHARS, MAX_TURNS, Role, Turn,
};
use elaoms::domain::caller_id::CallerId;
use elaoms::domain::caller_rules::CallerRules;
use elaoms::domain::envelope::EnvelopeSplitter;
use elaoms::domain::greeting::{Greeting, MAX_GREETING_WORDS};
use elaoms::domain::ids::{AgentId, ConversationId};
use elaoms::domain::learning::Learning;
use elaoms::domain::memory::{Memory, MemoryKind};
use elaoms::domain::name::{self, CallerName, MAX_NAME_CHARS};
use elaoms::domain::search::{Index, MAX_RESULTS, Query};
use elaoms::http::{is_signed, sign};
use jiff::Timestamp;
use serde_json::{Value, json};

pub type Property = fn(&[u8]);

/// Every rule by its name, which is also its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Property)] = &[
    ("signature", signature),
    ("event", event),
    ("envelope", envelope),
    ("caller_id", caller_id),
    ("name", name),
    ("greeting", greeting),
    ("search", search),
];

const KEY: &[u8] = b"wsec_fuzz";
const CALLER: &str = "+16125550101";

fn now() -> Timestamp {
    Timestamp::from_second(1_795_341_600).unwrap()
}

/// Divides the input at its first line break.
fn divided(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|b| *b == b'\n');
    let (head, tail) = data.split_at(end.unwrap_or(data.len()));
    (head, tail.get(1..).unwrap_or_default())
}

/// A body passes only with the signature that its key makes, wherever that
/// stands in the header. The fuzzer cannot make one, so `~` stands for it and
/// `^` for the time.
fn signature(data: &[u8]) {
    let (header, body) = divided(data);
    let header = String::from_utf8_lossy(header);
    let good = sign(body, KEY, now());
    let (time, mac) = good.split_once(",v0=").unwrap();
    let time = time.strip_prefix("t=").unwrap();
    let header = header.replace('^', time).replace('~', mac);
    if is_signed(&header, body, KEY, now()) {
        let times = header
            .split(',')
            .filter_map(|p| p.trim().strip_prefix("t="));
        let seconds: i64 = times.clone().next().unwrap().parse().unwrap();
        assert!((now().as_second() - seconds).abs() <= 30 * 60, "{header}");
        let folded = header.to_ascii_lowercase();
        // The time may be written in other ways ("+1"), and is signed as it is
        // written: only for the plain one is the signature known here.
        assert!(
            folded.contains(mac) || times.clone().next() != Some(time),
            "{header}"
        );
        let mut forged = body.to_vec();
        forged.push(b' ');
        assert!(!is_signed(&header, &forged, KEY, now()), "{header}");
        assert!(!is_signed(&header, body, b"other", now()), "{header}");
    }
    assert!(is_signed(&good, body, KEY, now()));
    assert!(is_signed(
        &format!("v1=x,v0={mac}, t={time}"),
        body,
        KEY,
        now()
    ));
}

/// An event is read alike however its JSON is laid out, and what is learned
/// from it is bounded.
fn event(data: &[u8]) {
    let read = |body: &[u8]| call_event::parse(body, now(), &CallerRules::default());
    let event = read(data);
    if let Ok(CallEvent::Transcription(call)) = &event {
        bounded(call);
    }
    // A name given twice has one value here.
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let compact = read(&serde_json::to_vec(&value).unwrap());
    let pretty = read(&serde_json::to_vec_pretty(&value).unwrap());
    assert_eq!(compact.is_ok(), pretty.is_ok());
    if let (Ok(compact), Ok(pretty)) = (compact, pretty) {
        assert_eq!(compact, pretty);
    }
}

fn bounded(call: &Call) {
    assert!(call.started_at <= now(), "a call from the future");
    assert!(call.turns.len() <= MAX_TURNS && call.facts.len() <= MAX_FACTS);
    for turn in &call.turns {
        assert!(!turn.text.trim().is_empty());
        assert!(turn.text.chars().count() <= MAX_TURN_CHARS);
    }
    let id = &call.key.conversation_id;
    assert_eq!(ConversationId::parse(id.as_str()).as_ref(), Ok(id));
    let stem = id.path_stem();
    assert!(
        stem.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    );
    assert!((1..=128).contains(&stem.len()));
    let caller = CallerId::parse(CALLER).unwrap();
    let learning = Learning::from_call(call, caller).unwrap();
    assert_eq!(learning.agent, call.key.agent_id.clone().unwrap());
    assert!(
        learning
            .memories
            .iter()
            .all(|m| !m.content.trim().is_empty())
    );
    for name in names(&learning.naming) {
        speakable_name(name);
    }
}

/// Recording and envelope together are the body, byte for byte, in whatever
/// pieces it comes.
fn envelope(data: &[u8]) {
    let (sizes, body) = divided(data);
    let split = |next: &mut dyn FnMut() -> usize| {
        let mut splitter = EnvelopeSplitter::default();
        let mut audio = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(next().clamp(1, rest.len()));
            splitter.push(chunk, |bytes| audio.extend_from_slice(bytes));
            assert!(splitter.envelope_len() + audio.len() + tail.len() == body.len());
            rest = tail;
        }
        (splitter.finish(), audio)
    };
    let (whole, recording) = split(&mut || usize::MAX);
    assert!(whole.clone().with_audio(&recording) == body);
    let mut sizes = sizes.iter().cycle();
    let pieces = split(&mut || sizes.next().map_or(1, |size| usize::from(*size)));
    assert!(pieces == (whole.clone(), recording.clone()));
    // What was JSON still is, with nothing under the name.
    if !recording.is_empty() && serde_json::from_slice::<Value>(body).is_ok() {
        assert!(serde_json::from_slice::<Value>(&whole.bytes).is_ok());
    }
}

/// An id that is read again is the same, and has one spelling.
fn caller_id(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = CallerId::parse(&text);
    assert_eq!(CallerId::parse(&format!("\t {text} \n")), parsed);
    if let Some(explicit) = CallerId::parse_unmistakable(&text) {
        assert_eq!(Ok(&explicit), parsed.as_ref());
    }
    let Ok(caller) = parsed else { return };
    let id = caller.as_str();
    assert_eq!(CallerId::parse(id).as_ref(), Ok(&caller), "{id}");
    assert_eq!(CallerId::from_stored(id).as_ref(), Some(&caller), "{id}");
    assert!(id.bytes().all(|b| b.is_ascii_graphic()), "{id}");
    assert_eq!(caller.masked().len(), id.len());
    let debug = format!("{caller:?}");
    assert!(id.len() < 6 || !debug.contains(id), "{id} in {debug}");
}

fn names(naming: &name::Naming) -> impl Iterator<Item = &CallerName> {
    let given = naming.given.iter().map(|(name, _)| name);
    let corrected = naming.correction.iter().flat_map(|c| [&c.wrong, &c.right]);
    given.chain(corrected)
}

fn speakable_name(name: &CallerName) {
    let text = name.as_str();
    assert_eq!(CallerName::parse(text).as_ref(), Ok(name), "{text:?}");
    assert!(
        (1..=MAX_NAME_CHARS).contains(&text.chars().count()),
        "{text:?}"
    );
    assert!(text.chars().any(char::is_alphabetic), "{text:?}");
    let odd =
        |c: char| c.is_control() || c.is_ascii_digit() || "{}<>[]()\"\\/:;@&#$%*_=|`".contains(c);
    assert!(!text.contains(odd), "{text:?}");
    assert!(!name.first_word().is_empty(), "{text:?}");
}

/// Whoever says what, a name is at most a name. Each line of the input is a
/// turn; one that begins with `>` is the agent's.
fn name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(name) = CallerName::parse(&text) {
        speakable_name(&name);
    }
    let turns: Vec<Turn> = text
        .lines()
        .map(|line| match line.strip_prefix('>') {
            Some(line) => (Role::Agent, line),
            None => (Role::Caller, line),
        })
        .map(|(role, text)| Turn {
            role,
            text: text.to_owned(),
        })
        .collect();
    let fact = Fact {
        key: "First Name".into(),
        value: text.as_ref().into(),
    };
    for name in names(&name::told(&turns, &[fact])) {
        speakable_name(name);
    }
    for name in names(&name::told(&turns, &[])) {
        speakable_name(name);
        let said = turns.iter().any(|t| t.role == Role::Caller);
        assert!(said, "{name} is no caller's");
    }
}

/// What a model answers is spoken only if it can be, and checked again it is
/// the same.
fn greeting(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let made = json!({"next_greeting": text, "key_topics": [text, "roses"], "sentiment": "positive",
        "conversation_summary": text, "caller_name": text});
    for answer in [made.to_string(), text.into_owned()] {
        let Ok(greeting) = Greeting::from_answer(&answer) else {
            continue;
        };
        let texts = greeting.next_greeting.iter().chain(&greeting.key_topics);
        for text in texts.chain(&greeting.conversation_summary) {
            let odd = |c: char| c.is_control() || "{}<>".contains(c);
            assert!(!text.contains(odd), "{text:?}");
            assert!(!text.contains("://"), "{text:?}");
            assert!(!text.trim().is_empty(), "{text:?}");
        }
        if let Some(name) = &greeting.caller_name {
            speakable_name(name);
        }
        if let Some(text) = &greeting.next_greeting {
            assert!(
                text.split_whitespace().count() <= MAX_GREETING_WORDS,
                "{text:?}"
            );
            assert!(!text.contains("..") && !text.contains('…'), "{text:?}");
            let again = json!({"next_greeting": text}).to_string();
            let again = Greeting::from_answer(&again).unwrap();
            assert_eq!(again.next_greeting.as_ref(), Some(text));
        }
    }
}

/// A search finds at most ten different memories, none of another agent. The
/// first line asks; the others are memories, those that begin with `>` of
/// another agent.
fn search(data: &[u8]) {
    let (query, lines) = divided(data);
    let query = String::from_utf8_lossy(query);
    let (agent, other) = (AgentId::parse("a").unwrap(), AgentId::parse("b").unwrap());
    let memories: Vec<Memory> = String::from_utf8_lossy(lines)
        .lines()
        .zip(0..)
        .map(|(line, ordinal)| Memory {
            agent: Some(
                if line.starts_with('>') {
                    &other
                } else {
                    &agent
                }
                .clone(),
            ),
            conversation_id: ConversationId::parse(&format!("c{}", ordinal / 4)).unwrap(),
            ordinal,
            kind: MemoryKind::Turn,
            sector: MemoryKind::Turn.sector(),
            content: line.to_owned(),
            before: String::new(),
            after: String::new(),
            salience: 0.7,
            timestamp: Timestamp::UNIX_EPOCH,
            language: None,
        })
        .collect();
    let index = Index::new(memories.clone());
    assert_eq!(index.len(), memories.len());
    let ask = |index: &Index, text: &str| {
        index.search(&Query {
            text,
            agent: &agent,
            now: Timestamp::UNIX_EPOCH,
            vector: None,
        })
    };
    let found = ask(&index, &query);
    assert!(found.len() <= MAX_RESULTS);
    let own = || memories.iter().filter(|m| m.agent.as_ref() == Some(&agent));
    for (i, hit) in found.iter().enumerate() {
        assert!(own().any(|m| hit.content.contains(&m.content)));
        assert!(!hit.content.starts_with('>') && !hit.content.contains("\n>"));
        assert!(found[..i].iter().all(|other| other.content != hit.content));
    }
    // Building and growing are the same.
    let mut calls = memories.chunk_by(|a, b| a.conversation_id == b.conversation_id);
    let mut grown = Index::default();
    calls.by_ref().for_each(|call| grown.extend(call.to_vec()));
    assert_eq!(ask(&grown, &query), found);
    // What is asked for word by word is found; of a long query the start counts.
    for wanted in own().filter(|m| m.content.chars().count() <= 1_000).take(4) {
        let content = &wanted.content;
        assert!(!ask(&index, content).is_empty(), "{content:?}");
    }
}
