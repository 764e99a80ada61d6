//! Everything the datapath counts, named after the reason.
//!
//! One enum is the definition for both sides: the BPF programs index a per-CPU array with it, the
//! controller prints its [`NAMES`]. Every counter exists once per port: events on the way in count
//! on the port the packet arrived on, events on the way out on the port the copy leaves by.

use core::cell::Cell;

/// What one unit of a counter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// An Xcast packet as it arrived.
    Packet,
    /// One entry of a packet's destination list.
    Destination,
    /// One output copy.
    Copy,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $unit:ident;)+) => {
        /// A counter of the datapath.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant,)+
        }

        /// The counters' names, indexed by `Counter as usize`.
        pub const NAMES: [&str; COUNT] = [$($name,)+];

        /// What each counter counts, indexed by `Counter as usize`.
        pub const UNITS: [Unit; COUNT] = [$(Unit::$unit,)+];

        /// One sentence about each counter, indexed by `Counter as usize`.
        pub const HELP: [&str; COUNT] = [$(concat!($($doc,)+),)+];

        /// Every counter, in order.
        pub const ALL: [Counter; COUNT] = [$(Counter::$variant,)+];

        /// Number of counters.
        pub const COUNT: usize = [$($name,)+].len();
    };
}

counters! {
    /// Xcast packets that arrived and were well formed.
    Received = "received", Packet;
    /// Copies the router decided to send or hand over, per port they should leave by.
    Planned = "planned", Copy;
    /// Copies that were handed to the port's driver, or that reached the kernel stack; planned minus sent is loss.
    Sent = "sent", Copy;
    /// Copies that left as ordinary unicast, handed to the stack or sent by a port.
    X2u = "x2u", Copy;
    /// Packets sent round once more because no device map had their exact set of ports.
    Recirculated = "recirculated", Packet;
    /// Packets that came round once more; recirculated minus returned is loss, of one copy or more each.
    Returned = "returned", Packet;
    /// Xcast packets that reused the forwarding plan of an earlier packet with the same list.
    PlanReused = "plan_reused", Packet;
    /// Xcast packets taken out of UDP; what becomes of them is counted as for any other.
    Decapsulated = "decapsulated", Packet;
    /// Xcast packets taken out of a tunnel; what becomes of them is counted as for any other.
    TunnelReceived = "tunnel_received", Packet;
    /// Copies that left inside a tunnel.
    TunnelSent = "tunnel_sent", Copy;
    /// Copies that left inside a tunnel by the port that their packet arrived by: a loop, if they come back.
    TunnelHairpin = "tunnel_hairpin", Copy;
    /// Packets left to the kernel stack as they are: they look like a tunnel's, but have another cookie.
    TunnelRefused = "tunnel_refused", Packet;

    /// Destinations handed to the kernel stack because they are this router's own addresses.
    StackLocal = "stack_local", Destination;
    /// Destinations handed to the kernel stack because no route matches.
    StackNoRoute = "stack_no_route", Destination;
    /// Destinations handed to the kernel stack because their route is `unreachable` or `prohibit`.
    StackUnreachable = "stack_unreachable", Destination;
    /// Destinations handed to the kernel stack because their next hop's link layer address is not known yet.
    StackNoNeighbour = "stack_no_neighbour", Destination;
    /// Destinations handed to the kernel stack because their route leaves by an interface that is not an Xcast port.
    StackNoPort = "stack_no_port", Destination;
    /// Destinations handed to the kernel stack because the copy exceeds the egress MTU.
    StackMtu = "stack_mtu", Destination;
    /// Destinations handed to the kernel stack because the route map has no room for the routes around them.
    StackNoRoom = "stack_no_room", Destination;
    /// Destinations handed to the kernel stack because no controller has kept the tables up to date for longer than
    /// `router.orphan_seconds`.
    StackOrphan = "stack_orphan", Destination;
    /// Destinations handed to the kernel stack because a policy rule, a VRF or an attribute of their route asks what only the kernel answers.
    StackPolicy = "stack_policy", Destination;

    /// Packets dropped: IP header with a version other than its EtherType's, or a length below 20 octets.
    DropIpHeader = "drop_ip_header", Packet;
    /// Packets dropped: wrong IP header checksum.
    DropIpChecksum = "drop_ip_checksum", Packet;
    /// Packets dropped: IP options.
    DropIpOptions = "drop_ip_options", Packet;
    /// Packets dropped: fragments, first ones included.
    DropFragment = "drop_fragment", Packet;
    /// Packets dropped: the frame or the IP length ends before the headers do.
    DropTruncated = "drop_truncated", Packet;
    /// Packets dropped: a routing header with segments left, which an Xcast6 header never has.
    DropSegmentsLeft = "drop_segments_left", Packet;
    /// Packets dropped: Xcast version other than 1.
    DropVersion = "drop_version", Packet;
    /// Packets dropped: the header's length does not fit the number of destinations and the flags.
    DropLength = "drop_length", Packet;
    /// Packets dropped: no destination in the list at all.
    DropNoDestinations = "drop_no_destinations", Packet;
    /// Packets dropped: wrong Xcast header checksum.
    DropChecksum = "drop_checksum", Packet;
    /// Packets dropped: Xcast inside Xcast, or inside UDP inside Xcast.
    DropNested = "drop_nested", Packet;
    /// Packets dropped: source is multicast, broadcast, loopback or unspecified.
    DropSource = "drop_source", Packet;
    /// Packets dropped: source is one of the router's own addresses, arriving from outside.
    DropSpoofed = "drop_spoofed", Packet;
    /// Packets dropped: source that the port of arrival does not permit, as a rule because the way back is another.
    DropReversePath = "drop_reverse_path", Packet;
    /// Packets dropped: the kernel forwards nothing that arrives on this port.
    DropNoForwarding = "drop_no_forwarding", Packet;
    /// Packets dropped: an ICMP request for several destinations, which would all answer its source.
    DropIcmpRequest = "drop_icmp_request", Packet;
    /// Packets dropped: more packets per second from one source than the limit.
    DropPacketLimit = "drop_packet_limit", Packet;
    /// Packets dropped: their copies would be more per second for one source than the limit.
    DropCopyLimit = "drop_copy_limit", Packet;
    /// Packets dropped: a datagram to the port for Xcast inside UDP without an Xcast packet for this router.
    DropUdpContent = "drop_udp_content", Packet;
    /// Packets dropped: a datagram to the port for Xcast inside UDP whose lengths contradict each other.
    DropUdpLength = "drop_udp_length", Packet;
    /// Packets dropped: Xcast inside UDP with a source that its sender may not use.
    DropUdpSource = "drop_udp_source", Packet;
    /// Packets dropped: congestion was experienced in a tunnel, and the packet inside cannot say so (RFC 6040 section 4.2).
    DropTunnelEcn = "drop_tunnel_ecn", Packet;
    /// Packets dropped: Xcast inside UDP with a cookie that is forged, expired, or somebody else's.
    DropCookie = "drop_cookie", Packet;
    /// Packets dropped: the port of arrival takes sources only that have proven their address, and this one has not.
    DropUnproven = "drop_unproven", Packet;
    /// Packets dropped: the driver has no room for a longer or shorter header.
    DropNoRoom = "drop_no_room", Packet;
    /// Packets dropped: the kernel refused the redirect.
    DropRedirect = "drop_redirect", Packet;
    /// Copies dropped: more per second for the kernel stack than the limit.
    DropStackLimit = "drop_stack_limit", Copy;
    /// Copies dropped: their forwarding plan was overwritten before they left.
    DropPlanLost = "drop_plan_lost", Copy;
    /// Copies dropped: between plan and copy, their next hop moved to another port, to the stack, or away.
    DropNextHop = "drop_next_hop", Copy;

    /// Destinations skipped: never a destination (multicast, broadcast, loopback, link-local, 0/8, 240/4).
    SkipNever = "skip_never", Destination;
    /// Destinations skipped: the same address and port came earlier in the list.
    SkipDuplicate = "skip_duplicate", Destination;
    /// Destinations skipped: TTL is used up.
    SkipTtl = "skip_ttl", Destination;
    /// Destinations skipped: the route is a blackhole.
    SkipBlackhole = "skip_blackhole", Destination;
    /// Destinations skipped: X is set and the next hop does not speak Xcast.
    SkipXIncapable = "skip_x_incapable", Destination;
    /// Destinations skipped: X is set and the copy exceeds the egress MTU.
    SkipXMtu = "skip_x_mtu", Destination;
    /// Destinations skipped: X is set and only the kernel stack could have forwarded it.
    SkipXStack = "skip_x_stack", Destination;
    /// Destinations skipped: the next-hop table is in an inconsistent state.
    SkipNextHop = "skip_next_hop", Destination;
}

