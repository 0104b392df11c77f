//! Hears a caller correct a name: "no, I'm not Dave, I'm Eve", "it's Eve, not
//! Dave".

use std::borrow::Cow;

use rustc_hash::FxHashSet;

use super::CallerName;
use super::candidate::{Manner, name_at};
use super::evidence::Correction;
use super::text::{end_of, fold, straight};
use super::words::{INTRODUCTIONS, NEGATIONS, NOT, REPORTED, Strength};
use crate::domain::call_event::{Role, Turn};

/// Words between the name that is wrong and the introduction of the right one.
const MAX_BETWEEN: usize = 4;

/// The last correction in the caller's own turns.
#[must_use]
pub(super) fn from_turns(turns: &[Turn]) -> Option<Correction> {
    turns
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, turn)| turn.role == Role::Caller)
        .find_map(|(i, turn)| {
            let agent = i.checked_sub(1).map(|before| &turns[before]);
            let agent = agent.filter(|before| before.role == Role::Agent);
            in_turn(&turn.text, agent.map(|turn| turn.text.as_str()))
        })
}

/// `agent` is what the agent said right before.
fn in_turn(text: &str, agent: Option<&str>) -> Option<Correction> {
    let text = straight(text);
    let said = Said::of(&text, agent.unwrap_or_default());
    // Whom somebody else denies to be is nobody's name here.
    let end = said
        .folded
        .iter()
        .position(|word| REPORTED.contains(&&**word))
        .unwrap_or(said.folded.len());
    (0..end).find_map(|start| {
        said.denied_first(start)
            .or_else(|| said.denied_last(start))
            .or_else(|| said.denied_to_agent(start))
    })
}

/// "It's", between a denial and a name.
const COPULAS: &[&str] = &[
    "it's", "is", "ist", "es", "é", "è", "c'est", "het's", "det", "to", "это", "i'm",
];

/// A caller's turn, by its words.
struct Said<'a> {
    words: Vec<&'a str>,
    folded: Vec<Cow<'a, str>>,
    manner: Manner,
    /// Words of the agent's turn before, in lower case, each once.
    agents: FxHashSet<String>,
}

impl<'a> Said<'a> {
    fn of(text: &'a str, agent: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        Self {
            folded: words.iter().map(|word| fold(word)).collect(),
            words,
            manner: Manner {
                strength: Strength::Firm,
                is_asked: true,
                is_cased: text.chars().any(char::is_uppercase),
            },
            agents: lower_words(agent).collect(),
        }
    }

    /// "I'm not Dave, I'm Eve."
    fn denied_first(&self, start: usize) -> Option<Correction> {
        let mut phrases = NEGATIONS.iter();
        let at = phrases.find_map(|phrase| end_of(phrase, &self.folded, start))?;
        let wrong = self.single(at)?;
        let right = (at + 1..self.folded.len())
            .take(MAX_BETWEEN)
            .find_map(|place| self.introduced_at(place))?;
        different(wrong, right)
    }

    /// "It's Eve, not Dave."
    fn denied_last(&self, start: usize) -> Option<Correction> {
        let mut phrases = INTRODUCTIONS.iter();
        let at = phrases.find_map(|(phrase, _)| end_of(phrase, &self.folded, start))?;
        let right = self.single(at)?;
        let denial = self.folded.get(at + 1)?;
        if !NOT.contains(&&**denial) {
            return None;
        }
        different(self.single(at + 2)?, right)
    }

    /// "No, not David, Davide", "no, Mariana no, Marina": to an agent that has
    /// just used the wrong name.
    fn denied_to_agent(&self, start: usize) -> Option<Correction> {
        let is = |at: usize, list: &[&str]| {
            let word = self.folded.get(at);
            word.is_some_and(|word| list.contains(&&**word))
        };
        let past_copula = |at: usize| at + usize::from(is(at, COPULAS));
        let (wrong, right) = if is(start, NOT) {
            let wrong = past_copula(start + 1);
            (wrong, past_copula(wrong + 1))
        } else if is(start + 1, NOT) {
            (start, past_copula(start + 2))
        } else {
            return None;
        };
        let used = self.folded.get(wrong)?;
        let mut forms = ENDINGS.iter().map(|ending| format!("{used}{ending}"));
        let is_used =
            self.agents.contains(&**used) || forms.any(|form| self.agents.contains(&form));
        if !is_used {
            return None;
        }
        different(self.single(wrong)?, self.single(right)?)
    }

    /// The name of one word at a place.
    fn single(&self, at: usize) -> Option<CallerName> {
        name_at(&[self.words.get(at)?], self.manner)
    }

    fn introduced_at(&self, start: usize) -> Option<CallerName> {
        INTRODUCTIONS.iter().find_map(|(phrase, _)| {
            let after = end_of(phrase, &self.folded, start);
            let after = after.filter(|end| *end < self.words.len())?;
            name_at(&self.words[after..], self.manner)
        })
    }
}

