//! Whatever is sent costs time in proportion to its length.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::properties::Property;

/// One input in so many is tried at length, because that takes long.
const ONE_IN: u64 = 2_048;
/// Length to which an input is repeated, in bytes.
const LENGTH: usize = 16 * 1024;
/// How often a machine may have been disturbed.
const TRIES: usize = 6;

/// Repeats the input: twice as much of it takes at most three times as long.
pub fn check(property: Property, data: &[u8]) {
    // By content, so that an input that fails does so again.
    let hash = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    if data.is_empty() || (hash >> 32) % ONE_IN != 0 {
        return;
    }
    let repeated = |bytes: usize| data.repeat(bytes.div_ceil(data.len()));
    let (text, double) = (repeated(LENGTH), repeated(2 * LENGTH));
    for _ in 0..TRIES {
        let (one, two) = (time(property, &text), time(property, &double));
        if two <= one * 3 + Duration::from_millis(1) {
            return;
        }
    }
    panic!("it takes more than linear time");
}

/// The least of several, on this thread's own clock: whatever disturbs the
/// machine only adds.
fn time(property: Property, data: &[u8]) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let once = || {
        let start = now();
        property(data);
        now() - start
    };
    (0..3).map(|_| once()).min().unwrap()
}
