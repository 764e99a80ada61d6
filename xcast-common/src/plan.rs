//! Look up every destination and group them into branches.
//!
//! A *branch* is one output copy: a next hop and the destinations behind it (RFC 5058 section 6).
//! Grouping goes in passes, each a loop with a small body, which suits the processor (independent
//! look-ups overlap) as well as the verifier:
//!
//! 1. read the list and start to look every destination up;
//! 2. collect destinations with the same next hop into a branch;
//! 3. decide, once per branch, what becomes of it: a copy, the kernel stack, nothing;
//! 4. only where a branch's destinations cannot share a copy: a branch of its own for each.
//!
//! All state is in a [`Plan`], which the kernel keeps in per-CPU memory: the copies' own program
//! runs later and reads from it what belongs to its branch.
//!
//! Cursors and counts are read and written volatile, on purpose: held in a register across a loop,
//! every value they can take would be a state of its own to the verifier.

use crate::{
    address::Address as _,
    counter::Counter,
    family::{Family, V4, V6},
    ingress::Packet,
    maps::{
        ECMP_BUCKETS, MAX_NEXT_HOPS, MAX_PORTS, NEXT_HOP_ON_LINK, NEXT_HOP_STACK_MTU,
        NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_STACK, PortCounters, Prune, Settings, SubsetKey,
    },
    recent::Recent,
    trie::{Entry, LookUps, Reader},
    view::{Frame, View, store},
    wire::{Be16, FLAG_D, FLAG_P, FLAG_X, transport},
};

pub use crate::view::fresh;

/// What a router knows of a family: route map, next-hop and ECMP tables, own addresses.
pub trait Tables<F: Family> {
    /// Next-hop id of the longest matching prefix;
    /// [`NEXT_HOP_NO_ROUTE`](crate::maps::NEXT_HOP_NO_ROUTE) if none matches.
    fn route(&self, address: F::Address) -> u32;

    /// Another one after each change of routes, next hops or ECMP groups, and odd during one; where there are no
    /// changes, always the same.
    fn revision(&self) -> u32 {
        0
    }

    /// First step of [`route`](Self::route), for addresses in a row. Tables may do everything in
    /// this step; where they do not, [`go_on`](Self::go_on) has to do the others.
    fn route_entry(&self, address: F::Address) -> Entry {
        Entry::route(self.route(address), 0)
    }

    /// All further steps, for a packet whose destinations have taken the first: calls
    /// [`Work::step`] until nothing is left to be done.
    fn go_on(&self, _plan: &Plan<F>, _work: &mut Work) {}

    /// The next hop with this id.
    fn next_hop(&self, id: u32) -> Option<&NextHop>;

    /// Next-hop id in a bucket of an ECMP group.
    fn ecmp_member(&self, group: u16, bucket: u32) -> Option<u32>;

    /// [`ADDRESS_OWN`](crate::maps::ADDRESS_OWN) and
    /// [`ADDRESS_ANYCAST`](crate::maps::ADDRESS_ANYCAST), or 0 for anyone else's address.
    fn address_flags(&self, address: F::Address) -> u32;
}

/// No destination or branch: the end of a chain.
pub const NONE: u8 = 0xff;
/// Array size for destinations: a power of two, so that indices can be masked.
pub const DESTINATION_SLOTS: usize = 128;
/// Array size for branches: each destination may have been in a branch that was split and then in
/// one of its own.
pub const BRANCH_SLOTS: usize = 256;

/// Port of a branch that makes no copy: its destinations are skipped.
const PORT_NOWHERE: u8 = 0xff;
/// Port of a branch that was split into one for each of its destinations.
const PORT_SPLIT: u8 = 0xfe;

/// Alias of a branch whose copy leaves in this round.
const LEAVING: u16 = 0xffff;
/// Instead of a route, for a destination whose bit is clear.
const CLEARED: Entry = Entry::route(0xffff, 0);

/// A destination of the list.
#[repr(C)]
pub struct Destination<F: Family> {
    /// Its address.
    pub address: F::Address,
    /// Its port, where the packet has P; without, anything.
    pub port: Be16,
    /// Its DS byte, where the packet has D; without, anything.
    pub ds: u8,
    /// The destination before it in the same branch, or [`NONE`].
    pub previous: u8,
}

