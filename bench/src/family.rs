//! The family that is measured: the one parameter of everything that sends, forwards and counts.

use std::net::IpAddr;

use ::tests::{family::Family, namespace::Namespace};
use anyhow::Result;
use clap::ValueEnum;

/// Which families to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Families {
    /// IPv4 alone
    #[value(name = "4")]
    Ipv4,
    /// IPv6 alone
    #[value(name = "6")]
    Ipv6,
    /// Either, side by side
    Both,
}

impl Families {
    /// The families, one by one.
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::Ipv4],
            Self::Ipv6 => &[Family::Ipv6],
            Self::Both => &Family::ALL,
        }
    }
}

/// `4` or `6`, as rows have it.
pub fn number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 6,
    }
}

/// A name that tells IPv6 apart; without a suffix it is IPv4's.
pub fn named(name: &str, family: Family) -> String {
    match family {
        Family::Ipv4 => name.to_owned(),
        Family::Ipv6 => format!("{name}, IPv6"),
    }
}

/// A line for `ip -batch` that gives an interface an address on a link, to be used at once.
pub fn add_address(address: IpAddr, interface: &str) -> String {
    match Family::of(address) {
        Family::Ipv4 => format!("address add {address}/24 dev {interface}\n"),
        Family::Ipv6 => format!("address add {address}/56 dev {interface} nodad\n"),
    }
}

/// Lets interfaces that are made later in a namespace speak this family. Namespaces speak IPv4 by
/// themselves.
///
/// # Errors
///
/// The kernel has no IPv6.
pub fn enable(family: Family, namespace: &Namespace) -> Result<()> {
    if family == Family::Ipv4 {
        return Ok(());
    }
    for interfaces in ["all", "default"] {
        for (key, value) in [
            ("disable_ipv6", "0"),
            // Addresses are there at once, and nobody is asked for others.
            ("accept_dad", "0"),
            ("accept_ra", "0"),
            // What is said of groups is said at once, in milliseconds.
            ("mldv1_unsolicited_report_interval", "10"),
            ("mldv2_unsolicited_report_interval", "10"),
        ] {
            namespace.sysctl(&format!("ipv6/conf/{interfaces}/{key}"), value)?;
        }
    }
    Ok(())
}
