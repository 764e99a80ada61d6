//! The decision for one list: its branches, and what belongs to each.

use crate::{
    family::{V4, V6, traits::Family},
    maps::{fanout::FanoutKey, port::MAX_PORTS},
    packet::Packet,
    verifier::{fresh, store},
    wire::{FLAG_X, endian::Be16},
};

/// No destination or branch: the end of a chain.
pub const NONE: u8 = 0xff;
/// Array size for destinations: a power of two, so that indices can be masked.
pub const DESTINATION_SLOTS: usize = 128;
/// Array size for branches: each destination may have been in a branch that was split and then in
/// one of its own.
pub const BRANCH_SLOTS: usize = 256;

/// Port of a branch that makes no copy: its destinations are skipped.
pub(super) const PORT_NOWHERE: u8 = 0xff;
/// Port of a branch that was split into one for each of its destinations.
pub(super) const PORT_SPLIT: u8 = 0xfe;

/// A destination of the list.
#[repr(C)]
pub struct Destination<F: Family> {
    /// Its address.
    pub address: F::Address,
    /// Its port; undefined unless the packet has P.
    pub port: Be16,
    /// Its DS byte; undefined unless the packet has D.
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
    pub(super) alias: u16,
    /// Its last destination; the chain goes on in [`Destination::previous`].
    pub last: u8,
    /// Number of its destinations.
    pub len: u8,
    /// The next branch on the same port; after the last one, the first.
    pub(super) next: u8,
    /// Port that its copy leaves by; see [`Plan::copy_of`].
    pub port: u8,
}

/// The forwarding decision for one packet, or for several with the same list; see [`Plan::applies`].
#[repr(C)]
pub struct Plan<F: Family> {
    /// Serial number; a copy's [mark](crate::forward::mark) names it, so that a recycled plan is noticed.
    pub serial: u32,
    /// What [`Tables::revision`](crate::forward::tables::Tables::revision) was before the first look-up.
    pub(super) revision: u32,
    /// The [bucket](crate::forward::limits::bucket_of) of whoever pays for the copies. Only a packet with the same one may
    /// reuse the plan, if there are copies for the kernel stack: what recirculates is charged for them by it.
    pub payer: u32,
    /// The packet as it arrived. One that reuses the plan differs at most in its `total_len`, which may be less; so
    /// no method of [`Family`] may read that.
    pub packet: Packet,
    /// Branches in use, including those that make no copy.
    pub branch_count: u8,
    /// Copies to make.
    pub copies: u8,
    /// The branch that was scheduled last.
    pub last_branch: u8,
    /// 1 if some branch has to be split.
    pub(super) split: u8,
    /// First branch that came from splitting.
    pub(super) split_from: u8,
    /// 1 if some copy stays an Xcast packet.
    pub(super) shared: u8,
    /// 1 if some copy leaves inside a tunnel.
    tunnelled: u8,
    /// Where the checksum is that covers an X2U copy's destination, in octets behind the IP header; 0 if there is
    /// none.
    pub checksum_at: u8,
    /// 1 if only the packet it was made for may use the plan.
    pub(super) is_private: u8,
    /// 1 if more than one copy leaves by some port.
    pub(super) crowded: u8,
    /// Copies for the kernel stack that this packet does not get; see [`Plan::bound_stack`].
    pub(super) refused: u8,
    /// The bucket in which the packet's flow is, if some route has several paths; else [`NONE`].
    pub(super) bucket: u8,
    /// One less than the least MTU, in octets, of the next hops that copies may leave by; 0xffff if there is none.
    pub(super) least_mtu_less_one: u16,
    /// Number of copies per port.
    pub fanout: FanoutKey,
    /// First branch of each port that has copies; the others follow in a ring. A copy takes the head of its
    /// port's ring and moves it on: copies on the same port are interchangeable. A packet that reuses
    /// the plan may find any of them at the head, and makes as many copies as there are.
    pub(super) port_branch: [u8; MAX_PORTS],
    /// Branches.
    pub branches: [Branch; BRANCH_SLOTS],
    /// Destinations.
    pub destinations: [Destination<F>; DESTINATION_SLOTS],
    /// Branch of each destination, or [`NONE`].
    pub(super) branch_of: [u8; DESTINATION_SLOTS],
    /// The bitmap as it arrived, in host byte order; words that the header does not have are undefined.
    pub(super) bits: [u32; 4],
    /// The bitmap of a pruned copy, while it is made.
    pub kept: [u32; 4],
}

const _: () = {
    assert!(size_of::<Plan<V4>>().is_multiple_of(8) && size_of::<Plan<V6>>().is_multiple_of(8));
    assert!(size_of::<Destination<V4>>() == 8 && size_of::<Destination<V6>>() == 24);
    assert!(size_of::<Branch>() == 8);
    assert!(MAX_PORTS.is_multiple_of(8));
};

