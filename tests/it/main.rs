//! The integration tests: the real program on port 0, fake upstreams, real
//! stores. Each test has a service, a database and upstreams of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod actors;
mod agent_profiles;
mod backup;
mod bucket;
mod command_line;
mod crashes;
mod delivery;
mod deploy;
mod disks;
mod elevenlabs_stand_in;
mod fakes;
mod faults;
mod first_start;
mod fleet;
mod front;
mod fuzz;
mod isolation;
mod kills;
mod linear;
mod load;
mod meaning;
mod observability;
mod openmemory;
mod openmemory_stand_in;
mod operators;
mod overload;
mod payloads;
mod personal;
mod postgres;
mod privacy;
mod proxies;
mod reconcile;
mod service;
mod setup;
mod store_contract;
mod tools;
mod traces;
mod trust;
mod unit;
mod upstreams;
mod webhooks;
