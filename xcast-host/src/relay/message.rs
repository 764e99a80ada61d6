//! What sources and relays say to each other, at the UDP port where the relay takes Xcast packets.
//!
//! Questions and answers have the same length, so a relay sends nobody more than it got. All numbers are in network byte
//! order, and addresses are those of IPv6, where one of IPv4 is ::ffff:192.0.2.1.
//!
//! ```text
//! question  kind  flags  zeroes ...
//!           nonce (8)
//!           the cookie that the source has (16), or zeroes
//!           zeroes up to 80 octets
//! answer    kind  flags  load   0    seconds (2)  port seen (2)
//!           nonce (8)
//!           address seen (16)
//!           cookie (16)
//!           cookie with a relayed port (16), or zeroes
//!           instance (8)  zeroes (8)
//! reply     kind  0      port (2)  address (16)  the datagram
//! ```

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use xcast_common::wire::cookie::{self, Wanted};

/// What identifies a question: random, so that only who saw the question can answer it.
pub type Nonce = [u8; 8];
/// A cookie, as it goes before packets.
pub type Cookie = [u8; cookie::LEN];

/// Length of a question and of an answer, in octets.
pub const LEN: usize = 80;
/// Length of what is before a datagram that a relay hands on, in octets.
pub const REPLY_LEN: usize = 20;

/// Question and answer: it went as an Xcast packet, through the relay's datapath.
const THROUGH: u8 = 1 << 0;
/// Question: a relayed port is wanted. Answer: there is a cookie with a port of the relay.
const RELAYED: u8 = 1 << 1;
/// Answer: the relay has more to do than it can.
const BUSY: u8 = 1 << 2;
/// Question: the source puts its messages into envelopes, and wants them to be sent from the relay's own port.
const ENVELOPES: u8 = 1 << 3;

/// A source's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the answer repeats.
    pub nonce: Nonce,
    /// It goes through the relay's datapath.
    pub through: bool,
    /// The cookie that the source has; zeroes for none. Whoever has one is answered also in a flood of questions.
    pub cookie: Cookie,
    /// The source wants its packets to be sent from the relay's own address, and from which port.
    pub wants: Option<Wanted>,
}

impl Question {
    /// As it is sent.
    pub fn encode(&self) -> [u8; LEN] {
        let mut octets = [0; LEN];
        octets[0] = cookie::QUESTION;
        let wants = match self.wants {
            None => 0,
            Some(Wanted::Port) => RELAYED,
            Some(Wanted::Envelopes) => ENVELOPES,
        };
        octets[1] = flag(self.through, THROUGH) | wants;
        octets[8..16].copy_from_slice(&self.nonce);
        octets[16..32].copy_from_slice(&self.cookie);
        octets
    }

    /// `None` if it is none, or shorter than its answer would be.
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; LEN] = octets.try_into().ok()?;
        (octets[0] == cookie::QUESTION).then(|| Self {
            nonce: part(octets, 8),
            through: octets[1] & THROUGH != 0,
            cookie: part(octets, 16),
            wants: match octets[1] & (RELAYED | ENVELOPES) {
                0 => None,
                ENVELOPES => Some(Wanted::Envelopes),
                _ => Some(Wanted::Port),
            },
        })
    }
}

/// A relay's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question's.
    pub nonce: Nonce,
    /// The question came through the datapath.
    pub through: bool,
    /// The relay has more to do than it can.
    pub busy: bool,
    /// How much it has to do, in percent of what it can.
    pub load_percent: u8,
    /// The address and port that the question came from.
    pub seen: SocketAddr,
    /// How long the cookies hold, in whole seconds.
    pub lifetime: Duration,
    /// Proves that the source receives at `seen`.
    pub cookie: Cookie,
    /// Proves that as well, and lets packets come from the relay's own address, and the port that is in it.
    pub relayed: Option<Cookie>,
    /// Differs between relays with the same address.
    pub instance: u64,
}

impl Answer {
    /// The relayed port, if there is one.
    pub fn relayed_port(&self) -> Option<u16> {
        let octets = self.relayed?;
        Some(u16::from_be_bytes(part(&octets, cookie::RELAYED_PORT)))
    }

