//! Which copies leave by which ports: the sets that device maps are installed for.

use super::port::MAX_PORTS;

/// Groups of eight slots, whose copies are one word of a [`FanoutKey`].
pub const SLOT_GROUPS: usize = MAX_PORTS / 8;
/// Preset fan-outs of a group: each set of its slots, alone and with recirculation.
pub const GROUP_PRESETS: usize = 512;
/// Most copies by one port that are a preset fan-out.
pub const MAX_REPEATS: u32 = 8;
/// Where the device maps of several copies by one port begin, behind those of sets of ports.
const REPEATS: u32 = (SLOT_GROUPS * GROUP_PRESETS) as u32;
/// Preset fan-outs in all; there is a device map for each.
pub const PRESET_FANOUTS: usize = REPEATS as usize + MAX_PORTS * MAX_REPEATS as usize;
/// Other fan-outs that can be installed at once.
pub const MAX_FANOUTS: u32 = 4096;

/// How many copies leave by each port: the exact set a device map is installed for.
///
/// Copies on the same port are interchangeable, so order does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Aligned, so that it is written and compared in words.
#[repr(C, align(8))]
pub struct FanoutKey {
    /// Copies per port slot.
    pub copies: [u8; MAX_PORTS],
}

impl FanoutKey {
    /// No copy at all.
    pub const EMPTY: Self = Self {
        copies: [0; MAX_PORTS],
    };

    /// Forgets all copies.
    #[inline(always)]
    pub fn clear(&mut self) {
        let start = core::ptr::from_mut(self).cast::<u64>();
        for group in 0..SLOT_GROUPS {
            // Word by word, and so that LLVM sees no `memset` in it, which on BPF takes octet by octet.
            // SAFETY: aligned and long enough, by the assertions below.
            unsafe { start.add(group).write_volatile(0) };
        }
    }

    /// Copies of the slots in a group, one octet each, that of the first slot lowest.
    #[inline(always)]
    pub fn group(&self, group: usize) -> u64 {
        // Read as the word it is: LLVM would take the octets one by one.
        // SAFETY: aligned and long enough, by the assertions below; any bits are a number.
        let word = unsafe {
            core::ptr::from_ref(self)
                .cast::<u64>()
                .add(group)
                .read_volatile()
        };
        u64::from_le(word)
    }

