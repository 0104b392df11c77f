//! How callers are told from what webhooks carry.
//!
//! [`CallerId`] knows how an id is written. These rules know more: which
//! numbers a telephone network can have assigned, what a number without its
//! plus means where the service runs, and which agents' clients may name a
//! caller. A placeholder that many callers share must name nobody, because
//! under it strangers would become one person.

use phonenumber::country;
use phonenumber::metadata::DATABASE;
use rustc_hash::{FxHashMap, FxHashSet};

use super::caller_id::{CallerId, CallerIdError, is_one_digit_repeated};
use super::ids::AgentId;

/// Most digits of a country code (ITU-T E.164).
const MAX_COUNTRY_CODE_DIGITS: usize = 3;
/// The country code of the North American Numbering Plan.
const NANP: u16 = 1;
/// Digits of its numbers. The library adds the seven of local calls.
const NANP_DIGITS: usize = 10;

/// A country whose national numbers are read without a plus: `DEFAULT_REGION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region(country::Id);

impl Region {
    /// Takes an ISO 3166-1 code of two letters, such as `US`.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        code.to_uppercase().parse().ok().map(Self)
    }
}

/// Digits that a national number may have, country code apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lengths {
    least: usize,
    most: usize,
}

/// See the [module](self). The default knows no numbering plan and believes
/// every number.
#[derive(Debug, Clone, Default)]
pub struct CallerRules {
    lengths: FxHashMap<u16, Lengths>,
    region: Option<Region>,
    trusted_user_id_agents: FxHashSet<AgentId>,
}

impl CallerRules {
    /// Rules for callers whose numbers come from `region` where they have no
    /// plus, and for agents whose `user_id` names the caller. Reads the
    /// numbering plans of the world, which takes some 50 ms: once at start.
    #[must_use]
    pub fn new(
        region: Option<Region>,
        trusted_user_id_agents: impl IntoIterator<Item = AgentId>,
    ) -> Self {
        let lengths = (1..1_000)
            .filter_map(|code| Some((code, lengths_of(code)?)))
            .collect();
        Self {
            lengths,
            region,
            trusted_user_id_agents: trusted_user_id_agents.into_iter().collect(),
        }
    }

    /// Recognises a caller id as webhooks carry it.
    ///
    /// # Errors
    /// [`CallerIdError`] if it names nobody.
    pub fn caller(&self, raw: &str) -> Result<CallerId, CallerIdError> {
        let caller = CallerId::parse(raw)?;
        let id = caller.as_str();
        let is_bare = id.starts_with(|c: char| c.is_ascii_digit()) && !is_whatsapp(raw);
        let national = self.region.filter(|_| is_bare);
        let caller = match national.and_then(|region| in_region(id, region)) {
            Some(number) => CallerId::parse(&number)?,
            None => caller,
        };
        if caller
            .as_str()
            .strip_prefix('+')
            .is_some_and(|digits| !self.is_possible(digits))
        {
            return Err(CallerIdError::Unassigned);
        }
        Ok(caller)
    }

    /// Recognises a WhatsApp id: a number of any country without its plus,
    /// which is nothing national.
    ///
    /// # Errors
    /// [`CallerIdError`] if it names nobody.
    pub fn whatsapp(&self, raw: &str) -> Result<CallerId, CallerIdError> {
        CallerId::parse(raw)
    }

    /// The caller that a client says it is, for the agents that are trusted
    /// with that: anybody can write anything there (`data.user_id`).
    #[must_use]
    pub fn claimed(&self, agent: Option<&AgentId>, user_id: &str) -> Option<CallerId> {
        let trusted = agent.is_some_and(|agent| self.trusted_user_id_agents.contains(agent));
        let claimed = trusted.then(|| CallerId::parse_unmistakable(user_id))??;
        self.caller(claimed.as_str()).ok()
    }

    /// Whether a network can have assigned a number with its country code. A
    /// country that nobody knows yet is believed; so is any range of numbers,
    /// because new ones are opened every month.
    fn is_possible(&self, digits: &str) -> bool {
        for length in 1..=MAX_COUNTRY_CODE_DIGITS.min(digits.len()) {
            let (code, national) = digits.split_at(length);
            let Some((code, lengths)) = code
                .parse()
                .ok()
                .and_then(|code: u16| Some((code, self.lengths.get(&code)?)))
            else {
                continue;
            };
            return (lengths.least..=lengths.most).contains(&national.len())
                && !is_one_digit_repeated(national)
                && (code != NANP || national.len() == NANP_DIGITS);
        }
        true
    }
}

