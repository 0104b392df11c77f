//! Search in the memories of one caller.
//!
//! Ranking is Okapi BM25 over this caller's memories alone, with this
//! caller's own term statistics: a database-wide index would rank by other
//! callers' words. A turn is indexed together with its neighbours in the
//! dialogue at a lower weight, because the question before says what the
//! answer "yes, on Tuesdays" is about.

mod analyzer;
mod answer;
mod calendar;
mod index;
mod text_language;
mod vocabulary;

pub use answer::{Hit, ROOM};
pub use index::{Index, MAX_INDEXED, MAX_RESULTS, Query};
pub use text_language::TextLanguage;
