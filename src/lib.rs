//! ELAOMS: the memory of voice agents that answer telephones.
pub mod clients;
pub mod domain;
pub mod store;
