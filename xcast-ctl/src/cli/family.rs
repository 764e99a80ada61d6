//! The option `--family`.

use clap::ValueEnum;

/// Which rows to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Families {
    /// Those of IPv4.
    #[value(name = "4")]
    Ipv4,
    /// Those of IPv6.
    #[value(name = "6")]
    Ipv6,
    /// All.
    Both,
}

impl Families {
    /// True for IPv6, false for IPv4, `None` for both.
    pub(super) fn ipv6(self) -> Option<bool> {
        match self {
            Self::Ipv4 => Some(false),
            Self::Ipv6 => Some(true),
            Self::Both => None,
        }
    }
}
