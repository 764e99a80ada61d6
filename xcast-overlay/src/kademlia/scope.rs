//! Which addresses are contacts, and what networks they lie in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How far an address reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Host,
    Link,
    Private,
    Global,
}

fn scope(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() => Scope::Host,
        IpAddr::V4(ip) if ip.is_link_local() => Scope::Link,
        IpAddr::V4(ip) if ip.is_private() => Scope::Private,
        IpAddr::V6(ip) if ip.is_loopback() => Scope::Host,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Scope::Link,
        IpAddr::V6(ip) if ip.is_unique_local() => Scope::Private,
        _ => Scope::Global,
    }
}

/// Whether a datagram could be sent there at all.
pub fn is_unicast(address: &SocketAddr) -> bool {
    let unicast = match address.ip() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0)
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified() || ip.is_multicast() || ip.to_ipv4_mapped().is_some())
        }
    };
    unicast && address.port() != 0
}

/// Whether to believe `informant` that `contact` can be reached: nobody far away names addresses of
/// this host or this network, where other programs would get our messages.
pub fn is_credible(informant: &SocketAddr, contact: &SocketAddr) -> bool {
    is_unicast(contact) && scope(contact.ip()) >= scope(informant.ip())
}

/// The network that somebody with many addresses is likely to have whole: a /24 of IPv4, a /64 of
/// IPv6.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) & !0xff)),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn nobody_far_away_names_local_addresses() {
        for (informant, contact, credible) in [
            ("198.51.100.1:1", "203.0.113.1:1", true),
            ("198.51.100.1:1", "127.0.0.1:53", false),
            ("198.51.100.1:1", "10.0.0.1:53", false),
            ("10.0.0.1:1", "10.0.0.2:1", true),
            ("10.0.0.1:1", "203.0.113.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", true),
            ("198.51.100.1:1", "203.0.113.1:0", false),
            ("198.51.100.1:1", "224.0.0.1:1", false),
            ("[2001:db8::1]:1", "[fe80::1]:1", false),
            ("[2001:db8::1]:1", "[::ffff:198.51.100.1]:1", false),
            ("[fd00::1]:1", "[fd00::2]:1", true),
        ] {
            assert_eq!(
                is_credible(&address(informant), &address(contact)),
                credible,
                "{contact}"
            );
        }
    }

    #[test]
    fn networks() {
        assert_eq!(
            network(address("198.51.100.7:1").ip()),
            address("198.51.100.0:1").ip()
        );
        assert_eq!(
            network(address("[2001:db8::1:2:3:4]:1").ip()),
            address("[2001:db8::]:1").ip()
        );
    }
}
