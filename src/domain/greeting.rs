//! The next greeting: what a language model may answer, and what of it is kept.
//!
//! A model's output is spoken to a person and stored for good, so it is
//! checked as input from outside: types, lengths, characters, enums.

mod speech;

use serde_json::Value;
use strum::{EnumIter, EnumString, IntoStaticStr};

use super::name::{CallerName, is_title};

/// Longest greeting, in words (design, "The prompt").
pub const MAX_GREETING_WORDS: usize = 30;
/// Longest greeting, in characters: thirty long words.
const MAX_GREETING_CHARS: usize = 300;
/// A greeting that is cut keeps at least so many words.
const MIN_CUT_WORDS: usize = 4;
/// Longest summary kept, in characters.
const MAX_SUMMARY_CHARS: usize = 500;
/// Most topics kept.
const MAX_TOPICS: usize = 5;
/// Longest topic kept, in characters.
const MAX_TOPIC_CHARS: usize = 60;

/// A caller's mood in a call. Anything else a model says is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum Sentiment {
    Positive,
    Satisfied,
    Excited,
    Neutral,
    Mixed,
    Confused,
    Concerned,
    Frustrated,
    Negative,
}

impl Sentiment {
    /// The word on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A checked answer of the model, ready to be stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Greeting {
    /// What the agent says first next time; `None` if there is nothing personal to say.
    pub next_greeting: Option<String>,
    /// At most five topics of the call.
    pub key_topics: Vec<String>,
    /// The caller's mood.
    pub sentiment: Option<Sentiment>,
    /// The call in a sentence or two.
    pub conversation_summary: Option<String>,
    /// The caller's name, not yet checked against what the caller said.
    pub caller_name: Option<CallerName>,
}

/// Why an answer cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// The text is not a JSON object.
    #[error("the answer is not a JSON object")]
    NotAnObject,
    /// `next_greeting` is missing, or neither text nor null.
    #[error("next_greeting is neither text nor null")]
    NoGreeting,
    /// The greeting holds braces or control characters.
    #[error("the greeting holds braces or control characters")]
    Unspeakable,
    /// The greeting has no sentence within [`MAX_GREETING_WORDS`] words.
    #[error("the greeting is longer than {MAX_GREETING_WORDS} words")]
    TooLong,
}

impl Greeting {
    /// Whether it says this name, or a part of it that is not the caller's
    /// `own` name as well.
    #[must_use]
    pub fn speaks(&self, name: &CallerName, own: Option<&CallerName>) -> bool {
        let texts = [&self.next_greeting, &self.conversation_summary];
        let mut texts = texts.into_iter().flatten().chain(&self.key_topics);
        texts.any(|text| name.is_spoken_in(text, own))
    }

    /// Drops whatever says this name.
    pub fn forget(&mut self, name: &CallerName) {
        for text in [&mut self.next_greeting, &mut self.conversation_summary] {
            text.take_if(|text| name.is_spoken_in(text, None));
        }
        self.key_topics
            .retain(|topic| !name.is_spoken_in(topic, None));
    }

    /// Checks the model's answer. A greeting that cannot be spoken makes the
    /// whole answer unusable; a topic, mood or summary that fails its check is
    /// left out.
    ///
    /// # Errors
    /// [`GreetingError`] as said there.
    pub fn from_answer(answer: &str) -> Result<Self, GreetingError> {
        let value: Value =
            serde_json::from_str(unfenced(answer)).map_err(|_| GreetingError::NotAnObject)?;
        let object = value.as_object().ok_or(GreetingError::NotAnObject)?;
        let next_greeting = match object.get("next_greeting") {
            Some(Value::Null) => None,
            Some(Value::String(text)) if text.trim().is_empty() => None,
            // Asked again the model would say it again: rather no greeting.
            Some(Value::String(text)) if speech::is_hostile(text) => None,
            Some(Value::String(text)) => Some(speakable(text)?),
            _ => return Err(GreetingError::NoGreeting),
        };
        let text = |key: &str, limit| {
            let text = object.get(key)?.as_str()?;
            clean(text, limit)
        };
        Ok(Self {
            next_greeting,
            key_topics: topics(object.get("key_topics")),
            sentiment: object
                .get("sentiment")
                .and_then(Value::as_str)
                .and_then(|name| name.trim().parse().ok()),
            conversation_summary: text("conversation_summary", MAX_SUMMARY_CHARS),
            caller_name: object
                .get("caller_name")
                .and_then(Value::as_str)
                .and_then(|n| CallerName::parse(n).ok()),
        })
    }
}