/// A branch: one output copy, unless it was split or comes to nothing.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Branch {
    /// Its next-hop id.
    pub next_hop: u16,
    /// The id that routes have for it: a multipath group's, or the same. Later whether it leaves in
    /// this round; see [`Plan::leave`].
    alias: u16,
    /// Its last destination; the chain goes on in [`Destination::previous`].
    pub last: u8,
    /// Number of its destinations.
    pub len: u8,
    /// The next branch on the same port; after the last one, the first.
    next: u8,
    /// Port that its copy leaves by; see [`Plan::copy_of`].
    pub port: u8,
}

/// The forwarding decision for one packet, or for several with the same list; see [`recent`](crate::recent).
#[repr(C)]
pub struct Plan<F: Family> {
    /// Serial number; a copy's [mark](crate::mark) names it, so that a recycled plan is noticed.
    pub nonce: u32,
    /// What [`Tables::revision`] was before the first look-up.
    pub(crate) revision: u32,
    /// Length of the IP packet as it arrived, in octets; a later one that goes by the plan may be shorter.
    pub total_len: u16,
    /// Length of the Xcast header as it arrived, in octets.
    pub header_len: u16,
    /// Length of other headers before it, in octets.
    pub(crate) before: u16,
    /// NBR_OF_DEST as it arrived.
    pub dest_count: u8,
    /// A, X, D, P.
    pub flags: u8,
    /// TTL or hop limit as it arrived.
    pub(crate) ttl: u8,
    /// Protocol of what follows the Xcast header.
    pub protocol: u8,
    /// 1 if the IP destination has to become the group in copies that stay Xcast.
    pub to_own: u8,
    /// Branches in use, with those that make no copy.
    pub branch_count: u8,
    /// Copies to make.
    pub copies: u8,
    /// The branch that was scheduled last.
    pub last_branch: u8,
    /// 1 if some branch has to be split.
    split: u8,
    /// First branch that came from splitting.
    split_from: u8,
    /// 1 if some copy is for several destinations.
    shared: u8,
    /// Where the checksum is that covers an X2U copy's destination, in octets behind the IP header; 0 if there is
    /// none.
    pub checksum_at: u8,
    /// 1 if the plan is of use to its own packet only.
    pub(crate) is_private: u8,
    /// 1 if more than one copy leaves by some port.
    pub(crate) crowded: u8,
    /// The bucket in which the packet's flow is, if some route has several paths; else [`NONE`].
    pub(crate) bucket: u8,
    /// Explicit padding.
    reserved: [u8; 3],
    /// Number of copies per port.
    pub subset: SubsetKey,
    /// First branch of each port that has copies; the others follow in a ring. A copy takes the head of its
    /// port's ring and moves it on: copies on the same port are interchangeable. Whoever uses the plan
    /// again finds any of them there, and has as many copies as there are.
    port_branch: [u8; MAX_PORTS],
    /// Branches.
    pub branches: [Branch; BRANCH_SLOTS],
    /// Destinations.
    pub destinations: [Destination<F>; DESTINATION_SLOTS],
    /// Branch of each destination, or [`NONE`].
    branch_of: [u8; DESTINATION_SLOTS],
    /// The bitmap as it arrived, in host byte order; of words that the header does not have, anything.
    pub(crate) bits: [u32; 4],
    /// The same of a pruned copy, while it is made.
    pub kept: [u32; 4],
}

const _: () = {
    assert!(size_of::<Plan<V4>>().is_multiple_of(8) && size_of::<Plan<V6>>().is_multiple_of(8));
    assert!(size_of::<Destination<V4>>() == 8 && size_of::<Destination<V6>>() == 24);
    assert!(size_of::<Branch>() == 8);
    assert!(MAX_PORTS.is_multiple_of(8));
};

/// Slots of the duplicate check's table; sparse, so that probing stays short.
const SEEN_SLOTS: usize = 4096;
/// What leaves of a product the bits that are a slot: the highest, which have seen all others.
const SEEN_SHIFT: u32 = u64::BITS - SEEN_SLOTS.ilog2();
/// Probes before the duplicate check gives up on an entry, which a repeat of it then survives. The
/// hash is keyed; for some entry of a list of 127 different ones the odds are 10^-4, for a list of
/// 40 below 10^-7.
const SEEN_PROBES: usize = 4;

/// Branch by next-hop id. Never cleared: an entry counts only where the plan confirms it (a sparse
/// set).
#[repr(C)]
pub struct Scratch {
    branch_of: [u8; MAX_NEXT_HOPS as usize],
}

