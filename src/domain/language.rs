//! The language of a call, as ElevenLabs tells it (`metadata.main_language`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A language: ISO 639 in lower case, perhaps with a region (`en`, `pt-br`).
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Language(Arc<str>);

/// It is no language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no language code such as en or pt-br")]
pub struct NoLanguage;

impl Language {
    /// Takes a code in any case.
    ///
    /// # Errors
    /// [`NoLanguage`]
    pub fn parse(code: &str) -> Result<Self, NoLanguage> {
        let code = code.trim();
        let (language, region) = match code.split_once(['-', '_']) {
            Some((language, region)) => (language, Some(region)),
            None => (code, None),
        };
        let is_of = |part: &str, letters: std::ops::RangeInclusive<usize>| {
            letters.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        let has_letters = language.bytes().all(|b| b.is_ascii_alphabetic());
        if !has_letters || !is_of(language, 2..=3) || !region.is_none_or(|r| is_of(r, 2..=4)) {
            return Err(NoLanguage);
        }
        Ok(Self(code.to_ascii_lowercase().replace('_', "-").into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the region: `pt` of `pt-br`.
    #[must_use]
    pub fn primary(&self) -> &str {
        self.0.split('-').next().unwrap_or_default()
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Language {
    type Error = NoLanguage;
    fn try_from(code: String) -> Result<Self, NoLanguage> {
        Self::parse(&code)
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_in_any_case_and_nothing_else_is() {
        let read = |code: &str| Language::parse(code).map(|l| l.as_str().to_owned());
        assert_eq!(read(" EN ").as_deref(), Ok("en"));
        assert_eq!(read("pt_BR").as_deref(), Ok("pt-br"));
        assert_eq!(read("fil").as_deref(), Ok("fil"));
        for wrong in [
            "",
            "e",
            "english",
            "e1",
            "en-",
            "en-verylong",
            "{{user_name}}",
            "дe",
        ] {
            assert_eq!(read(wrong), Err(NoLanguage), "{wrong}");
        }
    }
}
