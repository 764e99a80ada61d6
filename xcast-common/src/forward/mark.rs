//! What a frame carries from the program that decides to the program that runs once per copy: the
//! serial number of its plan, the sums that were begun, and how much of the frame is hidden.
//!
//! The mark replaces the Ethernet addresses, which every copy gets anew. So no room has to be
//! made or removed, and it does not matter whether the driver leaves room for metadata. A marked frame is recognised by a secret that
//! only the programs have: nobody else can have written it.
//!
//! When programs replace others, frames of both are under way for a moment. The two *generations* share the
//! secret but for its lowest bit, so each knows the other's marks, and leaves those frames to the other's programs (ADR 14).

use crate::{
    family::{V4, V6, traits::Family},
    maps::settings::Settings,
    packet::Packet,
    wire::{
        eth,
        frame::{Frame, View},
    },
};

/// Bits of the secret; those above in the first 64 are a serial number and whether the frame was stripped.
const SECRET_BITS: u32 = 48;
/// Mask of the secret in a word.
const SECRET_MASK: u64 = (1 << SECRET_BITS) - 1;
/// Length of both, in octets; two sums follow, and all is as long as two Ethernet addresses.
const WORD_LEN: usize = 8;
/// Length of a mark, in octets.
const MARK_LEN: usize = 12;

/// Most octets that are hidden, as a mask: a bound that the verifier sees, and more than a linear frame has.
const MAX_HIDDEN: u32 = 0xfff;

/// Bits of a plan's serial number.
pub const SERIAL_BITS: u32 = u64::BITS - SECRET_BITS - 1;
/// The highest serial number, after which comes 0.
pub const MAX_SERIAL: u32 = (1 << SERIAL_BITS) - 1;

/// Bit of the serial number that says [`Packet::to_stack`]; the arrival's slot is below.
const REST_TO_STACK: u32 = u8::BITS;

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
    /// Serial number of the packet's plan. In a frame that comes round once more, which gets a new plan, what
    /// [`of_rest`](Self::of_rest) says.
    pub serial: u32,
    /// What was done to the frame since its packet arrived.
    pub state: State,
}

impl Mark {
    /// The mark of what is left of a packet and comes round once more: the slot of the port that it arrived at, whether
    /// all of it goes to the stack, and who pays for it.
    #[inline(always)]
    pub fn of_rest(packet: &Packet, payer: u32) -> Self {
        Self {
            serial: u32::from(packet.arrival) | u32::from(packet.to_stack) << REST_TO_STACK,
            // Nothing of it is hidden, so the word is free.
            state: State::Whole { hidden: payer },
        }
    }

    /// The [bucket](super::limits::bucket_of) of who pays for the packet, in a frame that comes round once more.
    #[inline(always)]
    pub fn payer(self) -> u32 {
        match self.state {
            State::Whole { hidden } => hidden,
            State::Stripped(_) => 0,
        }
    }

    /// [`Packet::arrival`], in a frame that comes round once more.
    #[inline(always)]
    pub fn arrival(self) -> u8 {
        self.serial as u8
    }

    /// [`Packet::to_stack`], in a frame that comes round once more.
    #[inline(always)]
    pub fn is_to_stack(self) -> bool {
        self.serial >> REST_TO_STACK & 1 != 0
    }
}

/// What was done to a frame since its packet arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The frame is as it arrived, except that so many octets were [hidden](hide).
    Whole {
        /// Number of hidden octets; 0, or at least the length of a mark.
        hidden: u32,
    },
    /// It is without its Xcast header, and this is what [`strip`](super::emit::strip) said.
    Stripped(Stripped),
}

/// Hides the frame's first octets, so many that it is at most `len` octets long, for the kernel compares a frame with
/// the MTU of a port before the copy for that port becomes shorter. They stay where they are, in the headroom, and
/// are copied with it. Returns how many there are; `None` if the frame is too short to be marked without them.
///
/// The Ethernet addresses in front are not needed any more. They make room for the octets that the mark will
/// replace.
#[inline(always)]
pub fn hide(frame: &mut impl Frame, len: u32) -> Option<u32> {
    let excess = (frame.view().len() as u32).saturating_sub(len);
    if excess == 0 {
        return Some(0);
    }
    // The two places must not overlap.
    let hidden = (excess + MARK_LEN as u32) & MAX_HIDDEN;
    let view = frame.view();
    move_mark(view.skip(hidden as usize), view)?;
    frame.adjust_head(hidden as i32).then_some(hidden)
}

/// Shows so many hidden octets again.
#[inline(always)]
pub fn show(frame: &mut impl Frame, hidden: u32) -> Option<()> {
    if hidden == 0 {
        return Some(());
    }
    let hidden = hidden & MAX_HIDDEN;
    if !frame.adjust_head(-(hidden as i32)) {
        return None;
    }
    let view = frame.view();
    move_mark(view, view.skip(hidden as usize))
}

/// Copies as many octets as a mark has from the start of one view to the start of another.
#[inline(always)]
fn move_mark(from: View<'_>, to: View<'_>) -> Option<()> {
    let (from, to) = (from.window::<MARK_LEN>(0)?, to.window::<MARK_LEN>(0)?);
    to.set_u64(0, from.u64(0));
    to.set_u32(WORD_LEN, from.u32(WORD_LEN));
    Some(())
}

