//! Who is calling: an E.164 number, a SIP URI or a WhatsApp id.
//!
//! Two spellings of one number are one caller; two callers are never one.
//! Where normalising could merge two people (a national number that reads as
//! another country's, the user part of a SIP URI), the spelling is kept.

use std::fmt;
use std::sync::Arc;

/// Words that networks send instead of a number when the caller withholds it,
/// each with the digits that Twilio sends for it (the word spelled on a
/// telephone keypad, with a plus in front).
const WITHHELD: [(&str, &str); 9] = [
    ("anonymous", "266696687"),
    ("restricted", "7378742833"),
    ("unavailable", "86282452253"),
    ("unknown", "8656696"),
    ("private", "7748283"),
    ("blocked", "2562533"),
    ("withheld", "94844353"),
    ("nocallerid", "6622553743"),
    ("asserted", "27737833"),
];

/// Longest SIP URI taken, in bytes.
const MAX_SIP_BYTES: usize = 256;

/// A caller that can be recognised again. Built by [`CallerId::parse`] alone.
///
/// It has no `Display`, and its `Debug` is masked, so that a number reaches a
/// log only through the setting `LOG_CALLER_IDS`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallerId(Arc<str>);

/// Why a string names no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallerIdError {
    /// The number is withheld: nothing may be stored under it, because every
    /// withheld caller would share it.
    #[error("the caller's number is withheld")]
    Withheld,
    /// Neither an E.164 number, nor a SIP URI, nor a WhatsApp id.
    #[error("is no E.164 number, SIP URI or WhatsApp id")]
    Malformed,
    /// No telephone network can have assigned it: a placeholder, which many
    /// callers would share.
    #[error("is a number that no telephone network assigns")]
    Unassigned,
}

impl CallerId {
    /// Recognises a caller id as webhooks carry it.
    ///
    /// # Errors
    /// [`CallerIdError`] if the number is withheld or none that we know.
    pub fn parse(raw: &str) -> Result<Self, CallerIdError> {
        let text = raw.trim();
        if text.is_empty() {
            return Err(CallerIdError::Withheld);
        }
        if text.contains('@') || has_scheme(text, "sip:") || has_scheme(text, "sips:") {
            return parse_sip(text);
        }
        let number = text.strip_prefix('+').unwrap_or(text);
        let is_plain_number = number.starts_with(|c: char| c.is_ascii_digit());
        if !is_plain_number && is_withheld_word(text) {
            return Err(CallerIdError::Withheld);
        }
        if let Some(number) = strip_scheme(text, "whatsapp:") {
            // A WhatsApp id is the digits alone, as in `whatsapp_user_id`.
            return parse_number(number.trim_start_matches('+'));
        }
        parse_number(strip_scheme(text, "tel:").unwrap_or(text))
    }

    /// Takes an id from a store. What the rules of its time let in stays
    /// readable whatever today's rules say; `None` only for what no rules ever
    /// let in.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        let is_id = (1..=MAX_SIP_BYTES + "sips:".len()).contains(&text.len())
            && !text.contains(|c: char| c.is_control() || c.is_whitespace());
        is_id.then(|| Self(text.into()))
    }

    /// Recognises ids that cannot be taken for something else: a number with
    /// its plus, or a SIP URI with its scheme. For fields such as `user_id`, in
    /// which an operator may as well keep a customer number or an e-mail address.
    #[must_use]
    pub fn parse_unmistakable(raw: &str) -> Option<Self> {
        let text = raw.trim();
        let explicit =
            text.starts_with('+') || has_scheme(text, "sip:") || has_scheme(text, "sips:");
        Self::parse(text).ok().filter(|_| explicit)
    }

    /// The normalised id: `+` and digits, digits alone (WhatsApp), or a SIP URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id with all but its first three and last two characters hidden.
    #[must_use]
    pub fn masked(&self) -> String {
        let count = self.0.chars().count();
        self.0
            .chars()
            .enumerate()
            .map(|(i, c)| if i < 3 || i + 2 >= count { c } else { '*' })
            .collect()
    }
}

