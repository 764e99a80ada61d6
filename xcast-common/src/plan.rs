//! Look up every destination and group them into branches.
//!
//! A *branch* is one output copy: a next hop and the destinations behind it (RFC 5058 section 6).
//! All state is in a [`Plan`], which the kernel keeps in per-CPU memory: the copies' own program
//! runs later and reads from it what belongs to its branch.
//!
//! Cursors and counts are read and written volatile, on purpose: held in a register across a loop,
//! every value they can take would be a state of its own to the verifier.

use core::ptr::{from_mut, from_ref};

use crate::{
    counter::Counter,
    ingress::Packet,
    maps::{
        ECMP_BUCKETS, MAX_NEXT_HOPS, MAX_PORTS, NEXT_HOP_ON_LINK, NEXT_HOP_STACK_MTU,
        NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_STACK, PortCounters, Settings, SubsetKey,
    },
    view::View,
    wire::{
        Be16, Be32, FLAG_D, FLAG_P, FLAG_X, IPV4_LEN, MAX_DESTINATIONS, XCAST_AT, bitmap_words,
        ds_words, header_words, ipv4, transport, xcast,
    },
};

/// What a router knows: route map, next-hop and ECMP tables, own addresses.
pub trait Tables {
    /// Next-hop id of the longest matching prefix;
    /// [`NEXT_HOP_NO_ROUTE`](crate::maps::NEXT_HOP_NO_ROUTE) if none matches.
    fn route(&self, address: Be32) -> u32;

    /// The next hop with this id.
    fn next_hop(&self, id: u32) -> Option<&NextHop>;

    /// Next-hop id in a bucket of an ECMP group.
    fn ecmp_member(&self, group: u16, bucket: u32) -> Option<u32>;

    /// [`ADDRESS_OWN`](crate::maps::ADDRESS_OWN) and
    /// [`ADDRESS_ANYCAST`](crate::maps::ADDRESS_ANYCAST), or 0 for anyone else's address.
    fn address_flags(&self, address: Be32) -> u32;
}

/// No destination or branch: the end of a chain.
pub const NONE: u8 = 0xff;
/// Array size for destinations: a power of two, so that indices can be masked.
pub const DESTINATION_SLOTS: usize = 128;
/// Array size for branches: each destination may have been in a branch that was given up and then
/// in one of its own.
pub const BRANCH_SLOTS: usize = 256;

/// The forwarding decision for one packet.
#[repr(C)]
pub struct Plan {
    /// Serial number; a copy's metadata names it, so that a recycled plan is noticed.
    pub nonce: u32,
    /// Length of the IP packet as it arrived, in octets.
    pub total_len: u16,
    /// Length of the Xcast header as it arrived, in octets.
    pub header_len: u16,
    /// NBR_OF_DEST as it arrived.
    pub dest_count: u8,
    /// A, X, D, P.
    pub flags: u8,
    /// 1 if the IP destination has to become the group in copies that stay Xcast.
    pub to_own: u8,
    /// Branches in use, given-up ones included.
    pub branch_count: u8,
    /// Copies to make.
    pub copies: u8,
    /// The branch that was scheduled last.
    pub last_branch: u8,
    /// 1 if some next hop's MTU is below the packet's length.
    pub tight: u8,
    /// 1 if some branch was given up.
    pub gave_up: u8,
    /// First branch of each port; the chain goes on in `branch_next`. A copy takes the head of its
    /// port's chain and moves it on: copies on the same port are interchangeable.
    pub port_branch: [u8; MAX_PORTS],
    /// Number of copies per port.
    pub subset: SubsetKey,
    /// Bits of the destinations that are in a branch, in the order of the packet's bitmap.
    pub live: [u32; 4],
    /// Working memory of a pruned copy's bitmap.
    pub kept: [u32; 4],

    /// Destination addresses; zero where nothing is to be done.
    pub address: [Be32; DESTINATION_SLOTS],
    /// Destination ports (P), else zero.
    pub port: [Be16; DESTINATION_SLOTS],
    /// DS bytes (D), else zero.
    pub ds: [u8; DESTINATION_SLOTS],
    /// Previous destination of the same branch, or [`NONE`].
    pub previous: [u8; DESTINATION_SLOTS],
    /// Branch of each destination.
    pub branch: [u8; DESTINATION_SLOTS],
    /// Where each destination is in the duplicate check's table.
    pub seen_at: [u16; DESTINATION_SLOTS],

