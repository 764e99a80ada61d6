//! BPF arrays in this process's memory.

use std::{
    io,
    num::NonZeroUsize,
    os::{fd::BorrowedFd, raw::c_void},
    ptr::NonNull,
    sync::atomic::AtomicU32,
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tracing::warn;

/// A BPF array of words, mapped into this process.
pub(super) struct Mapping {
    words: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to the value and is only accessed by atomic loads and stores.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `words` words of an array, which must have been made with `BPF_F_MMAPABLE`.
    pub(super) fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let len = NonZeroUsize::new(words * size_of::<u32>()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let words = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self {
            words,
            len: len.get(),
        })
    }

    /// Its length, in octets.
    pub(super) fn bytes(&self) -> usize {
        self.len
    }

    pub(super) fn words(&self) -> &[AtomicU32] {
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
