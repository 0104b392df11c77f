//! What ElevenLabs sends after a call, read leniently.
//!
//! The sender is authenticated before anything here runs, so nothing is
//! refused for its shape: any field may be missing, null or of another type
//! and then counts as absent. Only an event whose type or conversation cannot
//! be told at all is an error, and the caller of this module keeps its body
//! as a dead letter.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;
use strum::{EnumString, IntoStaticStr};

use super::caller_id::CallerId;
use super::caller_rules::CallerRules;
use super::connection::TEST_EVENT;
use super::fields::{each_element, each_field, fields, text};
use super::ids::{AgentId, ConversationId};
use super::language::Language;

/// One authenticated post-call event.
#[derive(Debug, Clone, PartialEq)]
pub enum CallEvent {
    /// `post_call_transcription`: a call has ended and was transcribed.
    Transcription(Call),
    /// `post_call_audio`: the recording; its audio travels beside the event.
    Audio(EventKey),
    /// `call_initiation_failure`: an outbound call that never connected.
    InitiationFailure(EventKey),
}

impl CallEvent {
    /// What identifies the event.
    #[must_use]
    pub fn key(&self) -> &EventKey {
        match self {
            Self::Transcription(call) => &call.key,
            Self::Audio(key) | Self::InitiationFailure(key) => key,
        }
    }
}

/// What identifies an event: its kind, conversation and agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventKey {
    /// What the event tells.
    pub kind: EventKind,
    /// The conversation it tells it of.
    pub conversation_id: ConversationId,
    /// The agent, where the event names one.
    pub agent_id: Option<AgentId>,
}

impl EventKey {
    /// That of the event with which a call ends.
    #[must_use]
    pub fn transcription(conversation: &ConversationId) -> Self {
        Self {
            kind: EventKind::Transcription,
            conversation_id: conversation.clone(),
            agent_id: None,
        }
    }

    /// What two deliveries of one event have in common, and no two events.
    #[must_use]
    pub fn unique(&self) -> String {
        format!("{} {}", self.kind.as_str(), self.conversation_id)
    }
}

/// The event types of ElevenLabs' post-call webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString, IntoStaticStr)]
pub enum EventKind {
    /// A call has ended and was transcribed.
    #[strum(serialize = "post_call_transcription")]
    Transcription,
    /// Its recording.
    #[strum(serialize = "post_call_audio")]
    Audio,
    /// An outbound call that never connected.
    #[strum(serialize = "call_initiation_failure")]
    InitiationFailure,
}

impl EventKind {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A finished call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What identifies the event.
    pub key: EventKey,
    /// The caller, unless withheld or unknown (then nothing is learned).
    pub caller: Option<CallerId>,
    /// When the call started.
    pub started_at: Timestamp,
    /// In what language most of it was held, where that is told.
    pub language: Option<Language>,
    /// What was said, in order, without empty turns.
    pub turns: Vec<Turn>,
    /// `analysis.data_collection_results` with a value.
    pub facts: Vec<Fact>,
}

impl Call {
    /// Whether the caller said anything from which a greeting could be made.
    #[must_use]
    pub fn caller_spoke(&self) -> bool {
        self.turns
            .iter()
            .any(|t| t.role == Role::Caller && t.text.chars().any(char::is_alphanumeric))
    }
}

/// Who speaks a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// ElevenLabs' `user`.
    Caller,
    /// Everything else.
    Agent,
}

/// One turn of the dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said, trimmed, never empty.
    pub text: String,
}

/// One collected value: `analysis.data_collection_results.<key>.value`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// The operator's name for it.
    pub key: String,
    /// A string, number or boolean.
    pub value: Value,
}

/// An authentic body that is no event we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// It only tries a signature (`elaoms check setup`).
    #[error("the event is a test")]
    Test,
    /// `type` is missing or unknown.
    #[error("the event type is unknown")]
    UnknownType,
    /// `data.conversation_id` is missing or unusable.
    #[error("the event names no conversation")]
    NoConversation,
    /// A recording without `data.full_audio`.
    #[error("the recording holds no audio")]
    NoAudio,
    /// Our reading of it failed.
    #[error("the event cannot be read")]
    Unreadable,
    /// A transcription without `data.agent_id`.
    #[error("the event names no agent")]
    NoAgent,
}