    /// As it is sent.
    pub fn encode(&self) -> [u8; LEN] {
        let mut octets = [0; LEN];
        octets[0] = cookie::ANSWER;
        octets[1] = flag(self.through, THROUGH)
            | flag(self.relayed.is_some(), RELAYED)
            | flag(self.busy, BUSY);
        octets[2] = self.load_percent;
        let seconds = u16::try_from(self.lifetime.as_secs()).unwrap_or(u16::MAX);
        octets[4..6].copy_from_slice(&seconds.to_be_bytes());
        octets[6..8].copy_from_slice(&self.seen.port().to_be_bytes());
        octets[8..16].copy_from_slice(&self.nonce);
        octets[16..32].copy_from_slice(&as_ipv6(self.seen.ip()).octets());
        octets[32..48].copy_from_slice(&self.cookie);
        octets[48..64].copy_from_slice(&self.relayed.unwrap_or_default());
        octets[64..72].copy_from_slice(&self.instance.to_be_bytes());
        octets
    }

    /// `None` if it is none.
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; LEN] = octets.try_into().ok()?;
        let address = Ipv6Addr::from(part::<16>(octets, 16));
        let port = u16::from_be_bytes(part(octets, 6));
        (octets[0] == cookie::ANSWER).then(|| Self {
            nonce: part(octets, 8),
            through: octets[1] & THROUGH != 0,
            busy: octets[1] & BUSY != 0,
            load_percent: octets[2],
            seen: SocketAddr::new(IpAddr::V6(address).to_canonical(), port),
            lifetime: Duration::from_secs(u16::from_be_bytes(part(octets, 4)).into()),
            cookie: part(octets, 32),
            relayed: (octets[1] & RELAYED != 0).then(|| part(octets, 48)),
            instance: u64::from_be_bytes(part(octets, 64)),
        })
    }
}

/// A datagram that came to a relayed port, as the relay hands it on.
pub fn encode_reply(from: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![cookie::REPLY, 0];
    octets.extend(from.port().to_be_bytes());
    octets.extend(as_ipv6(from.ip()).octets());
    octets.extend(payload);
    octets
}

/// The sender and the content of such a datagram; `None` if it is none.
pub fn decode_reply(octets: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (header, payload) = octets.split_first_chunk::<REPLY_LEN>()?;
    let address = Ipv6Addr::from(part::<16>(header, 4));
    let port = u16::from_be_bytes(part(header, 2));
    let from = SocketAddr::new(IpAddr::V6(address).to_canonical(), port);
    (header[0] == cookie::REPLY).then_some((from, payload))
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Octets at a place that is within.
fn part<const N: usize>(octets: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|n| octets[at + n])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        let ipv4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let ipv6 = any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical());
        (prop_oneof![ipv4, ipv6], any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn questions_are_read_as_written(nonce: Nonce, cookie: Cookie, through: bool, wants in 0..3_u8) {
            let wants = [None, Some(Wanted::Port), Some(Wanted::Envelopes)][usize::from(wants)];
            let question = Question { nonce, through, cookie, wants };
            let octets = question.encode();
            prop_assert_eq!(Question::decode(&octets), Some(question));
            prop_assert_eq!(Question::decode(&octets[..LEN - 1]), None);
            prop_assert_eq!(Answer::decode(&octets), None);
        }

        #[test]
        fn answers_are_read_as_written(
            (nonce, cookie, relayed) in any::<(Nonce, Cookie, Option<Cookie>)>(),
            (through, busy, load_percent) in any::<(bool, bool, u8)>(),
            (seconds, instance) in any::<(u16, u64)>(),
            seen in any_address(),
        ) {
            let lifetime = Duration::from_secs(seconds.into());
            let answer = Answer {
                nonce, through, busy, load_percent, seen, lifetime, cookie, relayed, instance,
            };
            let octets = answer.encode();
            prop_assert_eq!(Answer::decode(&octets), Some(answer));
            prop_assert_eq!(Question::decode(&octets), None);
        }

        #[test]
        fn replies_are_read_as_written(from in any_address(), payload: Vec<u8>) {
            let octets = encode_reply(from, &payload);
            prop_assert_eq!(decode_reply(&octets), Some((from, &payload[..])));
            prop_assert_eq!(decode_reply(&octets[..REPLY_LEN - 1]), None);
        }

        #[test]
        fn whatever_comes_is_read_or_refused(octets: Vec<u8>) {
            let _ = (Question::decode(&octets), Answer::decode(&octets), decode_reply(&octets));
        }
    }
}
