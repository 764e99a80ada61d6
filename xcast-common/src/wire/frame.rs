//! Bounds-checked access to a frame, in a form the BPF verifier can follow.
//!
//! The verifier accepts a packet access only where it has seen the very pointer compared with the
//! packet's end. [`View::at`] is that comparison; everything else here is built on it, and an
//! access outside the frame is `None`, on the host as in the kernel.

use core::marker::PhantomData;

use super::endian::{Be16, Be32};

/// A frame whose head can move, as an XDP context or a buffer on the host.
pub trait Frame {
    /// The frame's bytes, as long as it neither moves nor becomes shorter.
    fn view(&mut self) -> View<'_>;

    /// Moves the frame's start by `octets`, cutting off (positive) or adding room (negative);
    /// false if there is no room.
    fn adjust_head(&mut self, octets: i32) -> bool;

    /// Cuts `octets` off the frame's end; false if the driver cannot.
    fn trim(&mut self, octets: u32) -> bool;

    /// Adds `octets` of undefined content at the frame's end; false if there is no room.
    fn grow(&mut self, octets: u32) -> bool;
}

/// The bytes of a frame, between two pointers.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: *mut u8,
    end: *mut u8,
    /// Views and windows of a frame may overlap, and write.
    frame: PhantomData<&'a [core::cell::Cell<u8>]>,
}

impl<'a> View<'a> {
    /// A view of the bytes from `data` to before `end`.
    ///
    /// # Safety
    ///
    /// The memory in between must be readable and writable for `'a`, and nobody else may use it meanwhile.
    /// `data` may not be behind `end`.
    #[inline(always)]
    pub unsafe fn new(data: *mut u8, end: *mut u8) -> Self {
        Self {
            data,
            end,
            frame: PhantomData,
        }
    }

    /// Pointer to `N` octets at `offset`, or `None` if the frame ends before.
    #[inline(always)]
    pub fn at<const N: usize>(self, offset: usize) -> Option<*mut u8> {
        // As integers, which cannot wrap around.
        #[cfg(not(target_arch = "bpf"))]
        if offset.checked_add(N).is_none_or(|end| end > self.len()) {
            return None;
        }
        let start = self.data.wrapping_add(offset);
        // Compared as pointers: as integers the verifier would not learn the packet's range.
        #[cfg(target_arch = "bpf")]
        if start.wrapping_add(N) > self.end {
            return None;
        }
        Some(start)
    }

