//! What a list becomes: packets and datagrams. No I/O, no clock.
//!
//! [`split`] is the whole decision, for programs that send or simulate packets themselves: a
//! [`Sender`](crate::Sender) does the same. A list is split by family, by count and by MTU into as
//! few packets as it takes. Which destinations share a packet is up to the
//! [policy](crate::policy).
//!
//! ```
//! use std::net::{Ipv4Addr, SocketAddr};
//! use xcast_host::packet::Template;
//! use xcast_host::split::{Delivery, UplinkState, split};
//! use xcast_host::{CodePoints, Destination, Options, PacketLimits, UnicastCause, policy::CommonPrefix};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let code_points = CodePoints::new(253, Ipv4Addr::new(224, 0, 0, 254))?;
//! let source: SocketAddr = "192.0.2.1:4000".parse()?;
//! let ipv4 = UplinkState::Up { overhead_octets: 0, source: source.ip() };
//! let ipv6 = UplinkState::Down(UnicastCause::Configured);
//!
//! let to = ["198.51.100.7:5000", "203.0.113.9:5000"].map(|to| to.parse::<SocketAddr>());
//! let to: Vec<Destination> = to.into_iter().map(|to| to.map(Into::into)).collect::<Result<_, _>>()?;
//! let (options, limits) = (Options::default(), PacketLimits::default());
//! let template = Template::new(code_points, source, &options);
//! let payload = b"hello, all";
//! let mut packet = Vec::new();
//!
//! for chunk in split(&to, payload.len(), [ipv4, ipv6], &options, &limits, &CommonPrefix)? {
//!     match chunk.delivery {
//!         Delivery::Xcast => template.emit(&chunk.entries, payload, &mut packet)?,
//!         Delivery::Unicast(_) => {
//!             for entry in &chunk.entries {
//!                 template.emit_datagram(entry, payload, &mut packet)?;
//!             }
//!         }
//!     }
//!     // IPv4, the Xcast header with two addresses, UDP.
//!     assert_eq!(packet.len(), 20 + (12 + 4 + 2 * 4) + 8 + payload.len());
//! }
//! # Ok(())
//! # }
//! ```

use std::{collections::HashSet, net::IpAddr, ops::Range};

pub use super::uplink::UplinkState;
use super::{
    cause::UnicastCause,
    destination::{Destination, Options, Unusable},
    outcome::SendError,
    settings::PacketLimits,
};
use crate::{
    packet::{self, Entry, datagram_overhead, list_flags, packet_len},
    policy::{Policy, common_bits},
};

/// How a part of a list is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// By one Xcast packet.
    Xcast,
    /// By a datagram to each.
    Unicast(UnicastCause),
}

/// A part of a list that is delivered in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its destinations, at least one, all of one family, in the order in which they leave.
    pub entries: Vec<Entry>,
    /// One Xcast packet to all of them, or a datagram to each.
    pub delivery: Delivery,
}

/// Says what packets a message to `to` with a payload of `payload_len` octets becomes. `uplinks` are
/// the states of the uplink of IPv4 and of that of IPv6.
///
/// Chunks of IPv4 come first. A destination that is listed twice may be twice in an Xcast packet
/// (routers deliver to it once), and is once among datagrams. An [`Entry`] has no room for the
/// interface of a link-local address.
///
/// # Errors
///
/// [`SendError::Destination`], [`SendError::TooLarge`], or [`SendError::NoXcast`]: the message cannot
/// be sent to anybody in the list.
pub fn split(
    to: &[Destination],
    payload_len: usize,
    uplinks: [UplinkState; 2],
    options: &Options,
    limits: &PacketLimits,
    policy: &dyn Policy,
) -> Result<Vec<Chunk>, SendError> {
    let mut families = [Split::default(), Split::default()];
    for (index, destination) in to.iter().enumerate() {
        let entry = destination
            .entry()
            .map_err(|reason| SendError::Destination {
                index,
                address: destination.address,
                reason,
            })?;
        let family = &mut families[usize::from(entry.address.is_ipv6())];
        family.entries.push(entry);
    }
    let mut chunks = Vec::new();
    for (mut family, uplink) in families.into_iter().zip(uplinks) {
        if family.entries.is_empty() {
            continue;
        }
        family
            .divide(uplink, payload_len, options, limits, policy)
            .map_err(|error| error.locate(to))?;
        chunks.extend(family.parts.iter().map(|part| Chunk {
            entries: family.entries[part.range.clone()].to_vec(),
            delivery: part.delivery,
        }));
    }
    Ok(chunks)
}

