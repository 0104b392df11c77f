//! Hears a caller's introduction of themselves.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::sync::LazyLock;

use rustc_hash::{FxHashMap, FxHashSet};

use super::candidate::{Manner, capitalised, name_at, spelled, starts_like_a_name};
use super::given::{GivenName, given_name, is_function_word};
use super::text::{bare, end_of, fold, is_closed, sentences, straight};
use super::words::{
    BETWEEN, FOLLOWING, INTRODUCTIONS, NAME_QUESTIONS, NO_NAME_QUESTIONS, NOT_NAMES, OPENERS,
    OTHERS, REPORTED, SPELLING_QUESTIONS, SUPPOSED, Strength,
};
use super::{CallerName, Evidence, MAX_CORE_WORDS, MAX_NAME_WORDS, is_particle, is_title};
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
    let question = question_before(turns, position);
    if holds(&question, NO_NAME_QUESTIONS) {
        return false;
    }
    holds(&question, NAME_QUESTIONS)
        || holds(&question, SPELLING_QUESTIONS)
            && position >= 3
            && holds(&question_before(turns, position - 2), NAME_QUESTIONS)
}

fn holds(question: &str, phrases: &[&str]) -> bool {
    phrases.iter().any(|phrase| question.contains(phrase))
}

/// What the agent asks last right before a turn, in lower case: callers answer
/// that. Nothing if it is not the agent who speaks there.
fn question_before(turns: &[Turn], position: usize) -> String {
    let before = position.checked_sub(1).map(|i| &turns[i]);
    let Some(before) = before.filter(|turn| turn.role == Role::Agent) else {
        return String::new();
    };
    let text = straight(&before.text);
    let ended: Vec<&str> = sentences(&text).collect();
    let mut latest = ended.iter().rev();
    let asked = latest.find(|sentence| sentence.trim_end().ends_with('?'));
    let last = asked.or(ended.last()).copied();
    last.unwrap_or_default().to_lowercase()
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
        let mut phrases = FOLLOWING.iter();
        let (phrase, end) =
            phrases.find_map(|phrase| Some((phrase, end_of(phrase, &self.folded, at)?)))?;
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
                .any(|w| is_closed(w) && !is_title(w));
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
                    is_title(name[0]) && length > 1 || is_cased && (is_sure || length > 1)
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
            thanks || is_closed(words[*at]) && !is_title(words[*at])
        };
        let length = (0..words.len())
            .find(is_last)
            .map_or(words.len(), |at| at + 1);
        if length == 0 || length > MAX_CORE_WORDS + 1 {
            return None;
        }
        // "Wait." is an answer as well: what is no given name is left to others.
        let is_known = given_name(&self.folded[start]).is_some() || is_title(words[0]);
        if !is_known {
            return None;
        }
        let name = name_at(&words[..length], manner)?;
        (name.as_str().split(' ').count() == length).then_some(name)
    }
}
