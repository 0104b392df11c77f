//! A turn as text: its sentences and words.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

use super::is_title;

/// Composed, with straight apostrophes.
pub(super) fn straight(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let composed = text.nfc().map(|c| if c == '’' { '\'' } else { c });
    Cow::Owned(composed.collect())
}

/// Splits at what ends a sentence, but not at the dot of "Dr. Smith".
pub(super) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest
            .char_indices()
            .find(|&(i, c)| match c {
                '!' | '?' | ';' | '\n' | '…' | '—' => true,
                '.' => {
                    let word = word_before(&rest[..i]);
                    !is_title(word) && word.chars().count() > 1
                }
                _ => false,
            })
            .map_or(rest.len(), |(i, c)| i + c.len_utf8());
        let (sentence, tail) = rest.split_at(end);
        rest = tail;
        Some(sentence)
    })
}

/// The last word of `text`; of a very long one only its end, so that dots
/// without spaces cost no more than their number.
fn word_before(text: &str) -> &str {
    const LONGEST: usize = 64;
    let start = text.len().saturating_sub(LONGEST);
    let start = (start..=text.len())
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(text.len());
    text[start..]
        .rsplit(char::is_whitespace)
        .next()
        .unwrap_or("")
}

pub(super) fn bare(word: &str) -> &str {
    let is_around = |c: char| {
        matches!(
            c,
            ',' | '.' | '!' | '?' | ';' | ':' | '"' | '(' | ')' | '«' | '»' | '“' | '”' | '¡' | '¿'
        )
    };
    word.trim_matches(is_around)
}

/// In lower case, without what stands around it. Most words are so already.
pub(super) fn fold(word: &str) -> Cow<'_, str> {
    let word = bare(word);
    if word
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        return Cow::Borrowed(word);
    }
    Cow::Owned(word.to_lowercase())
}

/// Whether a pause, or the end, follows a word.
pub(super) fn is_closed(word: &str) -> bool {
    word.ends_with([
        ',', '.', '!', '?', ';', ':', '"', '”', '»', ')', '—', '…', '।', '。',
    ])
}

/// Where `phrase` ends in `words` if it begins at `start`.
pub(super) fn end_of(phrase: &str, words: &[Cow<'_, str>], start: usize) -> Option<usize> {
    // Of many phrases at many places hardly one begins alike.
    if words[start].as_bytes().first() != phrase.as_bytes().first() {
        return None;
    }
    let mut end = start;
    for word in phrase.split(' ') {
        if words.get(end)? != word {
            return None;
        }
        end += 1;
    }
    Some(end)
}
