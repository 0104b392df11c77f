//! The terms of one caller's memories, and which of them are akin.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::text_language::TextLanguage;

/// Letters in which two words must agree, at the beginning or the end, before
/// they are compared at all.
const COMMON: usize = 3;

/// Terms with one beginning or end that are compared at most. Bounds what a
/// search costs whatever a caller said.
const MAX_ALIKE: usize = 512;

/// What a term costs beside its letters, in bytes: its list of postings, its
/// places in the tables.
const TERM_BYTES: usize = 176;

/// Weight of a term that shares its beginning with the wanted one, at most.
const PREFIX_WEIGHT: f32 = 0.8;
/// Weight of a compound for a word of it, or of a word for a compound.
const COMPOUND_WEIGHT: f32 = 0.7;
/// Part of the longer word that a common beginning must make up.
const MIN_SHARED: f32 = 0.5;
/// The same in English, whose words change less at the end.
const MIN_SHARED_ENGLISH: f32 = 0.6;

/// A memory that holds a term, and its weighted frequency there.
pub(super) type Posting = (u32, f32);

/// Terms get numbers in the order in which they are first met.
#[derive(Default)]
pub(super) struct Vocabulary {
    ids: FxHashMap<Arc<str>, u32>,
    terms: Vec<Term>,
    beginnings: FxHashMap<[char; COMMON], Vec<u32>>,
    endings: FxHashMap<[char; COMMON], Vec<u32>>,
    bytes: usize,
}

struct Term {
    text: Arc<str>,
    postings: Vec<Posting>,
}

impl Vocabulary {
    /// The number of a term, a new one if it is new.
    pub fn intern(&mut self, term: &str) -> u32 {
        if let Some(id) = self.ids.get(term) {
            return *id;
        }
        let id = u32::try_from(self.terms.len()).unwrap_or(u32::MAX);
        let text: Arc<str> = term.into();
        self.ids.insert(Arc::clone(&text), id);
        for (table, letters) in [
            (&mut self.beginnings, first_letters(term.chars())),
            (&mut self.endings, first_letters(term.chars().rev())),
        ] {
            if let Some(letters) = letters {
                let alike = table.entry(letters).or_default();
                if alike.len() < MAX_ALIKE {
                    alike.push(id);
                }
            }
        }
        self.terms.push(Term {
            text,
            postings: Vec::new(),
        });
        self.bytes += TERM_BYTES + term.len();
        id
    }

    pub fn post(&mut self, term: u32, posting: Posting) {
        let term = &mut self.terms[term as usize];
        term.postings.push(posting);
        self.bytes += std::mem::size_of::<Posting>() * 3 / 2;
    }

    pub fn postings(&self, term: u32) -> &[Posting] {
        &self.terms[term as usize].postings
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The terms that a wanted one finds, each with a weight up to 1: itself,
    /// and those that begin alike or, in languages that join words, hold it or
    /// are held by it.
    pub fn akin(&self, wanted: &str, language: TextLanguage, mut found: impl FnMut(u32, f32)) {
        if let Some(id) = self.ids.get(wanted) {
            found(*id, 1.0);
        }
        let letters: Vec<char> = wanted.chars().collect();
        if letters.iter().any(|c| c.is_numeric()) {
            return;
        }
        let first = first_letters(letters.iter().copied());
        let begin = first.and_then(|key| self.beginnings.get(&key));
        for id in begin.into_iter().flatten() {
            let text = &self.terms[*id as usize].text;
            if let Some(weight) = begins_alike(&letters, text, language) {
                found(*id, weight);
            }
        }
        if !language.has_compounds() {
            return;
        }
        let last = first_letters(letters.iter().rev().copied());
        let end = last.and_then(|key| self.endings.get(&key));
        for id in end.into_iter().flatten() {
            let text = &*self.terms[*id as usize].text;
            if text != wanted && (text.ends_with(wanted) || wanted.ends_with(text)) {
                found(*id, COMPOUND_WEIGHT);
            }
        }
    }
}

/// How near two words are that begin with the same letters.
#[expect(clippy::cast_precision_loss, reason = "words have 40 letters at most")]
fn begins_alike(wanted: &[char], other: &str, language: TextLanguage) -> Option<f32> {
    let length = other.chars().count();
    let shared = other
        .chars()
        .zip(wanted)
        .take_while(|(a, b)| a == *b)
        .count();
    let (shorter, longer) = (length.min(wanted.len()), length.max(wanted.len()));
    if shared == longer {
        return None;
    }
    let part = shared as f32 / longer as f32;
    let (min, min_letters) = match language {
        TextLanguage::English => (MIN_SHARED_ENGLISH, COMMON + 1),
        _ => (MIN_SHARED, COMMON),
    };
    if part >= min && shared >= min_letters {
        return Some(PREFIX_WEIGHT * part);
    }
    let is_compound = language.has_compounds() && shared + 1 >= shorter;
    is_compound.then_some(COMPOUND_WEIGHT)
}

fn first_letters(mut letters: impl Iterator<Item = char>) -> Option<[char; COMMON]> {
    let mut first = [' '; COMMON];
    for place in &mut first {
        *place = letters.next()?;
    }
    Some(first)
}
