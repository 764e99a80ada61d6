//! The kernel's maps as a router's tables.

use aya_ebpf::btf_maps::lpm_trie::Key;
use xcast_common::{
    family::{Family, V4, V6},
    forward::{
        plan::Plan,
        tables::{Tables, TunnelPeers, UdpSenders},
    },
    maps::{
        MAX_NEXT_HOPS, NextHop, PeerSource, PortMac, PortSource, TunnelCookies, TunnelPeer,
        lpm::{self, Entry, further_octets},
    },
    route_map,
    verifier::fresh,
    wire::address::Address as _,
};

use crate::maps::{
    ADDRESSES, ADDRESSES6, ECMP_GROUPS, NEXT_HOPS, PLANS, PLANS_PER_CPU, PLANS6, POLICY_SOURCES,
    POLICY_SOURCES6, PORT_MACS, PORT_SOURCES, PORT_SOURCES6, REVISION, ROUTE_BLOCKS, ROUTE_BLOCKS6,
    ROUTE_ROOT, ROUTE_ROOT6, ROUTE_SEGMENTS, ROUTE_SEGMENTS6, TUNNEL_PEERS, UDP_SOURCES,
    UDP_SOURCES6, USED, work,
};

/// A family with maps of its own.
pub trait FamilyMaps: Family {
    /// What its tables are.
    type Tables: Tables<Self> + UdpSenders<Self>;
    /// Its tables.
    const TABLES: Self::Tables;

    /// The plan with this serial number: this CPU's own. Whoever has it lets go of it before anyone asks for it again,
    /// and before [`finish_look_ups`](Self::finish_look_ups).
    fn plan<'a>(serial: u32) -> Option<&'a mut Plan<Self>>;

    /// All further steps of the look-ups of the packet at hand, whose destinations have taken the first.
    fn finish_look_ups();
}

/// The kernel's maps as a router's tables.
pub struct KernelTables;

macro_rules! tables {
    ($family:ty, $routes:ident: $root:ident, $segments:ident, $blocks:ident, $steps:ident, $step:ident;
     $addresses:ident, $sources:ident, $port_sources:ident, $policy:ident, $plans:ident) => {
        route_map!($routes: $root, $segments, $blocks);

        impl Tables<$family> for KernelTables {
            #[inline(always)]
            fn route(&self, address: <$family as Family>::Address) -> u32 {
                lpm::lookup(&$routes, address)
            }

            #[inline(always)]
            fn route_entry(&self, address: <$family as Family>::Address) -> Entry {
                lpm::first(&$routes, address)
            }

            #[inline(always)]
            fn revision(&self) -> u32 {
                REVISION.get(0).map_or(0, fresh)
            }

            #[inline(always)]
            fn next_hop(&self, id: u32) -> Option<&NextHop> {
                NEXT_HOPS.get(id)
            }

            #[inline(always)]
            fn note_use(&self, id: u32) {
                note_use(id);
            }

            #[inline(always)]
            fn ecmp_member(&self, group: u16, bucket: u32) -> Option<u32> {
                let group = ECMP_GROUPS.get(u32::from(group))?;
                group.buckets.get(bucket as usize).copied()
            }

            #[inline(always)]
            fn address_flags(&self, address: <$family as Family>::Address) -> u32 {
                // SAFETY: read at once; entries are only ever replaced whole.
                unsafe { $addresses.get(address) }.copied().unwrap_or(0)
            }

            #[inline(always)]
            fn may_arrive(&self, slot: u8, source: <$family as Family>::Address) -> bool {
                let slot = u32::from(slot);
                let key = Key::new(
                    PortSource::<<$family as Family>::Address>::BITS,
                    PortSource { slot, source },
                );
                $port_sources.get(&key).is_some()
            }

            #[inline(always)]
            fn is_port_mac(&self, mac: PortMac) -> bool {
                PORT_MACS.get_ptr(mac).is_some()
            }

            #[inline(always)]
            fn is_policy_source(&self, source: <$family as Family>::Address) -> bool {
                let bits = 8 * <$family as Family>::Address::LEN as u32;
                $policy.get(&Key::new(bits, source)).is_some()
            }
        }

        impl UdpSenders<$family> for KernelTables {
            #[inline(always)]
            fn may_send(
                &self,
                peer: <$family as Family>::Address,
                source: <$family as Family>::Address,
            ) -> bool {
                let key = Key::new(
                    PeerSource::<<$family as Family>::Address>::BITS,
                    PeerSource { peer, source },
                );
                $sources.get(&key).is_some()
            }
        }

        impl FamilyMaps for $family {
            type Tables = KernelTables;
            const TABLES: KernelTables = KernelTables;

            #[inline(always)]
            fn plan<'a>(serial: u32) -> Option<&'a mut Plan<Self>> {
                let plan = $plans.get_ptr_mut(serial % PLANS_PER_CPU)?;
                // SAFETY: this CPU's own, and nothing else refers to it, as said where this is declared.
                Some(unsafe { &mut *plan })
            }

            #[inline(always)]
            fn finish_look_ups() {
                $steps();
            }
        }

        /// All further steps of the look-ups of the packet at hand; returns the number of the last.
        ///
        /// A global function: the kernel verifies it by itself, and does not go on with each number of steps (Linux 5.6).
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $steps() -> u32 {
            for octet in further_octets::<<$family as Family>::Address>() {
                if $step(octet) == 0 {
                    return octet;
                }
            }
            0
        }

        /// One of these steps; 0 if it was the last.
        ///
        /// A global function as well: it is verified once, not again for each step and for each number of destinations. It
        /// may be given numbers only, and finds everything else anew.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $step(octet: u32) -> u32 {
            let Some(work) = work() else {
                return 0;
            };
            let Some(plan) = <$family>::plan(work.serial) else {
                return 0;
            };
            work.step(plan, &$routes, octet & 0xf) as u32
        }
    };
}

tables!(V4, Routes4: ROUTE_ROOT, ROUTE_SEGMENTS, ROUTE_BLOCKS, xcast_steps, xcast_step; ADDRESSES, UDP_SOURCES, PORT_SOURCES, POLICY_SOURCES, PLANS);
tables!(V6, Routes6: ROUTE_ROOT6, ROUTE_SEGMENTS6, ROUTE_BLOCKS6, xcast6_steps, xcast6_step; ADDRESSES6, UDP_SOURCES6, PORT_SOURCES6, POLICY_SOURCES6, PLANS6);

impl TunnelPeers for KernelTables {
    #[inline(always)]
    fn tunnel_cookies(&self, peer: &TunnelPeer) -> Option<TunnelCookies> {
        // SAFETY: read at once; entries are only ever replaced whole.
        unsafe { TUNNEL_PEERS.get(peer) }.copied()
    }
}

/// Notes the use of a next hop. Written only where it is news: other CPUs have the word in their caches.
#[inline(always)]
fn note_use(id: u32) {
    let Some(used) = USED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: within the map's only element. The controller and other CPUs write the same word, whole.
    unsafe {
        let word = (&raw mut (*used)[id as usize % MAX_NEXT_HOPS as usize]).cast::<u32>();
        if word.read_volatile() == 0 {
            word.write_volatile(1);
        }
    }
}
