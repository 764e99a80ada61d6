//! The memory that the route map's readers see: BPF arrays, mapped.

use std::{
    collections::VecDeque,
    io,
    num::{NonZeroU32, NonZeroUsize},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        raw::c_void,
    },
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tracing::warn;
use xcast_common::trie::{
    BLOCK_ENTRIES, Entry, MAX_SEGMENTS, ROOT_ENTRIES, SEGMENT_BLOCKS, SEGMENT_ENTRIES,
};

use super::trie::{Full, Memory};
use crate::datapath::sys;

/// BPF_F_MMAPABLE.
const MMAPABLE: u32 = 1 << 10;

/// A BPF array of words, mapped into this process.
struct Mapping {
    words: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to the value and is only accessed by atomic loads and stores.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let len = NonZeroUsize::new(words * size_of::<u32>()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let words = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self {
            words,
            len: len.get(),
        })
    }

    fn words(&self) -> &[AtomicU32] {
        // SAFETY: mapped for as long as `self` lives, page-aligned, and as long as this; whoever
        // else has it mapped, or reads it as a BPF program, loads and stores whole words.
        unsafe {
            std::slice::from_raw_parts(
                self.words.as_ptr().cast::<AtomicU32>(),
                self.len / size_of::<u32>(),
            )
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody holds a reference into it any more.
        if let Err(error) = unsafe { munmap(self.words, self.len) } {
            warn!("cannot unmap a BPF map: {error}");
        }
    }
}

/// Root and segments of the route map.
pub struct Shared {
    root: Mapping,
    segments: Vec<Mapping>,
    outer: OwnedFd,
    /// Blocks that no reader can see.
    free: Vec<u32>,
    /// Blocks that were unlinked, with the number of the grace period that ends after all readers
    /// of that time are gone; oldest first.
    retired: VecDeque<(u64, u32)>,
    grace: Grace,
}

impl Shared {
    /// Maps the root and makes the first segment.
    pub(super) fn new(root: BorrowedFd<'_>, outer: OwnedFd) -> io::Result<Self> {
        let (first, mapping) = segment()?;
        sys::set_inner_map(outer.as_fd(), 0, &first)?;
        Ok(Self {
            root: Mapping::new(root, ROOT_ENTRIES)?,
            segments: vec![mapping],
            free: (0..SEGMENT_BLOCKS as u32).rev().collect(),
            retired: VecDeque::new(),
            grace: Grace::start(outer.try_clone()?, first)?,
            outer,
        })
    }

    /// Memory shared with the programs, in octets.
    pub fn bytes(&self) -> usize {
        self.root.len
            + self
                .segments
                .iter()
                .map(|segment| segment.len)
                .sum::<usize>()
    }

    /// Makes more segments, all in one call: the kernel waits for its readers once.
    fn add_segments(&mut self, count: usize) -> io::Result<()> {
        let first = self.segments.len();
        let count = count.min(MAX_SEGMENTS - first);
        if count == 0 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut maps = Vec::new();
        let mut mappings = Vec::new();
        for index in first..first + count {
            let (map, mapping) = segment()?;
            maps.push((index as u32, map));
            mappings.push(mapping);
        }
        let entries: Vec<(u32, &OwnedFd)> = maps.iter().map(|(index, fd)| (*index, fd)).collect();
        sys::set_inner_maps(self.outer.as_fd(), &entries)?;
        self.segments.extend(mappings);
        let blocks = first * SEGMENT_BLOCKS..(first + count) * SEGMENT_BLOCKS;
        self.free.extend(blocks.rev().map(|block| block as u32));
        Ok(())
    }

    fn cell(&self, block: u32, index: usize) -> &AtomicU32 {
        let (segment, at) = place(block, index);
        &self.segments[segment].words()[at]
    }
}

/// A new segment.
fn segment() -> io::Result<(OwnedFd, Mapping)> {
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        (SEGMENT_ENTRIES * size_of::<u32>()) as u32,
        NonZeroU32::MIN.get(),
        MMAPABLE,
    );
    let map = MapData::create(definition, "xcast_routes", None).map_err(io::Error::other)?;
    let fd = map.fd().as_fd().try_clone_to_owned()?;
    let mapping = Mapping::new(fd.as_fd(), SEGMENT_ENTRIES)?;
    Ok((fd, mapping))
}

/// Segment of a block, and where in it an entry is.
fn place(block: u32, index: usize) -> (usize, usize) {
    let block = block as usize;
    (
        block / SEGMENT_BLOCKS,
        block % SEGMENT_BLOCKS * BLOCK_ENTRIES + index,
    )
}

impl Memory for Shared {
    fn set_root(&mut self, index: usize, entry: Entry) {
        // Release: a block's content is there before the entry that names it.
        self.root.words()[index].store(entry.word(), Ordering::Release);
    }

    fn root(&self, index: usize) -> Entry {
        Entry::from_word(self.root.words()[index].load(Ordering::Relaxed))
    }

    fn set_entry(&mut self, block: u32, index: usize, entry: Entry) {
        self.cell(block, index)
            .store(entry.word(), Ordering::Release);
    }

    fn entry(&self, block: u32, index: usize) -> Entry {
        Entry::from_word(self.cell(block, index).load(Ordering::Relaxed))
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
            let more = self.segments.len().div_ceil(4);
            self.add_segments(more).map_err(|error| Full(Some(error)))?;
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
    /// `outer` is the map of segments, `first` the one in its first place. The thread ends with the
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
                    match sys::set_inner_map(outer.as_fd(), 0, &first) {
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
