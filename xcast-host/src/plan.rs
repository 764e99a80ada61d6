//! What packets a message becomes: pure, and the same for every front end.
//!
//! A list is split by count and by MTU into as few packets as it takes; which destinations share
//! one is the [policy](crate::policy)'s business.

use std::{collections::HashSet, net::IpAddr, ops::Range};

use crate::{
    Options, SendError, Unusable,
    packet::{self, Entry, datagram_overhead, list_flags, packet_len},
    policy::{Policy, common_bits},
    statistics::Cause,
};

/// How large a packet may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet on the wire from its outermost IP header on, in octets: larger ones would
    /// be fragmented, and routers drop fragments of Xcast packets. Default: 1500.
    pub mtu_octets: usize,
    /// Most destinations in one packet. Default and most: 127 for IPv4; for IPv6 it is 125, and 118
    /// where one has a DSCP of its own.
    pub max_destinations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mtu_octets: 1500,
            max_destinations: packet::max_destinations(false, 0),
        }
    }
}

/// The way that is open for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Xcast packets.
    Xcast {
        /// Octets in front of each: 0, or those of an outer IP and UDP header.
        overhead: usize,
        /// Their source address.
        source: IpAddr,
    },
    /// None but ordinary unicast.
    Unicast(Cause),
}

/// As what a part of the list leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As one Xcast packet.
    Xcast,
    /// As a datagram to each.
    Unicast(Cause),
}

/// A part of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    pub range: Range<usize>,
    pub form: Form,
}

/// The list in the order it leaves in, and its parts, which cover it: destinations of one family.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub entries: Vec<Entry>,
    pub parcels: Vec<Parcel>,
    keyed: Vec<(u128, Entry)>,
}

impl Plan {
    /// Makes room for a message; its destinations go into `entries` then.
    pub fn start(&mut self) {
        self.entries.clear();
        self.parcels.clear();
    }

