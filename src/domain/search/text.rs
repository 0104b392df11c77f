//! From text to terms: folding, stop words, stemming.

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation;

/// Longest word that is indexed, in characters; longer ones are cut.
const MAX_WORD_CHARS: usize = 40;

/// Words so common that they say nothing about a memory, folded.
/// English only: a rare word of another language that coincides with one of
/// these is worth less than the noise that they make.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at",
    "be", "because", "been", "before", "being", "but", "by", "can", "could", "did", "do", "does",
    "doing", "don", "dont", "for", "from", "get", "go", "got", "had", "has", "have", "having",
    "he", "her", "here", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "isnt", "it",
    "its", "just", "ll", "m", "me", "more", "most", "my", "no", "not", "now", "of", "off", "oh",
    "on", "or", "our", "out", "over", "own", "re", "s", "same", "she", "should", "so", "some",
    "such", "t", "than", "that", "thats", "the", "their", "them", "then", "there", "these", "they",
    "this", "those", "through", "to", "too", "up", "us", "ve", "very", "was", "we", "well", "were",
    "what", "when", "where", "which", "while", "who", "whom", "why", "will", "with", "would",
    "yeah", "yes", "you", "your",
];

/// Turns text into index terms. Cheap to make, holds no state.
pub(super) struct Analyzer {
    english: Stemmer,
    russian: Stemmer,
}

impl Default for Analyzer {
    fn default() -> Self {
        Self {
            english: Stemmer::create(Algorithm::English),
            russian: Stemmer::create(Algorithm::Russian),
        }
    }
}

impl Analyzer {
    /// Calls `term` with each term of `text`, in order.
    pub fn terms(&self, text: &str, mut term: impl FnMut(&str)) {
        let folded = fold(text);
        for word in folded.unicode_words() {
            let word = word
                .strip_suffix("'s")
                .or_else(|| word.strip_suffix("’s"))
                .unwrap_or(word);
            let word: String = word
                .chars()
                .filter(|c| c.is_alphanumeric())
                .take(MAX_WORD_CHARS)
                .collect();
            if word.is_empty() || STOP_WORDS.binary_search(&word.as_str()).is_ok() {
                continue;
            }
            let cyrillic = word.chars().any(is_cyrillic);
            let stemmer = if cyrillic {
                &self.russian
            } else {
                &self.english
            };
            term(&stemmer.stem(&word));
        }
    }
}

/// Lower case without accents: "Crème" and "creme" meet. Cyrillic marks make
/// letters of their own (й is no и), so they stay.
fn fold(text: &str) -> String {
    let mut base = ' ';
    text.nfkd()
        .filter(|&c| {
            if !is_combining_mark(c) {
                base = c;
                return true;
            }
            is_cyrillic(base)
        })
        .nfc()
        .flat_map(char::to_lowercase)
        .collect()
}

fn is_cyrillic(c: char) -> bool {
    ('\u{400}'..='\u{52f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        Analyzer::default().terms(text, |t| found.push(t.to_owned()));
        found
    }

    #[test]
    fn spelling_variants_meet() {
        assert_eq!(terms("The gardener's Tomatoes!"), terms("gardener tomato"));
        assert_eq!(terms("Café CRÈME"), terms("cafe creme"));
        assert_eq!(terms("мой чай с розами"), terms("Мой чай с розой"));
        assert_eq!(terms("is it so?"), Vec::<String>::new());
    }

    #[test]
    fn stop_words_are_sorted_for_the_binary_search() {
        assert!(STOP_WORDS.is_sorted());
    }
}
