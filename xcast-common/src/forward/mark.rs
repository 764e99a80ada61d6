//! What a frame carries from the program that decides to the program that runs once per copy: the
//! serial number of its plan, and the sums that were begun.
//!
//! The mark replaces the Ethernet addresses, which every copy gets anew. So no room has to be
//! made or removed, and it does not matter whether the driver leaves room for metadata. A marked frame is recognised by a secret that is
//! new each time the programs are loaded: only they can have written it.

use crate::{
    family::traits::Family,
    maps::settings::Settings,
    wire::{eth, frame::View},
};

/// Bits of the secret; those above in the first 64 are a serial number and whether the frame was stripped.
const SECRET_BITS: u32 = 48;
/// Mask of the secret in a word.
const SECRET_MASK: u64 = (1 << SECRET_BITS) - 1;
/// Length of both, in octets; two sums follow, and all is as long as two Ethernet addresses.
const WORD_LEN: usize = 8;
/// Length of a mark, in octets.
const MARK_LEN: usize = 12;

/// Bits of a plan's serial number.
pub const SERIAL_BITS: u32 = u64::BITS - SECRET_BITS - 1;
/// The highest serial number, after which comes 0.
pub const MAX_SERIAL: u32 = (1 << SERIAL_BITS) - 1;

/// The sums that [`strip`](super::emit::strip) began, to be finished for each copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    /// The sum that the IP header's checksum is of, without the destination; as memory. Undefined for IPv6.
    pub ip_sum: u16,
    /// The same for the checksum of the transport header; 0 if there is none to be changed. As a sum of what is not
    /// all zeros, it is not 0 otherwise.
    pub transport_sum: u16,
}

/// What a frame is marked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Serial number of the packet's plan.
    pub serial: u32,
    /// What [`strip`](super::emit::strip) said, if the frame is without its Xcast header.
    pub stripped: Option<Stripped>,
    /// [`Packet::to_stack`](crate::packet::Packet::to_stack), for the rest that recirculates; not of a stripped frame.
    pub to_stack: bool,
}

/// Marks a frame; `None` if it ends before.
#[inline(always)]
pub fn write<F: Family>(view: View, settings: &Settings, mark: Mark) -> Option<()> {
    let addresses = view.window::<MARK_LEN>(eth::DESTINATION)?;
    let above = u64::from(mark.serial << 1 | mark.stripped.is_some() as u32);
    addresses.set_u64(0, secret::<F>(settings) | above << SECRET_BITS);
    let sums = match mark.stripped {
        Some(sums) => u32::from(sums.ip_sum) << 16 | u32::from(sums.transport_sum),
        None => mark.to_stack as u32,
    };
    addresses.set_u32(WORD_LEN, sums);
    Some(())
}

/// What a frame of this family is marked with.
#[inline(always)]
pub fn read<F: Family>(view: View, settings: &Settings) -> Option<Mark> {
    let addresses = view.window::<MARK_LEN>(eth::DESTINATION)?;
    let word = addresses.u64(0);
    if (word ^ secret::<F>(settings)) & SECRET_MASK != 0 {
        return None;
    }
    let above = (word >> SECRET_BITS) as u32;
    let sums = addresses.u32(WORD_LEN);
    let stripped = Stripped {
        ip_sum: (sums >> 16) as u16,
        transport_sum: sums as u16,
    };
    let is_stripped = above & 1 != 0;
    Some(Mark {
        serial: above >> 1,
        stripped: is_stripped.then_some(stripped),
        to_stack: !is_stripped && sums != 0,
    })
}

/// Each family has its own, since each has its own plans.
#[inline(always)]
fn secret<F: Family>(settings: &Settings) -> u64 {
    (settings.mark ^ F::VERSION as u64) & SECRET_MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        family::{V4, V6},
        host::Buffer,
        wire::frame::Frame as _,
    };

    #[test]
    fn only_what_was_marked_is_read() {
        let settings = Settings {
            mark: 0x0123_4567_89ab_cdef,
            ..Settings::default()
        };
        let mut frame = Buffer::new(&[2; 60]);
        assert_eq!(read::<V4>(frame.view(), &settings), None);
        let sums = Stripped {
            ip_sum: 0xfedc,
            transport_sum: 0xba98,
        };
        for (stripped, to_stack) in [(Some(sums), false), (None, true), (None, false)] {
            let mark = Mark {
                serial: MAX_SERIAL - 5058,
                stripped,
                to_stack,
            };
            write::<V4>(frame.view(), &settings, mark).unwrap();
            assert_eq!(read::<V4>(frame.view(), &settings), Some(mark));
        }
        assert_eq!(read::<V6>(frame.view(), &settings), None);
        let other = Settings {
            mark: 1,
            ..settings
        };
        assert_eq!(read::<V4>(frame.view(), &other), None);
        assert_eq!(frame.frame()[12..], [2; 48]);
    }
}
