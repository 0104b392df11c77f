//! Hears a caller's introduction of themselves.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::sync::LazyLock;

use rustc_hash::{FxHashMap, FxHashSet};
use unicode_normalization::UnicodeNormalization;

use super::given::{GivenName, given_name, is_function_word};
use super::words::{
    ASSENTS, BETWEEN, FOLLOWING, INSTRUCTIONS, INTRODUCTIONS, MAY_FOLLOW, NAME_QUESTIONS,
    NO_NAME_AFTER, NO_NAME_QUESTIONS, NOT_NAMES, OPENERS, OTHERS, PARTICLES, RELATIVE, REPORTED,
    RINGS, SPELLING_QUESTIONS, SUPPOSED, Strength, TITLES,
};
use super::{CallerName, Evidence, MAX_CORE_WORDS, MAX_NAME_WORDS};
use crate::domain::call_event::{Role, Turn};

/// The caller's name from the caller's own turns, and how it was given: the
/// first clear introduction, else the first answer to an agent that asked,
/// else the first telephone greeting.
#[must_use]
pub fn from_turns(turns: &[Turn]) -> Option<(CallerName, Evidence)> {
    let callers = || {
        turns
            .iter()
            .enumerate()
            .filter(|(_, t)| t.role == Role::Caller)
    };
    if let Some(name) = callers().find_map(|(_, t)| introduced(&t.text, Wanted::Stated)) {
        return Some((name, Evidence::Stated));
    }
    let agents_own = LazyCell::new(|| agents_names(turns));
    let not_the_agents = |name: &CallerName| !agents_own.contains(name);
    callers()
        .filter(|(i, _)| asked_for_name(turns, *i))
        .find_map(|(_, t)| answered(&t.text))
        .filter(not_the_agents)
        .map(|name| (name, Evidence::Answered))
        .or_else(|| {
            callers()
                .find_map(|(_, t)| introduced(&t.text, Wanted::Mentioned))
                .filter(not_the_agents)
                .map(|name| (name, Evidence::Mentioned))
        })
}

/// Which introductions are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Those that say by themselves that a name follows.
    Stated,
    /// All, in what was said without being asked.
    Mentioned,
    /// All, in an answer to somebody who asked for the name.
    Answer,
}

/// Whether the agent's turn right before asks for the name, or how it is spelled.
fn asked_for_name(turns: &[Turn], position: usize) -> bool {
    let Some(before) = position.checked_sub(1).map(|i| &turns[i]) else {
        return false;
    };
    if before.role != Role::Agent {
        return false;
    }
    let question = last_question(&straight(&before.text)).to_lowercase();
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| question.contains(phrase));
    if has(NO_NAME_QUESTIONS) {
        return false;
    }
    has(NAME_QUESTIONS)
        || has(SPELLING_QUESTIONS) && position >= 3 && asked_directly(turns, position - 2)
}

/// The same without the spelling, which is asked for once.
fn asked_directly(turns: &[Turn], position: usize) -> bool {
    let before = &turns[position - 1];
    let question = last_question(&straight(&before.text)).to_lowercase();
    before.role == Role::Agent && NAME_QUESTIONS.iter().any(|q| question.contains(q))
}

/// What an agent asks last: callers answer that.
fn last_question(text: &str) -> String {
    let ended: Vec<&str> = sentences(text).collect();
    let asked = ended
        .iter()
        .rev()
        .find(|sentence| sentence.trim_end().ends_with('?'));
    let last = asked.or(ended.last());
    last.map(|sentence| (*sentence).to_owned())
        .unwrap_or_default()
}