impl Scratch {
    /// Perhaps the branch of routes with this next-hop id; see [`Plan::is_branch_of`].
    #[inline(always)]
    fn branch_of(&self, id: u16) -> u8 {
        fresh(&self.branch_of[id as usize % MAX_NEXT_HOPS as usize])
    }

    #[inline(always)]
    fn remember(&mut self, id: u16, b: u8) {
        store(&mut self.branch_of[id as usize % MAX_NEXT_HOPS as usize], b);
    }
}

/// What is only needed while a packet is grouped, and the serial number of its plan.
#[repr(C)]
pub struct Work {
    /// Serial number of the next plan, of [`mark::SERIAL_BITS`](crate::mark::SERIAL_BITS).
    pub serial: u32,
    /// See [`forget`](Self::forget).
    packet: Packet,
    /// Each destination's look-up.
    look_ups: LookUps<DESTINATION_SLOTS>,
    /// Each branch's next hop, until something has been decided about it.
    next_hops: [NextHop; DESTINATION_SLOTS],
    /// What becomes of the branch under consideration.
    verdict: Verdict,
    /// Where each destination is in `seen`.
    seen_at: [u16; DESTINATION_SLOTS],
    /// Destination by hash of address and port; like [`Scratch`], never cleared.
    seen: [u8; SEEN_SLOTS],
    /// Plans that may be used again.
    pub recent: Recent,
}

macro_rules! boxed {
    ($($ty:ty $(, $family:ident)?;)+) => {$(
        #[cfg(any(test, feature = "user"))]
        impl $(<$family: Family>)? $ty {
            /// For the host: zeroed, on the heap.
            pub fn boxed() -> std::boxed::Box<Self> {
                // SAFETY: integers only; zero is a value of each.
                unsafe { std::boxed::Box::new_zeroed().assume_init() }
            }
        }
    )+};
}

boxed! {
    Plan<F>, F;
    Scratch;
    Work;
}

impl Work {
    /// What comes before the Xcast header, unchanged. It goes through memory, where the verifier
    /// loses sight of it: else each way to get there would be a case of its own in everything that
    /// follows.
    #[inline(always)]
    pub fn forget_before(&mut self, before: u16) -> u16 {
        store(&mut self.packet.before, before);
        fresh(&self.packet.before)
    }

    /// The same for what is known of a packet.
    #[inline(always)]
    pub fn forget(&mut self, packet: Packet) -> Packet {
        store(&mut self.packet, packet);
        fresh(&self.packet)
    }

    /// The next step of the packet's look-ups, by this octet of its destinations; whether any is still
    /// not at its end.
    #[inline(always)]
    pub fn step<F: Family>(&mut self, plan: &Plan<F>, map: &impl Reader, octet: u32) -> bool {
        let count = move || fresh(&plan.dest_count) as usize;
        let address = move |i: usize| plan.destinations[i].address;
        self.look_ups.step(map, octet, count, address)
    }
}

impl<F: Family> Plan<F> {
    /// Starts a plan for an accepted packet.
    #[inline(always)]
    pub fn begin(&mut self, packet: &Packet, nonce: u32) {
        self.nonce = nonce;
        self.total_len = packet.total_len;
        self.header_len = packet.header_len;
        store(&mut self.before, packet.before);
        store(&mut self.dest_count, packet.dest_count);
        store(&mut self.flags, packet.flags);
        store(&mut self.ttl, packet.ttl);
        self.protocol = packet.protocol;
        self.to_own = packet.to_own as u8;
        store(&mut self.branch_count, 0);
        store(&mut self.copies, 0);
        self.last_branch = NONE;
        self.split = 0;
        self.shared = 0;
        self.checksum_at = F::checksum_at(packet);
        self.is_private = 0;
        self.crowded = 0;
        self.bucket = NONE;
        self.subset.clear();
    }

    /// Length of other headers before the Xcast header, in octets.
    #[inline(always)]
    pub fn before(&self) -> u16 {
        match F::VERSION {
            4 => 0,
            _ => fresh(&self.before),
        }
    }

