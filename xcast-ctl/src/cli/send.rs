//! `xcast-ctl send`.

use std::{fs, net::Ipv4Addr, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;
use xcast_common::wire::{FLAG_A, FLAG_D, FLAG_P, FLAG_X};
use xcast_host::packet::{Entry, MAX_DSCP, Template};

use super::{Outcome, origin::OriginArgs, print, print_json};
use crate::report::Destination;

/// Send Xcast packets with a UDP payload to a list of destinations
///
/// Where a router runs, packets go into its own interface. Otherwise they go to the first-hop
/// router: the one given with --via, or the gateway on the way to the first destination that has
/// one, addressed to that router's own address. Needs root, or CAP_NET_RAW.
///
/// The code points come from --config, from --protocol and --group, or from the running router.
/// A destination's port goes into the list where ports differ, otherwise into the UDP header.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl send 10.77.3.2:5000 10.77.7.2:5000 10.77.8.2:6000
  xcast-ctl send --via 10.77.0.1 --protocol 253 --group 224.0.0.254 \\
      --payload hello --count 10 --interval 100 10.77.3.2:5000 10.77.7.2:5000@46

EXIT STATUS
  0  every packet was handed to the network
  2  error")]
pub(super) struct Args {
    /// Destinations in their order, each with its UDP port and, if it is to differ, its DSCP
    #[arg(value_name = "ADDRESS:PORT[@DSCP]", required = true, value_parser = entry)]
    destinations: Vec<Entry>,

    #[command(flatten)]
    origin: OriginArgs,

    /// UDP source port
    #[arg(long, value_name = "PORT", default_value_t = 5058)]
    source_port: u16,

    /// Channel identifier, decimal or hexadecimal with 0x
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    channel: u32,

    /// DSCP of the packet, 0 to 63, and of destinations without their own
    #[arg(long, value_name = "N", default_value_t = 0)]
    dscp: u8,

    /// Time to live
    #[arg(long, value_name = "N", default_value_t = 64)]
    ttl: u8,

    /// Set X: the packet stays Xcast end to end
    #[arg(long)]
    x: bool,

    /// Set A: routers zero what they remove from the list
    #[arg(long)]
    anonymous: bool,

    /// Set P even if all ports are equal
    #[arg(long)]
    port_list: bool,

    /// Text to send; an n in braces, as in the default, becomes the packet's number, from 1
    #[arg(long, value_name = "TEXT", default_value = "xcast {n}", conflicts_with_all = ["file", "size"])]
    payload: String,

    /// Send the content of this file
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    file: Option<PathBuf>,

    /// Send this many zero octets
    #[arg(long, value_name = "OCTETS")]
    size: Option<usize>,

    /// Number of packets
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,

    /// Milliseconds between packets
    #[arg(long, value_name = "MS", default_value_t = 0)]
    interval: u64,

    /// Say what was sent as one JSON document
    #[arg(long)]
    json: bool,
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

/// The document of `xcast-ctl send --json`.
#[derive(Debug, Serialize)]
struct Sent {
    /// Number of packets.
    packets: u64,
    /// Length of the last one from its IP header on, in octets.
    octets: usize,
    /// Flags of the Xcast header, letters of "AXDP".
    flags: String,
    /// Number of destinations in the list.
    destinations: usize,
    /// IP source.
    source: Ipv4Addr,
    /// IP destination.
    to: Ipv4Addr,
    /// Interface the packets left by.
    interface: String,
    /// First-hop router they were sent to; absent where they went into a router's own interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<Ipv4Addr>,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let entries = &args.destinations;
    let addresses: Vec<_> = entries.iter().map(|entry| entry.address).collect();
    let origin = args.origin.open(router, &addresses)?;
    let template = Template {
        code_points: origin.code_points,
        source: origin.source,
        to: origin.to,
        ttl: args.ttl,
        dscp: args.dscp,
        channel: args.channel,
        x: args.x,
        anonymous: args.anonymous,
        source_port: args.source_port,
        port_list: args.port_list,
    };
    let mut payload = fixed_payload(args)?.unwrap_or_default();
    let mut packet = Vec::new();
    let numbered = args.file.is_none() && args.size.is_none();
    for n in 1..=args.count {
        if numbered {
            payload = args.payload.replace("{n}", &n.to_string()).into_bytes();
        }
        template.emit(entries, &payload, &mut packet)?;
        origin.send(&packet)?;
        if args.interval > 0 && n < args.count {
            thread::sleep(Duration::from_millis(args.interval));
        }
    }
    let sent = Sent {
        packets: args.count,
        octets: packet.len(),
        flags: letters(template.flags(entries)),
        destinations: entries.len(),
        source: origin.source,
        to: origin.to,
        interface: origin.interface,
        via: origin.via,
    };
    if args.json {
        print_json(&sent)?;
    } else {
        print(&render(&sent))?;
    }
    Ok(Outcome::Done)
}

/// The payload that all packets share; `None` if it is text that may differ.
fn fixed_payload(args: &Args) -> Result<Option<Vec<u8>>> {
    match (&args.file, args.size) {
        (Some(path), _) => fs::read(path)
            .map(Some)
            .with_context(|| format!("cannot read {}", path.display())),
        // One more than fits is enough to be told so.
        (None, size) => Ok(size.map(|size| vec![0; size.min(usize::from(u16::MAX) + 1)])),
    }
}

fn letters(flags: u8) -> String {
    [(FLAG_A, 'A'), (FLAG_X, 'X'), (FLAG_D, 'D'), (FLAG_P, 'P')]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, letter)| letter)
        .collect()
}

fn render(sent: &Sent) -> String {
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let via = sent
        .via
        .map_or_else(String::new, |via| format!(" via {via}"));
    format!(
        "sent {} packet{} of {} octets from {} to {} destination{} by {}{via}\n",
        sent.packets,
        plural(sent.packets),
        sent.octets,
        sent.source,
        sent.destinations,
        plural(sent.destinations as u64),
        sent.interface,
    )
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
            ("b:5000", "not an IPv4 address"),
            ("10.0.0.1:70000", "not a port"),
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