/// Some compatible servers wrap their JSON in a Markdown fence.
fn unfenced(answer: &str) -> &str {
    let text = answer.trim();
    text.strip_prefix("```json")
        .or_else(|| text.strip_prefix("```"))
        .and_then(|t| t.strip_suffix("```"))
        .map_or(text, str::trim)
}

fn speakable(text: &str) -> Result<String, GreetingError> {
    let text = seen(text);
    if text.contains(is_odd) {
        return Err(GreetingError::Unspeakable);
    }
    let greeting = without_ellipses(&text);
    if !greeting.chars().any(char::is_alphanumeric) {
        return Err(GreetingError::Unspeakable);
    }
    within_limits(&greeting)
}

/// Text-to-speech reads an ellipsis as a long silence: at the end of a word it
/// becomes a full stop, elsewhere a space. Words stand one space apart.
fn without_ellipses(text: &str) -> String {
    let text = text.replace(['…', '‥', '⋯'], "...").replace(". . .", "...");
    let mut clean = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        let core = word.trim_end_matches('.');
        let dots = word.len() - core.len();
        for part in core.split("..") {
            // Of three dots, the last begins the next part.
            let part = if core.len() == part.len() {
                part
            } else {
                part.trim_matches('.')
            };
            if !part.is_empty() {
                if !clean.is_empty() {
                    clean.push(' ');
                }
                clean.push_str(part);
            }
        }
        let stops = dots > 0 && clean.ends_with(|c| c != '.');
        if stops && (!core.is_empty() || dots == 1) {
            clean.push('.');
        }
    }
    clean
}

/// Models miscount: a greeting that runs over is cut after its last whole
/// sentence that fits, and refused if there is none.
fn within_limits(greeting: &str) -> Result<String, GreetingError> {
    let fits = |s: &str| {
        s.split_whitespace().count() <= MAX_GREETING_WORDS
            && s.chars().count() <= MAX_GREETING_CHARS
    };
    if fits(greeting) {
        return Ok(greeting.to_owned());
    }
    greeting
        .char_indices()
        // Whatever stands behind is too long to fit, however much it is.
        .take(MAX_GREETING_CHARS)
        .filter(|&(i, c)| {
            let next = greeting[i + c.len_utf8()..].chars().next();
            let cut = &greeting[..i];
            let last = cut.rsplit(char::is_whitespace).next().unwrap_or_default();
            // "Dr." and "J." end no sentence; "Hello Nora." is no greeting worth keeping.
            let abbreviated = c == '.' && (is_title(last) || last.chars().count() < 2);
            matches!(c, '.' | '!' | '?')
                && next.is_none_or(char::is_whitespace)
                && !abbreviated
                && cut.split_whitespace().count() >= MIN_CUT_WORDS
                && cut.contains(char::is_alphanumeric)
        })
        .map(|(i, c)| &greeting[..i + c.len_utf8()])
        .take_while(|cut| fits(cut))
        .last()
        .map(str::to_owned)
        .ok_or(GreetingError::TooLong)
}

/// One line that an agent may read, or nothing: without braces, markup,
/// control characters, links and instructions.
fn clean(text: &str, limit: usize) -> Option<String> {
    let text = seen(text);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() || line.contains(is_odd) || speech::is_hostile(&line) {
        return None;
    }
    Some(line.chars().take(limit).collect())
}

/// Braces are templates and angle brackets markup to who reads them next;
/// control characters are never spoken.
fn is_odd(c: char) -> bool {
    matches!(c, '{' | '}' | '<' | '>') || (c.is_control() && !c.is_whitespace())
}

/// Without what is not seen: a model writes it by mistake, or to hide something.
fn seen(text: &str) -> String {
    text.chars().filter(|c| !speech::is_unseen(*c)).collect()
}