/// Names by which the agent calls itself: "this is Margaret, right?" asks for
/// the agent.
pub(super) fn agents_names(turns: &[Turn]) -> FxHashSet<CallerName> {
    const SPEAKING: &[&str] = &["with", "to", "mit"];
    let mut names = FxHashSet::default();
    for turn in turns.iter().filter(|t| t.role == Role::Agent) {
        for wanted in [Wanted::Stated, Wanted::Answer, Wanted::Mentioned] {
            names.extend(introduced(&turn.text, wanted));
        }
        let words: Vec<&str> = turn.text.split_whitespace().collect();
        for (i, word) in words.iter().enumerate() {
            // "Am I speaking with Nora?" asks for the caller.
            let behind_speaking = i >= 2
                && fold(words[i - 2]) == "speaking"
                && SPEAKING.contains(&&*fold(words[i - 1]))
                && !(i >= 3 && fold(words[i - 3]) == "i");
            let before_here = words
                .get(i + 1)
                .is_some_and(|w| matches!(&*fold(w), "here" | "speaking"));
            if behind_speaking || before_here {
                names.extend(CallerName::parse(bare(word)).ok());
            }
        }
    }
    names
}

/// The name in an answer to who asked for it: introduced, bare, or spelled.
fn answered(text: &str) -> Option<CallerName> {
    introduced(text, Wanted::Answer)
        .map(|name| fuller(name, text))
        .or_else(|| {
            let text = straight(text);
            let mut bare = sentences(&text).filter_map(|s| Sentence::of(s).bare_name());
            let first = bare.next()?;
            // "O'Brien. Sean O'Brien."
            let fuller = bare.find(|more| more.as_str().contains(first.as_str()));
            Some(fuller.unwrap_or(first))
        })
        .or_else(|| spelled(text))
}

/// "It's Nick. Nick Romano." gives more of the name than the introduction.
fn fuller(name: CallerName, text: &str) -> CallerName {
    if name.as_str().contains(' ') {
        return name;
    }
    let text = straight(text);
    let mut bare = sentences(&text).filter_map(|s| Sentence::of(s).bare_name());
    let more = bare.find(|more| more.as_str().contains(' ') && more.is_same_person(&name));
    more.unwrap_or(name)
}

fn introduced(text: &str, wanted: Wanted) -> Option<CallerName> {
    let text = straight(text);
    let mut at_start = true;
    sentences(&text).find_map(|sentence| {
        let sentence = Sentence::of(sentence);
        let found = sentence.introduced(wanted, at_start);
        // "Yes. This is Tomasz." is still the start of the turn.
        at_start &= sentence.is_opening(sentence.words.len());
        found
    })
}

/// Composed, with straight apostrophes.
pub(super) fn straight(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let composed = text.nfc().map(|c| if c == '’' { '\'' } else { c });
    Cow::Owned(composed.collect())
}

/// Splits at what ends a sentence, but not at the dot of "Dr. Smith".
fn sentences(text: &str) -> impl Iterator<Item = &str> {
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
                    !TITLES.contains(&word.to_lowercase().as_str()) && word.chars().count() > 1
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

fn bare(word: &str) -> &str {
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
fn is_closed(word: &str) -> bool {
    word.ends_with([
        ',', '.', '!', '?', ';', ':', '"', '”', '»', ')', '—', '…', '।', '。',
    ])
}

type ByFirstWord = FxHashMap<&'static str, Vec<(&'static str, Strength)>>;

static INTRODUCTIONS_BY_WORD: LazyLock<ByFirstWord> = LazyLock::new(|| {
    let mut table = ByFirstWord::default();
    for (phrase, strength) in INTRODUCTIONS {
        let first = phrase.split(' ').next().unwrap_or_default();
        table.entry(first).or_default().push((phrase, *strength));
    }
    // The longer phrase says more: "ich bin der" before "ich bin".
    for phrases in table.values_mut() {
        phrases.sort_by_key(|(phrase, _)| std::cmp::Reverse(phrase.len()));
    }
    table
});

/// A sentence of a caller, by its words.
struct Sentence<'a> {
    words: Vec<&'a str>,
    folded: Vec<Cow<'a, str>>,
    /// Whether capitals mean something in it: a transcript may have none.
    is_cased: bool,
    is_question: bool,
}

