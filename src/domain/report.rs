//! What an operator reads of a day: calls, recognised callers, greetings, latency,
//! spend.

use std::collections::BTreeMap;

use serde::Serialize;

/// Bounds of a ring's answer, in microseconds; 200 ms is the guide's target.
pub const RING_BOUNDS_MICROS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 300_000, 400_000,
    500_000, 1_000_000, 2_500_000,
];

/// Something that is counted by day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Figure {
    /// Rings, by how they were answered.
    Ring(String),
    /// Rings, by the place of their bound among [`RING_BOUNDS_MICROS`].
    RingTime(usize),
    /// Ended calls, by what became of them.
    Call(String),
    PromptTokens,
    CompletionTokens,
    /// In billionths of a dollar.
    Cost,
}

/// The name of a figure in the database.
#[must_use]
pub fn name(figure: &Figure) -> String {
    match figure {
        Figure::Ring(outcome) => format!("ring:{outcome}"),
        Figure::RingTime(place) => format!("ring_time:{place}"),
        Figure::Call(outcome) => format!("call:{outcome}"),
        Figure::PromptTokens => "prompt_tokens".into(),
        Figure::CompletionTokens => "completion_tokens".into(),
        Figure::Cost => "cost".into(),
    }
}

/// The report of a day, or of several.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Rings that were answered.
    pub rings: u64,
    /// Of these, callers who were known.
    pub recognised: u64,
    /// Of these, with a greeting made for them.
    pub greeted: u64,
    /// Rings answered with the defaults for trouble.
    pub troubled: u64,
    /// Half of the rings were answered within so many milliseconds.
    pub ring_p50_ms: Option<f64>,
    pub ring_p95_ms: Option<f64>,
    pub ring_p99_ms: Option<f64>,
    /// Calls that ended and were worked on.
    pub calls: u64,
    /// Of these, those that were given up.
    pub given_up: u64,
    /// Greetings made.
    pub greetings: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// An estimate, in dollars.
    pub cost_usd: f64,
}

impl Report {
    /// The report of these figures, by their names. Others say nothing to us.
    #[must_use]
    pub fn of(figures: &BTreeMap<String, u64>) -> Self {
        let number = |name: &str| figures.get(name).copied().unwrap_or_default();
        let sum = |prefix: &str| -> u64 {
            let of = figures.iter().filter(|(name, _)| name.starts_with(prefix));
            of.map(|(_, value)| value).sum()
        };
        let times: Vec<u64> = (0..=RING_BOUNDS_MICROS.len())
            .map(|place| number(&name(&Figure::RingTime(place))))
            .collect();
        let greeted = number("ring:greeting");
        Self {
            rings: sum("ring:"),
            recognised: greeted + number("ring:profile"),
            greeted,
            troubled: number("ring:deadline") + number("ring:error"),
            ring_p50_ms: percentile(&times, 50),
            ring_p95_ms: percentile(&times, 95),
            ring_p99_ms: percentile(&times, 99),
            calls: sum("call:"),
            given_up: number("call:dead_letter"),
            greetings: number("call:greeted"),
            prompt_tokens: number("prompt_tokens"),
            completion_tokens: number("completion_tokens"),
            cost_usd: dollars(number("cost")),
        }
    }
}

/// The bound, in milliseconds, within which so many of a hundred stay.
#[expect(clippy::cast_precision_loss, reason = "bounds are small")]
fn percentile(times: &[u64], of_hundred: u64) -> Option<f64> {
    let all: u64 = times.iter().sum();
    let wanted = (all * of_hundred).div_ceil(100);
    let mut seen = 0;
    let place = times.iter().position(|n| {
        seen += n;
        seen >= wanted
    });
    // Beyond the last bound nothing more is known than that.
    let last = RING_BOUNDS_MICROS.len() - 1;
    let micros = RING_BOUNDS_MICROS[place?.min(last)];
    (all > 0).then_some(micros as f64 / 1_000.0)
}

#[expect(clippy::cast_precision_loss, reason = "it is an estimate")]
fn dollars(billionths: u64) -> f64 {
    // To a hundredth of a cent.
    (billionths as f64 / 1e5).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_summed_up() {
        let figures = [
            ("ring:greeting", 60),
            ("ring:profile", 20),
            ("ring:new_caller", 19),
            ("ring:deadline", 1),
            ("ring_time:2", 50),
            ("ring_time:3", 45),
            ("ring_time:10", 4),
            ("ring_time:16", 1),
            ("call:greeted", 30),
            ("call:superseded", 2),
            ("call:dead_letter", 1),
            ("prompt_tokens", 15_000),
            ("completion_tokens", 1_800),
            ("cost", 3_330_000),
            ("something newer", 7),
        ];
        let figures = figures.map(|(name, value)| (name.to_owned(), value));
        let report = Report::of(&figures.into_iter().collect());
        assert_eq!(
            (
                report.rings,
                report.recognised,
                report.greeted,
                report.troubled
            ),
            (100, 80, 60, 1)
        );
        let percentiles = [report.ring_p50_ms, report.ring_p95_ms, report.ring_p99_ms];
        assert_eq!(percentiles, [Some(0.5), Some(1.0), Some(200.0)]);
        assert_eq!(
            (report.calls, report.given_up, report.greetings),
            (33, 1, 30)
        );
        assert!(
            (report.cost_usd - 0.0033).abs() < 1e-9,
            "{}",
            report.cost_usd
        );
        assert_eq!(Report::of(&BTreeMap::new()).ring_p50_ms, None);
    }
}
