//! What members sign.

use std::net::SocketAddr;

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::{
    id::Id,
    krpc::{
        Signature,
        bencode::{Bencoded, Writer},
        compact,
    },
};

/// Most addresses of a member.
pub(super) const MAX_ADDRESSES: usize = 4;

/// What a signature is for: one for a record is none for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Record,
    Subscription,
    Event,
}

/// Octets that their author has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What is signed, bencoded.
    pub body: Bytes,
    /// The author's Ed25519 public key.
    pub key: [u8; 32],
    /// Over purpose, overlay and body.
    pub signature: Signature,
}

/// The identifier of the member with this key.
pub fn member_id(key: &[u8; 32]) -> Id {
    Id::hash_of(&[b"xcast member 1", key])
}

impl Signed {
    pub(super) fn new(key: &SigningKey, purpose: Purpose, overlay: &[u8], body: Bytes) -> Self {
        let signature = key.sign(&signed_octets(purpose, overlay, &body)).to_bytes();
        Self {
            body,
            key: key.verifying_key().to_bytes(),
            signature,
        }
    }

    /// Who signed, if the signature is right.
    pub(super) fn author(&self, purpose: Purpose, overlay: &[u8]) -> Option<Id> {
        let key = VerifyingKey::from_bytes(&self.key).ok()?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature);
        let octets = signed_octets(purpose, overlay, &self.body);
        key.verify_strict(&octets, &signature).ok()?;
        Some(member_id(&self.key))
    }

    pub(super) fn read(item: &Bencoded<'_>, datagram: &Bytes) -> Option<Self> {
        let octets = |key: &[u8]| item.key(key).and_then(Bencoded::octets);
        Some(Self {
            body: datagram.slice_ref(octets(b"b")?),
            key: octets(b"k")?.try_into().ok()?,
            signature: octets(b"s")?.try_into().ok()?,
        })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.dict(|w| {
            w.key_octets("b", &self.body);
            w.key_octets("k", &self.key);
            w.key_octets("s", &self.signature);
        });
    }
}

fn signed_octets(purpose: Purpose, overlay: &[u8], body: &[u8]) -> Vec<u8> {
    let purpose: &[u8] = match purpose {
        Purpose::Record => b"xcast record 1",
        Purpose::Subscription => b"xcast subscription 1",
        Purpose::Event => b"xcast event 1",
    };
    let mut octets = format!("{}:", overlay.len()).into_bytes();
    octets.splice(0..0, purpose.iter().copied());
    octets.extend_from_slice(overlay);
    octets.extend_from_slice(body);
    octets
}

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Present,
    /// It has left.
    Left,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The larger, the newer.
    pub seq: i64,
    /// Whether it is there.
    pub standing: Standing,
    /// Where it is.
    pub addresses: Vec<SocketAddr>,
}

impl Record {
    pub(super) fn body(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.dict(|w| {
            w.octets(b"a");
            w.list(|w| {
                for address in &self.addresses {
                    let mut compact = Vec::new();
                    compact::write_address(address, &mut compact);
                    w.octets(&compact);
                }
            });
            w.key_integer("p", i64::from(self.standing == Standing::Present));
            w.key_integer("q", self.seq);
        });
        writer.finish().datagram(0)
    }

    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let item = Bencoded::read(body).ok()?;
        let addresses = item.key(b"a")?.list()?;
        let addresses: Vec<SocketAddr> = addresses
            .iter()
            .filter_map(|address| compact::read_address(address.octets()?))
            .take(MAX_ADDRESSES)
            .collect();
        let standing = match item.key(b"p")?.integer()? {
            0 => Standing::Left,
            _ => Standing::Present,
        };
        Some(Self {
            seq: item.key(b"q")?.integer()?,
            standing,
            addresses,
        })
    }
}

/// Somebody wants events of a topic, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub publisher: Id,
    pub topic: Bytes,
    pub seq: i64,
    pub wanted: bool,
}

impl Subscription {
    pub fn body(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.dict(|w| {
            w.key_octets("i", self.publisher.octets());
            w.key_integer("q", self.seq);
            w.key_octets("t", &self.topic);
            w.key_integer("w", i64::from(self.wanted));
        });
        writer.finish().datagram(0)
    }

    pub fn read(body: &Bytes) -> Option<Self> {
        let item = Bencoded::read(body).ok()?;
        Some(Self {
            publisher: Id::try_from(item.key(b"i")?.octets()?).ok()?,
            topic: body.slice_ref(item.key(b"t")?.octets()?),
            seq: item.key(b"q")?.integer()?,
            wanted: item.key(b"w")?.integer()? != 0,
        })
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub topic: Bytes,
    pub seq: i64,
    pub data: Bytes,
}

impl Notice {
    pub fn body(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.dict(|w| {
            w.key_octets("d", &self.data);
            w.key_integer("q", self.seq);
            w.key_octets("t", &self.topic);
        });
        writer.finish().datagram(0)
    }

    pub fn read(body: &Bytes) -> Option<Self> {
        let item = Bencoded::read(body).ok()?;
        Some(Self {
            topic: body.slice_ref(item.key(b"t")?.octets()?),
            seq: item.key(b"q")?.integer()?,
            data: body.slice_ref(item.key(b"d")?.octets()?),
        })
    }
}
