//! A frame in memory of the host.

use std::{vec, vec::Vec};

use crate::wire::frame::{Frame, View};

/// Room before a frame, as XDP drivers leave it.
const HEADROOM: usize = 256;

/// A frame in memory of the host, with the headroom that XDP drivers leave.
#[derive(Clone, Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// A buffer that holds `frame`.
    pub fn new(frame: &[u8]) -> Self {
        let mut bytes = vec![0; HEADROOM];
        bytes.extend_from_slice(frame);
        Self {
            bytes,
            start: HEADROOM,
        }
    }

    /// The frame as it is now.
    pub fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Frame for Buffer {
    fn view(&mut self) -> View<'_> {
        let range = self.bytes.as_mut_ptr_range();
        // SAFETY: the vector's own memory; it is not resized while a view is in use, since
        // every method that does takes the buffer mutably and makes earlier views stale.
        unsafe { View::new(range.start.add(self.start), range.end) }
    }

    fn adjust_head(&mut self, octets: i32) -> bool {
        match self.start.checked_add_signed(octets as isize) {
            // The kernel keeps an Ethernet header's worth of data.
            Some(start) if start + 14 <= self.bytes.len() => {
                self.start = start;
                true
            }
            _ => false,
        }
    }

    fn trim(&mut self, octets: u32) -> bool {
        let left = self.frame().len().checked_sub(octets as usize);
        match left {
            Some(left) if left >= 14 => {
                self.bytes.truncate(self.start + left);
                true
            }
            _ => false,
        }
    }

    fn grow(&mut self, octets: u32) -> bool {
        self.bytes.resize(self.bytes.len() + octets as usize, 0);
        true
    }
}
