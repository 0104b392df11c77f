//! What is reported by day: counted in memory, added to the database now and then.
//! Nothing of it is of a caller.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{CallOutcome, Label, RingOutcome};
use crate::domain::report::{self, Figure, RING_BOUNDS_MICROS};

/// Counters since they were last taken. Counting is one atomic operation.
#[derive(Debug)]
pub struct Figures {
    rings: Box<[AtomicU64]>,
    /// By how long the answer took; the last is for what took longer than all bounds.
    ring_times: Box<[AtomicU64]>,
    calls: Box<[AtomicU64]>,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    /// In billionths of a dollar.
    cost: AtomicU64,
}

impl Default for Figures {
    fn default() -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        Self {
            rings: zeros(RingOutcome::ALL.len()),
            ring_times: zeros(RING_BOUNDS_MICROS.len() + 1),
            calls: zeros(CallOutcome::ALL.len()),
            prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            cost: AtomicU64::new(0),
        }
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl Figures {
    /// A ring was answered.
    pub fn ring(&self, outcome: RingOutcome, took: Duration) {
        add(&self.rings[outcome.position()], 1);
        let micros = took.as_micros();
        let place = RING_BOUNDS_MICROS.partition_point(|bound| u128::from(*bound) < micros);
        add(&self.ring_times[place], 1);
    }

    /// Nothing is left to do with a call.
    pub fn call(&self, outcome: CallOutcome) {
        add(&self.calls[outcome.position()], 1);
    }

    /// A model has answered. The cost is in billionths of a dollar.
    pub fn answer(&self, prompt_tokens: u64, completion_tokens: u64, cost: u64) {
        add(&self.prompt_tokens, prompt_tokens);
        add(&self.completion_tokens, completion_tokens);
        add(&self.cost, cost);
    }

    fn each(&self) -> impl Iterator<Item = (Figure, &AtomicU64)> {
        let rings = RingOutcome::ALL.iter().zip(&self.rings);
        let rings = rings.map(|(outcome, n)| (Figure::Ring(outcome.as_str().into()), n));
        let times = self.ring_times.iter().enumerate();
        let times = times.map(|(place, n)| (Figure::RingTime(place), n));
        let calls = CallOutcome::ALL.iter().zip(&self.calls);
        let calls = calls.map(|(outcome, n)| (Figure::Call(outcome.as_str().into()), n));
        rings.chain(times).chain(calls).chain([
            (Figure::PromptTokens, &self.prompt_tokens),
            (Figure::CompletionTokens, &self.completion_tokens),
            (Figure::Cost, &self.cost),
        ])
    }

    /// What was counted since it was last taken; it begins anew.
    #[must_use]
    pub fn take(&self) -> Vec<(String, u64)> {
        let taken = self
            .each()
            .map(|(figure, counter)| (report::name(&figure), counter.swap(0, Ordering::Relaxed)));
        taken.filter(|(_, value)| *value > 0).collect()
    }

    /// Counts again what could not be written.
    pub fn give_back(&self, taken: &[(String, u64)]) {
        for (figure, counter) in self.each() {
            let name = report::name(&figure);
            if let Some((_, value)) = taken.iter().find(|(taken, _)| *taken == name) {
                add(counter, *value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_counted_again() {
        let figures = Figures::default();
        figures.ring(RingOutcome::Greeting, Duration::from_micros(90));
        figures.ring(RingOutcome::Greeting, Duration::from_secs(60));
        figures.answer(500, 60, 111);
        let taken = figures.take();
        assert!(figures.take().is_empty());
        figures.give_back(&taken);
        figures.call(CallOutcome::Greeted);
        let again = figures.take();
        assert!(
            taken.iter().all(|figure| again.contains(figure)),
            "{again:?}"
        );
        assert!(again.contains(&("ring:greeting".into(), 2)));
        assert!(again.contains(&("call:greeted".into(), 1)));
    }
}
