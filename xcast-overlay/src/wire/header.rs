//! Messages with a header of 16 octets, for protocols whose requests are answered.

use bytes::Bytes;

use super::octets::{Reader, Writer};
use crate::{id::Id, runtime::TransactionId};

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
    pub fn read(protocol: Protocol, overlay: Overlay, datagram: &Bytes) -> Option<(Self, Reader)> {
        let mut reader = Reader::new(datagram.clone());
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
        let mut writer = Writer::default();
        writer.octets(&MAGIC);
        writer.u8(self.protocol as u8);
        writer.u8(VERSION << 4 | self.kind & 0xf);
        writer.octets(&self.overlay.0);
        writer.octets(&self.transaction);
        writer
    }
}

#[cfg(test)]
mod tests {
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
            let cut = message.slice(..end);
            assert!(Header::read(Protocol::D1ht, Overlay::named("test"), &cut).is_none());
        }
    }
}
