//! Who has shown a key.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an address counts as proven after a request of it had a good key
/// or signature. Rings come more often than that, or nobody waits.
const PROOF: Duration = Duration::from_secs(60 * 60);
/// Most proven addresses remembered; the oldest proof is forgotten.
const MAX_PROVEN: usize = 4_096;

/// The address of a sender, as far as one subscriber has it to himself: an
/// IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Peer(IpAddr);

impl Peer {
    /// Of a request that came over no connection of ours.
    pub const UNKNOWN: Self = Self(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The proven addresses.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<HashMap<Peer, Instant>>);

impl Peers {
    pub fn is_proven(&self, peer: Peer) -> bool {
        let proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        proven.get(&peer).is_some_and(|at| at.elapsed() < PROOF)
    }

    /// A request of this peer has shown a key just now.
    pub fn prove(&self, peer: Peer) {
        let mut proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.len() >= MAX_PROVEN && !proven.contains_key(&peer) {
            let oldest = proven.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                proven.remove(&oldest);
            }
        }
        proven.insert(peer, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_subscribers_ipv6_addresses_are_one_peer() {
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
    }

    #[test]
    fn the_oldest_proof_makes_room() {
        let peers = Peers::default();
        let address = |n: usize| peer(&format!("10.0.{}.{}", n / 256, n % 256));
        for n in 0..=MAX_PROVEN {
            peers.prove(address(n));
        }
        assert!(!peers.is_proven(address(0)));
        assert!(peers.is_proven(address(1)) && peers.is_proven(address(MAX_PROVEN)));
    }
}