    /// Next-hop id of each branch.
    pub branch_next_hop: [u16; BRANCH_SLOTS],
    /// Last destination of each branch; the chain goes on in `previous`.
    pub branch_last: [u8; BRANCH_SLOTS],
    /// Number of destinations of each branch; 0 for a branch that was given up.
    pub branch_len: [u8; BRANCH_SLOTS],
    /// Next branch on the same port, or [`NONE`].
    pub branch_next: [u8; BRANCH_SLOTS],
    /// Port of each branch.
    pub branch_port: [u8; BRANCH_SLOTS],
    /// Counter of a branch that goes to the kernel stack, or [`NONE`].
    pub branch_reason: [u8; BRANCH_SLOTS],
}

const _: () = {
    assert!(size_of::<Plan>().is_multiple_of(8));
    assert!(MAX_PORTS.is_multiple_of(8));
};

/// Slots of the duplicate check's table; sparse, so that probing stays short.
const SEEN_SLOTS: usize = 4096;
/// Probes before the duplicate check gives up on an entry, which a repeat of it then survives. The
/// hash is keyed; for some entry of a list of 127 different ones the odds are 10^-4, for a list of
/// 40 below 10^-7.
const SEEN_PROBES: usize = 4;

/// Tables that remember nothing from packet to packet and are never cleared: an entry counts only
/// where the plan confirms it (a sparse set).
#[repr(C)]
pub struct Scratch {
    /// Branch by next-hop id.
    pub branch_of: [u8; MAX_NEXT_HOPS as usize],
}

/// Destination by hash of address and port; see [`Scratch`].
#[repr(C)]
pub struct Seen {
    slots: [u8; SEEN_SLOTS],
}

#[cfg(any(test, feature = "user"))]
impl Plan {
    /// A plan for the host: zeroed, on the heap.
    pub fn boxed() -> std::boxed::Box<Self> {
        // SAFETY: integers only; zero is a value of each.
        unsafe { std::boxed::Box::new_zeroed().assume_init() }
    }
}

#[cfg(any(test, feature = "user"))]
impl Scratch {
    /// For the host: zeroed, on the heap.
    pub fn boxed() -> std::boxed::Box<Self> {
        // SAFETY: integers only; zero is a value of each.
        unsafe { std::boxed::Box::new_zeroed().assume_init() }
    }
}

#[cfg(any(test, feature = "user"))]
impl Seen {
    /// For the host: zeroed, on the heap.
    pub fn boxed() -> std::boxed::Box<Self> {
        // SAFETY: integers only; zero is a value of each.
        unsafe { std::boxed::Box::new_zeroed().assume_init() }
    }
}

/// Reads a field that lives in the plan, not in a register.
#[inline(always)]
pub fn fresh<T: Copy>(field: &T) -> T {
    // SAFETY: a valid reference.
    unsafe { from_ref(field).read_volatile() }
}

#[inline(always)]
fn store<T>(field: &mut T, value: T) {
    // SAFETY: a valid reference.
    unsafe { from_mut(field).write_volatile(value) }
}

impl Plan {
    /// Starts a plan for an accepted packet.
    #[inline(always)]
    pub fn begin(&mut self, packet: &Packet, nonce: u32) {
        self.nonce = nonce;
        self.total_len = packet.total_len;
        self.header_len = packet.header_len;
        store(&mut self.dest_count, packet.dest_count);
        store(&mut self.flags, packet.flags);
        self.to_own = packet.to_own as u8;
        store(&mut self.branch_count, 0);
        store(&mut self.copies, 0);
        self.last_branch = NONE;
        self.tight = 0;
        self.gave_up = 0;
        self.port_branch = [NONE; MAX_PORTS];
        self.subset = SubsetKey::EMPTY;
        self.live = [0; 4];
    }