/// Marks a frame; `None` if it ends before.
#[inline(always)]
pub fn write<F: Family>(view: View<'_>, settings: &Settings, mark: Mark) -> Option<()> {
    let addresses = view.window::<MARK_LEN>(eth::DESTINATION)?;
    let (is_stripped, word) = match mark.state {
        State::Whole { hidden } => (0, hidden),
        State::Stripped(sums) => (
            1,
            u32::from(sums.ip_sum) << 16 | u32::from(sums.transport_sum),
        ),
    };
    let above = u64::from(mark.serial << 1 | is_stripped);
    addresses.set_u64(0, secret::<F>(settings) | above << SECRET_BITS);
    addresses.set_u32(WORD_LEN, word);
    Some(())
}

/// What a frame of this family is marked with.
#[inline(always)]
pub fn read<F: Family>(view: View<'_>, settings: &Settings) -> Option<Mark> {
    let addresses = view.window::<MARK_LEN>(eth::DESTINATION)?;
    let word = addresses.u64(0);
    if (word ^ secret::<F>(settings)) & SECRET_MASK != 0 {
        return None;
    }
    let above = (word >> SECRET_BITS) as u32;
    let word = addresses.u32(WORD_LEN);
    let state = if above & 1 == 0 {
        State::Whole { hidden: word }
    } else {
        State::Stripped(Stripped {
            ip_sum: (word >> 16) as u16,
            transport_sum: word as u16,
        })
    };
    Some(Mark {
        serial: above >> 1,
        state,
    })
}

/// Whether a frame has a mark of the other generation, of either family.
#[inline(always)]
pub fn is_of_other_generation(view: View<'_>, settings: &Settings) -> bool {
    const FAMILIES_DIFFER_IN: u64 = V4::VERSION as u64 ^ V6::VERSION as u64;
    let Some(addresses) = view.window::<MARK_LEN>(eth::DESTINATION) else {
        return false;
    };
    let differs = (addresses.u64(0) ^ settings.mark ^ 1) & SECRET_MASK;
    differs & !FAMILIES_DIFFER_IN == (V4::VERSION & V6::VERSION) as u64
}

/// Each family has its own, since each has its own plans.
#[inline(always)]
fn secret<F: Family>(settings: &Settings) -> u64 {
    (settings.mark ^ F::VERSION as u64) & SECRET_MASK
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::host::Buffer;

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
        for state in [State::Stripped(sums), State::Whole { hidden: 1234 }] {
            let mark = Mark {
                serial: MAX_SERIAL - 5058,
                state,
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
        assert!(!is_of_other_generation(frame.view(), &other));
        assert_eq!(frame.frame()[12..], [2; 48]);
    }

    #[test]
    fn the_rest_keeps_where_it_arrived_where_it_goes_and_who_pays() {
        for to_stack in [true, false] {
            let packet = Packet {
                arrival: u8::MAX,
                to_stack,
                ..Packet::default()
            };
            let mut frame = Buffer::new(&[2; 60]);
            let settings = Settings::default();
            write::<V6>(frame.view(), &settings, Mark::of_rest(&packet, 0xffff)).unwrap();
            let mark = read::<V6>(frame.view(), &settings).unwrap();
            assert_eq!(mark.arrival(), packet.arrival);
            assert_eq!(mark.is_to_stack(), to_stack);
            assert_eq!(mark.payer(), 0xffff);
        }
    }

    #[test]
    fn what_is_hidden_is_shown_again() {
        let octets: Vec<u8> = (0..200).collect();
        for len in [40, 100, 187, 188, 189, 199, 200, 201] {
            let mut frame = Buffer::new(&octets);
            let hidden = hide(&mut frame, len).unwrap();
            assert_eq!(hidden == 0, len >= 200);
            assert!(frame.frame().len() <= 200.min(len as usize));
            let mark = Mark {
                serial: 7,
                state: State::Whole { hidden },
            };
            write::<V6>(frame.view(), &Settings::default(), mark).unwrap();
            show(&mut frame, hidden).unwrap();
            assert_eq!(frame.frame()[12..], octets[12..]);
        }
        assert_eq!(hide(&mut Buffer::new(&octets), 0), None);
    }

    #[test]
    fn generations_know_each_others_marks() {
        let settings = Settings {
            mark: 0x0123_4567_89ab_cdef,
            ..Settings::default()
        };
        let other = Settings {
            mark: settings.mark ^ 1,
            ..settings
        };
        assert_ne!(settings.generation(), other.generation());
        let mark = Mark {
            serial: 5058,
            state: State::Whole { hidden: 0 },
        };
        let mut frame = Buffer::new(&[2; 60]);
        assert!(!is_of_other_generation(frame.view(), &settings));
        let marks = [write::<V4>, write::<V6>];
        for write in marks {
            write(frame.view(), &settings, mark).unwrap();
            assert!(!is_of_other_generation(frame.view(), &settings));
            assert!(is_of_other_generation(frame.view(), &other));
            assert_eq!(read::<V4>(frame.view(), &other), None);
            assert_eq!(read::<V6>(frame.view(), &other), None);
        }
    }
}
