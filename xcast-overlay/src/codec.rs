//! Octets of binary messages: a magic number, a version and a kind in front, numbers in network byte
//! order, every length checked.
//!
//! A [`Reader`] never panics and never reads beyond the datagram; a message with octets left over is
//! none.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf as _, Bytes};

use crate::id::Id;

/// What a protocol's messages begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    /// Four octets that others do not begin with: KRPC begins with `d`.
    pub magic: [u8; 4],
    /// Messages of other versions are ignored.
    pub version: u8,
}

impl Protocol {
    /// Length of magic number, version and kind in octets.
    pub const OCTETS: usize = 6;

    /// Whether a datagram begins like one of this protocol, in any version.
    pub fn is_of(self, datagram: &[u8]) -> bool {
        datagram.starts_with(&self.magic)
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
        let mut reader = Reader(datagram.clone());
        let is_ours = reader.array()? == self.magic && reader.u8()? == self.version;
        Some((is_ours.then(|| reader.u8())??, reader))
    }
}

/// What stands for an overlay in the messages of a protocol: the beginning of a hash of what makes it
/// this overlay, such as its name.
pub(crate) fn tag(protocol: &str, parts: &[&[u8]]) -> [u8; 8] {
    let prefix = format!("xcast {protocol} 1");
    let all: Vec<&[u8]> = std::iter::once(prefix.as_bytes())
        .chain(parts.iter().copied())
        .collect();
    let mut tag = [0; 8];
    tag.copy_from_slice(&Id::hash_of(&all).octets()[..8]);
    tag
}

/// Writes a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    pub fn u16(&mut self, number: u16) {
        self.octets(&number.to_be_bytes());
    }

    pub fn u32(&mut self, number: u32) {
        self.octets(&number.to_be_bytes());
    }

    pub fn u64(&mut self, number: u64) {
        self.octets(&number.to_be_bytes());
    }

    pub fn octets(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    /// At most 255 octets, and how many they are.
    pub fn short(&mut self, octets: &[u8]) {
        let len = octets.len().min(usize::from(u8::MAX));
        self.u8(len as u8);
        self.octets(&octets[..len]);
    }

    /// The length of an IP address, the address, and the port.
    pub fn address(&mut self, address: &SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.short(&ip.octets()),
            IpAddr::V6(ip) => self.short(&ip.octets()),
        }
        self.u16(address.port());
    }

    /// At most 255 elements, and how many they are.
    pub fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        let list = &list[..list.len().min(usize::from(u8::MAX))];
        self.u8(list.len() as u8);
        for element in list {
            write(self, element);
        }
    }

    pub fn finish(self) -> Bytes {
        self.0.into()
    }
}

/// Reads a message. `None` stands for octets that are not there, or mean nothing.
#[derive(Clone, Debug)]
pub(crate) struct Reader(Bytes);

impl Reader {
    pub fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16().ok()
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.as_ref().try_into().ok()
    }

    pub fn take(&mut self, octets: usize) -> Option<Bytes> {
        (octets <= self.0.len()).then(|| self.0.split_to(octets))
    }

    pub fn short(&mut self) -> Option<Bytes> {
        let octets = self.u8()?;
        self.take(usize::from(octets))
    }

    /// An address that can be sent to.
    pub fn address(&mut self) -> Option<SocketAddr> {
        let octets = self.short()?;
        let ip = match octets.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(octets.as_ref()).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(octets.as_ref()).ok()?),
            _ => return None,
        };
        let address = SocketAddr::new(ip.to_canonical(), self.u16()?);
        let ip = address.ip();
        let usable = !ip.is_unspecified() && !ip.is_multicast() && address.port() != 0;
        usable.then_some(address)
    }

    /// A list of at most `most` elements.
    pub fn list<T>(
        &mut self,
        most: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = usize::from(self.u8()?);
        if count > most {
            return None;
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// All that is left.
    pub fn rest(self) -> Bytes {
        self.0
    }

    /// Nothing may be left.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: Protocol = Protocol {
        magic: *b"TEST",
        version: 3,
    };

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let addresses: Vec<SocketAddr> = ["192.0.2.1:5", "[2001:db8::1]:6"]
            .map(|address| address.parse().expect("an address"))
            .into();
        let mut writer = TEST.write(9);
        writer.u16(7);
        writer.u32(8);
        writer.u64(9);
        writer.short(b"name");
        writer.list(&addresses, Writer::address);
        let datagram = writer.finish();
        let read = |datagram: &Bytes| {
            let (kind, mut reader) = TEST.read(datagram)?;
            let numbers = (kind, reader.u16()?, reader.u32()?, reader.u64()?);
            let rest = (reader.short()?, reader.list(2, Reader::address)?);
            reader.end()?;
            Some((numbers, rest))
        };
        let (numbers, (name, list)) = read(&datagram).expect("a message");
        assert_eq!((numbers, name.as_ref()), ((9, 7, 8, 9), &b"name"[..]));
        assert_eq!(list, addresses);
        for end in 0..datagram.len() {
            assert_eq!(read(&datagram.slice(..end)), None);
        }
        let longer = [datagram.as_ref(), b"x"].concat();
        assert_eq!(read(&longer.into()), None);
        let mut other = datagram.to_vec();
        other[4] = 4;
        assert!(TEST.is_of(&other));
        assert_eq!(read(&other.into()), None);
    }

    #[test]
    fn addresses_that_cannot_be_sent_to_are_none() {
        for text in [
            "0.0.0.0:1",
            "224.0.0.1:1",
            "192.0.2.1:0",
            "[::]:1",
            "[ff02::1]:1",
        ] {
            let mut writer = Writer::default();
            writer.address(&text.parse().expect("an address"));
            assert_eq!(Reader(writer.finish()).address(), None, "{text}");
        }
    }
}
