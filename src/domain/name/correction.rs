//! Hears a caller correct a name: "no, I'm not Dave, I'm Eve", "it's Eve, not
//! Dave".

use std::borrow::Cow;

use super::CallerName;
use super::evidence::Correction;
use super::introduction::{end_of, fold, name_at, starts_like_a_name, straight};
use super::words::{INTRODUCTIONS, NEGATIONS, NOT, REPORTED, Strength};
use crate::domain::call_event::{Role, Turn};

/// Words between the name that is wrong and the introduction of the right one.
const MAX_BETWEEN: usize = 4;

/// The last correction in the caller's own turns.
#[must_use]
pub(super) fn from_turns(turns: &[Turn]) -> Option<Correction> {
    turns
        .iter()
        .rev()
        .filter(|turn| turn.role == Role::Caller)
        .find_map(|turn| in_turn(&turn.text))
}

fn in_turn(text: &str) -> Option<Correction> {
    let text = straight(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let folded: Vec<Cow<'_, str>> = words.iter().map(|word| fold(word)).collect();
    // Whom somebody else denies to be is nobody's name here.
    let end = folded
        .iter()
        .position(|word| REPORTED.contains(&&**word))
        .unwrap_or(folded.len());
    (0..end).find_map(|start| {
        denied_first(&words, &folded, start).or_else(|| denied_last(&words, &folded, start))
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
    let word = words.get(at).filter(|word| starts_like_a_name(word))?;
    name_at(&[word], Strength::Asked)
}

fn introduced_at(words: &[&str], folded: &[Cow<'_, str>], start: usize) -> Option<CallerName> {
    INTRODUCTIONS.iter().find_map(|(phrase, _)| {
        let after = end_of(phrase, folded, start).filter(|end| *end < words.len())?;
        name_at(&words[after..], Strength::Asked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str, expected: Option<(&str, &str)>) {
        let found = in_turn(said);
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
            "",
        ] {
            check(said, None);
        }
    }
}
