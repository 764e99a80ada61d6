//! What the programs know and remember. Unless said otherwise, the controller writes and the
//! programs read.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMap, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use xcast_common::{
    family::{V4, V6},
    forward::plan::{MAX_AGE, Plan, Scratch, Work},
    maps::{
        ARRIVAL_PROGRAMS, ARRIVAL_TUNNEL, Bucket, COOKIE_KEYS as COOKIE_KEY_COUNT, CookieKey,
        EcmpGroup, FanoutEntry, FanoutKey, GENERATIONS, GROUP_PRESETS, LIMIT_BUCKETS,
        MAX_ECMP_GROUPS, MAX_FANOUTS, MAX_NEXT_HOPS, MAX_OWN_ADDRESSES, MAX_POLICY_SOURCES,
        MAX_PORT_MACS, MAX_PORT_SOURCES, MAX_PORTS, MAX_TUNNEL_PEERS, MAX_TUNNELS, MAX_UDP_SOURCES,
        NEXT_HOP_ENTRIES, NextHop, PORT_PLACES, PORT_TABLE_ENTRIES, PRESET_FANOUTS, PeerSource,
        Port, PortCounters, PortMac, PortSource, SLOT_GROUPS, Settings, Tally, Tunnel,
        TunnelCookies, TunnelPeer,
        counter::Counter,
        lpm::{MAX_POOLS, POOL_ENTRIES, ROOT_ENTRIES, ROOT_ENTRIES6, SEGMENT_ENTRIES},
        port_place,
    },
    wire::{Be16, Be32, Be128},
};

/// Plans kept per CPU. A plan must live until the driver's bulk queues are flushed, at the end of
/// the poll in which its packet arrived: 64 packets at most, and it may not have been new by then.
pub const PLANS_PER_CPU: u32 = 128;
const _: () = assert!(PLANS_PER_CPU >= MAX_AGE + 64);

/// Constants, set while the programs are loaded.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    group: Be32::new(0),
    protocol: 0,
    prune: 0,
    udp_port: Be16::new(0),
    hash_key: 0,
    mark: 0,
    group6: Be128::new(0),
    routing_type: 0,
    ports_option: 0,
    ipv6: 0,
    icmp_requests: 0,
    stack_copy_ns: 0,
    tunnels: 0,
    reserved: [0; 7],
};

/// BPF_F_MMAPABLE: the controller writes entries through memory it shares with the programs.
const MMAPABLE: usize = 1 << 10;

/// The route map's root. One element, since elements are padded to eight octets.
#[btf_map]
pub static ROUTE_ROOT: Array<[u32; ROOT_ENTRIES], 1, MMAPABLE> = Array::new();

/// The route map's segments, by an address's first bits.
#[btf_map]
pub static ROUTE_SEGMENTS: ArrayOfMaps<Array<[u32; SEGMENT_ENTRIES], 1, MMAPABLE>, ROOT_ENTRIES> =
    ArrayOfMaps::new();

/// The route map's blocks, a pool of them per map.
#[btf_map]
pub static ROUTE_BLOCKS: ArrayOfMaps<Array<[u32; POOL_ENTRIES], 1, MMAPABLE>, MAX_POOLS> =
    ArrayOfMaps::new();

/// The same for IPv6.
#[btf_map]
pub static ROUTE_ROOT6: Array<[u32; ROOT_ENTRIES6], 1, MMAPABLE> = Array::new();

/// The same for IPv6.
#[btf_map]
pub static ROUTE_SEGMENTS6: ArrayOfMaps<Array<[u32; SEGMENT_ENTRIES], 1, MMAPABLE>, ROOT_ENTRIES6> =
    ArrayOfMaps::new();

/// The same for IPv6.
#[btf_map]
pub static ROUTE_BLOCKS6: ArrayOfMaps<Array<[u32; POOL_ENTRIES], 1, MMAPABLE>, MAX_POOLS> =
    ArrayOfMaps::new();

/// Revision of what plans are made from: route maps, next hops and ECMP groups. The controller raises it
/// before and after each change: it is odd in between.
#[btf_map]
pub static REVISION: Array<u32, 1, MMAPABLE> = Array::new();

/// Until when the tables may be trusted, in nanoseconds of the coarse monotonic clock. The controller moves it on
/// every second.
#[btf_map]
pub static ALIVE_UNTIL: Array<u64, 1> = Array::new();

/// Next hops by id, of both families.
#[btf_map]
pub static NEXT_HOPS: Array<NextHop, { NEXT_HOP_ENTRIES as usize }> = Array::new();

/// Whether packets used a next hop lately, by id: the programs set a word, the controller clears it. One element, as
/// above.
#[btf_map]
pub static USED: Array<[u32; MAX_NEXT_HOPS as usize], 1, MMAPABLE> = Array::new();

