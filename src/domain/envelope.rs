//! Parts the recording from the rest of a webhook body while it streams in.
//!
//! `post_call_audio` carries minutes of base64 in one JSON string,
//! `data.full_audio`. Reading it as JSON would hold it in memory; so the
//! content of the first string under the key `full_audio` is handed out as it
//! comes, and only the envelope around it is kept. Putting the two together
//! again gives the body byte for byte.

/// The key whose text is parted off.
const KEY: &[u8] = b"full_audio";

/// See the [module](self). Feed it the body in chunks of any size.
#[derive(Debug, Default)]
pub struct EnvelopeSplitter {
    envelope: Vec<u8>,
    /// Where in the envelope the audio was taken out.
    hole: Option<usize>,
    state: State,
    /// The string being read, as long as it may still be the key.
    matched: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Between,
    /// In a string; `still_key` while it equals the start of [`KEY`].
    InString {
        still_key: bool,
    },
    /// After a backslash in a string.
    Escaped,
    /// Behind a string that equals [`KEY`]: a colon makes it a key.
    AfterKey,
    /// Behind the key's colon: a quote starts the audio.
    BeforeValue,
    InAudio,
    EscapedInAudio,
    /// The audio has been taken out; the rest is envelope.
    Done,
}

impl EnvelopeSplitter {
    /// Takes the next chunk and hands the audio in it to `audio`, piece by piece.
    pub fn push<'a>(&mut self, chunk: &'a [u8], mut audio: impl FnMut(&'a [u8])) {
        let mut rest = chunk;
        while let Some(&first) = rest.first() {
            match self.state {
                State::Done => {
                    self.envelope.extend_from_slice(rest);
                    return;
                }
                State::InAudio => {
                    let end = rest.iter().position(|b| matches!(b, b'"' | b'\\'));
                    let (content, tail) = rest.split_at(end.unwrap_or(rest.len()));
                    if !content.is_empty() {
                        audio(content);
                    }
                    rest = tail;
                    match tail.first() {
                        Some(b'"') => self.state = State::Done,
                        Some(_) => {
                            audio(&tail[..1]);
                            rest = &tail[1..];
                            self.state = State::EscapedInAudio;
                        }
                        None => {}
                    }
                }
                State::EscapedInAudio => {
                    audio(&rest[..1]);
                    rest = &rest[1..];
                    self.state = State::InAudio;
                }
                // Nothing in here is of interest until the next quote, or an
                // escape in a string.
                State::Between | State::InString { still_key: false } => {
                    let in_string = self.state != State::Between;
                    let end = rest
                        .iter()
                        .position(|b| *b == b'"' || (in_string && *b == b'\\'));
                    let (content, tail) = rest.split_at(end.unwrap_or(rest.len()));
                    self.envelope.extend_from_slice(content);
                    rest = tail;
                    if let Some(&byte) = rest.first() {
                        self.take(byte);
                        rest = &rest[1..];
                    }
                }
                _ => {
                    self.take(first);
                    rest = &rest[1..];
                }
            }
        }
    }

    fn take(&mut self, byte: u8) {
        self.envelope.push(byte);
        self.step(byte);
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::InString { .. }, b'\\') => State::Escaped,
            (State::Escaped, _) => State::InString { still_key: false },
            (State::InString { still_key }, b'"') => {
                if still_key && self.matched == KEY.len() {
                    State::AfterKey
                } else {
                    State::Between
                }
            }
            (State::InString { still_key }, byte) => {
                let still_key = still_key && KEY.get(self.matched) == Some(&byte);
                self.matched += usize::from(still_key);
                State::InString { still_key }
            }
            (State::AfterKey, b':') => State::BeforeValue,
            (State::BeforeValue, b'"') => {
                self.hole = Some(self.envelope.len());
                State::InAudio
            }
            (state @ (State::AfterKey | State::BeforeValue), b' ' | b'\t' | b'\n' | b'\r') => state,
            (_, b'"') => {
                self.matched = 0;
                State::InString { still_key: true }
            }
            _ => State::Between,
        };
    }

    /// Bytes of envelope held so far.
    #[must_use]
    pub fn envelope_len(&self) -> usize {
        self.envelope.len()
    }

    /// The body without the audio, and where the audio belongs in it.
    #[must_use]
    pub fn finish(self) -> Envelope {
        Envelope {
            bytes: self.envelope,
            hole: self.hole,
        }
    }
}

/// A body from which the audio was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The body with an empty string where the audio was.
    pub bytes: Vec<u8>,
    hole: Option<usize>,
}

impl Envelope {
    /// A body that never held audio.
    #[must_use]
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self { bytes, hole: None }
    }

    /// The original body.
    #[must_use]
    pub fn with_audio(mut self, audio: &[u8]) -> Vec<u8> {
        if let Some(hole) = self.hole {
            self.bytes.splice(hole..hole, audio.iter().copied());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn split(body: &[u8], chunk: usize) -> (Envelope, Vec<u8>) {
        let mut splitter = EnvelopeSplitter::default();
        let mut audio = Vec::new();
        for part in body.chunks(chunk.max(1)) {
            splitter.push(part, |bytes| audio.extend_from_slice(bytes));
        }
        (splitter.finish(), audio)
    }

    #[test]
    fn the_audio_leaves_and_the_envelope_stays_json() {
        let body = json!({"type": "post_call_audio", "data": {"note": "\"full_audio\": \"no\"", "full_audio": "SUQz", "z": ["full_audio", "x"]}});
        let (envelope, audio) = split(body.to_string().as_bytes(), 3);
        assert_eq!(audio, b"SUQz");
        let left: Value = serde_json::from_slice(&envelope.bytes).unwrap();
        assert_eq!(left["data"]["full_audio"], "");
        assert_eq!(left["data"]["z"], body["data"]["z"]);
        assert_eq!(envelope.with_audio(&audio), body.to_string().as_bytes());
    }

    proptest! {
        #[test]
        fn both_parts_together_are_the_body(
            before in "\\PC{0,20}", audio in "\\PC{0,60}", after in "\\PC{0,20}", chunk in 1usize..9, pretty: bool,
        ) {
            let value = json!({"a": [before], "full_audio": audio, "zz": {"full_audio": after}});
            let body = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let (envelope, taken) = split(body.as_bytes(), chunk);
            let text: String = serde_json::from_str(&format!("\"{}\"", String::from_utf8(taken.clone()).unwrap())).unwrap();
            prop_assert_eq!(text, audio);
            prop_assert_eq!(envelope.with_audio(&taken), body.as_bytes());
        }

        #[test]
        fn bytes_that_are_no_json_come_through_unchanged(body in prop::collection::vec(any::<u8>(), 0..200), chunk in 1usize..9) {
            let (envelope, audio) = split(&body, chunk);
            prop_assert_eq!(envelope.with_audio(&audio), body);
        }
    }
}
