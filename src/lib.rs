//! ELAOMS: the memory of voice agents that answer telephones.
//!
//! Where things live, outermost first:
//!
//! - [`cli`]: one module for each subcommand.
//! - [`app`]: builds every part, runs it, stops it.
//! - [`config`]: the environment, read in one place.
//! - [`http`]: webhooks, signatures, status codes. Knows the actors' handles.
//! - [`actors`]: caller sessions, agent cache, OpenAI client, inbox, and who
//!   supervises them.
//! - [`secrets`]: what others show us to be let in.
//! - [`compute`]: threads for what keeps a processor busy.
//! - [`store`]: what is kept, as two traits and their backends.
//! - [`clients`]: other people's HTTP APIs.
//! - `account`: an ElevenLabs account, asked with patience.
//! - `log_events`: the log lines that people search for.
//! - [`domain`]: the rules, without I/O. Everything points here; it points nowhere.
//!
//! `ARCHITECTURE.md` tells why.

mod account;
pub mod actors;
pub mod app;
mod backoff;
pub mod cli;
pub mod clients;
pub mod compute;
pub mod config;
pub mod domain;
pub mod http;
mod log_events;
pub mod metric_definitions;
pub mod secrets;
pub mod store;
pub mod telemetry;