impl<'a> Sentence<'a> {
    fn of(text: &'a str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        Self {
            folded: words.iter().map(|w| fold(w)).collect(),
            is_cased: text.chars().any(char::is_uppercase),
            is_question: text.trim_end().ends_with('?'),
            words,
        }
    }

    /// Capitals are the evidence that a word is a name; shouting has none.
    fn is_shouted(&self) -> bool {
        let mut letters = self
            .words
            .iter()
            .flat_map(|w| w.chars())
            .filter(|c| c.is_alphabetic());
        self.is_cased && !letters.any(char::is_lowercase)
    }

    /// Whether the words before `end` are what a turn on the telephone begins
    /// with: "Hello Margaret, yes, …".
    fn is_opening(&self, end: usize) -> bool {
        const LONGEST: usize = 8;
        end <= LONGEST
            && (0..end).all(|i| {
                let word = &*self.folded[i];
                OPENERS.contains(&word)
                    || BETWEEN.contains(&word)
                    || i > 0 && (starts_like_a_name(self.words[i]) || given_name(word).is_some())
            })
    }

    fn introduced(&self, wanted: Wanted, at_start: bool) -> Option<CallerName> {
        if self.is_shouted() {
            return None;
        }
        // Behind "he said", every introduction is somebody else's. Found once, so
        // that a phrase repeated for minutes costs no more than its length.
        // "I said it's Walter" is the caller's own.
        let is_own = |at: usize| at > 0 && self.folded[at - 1] == "i";
        let mut reported = self.folded.iter().enumerate();
        let reported = reported.position(|(at, w)| REPORTED.contains(&&**w) && !is_own(at));
        let end = reported.map_or(self.words.len(), |at| at + 1);
        let introduced = (0..end).find_map(|start| self.introduced_at(start, wanted, at_start));
        introduced.or_else(|| {
            if wanted == Wanted::Stated {
                return None;
            }
            (1..end).find_map(|at| self.named_before(at, at_start))
        })
    }

    /// "My name is Nora", the introduction beginning at `start`.
    fn introduced_at(&self, start: usize, wanted: Wanted, at_start: bool) -> Option<CallerName> {
        let phrases = INTRODUCTIONS_BY_WORD.get(&*self.folded[start])?;
        let is_opening = at_start && self.is_opening(start);
        phrases.iter().find_map(|(phrase, strength)| {
            let after =
                end_of(phrase, &self.folded, start).filter(|end| *end < self.words.len())?;
            let strength = match (strength, is_opening) {
                (Strength::Phone | Strength::Opening, true) => Strength::Phone,
                (Strength::Phone, false) => Strength::Weak,
                (Strength::Opening, false) => return None,
                (other, _) => *other,
            };
            let is_stated = matches!(strength, Strength::Clear | Strength::Firm);
            if wanted == Wanted::Stated && !is_stated {
                return None;
            }
            if self.is_supposed(start) {
                return None;
            }
            if !is_stated && self.speaks_of_others(start) {
                return None;
            }
            let manner = Manner {
                strength,
                is_asked: wanted == Wanted::Answer,
                is_cased: self.is_cased,
            };
            name_at(&self.words[after..], manner)
        })
    }

    /// Whether what begins at `start` is only supposed: "if my name is …", but
    /// not "not quite, my name is …".
    fn is_supposed(&self, start: usize) -> bool {
        const NEAR: usize = 4;
        let mut near = (start.saturating_sub(NEAR)..start)
            .rev()
            .take_while(|at| !is_closed(self.words[*at]));
        near.any(|at| SUPPOSED.contains(&&*self.folded[at]))
    }

    /// Whether somebody else is named shortly before: "my son here, this is Tyler".
    fn speaks_of_others(&self, at: usize) -> bool {
        const NEAR: usize = 7;
        let near = &self.folded[at.saturating_sub(NEAR)..at];
        near.iter().any(|w| OTHERS.contains(&&**w))
    }

    /// "Nora here", what introduces beginning at `at`.
    fn named_before(&self, at: usize, at_start: bool) -> Option<CallerName> {
        let phrase = FOLLOWING
            .iter()
            .find(|phrase| end_of(phrase, &self.folded, at).is_some())?;
        let end = end_of(phrase, &self.folded, at)?;
        // "right here" and "hier" may stand behind anything.
        let is_sure = !matches!(*phrase, "here" | "hier" | "här");
        let is_introduction = matches!(
            self.folded.get(end).map(|w| &**w),
            Some("ist" | "is" | "är" | "spricht" | "spreekt")
        );
        if !at_start || is_introduction || self.words[end - 1].ends_with('?') {
            return None;
        }
        for length in (1..=MAX_NAME_WORDS.min(at)).rev() {
            let from = at - length;
            let name = &self.words[from..at];
            let paused = name[..length - 1]
                .iter()
                .any(|w| is_closed(w) && !is_titled(w));
            if paused || !self.is_opening(from) || OPENERS.contains(&&*self.folded[from]) {
                continue;
            }
            let first = given_name(&self.folded[from]);
            let is_named = match first {
                Some(GivenName::Only) => true,
                Some(GivenName::Also) => {
                    is_sure || length > 1 || self.is_cased && is_closed(self.words[end - 1])
                }
                None => {
                    let is_cased = self.is_cased
                        && name.iter().all(|w| starts_like_a_name(w) || is_particle(w));
                    is_titled(name[0]) && length > 1 || is_cased && (is_sure || length > 1)
                }
            };
            let ordinary = self.folded[from..at].iter().any(|w| {
                NOT_NAMES.contains(&&**w)
                    || is_function_word(w) && !is_particle(w) && given_name(w).is_none()
            });
            if is_named && !ordinary && length <= MAX_CORE_WORDS + 1 {
                return CallerName::parse(&capitalised(name)).ok();
            }
        }
        None
    }

    /// The whole sentence, but for what answers begin with, is a name: "Sure,
    /// Nora Lind."
    fn bare_name(&self) -> Option<CallerName> {
        const BEFORE: &[&str] = &["con", "mit", "met", "de", "med", "z", "com", "from"];
        const ARTICLES: &[&str] = &["der", "die", "dem", "o", "a", "la", "il"];
        const POLITE: &[&str] = &[
            "please",
            "thanks",
            "thank",
            "bitte",
            "danke",
            "por",
            "gracias",
            "obrigado",
            "obrigada",
            "s'il",
            "merci",
            "grazie",
            "alstublieft",
            "tack",
            "proszę",
            "dziękuję",
            "пожалуйста",
            "спасибо",
        ];
        if self.is_shouted() || self.is_question {
            return None;
        }
        let mut start = self
            .folded
            .iter()
            .take_while(|w| {
                (OPENERS.contains(&&***w) || BETWEEN.contains(&&***w)) && given_name(w).is_none()
            })
            .count();
        if self
            .folded
            .get(start)
            .is_some_and(|w| BEFORE.contains(&&**w))
        {
            start += 1;
        }
        while self
            .folded
            .get(start)
            .is_some_and(|w| ARTICLES.contains(&&**w))
        {
            start += 1;
        }
        let words = &self.words[start..];
        let manner = Manner {
            strength: Strength::Firm,
            is_asked: true,
            is_cased: self.is_cased,
        };
        // Nothing but the name, up to a pause or a word of thanks.
        let is_last = |at: &usize| {
            let next = self.folded.get(start + at + 1);
            let thanks = next.is_some_and(|w| POLITE.contains(&&**w));
            thanks || is_closed(words[*at]) && !is_titled(words[*at])
        };
        let length = (0..words.len())
            .find(is_last)
            .map_or(words.len(), |at| at + 1);
        if length == 0 || length > MAX_CORE_WORDS + 1 {
            return None;
        }
        if ASSENTS.contains(&&*self.folded[start]) && given_name(&self.folded[start]).is_none() {
            return None;
        }
        let name = name_at(&words[..length], manner)?;
        (name.as_str().split(' ').count() == length).then_some(name)
    }
}

