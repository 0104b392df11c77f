//! How a name became known, and which name stands when two are told.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use super::CallerName;
use crate::domain::ids::ConversationId;

/// How a name became known, and so how far it is believed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, EnumString, IntoStaticStr, Serialize, Deserialize,
)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// An operator entered it; nothing that is heard replaces it.
    Operator,
    /// The caller corrected another name: "I'm not Dave, I'm Eve".
    Corrected,
    /// The caller gave it clearly: "my name is Eve".
    Stated,
    /// The caller answered an agent that had asked: "I'm Eve".
    Answered,
    /// The agent's data collection found it.
    Collected,
    /// The caller mentioned it as people do who pick up: "this is Eve".
    Mentioned,
    /// The model heard it, and the caller did say the word.
    Model,
}

impl Evidence {
    /// The name in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// A name that gives way to one that is told clearly.
    fn is_doubtful(self) -> bool {
        matches!(self, Self::Mentioned | Self::Model)
    }

    fn is_clear(self) -> bool {
        matches!(self, Self::Stated | Self::Corrected)
    }
}

/// Who set a name, and from which call it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameSource {
    /// How it became known.
    pub evidence: Evidence,
    /// The call that told it; none if an operator did.
    pub conversation_id: Option<ConversationId>,
    /// When that call started, or when the operator entered it.
    pub at: Timestamp,
}

/// "I'm not Dave, I'm Eve."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// The name that is wrong.
    pub wrong: CallerName,
    /// The caller's name.
    pub right: CallerName,
}

/// What one call tells of its caller's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Naming {
    /// The name that was given, and how.
    pub given: Option<(CallerName, Evidence)>,
    /// A name that the caller corrected. It counts only against the name that
    /// is known: "not Paris, I'm in London" corrects no name.
    pub correction: Option<Correction>,
}

impl Naming {
    /// The name that takes the place of `known`, or `None` if that one stays.
    /// A name without a source is of a time before sources were kept.
    #[must_use]
    pub fn replaces(
        &self,
        known: Option<&CallerName>,
        source: Option<&NameSource>,
    ) -> Option<(CallerName, Evidence)> {
        let Some(known) = known else {
            return self.given.clone();
        };
        let evidence = source.map(|source| source.evidence);
        if evidence == Some(Evidence::Operator) {
            return None;
        }
        if let Some(Correction { wrong, right }) = &self.correction
            && known.is_same_person(wrong)
        {
            return Some((right.clone(), Evidence::Corrected));
        }
        self.given
            .clone()
            .filter(|(_, given)| evidence.is_some_and(Evidence::is_doubtful) && given.is_clear())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CallerName {
        CallerName::parse(text).unwrap()
    }

    fn source(evidence: Evidence) -> NameSource {
        NameSource {
            evidence,
            conversation_id: None,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    fn check(known: Evidence, naming: &Naming, expected: Option<&str>) {
        let dave = name("Dave Miller");
        let replaced = naming.replaces(Some(&dave), Some(&source(known)));
        let replaced = replaced.map(|(name, _)| name.to_string());
        assert_eq!(replaced.as_deref(), expected, "{known:?} {naming:?}");
    }

    #[test]
    fn a_doubtful_name_gives_way_to_a_clear_one_and_no_other_does() {
        let given = |evidence| Naming {
            given: Some((name("Eve"), evidence)),
            correction: None,
        };
        check(Evidence::Model, &given(Evidence::Stated), Some("Eve"));
        check(Evidence::Mentioned, &given(Evidence::Stated), Some("Eve"));
        check(Evidence::Model, &given(Evidence::Mentioned), None);
        for firm in [Evidence::Stated, Evidence::Answered, Evidence::Collected] {
            check(firm, &given(Evidence::Stated), None);
        }
        let before_sources = given(Evidence::Stated).replaces(Some(&name("Dave")), None);
        assert_eq!(before_sources, None);
    }

    #[test]
    fn a_correction_replaces_the_name_that_it_denies_but_not_an_operators() {
        let correction = |wrong: &str| Naming {
            given: None,
            correction: Some(Correction {
                wrong: name(wrong),
                right: name("Eve"),
            }),
        };
        check(Evidence::Stated, &correction("dave"), Some("Eve"));
        check(Evidence::Stated, &correction("Paris"), None);
        check(Evidence::Operator, &correction("Dave"), None);
        assert_eq!(correction("Dave").replaces(None, None), None);
    }
}
