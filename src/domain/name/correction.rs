//! Hears a caller correct a name: "no, I'm not Dave, I'm Eve", "it's Eve, not
//! Dave".

use std::borrow::Cow;

use super::CallerName;
use super::evidence::Correction;
use super::introduction::{Manner, end_of, fold, name_at, straight};
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
    let words: Vec<&str> = text.split_whitespace().collect();
    let folded: Vec<Cow<'_, str>> = words.iter().map(|word| fold(word)).collect();
    // Whom somebody else denies to be is nobody's name here.
    let end = folded
        .iter()
        .position(|word| REPORTED.contains(&&**word))
        .unwrap_or(folded.len());
    (0..end).find_map(|start| {
        denied_first(&words, &folded, start)
            .or_else(|| denied_last(&words, &folded, start))
            .or_else(|| denied_to(agent?, &words, &folded, start))
    })
}

/// "No, not David, Davide", "no, Mariana no, Marina": to an agent that has just
/// used the wrong name.
fn denied_to(
    agent: &str,
    words: &[&str],
    folded: &[Cow<'_, str>],
    start: usize,
) -> Option<Correction> {
    let is = |at: usize, list: &[&str]| folded.get(at).is_some_and(|w| list.contains(&&**w));
    let past_copula = |at: usize| at + usize::from(is(at, COPULAS));
    let (wrong, right) = if is(start, NOT) {
        let wrong = past_copula(start + 1);
        (wrong, past_copula(wrong + 1))
    } else if is(start + 1, NOT) {
        (start, past_copula(start + 2))
    } else {
        return None;
    };
    let (wrong, right) = (single(words, wrong)?, single(words, right)?);
    if !wrong.is_spoken_in(agent, None) && !is_inflected_in(&wrong, agent) {
        return None;
    }
    different(wrong, right)
}

/// "It's", between a denial and a name.
const COPULAS: &[&str] = &[
    "it's", "is", "ist", "es", "é", "è", "c'est", "het's", "det", "to", "это", "i'm",
];

/// "Panie Marianie": a name that is declined where it is called.
pub(super) fn is_inflected_in(name: &CallerName, text: &str) -> bool {
    const LONGEST_ENDING: usize = 2;
    let name = name.as_str().to_lowercase();
    let mut words = text
        .split(|c: char| !c.is_alphabetic())
        .map(str::to_lowercase);
    words.any(|word| {
        word.strip_prefix(&name)
            .is_some_and(|ending| ending.chars().count() <= LONGEST_ENDING)
    })
}

/// "I'm not Dave, I'm Eve."
fn denied_first(words: &[&str], folded: &[Cow<'_, str>], start: usize) -> Option<Correction> {
    let at = NEGATIONS
        .iter()
        .find_map(|phrase| end_of(phrase, folded, start))?;
    let wrong = single(words, at)?;
    let right = (at + 1..folded.len())
        .take(MAX_BETWEEN)
        .find_map(|place| introduced_at(words, folded, place))?;
    different(wrong, right)
}

/// "It's Eve, not Dave."
fn denied_last(words: &[&str], folded: &[Cow<'_, str>], start: usize) -> Option<Correction> {
    let at = INTRODUCTIONS
        .iter()
        .find_map(|(phrase, _)| end_of(phrase, folded, start))?;
    let right = single(words, at)?;
    let denial = folded.get(at + 1)?;
    if !NOT.contains(&&**denial) {
        return None;
    }
    different(single(words, at + 2)?, right)
}

fn different(wrong: CallerName, right: CallerName) -> Option<Correction> {
    (!wrong.is_same_person(&right)).then_some(Correction { wrong, right })
}

/// The name of one word at a place.
fn single(words: &[&str], at: usize) -> Option<CallerName> {
    name_at(&[words.get(at)?], asked(words))
}

fn introduced_at(words: &[&str], folded: &[Cow<'_, str>], start: usize) -> Option<CallerName> {
    INTRODUCTIONS.iter().find_map(|(phrase, _)| {
        let after = end_of(phrase, folded, start).filter(|end| *end < words.len())?;
        name_at(&words[after..], asked(words))
    })
}

fn asked(words: &[&str]) -> Manner {
    let mut letters = words.iter().flat_map(|word| word.chars());
    Manner {
        strength: Strength::Firm,
        is_asked: true,
        is_cased: letters.any(char::is_uppercase),
    }
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
