//! Calls whose webhook never came: which conversations of an account become
//! events after all, and how.
//!
//! `GET /v1/convai/conversations/{id}` answers with what a post-call event has in
//! `data` (ElevenLabs' API reference); so wrapped, it is the event.

use jiff::{SignedDuration, Timestamp};

use super::fields::{fields, text};

/// How far back a look begins before the time until which everything was found:
/// a call is listed by its start, and its event comes after its end. ElevenLabs
/// ends a call after some hours at most.
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(3);
/// The longest stretch of time that is listed at once.
pub const LONGEST_WINDOW: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A stretch of time in which calls started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Timestamp,
    /// Not included.
    pub until: Timestamp,
}

/// A time cut into stretches, the oldest first.
pub fn windows(since: Timestamp, until: Timestamp) -> impl Iterator<Item = Window> {
    let mut from = since;
    std::iter::from_fn(move || {
        if from >= until {
            return None;
        }
        let end = from.checked_add(LONGEST_WINDOW).unwrap_or(until).min(until);
        let window = Window { from, until: end };
        from = end;
        Some(window)
    })
}

/// What a conversation is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This is its event.
    Event(Vec<u8>),
    /// It is not over, or not transcribed yet.
    NotYet,
    /// Nobody was on the line: its webhook told of a failed initiation, if any.
    NeverConnected,
    /// Its transcript was not kept at ElevenLabs, or is deleted there.
    NoTranscript,
    /// It is no conversation that can be read.
    Unreadable,
}

/// Makes the event of a conversation as ElevenLabs told it. Takes time in
/// proportion to its length.
#[must_use]
pub fn verdict(conversation: &[u8]) -> Verdict {
    let Ok(data) = std::str::from_utf8(conversation).map(str::trim) else {
        return Verdict::Unreadable;
    };
    let is_json = serde_json::from_str::<&serde_json::value::RawValue>(data).is_ok();
    if !is_json || !data.starts_with('{') {
        return Verdict::Unreadable;
    }
    let [status, metadata, transcript] = fields(data, ["status", "metadata", "transcript"]);
    let has_failed = match text(status).as_deref() {
        Some("done") => false,
        Some("failed") => true,
        Some("initiated" | "in-progress" | "processing") => return Verdict::NotYet,
        _ => return Verdict::Unreadable,
    };
    let [deletion, start, duration] = fields(
        metadata,
        [
            "deletion_settings",
            "start_time_unix_secs",
            "call_duration_secs",
        ],
    );
    let [deleted_at, at_once] = fields(
        deletion,
        [
            "deleted_transcript_at_time_unix_secs",
            "delete_transcript_and_pii",
        ],
    );
    let has_nothing = matches!(transcript.trim(), "null" | "[]");
    if has_nothing && (deleted_at != "null" || at_once == "true") {
        return Verdict::NoTranscript;
    }
    let seconds = |value: &str| value.parse::<i64>().unwrap_or_default().max(0);
    if has_failed && has_nothing && seconds(duration) == 0 {
        return Verdict::NeverConnected;
    }
    let ended = seconds(start).saturating_add(seconds(duration));
    let mut event = Vec::with_capacity(data.len() + 80);
    let head = format!(r#"{{"type":"post_call_transcription","event_timestamp":{ended},"data":"#);
    event.extend_from_slice(head.as_bytes());
    event.extend_from_slice(data.as_bytes());
    event.push(b'}');
    Verdict::Event(event)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn told(more: Value) -> Verdict {
        let mut conversation = json!({"conversation_id": "c", "agent_id": "a", "status": "done",
            "metadata": {"start_time_unix_secs": 1_795_000_000, "call_duration_secs": 60},
            "transcript": [{"role": "user", "message": "Hi"}]});
        for (key, value) in more.as_object().unwrap() {
            conversation[key] = value.clone();
        }
        verdict(conversation.to_string().as_bytes())
    }

    #[test]
    fn a_conversation_that_is_over_becomes_its_event() {
        let Verdict::Event(event) = told(json!({})) else {
            panic!("no event");
        };
        let event: Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(event["type"], "post_call_transcription");
        assert_eq!(event["event_timestamp"], 1_795_000_060);
        assert_eq!(event["data"]["transcript"][0]["message"], "Hi");
    }

    #[test]
    fn what_cannot_become_one_says_why() {
        assert_eq!(told(json!({"status": "processing"})), Verdict::NotYet);
        assert_eq!(told(json!({"status": null})), Verdict::Unreadable);
        assert_eq!(verdict(b"[]"), Verdict::Unreadable);
        assert_eq!(verdict(b"{\"status\":\"done\""), Verdict::Unreadable);
        let deleted =
            json!({"deletion_settings": {"deleted_transcript_at_time_unix_secs": 1_795_000_900}});
        assert_eq!(
            told(json!({"transcript": [], "metadata": deleted})),
            Verdict::NoTranscript
        );
        let failed = json!({"start_time_unix_secs": 1_795_000_000, "call_duration_secs": 0});
        let failed = json!({"status": "failed", "transcript": [], "metadata": failed});
        assert_eq!(told(failed), Verdict::NeverConnected);
        // A call in which nobody spoke is a call.
        assert!(matches!(told(json!({"transcript": []})), Verdict::Event(_)));
    }

    proptest! {
        #[test]
        fn windows_cover_a_time_without_gap_or_overlap(start in 0i64..2_000_000_000, length in 0i64..60_000_000) {
            let at = |s| Timestamp::from_second(s).unwrap();
            let windows: Vec<Window> = windows(at(start), at(start + length)).collect();
            let mut from = at(start);
            for window in &windows {
                prop_assert_eq!(window.from, from);
                prop_assert!(window.until.duration_since(window.from) <= LONGEST_WINDOW);
                from = window.until;
            }
            prop_assert_eq!(from, at(start + length));
        }

        #[test]
        fn nothing_that_is_told_breaks_it(text in "\\PC{0,100}") {
            let _ = verdict(text.as_bytes());
        }
    }
}
