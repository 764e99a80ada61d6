//! What packets a message becomes: pure, and the same for every front end.
//!
//! A list is split by count and by MTU into as few packets as it takes; which destinations share
//! one is the [policy](crate::policy)'s business.

use std::{collections::HashSet, net::Ipv4Addr, ops::Range};

use xcast_common::wire::{IPV4_LEN, MAX_DESTINATIONS};

use crate::{
    Destination, Options, SendError, Unusable,
    packet::{Entry, UDP_LEN, list_flags, packet_len},
    policy::{Policy, common_bits},
    statistics::Cause,
};

/// How large a packet may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet on the wire from its outermost IP header on, in octets: larger ones would
    /// be fragmented, and routers drop fragments of Xcast packets. Default: 1500.
    pub mtu_octets: usize,
    /// Most destinations in one packet. Default and most: 127.
    pub max_destinations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mtu_octets: 1500,
            max_destinations: MAX_DESTINATIONS,
        }
    }
}

/// What is in front of the payload of an ordinary datagram, in octets.
pub(crate) const DATAGRAM_OVERHEAD: usize = IPV4_LEN + UDP_LEN;

/// The way that is open for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Xcast packets.
    Xcast {
        /// Octets in front of each: 0, or those of an outer IP and UDP header.
        overhead: usize,
        /// Their source address.
        source: Ipv4Addr,
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

/// The list in the order it leaves in, and its parts, which cover it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub entries: Vec<Entry>,
    pub parcels: Vec<Parcel>,
    keyed: Vec<(u128, Entry)>,
}

impl Plan {
    /// Takes in a message's destinations.
    ///
    /// # Errors
    ///
    /// One of them is unusable. The plan is then of no use either.
    pub fn start(&mut self, to: impl Iterator<Item = Destination>) -> Result<(), SendError> {
        self.entries.clear();
        self.parcels.clear();
        for (index, destination) in to.enumerate() {
            let entry = destination.entry();
            self.entries
                .push(entry.map_err(|reason| SendError::Destination {
                    index,
                    address: destination.address,
                    reason,
                })?);
        }
        Ok(())
    }

    /// Divides the list up.
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
        let largest = limits.mtu_octets.saturating_sub(DATAGRAM_OVERHEAD);
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
        let fits =
            |count: &usize| packet_len(*count, flags, payload) + overhead <= limits.mtu_octets;
        let most = routed.min(limits.max_destinations.clamp(1, MAX_DESTINATIONS));
        let capacity = match fits(&most) {
            true => most,
            false => (1..=most).rev().find(fits).unwrap_or(0),
        };
        if options.stay_xcast {
            if capacity == 0 && routed > 0 {
                let headers = packet_len(1, flags, 0) + overhead;
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
    fn partition(&mut self, source: Ipv4Addr, options: &Options) -> Result<usize, SendError> {
        let routed = |entry: &Entry| {
            let Some(ip) = entry.ipv4() else {
                return false;
            };
            // A source on the loopback network can have no router but one that is there, too.
            (!ip.is_loopback() || source.is_loopback()) && !ip.is_link_local() && ip != source
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
    use std::net::SocketAddrV4;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::{ArrivalOrder, CommonPrefix};

    const XCAST: Way = Way::Xcast {
        overhead: 0,
        source: Ipv4Addr::new(10, 0, 0, 1),
    };

    fn destination(address: u32, port: u16) -> Destination {
        SocketAddrV4::new(address.into(), port).into()
    }

    fn divide(
        way: Way,
        to: &[Destination],
        payload: usize,
        options: &Options,
    ) -> Result<Plan, SendError> {
        let mut plan = Plan::default();
        plan.start(to.iter().copied())?;
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
                .filter_map(|entry| Some(entry.ipv4()?.octets()[1]))
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
            overhead in prop::sample::select(vec![0usize, 28]),
            stay_xcast: bool,
            sorted: bool,
        ) {
            let limits = Limits { mtu_octets: 1500, max_destinations };
            let options = Options { stay_xcast, ..Options::default() };
            let way = Way::Xcast { overhead, source: Ipv4Addr::new(10, 0, 0, 1) };
            let to: Vec<_> = to
                .into_iter()
                .map(|(n, port, dscp)| Destination { dscp, ..destination(0x0a01_0000 + n, port) })
                .collect();
            let mut plan = Plan::default();
            plan.start(to.iter().copied()).unwrap();
            let policy: &dyn Policy = if sorted { &CommonPrefix } else { &ArrivalOrder };
            if let Err(error) = plan.divide(way, payload, &options, &limits, policy) {
                let too_large = matches!(error, SendError::TooLarge { .. });
                prop_assert!(too_large);
                let room = 1500 - if stay_xcast { 40 + overhead } else { 28 };
                prop_assert!(payload + 16 > room);
                return Ok(());
            }
            let mut end = 0;
            for parcel in &plan.parcels {
                prop_assert_eq!(parcel.range.start, end);
                end = parcel.range.end;
                let entries = &plan.entries[parcel.range.clone()];
                if parcel.form == Form::Xcast {
                    prop_assert!(entries.len() <= max_destinations.min(127));
                    let len = packet_len(entries.len(), list_flags(entries), payload) + overhead;
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