/// A name spelled letter by letter: "A-O-I-F-E", "S T E F A N".
fn spelled(text: &str) -> Option<CallerName> {
    const SHORTEST: usize = 3;
    const AROUND: &[&str] = &[
        "it", "is", "it's", "that's", "my", "name", "sure", "yes", "okay", "ok", "so", "um", "uh",
        "ja", "also", "sí", "oui", "sì", "sim", "tak", "да", "ähm", "spelled",
    ];
    let text = straight(text);
    let parts = text
        .split(|c: char| !c.is_alphabetic())
        .filter(|p| !p.is_empty());
    let mut letters = String::new();
    let mut count = 0;
    for part in parts {
        if part.chars().count() == 1 {
            letters.push_str(part);
            count += 1;
        } else if count > 0 || !AROUND.contains(&&*part.to_lowercase()) {
            // Letters in between other words spell something else.
            return None;
        }
    }
    if count < SHORTEST {
        return None;
    }
    CallerName::parse(&capitalised(&[&letters.to_lowercase()])).ok()
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

/// Hesitations passed over before a name: a bound, for a caller who says
/// nothing else.
const MAX_HESITATIONS: usize = 8;

/// How a name is introduced.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub strength: Strength,
    /// Somebody has just asked for it.
    pub is_asked: bool,
    /// Whether capitals mean something in the text.
    pub is_cased: bool,
}