    /// The `N` octets at `offset`, checked once; `None` if the frame ends before.
    #[inline(always)]
    pub fn window<const N: usize>(self, offset: usize) -> Option<Window<'a, N>> {
        let start = self.at::<N>(offset)?;
        Some(Window {
            start,
            frame: PhantomData,
        })
    }

    /// The view from `octets` further on; past the frame's end there is nothing in it.
    ///
    /// The verifier wants to see a bound of a variable offset: mask it.
    #[inline(always)]
    pub fn skip(self, octets: usize) -> Self {
        #[cfg(target_arch = "bpf")]
        let data = {
            let mut data = self.data;
            // Left to itself, LLVM moves a variable offset to the other side of comparisons, and
            // the packet's end is no pointer that the verifier allows to be moved.
            // SAFETY: adds two registers.
            unsafe { core::arch::asm!("{0} += {1}", inout(reg) data, in(reg) octets) };
            data
        };
        #[cfg(not(target_arch = "bpf"))]
        let data = self.data.wrapping_add(octets.min(self.len()));
        Self { data, ..self }
    }

    /// Length of the frame in octets: a number to compute with, not a bound the verifier learns.
    #[inline(always)]
    pub fn len(self) -> usize {
        #[cfg(target_arch = "bpf")]
        {
            let mut len = self.end;
            // The difference of two packet pointers is a number only in 64 bits; a narrower one,
            // which LLVM prefers where the result is narrow, is arithmetic the verifier refuses.
            // SAFETY: subtracts two registers.
            unsafe { core::arch::asm!("{0} -= {1}", inout(reg) len, in(reg) self.data) };
            len as usize
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            self.end as usize - self.data as usize
        }
    }

    /// Whether there is no octet at all.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The octet at `offset`.
    #[inline(always)]
    pub fn u8(self, offset: usize) -> Option<u8> {
        let field = self.at::<1>(offset)?;
        // SAFETY: `at` checked that the octet lies in the frame.
        Some(unsafe { *field })
    }

    /// The octet at `offset`, read anew: not what a register still holds. The verifier forgets
    /// with it what comparisons in a loop have taught it, and every iteration the loop may have
    /// ended in stops being a case of its own.
    #[inline(always)]
    pub fn fresh_u8(self, offset: usize) -> Option<u8> {
        let field = self.at::<1>(offset)?;
        // SAFETY: `at` checked that the octet lies in the frame.
        Some(unsafe { field.read_volatile() })
    }

    /// The 16-bit field at `offset`.
    #[inline(always)]
    pub fn be16(self, offset: usize) -> Option<Be16> {
        let field = self.at::<2>(offset)?;
        // SAFETY: `at` checked that the octets lie in the frame.
        Some(Be16::from_memory(unsafe { load16(field) }))
    }

    /// The 32-bit field at `offset`.
    #[inline(always)]
    pub fn be32(self, offset: usize) -> Option<Be32> {
        let field = self.at::<4>(offset)?;
        // SAFETY: `at` checked that the octets lie in the frame.
        Some(Be32::from_memory(unsafe { load32(field) }))
    }

    /// The 64 bits at `offset`, read as a native integer: for one's complement sums.
    #[inline(always)]
    pub fn be64_memory(self, offset: usize) -> Option<u64> {
        let field = self.at::<8>(offset)?;
        // SAFETY: `at` checked that the octets lie in the frame.
        Some(unsafe { load64(field) })
    }

    /// Writes 64 bits at `offset`, given as [`be64_memory`](Self::be64_memory) reads them.
    #[inline(always)]
    pub fn set_be64_memory(self, offset: usize, value: u64) -> Option<()> {
        let field = self.at::<8>(offset)?;
        // SAFETY: `at` checked that the octets lie in the frame.
        unsafe { store64(field, value) };
        Some(())
    }

    /// Writes the octet at `offset`.
    #[inline(always)]
    pub fn set_u8(self, offset: usize, value: u8) -> Option<()> {
        let field = self.at::<1>(offset)?;
        // SAFETY: `at` checked that the octet lies in the frame.
        unsafe { *field = value };
        Some(())
    }

    /// Writes the 16-bit field at `offset`.
    #[inline(always)]
    pub fn set_be16(self, offset: usize, value: Be16) -> Option<()> {
        let field = self.at::<2>(offset)?;
        // SAFETY: `at` checked that the octets lie in the frame.
        unsafe { store16(field, value.memory()) };
        Some(())
    }

    /// Writes the 32-bit field at `offset`.
    #[inline(always)]
    pub fn set_be32(self, offset: usize, value: Be32) -> Option<()> {
        let field = self.at::<4>(offset)?;
        // SAFETY: `at` checked that the octets lie in the frame.
        unsafe { store32(field, value.memory()) };
        Some(())
    }
}

/// `N` octets of a frame that were found to be there, as a header of fixed length: its fields need no
/// further check. Offsets are within it, and constants, so that the compiler sees that they are.
#[derive(Clone, Copy)]
pub struct Window<'a, const N: usize> {
    start: *mut u8,
    frame: PhantomData<&'a [core::cell::Cell<u8>]>,
}

macro_rules! fields {
    ($($read:ident, $write:ident, $load:ident, $store:ident, $ty:ty;)+) => {
        impl<const N: usize> Window<'_, N> {
            $(
                /// The field at `offset`, as it lies in memory.
                #[inline(always)]
                pub fn $read(self, offset: usize) -> $ty {
                    assert!(offset + size_of::<$ty>() <= N);
                    // SAFETY: all octets of the window lie in the frame, and this is within it.
                    unsafe { $load(self.start.add(offset)) }
                }

                /// Writes the field at `offset`, given as it lies in memory.
                #[inline(always)]
                pub fn $write(self, offset: usize, memory: $ty) {
                    assert!(offset + size_of::<$ty>() <= N);
                    // SAFETY: all octets of the window lie in the frame, and this is within it.
                    unsafe { $store(self.start.add(offset), memory) };
                }
            )+
        }
    };
}