    /// Whether all of `flags` are set in the packet.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        fresh(&self.flags) & flags == flags
    }

    /// Whether every copy becomes ordinary unicast.
    #[inline(always)]
    pub fn is_unicast(&self) -> bool {
        fresh(&self.shared) == 0 && !self.has(FLAG_X)
    }

    /// Branch `b`, if it makes a copy.
    #[inline(always)]
    pub fn copy_of(&self, b: u8) -> Option<&Branch> {
        let branch = &self.branches[b as usize];
        if b < fresh(&self.branch_count) && (fresh(&branch.port) as usize) < MAX_PORTS {
            Some(branch)
        } else {
            None
        }
    }

    /// The branch that serves destination `i`, if one does.
    #[inline(always)]
    pub fn served_by(&self, i: usize) -> Option<u8> {
        let b = fresh(&self.branch_of[i]);
        if b != NONE && (fresh(&self.branches[b as usize].port) as usize) < MAX_PORTS {
            Some(b)
        } else {
            None
        }
    }

    /// Length of an Xcast copy with `count` destinations as an IP packet, in octets.
    #[inline(always)]
    fn truncated_len(&self, count: u32) -> u32 {
        u32::from(self.total_len) - u32::from(self.header_len)
            + F::header_len(count, fresh(&self.flags))
    }

    /// Length of an X2U copy as an IP packet, in octets.
    #[inline(always)]
    fn unicast_len(&self) -> u32 {
        u32::from(self.total_len) - u32::from(self.header_len) - u32::from(self.before())
    }

    /// Opens a branch with destination `i` as its only one.
    #[inline(always)]
    fn open(&mut self, i: usize, next_hop: u16, alias: u16) -> u8 {
        let b = fresh(&self.branch_count);
        store(&mut self.branch_count, b.wrapping_add(1));
        self.branches[b as usize] = Branch {
            next_hop,
            alias,
            last: i as u8,
            len: 1,
            next: NONE,
            port: PORT_NOWHERE,
        };
        self.destinations[i].previous = NONE;
        self.branch_of[i] = b;
        b
    }

    /// Adds destination `i` to branch `b`.
    #[inline(always)]
    fn join(&mut self, i: usize, b: u8) {
        let branch = &mut self.branches[b as usize];
        self.destinations[i].previous = branch.last;
        branch.last = i as u8;
        branch.len += 1;
        self.branch_of[i] = b;
    }

    /// Whether `b` is the branch of routes with this next-hop id.
    #[inline(always)]
    fn is_branch_of(&self, b: u8, id: u16) -> bool {
        let branch = &self.branches[b as usize];
        b < fresh(&self.branch_count) && (branch.next_hop == id || branch.alias == id)
    }

    /// Puts branch `b` on a port's chain.
    #[inline(always)]
    fn schedule(&mut self, b: u8, port: u8) {
        store(&mut self.branches[b as usize].port, port);
        let at = port as usize;
        if at >= MAX_PORTS {
            return;
        }
        let copies = fresh(&self.subset.copies[at]);
        let mut next = b;
        // Heads are only set for ports with copies.
        if copies == 0 {
            self.port_branch[at] = b;
        } else {
            self.crowded = 1;
            let head = &mut self.branches[self.port_branch[at] as usize];
            next = head.next;
            head.next = b;
        }
        self.branches[b as usize].next = next;
        store(&mut self.subset.copies[at], copies + 1);
        store(&mut self.last_branch, b);
        let all = fresh(&self.copies);
        store(&mut self.copies, all + 1);
    }

    /// Whether the plan is of use to its own packet only.
    #[inline(always)]
    pub fn is_private(&self) -> bool {
        fresh(&self.is_private) != 0
    }

    /// Leaves destination `i` without a branch, which is counted for each packet.
    #[inline(always)]
    fn skip(&mut self, i: usize) {
        self.branch_of[i] = NONE;
        self.is_private = 1;
    }

    /// Gets ready for more than one round. Which of several copies by one port leave in the first is up to the packet,
    /// which then has to have the plan for itself.
    #[inline(always)]
    pub fn begin_rounds(&mut self) {
        self.is_private |= self.crowded;
    }

    /// Marks the branch whose copy leaves by a port in this round, while the rest comes round.
    #[inline(always)]
    pub fn leave(&mut self, port: u8) {
        if let Some(b) = self.first_on(port) {
            store(&mut self.branches[b as usize].alias, LEAVING);
        }
    }

    /// The first branch on a port.
    #[inline(always)]
    pub fn first_on(&self, port: u8) -> Option<u8> {
        let at = port as usize;
        if at >= MAX_PORTS || fresh(&self.subset.copies[at]) == 0 {
            return None;
        }
        Some(fresh(&self.port_branch[at]))
    }

    /// The branch after `b` on the same port; after the last one, the first.
    #[inline(always)]
    pub fn after(&self, b: u8) -> u8 {
        fresh(&self.branches[b as usize].next)
    }

    /// Whether destination `i` is served in a later round.
    #[inline(always)]
    pub fn stays(&self, i: usize) -> bool {
        let branch = self.served_by(i);
        branch.is_some_and(|b| fresh(&self.branches[b as usize].alias) != LEAVING)
    }

    /// Takes the next branch of a port: the one this copy is for.
    #[inline(always)]
    pub fn take(&mut self, port: u8) -> Option<u8> {
        let b = self.first_on(port)?;
        // The look-up above checked the port.
        store(
            &mut self.port_branch[port as usize % MAX_PORTS],
            fresh(&self.branches[b as usize].next),
        );
        Some(b)
    }
}