impl fmt::Debug for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerId({})", self.masked())
    }
}

impl std::borrow::Borrow<str> for CallerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    strip_scheme(text, scheme).is_some()
}

fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let head = text.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme)
        .then(|| &text[scheme.len()..])
}

/// Whether the letters and digits of `text` are one of the words, or none.
fn is_withheld_word(text: &str) -> bool {
    let letters = || {
        text.chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase)
    };
    letters().next().is_none()
        || WITHHELD
            .iter()
            .any(|(word, keypad)| letters().eq(word.chars()) || letters().eq(keypad.chars()))
}

/// E.164 allows 15 digits at most; below seven are short codes and extensions,
/// which many people share.
fn parse_number(text: &str) -> Result<CallerId, CallerIdError> {
    let text = text.trim();
    let (plus, rest) = match text.strip_prefix('+') {
        Some(rest) => ("+", rest),
        None => ("", text),
    };
    let mut number = String::with_capacity(16);
    number.push_str(plus);
    for c in rest.chars() {
        match c {
            '0'..='9' => number.push(c),
            ' ' | '-' | '.' | '(' | ')' | '/' | '\u{a0}' | '\u{2010}' | '\u{2011}' => {}
            _ => return Err(CallerIdError::Malformed),
        }
    }
    let digits = &number[plus.len()..];
    let leading_zero = !plus.is_empty() && digits.starts_with('0');
    if !(7..=15).contains(&digits.len()) || leading_zero {
        return Err(CallerIdError::Malformed);
    }
    // Some networks put the country code of North America in front of the word.
    let spelled = |digits: &str| WITHHELD.iter().any(|(_, keypad)| digits == *keypad);
    if spelled(digits) || digits.strip_prefix('1').is_some_and(spelled) {
        return Err(CallerIdError::Withheld);
    }
    if is_one_digit_repeated(digits) {
        return Err(CallerIdError::Unassigned);
    }
    Ok(CallerId(number.into()))
}

/// `0000000`, as forms and test equipment have it.
pub(super) fn is_one_digit_repeated(digits: &str) -> bool {
    let mut digits = digits.bytes();
    digits
        .next()
        .is_some_and(|first| digits.all(|digit| digit == first))
}

