//! Messages that begin with a magic number, for protocols whose nodes answer by what they say, and not by
//! a transaction's identifier.

use bytes::Bytes;

use super::octets::{Reader, Writer};
use crate::id::Id;

/// What a protocol's messages begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Magic {
    /// Four octets that others do not begin with: KRPC begins with `d`.
    pub magic: [u8; 4],
    /// Messages of other versions are ignored.
    pub version: u8,
}

impl Magic {
    /// Length of magic number, version and kind in octets.
    pub const OCTETS: usize = 6;

    /// Whether a datagram begins like one of this protocol, in any version.
    pub fn is_of(self, datagram: &[u8]) -> bool {
        datagram.starts_with(&self.magic)
    }

    /// The kind of a message of this protocol, in any version.
    pub fn kind(self, datagram: &[u8]) -> Option<u8> {
        let kind = datagram.get(Self::OCTETS - 1).copied();
        kind.filter(|_| self.is_of(datagram))
    }

    /// Begins a message.
    pub fn write(self, kind: u8) -> Writer {
        let mut writer = Writer::default();
        writer.octets(&self.magic);
        writer.u8(self.version);
        writer.u8(kind);
        writer
    }

    /// Begins to read a message: its kind, and the rest.
    pub fn read(self, datagram: &Bytes) -> Option<(u8, Reader)> {
        let mut reader = Reader::new(datagram.clone());
        let is_ours = reader.array()? == self.magic && reader.u8()? == self.version;
        Some((is_ours.then(|| reader.u8())??, reader))
    }
}

/// What stands for an overlay in the messages of a protocol: the beginning of a hash of what makes it
/// this overlay, such as its name.
pub fn tag(protocol: &str, parts: &[&[u8]]) -> [u8; 8] {
    let prefix = format!("xcast {protocol} 1");
    let all: Vec<&[u8]> = std::iter::once(prefix.as_bytes())
        .chain(parts.iter().copied())
        .collect();
    let mut tag = [0; 8];
    tag.copy_from_slice(&Id::hash_of(&all).octets()[..8]);
    tag
}
