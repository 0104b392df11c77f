//! A field of stored metadata that may hold something else than we expect.
//!
//! Other programs and other versions of this one write to the same server. A
//! field that cannot be read loses neither the others nor itself: it is written
//! back as it was found, and if a value of ours takes its place, it is kept
//! beside it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Fields of a record that are not ours.
pub(super) type Others = Map<String, Value>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Field<T> {
    Read(T),
    /// Null if there is nothing.
    Unread(Value),
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self::Unread(Value::Null)
    }
}

impl<T> Field<T> {
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Unread(_) => None,
        }
    }

    /// Takes a value. What could not be read goes to `<name>_unread`.
    pub fn set(&mut self, name: &str, value: T, others: &mut Others) {
        let old = std::mem::replace(self, Self::Read(value));
        if let Self::Unread(old) = old
            && !old.is_null()
        {
            others.insert(format!("{name}_unread"), old);
        }
    }

    /// Takes a value, or none: what could not be read is no value, and stays.
    pub fn set_option(&mut self, name: &str, value: Option<T>, others: &mut Others) {
        match value {
            Some(value) => self.set(name, value, others),
            None if self.get().is_some() => *self = Self::default(),
            None => {}
        }
    }
}

impl Field<bool> {
    pub fn is_true(&self) -> bool {
        self.get() == Some(&true)
    }
}

/// A list of texts; an entry that is none stays where it is.
pub(super) type Texts = Field<Vec<Field<String>>>;

impl Texts {
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let entries = self.get().into_iter().flatten();
        entries.filter_map(|entry| entry.get().map(String::as_str))
    }

    pub fn has(&self, text: &str) -> bool {
        self.texts().any(|known| known == text)
    }

    /// Adds a text that is not there yet, forgetting the oldest beyond `most`.
    pub fn add(&mut self, name: &str, text: &str, most: usize, others: &mut Others) {
        if self.has(text) {
            return;
        }
        let entry = Field::Read(text.to_owned());
        match self {
            Self::Read(entries) => {
                entries.push(entry);
                let surplus = entries.len().saturating_sub(most);
                entries.drain(..surplus);
            }
            Self::Unread(_) => self.set(name, vec![entry], others),
        }
    }

    pub fn remove(&mut self, text: &str) {
        if let Self::Read(entries) = self {
            entries.retain(|entry| entry.get().is_none_or(|known| known != text));
        }
    }

    /// Takes other texts in the place of these.
    pub fn set_texts(&mut self, name: &str, texts: &[String], others: &mut Others) {
        if !self.texts().eq(texts.iter().map(String::as_str)) {
            let entries = texts.iter().cloned().map(Field::Read).collect();
            self.set(name, entries, others);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Record {
        count: Field<u64>,
        marks: Texts,
        #[serde(flatten)]
        others: Others,
    }

    #[test]
    fn what_cannot_be_read_is_written_back() {
        let stored = json!({"count": "many", "marks": ["a", 7], "colour": "red"});
        let mut record: Record = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(record.count.get(), None);
        assert!(record.marks.texts().eq(["a"]));
        record.count.set_option("count", None, &mut record.others);
        assert_eq!(serde_json::to_value(&record).unwrap(), stored);
        record.count.set("count", 1, &mut record.others);
        record.marks.add("marks", "b", 10, &mut record.others);
        record.marks.remove("a");
        assert_eq!(
            serde_json::to_value(&record).unwrap(),
            json!({"count": 1, "count_unread": "many", "marks": [7, "b"], "colour": "red"})
        );
        record.count.set_option("count", None, &mut record.others);
        assert_eq!(record.count, Field::default());
    }

    #[test]
    fn lists_are_bounded() {
        let (mut marks, mut others) = (Texts::default(), Others::new());
        for i in 0..15 {
            marks.add("marks", &i.to_string(), 10, &mut others);
            marks.add("marks", &i.to_string(), 10, &mut others);
        }
        assert_eq!(marks.texts().count(), 10);
        assert_eq!(marks.texts().next(), Some("5"));
    }
}