impl Counter {
    /// The counter's stable name, for people and scripts.
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// Counters of one port, indexed by [`Counter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters {
    /// The counts; those past [`COUNT`] stay zero. A power of two,
    /// so that an index from a map can be masked instead of checked.
    pub counts: [u64; 64],
}

impl PortCounters {
    /// Counts one.
    #[inline(always)]
    pub fn bump(&mut self, counter: Counter) {
        self.tally().bump(counter);
    }

    /// Counts one, for a counter that was stored as its index.
    #[inline(always)]
    pub fn bump_index(&mut self, index: u8) {
        self.tally().bump_index(index);
    }

    /// The counters, to count in from several places.
    #[inline(always)]
    pub fn tally(&mut self) -> Tally<'_> {
        Tally(Cell::from_mut(&mut self.counts).as_array_of_cells())
    }
}

/// Counters of one port, to count in from several places: a copy may leave by the port that its packet arrived by.
#[derive(Clone, Copy)]
pub struct Tally<'a>(&'a [Cell<u64>; 64]);

impl Tally<'_> {
    /// The counters at an address.
    ///
    /// # Safety
    ///
    /// They must live for `'a`. Meanwhile, only this thread may use them, and only through tallies.
    #[inline(always)]
    pub unsafe fn of(counters: *mut PortCounters) -> Self {
        // SAFETY: a cell has the layout of what is in it, and the rest is the caller's promise.
        Self(unsafe { &*(&raw const (*counters).counts).cast() })
    }

    /// Counts one.
    #[inline(always)]
    pub fn bump(self, counter: Counter) {
        self.bump_index(counter as u8);
    }

    /// Counts one, for a counter that was stored as its index.
    #[inline(always)]
    pub fn bump_index(self, index: u8) {
        self.add_index(index, 1);
    }

    /// Counts several, for a counter that was stored as its index.
    #[inline(always)]
    pub fn add_index(self, index: u8, count: u64) {
        let counter = &self.0[index as usize & 63];
        counter.set(counter.get() + count);
    }
}

impl Default for PortCounters {
    fn default() -> Self {
        Self { counts: [0; 64] }
    }
}

const _: () = assert!(COUNT <= 64);
