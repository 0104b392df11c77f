//! The signature of post-call webhooks:
//! `ElevenLabs-Signature: t=<unix seconds>,v0=<hex HMAC-SHA256 of "t.body">`
//! (ElevenLabs, "Post-call webhooks", authentication).

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

/// How old a signature may be, in seconds (ElevenLabs' own tolerance).
const MAX_AGE_SECS: i64 = 30 * 60;
/// How far ahead the sender's clock may be, in seconds.
const MAX_AHEAD_SECS: i64 = 5 * 60;
/// Most `v0` parts looked at: the sender may sign with an old and a new secret.
const MAX_SIGNATURES: usize = 8;

/// How old a good signature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// The body can be trusted.
    Fresh,
    /// Whoever has kept it may send it: the body is not trusted.
    Stale,
}

/// Why a body is not taken for authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("the ElevenLabs-Signature header is missing or not t=…,v0=…")]
    Unreadable,
    #[error("the signature is from the future: is the clock right?")]
    Future,
    #[error("the signature is wrong")]
    Wrong,
}

/// A signature that is recent, and the check of the body against it, which
/// goes along while the body is read.
pub(super) struct Verifier {
    /// One for each secret that is good.
    macs: Vec<Hmac<Sha256>>,
    age: Age,
    signatures: Vec<[u8; 32]>,
}

impl Verifier {
    /// Reads the header. Parts may stand in any order; others are ignored.
    pub fn new<'a>(
        header: Option<&str>,
        keys: impl Iterator<Item = &'a [u8]>,
        now: Timestamp,
    ) -> Result<Self, SignatureError> {
        let mut time = None;
        let mut signatures = Vec::new();
        for part in header.ok_or(SignatureError::Unreadable)?.split(',') {
            match part.trim().split_once('=') {
                Some(("t", value)) if time.is_none() => time = Some(value),
                Some(("v0", value)) if signatures.len() < MAX_SIGNATURES => {
                    let mut signature = [0; 32];
                    if hex::decode_to_slice(value, &mut signature).is_ok() {
                        signatures.push(signature);
                    }
                }
                _ => {}
            }
        }
        let time = time.ok_or(SignatureError::Unreadable)?;
        let seconds: i64 = time.parse().map_err(|_| SignatureError::Unreadable)?;
        if signatures.is_empty() {
            return Err(SignatureError::Unreadable);
        }
        let age = now.as_second().saturating_sub(seconds);
        if age < -MAX_AHEAD_SECS {
            return Err(SignatureError::Future);
        }
        Ok(Self {
            age: if age > MAX_AGE_SECS {
                Age::Stale
            } else {
                Age::Fresh
            },
            macs: keys.map(|key| start(time, key)).collect(),
            signatures,
        })
    }

    /// Takes the next chunk of the body.
    pub fn update(&mut self, chunk: &[u8]) {
        for mac in &mut self.macs {
            mac.update(chunk);
        }
    }

    /// Whether the whole body was signed with one of our keys. Takes the same time
    /// wherever a wrong signature differs.
    pub fn verify(self) -> Result<Age, SignatureError> {
        let mut authentic = false;
        for mac in &self.macs {
            for signature in &self.signatures {
                authentic |= mac.clone().verify_slice(signature).is_ok();
            }
        }
        if authentic {
            Ok(self.age)
        } else {
            Err(SignatureError::Wrong)
        }
    }
}

fn start(time: &str, key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(time.as_bytes());
    mac.update(b".");
    mac
}

/// The header that ElevenLabs would send with `body`: for the demo and tests.
#[must_use]
pub fn sign(body: &[u8], key: &[u8], now: Timestamp) -> String {
    let time = now.as_second().to_string();
    let mut mac = start(&time, key);
    mac.update(body);
    format!("t={time},v0={}", hex::encode(mac.finalize().into_bytes()))
}