impl Manner {
    /// "This is Will, …", "it's June" to who has asked: a name, though another word.
    fn may_be_ambiguous(self, word: &str, next: Option<&&str>) -> bool {
        let is_given = given_name(&fold(word)).is_some();
        let ends = is_closed(word) || next.is_none();
        let is_introduced = self.strength == Strength::Phone || self.is_asked;
        is_given && ends && is_introduced
    }
}

/// The name that starts at the first of `words`, if one does.
pub(super) fn name_at(words: &[&str], manner: Manner) -> Option<CallerName> {
    let skip = words
        .iter()
        .take(MAX_HESITATIONS)
        .take_while(|w| BETWEEN.contains(&&*fold(w)))
        .count();
    let is_of_article = words[..skip]
        .iter()
        .any(|w| matches!(&*fold(w), "der" | "die" | "o"));
    let manner = Manner {
        // "Hier spricht die Polizei."
        strength: if is_of_article {
            Strength::Weak
        } else {
            manner.strength
        },
        ..manner
    };
    let mut words = &words[skip..];
    // "This is Mi- Michelle."
    if words.first().is_some_and(|w| w.ends_with('-')) {
        words = &words[1..];
    }
    // "My name is Will, Will Baxter."
    if let [first, second, ..] = words
        && fold(first) == fold(second)
    {
        words = &words[1..];
    }
    if manner.strength == Strength::Clear
        && let Some(name) = spelled_first(words)
    {
        return Some(name);
    }
    let cased = manner.is_cased || words.first().is_some_and(|w| has_no_case(w));
    if cased && words.first().is_some_and(|w| starts_like_a_name(w)) {
        return cased_name(words, manner);
    }
    plain_name(words, manner)
}

/// "My name is N, O, R, A", "my name is spelled N-O-R-A".
fn spelled_first(words: &[&str]) -> Option<CallerName> {
    let words = match words {
        [first, rest @ ..] if matches!(&*fold(first), "spelled" | "spelt") => rest,
        _ => words,
    };
    let first = words.first()?;
    let is_letter = first.chars().filter(|c| c.is_alphabetic()).count() == 1;
    let is_hyphenated =
        first.split('-').count() > 2 && first.split('-').all(|p| p.chars().count() <= 2);
    if !is_letter && !is_hyphenated {
        return None;
    }
    let letters = words.iter().take_while(|w| {
        w.split(|c: char| !c.is_alphabetic())
            .all(|part| part.chars().count() <= 1)
    });
    spelled(&letters.copied().collect::<Vec<_>>().join(" "))
}

