//! Writing and reading messages: numbers in network byte order, every length checked.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf as _, Bytes};

use crate::krpc::{Family, compact};

/// Writes a message.
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

    /// Appends one octet.
    pub fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    /// Appends two octets.
    pub fn u16(&mut self, number: u16) {
        self.octets(&number.to_be_bytes());
    }

    /// Appends four octets.
    pub fn u32(&mut self, number: u32) {
        self.octets(&number.to_be_bytes());
    }

    /// Appends eight octets.
    pub fn u64(&mut self, number: u64) {
        self.octets(&number.to_be_bytes());
    }

    /// Appends octets.
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

    /// An address and port, where the family is known: 6 octets, or 18.
    pub fn compact(&mut self, address: &SocketAddr) {
        compact::write_address(address, &mut self.0);
    }

    /// At most 255 elements, and how many they are.
    pub fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        let list = &list[..list.len().min(usize::from(u8::MAX))];
        self.u8(list.len() as u8);
        for element in list {
            write(self, element);
        }
    }

    /// The message.
    pub fn finish(self) -> Bytes {
        self.0.into()
    }
}

/// Reads a message. `None` stands for octets that are not there, or mean nothing.
#[derive(Clone, Debug)]
pub struct Reader(Bytes);

impl Reader {
    /// Reads these octets.
    pub fn new(octets: Bytes) -> Self {
        Self(octets)
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One octet.
    pub fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    /// Two octets.
    pub fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16().ok()
    }

    /// Four octets.
    pub fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    /// Eight octets.
    pub fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    /// The next octets, so many as are wanted.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.as_ref().try_into().ok()
    }

    /// The next octets.
    pub fn take(&mut self, octets: usize) -> Option<Bytes> {
        (octets <= self.0.len()).then(|| self.0.split_to(octets))
    }

    /// Octets that are preceded by how many they are.
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

    /// An address and port of this family.
    pub fn compact(&mut self, family: Family) -> Option<SocketAddr> {
        compact::read_address(&self.take(family.address_octets())?)
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
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Magic;

    const TEST: Magic = Magic {
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

    proptest! {
        #[test]
        fn nothing_is_read_beyond_the_end(octets: Vec<u8>, count: usize) {
            let length = octets.len();
            let mut reader = Reader::new(octets.into());
            prop_assert_eq!(reader.take(count).is_some(), count <= length);
        }
    }
}
