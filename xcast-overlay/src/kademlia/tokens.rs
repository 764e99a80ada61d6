//! Tokens: permission to store, for whoever can receive at an address (BEP 5).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{id::Id, runtime::Random};

/// How often the secret changes.
const ROTATION: Duration = Duration::from_secs(5 * 60);
/// Length of a token in octets.
pub(super) const TOKEN_OCTETS: usize = 8;
/// Most tokens in a list: each is a guess at the right one.
pub(super) const MAX_TOKENS: usize = 32;

/// Makes tokens and knows them again: each is a hash of the address and a secret. The secret before
/// the current one counts too, so a token lives between 5 and 10 minutes.
#[derive(Clone, Debug)]
pub struct Tokens {
    current: [u8; 16],
    previous: Option<[u8; 16]>,
    rotated: Instant,
}

impl Tokens {
    /// Begins with a fresh secret.
    pub fn new(now: Instant, random: &mut Random) -> Self {
        Self {
            current: random.octets(),
            previous: None,
            rotated: now,
        }
    }

    /// A token for this address.
    pub fn make(&mut self, now: Instant, ip: IpAddr, random: &mut Random) -> Bytes {
        self.rotate(now, random);
        Bytes::copy_from_slice(&token(&self.current, ip))
    }

    /// Whether the token was made for this address within the last 5 to 10 minutes.
    ///
    /// Up to 32 tokens may be put together: a request to store that is the same for several nodes,
    /// and so leaves as one packet, has the tokens of all. Unmodified nodes take none but their own.
    pub fn check(&mut self, now: Instant, ip: IpAddr, given: &[u8], random: &mut Random) -> bool {
        self.rotate(now, random);
        let secrets = [Some(self.current), self.previous];
        secrets.into_iter().flatten().any(|secret| {
            let token = token(&secret, ip);
            // In constant time, so that a token cannot be guessed octet by octet.
            let equal = |given: &[u8]| {
                token
                    .iter()
                    .zip(given)
                    .fold(0, |differ, (a, b)| differ | (a ^ b))
                    == 0
            };
            !given.is_empty()
                && given.len().is_multiple_of(TOKEN_OCTETS)
                && given.len() <= MAX_TOKENS * TOKEN_OCTETS
                && given.chunks_exact(TOKEN_OCTETS).any(equal)
        })
    }

    fn rotate(&mut self, now: Instant, random: &mut Random) {
        let age = now.saturating_duration_since(self.rotated);
        if age < ROTATION {
            return;
        }
        // After two rotations in silence the previous secret would be too old as well.
        self.previous = (age < 2 * ROTATION).then_some(self.current);
        self.current = random.octets();
        self.rotated = now;
    }
}

fn token(secret: &[u8; 16], ip: IpAddr) -> [u8; TOKEN_OCTETS] {
    let hash = match ip {
        IpAddr::V4(ip) => Id::hash_of(&[secret, &ip.octets()]),
        IpAddr::V6(ip) => Id::hash_of(&[secret, &ip.octets()]),
    };
    std::array::from_fn(|at| hash[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_between_five_and_ten_minutes_and_is_bound_to_its_address() {
        let mut random = Random::from_number(1);
        let start = Instant::now();
        let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let (ip, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut tokens = Tokens::new(start, &mut random);
        let token = tokens.make(minutes(4), ip, &mut random);
        assert!(tokens.check(minutes(4), ip, &token, &mut random));
        assert!(!tokens.check(minutes(4), other, &token, &mut random));
        assert!(!tokens.check(minutes(4), ip, &token[..7], &mut random));
        assert!(!tokens.check(minutes(4), ip, b"", &mut random));
        let list = [&[1; 8], &token[..], &[2; 8]].concat();
        assert!(tokens.check(minutes(4), ip, &list, &mut random));
        assert!(!tokens.check(minutes(4), ip, &list[..23], &mut random));
        assert!(!tokens.check(
            minutes(4),
            ip,
            &[&[1; 256], &list[..]].concat(),
            &mut random
        ));
        assert!(tokens.check(minutes(9), ip, &token, &mut random));
        assert!(!tokens.check(minutes(14), ip, &token, &mut random));
        let token = tokens.make(minutes(15), ip, &mut random);
        assert!(!tokens.check(minutes(60), ip, &token, &mut random));
    }
}