/// In a text with capitals.
fn cased_name(words: &[&str], manner: Manner) -> Option<CallerName> {
    let strength = manner.strength;
    let mut taken: Vec<&str> = Vec::new();
    let mut closed = false;
    for word in words.iter().take(MAX_NAME_WORDS) {
        let lower = fold(word);
        let titled = is_titled(word);
        let particle = !taken.is_empty() && PARTICLES.contains(&word.to_lowercase().as_str());
        let is_no_name = NOT_NAMES.contains(&&*lower)
            && !titled
            && !(taken.is_empty() && manner.may_be_ambiguous(word, words.get(1)));
        if !(particle || titled || starts_like_a_name(word)) || is_no_name {
            break;
        }
        // "This is Nora's husband" introduces somebody else.
        if lower.ends_with("'s") {
            return None;
        }
        taken.push(if titled { word } else { bare(word) });
        if !titled && is_closed(word) {
            closed = true;
            break;
        }
    }
    // A particle belongs to the name only if a name follows it.
    while taken.last().is_some_and(|w| PARTICLES.contains(w)) {
        taken.pop();
    }
    let titles = taken.iter().take_while(|w| is_titled(w)).count();
    let first = taken.get(titles)?;
    // "K as in Karen" is a spelling.
    if first.chars().filter(|c| c.is_alphabetic()).count() < 2 {
        return None;
    }
    let next = words.get(taken.len()).map(|w| fold(w));
    let next = next.as_deref();
    let ends = closed
        || next.is_none_or(|w| match strength {
            Strength::Weak if !manner.is_asked => begins_clause(w),
            _ => may_follow(w),
        });
    let cased = first.chars().next().is_some_and(char::is_uppercase);
    if !cased && taken.len() > 2 {
        return None;
    }
    let known = given_name(&first.to_lowercase());
    if !ends {
        // Without a pause the next capital may begin another thought, or be a
        // German noun: only the first word is sure, and only if capitals mean
        // something in its script.
        let is_sure = strength == Strength::Clear || known == Some(GivenName::Only);
        if !is_sure || !cased {
            return None;
        }
        taken.truncate(titles + 1);
    }
    if strength != Strength::Clear {
        let doubted = words[taken.len() - 1].ends_with('?')
            || next.is_some_and(|w| matches!(w, "right" | "correct" | "isn't" | "oder" | "verdad"));
        // Four capitals in a row are a company or a title more often than a person.
        if doubted
            || taken.len() > 3
            || is_of_another(next, words, taken.len())
            || is_several(next, words, taken.len())
            || taken
                .iter()
                .any(|w| OTHERS.contains(&&*w.to_lowercase()) && !is_titled(w))
        {
            return None;
        }
    }
    if !manner.is_asked {
        let cores = taken.len() - titles;
        let is_believed = match strength {
            Strength::Clear | Strength::Firm => true,
            Strength::Phone | Strength::Opening => cores == 1 || known.is_some() || titles > 0,
            Strength::Weak => match known {
                Some(GivenName::Only) => true,
                Some(GivenName::Also) => cores > 1 || next.is_some_and(|w| RETURNING.contains(&w)),
                None => titles > 0,
            },
        };
        if !is_believed {
            return None;
        }
    }
    // More words than a name has are cut to the surest, unless they are an order.
    if taken.len() - titles > MAX_CORE_WORDS && !is_order(&taken) {
        let core = taken.iter().filter(|w| !PARTICLES.contains(w)).count() - titles;
        if core > MAX_CORE_WORDS {
            taken.truncate(titles + 1);
        }
    }
    CallerName::parse(&capitalised(&taken)).ok()
}

