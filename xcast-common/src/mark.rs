//! What a frame carries from the program that decided to the program that runs once per copy: the
//! serial number of its plan.
//!
//! It stands where the Ethernet addresses are, which every copy gets anew. So there is nothing to
//! make room for and nothing to strip, and a driver's room for metadata does not matter. What tells
//! a marked frame from any other is a secret of this load of the programs: a frame that carries it
//! was marked by them.

use crate::{family::Family, maps::Settings, view::View, wire::eth};

/// Length of the secret, in octets; the serial number follows it, and both together are as long as two
/// Ethernet addresses.
const SECRET_LEN: usize = 8;
/// Length of both.
const MARK_LEN: usize = SECRET_LEN + size_of::<u32>();

/// Marks a frame with the serial number of its plan; `None` if it ends before.
#[inline(always)]
pub fn write<F: Family>(view: View, settings: &Settings, nonce: u32) -> Option<()> {
    let addresses = view.window::<MARK_LEN>(eth::DESTINATION)?;
    addresses.set_u64(0, secret::<F>(settings));
    addresses.set_u32(SECRET_LEN, nonce);
    Some(())
}

/// The serial number of the plan that a frame of this family is marked with.
#[inline(always)]
pub fn read<F: Family>(view: View, settings: &Settings) -> Option<u32> {
    let addresses = view.window::<MARK_LEN>(eth::DESTINATION)?;
    (addresses.u64(0) == secret::<F>(settings)).then(|| addresses.u32(SECRET_LEN))
}

/// Families differ in it, since each has plans of its own.
#[inline(always)]
fn secret<F: Family>(settings: &Settings) -> u64 {
    settings.mark ^ F::VERSION as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        family::{V4, V6},
        view::{Buffer, Frame as _},
    };

    #[test]
    fn only_what_was_marked_is_read() {
        let settings = Settings {
            mark: 0x0123_4567_89ab_cdef,
            ..Settings::default()
        };
        let mut frame = Buffer::new(&[2; 60]);
        assert_eq!(read::<V4>(frame.view(), &settings), None);
        write::<V4>(frame.view(), &settings, 5058).unwrap();
        assert_eq!(read::<V4>(frame.view(), &settings), Some(5058));
        assert_eq!(read::<V6>(frame.view(), &settings), None);
        let other = Settings {
            mark: 1,
            ..settings
        };
        assert_eq!(read::<V4>(frame.view(), &other), None);
        assert_eq!(frame.frame()[12..], [2; 48]);
    }
}