/// Bit of destination `i` in its bitmap word.
#[inline(always)]
pub(crate) fn bit(i: usize) -> u32 {
    0x8000_0000 >> (i & 31)
}

/// A word whose first `count` bits are set.
#[inline(always)]
pub(crate) fn leading_ones(count: u32) -> u32 {
    if count >= 32 {
        u32::MAX
    } else {
        !(u32::MAX >> count)
    }
}

/// What grouping writes to.
pub struct Memory<'a, F: Family> {
    /// The packet's plan, begun.
    pub plan: &'a mut Plan<F>,
    /// Branch by next hop.
    pub scratch: &'a mut Scratch,
    /// Working memory.
    pub work: &'a mut Work,
}

/// Looks up all destinations of an accepted packet and groups them: fills the plan, after
/// [`Plan::begin`]. Skipped destinations are counted in `counters`. `None` if the frame is shorter
/// than it was when it was accepted.
#[inline(always)]
pub fn group<F: Family>(
    frame: &mut impl Frame,
    packet: &Packet,
    settings: &Settings,
    tables: &impl Tables<F>,
    memory: Memory<'_, F>,
    counters: &mut PortCounters,
) -> Option<()> {
    let Memory {
        plan,
        scratch,
        work,
    } = memory;
    plan.revision = tables.revision();
    let bucket = bucket_of::<F>(frame.view(), packet)?;
    look_up(frame, plan, work, tables)?;
    collect(plan, work, scratch, tables, bucket, counters);
    decide(plan, work, settings, counters);
    if plan.split != 0 {
        split(plan, work, settings, tables, counters);
    }
    Some(())
}

/// Pass 1: reads the list and starts to look every destination up.
///
/// Takes a new view for every loop: what the verifier learned about the old one's range would be
/// another difference between cases.
#[inline(always)]
fn look_up<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    work: &mut Work,
    tables: &impl Tables<F>,
) -> Option<()> {
    // Whether any bit is clear, and whether any look-up takes more than one step.
    let mut cleared = 0;
    let mut unfinished = 0;
    each_bitmap_word(frame, plan, |plan, word, count, bits| {
        plan.bits[word] = bits;
        cleared |= bits ^ leading_ones(count.saturating_sub(32 * word as u32));
    })?;
    each_address(frame, plan, |plan, i, address| {
        unfinished |= start(plan, work, tables, i, address);
    })?;
    if Entry::from_word(unfinished).block().is_some() {
        tables.go_on(plan, work);
    }
    if cleared != 0 {
        for i in 0..F::MAX_DESTINATIONS {
            if i >= fresh(&plan.dest_count) as usize {
                break;
            }
            if fresh(&plan.bits[i >> 5]) & bit(i) == 0 {
                work.look_ups.set(i, CLEARED);
            }
        }
    }
    each_ds(frame, plan, |plan, i, ds| plan.destinations[i].ds = ds)?;
    each_port(frame, plan, |plan, i, port| {
        plan.destinations[i].port = port;
    })
}

/// Hands on each word of the bitmap, with its number and that of all destinations.
#[inline(always)]
pub(crate) fn each_bitmap_word<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    mut visit: impl FnMut(&mut Plan<F>, usize, u32, u32),
) -> Option<()> {
    let view = F::xcast(frame.view(), plan.before());
    for word in 0..4 {
        let count = u32::from(fresh(&plan.dest_count));
        if word < F::bitmap_words(count) as usize {
            visit(plan, word, count, view.be32(F::BITMAP + 4 * word)?.value());
        }
    }
    Some(())
}