/// A part of the list of a [`Split`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub range: Range<usize>,
    pub delivery: Delivery,
}

/// The destinations of one family in the order in which they leave, and the parts that cover them.
/// Its memory serves one message after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Split {
    pub entries: Vec<Entry>,
    pub parts: Vec<Part>,
    keyed: Vec<(u128, Entry)>,
}

impl Split {
    /// Makes room for a message; its destinations go into `entries` then.
    pub fn start(&mut self) {
        self.entries.clear();
        self.parts.clear();
    }

    /// Divides the list up, which has at least one destination.
    ///
    /// # Errors
    ///
    /// The payload is too large, or the message must stay Xcast and cannot.
    pub fn divide(
        &mut self,
        uplink: UplinkState,
        payload: usize,
        options: &Options,
        limits: &PacketLimits,
        policy: &dyn Policy,
    ) -> Result<(), SendError> {
        let ipv6 = self.entries.iter().any(|entry| entry.address.is_ipv6());
        let largest = limits.mtu_octets.saturating_sub(datagram_overhead(ipv6));
        if payload > largest {
            return Err(SendError::TooLarge { payload, largest });
        }
        let (overhead_octets, source) = match uplink {
            UplinkState::Up {
                overhead_octets,
                source,
            } => (overhead_octets, source),
            UplinkState::Down(cause) if options.stay_xcast => {
                return Err(SendError::NoXcast { cause });
            }
            UplinkState::Down(cause) => {
                self.unicast(0, cause);
                return Ok(());
            }
        };
        let routed = self.partition(source, options)?;
        let flags = list_flags(&self.entries[..routed]);
        let fits = |count: &usize| {
            packet_len(ipv6, *count, flags, payload) + overhead_octets <= limits.mtu_octets
        };
        let most = packet::max_destinations(ipv6, flags);
        let most = routed.min(limits.max_destinations.clamp(1, most));
        let capacity = match fits(&most) {
            true => most,
            false => (1..=most).rev().find(fits).unwrap_or(0),
        };
        if options.stay_xcast {
            if capacity == 0 && routed > 0 {
                let headers = packet_len(ipv6, 1, flags, 0) + overhead_octets;
                let largest = limits.mtu_octets.saturating_sub(headers);
                return Err(SendError::TooLarge { payload, largest });
            }
        } else if capacity < 2 {
            let cause = match routed {
                0 => UnicastCause::NotRouted,
                1 => UnicastCause::Single,
                _ => UnicastCause::PayloadSize,
            };
            self.unicast(0, cause);
            return Ok(());
        }
        self.pack(routed, capacity, options, policy);
        self.unicast(routed, UnicastCause::NotRouted);
        Ok(())
    }

    /// Puts those destinations last that no router delivers to, or from which nothing would come
    /// back in: a packet from the network with the host's own address as its source is dropped by
    /// the host's kernel. Returns how many are left.
    fn partition(&mut self, source: IpAddr, options: &Options) -> Result<usize, SendError> {
        let routed = |entry: &Entry| {
            let ip = entry.address;
            let is_link_local = match ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            // A source on the loopback network can have no router but one that is there, too.
            (!ip.is_loopback() || source.is_loopback()) && !is_link_local && ip != source
        };
        match self.entries.iter().position(|entry| !routed(entry)) {
            None => Ok(self.entries.len()),
            Some(index) if options.stay_xcast => {
                let entry = self.entries[index];
                Err(SendError::Destination {
                    index,
                    address: (entry.address, entry.port).into(),
                    reason: Unusable::NotRouted,
                })
            }
            Some(_) => {
                self.entries.sort_by_key(|entry| !routed(entry));
                Ok(self.entries.partition_point(routed))
            }
        }
    }