/// In a text without capitals, as many transcripts are.
fn plain_name(words: &[&str], manner: Manner) -> Option<CallerName> {
    let strength = manner.strength;
    let folded: Vec<Cow<'_, str>> = words.iter().take(MAX_NAME_WORDS).map(|w| fold(w)).collect();
    let word = |i: usize| folded.get(i).map(|w| &**w);
    let ends_after =
        |i: usize| words.get(i).is_some_and(|w| is_closed(w)) || word(i + 1).is_none_or(may_follow);
    // Without capitals, only where a new clause begins is a surname told from a verb.
    let begins_anew = |i: usize| {
        words.get(i).is_some_and(|w| is_closed(w)) || word(i + 1).is_none_or(begins_clause)
    };
    let is_surname = |i: usize| {
        word(i).is_some_and(|w| {
            w.chars().count() > 1
                && w.chars()
                    .all(|c| c.is_alphabetic() || matches!(c, '\'' | '-'))
                && !may_follow(w)
                && !w.ends_with("ing")
                && !OTHERS.contains(&w)
                && !is_ordinary(w)
                && !w.contains("'s")
        })
    };
    let first = word(0)?;
    if first.ends_with("'s") || first.contains(|c: char| c.is_numeric()) {
        return None;
    }
    if is_titled(words[0]) {
        let is_named = is_surname(1) && ends_after(1);
        return is_named.then(|| CallerName::parse(&capitalised(&words[..2])).ok())?;
    }
    let is_believed = match given_name(first) {
        Some(GivenName::Only) => true,
        Some(GivenName::Also) => match strength {
            Strength::Clear | Strength::Firm => true,
            Strength::Phone | Strength::Opening | Strength::Weak => {
                begins_anew(0) && (manner.is_asked || strength == Strength::Phone)
            }
        },
        None => {
            // "My name is taken", "my name is important": a new clause must tell it.
            strength == Strength::Clear
                && !manner.is_cased
                && word(1).is_some_and(|w| CLAUSE_STARTS.contains(&w))
                && is_surname(0)
                && !NO_NAME_AFTER.contains(&first)
        }
    };
    // "Det är hans fru."
    if word(1).is_some_and(|w| OTHERS.contains(&w)) {
        return None;
    }
    if !is_believed || is_of_another(word(1), words, 1) || words[0].ends_with('?') {
        return None;
    }
    let mut length = 1;
    if !is_closed(words[0]) {
        let ends = if strength == Strength::Clear {
            ends_after(1)
        } else {
            begins_anew(1)
        };
        if is_surname(1) && ends {
            length = 2;
        } else if word(1).is_some_and(is_particle) && is_surname(2) && begins_anew(2) {
            length = 3;
        }
    }
    // "It's Emma ordering …" and the like is too little.
    if length == 1 && strength == Strength::Weak && !begins_anew(0) {
        return None;
    }
    CallerName::parse(&capitalised(&words[..length])).ok()
}

/// Words with which callers go on after their name.
const CLAUSE_STARTS: &[&str] = &[
    "i",
    "i'm",
    "i've",
    "i'd",
    "i'll",
    "we",
    "my",
    "and",
    "but",
    "here",
    "calling",
    "speaking",
    "again",
    "from",
    "by",
    "about",
    "regarding",
    "ich",
    "mein",
    "meine",
    "wir",
    "und",
    "hier",
    "aus",
    "von",
    "nochmal",
    "yo",
    "mi",
    "y",
    "pero",
    "je",
    "j'ai",
    "j'appelle",
    "mon",
    "ma",
    "et",
    "io",
    "ho",
    "e",
    "il",
    "eu",
    "meu",
    "minha",
    "ik",
    "mijn",
    "en",
    "jag",
    "och",
    "min",
    "mam",
    "mój",
    "moja",
    "i",
    "chcę",
    "chciałbym",
    "chciałabym",
    "dzwonię",
    "я",
    "и",
    "у",
    "мне",
    "мой",
];