/// Most turns of a call that are learned from: half from its start, half from
/// its end. Two hours of talk have fewer; the archive keeps all.
pub const MAX_TURNS: usize = 2_000;
/// Longest turn learned from, in characters: some four minutes without a pause.
pub const MAX_TURN_CHARS: usize = 4_000;
/// Longest name of a collected value, in characters.
const MAX_KEY_CHARS: usize = 200;
/// Most collected values learned from.
pub const MAX_FACTS: usize = 200;

/// A body above this size takes long enough to read that no runtime worker
/// should do it, in bytes.
pub const LARGE_BODY: usize = 64 * 1024;

/// Reads an event. `received_at` stands in for the start of a call whose
/// event carries no time, or one that was still to come: greetings are kept in
/// the order of calls, and one from the future would be the newest for ever.
/// Takes time and memory in proportion to what is said
/// in the call.
///
/// # Errors
/// [`EventError`] if the type, conversation or agent cannot be told.
pub fn parse(
    body: &[u8],
    received_at: Timestamp,
    rules: &CallerRules,
) -> Result<CallEvent, EventError> {
    let not_json = |e: &dyn std::fmt::Display| EventError::NotJson(e.to_string());
    let body = std::str::from_utf8(body).map_err(|e| not_json(&e))?;
    let body: &RawValue = serde_json::from_str(body).map_err(|e| not_json(&e))?;
    let [kind, data, event_timestamp] = fields(body.get(), ["type", "data", "event_timestamp"]);
    let kind = text(kind).ok_or(EventError::UnknownType)?;
    if kind == TEST_EVENT {
        return Err(EventError::Test);
    }
    let kind: EventKind = kind.parse().map_err(|_| EventError::UnknownType)?;
    let data = Data::read(data);
    let key = EventKey {
        kind,
        conversation_id: text(data.conversation_id)
            .and_then(|id| ConversationId::parse(&id).ok())
            .ok_or(EventError::NoConversation)?,
        agent_id: text(data.agent_id).and_then(|id| AgentId::parse(&id).ok()),
    };
    Ok(match kind {
        EventKind::Audio => CallEvent::Audio(key),
        EventKind::InitiationFailure => CallEvent::InitiationFailure(key),
        EventKind::Transcription if key.agent_id.is_none() => return Err(EventError::NoAgent),
        EventKind::Transcription => {
            let [started, language, phone_call, whatsapp] = fields(
                data.metadata,
                [
                    "start_time_unix_secs",
                    "main_language",
                    "phone_call",
                    "whatsapp",
                ],
            );
            let started_at = unix_seconds(started).or_else(|| unix_seconds(event_timestamp));
            CallEvent::Transcription(Call {
                caller: caller_of(&data, key.agent_id.as_ref(), phone_call, whatsapp, rules),
                key,
                started_at: started_at.map_or(received_at, |started| started.min(received_at)),
                language: text(language).and_then(|code| Language::parse(&code).ok()),
                turns: turns_of(data.transcript),
                facts: facts_of(data.analysis),
            })
        }
    })
}

/// The parts of `data` that we read, each as it stands in the body.
struct Data<'a> {
    conversation_id: &'a str,
    agent_id: &'a str,
    user_id: &'a str,
    transcript: &'a str,
    metadata: &'a str,
    analysis: &'a str,
    initiation: &'a str,
}

impl<'a> Data<'a> {
    fn read(data: &'a str) -> Self {
        let [
            conversation_id,
            agent_id,
            user_id,
            transcript,
            metadata,
            analysis,
            initiation,
        ] = fields(
            data,
            [
                "conversation_id",
                "agent_id",
                "user_id",
                "transcript",
                "metadata",
                "analysis",
                "conversation_initiation_client_data",
            ],
        );
        Self {
            conversation_id,
            agent_id,
            user_id,
            transcript,
            metadata,
            analysis,
            initiation,
        }
    }
}

