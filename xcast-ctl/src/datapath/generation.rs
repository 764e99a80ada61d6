//! How programs take over from others without a packet lost (ADR 14).
//!
//! Whoever starts a router loads a fresh *generation* of programs and maps, fills it from the kernel while the old
//! generation forwards, and only then has the links run the new programs. So a router that was killed, one that is
//! replaced, and a configuration that is read again are the same to the packets: no route, neighbour or device map is
//! ever absent.
//!
//! What is handed on is pinned:
//!
//! * the links, by interface;
//! * what the programs count;
//! * the tables of programs, by which each generation leaves the other's frames to it;
//! * the device maps' keys, so that the next generation has the same ones;
//! * `Lineage`: the secret of marks, the generation's number, and which interface has which slot.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData};
use aya_obj::generated::bpf_map_type;
use tracing::{info, warn};
use xcast_common::maps::{FanoutEntry, FanoutKey, MAX_PORTS, counter};

use super::pin::Pins;
use crate::kernel;

/// Maps that all generations have in common, and what they are pinned as.
const SHARED: [(&str, &str); 4] = [
    ("COUNTERS", "counters"),
    ("PLANNED", "planned"),
    ("ARRIVALS", "arrivals"),
    ("DEPARTURES", "departures"),
];

/// What generations have to agree on to hand packets to each other: changes with the form of marks and the tables of
/// programs.
const HANDOVER: u64 = 2;

/// Where things are in the map of the lineage, which has a word for each.
mod word {
    pub(super) const HANDOVER: u32 = 0;
    pub(super) const LAYOUT: u32 = 1;
    pub(super) const SECRET: u32 = 2;
    pub(super) const NUMBER: u32 = 3;
    /// UDP ports that routers have the kernel keep: that of the generation that forwards, and of one that is about to.
    pub(super) const RESERVED: [u32; 2] = [4, 5];
    /// The first slot's interface; the others follow.
    pub(super) const SLOTS: u32 = 8;
}

/// A generation of programs, from before they are loaded.
pub struct Generation {
    pins: Option<Arc<Pins>>,
    lineage: Option<Array<MapData, u64>>,
    number: u64,
    secret: u64,
    /// The interface of each slot, by the predecessor.
    slots: HashMap<u8, u32>,
    /// Subsets of ports for which the predecessor has device maps.
    subsets: Vec<FanoutKey>,
    /// UDP ports that this router or one before it had the kernel keep.
    reserved: Vec<u16>,
}

impl Generation {
    /// The one that follows what is pinned, or the first one. Without `pins`, forwarding ends with this process.
    ///
    /// # Errors
    ///
    /// The kernel does not tell what is attached where, or has no memory.
    pub fn next(pins: Option<Pins>) -> Result<Self> {
        let mut generation = Self {
            pins: pins.map(Arc::new),
            lineage: None,
            number: 0,
            secret: kernel::random()?,
            slots: HashMap::new(),
            subsets: Vec::new(),
            reserved: Vec::new(),
        };
        let Some(pins) = &generation.pins else {
            return Ok(generation);
        };
        if !pins.are_live()? {
            pins.empty();
        }
        let lineage = match open_lineage(pins) {
            Some(lineage) => lineage,
            None => make_lineage(pins, generation.secret)?,
        };
        let read = |index| lineage.get(&index, 0).context("cannot read a pinned map");
        if read(word::LAYOUT)? != layout() {
            if read(word::NUMBER)? > 0 {
                warn!("another version's counters cannot be continued: they begin at 0");
            }
            pins.remove("counters");
            pins.remove("planned");
        }
        generation.secret = read(word::SECRET)?;
        generation.number = read(word::NUMBER)? + 1;
        for slot in 0..MAX_PORTS as u8 {
            let ifindex = read(word::SLOTS + u32::from(slot))? as u32;
            if ifindex != 0 {
                generation.slots.insert(slot, ifindex);
            }
        }
        if let Ok(subsets) = MapData::from_pin(pins.path(&subsets_name(generation.number - 1)))
            && let Ok(subsets) =
                BpfHashMap::<_, FanoutKey, FanoutEntry>::try_from(Map::HashMap(subsets))
        {
            generation.subsets = subsets.keys().filter_map(Result::ok).collect();
        }
        generation.reserved = reserved_in(&lineage);
        generation.lineage = Some(lineage);
        Ok(generation)
    }

    /// Whether this router, or one before it, had the kernel keep a UDP port.
    pub fn has_reserved(&self, port: u16) -> bool {
        self.reserved.contains(&port)
    }

    /// Notes that this router has the kernel keep a UDP port.
    pub fn note_reserved(&mut self, port: u16) {
        self.reserved.push(port);
        self.write_reserved();
    }

    /// Forgets the UDP ports that the kernel was to keep, apart from `but`, and returns them.
    pub fn forget_reserved(&mut self, but: Option<u16>) -> Vec<u16> {
        let (kept, forgotten) = std::mem::take(&mut self.reserved)
            .into_iter()
            .partition(|port| Some(*port) == but);
        self.reserved = kept;
        self.write_reserved();
        forgotten
    }

    fn write_reserved(&mut self) {
        let Some(lineage) = &mut self.lineage else {
            return;
        };
        // The one that is about to forward comes last, and is the one to know if there is no room for all.
        let mut ports = self.reserved.iter().rev();
        for index in word::RESERVED {
            let port = ports.next().copied().unwrap_or(0);
            if let Err(error) = lineage.set(index, u64::from(port), 0) {
                warn!("cannot note the UDP ports that are reserved: {error}");
            }
        }
    }

