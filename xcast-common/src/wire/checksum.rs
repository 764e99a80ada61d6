//! One's complement arithmetic (RFC 1071, RFC 1624), on fields as they lie in memory.
//!
//! One's complement sums do not depend on byte order as long as everything is added, and stored,
//! the same way round (RFC 1071 section 2 (B)); so nothing here swaps bytes.

use super::{
    ETH_LEN,
    frame::{View, Window},
    xcast4::XCAST_AT,
};

/// A running one's complement sum, of 65,536 words of 32 bits at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds a 32-bit word, given as it lies in memory.
    #[inline(always)]
    pub const fn add32(self, memory: u32) -> Self {
        Self(self.0 + memory as u64)
    }

    /// Adds two 32-bit words, given as they lie in memory.
    #[inline(always)]
    pub const fn add64(self, memory: u64) -> Self {
        Self(self.0 + (memory & 0xffff_ffff) + (memory >> 32))
    }

    /// Adds a 16-bit word, given as it lies in memory.
    #[inline(always)]
    pub const fn add16(self, memory: u16) -> Self {
        Self(self.0 + memory as u64)
    }

    /// Takes a 32-bit word out, by adding its complement.
    #[inline(always)]
    pub const fn sub32(self, memory: u32) -> Self {
        self.add32(!memory)
    }

    /// Takes a 16-bit word out, by adding its complement.
    #[inline(always)]
    pub const fn sub16(self, memory: u16) -> Self {
        self.add16(!memory)
    }

    /// The sum folded to 16 bits, not complemented; as memory.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        // By 16 bits each time: BPF has no instruction that masks 32.
        Self((self.0 & 0xffff) + (self.0 >> 16)).fold_few()
    }

    /// The same, in fewer steps, of sixteen words of 32 bits at most.
    #[inline(always)]
    pub const fn fold_few(self) -> u16 {
        let sum = (self.0 & 0xffff) + (self.0 >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum + (sum >> 16)) as u16
    }

    /// The checksum field of data with this sum; as memory.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Starts an update of a checksum field whose present value, as memory, is `checksum`
/// (RFC 1624 equation 3, which is also RFC 5058 section 10.1).
#[inline(always)]
pub const fn update(checksum: u16) -> Sum {
    Sum(0).add16(!checksum)
}

/// Sum over `words` 32-bit words from `offset` on, at most `MAX`; `None` if the frame ends before.
#[inline(always)]
pub fn sum_words<const MAX: u32>(view: View<'_>, offset: usize, words: u32) -> Option<Sum> {
    let mut sum = Sum::default();
    // Four words at a time: a quarter of the iterations, for the machine as for the verifier.
    for quad in 0..MAX / 4 + 1 {
        if 4 * quad + 4 > words {
            break;
        }
        let at = offset + 16 * quad as usize;
        view.at::<16>(at)?;
        sum = sum.add64(view.be64_memory(at)?);
        sum = sum.add64(view.be64_memory(at + 8)?);
    }
    for rest in 0..3 {
        if (words & !3) + rest < words {
            let at = offset + 4 * ((words & !3 & 0x3ff) + rest) as usize;
            sum = sum.add32(view.be32(at)?.memory());
        }
    }
    Some(sum)
}

/// Sum over the IPv4 header without options of a frame that begins with this.
#[inline(always)]
pub fn sum_ipv4(header: Window<'_, XCAST_AT>) -> Sum {
    (0..5).fold(Sum::default(), |sum, word| {
        sum.add32(header.u32(ETH_LEN + 4 * word))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(words: &[u16]) -> u16 {
        let mut sum = 0u32;
        for &word in words {
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn incremental_equals_full(words in prop::collection::vec(any::<u16>(), 4..40), new in any::<u32>()) {
            let old_checksum = full(&words);
            let old = u32::from(words[0]) | u32::from(words[1]) << 16;
            let updated = update(old_checksum).sub32(old).add32(new).checksum();
            let mut changed = words.clone();
            changed[0] = new as u16;
            changed[1] = (new >> 16) as u16;
            let expected = full(&changed);
            // Zero has two representations in one's complement.
            prop_assert!(updated == expected || (updated ^ expected) == 0xffff && (updated == 0 || expected == 0));
        }

        #[test]
        fn folding_any_sum_is_the_same_modulo_65535(many in 0..1_u64 << 48, few in 0..1_u64 << 36) {
            prop_assert_eq!(u64::from(Sum(many).fold()) % 65535, many % 65535);
            prop_assert_eq!(u64::from(Sum(few).fold()) % 65535, few % 65535);
            prop_assert_eq!(u64::from(Sum(few).fold_few()) % 65535, few % 65535);
            // Zero only if everything was.
            prop_assert_eq!(Sum(few).fold_few() == 0, few == 0);
        }

        #[test]
        fn folding_where_it_carries(high in 0xff00..=0xffff_u64, low in 0xff00..=0xffff_u64, top in 0xff00..=0xffff_u64) {
            for raw in [top << 32 | high << 16 | low, (top & 0xf) << 32 | high << 16 | low] {
                prop_assert_eq!(u64::from(Sum(raw).fold()) % 65535, raw % 65535);
            }
            let few = (top & 0xf) << 32 | high << 16 | low;
            prop_assert_eq!(u64::from(Sum(few).fold_few()) % 65535, few % 65535);
        }
    }
}
