//! Whose `X-Forwarded-For` is believed, and whom it names.

use std::net::{IpAddr, SocketAddr};

use warp::http::HeaderMap;

/// Addresses and prefixes of reverse proxies (`TRUSTED_PROXIES`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Prefix>);

/// A CIDR prefix. IPv4 is kept as the IPv6 addresses that it is mapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    network: u128,
    mask: u128,
}

impl TrustedProxies {
    /// Reads addresses and CIDR prefixes, separated by commas.
    ///
    /// # Errors
    /// The first part that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        parts
            .map(|part| Prefix::parse(part).ok_or_else(|| part.to_owned()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let bits = mapped(address);
        self.0.iter().any(|p| bits & p.mask == p.network)
    }

    /// Whom a proxy speaks for: the last address of `X-Forwarded-For` that is
    /// no trusted proxy. What stands before it was written by strangers.
    /// `None` if there is none, or something unreadable comes first.
    pub(super) fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let values = headers.get_all("x-forwarded-for").iter().rev();
        for value in values {
            for hop in value.to_str().ok()?.rsplit(',') {
                let address = hop_address(hop.trim())?;
                if !self.contains(address) {
                    return Some(address);
                }
            }
        }
        None
    }
}

/// Some proxies add the port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .or_else(|_| hop.parse::<SocketAddr>().map(|a| a.ip()))
        .ok()
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Prefix {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let free = width.checked_sub(length.unwrap_or(width))?;
        // For IPv4 the 96 bits before it always count.
        let mask = u128::MAX.checked_shl(free).unwrap_or(0);
        Some(Self {
            network: mapped(address) & mask,
            mask,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_hold_their_addresses_alone() {
        let proxies = TrustedProxies::parse("127.0.0.1, 10.0.0.0/8,2001:db8::/32").unwrap();
        for (address, trusted) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("2001:db8:9::1", true),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            assert_eq!(proxies.contains(ip(address)), trusted, "{address}");
        }
        assert!(
            TrustedProxies::parse("0.0.0.0/0")
                .unwrap()
                .contains(ip("9.9.9.9"))
        );
        assert!(
            !TrustedProxies::parse("0.0.0.0/0")
                .unwrap()
                .contains(ip("::1"))
        );
        assert!(TrustedProxies::parse("::/0").unwrap().contains(ip("::1")));
        assert_eq!(TrustedProxies::parse(""), Ok(TrustedProxies::default()));
        for wrong in [
            "localhost",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.1/x",
            "10.0.0.1/-1",
        ] {
            assert_eq!(TrustedProxies::parse(wrong), Err(wrong.to_owned()));
        }
    }

    #[test]
    fn only_what_trusted_proxies_wrote_counts() {
        let proxies = TrustedProxies::parse("10.0.0.0/8").unwrap();
        let client = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            proxies.client(&headers)
        };
        assert_eq!(client(&["1.1.1.1, 2.2.2.2"]), Some(ip("2.2.2.2")));
        assert_eq!(client(&["1.1.1.1, 2.2.2.2, 10.0.0.9"]), Some(ip("2.2.2.2")));
        assert_eq!(
            client(&["1.1.1.1", "2.2.2.2", "10.0.0.9"]),
            Some(ip("2.2.2.2"))
        );
        assert_eq!(client(&["1.1.1.1, 2.2.2.2:4711"]), Some(ip("2.2.2.2")));
        assert_eq!(client(&["[2001:db8::1]:80"]), Some(ip("2001:db8::1")));
        assert_eq!(client(&["1.1.1.1, unknown"]), None);
        assert_eq!(client(&["10.0.0.1"]), None);
        assert_eq!(client(&[]), None);
    }
}
