//! The memory that the route map's readers see: BPF arrays, mapped.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    num::NonZeroU32,
    ops::Range,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;
use tracing::warn;
use xcast_common::maps::lpm::{
    BLOCK_ENTRIES, Entry, MAX_POOLS, POOL_BLOCKS, POOL_ENTRIES, SEGMENT_ENTRIES,
};

use super::{
    remover::Remover,
    trie::{Full, Memory, Table},
};
use crate::datapath::{bpf, mapping::Mapping};

/// BPF_F_MMAPABLE.
const MMAPABLE: u32 = 1 << 10;

/// Most segments: whoever announces routes of IPv6 in all /16s does not get all memory. The Internet's table has
/// some hundred; all of IPv4 has 256.
const MAX_SEGMENTS: usize = 1024;

/// The programs' maps that make up the route map.
pub struct Maps<'a> {
    /// `ROUTE_ROOT`.
    pub root: BorrowedFd<'a>,
    /// `ROUTE_SEGMENTS`.
    pub segments: OwnedFd,
    /// `ROUTE_BLOCKS`.
    pub blocks: OwnedFd,
}

/// Root, segments and pools of the route map.
pub struct Shared {
    root: Mapping,
    /// By an address's first bits.
    segments: Vec<Option<Mapping>>,
    /// How many there are.
    segments_in_use: usize,
    /// How many there may be. Together with those that are leaving, there may be twice as many.
    max_segments: usize,
    /// Segments that the programs do not see yet.
    unpublished: Vec<(u32, OwnedFd)>,
    /// Segments that are not in use any more. As long as programs may see one, all of it says what the root's entry
    /// says.
    leaving: BTreeMap<u32, Mapping>,
    remover: Remover,
    all_segments: OwnedFd,
    pools: Vec<Mapping>,
    all_pools: OwnedFd,
    /// Blocks that no reader can see.
    free: Vec<u32>,
    /// Blocks that were unlinked, with the number of the grace period that ends after all readers
    /// of that time are gone; oldest first.
    retired: VecDeque<(u64, u32)>,
    grace: Grace,
}

impl Shared {
    /// Maps the root, of so many entries, and makes the first pool.
    pub(super) fn new(maps: Maps<'_>, root_entries: usize) -> io::Result<Self> {
        let (first, mapping) = array(POOL_ENTRIES)?;
        bpf::set_inner_map(maps.blocks.as_fd(), 0, &first)?;
        Ok(Self {
            root: Mapping::new(maps.root, root_entries)?,
            segments: (0..root_entries).map(|_| None).collect(),
            segments_in_use: 0,
            max_segments: MAX_SEGMENTS,
            unpublished: Vec::new(),
            leaving: BTreeMap::new(),
            remover: Remover::start(maps.segments.try_clone()?)?,
            all_segments: maps.segments,
            pools: vec![mapping],
            free: (0..POOL_BLOCKS as u32).rev().collect(),
            retired: VecDeque::new(),
            grace: Grace::start(maps.blocks.try_clone()?, first)?,
            all_pools: maps.blocks,
        })
    }

    /// Memory shared with the programs, in octets.
    pub fn bytes(&self) -> usize {
        let segments = self.segments.iter().flatten();
        let all = segments
            .chain(self.leaving.values())
            .chain(&self.pools)
            .chain([&self.root]);
        all.map(Mapping::bytes).sum()
    }

    /// Shows new segments to the programs, all in one call: the kernel waits for its readers once.
    pub(super) fn publish(&mut self) -> io::Result<()> {
        self.forget_removed();
        let entries: Vec<_> = self.unpublished.iter().map(|(at, fd)| (*at, fd)).collect();
        bpf::set_inner_maps(self.all_segments.as_fd(), &entries)?;
        self.unpublished.clear();
        Ok(())
    }

    /// Forgets the segments that programs do not see any more.
    fn forget_removed(&mut self) {
        for number in self.remover.removed() {
            self.leaving.remove(&number);
        }
    }