    /// Divides the first `len` destinations into as few packets as `capacity` allows.
    fn pack(&mut self, len: usize, capacity: usize, options: &Options, policy: &dyn Policy) {
        if len > capacity {
            self.keyed.clear();
            self.keyed.extend(self.entries[..len].iter().map(|entry| {
                let key = policy.key((entry.address, entry.port).into());
                (key, *entry)
            }));
            self.keyed.sort_by_key(|(key, _)| *key);
            for (entry, (_, sorted)) in self.entries.iter_mut().zip(&self.keyed) {
                *entry = *sorted;
            }
        }
        let mut start = 0;
        while start < len {
            let end = start + self.cut(start, len, capacity);
            let delivery = match end - start {
                1 if !options.stay_xcast => Delivery::Unicast(UnicastCause::Single),
                _ => Delivery::Xcast,
            };
            self.parts.push(Part {
                range: start..end,
                delivery,
            });
            start = end;
        }
    }

    /// How many of the destinations from `start` on go into the next packet: such that the number
    /// of packets stays the smallest possible, and the two sides of the cut have least in common.
    fn cut(&self, start: usize, len: usize, capacity: usize) -> usize {
        let left = len - start;
        if left <= capacity {
            return left;
        }
        let packets_after = left.div_ceil(capacity) - 1;
        let least = left.saturating_sub(packets_after * capacity).max(1);
        let in_common = |count: &usize| {
            let (before, after) = (start + count - 1, start + count);
            common_bits(self.keyed[before].0, self.keyed[after].0)
        };
        // Of equal ones, the first that is met: the fullest packet.
        (least..=capacity)
            .rev()
            .min_by_key(in_common)
            .unwrap_or(capacity)
    }

    /// Turns this part and all after it into unicast.
    pub fn fall_back(&mut self, part: usize, cause: UnicastCause) {
        let start = self.parts[part].range.start;
        self.parts.truncate(part);
        self.unicast(start, cause);
    }

    /// What is in the list from `start` on leaves as unicast, repeats only once.
    fn unicast(&mut self, start: usize, cause: UnicastCause) {
        unique(&mut self.entries, start);
        let range = start..self.entries.len();
        if !range.is_empty() {
            let delivery = Delivery::Unicast(cause);
            self.parts.push(Part { range, delivery });
        }
    }
}

