//! Settings of a member of a tree.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::{message::DATA_OCTETS, packets::Packets};
use crate::runtime::{Pace, Policy};

/// What makes a good parent, among those that have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parents {
    /// A short measured round trip; being one level further from the source must be worth this much.
    Latency {
        /// What a level costs.
        level: Duration,
    },
    /// An address that shares many leading bits with one's own, so that few links are between; being
    /// one level further from the source must be worth this many bits.
    Prefix {
        /// What a level costs.
        level_bits: u32,
    },
}

impl Default for Parents {
    fn default() -> Self {
        Self::Latency {
            level: Duration::from_millis(20),
        }
    }
}

/// Settings of a [`Member`](super::Member).
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the tree: members of others are not heard.
    pub name: Bytes,
    /// The source's Ed25519 public key.
    pub source_key: [u8; 32],
    /// Its secret key, at the source only: who has it is the source.
    pub signing_key: Option<SigningKey>,
    /// The first message's number, at the source. It must grow from run to run: the time in
    /// microseconds does, if there are fewer than a million messages a second.
    pub first_seq: u64,
    /// Members by way of which to join: the source, or any others.
    pub bootstrap: Vec<SocketAddr>,
    /// How large packets may be. Default: 50 destinations within 1500 octets.
    pub packets: Packets,
    /// C of WO 2007/030742, paragraph 44: packets for each message. With 2, which is the default, and
    /// 50 destinations in each, 10^6 members of a full tree are within three levels. With 0 this member
    /// has no children.
    pub packets_per_message: usize,
    /// Longest payload of a message in octets. The number of destinations is computed for it. The
    /// default, 914, makes datagrams of 1000 octets.
    pub max_payload_octets: usize,
    /// What makes a good parent.
    pub parents: Parents,
    /// How often the source sends a pulse, by which members know that they are connected.
    pub beat: Duration,
    /// A parent that is silent for this long is gone. Default: 3 s.
    pub silence: Duration,
    /// A member that no new pulse has reached for this long is an orphan, even if its parent is there.
    /// Default: 6 s.
    pub orphan_after: Duration,
    /// Messages that are kept for others, and waited for, at most. Default: 32,768.
    pub kept_messages: usize,
    /// The same in octets. Default: 16 MiB.
    pub kept_octets: usize,
    /// How long a missing message is asked for. Default: 20 s.
    pub patience: Duration,
    /// Octets a second for repairs of others, so that the stream itself has room. It has to be more
    /// than the stream's for orphans to catch up. Default: 4 MiB.
    pub repair_octets_per_second: u32,
    /// How others are asked.
    pub policy: Policy,
    /// Budget of requests to one member.
    pub pace: Pace,
}

impl Config {
    /// A receiver of the tree of this name, whose source has this public key.
    pub fn receiver(
        name: impl Into<Bytes>,
        source_key: [u8; 32],
        bootstrap: Vec<SocketAddr>,
    ) -> Self {
        Self {
            name: name.into(),
            source_key,
            signing_key: None,
            first_seq: 1,
            bootstrap,
            packets: Packets::default(),
            packets_per_message: 2,
            max_payload_octets: 914,
            parents: Parents::default(),
            beat: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            orphan_after: Duration::from_secs(6),
            kept_messages: 32_768,
            kept_octets: 16 << 20,
            patience: Duration::from_secs(20),
            repair_octets_per_second: 4 << 20,
            policy: Policy {
                max_timeout: Duration::from_secs(1),
                ..Policy::default()
            },
            pace: Pace::new(20, Duration::from_millis(250)),
        }
    }

    /// How many messages a second, each with a payload of so many octets, a stream may have for nothing
    /// to be lost when an inner member dies: what is kept has to reach back to before its death when
    /// others have noticed its silence and found a parent, and until they have caught up.
    ///
    /// ```
    /// use xcast_overlay::tree::Config;
    ///
    /// let config = Config::receiver("news", [0; 32], Vec::new());
    /// // Of messages of 1000 octets with their headers, so that is 16.8 Mbit/s.
    /// assert_eq!(config.max_messages_per_second(914) as u32, 2097);
    /// // Of short messages, their number is what there is room for.
    /// assert_eq!(config.max_messages_per_second(1) as u32, 4096);
    /// ```
    pub fn max_messages_per_second(&self, payload_octets: usize) -> f64 {
        let kept = self.kept_octets / (DATA_OCTETS + payload_octets);
        // Until the death is noticed and a beat later, and as long again to catch up.
        let reach = 2 * (self.silence + self.beat);
        kept.min(self.kept_messages) as f64 / reach.as_secs_f64()
    }

    /// The source of a tree.
    pub fn source(name: impl Into<Bytes>, key: SigningKey, first_seq: u64) -> Self {
        Self {
            first_seq,
            signing_key: Some(key.clone()),
            ..Self::receiver(name, key.verifying_key().to_bytes(), Vec::new())
        }
    }
}