/// Which caller a call belongs to: the first of these that is present decides,
/// even if it says that the number is withheld.
fn caller_of(
    data: &Data<'_>,
    agent: Option<&AgentId>,
    phone_call: &str,
    whatsapp: &str,
    rules: &CallerRules,
) -> Option<CallerId> {
    let [direction, external_number] = fields(phone_call, ["direction", "external_number"]);
    let [variables] = fields(data.initiation, ["dynamic_variables"]);
    let [caller_id, called_number] =
        fields(variables, ["system__caller_id", "system__called_number"]);
    let [whatsapp_user_id] = fields(whatsapp, ["whatsapp_user_id"]);
    let outbound = text(direction).as_deref() == Some("outbound");
    let variable = if outbound { called_number } else { caller_id };
    if let Some(raw) = text(external_number).or_else(|| text(variable)) {
        return rules.caller(&raw).ok();
    }
    if let Some(raw) = text(whatsapp_user_id) {
        return rules.whatsapp(&raw).ok();
    }
    text(data.user_id).and_then(|id| rules.claimed(agent, &id))
}

fn turns_of(transcript: &str) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut tail: VecDeque<Turn> = VecDeque::new();
    each_element(transcript, |turn| {
        let [role, message] = fields(turn, ["role", "message"]);
        let Some(message) = text(message) else {
            return;
        };
        let role = match text(role).as_deref() {
            Some("user") => Role::Caller,
            _ => Role::Agent,
        };
        let text = shortened(message, MAX_TURN_CHARS);
        let turn = Turn { role, text };
        if turns.len() < MAX_TURNS / 2 {
            turns.push(turn);
        } else {
            if tail.len() == MAX_TURNS / 2 {
                tail.pop_front();
            }
            tail.push_back(turn);
        }
    });
    turns.extend(tail);
    turns
}

/// The first `most` characters.
pub(super) fn shortened(mut text: String, most: usize) -> String {
    // No more bytes than that, no more characters either.
    if text.len() <= most {
        return text;
    }
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
    text
}

fn facts_of(analysis: &str) -> Vec<Fact> {
    let [results] = fields(analysis, ["data_collection_results"]);
    let mut facts = Vec::new();
    each_field(results, |key, result| {
        let [value] = fields(result, ["value"]);
        let value = match value.as_bytes().first() {
            Some(b'"') => text(value).map(|t| Value::String(shortened(t, MAX_TURN_CHARS))),
            // Neither null nor a list nor an object.
            Some(b't' | b'f' | b'-' | b'0'..=b'9') => serde_json::from_str(value).ok(),
            _ => None,
        };
        if let Some(value) = value {
            let key = shortened(key.into_owned(), MAX_KEY_CHARS);
            facts.push(Fact { key, value });
        }
        facts.len() < MAX_FACTS
    });
    facts
}

