//! What is found, and how fast: `make recall`.
//!
//! - Questions about service calls in ten languages: whether the turn that
//!   answers is among the first three memories.
//! - LoCoMo, where `LOCOMO` names its file (it is CC BY-NC, so it is none of
//!   ours): the share of a question's turns among the first ten memories and
//!   the first 2,000 characters.
//! - Names of callers, without a model: precision and recall.
//! - How long a search takes.

mod calls;
mod locomo;
mod meaning;
mod names;
mod speed;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wants = |part: &str| {
        let named: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
        named.is_empty() || named.iter().any(|a| *a == part)
    };
    let verbose = arguments.iter().any(|a| a == "--misses");
    let meaning = meaning::Meaning::from_environment();
    if wants("calls") {
        calls::measure(None, verbose);
    }
    if let (true, Some(meaning)) = (wants("calls"), &meaning) {
        calls::measure(Some(meaning), verbose);
    }
    if wants("names") {
        names::measure(verbose);
    }
    if wants("locomo") {
        locomo::measure(None);
    }
    if let (true, Some(meaning)) = (wants("locomo"), &meaning) {
        locomo::measure(Some(meaning));
    }
    if wants("speed") {
        speed::measure();
    }
}