macro_rules! boxed {
    ($($ty:ty $(, $family:ident)?;)+) => {$(
        #[cfg(any(test, feature = "host"))]
        impl $(<$family: Family>)? $ty {
            /// For the host: zeroed, on the heap.
            pub fn boxed() -> std::boxed::Box<Self> {
                // SAFETY: integers, and a `bool` in a `Packet`; zero is a value of each.
                unsafe { std::boxed::Box::new_zeroed().assume_init() }
            }
        }
    )+};
}

pub(super) use boxed;

boxed! {
    Plan<F>, F;
}

impl<F: Family> Plan<F> {
    /// Starts a plan for an accepted packet, and the bucket of whoever pays for it.
    #[inline(always)]
    pub fn begin(&mut self, packet: &Packet, payer: u32, serial: u32) {
        self.serial = serial;
        self.payer = payer;
        // Field by field: as a whole, LLVM would call `memcpy`.
        self.packet.total_len = packet.total_len;
        self.packet.header_len = packet.header_len;
        store(&mut self.packet.ext_len, packet.ext_len);
        store(&mut self.packet.dest_count, packet.dest_count);
        store(&mut self.packet.flags, packet.flags);
        store(&mut self.packet.ttl, packet.ttl);
        self.packet.protocol = packet.protocol;
        self.packet.to_own = packet.to_own;
        self.packet.is_verified = packet.is_verified;
        self.packet.arrival = packet.arrival;
        store(&mut self.packet.to_stack, packet.to_stack);
        store(&mut self.branch_count, 0);
        store(&mut self.copies, 0);
        self.last_branch = NONE;
        self.split = 0;
        self.shared = 0;
        store(&mut self.tunnelled, 0);
        self.checksum_at = F::checksum_at(packet);
        self.is_private = 0;
        self.crowded = 0;
        store(&mut self.refused, 0);
        self.bucket = NONE;
        store(&mut self.least_mtu_less_one, u16::MAX);
        self.fanout.clear();
    }

    /// Length of other headers before the Xcast header, in octets.
    #[inline(always)]
    pub fn ext_len(&self) -> u16 {
        F::ext_len(&self.packet)
    }

    /// Least MTU of the next hops that copies may leave by, in octets.
    #[inline(always)]
    pub fn least_mtu_bytes(&self) -> u32 {
        u32::from(fresh(&self.least_mtu_less_one)) + 1
    }

    /// Whether all of `flags` are set in the packet.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        fresh(&self.packet.flags) & flags == flags
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
    pub(super) fn truncated_len(&self, count: u32) -> u32 {
        u32::from(self.packet.total_len) - u32::from(self.packet.header_len)
            + F::header_len(count, fresh(&self.packet.flags))
    }

    /// Length of an X2U copy as an IP packet, in octets.
    #[inline(always)]
    pub(super) fn unicast_len(&self) -> u32 {
        u32::from(self.packet.total_len)
            - u32::from(self.packet.header_len)
            - u32::from(self.ext_len())
    }

    /// Notes whether a copy leaves inside a tunnel, as an Xcast packet: 1 or 0.
    #[inline(always)]
    pub(super) fn note_tunnel(&mut self, bit: u8) {
        let (shared, tunnelled) = (fresh(&self.shared), fresh(&self.tunnelled));
        store(&mut self.shared, shared | bit);
        store(&mut self.tunnelled, tunnelled | bit);
    }

    /// Whether some copy leaves inside a tunnel. It gets its outer headers where it leaves.
    #[inline(always)]
    pub fn is_tunnelled(&self) -> bool {
        fresh(&self.tunnelled) != 0
    }

    /// Opens a branch with destination `i` as its only one.
    #[inline(always)]
    pub(super) fn open(&mut self, i: usize, next_hop: u16, alias: u16) -> u8 {
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
    pub(super) fn join(&mut self, i: usize, b: u8) {
        let branch = &mut self.branches[b as usize];
        self.destinations[i].previous = branch.last;
        branch.last = i as u8;
        branch.len += 1;
        self.branch_of[i] = b;
    }

    /// Whether `b` is the branch of routes with this next-hop id.
    #[inline(always)]
    pub(super) fn is_branch_of(&self, b: u8, id: u16) -> bool {
        let branch = &self.branches[b as usize];
        b < fresh(&self.branch_count) && (branch.next_hop == id || branch.alias == id)
    }

    /// Whether only the packet it was made for may use the plan.
    #[inline(always)]
    pub fn is_private(&self) -> bool {
        fresh(&self.is_private) != 0
    }

    /// Leaves destination `i` without a branch, which is counted for each packet.
    #[inline(always)]
    pub(super) fn skip(&mut self, i: usize) {
        self.branch_of[i] = NONE;
        self.is_private = 1;
    }
}