    /// Whether all of `flags` are set in the packet.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        fresh(&self.flags) & flags == flags
    }

    /// Length of an Xcast copy with `count` destinations as an IP packet, in octets.
    #[inline(always)]
    fn truncated_len(&self, count: u32) -> u32 {
        u32::from(self.total_len) - u32::from(self.header_len)
            + 4 * header_words(count, fresh(&self.flags))
    }

    /// Length of an X2U copy as an IP packet, in octets.
    #[inline(always)]
    fn unicast_len(&self) -> u32 {
        u32::from(self.total_len) - u32::from(self.header_len)
    }

    /// Opens a branch with destination `i` as its only one.
    #[inline(always)]
    fn open(&mut self, i: usize, decision: Decision) -> usize {
        let b = fresh(&self.branch_count) as usize;
        store(&mut self.branch_count, b as u8 + 1);
        self.branch_next_hop[b] = decision.id as u16;
        self.branch_last[b] = i as u8;
        self.branch_len[b] = 1;
        self.branch_port[b] = decision.port;
        self.branch_reason[b] = decision.reason;
        self.previous[i] = NONE;
        self.branch[i] = b as u8;
        self.live[i >> 5] |= bit(i);
        b
    }

    /// Adds destination `i` to branch `b`.
    #[inline(always)]
    fn join(&mut self, i: usize, b: usize) {
        self.previous[i] = self.branch_last[b];
        self.branch_last[b] = i as u8;
        self.branch_len[b] += 1;
        self.branch[i] = b as u8;
        self.live[i >> 5] |= bit(i);
    }

    /// Puts branch `b` on its port's chain.
    #[inline(always)]
    fn schedule(&mut self, b: usize) {
        let port = fresh(&self.branch_port[b]) as usize;
        if port >= MAX_PORTS {
            return;
        }
        self.branch_next[b] = self.port_branch[port];
        self.port_branch[port] = b as u8;
        self.subset.copies[port] += 1;
        store(&mut self.last_branch, b as u8);
        let copies = fresh(&self.copies);
        store(&mut self.copies, copies + 1);
    }

    /// Takes the next branch off a port's chain: the one this copy is for.
    #[inline(always)]
    pub fn take(&mut self, port: u8) -> Option<u8> {
        let head = self.port_branch.get_mut(port as usize)?;
        let b = fresh(head);
        if b == NONE {
            return None;
        }
        store(head, fresh(&self.branch_next[b as usize]));
        Some(b)
    }
}

/// Bit of destination `i` in its bitmap word.
#[inline(always)]
fn bit(i: usize) -> u32 {
    0x8000_0000 >> (i & 31)
}

/// Per-packet facts that every destination needs.
#[derive(Clone, Copy)]
struct Common {
    ttl_spent: bool,
    bucket: u32,
    prune_bitmap: bool,
}

/// What grouping writes to.
pub struct Memory<'a> {
    /// The packet's plan, begun.
    pub plan: &'a mut Plan,
    /// Branch by next hop.
    pub scratch: &'a mut Scratch,
    /// Destination by hash.
    pub seen: &'a mut Seen,
}

/// Looks up all destinations of an accepted packet and groups them: fills the plan, after
/// [`Plan::begin`]. Skipped destinations are counted in `counters`. `None` if the frame is shorter
/// than it was when it was accepted.
#[inline(always)]
pub fn group(
    view: View,
    packet: &Packet,
    settings: &Settings,
    tables: &impl Tables,
    memory: Memory<'_>,
    counters: &mut PortCounters,
) -> Option<()> {
    let Memory {
        plan,
        scratch,
        seen,
    } = memory;
    let common = Common {
        ttl_spent: packet.ttl <= 1,
        bucket: flow_hash(view, packet)? % ECMP_BUCKETS as u32,
        prune_bitmap: settings.prune == crate::maps::Prune::Bitmap as u8,
    };
    for i in 0..MAX_DESTINATIONS {
        if i >= fresh(&plan.dest_count) as usize {
            break;
        }
        let skip = match read_destination(view, plan, i)? {
            false => NONE,
            true => place(plan, i, common, settings, tables, scratch, seen),
        };
        if skip != NONE {
            counters.bump_index(skip);
            plan.address[i] = Be32::default();
        }
    }
    for b in 0..MAX_DESTINATIONS {
        if b >= fresh(&plan.branch_count) as usize {
            break;
        }
        if plan.tight != 0 && exceeds_mtu(plan, b, common.prune_bitmap, tables) {
            plan.branch_len[b] = 0;
            plan.gave_up = 1;
        } else {
            plan.schedule(b);
        }
    }
    if plan.gave_up != 0 {
        give_up(plan, settings, seen, counters);
    }
    Some(())
}

/// Copies destination `i` into the plan; `Some(false)` if its bit is clear, `None` if it lies
/// outside the frame.
#[inline(always)]
fn read_destination(view: View, plan: &mut Plan, i: usize) -> Option<bool> {
    let word = view.be32(xcast::BITMAP + 4 * (i >> 5))?.value();
    if word & bit(i) == 0 {
        plan.address[i] = Be32::default();
        return Some(false);
    }
    let count = u32::from(fresh(&plan.dest_count));
    let flags = fresh(&plan.flags);
    let list = xcast::BITMAP + 4 * bitmap_words(count) as usize;
    plan.address[i] = view.be32(list + 4 * i)?;
    let after = list + 4 * count as usize;
    plan.ds[i] = if flags & FLAG_D != 0 {
        view.u8(after + i)?
    } else {
        0
    };
    plan.port[i] = if flags & FLAG_P != 0 {
        view.be16(after + 4 * ds_words(count, flags) as usize + 2 * i)?
    } else {
        Be16::default()
    };
    Some(true)
}