    /// Repeats what the root's entries say in segments that are about to go.
    fn repeat_in_leaving(&self, slots: Range<usize>) {
        for (&number, mapping) in self.leaving.range(slots.start as u32..slots.end as u32) {
            fill(mapping, self.get(Table::Root, number as usize));
        }
    }

    /// Makes more pools, all in one call.
    fn add_pools(&mut self, count: usize) -> io::Result<()> {
        let first = self.pools.len();
        let count = count.min(MAX_POOLS - first);
        if count == 0 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut maps = Vec::new();
        let mut mappings = Vec::new();
        for index in first..first + count {
            let (map, mapping) = array(POOL_ENTRIES)?;
            maps.push((index as u32, map));
            mappings.push(mapping);
        }
        let entries: Vec<_> = maps.iter().map(|(index, fd)| (*index, fd)).collect();
        bpf::set_inner_maps(self.all_pools.as_fd(), &entries)?;
        self.pools.extend(mappings);
        let blocks = first * POOL_BLOCKS..(first + count) * POOL_BLOCKS;
        self.free.extend(blocks.rev().map(|block| block as u32));
        Ok(())
    }

    fn words(&self, table: Table) -> &[AtomicU32] {
        match table {
            Table::Root => self.root.words(),
            Table::Segment(number) => self.segments[number as usize]
                .as_ref()
                .expect("only segments that were added are used")
                .words(),
            Table::Block(block) => {
                let block = block as usize;
                let at = block % POOL_BLOCKS * BLOCK_ENTRIES;
                &self.pools[block / POOL_BLOCKS].words()[at..at + BLOCK_ENTRIES]
            }
        }
    }
}

fn fill(segment: &Mapping, content: Entry) {
    for word in segment.words() {
        word.store(content.word(), Ordering::Relaxed);
    }
}

/// A new array of words, as the programs' maps of maps take it.
fn array(words: usize) -> io::Result<(OwnedFd, Mapping)> {
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        (words * size_of::<u32>()) as u32,
        NonZeroU32::MIN.get(),
        MMAPABLE,
    );
    let map = MapData::create(definition, "xcast_routes", None).map_err(io::Error::other)?;
    let fd = map.fd().as_fd().try_clone_to_owned()?;
    let mapping = Mapping::new(fd.as_fd(), words)?;
    Ok((fd, mapping))
}

impl Memory for Shared {
    fn set(&mut self, table: Table, index: usize, entry: Entry) {
        // Release: a block's content is there before the entry that names it.
        self.words(table)[index].store(entry.word(), Ordering::Release);
        if table == Table::Root {
            self.repeat_in_leaving(index..index + 1);
        }
    }

    fn get(&self, table: Table, index: usize) -> Entry {
        Entry::from_word(self.words(table)[index].load(Ordering::Relaxed))
    }

    fn update(
        &mut self,
        table: Table,
        slots: Range<usize>,
        mut change: impl FnMut(usize, Entry) -> Option<Entry>,
    ) {
        for (slot, word) in slots.clone().zip(&self.words(table)[slots.clone()]) {
            let entry = Entry::from_word(word.load(Ordering::Relaxed));
            if let Some(new) = change(slot, entry) {
                word.store(new.word(), Ordering::Release);
            }
        }
        if table == Table::Root {
            self.repeat_in_leaving(slots);
        }
    }

    fn add_segment(&mut self, number: u32, content: Entry) -> Result<(), Full> {
        self.forget_removed();
        // To wait until some have gone would take the kernel seconds. Whoever comes again finds room.
        let in_memory = self.segments_in_use + self.leaving.len();
        let has_place = in_memory < 2 * self.max_segments || self.leaving.contains_key(&number);
        if self.segments_in_use == self.max_segments || !has_place {
            return Err(Full(None));
        }
        // One that is about to go stays, if it is not too late. Else the new one may be put in its place only when it
        // has gone.
        let stays = self.remover.cancel(number);
        let old = self.leaving.remove(&number);
        let mapping = match old.filter(|_| stays) {
            Some(mapping) => mapping,
            None => {
                let (fd, mapping) = array(SEGMENT_ENTRIES).map_err(|error| Full(Some(error)))?;
                fill(&mapping, content);
                self.unpublished.push((number, fd));
                mapping
            }
        };
        self.segments_in_use += 1;
        self.segments[number as usize] = Some(mapping);
        Ok(())
    }