/// ECMP groups by index, of both families.
#[btf_map]
pub static ECMP_GROUPS: Array<EcmpGroup, { MAX_ECMP_GROUPS as usize }> = Array::new();

/// Outer headers of tunnels, by the index that next hops have.
#[btf_map]
pub static TUNNELS: Array<Tunnel, { MAX_TUNNELS as usize }> = Array::new();

/// What arrives by tunnels.
#[btf_map]
pub static TUNNEL_PEERS: HashMap<TunnelPeer, TunnelCookies, { MAX_TUNNEL_PEERS as usize }> =
    HashMap::new();

/// Own and anycast addresses.
#[btf_map]
pub static ADDRESSES: HashMap<Be32, u32, { MAX_OWN_ADDRESSES as usize }> = HashMap::new();

/// The same for IPv6.
#[btf_map]
pub static ADDRESSES6: HashMap<Be128, u32, { MAX_OWN_ADDRESSES as usize }> = HashMap::new();

/// What peers may send inside UDP besides packets of their own; the values mean nothing.
#[btf_map]
pub static UDP_SOURCES: LpmTrie<PeerSource<Be32>, u32, { MAX_UDP_SOURCES as usize }> =
    LpmTrie::new();

/// The same for IPv6.
#[btf_map]
pub static UDP_SOURCES6: LpmTrie<PeerSource<Be128>, u32, { MAX_UDP_SOURCES as usize }> =
    LpmTrie::new();

/// Keys of the cookies by which sources prove their address, by [`CookieKey::place`] of their epochs.
#[btf_map]
pub static COOKIE_KEYS: Array<CookieKey, { COOKIE_KEY_COUNT }> = Array::new();

/// Sources that policy rules decide about; the values mean nothing. Asked only where a port says that there are any.
#[btf_map]
pub static POLICY_SOURCES: LpmTrie<Be32, u32, { MAX_POLICY_SOURCES as usize }> = LpmTrie::new();

/// The same for IPv6.
#[btf_map]
pub static POLICY_SOURCES6: LpmTrie<Be128, u32, { MAX_POLICY_SOURCES as usize }> = LpmTrie::new();

/// What may arrive by ports that have a list of sources; the values mean nothing.
#[btf_map]
pub static PORT_SOURCES: LpmTrie<PortSource<Be32>, u32, { MAX_PORT_SOURCES as usize }> =
    LpmTrie::new();

/// The same for IPv6.
#[btf_map]
pub static PORT_SOURCES6: LpmTrie<PortSource<Be128>, u32, { MAX_PORT_SOURCES as usize }> =
    LpmTrie::new();

/// What sources have used up of their budgets; the programs' own.
#[btf_map]
pub static BUCKETS: Array<Bucket, { LIMIT_BUCKETS as usize }> = Array::new();

/// Until when budgets of copies for the kernel stack are used up, by the slot of the port of arrival: each port's share.
/// In the place of the stack's own slot, the budget of all. The programs' own.
#[btf_map]
pub static STACK_BUDGETS: Array<u64, MAX_PORTS> = Array::new();

/// The same for each source's share, by its bucket.
#[btf_map]
pub static STACK_BUCKETS: Array<u64, { LIMIT_BUCKETS as usize }> = Array::new();

/// `xcast` of both generations, then `xcast6` of both, then `xcast_tunnel` of both: see [`arrival`]. Shared by
/// generations.
#[btf_map]
pub static ARRIVALS: ProgramArray<{ ARRIVAL_PROGRAMS as usize }> = ProgramArray::new();

/// `xcast_copy` of both generations. Shared by generations. A map of its own, for the kernel keeps
/// programs of device maps apart from others.
#[btf_map]
pub static DEPARTURES: ProgramArray<{ GENERATIONS as usize }> = ProgramArray::new();

/// Ports, at one of the places that their interface index has.
#[btf_map]
pub static PORTS: Array<Port, { PORT_TABLE_ENTRIES as usize }> = Array::new();

/// Ports by slot: where the kernel stack is to see a copy arrive.
#[btf_map]
pub static SLOTS: Array<Port, MAX_PORTS> = Array::new();

/// Further link layer addresses of ports; the values mean nothing.
#[btf_map]
pub static PORT_MACS: HashMap<PortMac, u32, { MAX_PORT_MACS as usize }> = HashMap::new();

/// Every counter of every port; written by the programs.
#[btf_map]
pub static COUNTERS: PerCpuArray<PortCounters, MAX_PORTS> = PerCpuArray::new();

/// Every port's device, for single copies. All redirects go through device maps whose entries
/// carry the same program: the kernel runs the program of whichever redirect came first in a bulk.
#[btf_map]
pub static DEVICES: DevMap<MAX_PORTS> = DevMap::new();