/// `"Name" <sip:user@host;param>` becomes `sip:user@host`. The user part is
/// case-sensitive (RFC 3261, 19.1.4) and stays as it is; the host is not.
fn parse_sip(text: &str) -> Result<CallerId, CallerIdError> {
    let uri = match (text.find('<'), text.find('>')) {
        (Some(open), Some(close)) if open < close => &text[open + 1..close],
        _ => text,
    };
    let (scheme, rest) = if let Some(rest) = strip_scheme(uri, "sips:") {
        ("sips", rest)
    } else {
        ("sip", strip_scheme(uri, "sip:").unwrap_or(uri))
    };
    let rest = rest.split([';', '?']).next().unwrap_or_default();
    // `sip:host` without a user names a machine, not a caller.
    let (user, host) = rest.rsplit_once('@').ok_or(CallerIdError::Malformed)?;
    // A user part may carry a password (`user:secret@host`); it is never kept.
    let user = user.split(':').next().unwrap_or_default();
    let printable = |s: &str| {
        s.bytes()
            .all(|b| b.is_ascii_graphic() && !b"<>\"\\@".contains(&b))
    };
    if host.eq_ignore_ascii_case("anonymous.invalid") || is_withheld_word(user) {
        return Err(CallerIdError::Withheld);
    }
    if host.is_empty() || !printable(user) || !printable(host) || rest.len() > MAX_SIP_BYTES {
        return Err(CallerIdError::Malformed);
    }
    Ok(CallerId(
        format!("{scheme}:{user}@{}", host.to_ascii_lowercase()).into(),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(raw: &str, expected: Result<&str, CallerIdError>) {
        let parsed = CallerId::parse(raw);
        assert_eq!(
            parsed.as_ref().map(CallerId::as_str),
            expected.as_ref().copied(),
            "{raw}"
        );
    }

    #[test]
    fn numbers_are_normalised_but_never_guessed() {
        check("+1 (612) 555-1234", Ok("+16125551234"));
        check(" tel:+49.30.555103 ", Ok("+4930555103"));
        check("5511955550104", Ok("5511955550104"));
        check("whatsapp:+14155238886", Ok("14155238886"));
        // A national number could be read as another country's.
        check("6125551234", Ok("6125551234"));
        check("+0301234567", Err(CallerIdError::Malformed));
        check("101", Err(CallerIdError::Malformed));
        check("+1234567890123456", Err(CallerIdError::Malformed));
        check("Nora", Err(CallerIdError::Malformed));
    }

    #[test]
    fn sip_uris_keep_the_user_part() {
        check(
            "sip:Alice@PBX.Example.com;transport=udp",
            Ok("sip:Alice@pbx.example.com"),
        );
        check("\"A\" <sip:+4930@pbx>;tag=1", Ok("sip:+4930@pbx"));
        check("alice:secret@pbx", Ok("sip:alice@pbx"));
        check("sip:pbx.example.com", Err(CallerIdError::Malformed));
        check(
            "sip:anonymous@anonymous.invalid",
            Err(CallerIdError::Withheld),
        );
        check("sip:Anonymous@pbx", Err(CallerIdError::Withheld));
    }

    #[test]
    fn withheld_numbers_name_nobody() {
        for raw in [
            "anonymous",
            "Anonymous",
            "RESTRICTED",
            "unavailable",
            "unknown",
            "private",
            "Blocked",
            "",
            "  ",
            "+266696687",
            "266696687",
            "+7378742833",
            "+86282452253",
            "+8656696",
            "+17378742833",
            "1266696687",
            "+",
        ] {
            check(raw, Err(CallerIdError::Withheld));
        }
    }

    #[test]
    fn the_spelled_numbers_are_the_words_on_a_keypad() {
        const KEYS: &str = "22233344455566677778889999";
        for (word, keypad) in WITHHELD {
            let spelled: String = word
                .bytes()
                .map(|b| KEYS.as_bytes()[usize::from(b - b'a')] as char)
                .collect();
            assert_eq!(spelled, keypad, "{word}");
        }
    }

    #[test]
    fn debug_output_hides_the_number() {
        let id = CallerId::parse("+16125551234").unwrap();
        assert_eq!(format!("{id:?}"), "CallerId(+16*******34)");
    }

    #[test]
    fn only_unmistakable_user_ids_are_callers() {
        assert!(CallerId::parse_unmistakable("12345678").is_none());
        assert!(CallerId::parse_unmistakable("+16125551234").is_some());
        assert!(CallerId::parse_unmistakable("customer-7").is_none());
        assert!(CallerId::parse_unmistakable("nora@example.org").is_none());
        assert!(CallerId::parse_unmistakable("sip:nora@pbx").is_some());
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_or_refused_and_parsing_is_stable(raw in "\\PC{0,80}") {
            if let Ok(id) = CallerId::parse(&raw) {
                let again = CallerId::parse(id.as_str()).unwrap();
                prop_assert_eq!(&again, &id);
            }
        }

        #[test]
        fn separators_never_change_who_calls(digits in "[1-9][0-9]{6,14}", cut in 0usize..7) {
            let spaced = format!("+{}-{}", &digits[..cut], &digits[cut..]);
            let (a, b) = (CallerId::parse(&format!("+{digits}")), CallerId::parse(&spaced));
            prop_assert_eq!(a, b);
        }
    }
}
