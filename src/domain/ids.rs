//! Identifiers given by ElevenLabs: opaque strings that we only compare.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest identifier taken from a webhook, in bytes.
pub const MAX_ID_BYTES: usize = 512;

/// Longest `conversation_id` that is used as a file name as it is, in bytes.
pub const MAX_PATH_ID_BYTES: usize = 128;

/// Why a string is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing but white space.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_ID_BYTES`] bytes.
    #[error("is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// Holds a control character.
    #[error("holds a control character")]
    Control,
}

fn check(raw: &str) -> Result<&str, IdError> {
    let id = raw.trim();
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong);
    }
    if id.chars().any(char::is_control) {
        return Err(IdError::Control);
    }
    Ok(id)
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(raw: String) -> Result<Self, IdError> {
                Self::parse(&raw)
            }
        }

        impl $name {
            /// Takes an identifier as a webhook carries it.
            ///
            /// # Errors
            /// [`IdError`] if it is empty, too long or holds control characters.
            pub fn parse(raw: &str) -> Result<Self, IdError> {
                check(raw).map(|id| Self(id.into()))
            }

            /// The identifier as ElevenLabs wrote it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque_id! {
    AgentId
}

opaque_id! {
    /// One conversation: ElevenLabs' `conversation_id`, the unit of exactly-once learning.
    ConversationId
}

impl std::borrow::Borrow<str> for AgentId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether an id can stand in a path, of a file or a URL, without reaching
/// another: it is of `[A-Za-z0-9_-]` alone.
#[must_use]
pub fn is_plain(id: &str) -> bool {
    id.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

impl ConversationId {
    /// The folder and file-name stem under which this call is archived.
    ///
    /// An id with any character outside `[A-Za-z0-9_-]`, or longer than
    /// [`MAX_PATH_ID_BYTES`], never becomes a path: its SHA-256 does.
    #[must_use]
    pub fn path_stem(&self) -> String {
        if self.0.len() <= MAX_PATH_ID_BYTES && is_plain(&self.0) {
            self.0.to_string()
        } else {
            format!("sha256-{}", hex::encode(Sha256::digest(self.0.as_bytes())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsafe_conversation_id_never_becomes_a_path() {
        for raw in [
            "../../etc/passwd",
            "a/b",
            "a.b",
            "ü",
            &"x".repeat(129),
            "a\\b",
        ] {
            let stem = ConversationId::parse(raw).unwrap().path_stem();
            assert!(
                stem.starts_with("sha256-") && stem.len() == 71,
                "{raw} -> {stem}"
            );
        }
        let plain = ConversationId::parse("conv_0001-A").unwrap();
        assert_eq!(plain.path_stem(), "conv_0001-A");
    }

    #[test]
    fn ids_are_bounded_and_printable() {
        assert_eq!(AgentId::parse("  "), Err(IdError::Empty));
        assert_eq!(AgentId::parse("a\nb"), Err(IdError::Control));
        assert_eq!(AgentId::parse(&"x".repeat(513)), Err(IdError::TooLong));
        assert_eq!(AgentId::parse(" agent_1 ").unwrap().as_str(), "agent_1");
    }
}
