//! What members say, and sign.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::{
    id::Id,
    krpc::{
        bencode::{Bencoded, Writer},
        compact,
    },
};

/// Most addresses of a member.
pub(super) const MAX_ADDRESSES: usize = 4;

/// The identifier of the member with this key.
pub fn member_id(key: &[u8; 32]) -> Id {
    Id::hash_of(&[b"xcast member 1", key])
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