    fn remove_segment(&mut self, number: u32) {
        let Some(mapping) = self.segments[number as usize].take() else {
            return;
        };
        self.segments_in_use -= 1;
        let unpublished = self.unpublished.len();
        self.unpublished.retain(|(other, _)| *other != number);
        if self.unpublished.len() < unpublished {
            return;
        }
        self.leaving.insert(number, mapping);
        self.remover.remove(number);
    }

    fn allocate(&mut self) -> Result<u32, Full> {
        let over = self.grace.over();
        while let Some(&(grace, block)) = self.retired.front()
            && grace <= over
        {
            self.free.push(block);
            self.retired.pop_front();
        }
        if self.free.is_empty() {
            // A quarter more each time: few waits while a full table comes in.
            let more = self.pools.len().div_ceil(4);
            self.add_pools(more).map_err(|error| Full(Some(error)))?;
        }
        self.free.pop().ok_or(Full(None))
    }

    fn release(&mut self, block: u32) {
        self.retired.push_back((self.grace.request(), block));
    }
}

/// Waits, in a thread of its own, until readers are gone.
struct Grace {
    requested: u64,
    over: Arc<AtomicU64>,
    requests: mpsc::Sender<u64>,
}

impl Grace {
    /// `outer` is the map of pools, `first` the one in its first place. The thread ends with the
    /// handle.
    fn start(outer: OwnedFd, first: OwnedFd) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel::<u64>();
        let over = Arc::new(AtomicU64::new(0));
        let done = Arc::clone(&over);
        thread::Builder::new()
            .name("grace".to_owned())
            .spawn(move || {
                while let Ok(mut request) = queue.recv() {
                    while let Ok(later) = queue.try_recv() {
                        request = later;
                    }
                    // Writing a map of maps waits until no program can hold what it read before.
                    match bpf::set_inner_map(outer.as_fd(), 0, &first) {
                        Ok(()) => done.store(request, Ordering::Release),
                        Err(error) => warn!("cannot wait for readers of the route map: {error}"),
                    }
                }
            })?;
        Ok(Self {
            requested: 0,
            over,
            requests,
        })
    }

    /// Asks for a grace period that begins from now on; returns its number.
    fn request(&mut self) -> u64 {
        self.requested += 1;
        // Without the thread nothing is ever over, and released blocks are not used again.
        let _ = self.requests.send(self.requested);
        self.requested
    }

    /// Number of the last grace period that is over.
    fn over(&self) -> u64 {
        self.over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps as the programs have them.
    fn shared(root_entries: usize) -> Shared {
        let (root, _) = array(root_entries).unwrap();
        let outer = |inner_words, entries| {
            let (inner, _) = array(inner_words).unwrap();
            bpf::map_of_maps(&inner, entries).unwrap()
        };
        let maps = Maps {
            root: root.as_fd(),
            segments: outer(SEGMENT_ENTRIES, root_entries as u32),
            blocks: outer(POOL_ENTRIES, MAX_POOLS as u32),
        };
        Shared::new(maps, root_entries).unwrap()
    }

    /// The kernel takes its time to let segments go: meanwhile there is no room for others, and nobody waits.
    #[test]
    fn segments_that_have_not_gone_take_room_and_no_time() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut shared = shared(8);
        shared.max_segments = 2;
        shared.remover = Remover::idle();
        for pair in [[0, 1], [2, 3]] {
            for number in pair {
                shared.add_segment(number, Entry::NONE).unwrap();
            }
            assert!(shared.add_segment(7, Entry::NONE).is_err());
            shared.publish().unwrap();
            pair.into_iter()
                .for_each(|number| shared.remove_segment(number));
        }
        let bytes = shared.bytes();
        assert!(shared.add_segment(4, Entry::NONE).is_err());
        // One that has not gone takes no more room when it stays.
        shared.add_segment(3, Entry::NONE).unwrap();
        assert_eq!(shared.bytes(), bytes);
    }
}
