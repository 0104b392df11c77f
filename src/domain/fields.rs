//! Reads the few fields of a JSON object that are wanted, and nothing else.
//!
//! A transcript of megabytes read into a tree of values costs ten times its
//! size; here everything stays in the body until somebody asks for it. Reading
//! is lenient: what is no object has no fields, and of a repeated field the
//! last one counts, as in most JSON readers.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The text of each field of `object` that is named in `names`, in that order.
pub(super) fn fields<'a, const N: usize>(object: &'a str, names: [&str; N]) -> [&'a str; N] {
    let mut found = ["null"; N];
    each_field(object, |key, value| {
        if let Some(place) = names.iter().position(|name| *name == key) {
            found[place] = value;
        }
        true
    });
    found
}

/// Shows every field of `object` in order, until `see` says false.
pub(super) fn each_field<'a>(object: &'a str, see: impl FnMut(Cow<'a, str>, &'a str) -> bool) {
    struct Fields<F>(F);
    impl<'de, F: FnMut(Cow<'de, str>, &'de str) -> bool> Visitor<'de> for Fields<F> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(Key(key)) = map.next_key()? {
                let value: &'de RawValue = map.next_value()?;
                if !(self.0)(key, value.get()) {
                    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                }
            }
            Ok(())
        }
    }
    // What is no object has no fields; the body as a whole was checked before.
    let _ = serde_json::Deserializer::from_str(object).deserialize_any(Fields(see));
}

/// Shows every element of `array` in order.
pub(super) fn each_element<'a>(array: &'a str, see: impl FnMut(&'a str)) {
    struct Elements<F>(F);
    impl<'de, F: FnMut(&'de str)> Visitor<'de> for Elements<F> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
            while let Some(element) = array.next_element::<&'de RawValue>()? {
                (self.0)(element.get());
            }
            Ok(())
        }
    }
    let _ = serde_json::Deserializer::from_str(array).deserialize_any(Elements(see));
}

/// A string, unless it is empty but for white space.
pub(super) fn text(value: &str) -> Option<String> {
    // Anything else fails at its first character.
    let text: Cow<'_, str> = serde_json::from_str::<Key<'_>>(value).ok()?.0;
    let trimmed = text.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// A string that is borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_fields_are_found_whatever_stands_around_them() {
        let object = r#"{"x": {"a": 1}, "a": [1, 2], "b": " t\u00e9 ", "a": "last"}"#;
        let [a, b, c] = fields(object, ["a", "b", "c"]);
        assert_eq!((a, c), (r#""last""#, "null"));
        assert_eq!(text(b).as_deref(), Some("té"));
        assert_eq!(text("7"), None);
        assert_eq!(fields("[1]", ["a"]), ["null"]);
        assert_eq!(fields("7", ["a"]), ["null"]);
        let mut seen = Vec::new();
        each_element(r#"[1, {"a": 2}, null]"#, |e| seen.push(e));
        assert_eq!(seen, ["1", r#"{"a": 2}"#, "null"]);
    }
}
