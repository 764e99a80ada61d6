//! The arguments of `xcast-ctl send`.

use std::{net::SocketAddr, path::PathBuf};

use xcast_host::packet::{Entry, MAX_DSCP};

use crate::{
    report::Destination,
    tools::first_hop::{FirstHopArgs, router_in_udp, servable},
};

/// Send Xcast packets with a UDP payload to a list of destinations
///
/// Where a router runs, packets go into its own interface. Otherwise they go to the first-hop
/// router: the one given with --via, or the gateway towards the first destination that has one.
/// Both need root or CAP_NET_RAW. With --udp packets are sent inside UDP to a router that accepts
/// them there, which needs no privilege. If that router does not answer, each destination is sent
/// a unicast datagram instead. The same goes for --relay, where nothing has to be known of this host.
///
/// A list of IPv4 and IPv6 addresses is sent as one packet per family.
///
/// The code points come from --config, from --protocol and --group, or from the running router.
/// Ports go into the list if they differ, otherwise into the UDP header.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl send 10.77.3.2:5000 10.77.7.2:5000 10.77.8.2:6000
  xcast-ctl send --via 10.77.0.1 --protocol 253 --group 224.0.0.254 \\
      --payload hello --count 10 --interval 100 10.77.3.2:5000 10.77.7.2:5000@46
  tail -f log | xcast-ctl send --udp 10.77.0.1:4242 --protocol 253 --group 224.0.0.254 \\
      --file - --lines 10.77.3.2:5000 10.77.7.2:5000
  xcast-ctl send --config xcast.toml --relay 198.51.100.1:4242 --relayed 203.0.113.7:5000 203.0.113.8:5000

EXIT STATUS
  0  every packet was handed to the network
  1  interrupted before that; what was sent is shown
  2  error, such as a first-hop router that does not answer")]
pub(crate) struct Args {
    /// Destinations in order, each with its UDP port and, if it differs from --dscp, its own DSCP
    #[arg(value_name = "ADDRESS:PORT[@DSCP]", required = true, value_parser = entry)]
    pub(super) destinations: Vec<Entry>,

    #[command(flatten)]
    pub(super) first_hop: FirstHopArgs,

    /// Send inside UDP to this router; give it twice for its IPv4 and its IPv6 address
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = router_in_udp, conflicts_with_all = ["via", "interface", "to", "port_list"])]
    pub(super) udp: Vec<SocketAddr>,

    /// Send inside UDP to this relay, after proving this host's address to it; give as many as there are, and the first that
    /// works is used
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = router_in_udp, conflicts_with_all = ["udp", "via", "interface", "to", "port_list"])]
    pub(super) relay: Vec<SocketAddr>,

    /// Have the relay send from an address and port of its own
    #[arg(long, requires = "relay")]
    pub(super) relayed: bool,

    /// Have the relay send from its own address, in envelopes that say who sent the message: for receivers that open
    /// them (xcast-ctl recv --relay)
    #[arg(long, requires = "relay", conflicts_with = "relayed")]
    pub(super) enveloped: bool,

    /// UDP source port
    #[arg(long, value_name = "PORT", default_value_t = 5058)]
    pub(super) source_port: u16,

    /// Channel identifier, decimal or hexadecimal with 0x
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    pub(super) channel: u32,

    /// DSCP of the packet and of destinations without their own, 0 to 63
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) dscp: u8,

    /// Time to live
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) ttl: u8,

    /// Set the X bit: the packet stays Xcast end to end
    #[arg(long)]
    pub(super) x: bool,

    /// Set the A bit: routers zero the addresses they remove from the list
    #[arg(long)]
    pub(super) anonymous: bool,

    /// Set the P bit: list the ports even if all are equal
    #[arg(long)]
    pub(super) port_list: bool,

    /// Text to send; an n in braces, as in the default, becomes the packet's number, from 1
    #[arg(long, value_name = "TEXT", default_value = "xcast {n}", conflicts_with_all = ["file", "size"])]
    pub(super) payload: String,

    /// Send the content of this file; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    pub(super) file: Option<PathBuf>,

    /// Send each line of the file as a packet of its own as soon as it is read, without its newline
    #[arg(long, requires = "file", conflicts_with = "count")]
    pub(super) lines: bool,

    /// Send this many zero octets
    #[arg(long, value_name = "OCTETS")]
    pub(super) size: Option<usize>,

    /// Number of packets
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) count: u64,

    /// Milliseconds between packets
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(super) interval: u64,

    /// Packets a second, at most
    #[arg(long, value_name = "N", conflicts_with = "interval", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,

    /// One JSON document instead of text
    #[arg(long)]
    pub(super) json: bool,
}

fn entry(text: &str) -> Result<Entry, String> {
    let (destination, dscp) = match text.split_once('@') {
        Some((destination, dscp)) => (destination, Some(dscp)),
        None => (text, None),
    };
    let Destination { address, port } = destination.parse()?;
    let Some(port) = port else {
        return Err(format!("{text:?} has no port: write {address}:PORT"));
    };
    servable(address)?;
    if port == 0 {
        return Err(format!("{address} has port 0, which nothing listens on"));
    }
    let dscp = dscp
        .map(|dscp| {
            let value = dscp.parse().ok().filter(|value| *value <= MAX_DSCP);
            value.ok_or_else(|| format!("{dscp:?} is not a DSCP (0 to {MAX_DSCP})"))
        })
        .transpose()?;
    Ok(Entry {
        address,
        port,
        dscp,
    })
}

fn number(text: &str) -> Result<u32, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_with_ports_and_dscp() {
        assert_eq!(
            entry("10.0.0.1:5000@46").unwrap(),
            Entry {
                address: "10.0.0.1".parse().unwrap(),
                port: 5000,
                dscp: Some(46),
            }
        );
        assert_eq!(entry("10.0.0.1:5000").unwrap().dscp, None);
        for (text, said) in [
            ("10.0.0.1", "write 10.0.0.1:PORT"),
            ("10.0.0.1:5000@64", "0 to 63"),
            ("b:5000", "is not an IP address"),
            ("10.0.0.1:70000", "not a port"),
            ("10.0.0.1:0", "10.0.0.1 has port 0"),
            ("127.0.0.1:5000", "127.0.0.1: it is a loopback address"),
            ("[fe80::1]:5000", "fe80::1: it is a link-local address"),
        ] {
            assert!(entry(text).unwrap_err().contains(said), "{text}");
        }
    }

    #[test]
    fn numbers_of_channels() {
        assert_eq!(number("0x10"), Ok(16));
        assert_eq!(number("10"), Ok(10));
        assert!(number("ten").is_err());
    }
}
