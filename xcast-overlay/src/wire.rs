//! Compact binary messages, for overlays that speak to their own kind only.
//!
//! Every message begins with 16 octets, all numbers in network byte order:
//!
//! | octets | |
//! |---|---|
//! | 2 | `f5 58`: no bencoding, no STUN, no DTLS |
//! | 1 | the protocol: [`Protocol`] |
//! | 1 | version (upper four bits), kind of message (lower four bits) |
//! | 4 | the overlay: the beginning of its name's SHA-1 hash |
//! | 8 | transaction identifier, repeated by the answer |
//!
//! What follows is the protocol's. Whoever reads a message takes it through [`Header::read`], which
//! gives nothing for another protocol, version or overlay: overlays may share a port, and strangers
//! do not disturb.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::{
    id::Id,
    krpc::{Family, compact},
    runtime::TransactionId,
};

const MAGIC: [u8; 2] = [0xf5, 0x58];
const VERSION: u8 = 1;
/// Length of a transaction identifier in octets.
pub const TRANSACTION_OCTETS: usize = 8;

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// [`d1ht`](crate::d1ht).
    D1ht = 1,
    /// Chord, EpiChord and Accordion:
    /// they are told apart by the overlay's name.
    Ring = 2,
    /// [`tapestry`](crate::others::tapestry).
    Tapestry = 3,
}

/// An overlay's name, as messages have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay([u8; 4]);

impl Overlay {
    /// The overlay of this name.
    pub fn named(name: &str) -> Self {
        let [a, b, c, d, ..] = *Id::hash_of(&[name.as_bytes()]).octets();
        Self([a, b, c, d])
    }
}

/// What messages begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose message it is.
    pub protocol: Protocol,
    /// Its kind, below 16: the protocol says what that means.
    pub kind: u8,
    /// The overlay.
    pub overlay: Overlay,
    /// Ties an answer to a request.
    pub transaction: [u8; TRANSACTION_OCTETS],
}

impl Header {
    /// Length in octets.
    pub const OCTETS: usize = 8 + TRANSACTION_OCTETS;

    /// A message of this kind that answers, or is answered by, the same transaction.
    pub fn with_kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    /// The header of a request.
    pub fn request(
        protocol: Protocol,
        overlay: Overlay,
        kind: u8,
        transaction: &TransactionId,
    ) -> Self {
        let mut octets = [0; TRANSACTION_OCTETS];
        for (octet, of_id) in octets.iter_mut().zip(transaction.octets()) {
            *octet = *of_id;
        }
        Self {
            protocol,
            kind,
            overlay,
            transaction: octets,
        }
    }

    /// Reads the header of a message of this protocol and overlay, and gives what follows it.
    pub fn read(
        protocol: Protocol,
        overlay: Overlay,
        datagram: &[u8],
    ) -> Option<(Self, Reader<'_>)> {
        let mut reader = Reader(datagram);
        let expected = [MAGIC[0], MAGIC[1], protocol as u8];
        if reader.array()? != expected {
            return None;
        }
        let version_and_kind = reader.u8()?;
        if version_and_kind >> 4 != VERSION || reader.array()? != overlay.0 {
            return None;
        }
        let header = Self {
            protocol,
            kind: version_and_kind & 0xf,
            overlay,
            transaction: reader.array()?,
        };
        Some((header, reader))
    }

    /// A message with this header.
    pub fn write(&self) -> Writer {
        let mut octets = Vec::with_capacity(64);
        octets.extend_from_slice(&MAGIC);
        octets.push(self.protocol as u8);
        octets.push(VERSION << 4 | self.kind & 0xf);
        octets.extend_from_slice(&self.overlay.0);
        octets.extend_from_slice(&self.transaction);
        Writer(octets)
    }
}

/// Octets still to be read. Every function gives `None` where they end too early.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these octets.
    pub fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next octets.
    pub fn octets(&mut self, count: usize) -> Option<&'a [u8]> {
        let (octets, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(octets)
    }

    /// The next octets.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.octets(N)?.try_into().ok()
    }

    /// One octet.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two octets.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four octets.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight octets.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// An address and port of this family.
    pub fn address(&mut self, family: Family) -> Option<SocketAddr> {
        compact::read_address(self.octets(family.address_octets())?)
    }
}

/// A message being written.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Its length so far, in octets.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends octets.
    pub fn octets(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    /// Appends one octet.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Appends two octets.
    pub fn u16(&mut self, value: u16) {
        self.octets(&value.to_be_bytes());
    }

    /// Appends four octets.
    pub fn u32(&mut self, value: u32) {
        self.octets(&value.to_be_bytes());
    }

    /// Appends eight octets.
    pub fn u64(&mut self, value: u64) {
        self.octets(&value.to_be_bytes());
    }

    /// Appends an address and port: 6 octets, or 18.
    pub fn address(&mut self, address: &SocketAddr) {
        compact::write_address(address, &mut self.0);
    }

    /// The message.
    pub fn finish(self) -> Bytes {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::Random;

    fn header() -> Header {
        let id = TransactionId::random(&mut Random::from_number(1), TRANSACTION_OCTETS);
        Header::request(Protocol::D1ht, Overlay::named("test"), 7, &id)
    }

    #[test]
    fn a_header_is_read_by_its_own_overlay_only() {
        let mut writer = header().write();
        writer.u32(5);
        let message = writer.finish();
        let (read, mut rest) = Header::read(Protocol::D1ht, Overlay::named("test"), &message)
            .expect("what was written");
        assert_eq!(read, header());
        assert_eq!(rest.u32(), Some(5));
        assert!(rest.is_empty());
        assert!(Header::read(Protocol::Ring, Overlay::named("test"), &message).is_none());
        assert!(Header::read(Protocol::D1ht, Overlay::named("other"), &message).is_none());
        for end in 0..Header::OCTETS {
            let cut = &message[..end];
            assert!(Header::read(Protocol::D1ht, Overlay::named("test"), cut).is_none());
        }
    }

    proptest! {
        #[test]
        fn nothing_is_read_beyond_the_end(octets: Vec<u8>, count: usize) {
            let mut reader = Reader::new(&octets);
            let read = reader.octets(count);
            prop_assert_eq!(read.is_some(), count <= octets.len());
        }
    }
}