/// Where the device map of a fan-out is; the programs note its last use.
#[btf_map]
pub static SUBSETS: HashMap<FanoutKey, FanoutEntry, { MAX_FANOUTS as usize }> = HashMap::new();

/// Device maps that hold exactly the ports of one fan-out each.
#[btf_map]
pub static FANOUTS: ArrayOfMaps<DevMap<2>, { MAX_FANOUTS as usize }> = ArrayOfMaps::new();

/// Device maps of the preset fan-outs, each alone and with `xcast0`, through which the rest recirculates.
#[btf_map]
pub static USUAL: ArrayOfMaps<DevMap<2>, PRESET_FANOUTS> = ArrayOfMaps::new();

/// Packets whose copies were made by the device maps of preset fan-outs, in groups of slots and numbered as
/// the maps are; written by the programs.
#[btf_map]
pub static PLANNED: PerCpuArray<[u64; GROUP_PRESETS], SLOT_GROUPS> = PerCpuArray::new();

/// Fan-outs that had no device map; written by the programs, drained by the controller.
#[btf_map]
pub static MISSES: RingBuf<FanoutKey, 65536> = RingBuf::new();

/// Plans, recycled in turn; the programs' own.
#[btf_map]
pub static PLANS: PerCpuArray<Plan<V4>, { PLANS_PER_CPU as usize }> = PerCpuArray::new();

/// The same for IPv6.
#[btf_map]
pub static PLANS6: PerCpuArray<Plan<V6>, { PLANS_PER_CPU as usize }> = PerCpuArray::new();

/// Branch by next hop; the programs' own.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Working memory; the programs' own.
#[btf_map]
pub static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// Where a generation's program for packets of this IP version is in [`ARRIVALS`].
#[inline(always)]
pub fn arrival(version: u8, generation: u32) -> u32 {
    generation + if version == 6 { GENERATIONS } else { 0 }
}

/// Where a generation's program for what comes through tunnels is in [`ARRIVALS`].
#[inline(always)]
pub fn tunnel_arrival(generation: u32) -> u32 {
    generation + ARRIVAL_TUNNEL
}

/// The constants. Read volatile, or the compiler would fold in the values of compile time.
#[inline(always)]
pub fn settings() -> Settings {
    // SAFETY: a valid static.
    unsafe { (&raw const SETTINGS).read_volatile() }
}

/// The constants, where they are: for a program that needs few of them. To the others, a copy on the stack
/// is easier to verify.
#[inline(always)]
pub fn settings_in_place() -> &'static Settings {
    let settings = &raw const SETTINGS;
    // Read volatile, for the compiler must not know whose values these are: it would fold in those of
    // compile time.
    // SAFETY: a valid local, and a valid static.
    unsafe { &*(&raw const settings).read_volatile() }
}

/// The port with this interface index.
#[inline(always)]
pub fn port(ifindex: u32) -> Option<Port> {
    port_in_place(ifindex).copied()
}

/// The same, where it is.
#[inline(always)]
pub fn port_in_place(ifindex: u32) -> Option<&'static Port> {
    for attempt in 0..PORT_PLACES {
        let port = PORTS.get(port_place(ifindex, attempt))?;
        if port.ifindex == ifindex {
            return Some(port);
        }
    }
    None
}

/// Counts one, on a port.
#[inline(always)]
pub fn count(slot: u8, counter: Counter) {
    if let Some(counters) = counters(slot) {
        counters.bump(counter);
    }
}

/// Whether no controller has kept the tables up to date for too long.
#[inline(always)]
pub fn is_orphaned(now: u64) -> bool {
    ALIVE_UNTIL.get(0).is_none_or(|until| now > *until)
}

/// The counters of a port.
#[inline(always)]
pub fn counters<'a>(slot: u8) -> Option<Tally<'a>> {
    let counters = COUNTERS.get_ptr_mut(u32::from(slot))?;
    // SAFETY: this CPU's own element of a map, which outlives the program; it is used through tallies alone.
    Some(unsafe { Tally::of(counters) })
}

/// Working memory. Whoever has it lets go of it before anyone asks for it again, and before the steps of look-ups, which
/// do that.
#[inline(always)]
pub fn work<'a>() -> Option<&'a mut Work> {
    let work = WORK.get_ptr_mut(0)?;
    // SAFETY: this CPU's own, and nothing else refers to it, as said above.
    Some(unsafe { &mut *work })
}

/// Branches by next hop. Asked for once for each packet.
#[inline(always)]
pub fn scratch<'a>() -> Option<&'a mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own, and nothing else refers to it.
    Some(unsafe { &mut *scratch })
}
