//! One deployment, and what it brings.

use std::fmt;

use serde::Serialize;

use super::network::Order;

/// How routers serve what is behind those that do not speak Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// By unicast copies (RFC 5058 section 11.2).
    PrematureX2u,
    /// By tunnels to the next router on the way that speaks it (RFC 5058 section 11.1).
    Tunnels,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrematureX2u => "premature X2U",
            Self::Tunnels => "tunnels",
        })
    }
}

/// One deployment and what it brings.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How routers serve what is behind others.
    pub mode: Mode,
    /// Which routers came first.
    pub order: Order,
    /// Share of the routers, in percent.
    pub share: u32,
    /// The same as a number.
    pub routers: usize,
    /// Link transmissions of all messages.
    pub packets: u64,
    /// How many fewer these are than by unicast, in percent; rounded, and negative if they are more.
    pub saved_percent: i64,
    /// Every host got every message once.
    pub complete: bool,
}
