//! One direction of a link: latency, rate, a queue before it, and loss.

use std::{collections::VecDeque, num::NonZeroU64};

use super::time::Time;
use crate::random::Random;

/// What one direction of a link is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LineSettings {
    /// From one end to the other, in nanoseconds.
    pub latency_ns: u64,
    /// Bits a second; none: a packet takes no time beside the latency.
    pub bits_per_second: Option<NonZeroU64>,
    /// Most octets that may wait, without the packet that is on its way out. Where there is no
    /// rate none ever waits.
    pub queue_octets: u64,
    /// Probability that a packet that left is lost, from 0 to 1.
    pub loss: f64,
}

/// One direction of a link. Packets are first in, first out, and those that find the queue full
/// are dropped (drop tail).
#[derive(Clone, Debug)]
pub struct Line {
    settings: LineSettings,
    /// When the last packet so far has left.
    free_at: Time,
    /// When packets in the queue start to leave, and their lengths.
    waiting: VecDeque<(Time, u32)>,
    waiting_octets: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its last bit is at the other end then.
    Arrives(Time),
    /// It left, and is lost.
    Lost,
    /// The queue was full.
    Dropped,
}

impl Line {
    /// A line on which nothing has been sent.
    #[must_use]
    pub fn new(settings: LineSettings) -> Self {
        Self {
            settings,
            free_at: Time::default(),
            waiting: VecDeque::new(),
            waiting_octets: 0,
        }
    }

    /// Sends a packet; calls have to be in order of time.
    pub fn send(&mut self, now: Time, octets: u32, random: &mut Random) -> Fate {
        while let Some(&(start, length)) = self.waiting.front()
            && start <= now
        {
            self.waiting.pop_front();
            self.waiting_octets -= u64::from(length);
        }
        let start = self.free_at.max(now);
        if start > now {
            if self.waiting_octets + u64::from(octets) > self.settings.queue_octets {
                return Fate::Dropped;
            }
            self.waiting.push_back((start, octets));
            self.waiting_octets += u64::from(octets);
        }
        let rate = self.settings.bits_per_second;
        self.free_at = start + rate.map_or(0, |rate| duration_ns(octets, rate));
        if random.chance(self.settings.loss) {
            return Fate::Lost;
        }
        Fate::Arrives(self.free_at + self.settings.latency_ns)
    }
}

/// How long it takes to send a packet, rounded up.
fn duration_ns(octets: u32, bits_per_second: NonZeroU64) -> u64 {
    (u64::from(octets) * 8_000_000_000).div_ceil(bits_per_second.get())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: LineSettings = LineSettings {
        latency_ns: 5_000_000,
        bits_per_second: NonZeroU64::new(8_000_000),
        queue_octets: 1500,
        loss: 0.0,
    };

    #[test]
    fn rate_queue_and_latency_by_hand() {
        let mut line = Line::new(SETTINGS);
        let random = &mut Random::new(1);
        // 1000 octets take 1 ms, and 5 ms to the other end.
        let mut send = |ms, octets| line.send(Time::from_ms(ms), octets, random);
        assert_eq!(send(0, 1000), Fate::Arrives(Time::from_ms(6)));
        assert_eq!(send(0, 1000), Fate::Arrives(Time::from_ms(7)));
        assert_eq!(send(0, 1000), Fate::Dropped);
        assert_eq!(send(0, 500), Fate::Arrives(Time(7_500_000)));
        // The second has begun to leave: only 500 octets wait.
        assert_eq!(send(1, 1000), Fate::Arrives(Time(8_500_000)));
        assert_eq!(send(10, 4000), Fate::Arrives(Time::from_ms(19)));
    }

    #[test]
    fn without_a_rate_there_is_latency_only() {
        let settings = LineSettings {
            bits_per_second: None,
            ..SETTINGS
        };
        let mut line = Line::new(settings);
        for _ in 0..5 {
            let fate = line.send(Time(7), 9000, &mut Random::new(1));
            assert_eq!(fate, Fate::Arrives(Time(5_000_007)));
        }
    }

    #[test]
    fn loss_is_as_likely_as_stated() {
        let settings = LineSettings {
            loss: 0.1,
            ..SETTINGS
        };
        let (mut line, mut random) = (Line::new(settings), Random::new(2));
        let fates = (0..10_000).map(|number| line.send(Time::from_ms(number), 1000, &mut random));
        let lost = fates.filter(|fate| *fate == Fate::Lost).count();
        // Six standard deviations: 6 * sqrt(10000 * 0.1 * 0.9) = 180.
        assert!(lost.abs_diff(1000) < 180, "{lost}");
    }

    proptest! {
        /// Arrivals are in the order of sending and no faster than the rate, and what waits is
        /// never more than the queue has room for.
        #[test]
        fn first_in_first_out(packets in prop::collection::vec((0_u64..2_000_000, 1_u32..1500), 1..100)) {
            let mut line = Line::new(SETTINGS);
            let mut random = Random::new(3);
            let mut now = Time::default();
            let mut last = Time::default();
            for (pause, octets) in packets {
                now = now + pause;
                if let Fate::Arrives(at) = line.send(now, octets, &mut random) {
                    prop_assert!(at >= last + u64::from(octets) * 1000);
                    prop_assert!(at >= now + u64::from(octets) * 1000 + SETTINGS.latency_ns);
                    last = at;
                }
                prop_assert!(line.waiting_octets <= SETTINGS.queue_octets);
                let sum: u64 = line.waiting.iter().map(|(_, octets)| u64::from(*octets)).sum();
                prop_assert_eq!(line.waiting_octets, sum);
            }
        }
    }
}