/// Takes repeats of the same address and port out of the list from `start` on.
fn unique(entries: &mut Vec<Entry>, start: usize) {
    if entries.len() - start < 2 {
        return;
    }
    let mut seen = HashSet::with_capacity(entries.len() - start);
    let mut at = 0;
    entries.retain(|entry| {
        at += 1;
        at <= start || seen.insert((entry.address, entry.port))
    });
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::policy::{ArrivalOrder, CommonPrefix};

    const XCAST: UplinkState = UplinkState::Up {
        overhead_octets: 0,
        source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    };

    fn destination(address: u32, port: u16) -> Destination {
        SocketAddr::from((Ipv4Addr::from(address), port)).into()
    }

    /// The same host with an IPv6 address.
    fn ipv6(to: Destination) -> Destination {
        let IpAddr::V4(address) = to.address.ip() else {
            return to;
        };
        let address = Ipv6Addr::from(0xfd77 << 112 | u128::from(address.to_bits()));
        Destination {
            address: (address, to.address.port()).into(),
            ..to
        }
    }

    fn divide(
        uplink: UplinkState,
        to: &[Destination],
        payload: usize,
        options: &Options,
    ) -> Result<Split, SendError> {
        let mut split = Split::default();
        split.start();
        split
            .entries
            .extend(to.iter().map(|to| to.entry().unwrap()));
        split.divide(
            uplink,
            payload,
            options,
            &PacketLimits::default(),
            &CommonPrefix,
        )?;
        Ok(split)
    }

    fn deliveries(split: &Split) -> Vec<(usize, Delivery)> {
        let parts = split.parts.iter();
        parts
            .map(|part| (part.range.len(), part.delivery))
            .collect()
    }

    #[test]
    fn a_list_that_fits_is_one_packet_in_the_order_given() {
        let to = [3, 1, 2].map(|n| destination(0x0a01_0000 + n, 5000));
        let split = divide(XCAST, &to, 100, &Options::default()).unwrap();
        assert_eq!(deliveries(&split), [(3, Delivery::Xcast)]);
        assert_eq!(split.entries[0].address, Ipv4Addr::new(10, 1, 0, 3));
    }

    #[test]
    fn unicast_where_there_is_one_destination_or_no_router_would_deliver() {
        let options = Options::default();
        let own = destination(0x0a00_0001, 5000);
        let other = destination(0x0a01_0001, 5000);
        let loopback = destination(0x7f00_0001, 5000);
        let single = [(1, Delivery::Unicast(UnicastCause::Single))];
        assert_eq!(
            deliveries(&divide(XCAST, &[other], 1, &options).unwrap()),
            single
        );
        let to = [own, other, loopback, other];
        let split = divide(XCAST, &to, 1, &options).unwrap();
        let wanted = [
            (2, Delivery::Xcast),
            (2, Delivery::Unicast(UnicastCause::NotRouted)),
        ];
        assert_eq!(deliveries(&split), wanted);
        let to_self = divide(XCAST, &[own], 1, &options).unwrap();
        assert_eq!(
            deliveries(&to_self),
            [(1, Delivery::Unicast(UnicastCause::NotRouted))]
        );
    }

    #[test]
    fn a_list_of_both_families_is_split_by_the_uplink_of_each() {
        let ipv4: Vec<_> = (1..4).map(|n| destination(0x0a01_0000 + n, 5000)).collect();
        let mut to = ipv4.clone();
        to.insert(1, ipv6(to[0]));
        let down = UplinkState::Down(UnicastCause::Configured);
        let limits = PacketLimits::default();
        let run = |to: &[Destination], options: &Options| {
            split(to, 100, [XCAST, down], options, &limits, &ArrivalOrder)
        };
        let entries = |to: &[Destination]| to.iter().map(|to| to.entry().unwrap()).collect();
        let xcast = Chunk {
            entries: entries(&ipv4),
            delivery: Delivery::Xcast,
        };
        let unicast = Chunk {
            entries: entries(&to[1..2]),
            delivery: Delivery::Unicast(UnicastCause::Configured),
        };
        let options = Options::default();
        assert_eq!(run(&to, &options).unwrap(), [xcast, unicast]);
        assert_eq!(run(&[], &options).unwrap(), []);
        to.push(destination(0x0a01_0001, 0));
        let error = run(&to, &options).unwrap_err();
        assert!(matches!(error, SendError::Destination { index: 4, .. }));
        let stay = Options {
            stay_xcast: true,
            ..options
        };
        let error = run(&to[..2], &stay).unwrap_err();
        assert!(matches!(error, SendError::NoXcast { .. }));
        let loopback = destination(0x7f00_0001, 5000);
        let error = run(&[ipv4[0], loopback], &stay).unwrap_err();
        assert!(matches!(error, SendError::Destination { index: 1, .. }));
    }

    #[test]
    fn repeats_leave_once_as_unicast() {
        let one = destination(0x0a01_0001, 5000);
        let uplink = UplinkState::Down(UnicastCause::Configured);
        let split = divide(uplink, &[one, one, one], 1, &Options::default()).unwrap();
        assert_eq!(
            deliveries(&split),
            [(1, Delivery::Unicast(UnicastCause::Configured))]
        );
    }

    #[test]
    fn sizes() {
        let options = Options::default();
        let two = [1, 2].map(|n| destination(0x0a01_0000 + n, 5000));
        // 20 IP, 12 + 4 + 2 * 4 Xcast, 8 UDP.
        let xcast = divide(XCAST, &two, 1500 - 52, &options).unwrap();
        assert_eq!(deliveries(&xcast), [(2, Delivery::Xcast)]);
        let unicast = divide(XCAST, &two, 1500 - 51, &options).unwrap();
        assert_eq!(
            deliveries(&unicast),
            [(2, Delivery::Unicast(UnicastCause::PayloadSize))]
        );
        assert_eq!(
            divide(XCAST, &two, 1500 - 27, &options)
                .unwrap_err()
                .to_string(),
            "payload of 1473 octets: at most 1472 fit a packet, so shorten it or raise the MTU limit"
        );
        let stay = Options {
            stay_xcast: true,
            ..Options::default()
        };
        let alone = divide(XCAST, &two, 1500 - 48, &stay).unwrap();
        assert_eq!(
            deliveries(&alone),
            [(1, Delivery::Xcast), (1, Delivery::Xcast)]
        );
        assert!(divide(XCAST, &two, 1500 - 47, &stay).is_err());
        assert!(divide(UplinkState::Down(UnicastCause::NoAnswer), &two, 1, &stay).is_err());
    }

    #[test]
    fn sizes_of_ipv6() {
        let options = Options::default();
        let uplink = UplinkState::Up {
            overhead_octets: 0,
            source: "fd77::1".parse().unwrap(),
        };
        let to: Vec<_> = (0..126)
            .map(|n| ipv6(destination(0x0a01_0000 + n, 5000)))
            .collect();
        let large = PacketLimits {
            mtu_octets: 9000,
            ..PacketLimits::default()
        };
        let parts = |to: &[Destination]| {
            let mut split = Split::default();
            split
                .entries
                .extend(to.iter().map(|to| to.entry().unwrap()));
            split
                .divide(uplink, 1, &options, &large, &ArrivalOrder)
                .unwrap();
            deliveries(&split)
        };
        assert_eq!(parts(&to[..125]), [(125, Delivery::Xcast)]);
        let single = (1, Delivery::Unicast(UnicastCause::Single));
        assert_eq!(parts(&to), [(125, Delivery::Xcast), single]);
        let mut marked = to[..119].to_vec();
        marked[3].dscp = Some(46);
        assert_eq!(parts(&marked), [(118, Delivery::Xcast), single]);
        // 40 IP, 8 + 16 + 8 + 2 * 16 routing header, 8 UDP.
        let xcast = divide(uplink, &to[..2], 1500 - 112, &options).unwrap();
        assert_eq!(deliveries(&xcast), [(2, Delivery::Xcast)]);
        let unicast = divide(uplink, &to[..2], 1500 - 111, &options).unwrap();
        assert_eq!(
            deliveries(&unicast),
            [(2, Delivery::Unicast(UnicastCause::PayloadSize))]
        );
        let most = divide(uplink, &to[..2], 1500 - 47, &options).unwrap_err();
        assert!(matches!(most, SendError::TooLarge { largest: 1452, .. }));
        let link_local = "[fe80::1]:5000".parse::<SocketAddr>().unwrap().into();
        let split = divide(uplink, &[link_local, to[0], to[1]], 1, &options).unwrap();
        let last = (1, Delivery::Unicast(UnicastCause::NotRouted));
        assert_eq!(deliveries(&split), [(2, Delivery::Xcast), last]);
    }

    #[test]
    fn a_cut_keeps_prefixes_together_without_an_extra_packet() {
        // 130 destinations, 100 of them in one network and 30 in another, mixed.
        let to: Vec<_> = (0..130)
            .map(|n| match n % 13 {
                0..3 => destination(0x0a02_0000 + n, 5000),
                _ => destination(0x0a01_0000 + n, 5000),
            })
            .collect();
        let split = divide(XCAST, &to, 100, &Options::default()).unwrap();
        assert_eq!(
            deliveries(&split),
            [(100, Delivery::Xcast), (30, Delivery::Xcast)]
        );
        let networks = |range: Range<usize>| {
            let entries = split.entries[range].iter();
            entries
                .map(|entry| match entry.address {
                    IpAddr::V4(address) => address.octets()[1],
                    IpAddr::V6(_) => 0,
                })
                .collect::<HashSet<_>>()
        };
        assert_eq!(networks(0..100), HashSet::from([1]));
    }

    proptest! {
        #[test]
        fn parts_cover_the_list_within_the_limits(
            to in prop::collection::vec((0u32..400, 5000u16..5003, prop::option::of(0u8..64)), 0..400),
            payload in 0usize..1480,
            max_destinations in 1usize..140,
            overhead_octets in prop::sample::select(vec![0usize, 28, 48]),
            stay_xcast: bool,
            sorted: bool,
            of_ipv6: bool,
        ) {
            let limits = PacketLimits { mtu_octets: 1500, max_destinations };
            let options = Options { stay_xcast, ..Options::default() };
            let source = match of_ipv6 {
                false => Ipv4Addr::new(10, 0, 0, 1).into(),
                true => Ipv6Addr::from(0xfd77 << 112 | 1).into(),
            };
            let uplink = UplinkState::Up { overhead_octets, source };
            let to: Vec<_> = to
                .into_iter()
                .map(|(n, port, dscp)| Destination { dscp, ..destination(0x0a01_0000 + n, port) })
                .map(|to| if of_ipv6 { ipv6(to) } else { to })
                .collect();
            let mut split = Split::default();
            split.start();
            split.entries.extend(to.iter().map(|to| to.entry().unwrap()));
            let policy: &dyn Policy = if sorted { &CommonPrefix } else { &ArrivalOrder };
            if let Err(error) = split.divide(uplink, payload, &options, &limits, policy) {
                let too_large = matches!(error, SendError::TooLarge { .. });
                prop_assert!(too_large);
                let room = match (of_ipv6, stay_xcast) {
                    (false, false) => 1500 - 28,
                    (true, false) => 1500 - 48,
                    // One destination, with a DSCP and a port of its own at most.
                    (false, true) => 1500 - (20 + 12 + 4 + 4 + 4 + 4 + 8) - overhead_octets,
                    (true, true) => 1500 - (40 + 24 + 8 + 16 + 8 + 8 + 8) - overhead_octets,
                };
                prop_assert!(payload > room);
                return Ok(());
            }
            let mut end = 0;
            for part in &split.parts {
                prop_assert_eq!(part.range.start, end);
                end = part.range.end;
                let entries = &split.entries[part.range.clone()];
                if part.delivery == Delivery::Xcast {
                    let flags = list_flags(entries);
                    let most = match (of_ipv6, flags & 2) {
                        (false, _) => 127,
                        (true, 0) => 125,
                        (true, _) => 118,
                    };
                    prop_assert!(entries.len() <= max_destinations.min(most));
                    let len = packet_len(of_ipv6, entries.len(), flags, payload) + overhead_octets;
                    prop_assert!(len <= 1500);
                    prop_assert!(entries.len() > 1 || stay_xcast);
                } else {
                    prop_assert!(!stay_xcast);
                }
            }
            prop_assert_eq!(end, split.entries.len());
            let set = |entries: &[Entry]| entries
                .iter()
                .map(|entry| (entry.address, entry.port))
                .collect::<HashSet<_>>();
            let given: Vec<_> = to.iter().map(|to| to.entry().unwrap()).collect();
            prop_assert_eq!(set(&split.entries), set(&given));
        }
    }
}
