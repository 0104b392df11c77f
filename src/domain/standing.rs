//! What operators have decided about callers: who is left alone, whose number
//! is shared, and which numbers are one person's.

use rustc_hash::{FxHashMap, FxHashSet};

use super::caller_id::CallerId;

/// The decisions, for all callers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standings {
    /// Nothing is kept of these, and they get the agent's defaults.
    pub opted_out: FxHashSet<CallerId>,
    /// Several people use these numbers: the ring says nothing personal.
    pub shared: FxHashSet<CallerId>,
    /// The caller that a number stands for.
    pub aliases: FxHashMap<CallerId, CallerId>,
    /// Grows with each decision; 0 where one instance makes all of them.
    pub version: u64,
}

/// How a caller is to be treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As the caller, who may be another than the number's.
    Known(CallerId),
    /// As the caller, but nothing personal is said before the name is.
    Shared(CallerId),
    /// As nobody.
    OptedOut,
}

impl Standing {
    /// Whose memory is asked for, and whether several people share the number;
    /// `None` if nothing is kept of the caller.
    #[must_use]
    pub fn person(&self) -> Option<(&CallerId, bool)> {
        match self {
            Self::Known(caller) => Some((caller, false)),
            Self::Shared(caller) => Some((caller, true)),
            Self::OptedOut => None,
        }
    }
}

impl Standings {
    /// The person behind a number.
    #[must_use]
    pub fn person<'a>(&'a self, caller: &'a CallerId) -> &'a CallerId {
        if self.aliases.is_empty() {
            return caller;
        }
        self.aliases.get(caller).unwrap_or(caller)
    }

    /// The further numbers of a person.
    #[must_use]
    pub fn numbers_of(&self, person: &CallerId) -> Vec<&CallerId> {
        let links = self.aliases.iter();
        links
            .filter(|(_, of)| *of == person)
            .map(|(number, _)| number)
            .collect()
    }

    /// How a caller is to be treated. A number that opted out stays out even if
    /// it is linked.
    #[must_use]
    pub fn of(&self, caller: &CallerId) -> Standing {
        let person = self.person(caller);
        let among = |set: &FxHashSet<CallerId>| {
            !set.is_empty() && (set.contains(caller) || set.contains(person))
        };
        if among(&self.opted_out) {
            Standing::OptedOut
        } else if among(&self.shared) {
            Standing::Shared(person.clone())
        } else {
            Standing::Known(person.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_shared_numbers_and_opt_outs_combine() {
        let caller = |id: &str| CallerId::parse(id).unwrap();
        let [mobile, home, office] = ["+16125550101", "+16125550102", "+16125550103"].map(caller);
        let mut standings = Standings::default();
        assert_eq!(standings.of(&home), Standing::Known(home.clone()));
        standings.aliases.insert(home.clone(), mobile.clone());
        assert_eq!(standings.of(&home), Standing::Known(mobile.clone()));
        standings.shared.insert(home.clone());
        assert_eq!(standings.of(&home), Standing::Shared(mobile.clone()));
        assert_eq!(standings.of(&mobile), Standing::Known(mobile.clone()));
        standings.opted_out.insert(mobile.clone());
        assert_eq!(standings.of(&home), Standing::OptedOut);
        assert_eq!(standings.of(&office), Standing::Known(office));
    }
}
