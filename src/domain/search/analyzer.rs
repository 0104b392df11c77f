//! From text to terms: folding, elision, stop words, stemming.

use std::sync::LazyLock;

use rustc_hash::FxHashSet;
use snowball_stemmers_rs::Stemmer;
use strum::{EnumCount, IntoEnumIterator};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation;

use super::text_language::TextLanguage;

/// Longest word that is indexed, in characters; longer ones are cut.
const MAX_WORD_CHARS: usize = 40;

/// Longest word part that elision leaves before an apostrophe: "dell'".
const MAX_ELIDED_CHARS: usize = 6;

/// Words that are so common in talk on the telephone that they say nothing
/// about a memory, and that the lists of written language lack.
const SPOKEN: &[(TextLanguage, &[&str])] = &[(
    TextLanguage::English,
    &[
        "also", "could", "get", "go", "got", "oh", "us", "would", "yeah", "yes",
    ],
)];

/// Shorter words are no participles of a verb with a stem, in bytes.
const MIN_PARTICIPLE: usize = 6;

type StopWords = FxHashSet<String>;

/// Of each language, folded.
static STOP_WORDS: LazyLock<[StopWords; TextLanguage::COUNT]> = LazyLock::new(|| {
    let mut languages = TextLanguage::iter();
    std::array::from_fn(|_| languages.next().map(stop_words).unwrap_or_default())
});

fn stop_words(language: TextLanguage) -> StopWords {
    let written = stop_words::lookup(language.code()).unwrap_or_default();
    let spoken = SPOKEN.iter().filter(|(of, _)| *of == language);
    let all = written.iter().chain(spoken.flat_map(|(_, words)| *words));
    all.map(|word| {
        let word: String = fold(&lower_case(word));
        word.replace('\'', "")
    })
    .collect()
}

/// Turns text of one language into index terms. Cheap to make, holds no state.
pub(super) struct Analyzer {
    language: TextLanguage,
    stemmer: Stemmer,
    /// For words of another script in between.
    russian: Stemmer,
    stop_words: &'static StopWords,
}

impl Analyzer {
    pub fn new(language: TextLanguage) -> Self {
        Self {
            language,
            stemmer: Stemmer::create(language.stemmer()),
            russian: Stemmer::create(TextLanguage::Russian.stemmer()),
            stop_words: &STOP_WORDS[language as usize],
        }
    }

    pub fn language(&self) -> TextLanguage {
        self.language
    }

    /// Calls `word` with each word of `text`, in order: lower case, marks kept.
    pub fn words(&self, text: &str, mut word: impl FnMut(&str)) {
        let text = lower_case(text);
        let mut cut = String::new();
        for whole in text.unicode_words() {
            for part in self.parts(whole) {
                cut.clear();
                cut.extend(part.chars().filter(|c| *c != '\'').take(MAX_WORD_CHARS));
                if !cut.is_empty() {
                    word(&cut);
                }
            }
        }
    }