/// Hands on each address of the list, with its number. Four at a time, so that what is begun with them overlaps.
#[inline(always)]
pub(crate) fn each_address<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    mut visit: impl FnMut(&mut Plan<F>, usize, F::Address),
) -> Option<()> {
    let before = plan.before();
    let view = F::xcast(frame.view(), before);
    for four in 0..DESTINATION_SLOTS / 4 {
        let count = fresh(&plan.dest_count);
        if 4 * four + 4 > count as usize {
            break;
        }
        let at = addresses_at::<F>(count) + F::Address::LEN * 4 * four;
        let addresses = F::Address::read4(view, at)?;
        for (n, address) in addresses.into_iter().enumerate() {
            visit(plan, 4 * four + n, address);
        }
    }
    let view = F::xcast(frame.view(), before);
    for n in 0..3 {
        let count = fresh(&plan.dest_count);
        let i = count as usize & (DESTINATION_SLOTS - 4) | n;
        if i >= count as usize {
            break;
        }
        let address = F::Address::read(view, addresses_at::<F>(count) + F::Address::LEN * i)?;
        visit(plan, i, address);
    }
    Some(())
}

/// The same for the DS bytes, if there are any.
#[inline(always)]
pub(crate) fn each_ds<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    visit: impl FnMut(&mut Plan<F>, usize, u8),
) -> Option<()> {
    let read = |_: &Plan<F>, view: View, count, i| view.u8(ds_at::<F>(count) + i);
    each_with(FLAG_D, frame, plan, read, visit)
}

/// The same for the ports, if there are any.
#[inline(always)]
pub(crate) fn each_port<F: Family>(
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    visit: impl FnMut(&mut Plan<F>, usize, Be16),
) -> Option<()> {
    let read = |plan: &Plan<F>, view: View, count, i| {
        view.be16(F::ports_at(u32::from(count), fresh(&plan.flags)) + 2 * i)
    };
    each_with(FLAG_P, frame, plan, read, visit)
}

/// Hands on what each destination of a list with a flag has besides its address; `read` is also given the list's view
/// and length, and the destination's number.
#[inline(always)]
fn each_with<F: Family, T>(
    flag: u8,
    frame: &mut impl Frame,
    plan: &mut Plan<F>,
    read: impl Fn(&Plan<F>, View, u8, usize) -> Option<T>,
    mut visit: impl FnMut(&mut Plan<F>, usize, T),
) -> Option<()> {
    if !plan.has(flag) {
        return Some(());
    }
    let view = F::xcast(frame.view(), plan.before());
    for i in 0..F::MAX_DESTINATIONS {
        let count = fresh(&plan.dest_count);
        if i >= count as usize {
            break;
        }
        let value = read(plan, view, count, i)?;
        visit(plan, i, value);
    }
    Some(())
}

/// The first step of destination `i`'s look-up, also where its bit is clear: a branch less, in the loop that waits
/// for memory. Returns the entry's word.
#[inline(always)]
fn start<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    tables: &impl Tables<F>,
    i: usize,
    address: F::Address,
) -> u32 {
    plan.destinations[i].address = address;
    let entry = tables.route_entry(address);
    work.look_ups.set(i, entry);
    entry.word()
}

/// Where the addresses of a list with `count` entries start.
#[inline(always)]
pub(crate) fn addresses_at<F: Family>(count: u8) -> usize {
    F::BITMAP + 4 * F::bitmap_words(u32::from(count)) as usize
}

/// Where the DS bytes of a list with `count` entries start.
#[inline(always)]
pub(crate) fn ds_at<F: Family>(count: u8) -> usize {
    addresses_at::<F>(count) + F::Address::LEN * count as usize
}