/// The whole check in one: what `make fuzz` tries to deceive.
#[doc(hidden)]
#[must_use]
pub fn is_signed(header: &str, body: &[u8], key: &[u8], now: Timestamp) -> bool {
    Verifier::new(Some(header), std::iter::once(key), now).is_ok_and(|mut verifier| {
        verifier.update(body);
        verifier.verify() == Ok(Age::Fresh)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"wsec_test";

    fn keys() -> impl Iterator<Item = &'static [u8]> {
        [b"an old one".as_slice(), KEY].into_iter()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn check(header: &str, body: &[u8], now: Timestamp) -> Result<Age, SignatureError> {
        let mut verifier = Verifier::new(Some(header), keys(), now)?;
        verifier.update(body);
        verifier.verify()
    }

    #[test]
    fn parts_come_in_any_order_and_others_are_ignored() {
        let now = at(1_795_341_600);
        let header = sign(b"{}", KEY, now);
        let (t, v0) = header.split_once(',').unwrap();
        for header in [
            header.clone(),
            format!("{v0},{t}"),
            format!("v1=abc, {t} , x=y=z,, {v0}"),
            format!("{t},v0={},{v0}", "00".repeat(32)),
        ] {
            assert_eq!(check(&header, b"{}", now), Ok(Age::Fresh), "{header}");
        }
    }

    #[test]
    fn a_signature_lasts_thirty_minutes() {
        let signed = at(1_795_341_600);
        let header = sign(b"{}", KEY, signed);
        let later = |seconds| at(signed.as_second() + seconds);
        assert_eq!(check(&header, b"{}", later(1_800)), Ok(Age::Fresh));
        assert_eq!(check(&header, b"{}", later(1_801)), Ok(Age::Stale));
        assert_eq!(check(&header, b"{}", later(-300)), Ok(Age::Fresh));
        assert_eq!(
            check(&header, b"{}", later(-301)),
            Err(SignatureError::Future)
        );
    }

    #[test]
    fn what_is_no_signature_is_unreadable() {
        let now = at(1_795_341_600);
        for header in [
            "",
            "t=1",
            "v0=00",
            "t=1795341600,v0=zz",
            "t=soon,v0=00",
            "t=1795341600,v0=00",
        ] {
            assert_eq!(
                check(header, b"{}", now),
                Err(SignatureError::Unreadable),
                "{header}"
            );
        }
        assert!(matches!(
            Verifier::new(None, keys(), now),
            Err(SignatureError::Unreadable)
        ));
    }

    #[test]
    fn the_extremes_of_time_do_not_overflow() {
        let now = at(1_795_341_600);
        for (t, why) in [
            (i64::MIN, SignatureError::Wrong),
            (i64::MAX, SignatureError::Future),
        ] {
            let header = format!("t={t},v0={}", "00".repeat(32));
            assert_eq!(check(&header, b"{}", now), Err(why));
        }
    }

    proptest! {
        #[test]
        fn only_the_signed_body_passes(
            body in prop::collection::vec(any::<u8>(), 1..300), flip in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(),
        ) {
            let now = at(1_795_341_600);
            let header = sign(&body, KEY, now);
            // In chunks, as it comes from the wire.
            let mut verifier = Verifier::new(Some(&header), keys(), now).unwrap();
            let (head, tail) = body.split_at(cut.index(body.len()));
            verifier.update(head);
            verifier.update(tail);
            prop_assert_eq!(verifier.verify(), Ok(Age::Fresh));

            let mut forged = body.clone();
            forged[flip.index(body.len())] ^= 1 << bit;
            prop_assert_eq!(check(&header, &forged, now), Err(SignatureError::Wrong));
            prop_assert_eq!(check(&sign(&body, b"other key", now), &body, now), Err(SignatureError::Wrong));
        }

        #[test]
        fn no_header_breaks_the_parser(header in "\\PC{0,200}") {
            let _ = Verifier::new(Some(&header), keys(), at(1_795_341_600));
        }
    }
}