/// What only somebody who rings adds to a name.
const RETURNING: &[&str] = &[
    "again", "calling", "here", "speaking", "ringing", "igen", "encore", "znowu",
];

/// Whether a firm or a couple is named: "it's Wilson and Sons".
fn is_several(next: Option<&str>, words: &[&str], at: usize) -> bool {
    let is_and = next.is_some_and(|w| {
        matches!(
            w,
            "and" | "und" | "&" | "y" | "et" | "e" | "en" | "och" | "i" | "и"
        )
    });
    let other = words.get(at + 1);
    is_and
        && other
            .is_some_and(|w| w.chars().count() > 2 && starts_like_a_name(w) && !w.contains('\''))
}

/// Whether a clause about somebody else follows: "c'est Paul qui m'a dit".
fn is_of_another(next: Option<&str>, words: &[&str], at: usize) -> bool {
    let verb = words.get(at + 1).map(|w| fold(w));
    next.is_some_and(|w| RELATIVE.contains(&w)) && !verb.is_some_and(|w| RINGS.contains(&&*w))
}

/// Whether callers go on with a word after their name.
fn begins_clause(word: &str) -> bool {
    // "… Silva de Lisboa", and "… preciso de um encanador".
    word != "de" && (CLAUSE_STARTS.contains(&word) || MAY_FOLLOW.contains(&word))
}

/// Whether a word may come right behind a name.
fn may_follow(word: &str) -> bool {
    MAY_FOLLOW.contains(&word) || is_function_word(word) || OPENERS.contains(&word)
}

fn is_ordinary(word: &str) -> bool {
    NOT_NAMES.contains(&word) || INSTRUCTIONS.contains(&word) || BETWEEN.contains(&word)
}

fn is_titled(word: &str) -> bool {
    super::is_title(word)
}

fn is_particle(word: &str) -> bool {
    PARTICLES.contains(&word.to_lowercase().as_str())
}

/// Whether a word's script has no capitals.
fn has_no_case(word: &str) -> bool {
    word.chars().any(char::is_alphabetic)
        && !word.chars().any(|c| c.is_lowercase() || c.is_uppercase())
}

/// Each word of a name with its capital, but for particles inside.
fn capitalised(words: &[&str]) -> String {
    let mut name = String::new();
    for (i, word) in words.iter().enumerate() {
        let word = if is_titled(word) {
            word.trim_end_matches(',')
        } else {
            bare(word)
        };
        if i > 0 {
            name.push(' ');
            if is_particle(word) {
                name.push_str(word);
                continue;
            }
        }
        let mut at_start = true;
        for c in word.chars() {
            if at_start {
                name.extend(c.to_uppercase());
            } else {
                name.push(c);
            }
            at_start = matches!(c, '-' | '\'');
        }
    }
    name
}

/// Whether words instruct whoever reads them.
pub(super) fn is_order(words: &[&str]) -> bool {
    words
        .iter()
        .any(|word| INSTRUCTIONS.contains(&&*fold(word)))
}

/// A capital, or a letter of a script that has none. Neither an acronym nor a
/// brand ("DoorDash"): of capitals inside a word, only "McKay" and "O'Neil".
pub(super) fn starts_like_a_name(word: &str) -> bool {
    let word = bare(word);
    let Some(first) = word.chars().find(|c| c.is_alphabetic()) else {
        return false;
    };
    let brand = word.split(['\'', '-', '.']).any(|part| {
        let rest = part
            .strip_prefix("Mc")
            .or_else(|| part.strip_prefix("Mac"))
            .unwrap_or(part);
        rest.chars().skip(1).any(char::is_uppercase)
    });
    !first.is_lowercase() && !brand
}
