//! The `[relay]` table: serving sources that nothing is known of (ADR 21).

use std::{ops::RangeInclusive, path::PathBuf};

use serde::Deserialize;

use super::{
    error::{ConfigError, invalid},
    udp::Udp,
};

/// Most relayed ports.
const MAX_RELAYED_PORTS: usize = 4096;

/// The `[relay]` table. With it, sources may ask at `udp.port` for a cookie, by which their packets inside UDP are known to
/// come from an address that they receive at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// File with the key of cookies, 32 hexadecimal digits: the same for all relays with one anycast address. Default:
    /// a random one, which a router that takes over keeps.
    pub secret_file: Option<PathBuf>,
    /// Questions of sources without a cookie that are answered in a second. Default: 1,000.
    pub questions_per_second: u32,
    /// Copies in a second from which on sources are told to take another relay. Default: 200,000.
    pub capacity_copies_per_second: u32,
    /// First and last UDP port, at the router's own addresses, for packets that come from there instead of their
    /// sender's own address. Default: none.
    pub relayed_ports: Option<[u16; 2]>,
    /// Sources may send from the router's own addresses and `udp.port`, for receivers that open envelopes which say who the source is.
    /// Default: no.
    pub envelopes: bool,
    /// Datagrams that a relayed port hands on to its source in a second. Default: 1,000.
    pub replies_per_second: u32,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            secret_file: None,
            questions_per_second: 1000,
            capacity_copies_per_second: 200_000,
            relayed_ports: None,
            envelopes: false,
            replies_per_second: 1000,
        }
    }
}

impl Relay {
    /// The relayed ports.
    pub fn relayed_ports(&self) -> Option<RangeInclusive<u16>> {
        self.relayed_ports.map(|[first, last]| first..=last)
    }

    pub(super) fn validate(&self, udp: Option<&Udp>) -> Result<(), ConfigError> {
        let Some(udp) = udp else {
            let reason =
                "sources ask at the port of Xcast inside UDP: add the table [udp] with a port";
            return Err(invalid("relay", reason));
        };
        for (field, value) in [
            ("questions_per_second", self.questions_per_second),
            (
                "capacity_copies_per_second",
                self.capacity_copies_per_second,
            ),
            ("replies_per_second", self.replies_per_second),
        ] {
            if value == 0 {
                let reason = "0 would serve nobody: give a number from 1 on";
                return Err(invalid(format!("relay.{field}"), reason));
            }
        }
        let Some(ports) = self.relayed_ports() else {
            return Ok(());
        };
        let field = "relay.relayed_ports";
        let count = ports.len();
        if count == 0 || count > MAX_RELAYED_PORTS || *ports.start() < 1024 {
            let reason = format!(
                "{} to {}: give the first and the last of 1 to {MAX_RELAYED_PORTS} ports, from 1024 on",
                ports.start(),
                ports.end()
            );
            return Err(invalid(field, reason));
        }
        if ports.contains(&udp.port.get()) {
            let reason = format!("{} is udp.port: leave it out", udp.port);
            return Err(invalid(field, reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        testing::{CODE_POINTS, PORT, assert_says},
    };

    fn with(lines: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{CODE_POINTS}{lines}\n{PORT}"))
    }

    #[test]
    fn a_relay_needs_a_port_and_has_defaults() {
        assert_eq!(with("").unwrap().relay, None);
        assert_says(with("[relay]"), &["relay", "[udp]"]);
        let relay = with("[udp]\nport = 4242\n[relay]").unwrap().relay;
        assert_eq!(relay, Some(Relay::default()));
    }

    #[test]
    fn what_cannot_work_names_its_field() {
        let relay = |lines: &str| with(&format!("[udp]\nport = 4242\n[relay]\n{lines}"));
        let ports = relay("relayed_ports = [5000, 5003]").unwrap().relay;
        assert_eq!(ports.unwrap().relayed_ports(), Some(5000..=5003));
        for (lines, said) in [
            ("relayed_ports = [5003, 5000]", "relay.relayed_ports"),
            ("relayed_ports = [80, 90]", "from 1024 on"),
            ("relayed_ports = [4200, 4300]", "4242 is udp.port"),
            ("questions_per_second = 0", "relay.questions_per_second"),
            ("replies_per_second = 0", "relay.replies_per_second"),
        ] {
            assert_says(relay(lines), &[said]);
        }
    }
}
