//! ELAOMS: the memory of voice agents that answer telephones.
#![doc = ""]
pub mod domain;
