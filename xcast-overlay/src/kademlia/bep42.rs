//! Identifiers that follow from addresses (BEP 42).

use std::net::IpAddr;

use crc::{CRC_32_ISCSI, Crc};

use crate::{id::Id, runtime::Random};

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// An identifier for a node whose address is seen as `ip`.
pub fn random_id(ip: IpAddr, random: &mut Random) -> Id {
    let [last] = random.octets();
    let crc = prefix(ip, last).to_be_bytes();
    let mut octets: [u8; Id::OCTETS] = random.octets();
    octets[..2].copy_from_slice(&crc[..2]);
    octets[2] = crc[2] & 0xf8 | octets[2] & 0x07;
    octets[19] = last;
    Id::new(octets)
}

/// Whether the identifier is one that a node at this address may have. Local addresses may have
/// any.
pub fn is_valid(id: Id, ip: IpAddr) -> bool {
    is_exempt(ip) || {
        let crc = prefix(ip, id[19]).to_be_bytes();
        id[0] == crc[0] && id[1] == crc[1] && id[2] & 0xf8 == crc[2] & 0xf8
    }
}

/// The hash whose first 21 bits are the identifier's; `last` is the identifier's last octet.
fn prefix(ip: IpAddr, last: u8) -> u32 {
    let r = last & 0x07;
    match ip {
        IpAddr::V4(ip) => {
            let masked = u32::from(ip) & 0x030f_3fff | u32::from(r) << 29;
            CRC32C.checksum(&masked.to_be_bytes())
        }
        IpAddr::V6(ip) => {
            let high = (u128::from(ip) >> 64) as u64;
            let masked = high & 0x0103_070f_1f3f_7fff | u64::from(r) << 61;
            CRC32C.checksum(&masked.to_be_bytes())
        }
    }
}

/// Addresses that are local by BEP 42, and their IPv6 counterparts.
fn is_exempt(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of BEP 42: address, last octet, first three octets of the identifier, of
    /// which 21 bits count.
    #[test]
    fn test_vectors() {
        for (ip, last, id) in [
            (
                "124.31.75.21",
                1,
                "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401",
            ),
            (
                "21.75.31.124",
                86,
                "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256",
            ),
            (
                "65.23.51.170",
                22,
                "a5d43220bc8f112a3d426c84764f8c2a1150e616",
            ),
            (
                "84.124.73.14",
                65,
                "1b0321dd1bb1fe518101ceef99462b947a01ff41",
            ),
            (
                "43.213.53.83",
                90,
                "e56f6cbf5b7c4be0237986d5243b87aa6d51305a",
            ),
        ] {
            let ip: IpAddr = ip.parse().expect("an address");
            let id: Id = id.parse().expect("an identifier");
            assert_eq!(id[19], last);
            assert!(is_valid(id, ip), "{ip}");
            let mut octets = *id.octets();
            octets[2] ^= 0x08;
            assert!(!is_valid(Id::new(octets), ip), "{ip}: 21 bits count");
            octets[2] ^= 0x0f;
            assert!(is_valid(Id::new(octets), ip), "{ip}: and no more");
        }
    }

    #[test]
    fn made_identifiers_are_valid() {
        let mut random = Random::from_number(1);
        for ip in ["198.51.100.7", "2001:db8:1:2::3", "203.0.113.9"] {
            let ip: IpAddr = ip.parse().expect("an address");
            for _ in 0..100 {
                assert!(is_valid(random_id(ip, &mut random), ip));
            }
            let strangers = (0..1000)
                .filter(|_| is_valid(Id::random(&mut random), ip))
                .count();
            assert!(strangers < 3, "a random identifier is valid once in 2^21");
        }
        assert!(is_valid(
            Id::random(&mut random),
            IpAddr::from([10, 0, 0, 1])
        ));
    }
}
