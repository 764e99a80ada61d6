//! What is known of each peer: its round-trip time, its silence, its budget.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use lru::LruCache;

use super::{pace::Pace, rtt::Rtt};

/// What is known of peers, of the most recent ones only.
#[derive(Clone, Debug)]
pub struct Peers {
    pace: Pace,
    peers: LruCache<SocketAddr, Peer, RandomState>,
}

#[derive(Clone, Debug)]
struct Peer {
    rtt: Option<Rtt>,
    silent_in_a_row: u32,
    heard: Option<Instant>,
    pace: Pace,
    reads_short_only: bool,
}

impl Peers {
    /// Remembers up to `max_peers`, at least one; each has a budget of messages like `pace`.
    pub fn new(max_peers: usize, pace: Pace) -> Self {
        // It is as large as what it holds, and not as what it may hold.
        let mut peers = LruCache::unbounded_with_hasher(RandomState::default());
        peers.resize(NonZeroUsize::new(max_peers).unwrap_or(NonZeroUsize::MIN));
        Self { pace, peers }
    }

    /// How many peers are remembered.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Takes a message to this peer out of its budget: when it may leave, if within `max_wait`.
    pub fn reserve(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        max_wait: Duration,
    ) -> Option<Instant> {
        self.touch(peer).pace.reserve(now, max_wait)
    }

    /// The peer answered, after this time if that can be told (a request that was repeated does not
    /// tell, Karn's algorithm).
    pub fn answered(&mut self, now: Instant, peer: SocketAddr, measured: Option<Duration>) {
        let peer = self.touch(peer);
        peer.silent_in_a_row = 0;
        peer.heard = Some(now);
        match (&mut peer.rtt, measured) {
            (Some(rtt), Some(measured)) => rtt.update(measured),
            (None, Some(measured)) => peer.rtt = Some(Rtt::new(measured)),
            (_, None) => {}
        }
    }

    /// The peer did not answer in time.
    pub fn silent(&mut self, peer: SocketAddr) {
        if let Some(peer) = self.peers.peek_mut(&peer) {
            peer.silent_in_a_row = peer.silent_in_a_row.saturating_add(1);
        }
    }

    /// How many requests in a row the peer did not answer.
    pub fn silent_in_a_row(&self, peer: &SocketAddr) -> u32 {
        self.peers.peek(peer).map_or(0, |peer| peer.silent_in_a_row)
    }

    /// Whether the peer answers only requests with short transaction identifiers.
    pub fn reads_short_only(&self, peer: &SocketAddr) -> bool {
        self.peers
            .peek(peer)
            .is_some_and(|peer| peer.reads_short_only)
    }

    /// The peer answered a request with a short transaction identifier, and none with a longer one;
    /// or it did.
    pub fn set_reads_short_only(&mut self, peer: SocketAddr, short_only: bool) {
        self.touch(peer).reads_short_only = short_only;
    }

    /// When the peer answered last.
    pub fn heard(&self, peer: &SocketAddr) -> Option<Instant> {
        self.peers.peek(peer).and_then(|peer| peer.heard)
    }

    /// The peer's round-trip time, if it was measured.
    pub fn rtt(&self, peer: &SocketAddr) -> Option<Rtt> {
        self.peers.peek(peer).and_then(|peer| peer.rtt)
    }

    /// How long to wait for this peer's answer.
    pub fn timeout(&self, peer: &SocketAddr) -> Duration {
        self.rtt(peer)
            .map_or(Rtt::INITIAL_TIMEOUT, |rtt| rtt.timeout())
    }

    fn touch(&mut self, address: SocketAddr) -> &mut Peer {
        let pace = self.pace;
        self.peers.get_or_insert_mut(address, || Peer {
            rtt: None,
            silent_in_a_row: 0,
            heard: None,
            pace,
            reads_short_only: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_peer_is_forgotten() {
        let now = Instant::now();
        let mut peers = Peers::new(2, Pace::new(1, Duration::from_secs(1)));
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        peers.answered(now, address(1), Some(Duration::from_millis(5)));
        peers.answered(now + Duration::from_secs(1), address(2), None);
        peers.answered(now + Duration::from_secs(2), address(1), None);
        peers.answered(now + Duration::from_secs(3), address(3), None);
        assert_eq!(peers.len(), 2);
        assert!(peers.rtt(&address(1)).is_some());
        assert!(peers.heard(&address(2)).is_none());
    }
}
