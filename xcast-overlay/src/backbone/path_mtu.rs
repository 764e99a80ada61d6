//! The path MTU of a tunnel, as routers on the path report it (RFC 1191, RFC 8201).

use std::time::{Duration, Instant};

/// How long a report holds: then a larger packet is tried again (RFC 1191 section 6.3, RFC 8201 section 5.3).
pub const HOLD: Duration = Duration::from_secs(600);
/// The least that a report of IPv4 is believed, in octets: nobody can push a tunnel below it. The kernel's `min_pmtu`.
const LEAST_IPV4: u16 = 552;
/// Every link of IPv6 takes as much (RFC 8200 section 5).
const LEAST_IPV6: u16 = 1280;

/// What is known of a path: nothing at first, so that the link's own MTU holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathMtu {
    reported: Option<(u16, Instant)>,
}

impl PathMtu {
    /// A router reports that a packet was too big, and that `mtu_bytes` are not; 0 if it does not say how many.
    /// Returns whether the path MTU is another one now.
    pub fn too_big(&mut self, now: Instant, mtu_bytes: u32, is_ipv6: bool) -> bool {
        let least = if is_ipv6 { LEAST_IPV6 } else { LEAST_IPV4 };
        let mtu = u16::try_from(mtu_bytes).unwrap_or(u16::MAX).max(least);
        match self.bytes() {
            // Reports only lower it: one that raises it is old, or forged.
            Some(known) if mtu > known => false,
            known => {
                self.reported = Some((mtu, now));
                known != Some(mtu)
            }
        }
    }

    /// Forgets a report that has held for long enough. Returns whether it did.
    pub fn lapse(&mut self, now: Instant) -> bool {
        let lapsed = self.lapses_at().is_some_and(|at| at <= now);
        if lapsed {
            self.reported = None;
        }
        lapsed
    }

    /// When a report lapses.
    pub fn lapses_at(&self) -> Option<Instant> {
        self.reported.map(|(_, since)| since + HOLD)
    }

    /// The largest packet that is known to pass, in octets.
    pub fn bytes(&self) -> Option<u16> {
        self.reported.map(|(mtu, _)| mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_for_its_time() {
        let start = Instant::now();
        let mut path = PathMtu::default();
        assert_eq!(path.bytes(), None);
        assert!(path.too_big(start, 1400, false));
        assert!(!path.too_big(start, 1450, false));
        assert_eq!(path.bytes(), Some(1400));
        // The same again holds longer.
        let later = start + Duration::from_secs(60);
        assert!(!path.too_big(later, 1400, false));
        assert_eq!(path.lapses_at(), Some(later + HOLD));
        assert!(!path.lapse(start + HOLD));
        assert!(path.lapse(later + HOLD));
        assert_eq!(path.bytes(), None);
    }

    #[test]
    fn nobody_can_push_it_to_nothing() {
        let start = Instant::now();
        for (is_ipv6, least) in [(false, 552), (true, 1280)] {
            for reported in [0, 68, least - 1] {
                let mut path = PathMtu::default();
                assert!(path.too_big(start, reported, is_ipv6));
                assert_eq!(path.bytes().map(u32::from), Some(least));
            }
            let mut path = PathMtu::default();
            assert!(path.too_big(start, 100_000, is_ipv6));
            assert_eq!(path.bytes(), Some(u16::MAX));
        }
    }
}