    /// One that follows no other, and that none follows, with this secret of marks.
    pub fn alone(mark: u64) -> Self {
        Self {
            pins: None,
            lineage: None,
            number: mark & 1,
            secret: mark,
            slots: HashMap::new(),
            subsets: Vec::new(),
            reserved: Vec::new(),
        }
    }

    /// Whether it takes over from programs that forward.
    pub fn has_predecessor(&self) -> bool {
        self.number > 1
    }

    /// Whether forwarding outlives this process.
    pub fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// Where what outlives this process is pinned.
    pub(super) fn pins(&self) -> Option<Arc<Pins>> {
        self.pins.clone()
    }

    /// The secret of marks.
    pub fn mark(&self) -> u64 {
        self.secret & !1 | self.number & 1
    }

    /// The slot that the predecessor had for an interface.
    pub fn slot_of(&self, ifindex: u32) -> Option<u8> {
        let mut slots = self.slots.iter();
        slots
            .find(|(_, index)| **index == ifindex)
            .map(|(slot, _)| *slot)
    }

    /// Whether the predecessor had an interface in this slot, so that its counters are that one's.
    pub fn is_used(&self, slot: u8) -> bool {
        self.slots.contains_key(&slot)
    }

    /// Subsets of ports for which the predecessor has device maps.
    pub(super) fn inherited_subsets(&mut self) -> Vec<FanoutKey> {
        std::mem::take(&mut self.subsets)
    }

    /// Maps that all generations have in common, and where they are pinned.
    pub(super) fn shared_maps(&self) -> Vec<(&'static str, std::path::PathBuf)> {
        let Some(pins) = &self.pins else {
            return Vec::new();
        };
        let shared = SHARED.iter();
        shared.map(|(map, pin)| (*map, pins.path(pin))).collect()
    }

    /// Makes this the generation that the next one takes over from. `attached` has each slot's interface; from others
    /// the predecessor's program is taken away.
    ///
    /// # Errors
    ///
    /// The pinned maps cannot be written.
    pub(super) fn commit(&mut self, attached: &HashMap<u8, u32>, subsets: &MapData) -> Result<()> {
        let (Some(pins), Some(lineage)) = (&self.pins, &mut self.lineage) else {
            return Ok(());
        };
        for ifindex in pins.linked() {
            if !attached.values().any(|index| *index == ifindex) {
                pins.remove(&Pins::link_name(ifindex));
            }
        }
        let name = subsets_name(self.number);
        pins.remove(&name);
        subsets.pin(pins.path(&name))?;
        for (slot, ifindex) in attached {
            lineage.set(word::SLOTS + u32::from(*slot), u64::from(*ifindex), 0)?;
        }
        lineage.set(word::LAYOUT, layout(), 0)?;
        lineage.set(word::NUMBER, self.number, 0)?;
        if self.has_predecessor() {
            info!("generation {} has taken over", self.number);
        }
        Ok(())
    }

    /// Takes all that is pinned away: forwarding ends with this process.
    pub(super) fn end(&self) {
        if let Some(pins) = &self.pins {
            pins.clear();
        }
    }
}

/// Each of two generations in a row has a name of its own.
fn subsets_name(number: u64) -> String {
    format!("subsets-{}", number & 1)
}

/// The UDP ports that routers had the kernel keep, by what is pinned.
pub fn reserved(pins: &Pins) -> Vec<u16> {
    let lineage = MapData::from_pin(pins.path("lineage")).ok();
    let lineage = lineage.and_then(|map| Array::try_from(Map::Array(map)).ok());
    lineage.map_or_else(Vec::new, |lineage| reserved_in(&lineage))
}

fn reserved_in(lineage: &Array<MapData, u64>) -> Vec<u16> {
    let ports = word::RESERVED.into_iter().rev();
    let ports = ports.filter_map(|index| lineage.get(&index, 0).ok()?.try_into().ok());
    ports.filter(|port| *port != 0).collect()
}

/// The predecessor's lineage, if there is one that this program can go on from.
fn open_lineage(pins: &Pins) -> Option<Array<MapData, u64>> {
    let map = MapData::from_pin(pins.path("lineage")).ok()?;
    let lineage: Array<_, u64> = Map::Array(map).try_into().ok()?;
    if lineage.get(&word::HANDOVER, 0).ok()? == HANDOVER {
        return Some(lineage);
    }
    warn!("another version's programs are replaced: packets that are under way may be lost");
    for (_, pin) in SHARED {
        pins.remove(pin);
    }
    pins.remove("lineage");
    None
}

fn make_lineage(pins: &Pins, secret: u64) -> Result<Array<MapData, u64>> {
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        size_of::<u64>() as u32,
        word::SLOTS + MAX_PORTS as u32,
        0,
    );
    let map = MapData::create(definition, "xcast_lineage", None).context("cannot make a map")?;
    map.pin(pins.path("lineage")).context("cannot pin a map")?;
    let mut lineage: Array<_, u64> = Map::Array(map).try_into()?;
    lineage.set(word::HANDOVER, HANDOVER, 0)?;
    lineage.set(word::LAYOUT, layout(), 0)?;
    lineage.set(word::SECRET, secret, 0)?;
    Ok(lineage)
}

/// What stands for the meaning of all that is counted: 64 bits of FNV-1a over the counters' names.
fn layout() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in counter::NAMES {
        for octet in name.bytes().chain([0]) {
            hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