/// Pass 2: one branch for all destinations with the same next hop.
#[inline(always)]
fn collect<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    scratch: &mut Scratch,
    tables: &impl Tables<F>,
    bucket: u32,
    counters: &mut PortCounters,
) {
    for i in 0..F::MAX_DESTINATIONS {
        if i >= fresh(&plan.dest_count) as usize {
            break;
        }
        let entry = work.look_ups.entry(i);
        let id = entry.next_hop() as u16;
        if entry == CLEARED {
            plan.branch_of[i] = NONE;
            continue;
        }
        let known = scratch.branch_of(id);
        if plan.is_branch_of(known, id) {
            plan.join(i, known);
            continue;
        }
        let Some(next_hop) = tables.next_hop(u32::from(id)) else {
            plan.skip(i);
            counters.bump(Counter::SkipNextHop);
            continue;
        };
        if next_hop.kind != NextHopKind::Ecmp as u8 {
            let b = plan.open(i, id, id);
            next_hop.copy_to(&mut work.next_hops[b as usize % DESTINATION_SLOTS]);
            scratch.remember(id, b);
            continue;
        }
        plan.bucket = bucket as u8;
        // A member of the multipath group for this flow. The choice does not depend on the destination:
        // destinations behind the same multipath route share one copy.
        let group = next_hop.ecmp_group;
        let Some((member, next_hop)) = tables
            .ecmp_member(group, bucket)
            .and_then(|member| Some((member as u16, tables.next_hop(member)?)))
        else {
            plan.skip(i);
            counters.bump(Counter::SkipNextHop);
            continue;
        };
        let mut b = scratch.branch_of(member);
        if plan.is_branch_of(b, member) {
            plan.join(i, b);
        } else {
            b = plan.open(i, member, id);
            next_hop.copy_to(&mut work.next_hops[b as usize % DESTINATION_SLOTS]);
            scratch.remember(member, b);
        }
        scratch.remember(id, b);
    }
}

/// What becomes of a branch, as one number.
///
/// It goes through memory once, where the verifier loses sight of it: else each of the ways to a
/// verdict would be a case of its own in everything that follows.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Verdict(u32);

impl Verdict {
    /// Each destination needs a copy of its own.
    const SEPARATE: u32 = 1 << 16;
    /// The copy exceeds the egress MTU: the kernel stack fragments or answers.
    const OVERSIZE: u32 = 1 << 17;
    /// No copy; the number is a counter, not a port.
    const SKIP: u32 = 1 << 18;

    #[inline(always)]
    fn skip(counter: u8) -> Self {
        Self(Self::SKIP | counter as u32)
    }

    #[inline(always)]
    fn send(port: u8, how: u32) -> Self {
        Self(how | port as u32)
    }

    #[inline(always)]
    fn is(self, what: u32) -> bool {
        self.0 & what != 0
    }

    /// The port, or the counter.
    #[inline(always)]
    fn number(self) -> u8 {
        self.0 as u8
    }
}

/// Pass 3: decides what becomes of each branch.
#[inline(always)]
fn decide<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    settings: &Settings,
    counters: &mut PortCounters,
) {
    for b in 0..F::MAX_DESTINATIONS {
        if b >= fresh(&plan.branch_count) as usize {
            break;
        }
        let verdict = judge(plan, b, settings, &work.next_hops[b]);
        store(&mut work.verdict, verdict);
        let verdict = fresh(&work.verdict);
        let len = fresh(&plan.branches[b].len);
        if verdict.is(Verdict::SKIP) {
            counters.add_index(verdict.number(), u64::from(len));
            plan.is_private = 1;
            continue;
        }
        if verdict.is(Verdict::OVERSIZE) {
            plan.is_private = 1;
            plan.branches[b].next_hop = NEXT_HOP_STACK_MTU as u16;
        }
        if len > 1 {
            if verdict.is(Verdict::SEPARATE) {
                store(&mut plan.branches[b].port, PORT_SPLIT);
                plan.split = 1;
                continue;
            }
            plan.shared = 1;
        }
        plan.schedule(b as u8, verdict.number());
    }
}

/// The order of the checks is the order of their precedence.
#[inline(always)]
fn judge<F: Family>(plan: &Plan<F>, b: usize, settings: &Settings, next_hop: &NextHop) -> Verdict {
    let must_stay_xcast = plan.has(FLAG_X);
    if next_hop.kind != NextHopKind::Forward as u8 {
        if next_hop.kind == NextHopKind::Skip as u8 {
            return Verdict::skip(next_hop.reason);
        }
        if next_hop.kind != NextHopKind::Stack as u8 {
            return Verdict::skip(Counter::SkipNextHop as u8);
        }
        if must_stay_xcast && next_hop.reason != Counter::StackLocal as u8 {
            return Verdict::skip(Counter::SkipXStack as u8);
        }
        return Verdict::send(PORT_STACK, Verdict::SEPARATE);
    }
    if fresh(&plan.ttl) <= 1 {
        return Verdict::skip(Counter::SkipTtl as u8);
    }
    let on_link = next_hop.flags & NEXT_HOP_ON_LINK != 0;
    let shared = next_hop.flags & NEXT_HOP_XCAST != 0 && !on_link;
    if must_stay_xcast && !shared && !on_link {
        return Verdict::skip(Counter::SkipXIncapable as u8);
    }
    let count = if shared {
        u32::from(fresh(&plan.branches[b].len))
    } else {
        1
    };
    let len = if count == 1 && !must_stay_xcast {
        plan.unicast_len()
    } else if settings.prune == Prune::Bitmap as u8 {
        u32::from(plan.total_len)
    } else {
        plan.truncated_len(count)
    };
    if len > u32::from(next_hop.mtu_bytes) {
        if must_stay_xcast {
            return Verdict::skip(Counter::SkipXMtu as u8);
        }
        return Verdict::send(PORT_STACK, Verdict::SEPARATE | Verdict::OVERSIZE);
    }
    let how = if shared { 0 } else { Verdict::SEPARATE };
    Verdict::send(next_hop.port, how)
}