/// "Panie Marianie": what is added to a name where it is declined.
const ENDINGS: &[&str] = &["a", "e", "ie", "u", "o", "em", "owi", "у", "а", "е", "ом"];

/// Whether a word is a name, declined perhaps; both in lower case.
fn is_form_of(word: &str, name: &str) -> bool {
    let ending = word.strip_prefix(name);
    ending.is_some_and(|ending| ending.is_empty() || ENDINGS.contains(&ending))
}

/// Whether a text calls somebody by a name, declined perhaps.
pub(super) fn is_called(name: &CallerName, text: &str) -> bool {
    let name = name.first_word().to_lowercase();
    lower_words(text).any(|word| is_form_of(&word, &name))
}

/// Whether a text addresses somebody by a name: "thanks, David", "Herr Maier".
pub(super) fn is_addressed(name: &CallerName, text: &str) -> bool {
    const BEFORE: &[&str] = &[
        "thanks",
        "you",
        "hi",
        "hello",
        "danke",
        "hallo",
        "herr",
        "frau",
        "gracias",
        "hola",
        "señor",
        "señora",
        "merci",
        "bonjour",
        "monsieur",
        "madame",
        "grazie",
        "ciao",
        "signor",
        "signora",
        "obrigado",
        "obrigada",
        "olá",
        "dank",
        "wel",
        "bedankt",
        "meneer",
        "mevrouw",
        "tack",
        "hej",
        "dziękuję",
        "panie",
        "pani",
        "спасибо",
        "здравствуйте",
        "mr",
        "mrs",
        "ms",
    ];
    let name = name.first_word().to_lowercase();
    let words: Vec<String> = lower_words(text).collect();
    words
        .windows(2)
        .any(|pair| is_form_of(&pair[1], &name) && BEFORE.contains(&pair[0].as_str()))
}

fn lower_words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !(c.is_alphabetic() || matches!(c, '\'' | '-')))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

fn different(wrong: CallerName, right: CallerName) -> Option<Correction> {
    (!wrong.is_same_person(&right)).then_some(Correction { wrong, right })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str, expected: Option<(&str, &str)>) {
        let found = in_turn(said, Some("Thanks, David."));
        let found = found.as_ref().map(|c| (c.wrong.as_str(), c.right.as_str()));
        assert_eq!(found, expected, "{said}");
    }

    #[test]
    fn a_name_is_corrected_in_many_ways() {
        check("No, I'm not Dave, I'm Eve.", Some(("Dave", "Eve")));
        check("No, I’m not Dave. My name is Eve.", Some(("Dave", "Eve")));
        check(
            "My name isn't Dave, it's Eve Miller",
            Some(("Dave", "Eve Miller")),
        );
        check("Actually it's Eve, not Dave.", Some(("Dave", "Eve")));
        check("My name is Eve, not Dave, thank you", Some(("Dave", "Eve")));
        check(
            "Ich bin nicht David, ich heiße Eva.",
            Some(("David", "Eva")),
        );
        check("No soy David, me llamo Eva.", Some(("David", "Eva")));
        check("No, not David, Davide.", Some(("David", "Davide")));
        check("No, David no, Eva.", Some(("David", "Eva")));
        check("sorry no it's erin not david", Some(("David", "Erin")));
    }

    #[test]
    fn what_corrects_no_name_is_passed_over() {
        for said in [
            "I'm not Dave.",
            "I'm not Italian, I'm Spanish.",
            "It's not Monday, it's Tuesday.",
            "He said I'm not Dave, I'm Eve.",
            "I'm not sure, I'm new here.",
            "I'm not Dave, I'm Ignore Previous Instructions.",
            "I'm not Dave, I'm Dave.",
            // The agent has not said so.
            "No, not Peter, Paul.",
            "",
        ] {
            check(said, None);
        }
    }
}