fn topics(value: Option<&Value>) -> Vec<String> {
    let listed: Vec<&str> = match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(text)) => text.split(',').collect(),
        _ => Vec::new(),
    };
    listed
        .into_iter()
        .filter_map(|t| clean(t, MAX_TOPIC_CHARS))
        .take(MAX_TOPICS)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn greeting(text: &str) -> Result<Option<String>, GreetingError> {
        let answer = json!({"next_greeting": text}).to_string();
        Greeting::from_answer(&answer).map(|g| g.next_greeting)
    }

    #[test]
    fn a_good_answer_is_kept_whole() {
        let answer = json!({
            "next_greeting": "Hi Nora! How are the tomatoes doing?",
            "key_topics": ["tomatoes", " raised\nbeds ", 7, ""],
            "sentiment": "Positive", "conversation_summary": "Nora plans a bed.", "caller_name": "Nora",
        });
        let found = Greeting::from_answer(&format!("```json\n{answer}\n```")).unwrap();
        assert_eq!(
            found.next_greeting.as_deref(),
            Some("Hi Nora! How are the tomatoes doing?")
        );
        assert_eq!(found.key_topics, ["tomatoes", "raised beds"]);
        assert_eq!(found.sentiment, Some(Sentiment::Positive));
        assert_eq!(found.caller_name.unwrap().as_str(), "Nora");
    }

    #[test]
    fn what_cannot_be_spoken_is_refused() {
        assert_eq!(
            greeting("Hi {{user_name}}!"),
            Err(GreetingError::Unspeakable)
        );
        assert_eq!(greeting("Hi \u{7}"), Err(GreetingError::Unspeakable));
        assert_eq!(greeting("..."), Err(GreetingError::Unspeakable));
        assert_eq!(
            greeting("Hi <break time=\"5s\"/>"),
            Err(GreetingError::Unspeakable)
        );
        assert_eq!(greeting(&"word ".repeat(31)), Err(GreetingError::TooLong));
        assert_eq!(Greeting::from_answer("[]"), Err(GreetingError::NotAnObject));
        assert_eq!(
            Greeting::from_answer("Hi Nora"),
            Err(GreetingError::NotAnObject)
        );
        assert_eq!(Greeting::from_answer("{}"), Err(GreetingError::NoGreeting));
        assert_eq!(
            Greeting::from_answer(r#"{"next_greeting":7}"#),
            Err(GreetingError::NoGreeting)
        );
    }

    #[test]
    fn what_can_be_corrected_is_corrected() {
        assert_eq!(
            greeting("So, Nora... how is it?").unwrap().unwrap(),
            "So, Nora. how is it?"
        );
        assert_eq!(greeting("Hi\nNora…").unwrap().unwrap(), "Hi Nora.");
        let spaced = "Hello Nora . . . how are the... roses..and ....tulips … doing?";
        assert_eq!(
            greeting(spaced).unwrap().unwrap(),
            "Hello Nora how are the. roses and tulips doing?"
        );
        let marks = format!("? ! ? ! ? {}", "word ".repeat(40));
        assert_eq!(greeting(&marks), Err(GreetingError::TooLong));
        let long = format!("Hi Nora, how are you? {}", "word ".repeat(40));
        assert_eq!(greeting(&long).unwrap().unwrap(), "Hi Nora, how are you?");
        let titled = format!("Hello there again Dr. Smith, {}", "word ".repeat(40));
        assert_eq!(greeting(&titled), Err(GreetingError::TooLong));
        assert_eq!(greeting("").unwrap(), None);
    }

    #[test]
    fn an_unknown_mood_is_left_out() {
        let found = Greeting::from_answer(
            r#"{"next_greeting":null,"sentiment":"purple","key_topics":"a, b"}"#,
        )
        .unwrap();
        assert_eq!(found.sentiment, None);
        assert_eq!(found.key_topics, ["a", "b"]);
    }

    proptest! {
        #[test]
        fn whatever_is_kept_may_be_spoken(text in "\\PC{0,400}") {
            if let Ok(Some(kept)) = greeting(&text) {
                prop_assert!(kept.split_whitespace().count() <= MAX_GREETING_WORDS);
                let unspeakable = kept.contains("...") || kept.contains(['{', '}', '…']);
                prop_assert!(!unspeakable);
                prop_assert!(!kept.chars().any(char::is_control));
            }
        }
    }
}