/// Pass 4: gives each destination of a split branch a copy of its own, unless the same address and
/// port had one already.
#[inline(always)]
fn split<F: Family>(
    plan: &mut Plan<F>,
    work: &mut Work,
    settings: &Settings,
    tables: &impl Tables<F>,
    counters: &mut PortCounters,
) {
    store(&mut plan.split_from, fresh(&plan.branch_count));
    for i in 0..F::MAX_DESTINATIONS {
        if i >= fresh(&plan.dest_count) as usize {
            break;
        }
        let b = fresh(&plan.branch_of[i]);
        if b == NONE || fresh(&plan.branches[b as usize].port) != PORT_SPLIT {
            continue;
        }
        if is_repeat(plan, i, settings, work) {
            counters.bump(Counter::SkipDuplicate);
            plan.skip(i);
            continue;
        }
        let id = fresh(&plan.branches[b as usize].next_hop);
        let own = plan.open(i, id, id);
        let port = match tables.next_hop(u32::from(id)) {
            Some(next_hop) => next_hop.port,
            None => PORT_NOWHERE,
        };
        plan.schedule(own, port);
    }
}

/// Whether a destination before `i` that came from splitting has the same address and port;
/// remembers `i` if not.
#[inline(always)]
fn is_repeat<F: Family>(plan: &Plan<F>, i: usize, settings: &Settings, work: &mut Work) -> bool {
    let destination = &plan.destinations[i];
    let port = u64::from(port_of(plan, i).memory());
    // Multiplying by secret odd numbers and keeping the high bits is universal hashing.
    let hash = destination.address.hash(settings.hash_key);
    let hash =
        hash.wrapping_add(port.wrapping_mul(settings.hash_key.rotate_left(42) | 1)) >> SEEN_SHIFT;
    for probe in 0..SEEN_PROBES {
        let slot = (hash as usize + probe) % SEEN_SLOTS;
        let j = fresh(&work.seen[slot]) as usize % DESTINATION_SLOTS;
        // Only what this very packet wrote there counts.
        let b = fresh(&plan.branch_of[j]);
        if j >= i
            || fresh(&work.seen_at[j]) as usize != slot
            || b == NONE
            || b < fresh(&plan.split_from)
        {
            store(&mut work.seen[slot], i as u8);
            store(&mut work.seen_at[i], slot as u16);
            return false;
        }
        let earlier = &plan.destinations[j];
        let other = u64::from(port_of(plan, j).memory());
        if earlier.address.difference(destination.address) | (other ^ port) == 0 {
            return true;
        }
    }
    false
}

/// The port of destination `i`; 0 if the packet has none.
#[inline(always)]
fn port_of<F: Family>(plan: &Plan<F>, i: usize) -> Be16 {
    if plan.has(FLAG_P) {
        plan.destinations[i].port
    } else {
        Be16::default()
    }
}

/// The bucket of multipath groups for what makes a flow, the destination left out.
#[inline(always)]
pub(crate) fn bucket_of<F: Family>(view: View, packet: &Packet) -> Option<u32> {
    let protocol = packet.protocol;
    let mut flow = F::flow(view, packet.before)? ^ u64::from(protocol) << 24;
    let with_ports = matches!(
        protocol,
        transport::TCP | transport::UDP | transport::DCCP | transport::UDP_LITE
    );
    if with_ports && packet.total_len >= F::IP_LEN as u16 + packet.before + packet.header_len + 2 {
        let view = F::xcast(view, packet.before);
        let transport_at = F::XCAST_AT + (packet.header_len as usize & F::LEN_MASK);
        flow ^= u64::from(view.be16(transport_at)?.memory());
    }
    // Fibonacci hashing; the high half has seen every bit.
    Some((flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % ECMP_BUCKETS as u32)
}
