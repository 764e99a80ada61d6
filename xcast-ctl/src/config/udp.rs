//! The `[udp]` table: Xcast inside UDP (ADR 6).

use std::{collections::HashSet, net::IpAddr, num::NonZeroU16};

use ipnet::IpNet;
use serde::Deserialize;
use xcast_common::maps::MAX_UDP_SOURCES;

use super::{
    address::is_unicast,
    error::{ConfigError, invalid},
};

/// The `[udp]` table: Xcast packets inside UDP, from senders without privileges. Without it none
/// are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Udp {
    /// UDP port at the router's own and anycast addresses where they are accepted. No default,
    /// because datagrams that arrive for it from outside reach neither programs on the router nor
    /// its packet filter.
    pub port: NonZeroU16,
    /// Senders of packets with other source addresses than their own. Default: none.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// A `[[udp.peers]]` table: the source addresses one sender may use besides its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Source address of its datagrams.
    pub address: IpAddr,
    /// Source addresses its packets may have. At most [`MAX_UDP_SOURCES`] for all peers together.
    pub sources: Vec<IpNet>,
}

impl Udp {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let mut peers = HashSet::new();
        for (number, peer) in (1..).zip(&self.peers) {
            let address = peer.address;
            let field = |name| format!("udp.peers {number}: {name}");
            if !is_unicast(address) {
                let reason =
                    format!("{address} is not a unicast address: give the one it sends from");
                return Err(invalid(field("address"), reason));
            }
            if !peers.insert(address) {
                let reason =
                    format!("{address} is listed twice: give all its sources in one place");
                return Err(invalid(field("address"), reason));
            }
            check_sources(&field("sources"), address, &peer.sources)?;
        }
        let count: usize = self.peers.iter().map(|peer| peer.sources.len()).sum();
        if count > MAX_UDP_SOURCES as usize {
            let reason = format!(
                "{count} sources in all, and there is room for {MAX_UDP_SOURCES}: combine them \
                 into shorter prefixes"
            );
            return Err(invalid("udp.peers", reason));
        }
        Ok(())
    }
}

fn check_sources(field: &str, peer: IpAddr, sources: &[IpNet]) -> Result<(), ConfigError> {
    if sources.is_empty() {
        let reason = "none is listed, and its own address needs none: remove this peer";
        return Err(invalid(field, reason));
    }
    let mut seen = HashSet::new();
    for source in sources {
        if source.addr().is_ipv6() != peer.is_ipv6() {
            let reason = format!(
                "{source} is not of the same family as the peer {peer}, which can send packets of \
                 its own family only: remove it"
            );
            return Err(invalid(field, reason));
        }
        let whole = source.trunc();
        if whole != *source {
            let reason = format!("{source} is an address in a network: write {whole}");
            return Err(invalid(field, reason));
        }
        if !seen.insert(source) {
            return Err(invalid(
                field,
                format!("{source} is listed twice: remove one"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use xcast_common::wire::Be16;

    use super::*;
    use crate::config::Config;

    fn with_udp(lines: &str) -> Result<Config, String> {
        let text = format!(
            "[code_points]\nprotocol = 253\ngroup = '224.0.0.254'\n{lines}\n\
             [[port]]\ninterface = 'eth0'\n"
        );
        Config::parse(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn without_the_table_nothing_is_taken() {
        let config = with_udp("").unwrap();
        assert_eq!((&config.udp, config.udp_port()), (&None, Be16::new(0)));
        let config = with_udp("[udp]\nport = 4242").unwrap();
        assert_eq!(config.udp_port(), Be16::new(4242));
        assert!(config.udp.unwrap().peers.is_empty());
    }

    #[test]
    fn peers_in_either_spelling() {
        let inline =
            "[udp]\nport = 1\npeers = [{ address = '10.0.0.2', sources = ['10.1.0.0/16'] }]";
        let tables = "[udp]\nport = 1\n[[udp.peers]]\naddress = '10.0.0.2'\n\
                      sources = ['10.1.0.0/16']";
        assert_eq!(with_udp(inline), with_udp(tables));
        let peer = Peer {
            address: IpAddr::from([10, 0, 0, 2]),
            sources: vec!["10.1.0.0/16".parse().unwrap()],
        };
        assert_eq!(with_udp(inline).unwrap().udp.unwrap().peers, [peer]);
    }

    #[test]
    fn what_cannot_work_names_its_field() {
        let says = [
            ("[udp]", "missing field `port`"),
            ("[udp]\nport = 0", "line 5, column 8"),
            ("[udp]\nport = 65536", "line 5, column 8"),
            ("[udp]\nports = 1", "`ports`"),
        ];
        for (lines, said) in says {
            let error = with_udp(lines).unwrap_err();
            assert!(error.contains(said), "{error:?} lacks {said:?}");
        }
        let peer = |address: &str, sources: &str| {
            format!("[[udp.peers]]\naddress = '{address}'\nsources = [{sources}]\n")
        };
        let says = [
            (peer("224.0.0.9", "'10.0.0.0/8'"), "udp.peers 1: address"),
            (peer("10.0.0.2", ""), "udp.peers 1: sources: none"),
            (peer("10.0.0.2", "'10.1.0.9/16'"), "write 10.1.0.0/16"),
            (
                peer("10.0.0.2", "'10.1.0.0/16', '10.1.0.0/16'"),
                "udp.peers 1: sources: 10.1.0.0/16 is listed twice",
            ),
            (
                peer("10.0.0.2", "'10.1.0.0/16'").repeat(2),
                "udp.peers 2: address: 10.0.0.2 is listed twice",
            ),
            (
                peer(
                    "10.0.0.2",
                    &(0..=MAX_UDP_SOURCES)
                        .map(|n| format!("'10.{}.{}.0/24'", n / 256, n % 256))
                        .collect::<Vec<_>>()
                        .join(", "),
                ),
                "udp.peers: 1025 sources in all",
            ),
        ];
        for (peers, said) in says {
            let error = with_udp(&format!("[udp]\nport = 1\n{peers}")).unwrap_err();
            assert!(error.contains(said), "{error:?} lacks {said:?}");
        }
    }
}
