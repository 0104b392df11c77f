//! The rules of ELAOMS without any I/O: who a caller is, what a call says,
//! what is remembered of it, and what an agent says next time.
//!
//! Nothing below this module reads a clock, a file, the network or the
//! environment: time comes in as an argument, results go out as values. That
//! is what lets every rule be tested directly.

pub mod agent_profile;
pub mod call_event;
pub mod caller_id;
pub mod caller_rules;
pub mod connection;
pub mod envelope;
mod fields;
pub mod greeting;
pub mod ids;
pub mod language;
pub mod learning;
pub mod legacy;
pub mod memory;
pub mod name;
pub mod personalization;
pub mod prices;
pub mod profile;
pub mod prompt;
pub mod reconciliation;
pub mod report;
pub mod search;
pub mod standing;
pub mod tiers;
pub mod trace_context;
pub mod vector;
