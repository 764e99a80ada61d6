//! The one parameter of these tests: they are written with IPv4 addresses, and run for IPv6 with what
//! stands for them.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

thread_local! {
    static UNDER_TEST: Cell<Family> = const { Cell::new(Family::Ipv4) };
}

/// Runs a test for one family.
pub(super) fn with(family: Family, test: impl FnOnce()) {
    // Each test has a thread of its own.
    UNDER_TEST.set(family);
    test();
}

/// Tests that run for both families, from functions of the same names.
macro_rules! both_families {
    ($($test:ident),* $(,)?) => {
        mod ipv4 {
            $(#[test] fn $test() {
                use crate::sync::tests::family::{Family, with};
                with(Family::Ipv4, super::$test);
            })*
        }
        mod ipv6 {
            $(#[test] fn $test() {
                use crate::sync::tests::family::{Family, with};
                with(Family::Ipv6, super::$test);
            })*
        }
    };
}
pub(super) use both_families;

/// The family that the running test is for.
pub(super) fn family() -> Family {
    UNDER_TEST.get()
}

/// What stands for an IPv4 address: of IPv6, one with its 32 bits behind 2001:db8::/32, so that prefixes
/// contain what they contained; or a special address with the same meaning.
pub(super) fn address(address: Ipv4Addr) -> IpAddr {
    let [a, b, c, d] = address.octets();
    let last = u16::from_be_bytes([c, d]);
    if family() == Family::Ipv4 {
        return address.into();
    }
    let address = match (a, b, c, d) {
        (0, 0, 0, 0) => Ipv6Addr::UNSPECIFIED,
        (0, ..) => address.to_ipv6_mapped(),
        (127, ..) => Ipv6Addr::LOCALHOST,
        (169, 254, ..) => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last),
        (224.., ..) => Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, u16::from_be_bytes([a, b]), last),
        _ => shifted(address),
    };
    address.into()
}

/// What stands for an IPv4 prefix.
pub(super) fn prefix(prefix: Ipv4Net) -> IpNet {
    if family() == Family::Ipv4 {
        return prefix.into();
    }
    let (start, len) = (prefix.addr(), prefix.prefix_len());
    let (start, len) = match (start.octets(), len) {
        (_, 32) => return address(start).into(),
        (_, 0) => (Ipv6Addr::UNSPECIFIED, 0),
        ([169, 254, ..], _) => (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64),
        // Multicast, and what is around it.
        ([224, ..], 3) => (Ipv6Addr::new(0xe000, 0, 0, 0, 0, 0, 0, 0), 3),
        ([224..=255, ..], _) => (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        _ => (shifted(start), 32 + len),
    };
    Ipv6Net::new_assert(start, len).into()
}

/// A text with what stands for its words that are IPv4 addresses or prefixes.
pub(super) fn text(text: &str) -> String {
    let word = |word: &str| {
        let (bare, comma) = match word.strip_suffix(',') {
            Some(bare) => (bare, ","),
            None => (word, ""),
        };
        match (bare.parse(), bare.parse()) {
            (Ok(bare), _) => format!("{}{comma}", address(bare)),
            (_, Ok(bare)) => format!("{}{comma}", prefix(bare)),
            _ => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn shifted(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(address.to_bits()) << 64)
}