    /// Divides the list up, which has at least one destination.
    ///
    /// # Errors
    ///
    /// The payload is too large, or the message must stay Xcast and cannot.
    pub fn divide(
        &mut self,
        way: Way,
        payload: usize,
        options: &Options,
        limits: &Limits,
        policy: &dyn Policy,
    ) -> Result<(), SendError> {
        let ipv6 = self.entries.iter().any(|entry| entry.address.is_ipv6());
        let largest = limits.mtu_octets.saturating_sub(datagram_overhead(ipv6));
        if payload > largest {
            return Err(SendError::TooLarge { payload, largest });
        }
        let (overhead, source) = match way {
            Way::Xcast { overhead, source } => (overhead, source),
            Way::Unicast(cause) if options.stay_xcast => {
                return Err(SendError::NoXcast { cause });
            }
            Way::Unicast(cause) => {
                self.unicast(0, cause);
                return Ok(());
            }
        };
        let routed = self.partition(source, options)?;
        let flags = list_flags(&self.entries[..routed]);
        let fits = |count: &usize| {
            packet_len(ipv6, *count, flags, payload) + overhead <= limits.mtu_octets
        };
        let most = packet::max_destinations(ipv6, flags);
        let most = routed.min(limits.max_destinations.clamp(1, most));
        let capacity = match fits(&most) {
            true => most,
            false => (1..=most).rev().find(fits).unwrap_or(0),
        };
        if options.stay_xcast {
            if capacity == 0 && routed > 0 {
                let headers = packet_len(ipv6, 1, flags, 0) + overhead;
                let largest = limits.mtu_octets.saturating_sub(headers);
                return Err(SendError::TooLarge { payload, largest });
            }
        } else if capacity < 2 {
            let cause = match routed {
                0 => Cause::NotRouted,
                1 => Cause::Single,
                _ => Cause::PayloadSize,
            };
            self.unicast(0, cause);
            return Ok(());
        }
        self.split(routed, capacity, options, policy);
        self.unicast(routed, Cause::NotRouted);
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
    fn split(&mut self, len: usize, capacity: usize, options: &Options, policy: &dyn Policy) {
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
            let form = match end - start {
                1 if !options.stay_xcast => Form::Unicast(Cause::Single),
                _ => Form::Xcast,
            };
            self.parcels.push(Parcel {
                range: start..end,
                form,
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

    /// Everything from this parcel on leaves as unicast after all.
    pub fn fall_back(&mut self, parcel: usize, cause: Cause) {
        let start = self.parcels[parcel].range.start;
        self.parcels.truncate(parcel);
        self.unicast(start, cause);
    }

    /// What is in the list from `start` on leaves as unicast, repeats only once.
    fn unicast(&mut self, start: usize, cause: Cause) {
        unique(&mut self.entries, start);
        let range = start..self.entries.len();
        if !range.is_empty() {
            let form = Form::Unicast(cause);
            self.parcels.push(Parcel { range, form });
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
    use crate::{
        Destination,
        policy::{ArrivalOrder, CommonPrefix},
    };

    const XCAST: Way = Way::Xcast {
        overhead: 0,
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
        way: Way,
        to: &[Destination],
        payload: usize,
        options: &Options,
    ) -> Result<Plan, SendError> {
        let mut plan = Plan::default();
        plan.start();
        plan.entries.extend(to.iter().map(|to| to.entry().unwrap()));
        plan.divide(way, payload, options, &Limits::default(), &CommonPrefix)?;
        Ok(plan)
    }

    fn forms(plan: &Plan) -> Vec<(usize, Form)> {
        let parcels = plan.parcels.iter();
        parcels
            .map(|parcel| (parcel.range.len(), parcel.form))
            .collect()
    }

    #[test]
    fn a_list_that_fits_is_one_packet_in_the_order_given() {
        let to = [3, 1, 2].map(|n| destination(0x0a01_0000 + n, 5000));
        let plan = divide(XCAST, &to, 100, &Options::default()).unwrap();
        assert_eq!(forms(&plan), [(3, Form::Xcast)]);
        assert_eq!(plan.entries[0].address, Ipv4Addr::new(10, 1, 0, 3));
    }

    #[test]
    fn unicast_where_there_is_one_destination_or_no_router_would_deliver() {
        let options = Options::default();
        let own = destination(0x0a00_0001, 5000);
        let other = destination(0x0a01_0001, 5000);
        let loopback = destination(0x7f00_0001, 5000);
        let single = [(1, Form::Unicast(Cause::Single))];
        assert_eq!(
            forms(&divide(XCAST, &[other], 1, &options).unwrap()),
            single
        );
        let to = [own, other, loopback, other];
        let plan = divide(XCAST, &to, 1, &options).unwrap();
        let wanted = [(2, Form::Xcast), (2, Form::Unicast(Cause::NotRouted))];
        assert_eq!(forms(&plan), wanted);
        let to_self = divide(XCAST, &[own], 1, &options).unwrap();
        assert_eq!(forms(&to_self), [(1, Form::Unicast(Cause::NotRouted))]);
    }

    #[test]
    fn repeats_leave_once_as_unicast() {
        let one = destination(0x0a01_0001, 5000);
        let way = Way::Unicast(Cause::Configured);
        let plan = divide(way, &[one, one, one], 1, &Options::default()).unwrap();
        assert_eq!(forms(&plan), [(1, Form::Unicast(Cause::Configured))]);
    }

    #[test]
    fn sizes() {
        let options = Options::default();
        let two = [1, 2].map(|n| destination(0x0a01_0000 + n, 5000));
        // 20 IP, 12 + 4 + 2 * 4 Xcast, 8 UDP.
        let xcast = divide(XCAST, &two, 1500 - 52, &options).unwrap();
        assert_eq!(forms(&xcast), [(2, Form::Xcast)]);
        let unicast = divide(XCAST, &two, 1500 - 51, &options).unwrap();
        assert_eq!(forms(&unicast), [(2, Form::Unicast(Cause::PayloadSize))]);
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
        assert_eq!(forms(&alone), [(1, Form::Xcast), (1, Form::Xcast)]);
        assert!(divide(XCAST, &two, 1500 - 47, &stay).is_err());
        assert!(divide(Way::Unicast(Cause::NoAnswer), &two, 1, &stay).is_err());
    }

    #[test]
    fn sizes_of_ipv6() {
        let options = Options::default();
        let way = Way::Xcast {
            overhead: 0,
            source: "fd77::1".parse().unwrap(),
        };
        let to: Vec<_> = (0..126)
            .map(|n| ipv6(destination(0x0a01_0000 + n, 5000)))
            .collect();
        let large = Limits {
            mtu_octets: 9000,
            ..Limits::default()
        };
        let parts = |to: &[Destination]| {
            let mut plan = Plan::default();
            plan.entries.extend(to.iter().map(|to| to.entry().unwrap()));
            plan.divide(way, 1, &options, &large, &ArrivalOrder)
                .unwrap();
            forms(&plan)
        };
        assert_eq!(parts(&to[..125]), [(125, Form::Xcast)]);
        let single = (1, Form::Unicast(Cause::Single));
        assert_eq!(parts(&to), [(125, Form::Xcast), single]);
        let mut marked = to[..119].to_vec();
        marked[3].dscp = Some(46);
        assert_eq!(parts(&marked), [(118, Form::Xcast), single]);
        // 40 IP, 8 + 16 + 8 + 2 * 16 routing header, 8 UDP.
        let xcast = divide(way, &to[..2], 1500 - 112, &options).unwrap();
        assert_eq!(forms(&xcast), [(2, Form::Xcast)]);
        let unicast = divide(way, &to[..2], 1500 - 111, &options).unwrap();
        assert_eq!(forms(&unicast), [(2, Form::Unicast(Cause::PayloadSize))]);
        let most = divide(way, &to[..2], 1500 - 47, &options).unwrap_err();
        assert!(matches!(most, SendError::TooLarge { largest: 1452, .. }));
        let link_local = "[fe80::1]:5000".parse::<SocketAddr>().unwrap().into();
        let plan = divide(way, &[link_local, to[0], to[1]], 1, &options).unwrap();
        let last = (1, Form::Unicast(Cause::NotRouted));
        assert_eq!(forms(&plan), [(2, Form::Xcast), last]);
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
        let plan = divide(XCAST, &to, 100, &Options::default()).unwrap();
        assert_eq!(forms(&plan), [(100, Form::Xcast), (30, Form::Xcast)]);
        let networks = |range: Range<usize>| {
            let entries = plan.entries[range].iter();
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
        fn parcels_cover_the_list_within_the_limits(
            to in prop::collection::vec((0u32..400, 5000u16..5003, prop::option::of(0u8..64)), 0..400),
            payload in 0usize..1480,
            max_destinations in 1usize..140,
            overhead in prop::sample::select(vec![0usize, 28, 48]),
            stay_xcast: bool,
            sorted: bool,
            of_ipv6: bool,
        ) {
            let limits = Limits { mtu_octets: 1500, max_destinations };
            let options = Options { stay_xcast, ..Options::default() };
            let source = match of_ipv6 {
                false => Ipv4Addr::new(10, 0, 0, 1).into(),
                true => Ipv6Addr::from(0xfd77 << 112 | 1).into(),
            };
            let way = Way::Xcast { overhead, source };
            let to: Vec<_> = to
                .into_iter()
                .map(|(n, port, dscp)| Destination { dscp, ..destination(0x0a01_0000 + n, port) })
                .map(|to| if of_ipv6 { ipv6(to) } else { to })
                .collect();
            let mut plan = Plan::default();
            plan.start();
            plan.entries.extend(to.iter().map(|to| to.entry().unwrap()));
            let policy: &dyn Policy = if sorted { &CommonPrefix } else { &ArrivalOrder };
            if let Err(error) = plan.divide(way, payload, &options, &limits, policy) {
                let too_large = matches!(error, SendError::TooLarge { .. });
                prop_assert!(too_large);
                let room = match (of_ipv6, stay_xcast) {
                    (false, false) => 1500 - 28,
                    (true, false) => 1500 - 48,
                    // One destination, with a DSCP and a port of its own at most.
                    (false, true) => 1500 - (20 + 12 + 4 + 4 + 4 + 4 + 8) - overhead,
                    (true, true) => 1500 - (40 + 24 + 8 + 16 + 8 + 8 + 8) - overhead,
                };
                prop_assert!(payload > room);
                return Ok(());
            }
            let mut end = 0;
            for parcel in &plan.parcels {
                prop_assert_eq!(parcel.range.start, end);
                end = parcel.range.end;
                let entries = &plan.entries[parcel.range.clone()];
                if parcel.form == Form::Xcast {
                    let flags = list_flags(entries);
                    let most = match (of_ipv6, flags & 2) {
                        (false, _) => 127,
                        (true, 0) => 125,
                        (true, _) => 118,
                    };
                    prop_assert!(entries.len() <= max_destinations.min(most));
                    let len = packet_len(of_ipv6, entries.len(), flags, payload) + overhead;
                    prop_assert!(len <= 1500);
                    prop_assert!(entries.len() > 1 || stay_xcast);
                } else {
                    prop_assert!(!stay_xcast);
                }
            }
            prop_assert_eq!(end, plan.entries.len());
            let set = |entries: &[Entry]| entries
                .iter()
                .map(|entry| (entry.address, entry.port))
                .collect::<HashSet<_>>();
            let given: Vec<_> = to.iter().map(|to| to.entry().unwrap()).collect();
            prop_assert_eq!(set(&plan.entries), set(&given));
        }
    }
}