    /// "l'adresse" is two words, "gardener's" and "don't" are one.
    fn parts<'a>(&self, word: &'a str) -> impl Iterator<Item = &'a str> {
        let (elided, rest) = match word.split_once('\'') {
            Some((elided, rest))
                if self.language.has_elision()
                    && elided.chars().count() <= MAX_ELIDED_CHARS
                    && !rest.is_empty() =>
            {
                (Some(elided), rest)
            }
            _ => (None, word.strip_suffix("'s").unwrap_or(word)),
        };
        elided.into_iter().chain([rest])
    }

    /// The term of a word as [`Analyzer::words`] gives it; none for a stop word.
    pub fn term(&self, word: &str) -> Option<String> {
        let folded = fold(word);
        if self.stop_words.contains(&folded) {
            return None;
        }
        let is_foreign = folded.chars().any(is_cyrillic) && !self.is_cyrillic();
        let stemmer = if is_foreign {
            &self.russian
        } else {
            &self.stemmer
        };
        let word = self.without_participle(word);
        // The stemmers know the marks: "ción" is an ending, "cion" is none.
        let mut term = fold(&stemmer.stem(word));
        if self.language == TextLanguage::German && term.len() > MIN_PARTICIPLE {
            // "versichert" and "Versicherung".
            term.truncate(term.trim_end_matches('t').len());
        }
        Some(term)
    }

    /// "geliefert" and "Lieferung" are of one stem, which the stemmers don't see.
    fn without_participle<'a>(&self, word: &'a str) -> &'a str {
        let has_participles = matches!(self.language, TextLanguage::German | TextLanguage::Dutch);
        let is_one = word.len() > MIN_PARTICIPLE && word.ends_with(['t', 'd', 'n']);
        match word.strip_prefix("ge") {
            Some(rest) if has_participles && is_one => rest,
            _ => word,
        }
    }

    fn is_cyrillic(&self) -> bool {
        matches!(
            self.language,
            TextLanguage::Russian | TextLanguage::Ukrainian
        )
    }
}

/// Composed, in lower case, with straight apostrophes and no soft hyphens.
fn lower_case(text: &str) -> String {
    text.nfkc()
        .filter(|c| *c != '\u{ad}')
        .flat_map(char::to_lowercase)
        .map(|c| {
            if matches!(c, '’' | '‘' | 'ʼ') {
                '\''
            } else {
                c
            }
        })
        .nfc()
        .collect()
}

/// Without accents: "Crème" and "creme" meet, "ł" and "l", "ß" and "ss".
/// Cyrillic marks make letters of their own (й is no и), so they stay; "ё" is
/// written as "е" by most.
pub(super) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut folded = String::with_capacity(text.len());
    let mut base = ' ';
    for c in text.nfd() {
        if is_combining_mark(c) {
            if is_cyrillic(base) && c != '\u{308}' {
                folded.push(c);
            }
            continue;
        }
        base = c;
        match c {
            'ß' => folded.push_str("ss"),
            'œ' => folded.push_str("oe"),
            'æ' => folded.push_str("ae"),
            'ł' => folded.push('l'),
            'ø' => folded.push('o'),
            'đ' | 'ð' => folded.push('d'),
            'þ' => folded.push_str("th"),
            'ı' => folded.push('i'),
            c => folded.push(c),
        }
    }
    folded.nfc().collect()
}

fn is_cyrillic(c: char) -> bool {
    ('\u{400}'..='\u{52f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(language: TextLanguage, text: &str) -> Vec<String> {
        let analyzer = Analyzer::new(language);
        let mut found = Vec::new();
        analyzer.words(text, |word| found.extend(analyzer.term(word)));
        found
    }

    fn check_same(language: TextLanguage, one: &str, other: &str) {
        assert_eq!(
            terms(language, one),
            terms(language, other),
            "{one} / {other}"
        );
    }

    #[test]
    fn forms_of_a_word_meet() {
        check_same(
            TextLanguage::English,
            "The gardener's Tomatoes!",
            "gardener tomato",
        );
        check_same(TextLanguage::English, "Café CRÈME", "cafe creme");
        check_same(TextLanguage::Russian, "мой чай с розами", "чай розой");
        check_same(TextLanguage::English, "розами", "розой");
        check_same(TextLanguage::German, "Gartenhäuser", "Gartenhaus");
        check_same(TextLanguage::German, "die Straße", "Strasse");
        check_same(TextLanguage::Spanish, "las reparaciones", "reparación");
        check_same(TextLanguage::French, "l’adresse", "adresses");
        check_same(TextLanguage::French, "un cœur", "coeurs");
        check_same(TextLanguage::Italian, "dell'appuntamento", "appuntamenti");
        check_same(TextLanguage::Russian, "самолёт", "самолет");
        assert_eq!(terms(TextLanguage::English, "is it so? don't"), [""; 0]);
    }
}