/// What to do with one destination.
#[derive(Clone, Copy)]
struct Decision {
    /// Counter of a destination that is skipped, else [`NONE`].
    skip: u8,
    /// Counter of a destination that goes to the kernel stack, else [`NONE`].
    reason: u8,
    /// Port of its copy.
    port: u8,
    /// 1 if it may share a copy with others behind the same next hop.
    shared: u8,
    /// Next-hop id.
    id: u32,
}

impl Decision {
    #[inline(always)]
    fn skip(counter: Counter) -> Self {
        Self::skip_index(counter as u8)
    }

    #[inline(always)]
    fn skip_index(skip: u8) -> Self {
        Self {
            skip,
            reason: NONE,
            port: 0,
            shared: 0,
            id: 0,
        }
    }

    #[inline(always)]
    fn to_stack(id: u32, reason: u8) -> Self {
        Self {
            skip: NONE,
            reason,
            port: PORT_STACK,
            shared: 0,
            id,
        }
    }
}

/// Puts destination `i` into a branch; [`NONE`], or the counter that says why not.
#[inline(always)]
fn place(
    plan: &mut Plan,
    i: usize,
    common: Common,
    settings: &Settings,
    tables: &impl Tables,
    scratch: &mut Scratch,
    seen: &mut Seen,
) -> u8 {
    let decision = decide(plan, plan.address[i], common, tables);
    if decision.skip != NONE {
        return decision.skip;
    }
    if decision.shared == 0 {
        return alone(plan, i, settings, seen, decision);
    }
    let known = &mut scratch.branch_of[decision.id as usize % MAX_NEXT_HOPS as usize];
    let b = fresh(known) as usize;
    if b < fresh(&plan.branch_count) as usize && plan.branch_next_hop[b] == decision.id as u16 {
        plan.join(i, b);
    } else {
        *known = plan.open(i, decision) as u8;
    }
    NONE
}

/// Looks a destination up. The order of the checks is the order of their precedence.
#[inline(always)]
fn decide(plan: &mut Plan, address: Be32, common: Common, tables: &impl Tables) -> Decision {
    let mut id = tables.route(address);
    let Some(mut next_hop) = tables.next_hop(id) else {
        return Decision::skip(Counter::SkipNextHop);
    };
    if next_hop.kind == NextHopKind::Ecmp as u8 {
        // The bucket depends on the flow, not on the destination: destinations behind the same
        // multipath route share one copy.
        let Some(member) = tables.ecmp_member(next_hop.ecmp_group, common.bucket) else {
            return Decision::skip(Counter::SkipNextHop);
        };
        id = member;
        let Some(member) = tables.next_hop(id) else {
            return Decision::skip(Counter::SkipNextHop);
        };
        next_hop = member;
    }
    let must_stay_xcast = plan.has(FLAG_X);

    if next_hop.kind == NextHopKind::Skip as u8 {
        return Decision::skip_index(next_hop.reason);
    }
    if next_hop.kind == NextHopKind::Stack as u8 {
        if must_stay_xcast && next_hop.reason != Counter::StackLocal as u8 {
            return Decision::skip(Counter::SkipXStack);
        }
        return Decision::to_stack(id, next_hop.reason);
    }
    if next_hop.kind != NextHopKind::Forward as u8 {
        return Decision::skip(Counter::SkipNextHop);
    }
    let shared = next_hop.flags & (NEXT_HOP_XCAST | NEXT_HOP_ON_LINK) == NEXT_HOP_XCAST;
    if common.ttl_spent {
        return Decision::skip(Counter::SkipTtl);
    }
    if !shared && must_stay_xcast && next_hop.flags & NEXT_HOP_ON_LINK == 0 {
        return Decision::skip(Counter::SkipXIncapable);
    }
    if shared {
        // How long the copy becomes is known when its list is.
        if next_hop.mtu_bytes < plan.total_len {
            plan.tight = 1;
        }
    } else {
        let len = if !must_stay_xcast {
            plan.unicast_len()
        } else if common.prune_bitmap {
            u32::from(plan.total_len)
        } else {
            plan.truncated_len(1)
        };
        if len > u32::from(next_hop.mtu_bytes) {
            return if must_stay_xcast {
                Decision::skip(Counter::SkipXMtu)
            } else {
                Decision::to_stack(NEXT_HOP_STACK_MTU, Counter::StackMtu as u8)
            };
        }
    }
    Decision {
        skip: NONE,
        reason: NONE,
        port: next_hop.port,
        shared: shared as u8,
        id,
    }
}