    /// The preset fan-out with most of these copies, or an empty one if there are no copies at all.
    #[inline(always)]
    pub fn preset(&self) -> PresetFanout {
        let mut last = 0;
        let mut copies = 0;
        let mut groups = 0;
        for group in 0..SLOT_GROUPS {
            let word = self.group(group);
            if word != 0 {
                last = group as u32;
                copies = word;
                groups += 1;
            }
        }
        // At most 127 in each octet, so nothing is carried from one to the next.
        let wanted = (copies + 0x7f7f_7f7f_7f7f_7f7f) >> 7 & 0x0101_0101_0101_0101;
        let mut repeats = 1;
        if copies != wanted && wanted & wanted.wrapping_sub(1) == 0 {
            // The only octet that is not zero.
            repeats = (copies.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32;
        }
        PresetFanout {
            group: last,
            // Octet k of the one factor times octet 7 - k of the other: all meet in the highest.
            slots: (wanted.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32,
            repeats,
            is_all: groups == 1 && (copies == wanted || repeats > 1 && repeats <= MAX_REPEATS),
        }
    }

    /// Number of copies in all.
    pub fn total(&self) -> u32 {
        self.copies.iter().map(|&n| u32::from(n)).sum()
    }
}

impl Default for FanoutKey {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Slots of one group, one copy each, or one slot with several: frequent enough that there is a device
/// map for each from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresetFanout {
    /// The group of slots.
    pub group: u32,
    /// A bit for each slot of it, the first slot's lowest.
    pub slots: u32,
    /// Copies by its slot, if it has only one; else 1.
    pub repeats: u32,
    /// Whether it has all copies that were asked for.
    pub is_all: bool,
}

impl PresetFanout {
    /// Index of its device map.
    #[inline(always)]
    pub fn index(self) -> u32 {
        if self.repeats == 1 {
            return self.group * GROUP_PRESETS as u32 + (self.slots & 0xff);
        }
        // Whose bit is set, in binary.
        let bit = ((self.slots & 0xf0 != 0) as u32) << 2
            | ((self.slots & 0xcc != 0) as u32) << 1
            | (self.slots & 0xaa != 0) as u32;
        REPEATS + (8 * self.group + bit) * MAX_REPEATS + self.repeats.wrapping_sub(1) % MAX_REPEATS
    }

    /// Index of the device map that has one copy for each slot, and `xcast0` to recirculate the rest.
    #[inline(always)]
    pub fn index_with_rest(self) -> u32 {
        self.group * GROUP_PRESETS as u32 + 256 + (self.slots & 0xff)
    }

    /// The slots of the set of one copy each with this index within its group.
    pub fn slots_of(group: u32, index: u32) -> impl Iterator<Item = usize> {
        let slots = (0..8).filter(move |slot| index & 1 << slot != 0);
        slots.map(move |slot| 8 * group as usize + slot)
    }
}

/// Where the device map of a fan-out is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FanoutEntry {
    /// Index into the map of device maps.
    pub index: u32,
    /// When the fan-out was last used, in units of 2^10 jiffies; for least-recently-used reuse.
    pub last_used: u32,
}

const _: () = {
    assert!(size_of::<FanoutKey>() == MAX_PORTS && align_of::<FanoutKey>() == 8);
    assert!(size_of::<FanoutEntry>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn fanout(copies: &[(usize, u8)]) -> FanoutKey {
        let mut key = FanoutKey::EMPTY;
        for &(slot, count) in copies {
            key.copies[slot] = count;
        }
        key
    }

    #[test]
    fn preset_fanouts() {
        let preset = |copies| fanout(copies).preset();
        let set = |group, slots, repeats, is_all| PresetFanout {
            group,
            slots,
            repeats,
            is_all,
        };
        assert_eq!(
            preset(&[(8, 1), (11, 1), (15, 1)]),
            set(1, 0b1000_1001, 1, true)
        );
        assert_eq!(preset(&[(8, 2), (9, 1)]), set(1, 0b11, 1, false));
        assert_eq!(
            preset(&[(8, 1), (70, 127), (71, 1)]),
            set(8, 0b1100_0000, 1, false)
        );
        assert_eq!(preset(&[(0, 1), (8, 1)]), set(1, 1, 1, false));
        assert_eq!(preset(&[(0, 1), (1, 1)]), set(0, 0b11, 1, true));
        assert_eq!(preset(&[(8, 1), (71, 8)]), set(8, 0x80, 8, false));
        assert_eq!(preset(&[(71, 9)]), set(8, 0x80, 9, false));
        assert_eq!(preset(&[(71, 8)]), set(8, 0x80, 8, true));
        assert_eq!(set(8, 0x80, 8, true).index() as usize, PRESET_FANOUTS - 1);
        let index = set(1, 0b1000_0101, 1, true).index();
        for index in [index, set(1, 0b1000_0101, 3, false).index_with_rest()] {
            assert!(PresetFanout::slots_of(1, index - GROUP_PRESETS as u32).eq([8, 10, 15]));
        }
    }

    #[test]
    fn preset_fanouts_have_indices_of_their_own() {
        let mut indices = std::collections::HashSet::new();
        for group in 0..SLOT_GROUPS as u32 {
            for slots in 0..256_u32 {
                let most = if slots.count_ones() == 1 {
                    MAX_REPEATS
                } else {
                    1
                };
                for repeats in 1..=most {
                    let set = PresetFanout {
                        group,
                        slots,
                        repeats,
                        is_all: true,
                    };
                    assert!(indices.insert(set.index()));
                }
            }
            assert!(
                indices
                    .iter()
                    .all(|index| (*index as usize) < PRESET_FANOUTS)
            );
        }
    }
}
