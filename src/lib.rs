//! ELAOMS: the memory of voice agents that answer telephones.
pub mod actors;
pub mod clients;
pub mod domain;
pub mod metric_definitions;
pub mod store;
pub mod telemetry;
