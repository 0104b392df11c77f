//! Secrets that others show us: several may be good at a time, so that one can
//! be changed without a gap (the new one and the old one, until everybody has
//! the new one).

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// The values of one secret, any of which is good.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<SecretString>);

impl Secrets {
    /// Takes comma-separated values; empty ones count for nothing.
    #[must_use]
    pub fn parse(values: &str) -> Self {
        let values = values.split(',').map(str::trim);
        let values = values.filter(|value| !value.is_empty());
        Self(values.map(SecretString::from).collect())
    }

    /// The first value: the one in use where a single one is needed.
    #[must_use]
    pub fn first(&self) -> Option<&SecretString> {
        self.0.first()
    }

    /// Each value, as bytes.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|value| value.expose_secret().as_bytes())
    }

    /// Whether `given` is one of the values. Takes the same time whichever it
    /// is and wherever it differs.
    #[must_use]
    pub fn contain(&self, given: &[u8]) -> bool {
        self.values()
            .fold(false, |found, value| found | bool::from(given.ct_eq(value)))
    }
}

/// What the webhooks are shown, to be let in. Cheap to clone.
#[derive(Clone)]
pub struct WebhookKeys {
    /// `X-Api-Key` of client-data.
    pub client_data: KeySet,
    /// `X-Api-Key` of search-data.
    pub search_data: KeySet,
    /// HMAC secret of post-call.
    pub post_call: KeySet,
}

/// The values of a secret while the service runs: more can become good, so that
/// one is changed without a restart.
#[derive(Clone)]
pub struct KeySet(Arc<ArcSwap<Secrets>>);

impl KeySet {
    /// Most values at a time: each is tried on what strangers send.
    const MOST: usize = 8;

    #[must_use]
    pub fn new(secrets: Secrets) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(secrets)))
    }

    /// The values that are good now.
    #[must_use]
    pub fn now(&self) -> Guard<Arc<Secrets>> {
        self.0.load()
    }

    /// Takes another value for good, until the service ends. False if there are too
    /// many already.
    #[must_use]
    pub fn add(&self, value: &SecretString) -> bool {
        let is_there = |secrets: &Secrets| secrets.contain(value.expose_secret().as_bytes());
        self.0.rcu(|secrets| {
            let mut secrets = Secrets::clone(secrets);
            if !is_there(&secrets) && secrets.0.len() < Self::MOST {
                secrets.0.push(value.clone());
            }
            secrets
        });
        is_there(&self.0.load())
    }
}

/// The key of an operator.
#[derive(Debug, Clone)]
pub struct AdminKey {
    /// What the audit log calls whoever has it.
    pub name: String,
    /// The bearer token.
    pub key: SecretString,
}

impl AdminKey {
    /// What the audit log calls a key without a name.
    const UNNAMED: &str = "admin";
    /// Longest name, in characters.
    const MAX_NAME: usize = 32;

    /// Takes comma-separated keys, each perhaps with a name and a colon in
    /// front of it: `ana:…,ops:…`. One without a key is empty, and opens nothing.
    #[must_use]
    pub fn parse_all(values: &str) -> Vec<Self> {
        let is_name = |name: &str| {
            (1..=Self::MAX_NAME).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        values
            .split(',')
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .map(|value| {
                let (name, key) = value
                    .split_once(':')
                    .filter(|(name, _)| is_name(name))
                    .unwrap_or((Self::UNNAMED, value));
                Self {
                    name: name.to_owned(),
                    key: key.into(),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_several_values_is_good_and_nothing_else() {
        let secrets = Secrets::parse(" new , old,,");
        assert!(secrets.contain(b"new") && secrets.contain(b"old"));
        for wrong in ["", "ne", "newer", "new , old", ","] {
            assert!(!secrets.contain(wrong.as_bytes()), "{wrong}");
        }
        assert!(!Secrets::parse(" , ").contain(b""));
        assert!(!format!("{secrets:?}").contains("new"));
    }

    #[test]
    fn a_key_set_takes_more_values_but_not_any_number() {
        let keys = KeySet::new(Secrets::parse("first"));
        for i in 1..KeySet::MOST {
            assert!(keys.add(&format!("value {i}").into()));
        }
        assert!(!keys.add(&"one too many".into()));
        assert!(keys.add(&"value 1".into()), "it is there already");
        let now = keys.now();
        assert!(now.contain(b"first") && now.contain(b"value 7"));
        assert!(!now.contain(b"one too many"));
    }

    #[test]
    fn operators_keys_have_names() {
        let keys = AdminKey::parse_all("ana:one, ops:t:wo ,plain, bad name:three,x:");
        let keys: Vec<(&str, &str)> = keys
            .iter()
            .map(|k| (k.name.as_str(), k.key.expose_secret()))
            .collect();
        let unnamed = AdminKey::UNNAMED;
        assert_eq!(
            keys,
            [
                ("ana", "one"),
                ("ops", "t:wo"),
                (unnamed, "plain"),
                (unnamed, "bad name:three"),
                ("x", "")
            ]
        );
    }
}
