//! Addresses and nodes in compact form (BEP 5, BEP 32).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::Id;

/// Address family: each has a DHT of its own (BEP 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub fn of(address: &SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }

    /// Length of an address and a port in octets.
    pub const fn address_octets(self) -> usize {
        match self {
            Self::Ipv4 => 6,
            Self::Ipv6 => 18,
        }
    }

    /// Length of a node's identifier, address and port in octets.
    pub const fn contact_octets(self) -> usize {
        Id::OCTETS + self.address_octets()
    }
}

/// A node: its identifier and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact {
    /// Its identifier.
    pub id: Id,
    /// Its UDP address.
    pub address: SocketAddr,
}

/// Appends an address and a port, both in network byte order.
pub fn write_address(address: &SocketAddr, out: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// The address and port of 6 or 18 octets; `None` for another length.
pub fn read_address(octets: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = octets.split_last_chunk::<2>()?;
    let ip = if let Ok(ip) = <[u8; 4]>::try_from(ip) {
        IpAddr::V4(Ipv4Addr::from(ip))
    } else {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?))
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// Contacts one after the other.
pub fn write_contacts(contacts: &[Contact]) -> Vec<u8> {
    let mut out = Vec::with_capacity(contacts.len() * Family::Ipv6.contact_octets());
    for contact in contacts {
        out.extend_from_slice(contact.id.octets());
        write_address(&contact.address, &mut out);
    }
    out
}

/// The contacts of one family in `octets`; octets at the end that are no whole contact are left.
pub fn read_contacts(octets: &[u8], family: Family) -> Vec<Contact> {
    octets
        .chunks_exact(family.contact_octets())
        .filter_map(|contact| {
            let (id, address) = contact.split_at(Id::OCTETS);
            Some(Contact {
                id: Id::try_from(id).ok()?,
                address: read_address(address)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_and_back() {
        for (family, address) in [
            (Family::Ipv4, "192.0.2.1:6881"),
            (Family::Ipv6, "[2001:db8::1]:6881"),
        ] {
            let contact = Contact {
                id: Id::new([7; 20]),
                address: address.parse().expect("an address"),
            };
            let mut octets = write_contacts(&[contact, contact]);
            assert_eq!(octets.len(), 2 * family.contact_octets());
            octets.push(1);
            assert_eq!(read_contacts(&octets, family), [contact, contact]);
        }
        assert_eq!(read_address(&[1; 7]), None);
        assert_eq!(read_address(&[1]), None);
    }
}
