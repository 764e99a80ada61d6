//! Address families of messages.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::testbed::{Interface, Node};

/// What `--family` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Families {
    /// IPv4.
    #[value(name = "4")]
    Ipv4,
    /// IPv6.
    #[value(name = "6")]
    Ipv6,
    /// First IPv4, then IPv6.
    Both,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    /// The address that a node is reached by.
    ///
    /// # Errors
    ///
    /// It has none.
    pub fn of_node(self, node: &Node) -> Result<IpAddr> {
        let address = match self {
            Self::Ipv4 => node.address.map(IpAddr::from),
            Self::Ipv6 => node.address6.map(IpAddr::from),
        };
        address.with_context(|| format!("{} has no address of {}", node.name, self.name()))
    }

    /// The address of an interface.
    ///
    /// # Errors
    ///
    /// It has none.
    pub fn of_interface(self, interface: &Interface) -> Result<IpAddr> {
        let address = match self {
            Self::Ipv4 => interface.address.map(IpAddr::from),
            Self::Ipv6 => interface.address6.map(IpAddr::from),
        };
        address.with_context(|| format!("{} has no address of {}", interface.name, self.name()))
    }
}

impl Families {
    /// In their order.
    pub fn all(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::Ipv4],
            Self::Ipv6 => &[Family::Ipv6],
            Self::Both => &[Family::Ipv4, Family::Ipv6],
        }
    }
}
