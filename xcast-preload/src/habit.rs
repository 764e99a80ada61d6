//! Whether a socket is one that sends the same to several: what is noted of every send, without a
//! lock. No I/O, no clock.
//!
//! A program that never does is left alone at the cost of a few comparisons. The content is not read
//! as a whole for that, but sampled: a wrong guess costs time, and never a datagram.

/// A socket's habit, as one word that threads share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habit(u64);

/// What a repetition is worth: single sends that a socket may do between two rounds.
const GAIN: u64 = 4;
const MOST: u64 = 100;
/// Of each part of the content that is looked at, in octets.
const SAMPLE: usize = 8;

impl Habit {
    /// As it was [stored](Self::word).
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// To be stored.
    pub fn word(self) -> u64 {
        self.0
    }

    /// Notes a send of this content to a destination by its [number](crate::address::Address::number).
    pub fn note(self, payload: &[u8], destination: u64) -> Self {
        let content = sample(payload) & 0xffff_ffff;
        let destination = (mix(destination) >> 48) & 0xffff;
        let (last_content, last_destination) = (self.0 >> 32, (self.0 >> 16) & 0xffff);
        let score = self.0 & 0xffff;
        let score = match (content == last_content, destination == last_destination) {
            (true, false) => (score + GAIN).min(MOST),
            (true, true) => score,
            (false, _) => score.saturating_sub(1),
        };
        Self(content << 32 | destination << 16 | score)
    }

    /// Notes that so many sends had the content of the latest one that was noted, and others as
    /// destinations.
    pub fn repeated(self, times: usize) -> Self {
        let gain = GAIN.saturating_mul(times as u64);
        let score = (self.0 & 0xffff).saturating_add(gain).min(MOST);
        Self(self.0 & !0xffff | score)
    }

    /// Whether the next send may be one of several.
    pub fn repeats(self) -> bool {
        self.0 & 0xffff > 0
    }
}

/// A hash of the length, and of octets at the beginning, in the middle and at the end.
pub fn sample(payload: &[u8]) -> u64 {
    let len = payload.len();
    let word = |at: usize| match payload[at..].first_chunk() {
        Some(octets) => u64::from_le_bytes(*octets),
        None => payload[at..]
            .iter()
            .fold(0, |word, octet| word << 8 | u64::from(*octet)),
    };
    let middle = word(len / 2).rotate_left(21);
    let end = word(len.saturating_sub(SAMPLE)).rotate_left(42);
    mix(mix(word(0) ^ len as u64) ^ middle ^ end)
}

/// The finalizer of MurmurHash3.
fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::address::Address;

    #[test]
    fn a_client_of_one_server_has_no_such_habit() {
        let mut habit = Habit::default();
        for content in 0..100_u8 {
            // Retransmissions are no second destination.
            for _ in 0..2 {
                habit = habit.note(&[content; 100], 7);
                assert!(!habit.repeats());
            }
        }
    }

    #[test]
    fn a_server_of_many_clients_has_none_either() {
        let mut habit = Habit::default();
        for client in 0..100_u64 {
            habit = habit.note(&client.to_be_bytes(), client);
            assert!(!habit.repeats());
        }
    }

    #[test]
    fn destinations_differ_by_network_host_or_port() {
        let networks = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 0, n, 0, 0, 0, 1], 5000));
        let hosts = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 1, 0, 0, 0, n], 5000));
        let hosts_of_ipv4 = |n: u16| SocketAddr::from(([10, 0, 0, n as u8], 5000));
        let ports = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        for address in [networks, hosts, hosts_of_ipv4, ports] {
            let mut habit = Habit::default();
            for number in 0..100 {
                habit = habit.note(b"same", Address::from(address(number)).number());
                assert_eq!(habit.repeats(), number > 0, "{}", address(number));
            }
        }
    }

    #[test]
    fn a_round_to_several_is_remembered_for_as_many_singles() {
        let round = |mut habit: Habit, content: u8| {
            for to in 0..6 {
                habit = habit.note(&[content; 100], to);
            }
            habit
        };
        let mut habit = round(Habit::default(), 0);
        for single in 0..19_u8 {
            assert!(habit.repeats(), "{single}");
            habit = habit.note(&[100 + single], 1);
        }
        habit = habit.note(&[99], 1);
        assert!(!habit.repeats());
        assert!(round(habit, 1).repeats());
    }

    #[test]
    fn what_is_not_noted_one_by_one_counts_as_much() {
        let habit = Habit::default().note(b"same", 1);
        assert_eq!(habit.repeated(2), habit.note(b"same", 2).note(b"same", 1));
        assert_eq!(habit.repeated(1000), habit.repeated(usize::MAX));
    }

    #[test]
    fn samples_see_length_and_three_parts() {
        let base = [1; 1000];
        let mut middle = base;
        middle[505] = 2;
        let mut end = base;
        end[999] = 2;
        let mut start = base;
        start[0] = 2;
        for other in [&middle[..], &end, &start, &base[..999], &[]] {
            assert_ne!(sample(other), sample(&base));
        }
    }
}
