//! What OpenAI charges: an estimate, for reports. The invoice decides.

/// When these prices were looked up (OpenAI's public list).
pub const AS_OF: &str = "2026-03";

/// Dollars for a million tokens: of the question, of the answer. A model's dated
/// versions begin with its name.
const PRICES: [(&str, f64, f64); 11] = [
    ("gpt-4o-mini", 0.15, 0.60),
    ("gpt-4o", 2.50, 10.00),
    ("gpt-4.1-nano", 0.10, 0.40),
    ("gpt-4.1-mini", 0.40, 1.60),
    ("gpt-4.1", 2.00, 8.00),
    ("gpt-5-nano", 0.05, 0.40),
    ("gpt-5-mini", 0.25, 2.00),
    ("gpt-5", 1.25, 10.00),
    ("o3-mini", 1.10, 4.40),
    ("o3", 2.00, 8.00),
    ("o4-mini", 1.10, 4.40),
];

/// The price of a model's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Of a token of the question, in billionths of a dollar.
    prompt: u64,
    /// Of a token of the answer, in billionths of a dollar.
    completion: u64,
}

impl Price {
    /// The price of a model of OpenAI's; `None` if it is not in the list.
    #[must_use]
    pub fn of(model: &str) -> Option<Self> {
        let is_it = |name: &str| {
            let rest = model.strip_prefix(name);
            // A dated version, not a larger sibling.
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("-20"))
        };
        let (_, prompt, completion) = PRICES.iter().find(|(name, ..)| is_it(name))?;
        Some(Self::dollars(*prompt, *completion))
    }

    /// Takes dollars for a million tokens of questions and answers: `0.15/0.60`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (prompt, completion) = text.split_once('/')?;
        let dollars = |text: &str| {
            let dollars: f64 = text.trim().parse().ok()?;
            (0.0..=10_000.0).contains(&dollars).then_some(dollars)
        };
        Some(Self::dollars(dollars(prompt)?, dollars(completion)?))
    }

    /// A dollar for a million tokens is a thousand billionths for one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small and positive"
    )]
    fn dollars(prompt: f64, completion: f64) -> Self {
        let billionths = |dollars: f64| (dollars * 1_000.0).round() as u64;
        Self {
            prompt: billionths(prompt),
            completion: billionths(completion),
        }
    }

    /// What an answer costs, in billionths of a dollar.
    #[must_use]
    pub fn cost(self, prompt_tokens: u64, completion_tokens: u64) -> u64 {
        let prompt = self.prompt.saturating_mul(prompt_tokens);
        prompt.saturating_add(self.completion.saturating_mul(completion_tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_and_its_dated_versions_have_a_price() {
        let cost = |model: &str| Price::of(model).map(|price| price.cost(1_000_000, 1_000_000));
        assert_eq!(cost("gpt-4o-mini"), Some(750_000_000));
        assert_eq!(cost("gpt-4o-mini-2024-07-18"), cost("gpt-4o-mini"));
        assert_eq!(cost("gpt-4o"), Some(12_500_000_000));
        assert_eq!(cost("gpt-5.4"), None);
        assert_eq!(cost("llama"), None);
    }

    #[test]
    fn prices_of_ones_own_are_read() {
        let cost = |text: &str| Price::parse(text).map(|price| price.cost(1_000, 10));
        assert_eq!(cost(" 0.5 / 2 "), Some(520_000));
        for wrong in ["", "1", "1/", "-1/2", "NaN/1", "free/free"] {
            assert_eq!(cost(wrong), None, "{wrong}");
        }
    }
}
