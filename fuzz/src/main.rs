//! The fuzzer: `make fuzz`. Which rules it tries to break is said by
//! `FUZZ_TARGET`; the rules themselves are in `properties.rs`.

#![no_main]

mod linear;
mod properties;

use std::env;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use properties::{Property, TARGETS};

static PROPERTY: OnceLock<Property> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let property = PROPERTY.get_or_init(|| {
        let wanted = env::var("FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(name, _)| *name == wanted);
        found
            .unwrap_or_else(|| panic!("FUZZ_TARGET is {wanted:?}"))
            .1
    });
    property(data);
    linear::check(*property, data);
});
