//! The latest packets to a router in UDP: where it turns out that one of them was refused, they are sent
//! again as datagrams. No I/O, no clock.
//!
//! A router that goes away leaves a host that answers with ICMP port unreachable, and a route that goes
//! away is answered by whoever has none. Either comes a round trip after the packet has left, and quotes
//! its beginning (RFC 792: Linux quotes up to 548 octets of a packet, RFC 4443: as much as fits 1280). All
//! that left after it went the same way.

use std::time::{Duration, Instant};

use super::destination::Options;
use crate::packet::Entry;

/// Most packets that are remembered.
const MOST: usize = 64;
/// How long an answer can be under way: the router is a hop away, or a few.
const ROUND_TRIP: Duration = Duration::from_millis(250);

/// A packet that has left.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    at: Instant,
    /// What it was sent with.
    pub options: Options,
    /// Its list.
    pub entries: Vec<Entry>,
    packet: Vec<u8>,
    payload_len: usize,
}

impl Left {
    /// What it carried.
    pub fn payload(&self) -> &[u8] {
        &self.packet[self.packet.len() - self.payload_len..]
    }
}

/// The packets that left last, in a ring whose memory is used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    packets: Vec<Left>,
    /// The oldest, once the ring is full.
    next: usize,
}

impl InFlight {
    /// Notes a packet that has left, whose last octets are the payload.
    pub fn note(
        &mut self,
        at: Instant,
        options: &Options,
        entries: &[Entry],
        packet: &[u8],
        payload_len: usize,
    ) {
        if self.packets.len() < MOST {
            self.packets.push(Left {
                at,
                options: options.clone(),
                entries: entries.to_vec(),
                packet: packet.to_vec(),
                payload_len,
            });
            return;
        }
        let left = &mut self.packets[self.next];
        left.at = at;
        left.options.clone_from(options);
        left.entries.clear();
        left.entries.extend_from_slice(entries);
        left.packet.clear();
        left.packet.extend_from_slice(packet);
        left.payload_len = payload_len;
        self.next = (self.next + 1) % MOST;
    }

    /// Whether an answer to a packet can still come.
    pub fn is_recent(&self, now: Instant) -> bool {
        let latest = match self.packets.len() {
            MOST => &self.packets[(self.next + MOST - 1) % MOST],
            len => match self.packets.get(len.wrapping_sub(1)) {
                Some(left) => left,
                None => return false,
            },
        };
        now.saturating_duration_since(latest.at) < ROUND_TRIP
    }

    /// Forgets all packets, and returns those that were refused, or left after one that was: in the
    /// order in which they left. `quotes` are the beginnings of packets that were refused.
    ///
    /// Packets that begin alike as far as they are quoted cannot be told apart. Then the oldest is
    /// taken for the one that was refused, so that nothing is lost.
    pub fn refused(&mut self, now: Instant, quotes: &[Vec<u8>]) -> Vec<Left> {
        let next = std::mem::take(&mut self.next);
        let mut packets = std::mem::take(&mut self.packets);
        packets.rotate_left(next);
        let is_refused = |left: &Left| {
            let quoted = |quote: &Vec<u8>| !quote.is_empty() && left.packet.starts_with(quote);
            now.saturating_duration_since(left.at) < ROUND_TRIP && quotes.iter().any(quoted)
        };
        let first = packets.iter().position(is_refused);
        packets.split_off(first.unwrap_or(packets.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(count: usize, start: Instant) -> InFlight {
        let mut in_flight = InFlight::default();
        for number in 0..count {
            let packet = [b"header".as_slice(), &number.to_be_bytes()].concat();
            let at = start + Duration::from_millis(number as u64);
            in_flight.note(at, &Options::default(), &[], &packet, 8);
        }
        in_flight
    }

    fn numbers(packets: &[Left]) -> Vec<usize> {
        let number = |left: &Left| usize::from_be_bytes(left.payload().try_into().unwrap());
        packets.iter().map(number).collect()
    }

    #[test]
    fn what_left_after_a_refused_packet_comes_back_in_order() {
        let start = Instant::now();
        let quote = |number: usize| [b"header".as_slice(), &number.to_be_bytes()].concat();
        for count in [10, MOST, MOST + 7] {
            let end = start + Duration::from_millis(count as u64);
            let refused = noted(count, start).refused(end, &[quote(count - 1), quote(count - 3)]);
            assert_eq!(numbers(&refused), [count - 3, count - 2, count - 1]);
        }
        // What nobody refused, or long ago, or what is not known any more.
        let now = start + Duration::from_millis(100);
        let mut in_flight = noted(MOST + 7, start);
        assert!(in_flight.clone().refused(now, &[]).is_empty());
        assert!(in_flight.clone().refused(now, &[Vec::new()]).is_empty());
        assert!(in_flight.clone().refused(now, &[quote(6)]).is_empty());
        let later = start + ROUND_TRIP + Duration::from_millis(50);
        assert!(in_flight.refused(later, &[quote(49)]).is_empty());
        assert!(in_flight.refused(now, &[quote(60)]).is_empty());
    }

    #[test]
    fn of_packets_that_begin_alike_the_oldest() {
        let start = Instant::now();
        let refused = noted(10, start).refused(start, &[b"head".to_vec()]);
        assert_eq!(refused.len(), 10);
    }

    #[test]
    fn an_answer_can_come_for_as_long_as_a_round_trip_takes() {
        let start = Instant::now();
        assert!(!InFlight::default().is_recent(start));
        for count in [1, MOST, MOST + 7] {
            let last = start + Duration::from_millis(count as u64 - 1);
            let in_flight = noted(count, start);
            assert!(in_flight.is_recent(last));
            assert!(!in_flight.is_recent(last + ROUND_TRIP));
        }
    }
}