fn unix_seconds(value: &str) -> Option<Timestamp> {
    let value: serde_json::Number = serde_json::from_str(value).ok()?;
    let seconds = value.as_i64().or_else(|| {
        // Whole seconds are all we keep of a fraction.
        #[expect(clippy::cast_possible_truncation)]
        value.as_f64().map(|s| s as i64)
    })?;
    Timestamp::from_second(seconds).ok().filter(|_| seconds > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_795_341_999).unwrap()
    }

    fn read(body: &str) -> Result<CallEvent, EventError> {
        // The plans of the world take a while to read.
        static RULES: LazyLock<CallerRules> =
            LazyLock::new(|| CallerRules::new(None, AgentId::parse("agent_trusted").ok()));
        parse(body.as_bytes(), now(), &RULES)
    }

    fn event(data: Value) -> Call {
        let mut data = data;
        if data["agent_id"].is_null() {
            data["agent_id"] = "agent_a".into();
        }
        data["conversation_id"] = "conv_1".into();
        let body = json!({"type": "post_call_transcription", "data": data}).to_string();
        match read(&body).unwrap() {
            CallEvent::Transcription(call) => call,
            other => panic!("{other:?}"),
        }
    }

    fn caller(data: Value) -> Option<String> {
        event(data).caller.map(|c| c.as_str().to_owned())
    }

    #[test]
    fn the_caller_is_the_other_end_of_the_line() {
        let variables = |v: Value| json!({"dynamic_variables": v});
        assert_eq!(
            caller(json!({
                "metadata": {"phone_call": {"direction": "outbound", "external_number": "+48225550102"}},
                "conversation_initiation_client_data": variables(json!({"system__caller_id": "+16125550000"})),
            }))
            .as_deref(),
            Some("+48225550102")
        );
        assert_eq!(
            caller(json!({
                "metadata": {"phone_call": {"direction": "outbound"}},
                "conversation_initiation_client_data":
                    variables(json!({"system__caller_id": "+16125550000", "system__called_number": "+48225550102"})),
            }))
            .as_deref(),
            Some("+48225550102")
        );
        assert_eq!(
            caller(json!({"conversation_initiation_client_data": variables(json!({"system__caller_id": "+16125550101"}))})).as_deref(),
            Some("+16125550101")
        );
        assert_eq!(
            caller(json!({"metadata": {"whatsapp": {"whatsapp_user_id": "5511955550104"}}}))
                .as_deref(),
            Some("5511955550104")
        );
    }

    #[test]
    fn what_a_client_says_of_itself_counts_for_trusted_agents_alone() {
        let says = |agent: &str| caller(json!({"user_id": "+16125550101", "agent_id": agent}));
        assert_eq!(says("agent_trusted").as_deref(), Some("+16125550101"));
        assert_eq!(says("agent_a"), None);
        let other = json!({"user_id": "customer 17", "agent_id": "agent_trusted"});
        assert_eq!(caller(other), None);
    }

    #[test]
    fn a_call_never_starts_after_it_was_received() {
        let started = |seconds: i64| {
            let data = json!({"metadata": {"start_time_unix_secs": seconds}});
            event(data).started_at.as_second()
        };
        assert_eq!(started(4_102_444_800), now().as_second());
        assert_eq!(started(1_795_341_600), 1_795_341_600);
    }

    #[test]
    fn a_withheld_number_is_not_replaced_by_another_field() {
        assert_eq!(
            caller(json!({
                "metadata": {"phone_call": {"external_number": "anonymous"}},
                "user_id": "+16125550101",
            })),
            None
        );
    }

    #[test]
    fn anything_may_be_null_or_of_another_type() {
        let call = event(json!({
            "transcript": [null, 7, {"role": "user", "message": null}, {"role": "user", "message": " Hi "}],
            "analysis": {"data_collection_results": {"a": null, "b": {"value": null}, "c": {"value": true}, "d": {"value": " "}}},
            "metadata": {"start_time_unix_secs": "soon", "error": "text", "phone_call": []},
        }));
        assert_eq!(
            call.turns,
            [Turn {
                role: Role::Caller,
                text: "Hi".into()
            }]
        );
        assert_eq!(
            call.facts,
            [Fact {
                key: "c".into(),
                value: true.into()
            }]
        );
        assert_eq!(call.started_at, now());
    }

    #[test]
    fn what_is_no_event_says_why() {
        let why = |body: &str| read(body).unwrap_err();
        assert!(matches!(why("{"), EventError::NotJson(_)));
        assert_eq!(why("[]"), EventError::UnknownType);
        assert_eq!(
            why(r#"{"type":"nonsense","data":{}}"#),
            EventError::UnknownType
        );
        assert_eq!(
            why(r#"{"type":"post_call_audio","data":{}}"#),
            EventError::NoConversation
        );
        assert_eq!(
            why(r#"{"type":"post_call_transcription","data":{"conversation_id":"c"}}"#),
            EventError::NoAgent
        );
    }

    /// JSON of any shape, in which our field names turn up in any place.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop::sample::select(vec![
            "type",
            "data",
            "agent_id",
            "conversation_id",
            "transcript",
            "metadata",
            "phone_call",
            "analysis",
            "data_collection_results",
            "value",
            "role",
            "message",
            "external_number",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(Value::from("post_call_transcription")),
            "\\PC{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_shape_of_data_is_refused(data in any_json(), extra in any_json()) {
            let mut body = json!({"type": "post_call_transcription", "data": data, "extra": extra});
            if body["data"].is_object() {
                body["data"]["conversation_id"] = "conv_x".into();
                body["data"]["agent_id"] = "agent_x".into();
                prop_assert!(read(&body.to_string()).is_ok());
            } else {
                prop_assert!(read(&body.to_string()).is_err());
            }
        }
    }
}