/// Gives destination `i` a copy of its own, unless the same address and port had one already.
#[inline(always)]
fn alone(
    plan: &mut Plan,
    i: usize,
    settings: &Settings,
    seen: &mut Seen,
    decision: Decision,
) -> u8 {
    if is_repeat(plan, i, settings, seen) {
        return Counter::SkipDuplicate as u8;
    }
    plan.open(i, decision);
    NONE
}

/// Whether a destination before `i` that has a copy of its own has the same address and port;
/// remembers `i` if not.
#[inline(always)]
fn is_repeat(plan: &mut Plan, i: usize, settings: &Settings, seen: &mut Seen) -> bool {
    let address = plan.address[i];
    let port = plan.port[i];
    let entry = u64::from(address.memory()) << 16 | u64::from(port.memory());
    // Multiplying by a secret odd number and keeping the high bits is universal hashing.
    let hash = entry.wrapping_mul(settings.hash_key | 1) >> 40;
    for probe in 0..SEEN_PROBES {
        let slot = (hash as usize + probe) % SEEN_SLOTS;
        let j = seen.slots[slot] as usize % DESTINATION_SLOTS;
        // Only what this very packet wrote there counts.
        if j >= i || fresh(&plan.seen_at[j]) as usize != slot || plan.address[j] == Be32::default()
        {
            seen.slots[slot] = i as u8;
            store(&mut plan.seen_at[i], slot as u16);
            return false;
        }
        if plan.address[j] == address && plan.port[j] == port {
            return true;
        }
    }
    false
}

/// Whether the copy for branch `b` exceeds its next hop's MTU.
#[inline(always)]
fn exceeds_mtu(plan: &Plan, b: usize, prune_bitmap: bool, tables: &impl Tables) -> bool {
    let Some(next_hop) = tables.next_hop(u32::from(plan.branch_next_hop[b])) else {
        return false;
    };
    if next_hop.flags & (NEXT_HOP_XCAST | NEXT_HOP_ON_LINK) != NEXT_HOP_XCAST {
        // Single destinations were checked when they were placed.
        return false;
    }
    let count = u32::from(plan.branch_len[b]);
    let len = if count == 1 && !plan.has(FLAG_X) {
        plan.unicast_len()
    } else if prune_bitmap {
        u32::from(plan.total_len)
    } else {
        plan.truncated_len(count)
    };
    len > u32::from(next_hop.mtu_bytes)
}

/// Hands the destinations of given-up branches to the kernel stack, which fragments or answers;
/// with X set, skips them.
#[inline(always)]
fn give_up(plan: &mut Plan, settings: &Settings, seen: &mut Seen, counters: &mut PortCounters) {
    for i in 0..MAX_DESTINATIONS {
        if i >= fresh(&plan.dest_count) as usize {
            break;
        }
        if plan.address[i] == Be32::default() {
            continue;
        }
        let b = fresh(&plan.branch[i]) as usize;
        if plan.branch_len[b] != 0 {
            continue;
        }
        plan.live[i >> 5] &= !bit(i);
        let skip = if plan.has(FLAG_X) {
            Counter::SkipXMtu as u8
        } else {
            let to_stack = Decision::to_stack(NEXT_HOP_STACK_MTU, Counter::StackMtu as u8);
            alone(plan, i, settings, seen, to_stack)
        };
        if skip != NONE {
            counters.bump_index(skip);
            continue;
        }
        let b = fresh(&plan.branch[i]) as usize;
        plan.schedule(b);
    }
}

/// Hash of what makes a flow, the destination left out.
#[inline(always)]
fn flow_hash(view: View, packet: &Packet) -> Option<u32> {
    let protocol = view.u8(xcast::PROTOCOL)?;
    let mut flow = u64::from(view.be32(ipv4::SOURCE)?.memory()) << 32
        | u64::from(view.be32(xcast::CHANNEL)?.memory());
    flow ^= u64::from(protocol) << 24;
    let with_ports = matches!(
        protocol,
        transport::TCP | transport::UDP | transport::DCCP | transport::UDP_LITE
    );
    if with_ports && packet.total_len >= IPV4_LEN as u16 + packet.header_len + 2 {
        let source_port = view.be16(XCAST_AT + (packet.header_len as usize & 0x3ff))?;
        flow ^= u64::from(source_port.memory());
    }
    // Fibonacci hashing; the high half has seen every bit.
    Some((flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32)
}
