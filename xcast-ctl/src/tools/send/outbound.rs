//! How packets leave this host: raw, or inside UDP.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use xcast_common::wire::{FLAG_A, FLAG_D, FLAG_P, FLAG_X};
use xcast_host::{
    Options, Relays, Sender, SenderStatistics, Settings, UnicastCause, Uplink,
    packet::{Entry, Template},
    relay::SourceAddress,
};

use super::{
    args::Args,
    summary::{How, Way, listed},
};
use crate::tools::first_hop::{FirstHop, router_addresses};

/// How long a router may take to say that it accepts Xcast inside UDP.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(2);

/// How packets leave this host.
pub(super) enum Outbound {
    /// As raw packets, one for each family in the list.
    Raw(Vec<Raw>),
    /// Inside UDP, to a router with these addresses.
    Udp {
        routers: Vec<SocketAddr>,
        sender: Box<Sender>,
    },
}

/// Raw packets of one family.
pub(super) struct Raw {
    first_hop: FirstHop,
    template: Template,
    entries: Vec<Entry>,
    packet: Vec<u8>,
}

impl Outbound {
    pub(super) fn open(args: &Args, router: &str) -> Result<Self> {
        if !args.udp.is_empty() || !args.relay.is_empty() {
            return Self::open_udp(args, router);
        }
        let entries = &args.destinations;
        let addresses: Vec<_> = entries.iter().map(|entry| entry.address).collect();
        let raw = |first_hop: FirstHop| {
            let ipv6 = first_hop.source.is_ipv6();
            let here = entries.iter().filter(|to| to.address.is_ipv6() == ipv6);
            Raw {
                template: Template {
                    code_points: first_hop.code_points,
                    source: first_hop.source,
                    to: first_hop.to,
                    ttl: args.ttl,
                    dscp: args.dscp,
                    channel: args.channel,
                    x: args.x,
                    anonymous: args.anonymous,
                    source_port: args.source_port,
                    port_list: args.port_list,
                },
                entries: here.copied().collect(),
                first_hop,
                packet: Vec::new(),
            }
        };
        let first_hops = args.first_hop.open(router, &addresses)?;
        Ok(Self::Raw(first_hops.into_iter().map(raw).collect()))
    }

    fn open_udp(args: &Args, own_router: &str) -> Result<Self> {
        let given = if args.relay.is_empty() {
            &args.udp
        } else {
            &args.relay
        };
        // An IPv6 socket serves IPv4, too.
        let mut destinations = args.destinations.iter().map(|entry| entry.address);
        let ipv6 = given.iter().any(SocketAddr::is_ipv6) || destinations.any(|to| to.is_ipv6());
        let any: IpAddr = match ipv6 {
            false => Ipv4Addr::UNSPECIFIED.into(),
            true => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = SocketAddr::new(args.first_hop.source.unwrap_or(any), args.source_port);
        let socket = UdpSocket::bind(local).with_context(|| format!("cannot send from {local}"))?;
        let code_points = args.first_hop.code_points.find(own_router)?;
        let uplink = if args.relay.is_empty() {
            Uplink::udp(code_points, router_addresses(given)?)
        } else {
            let source = match (args.relayed, args.enveloped) {
                (true, _) => SourceAddress::Relayed,
                (_, true) => SourceAddress::Enveloped,
                _ => SourceAddress::Own,
            };
            let relays = Relays {
                source,
                ..Relays::new(given.iter().copied())
            };
            Uplink::Relays {
                code_points,
                relays,
            }
        };
        let settings = Settings {
            options: Options {
                ttl: args.ttl,
                dscp: args.dscp,
                channel: args.channel,
                stay_xcast: args.x,
                anonymous: args.anonymous,
            },
            ..Settings::new(uplink)
        };
        let mut sender = Sender::new(socket, settings)?;
        if !sender.wait_for_router(ROUTER_TIMEOUT)? {
            let why = match sender.router() {
                Err(cause @ (UnicastCause::Filtered | UnicastCause::NotRelayed)) => {
                    format!("{} cannot be used: {cause}", listed(given))
                }
                Err(cause) => format!("no answer from {} ({cause})", listed(given)),
                Ok(()) => format!("no answer from {}", listed(given)),
            };
            // Nobody may be reading.
            let _ = writeln!(
                io::stderr(),
                "xcast-ctl: {why}; sending unicast to each destination"
            );
        }
        Ok(Self::Udp {
            routers: given.clone(),
            sender: Box::new(sender),
        })
    }

    pub(super) fn send(&mut self, entries: &[Entry], payload: &[u8]) -> Result<()> {
        match self {
            Self::Raw(ways) => {
                // All of them first: if one cannot be made, none is sent.
                for way in ways.iter_mut() {
                    way.template.emit(&way.entries, payload, &mut way.packet)?;
                }
                ways.iter()
                    .try_for_each(|way| way.first_hop.send(&way.packet))
            }
            Self::Udp { sender, .. } => {
                let destinations: Vec<_> = entries.iter().map(destination).collect();
                sender.send(&destinations, payload)?;
                Ok(())
            }
        }
    }

    /// What was sent so far, for the summary.
    pub(super) fn how(self) -> How {
        match self {
            Self::Raw(ways) => How::Raw {
                ways: ways.into_iter().map(Way::from).collect(),
            },
            Self::Udp { routers, sender } => {
                let SenderStatistics {
                    xcast_packets,
                    unicast_packets,
                    ..
                } = *sender.statistics();
                How::Udp {
                    routers,
                    xcast_packets,
                    unicast_packets,
                }
            }
        }
    }
}

impl From<Raw> for Way {
    fn from(raw: Raw) -> Self {
        Self {
            destinations: raw.entries.len(),
            octets: raw.packet.len(),
            flags: letters(raw.template.flags(&raw.entries)),
            source: raw.first_hop.source,
            to: raw.first_hop.to,
            interface: raw.first_hop.interface,
            via: raw.first_hop.via,
        }
    }
}

fn letters(flags: u8) -> String {
    [(FLAG_A, 'A'), (FLAG_X, 'X'), (FLAG_D, 'D'), (FLAG_P, 'P')]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, letter)| letter)
        .collect()
}

fn destination(entry: &Entry) -> xcast_host::Destination {
    let address = SocketAddr::from((entry.address, entry.port));
    match entry.dscp {
        Some(dscp) => xcast_host::Destination::with_dscp(address, dscp),
        None => address.into(),
    }
}