fields! {
    u8, set_u8, load8, store8, u8;
    u16, set_u16, load16, store16, u16;
    u32, set_u32, load32, store32, u32;
    u64, set_u64, load64, store64, u64;
}

// LLVM's BPF back end splits a declared-unaligned access into single octets, although the kernel
// allows the plain one wherever XDP runs natively; on the host the plain one would be undefined.
macro_rules! load {
    ($load:ident, $ty:ty) => {
        #[inline(always)]
        unsafe fn $load(field: *const u8) -> $ty {
            #[cfg(target_arch = "bpf")]
            // SAFETY: the caller checked the range.
            return unsafe { *field.cast::<$ty>() };
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: the caller checked the range.
            return unsafe { field.cast::<$ty>().read_unaligned() };
        }
    };
}

macro_rules! store {
    ($store:ident, $ty:ty) => {
        #[inline(always)]
        unsafe fn $store(field: *mut u8, value: $ty) {
            #[cfg(target_arch = "bpf")]
            // SAFETY: the caller checked the range.
            unsafe {
                *field.cast::<$ty>() = value
            };
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: the caller checked the range.
            unsafe {
                field.cast::<$ty>().write_unaligned(value)
            };
        }
    };
}

store!(store8, u8);
store!(store16, u16);
store!(store32, u32);
store!(store64, u64);
load!(load8, u8);
load!(load16, u16);
load!(load32, u32);
load!(load64, u64);

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::host::Buffer;

    /// Offsets within a short frame, just past it, and where sums with them wrap around.
    fn offset() -> impl Strategy<Value = usize> {
        prop_oneof![
            4 => 0..80_usize,
            1 => (0..80_usize).prop_map(|n| usize::MAX - n),
            1 => (0..80_usize).prop_map(|n| isize::MAX as usize - 40 + n),
            1 => any::<usize>(),
        ]
    }

    /// The `N` octets of a slice from an offset on.
    fn part<const N: usize>(octets: &[u8], offset: usize) -> Option<[u8; N]> {
        octets.get(offset..)?.first_chunk().copied()
    }

    proptest! {
        /// A view reads what a slice reads, and nothing where that has nothing.
        #[test]
        fn a_view_sees_what_a_slice_sees(
            octets in prop::collection::vec(any::<u8>(), 0..64),
            skips in prop::collection::vec(offset(), 0..3),
            at in offset(),
        ) {
            let mut buffer = Buffer::new(&octets);
            let mut view = buffer.view();
            let mut left = &octets[..];
            for octets in skips {
                view = view.skip(octets);
                left = &left[octets.min(left.len())..];
            }
            prop_assert_eq!(view.len(), left.len());
            prop_assert_eq!(view.is_empty(), left.is_empty());
            prop_assert_eq!(view.u8(at), part(left, at).map(|[octet]| octet));
            prop_assert_eq!(view.fresh_u8(at), view.u8(at));
            let memory16 = view.be16(at).map(Be16::memory);
            prop_assert_eq!(memory16, part(left, at).map(u16::from_ne_bytes));
            let memory32 = view.be32(at).map(Be32::memory);
            prop_assert_eq!(memory32, part(left, at).map(u32::from_ne_bytes));
            prop_assert_eq!(view.be64_memory(at), part(left, at).map(u64::from_ne_bytes));
            let window = view.window::<12>(at).map(|window| {
                let (a, b) = (window.u64(0), window.u32(8));
                [&a.to_ne_bytes()[..], &b.to_ne_bytes()].concat()
            });
            prop_assert_eq!(window, part::<12>(left, at).map(Vec::from));
        }

        /// And it writes there, and nowhere else.
        #[test]
        fn a_view_writes_where_a_slice_writes(
            octets in prop::collection::vec(any::<u8>(), 0..64),
            skip in offset(),
            at in offset(),
            value in any::<u64>(),
        ) {
            let mut expected = octets.clone();
            let start = skip.min(octets.len());
            let place = expected[start..].get_mut(at..);
            let place = place.and_then(|place| place.first_chunk_mut());
            let is_there = place.map(|place| *place = value.to_ne_bytes()).is_some();
            let mut buffer = Buffer::new(&octets);
            let written = buffer.view().skip(skip).set_be64_memory(at, value);
            prop_assert_eq!(written.is_some(), is_there);
            prop_assert_eq!(buffer.frame(), expected);
        }
    }
}