/// The shortest and the longest national number of a country code, over all
/// kinds of numbers.
fn lengths_of(code: u16) -> Option<Lengths> {
    let mut lengths: Option<Lengths> = None;
    for region in DATABASE.by_code(&code)? {
        let kinds = region.descriptors();
        let kinds = [
            Some(kinds.general()),
            kinds.fixed_line(),
            kinds.mobile(),
            kinds.toll_free(),
            kinds.premium_rate(),
            kinds.shared_cost(),
            kinds.personal_number(),
            kinds.voip(),
            kinds.pager(),
            kinds.uan(),
        ];
        for kind in kinds.into_iter().flatten() {
            for &length in kind.possible_length() {
                let length = usize::from(length);
                let known = lengths.get_or_insert(Lengths {
                    least: length,
                    most: length,
                });
                known.least = known.least.min(length);
                known.most = known.most.max(length);
            }
        }
    }
    lengths
}

/// The number with plus and country code, if it is one of the region's. A
/// number that can as well be another country's without its plus, as a
/// WhatsApp id has it, stays as it is: two people are never mixed up.
fn in_region(digits: &str, Region(region): Region) -> Option<String> {
    let valid = |region, digits: &str| {
        let number = phonenumber::parse(region, digits).ok()?;
        number.is_valid().then(|| number.format().to_string())
    };
    let national = valid(Some(region), digits)?;
    let international = valid(None, &format!("+{digits}"));
    international
        .is_none_or(|other| other == national)
        .then_some(national)
}

fn is_whatsapp(raw: &str) -> bool {
    let scheme = "whatsapp:";
    raw.trim()
        .get(..scheme.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &CallerRules, raw: &str, expected: Option<&str>) {
        let caller = rules.caller(raw).ok();
        assert_eq!(caller.as_ref().map(CallerId::as_str), expected, "{raw}");
    }

    #[test]
    fn placeholders_name_nobody() {
        let rules = CallerRules::new(None, []);
        for raw in [
            "0000000000",
            "5555555555",
            "+10000000000",
            "+19999999999",
            "+99999999999",
            "+15555555555",
            "+17378742833",
            "17378742833",
            "+1266696687",
            "1266696687",
            "+186282452253",
            "+1612555010",
            "+161255501011",
            "+3312345",
        ] {
            check(&rules, raw, None);
        }
    }

    #[test]
    fn numbers_of_any_country_and_of_ranges_that_nobody_knows_yet_are_callers() {
        let rules = CallerRules::new(None, []);
        for number in [
            "+16125550101",
            "+48225550102",
            "+4930555103",
            "+442079460018",
            "+61491570006",
            "+37799995555",
            "+8613912345678",
            // 999 is assigned to nobody yet; an area code of tomorrow.
            "+9991234567",
            "+12735550101",
        ] {
            check(&rules, number, Some(number));
        }
    }

    #[test]
    fn a_number_without_plus_is_read_only_where_its_region_is_set() {
        let anywhere = CallerRules::new(None, []);
        check(&anywhere, "6125551234", Some("6125551234"));
        let us = CallerRules::new(Region::parse("us"), []);
        check(&us, "6125551234", Some("+16125551234"));
        check(&us, "(612) 555-1234", Some("+16125551234"));
        check(&us, "16125551234", Some("+16125551234"));
        check(&us, "+48225550102", Some("+48225550102"));
        check(&us, "5555555555", None);
        // No number of the region: nothing is guessed.
        check(&us, "4520123456", Some("4520123456"));
        // Arkansas, or Norway.
        check(&us, "4792234567", Some("4792234567"));
        check(&us, "whatsapp:+16125551234", Some("16125551234"));
        check(&us, "sip:6125551234@pbx", Some("sip:6125551234@pbx"));
        let uk = CallerRules::new(Region::parse("GB"), []);
        check(&uk, "020 7946 0018", Some("+442079460018"));
        assert_eq!(Region::parse("Mars"), None);
    }

    #[test]
    fn who_a_client_says_it_is_counts_for_trusted_agents_alone() {
        let [trusted, other] = ["agent_app", "agent_web"].map(|id| AgentId::parse(id).ok());
        let rules = CallerRules::new(None, trusted.clone());
        let claimed = |agent: &Option<AgentId>| rules.claimed(agent.as_ref(), "+16125550101");
        assert!(claimed(&trusted).is_some());
        assert!(claimed(&other).is_none() && claimed(&None).is_none());
        assert!(rules.claimed(trusted.as_ref(), "customer 17").is_none());
        assert!(rules.claimed(trusted.as_ref(), "+19999999999").is_none());
    }
}
