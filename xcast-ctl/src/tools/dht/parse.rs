//! Values on the command line.

use std::net::{SocketAddr, ToSocketAddrs as _};

use xcast_overlay::{id::Id, places::Place};

/// A key: 40 hexadecimal digits, or a text whose SHA-1 hash it is.
///
/// # Errors
///
/// Why it is none.
pub(super) fn key(text: &str) -> Result<Id, String> {
    match text.strip_prefix("text:") {
        Some(text) => Ok(Id::hash_of(&[text.as_bytes()])),
        None => text.parse().map_err(|_| {
            format!("{text:?} is no key: give 40 hexadecimal digits, or text:WORDS to hash")
        }),
    }
}

/// A node: an address or a name, and a port.
#[derive(Clone, Debug)]
pub(super) struct Endpoint(pub(super) Vec<SocketAddr>);

/// A node's addresses; a name may have several.
///
/// # Errors
///
/// Why there are none.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    if text
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.parse::<u16>().is_err())
    {
        return Err(format!(
            "{text:?} is not ADDRESS:PORT or NAME:PORT (brackets around an address of IPv6)"
        ));
    }
    let found = text
        .to_socket_addrs()
        .map_err(|error| format!("{text:?}: {error}"))?;
    let found: Vec<SocketAddr> = found
        .map(|found| SocketAddr::new(found.ip().to_canonical(), found.port()))
        .collect();
    for address in &found {
        let ip = address.ip();
        if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
            return Err(format!("{address} is no address of a node"));
        }
    }
    match found.is_empty() {
        false => Ok(Endpoint(found)),
        true => Err(format!("{text:?} has no address")),
    }
}

/// A place: degrees of latitude and longitude.
///
/// # Errors
///
/// Why it is none.
pub(super) fn place(text: &str) -> Result<(f64, f64), String> {
    let degrees = |text: &str| text.trim().parse::<f64>().ok();
    let (latitude, longitude) = text
        .split_once(',')
        .and_then(|(latitude, longitude)| Some((degrees(latitude)?, degrees(longitude)?)))
        .ok_or_else(|| {
            format!("{text:?} is not LATITUDE,LONGITUDE in degrees, as in 52.52,13.41")
        })?;
    Place::new(latitude, longitude).map_err(|error| format!("{text:?}: {error}"))?;
    Ok((latitude, longitude))
}

/// An attribute: its name and its value.
///
/// # Errors
///
/// Why it is none.
pub(super) fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// Octets of hexadecimal digits.
///
/// # Errors
///
/// Why they are none.
pub(super) fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |at: usize| {
        text.get(at..at + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    let octets: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
    octets
        .filter(|_| text.bytes().all(|octet| octet.is_ascii_hexdigit()))
        .ok_or_else(|| format!("{text:?} is not an even number of hexadecimal digits"))
}

/// A public key of Ed25519.
///
/// # Errors
///
/// Why it is none.
pub(super) fn public_key(text: &str) -> Result<[u8; 32], String> {
    hex(text)?
        .try_into()
        .map_err(|_| format!("{text:?} is no public key: that has 64 hexadecimal digits"))
}

/// Hexadecimal digits of octets.
pub(super) fn to_hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let hash = "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed";
        assert_eq!(key("text:hello world").unwrap().to_string(), hash);
        assert_eq!(key(hash).unwrap().to_string(), hash);
        assert!(key("hello").unwrap_err().contains("text:WORDS"));
    }

    #[test]
    fn endpoints() {
        let found = |text| endpoint(text).map(|endpoint| endpoint.0);
        assert_eq!(
            found("10.0.0.1:6881").unwrap(),
            ["10.0.0.1:6881".parse().unwrap()]
        );
        assert_eq!(
            found("[fd00::1]:6881").unwrap(),
            ["[fd00::1]:6881".parse().unwrap()]
        );
        for (text, said) in [
            ("10.0.0.1", "is not ADDRESS:PORT"),
            ("10.0.0.1:70000", "is not ADDRESS:PORT"),
            ("10.0.0.1:0", "no address of a node"),
            ("224.0.0.1:1", "no address of a node"),
        ] {
            assert!(found(text).unwrap_err().contains(said), "{text}");
        }
    }

    #[test]
    fn places_attributes_and_octets() {
        assert_eq!(place("52.52, 13.405"), Ok((52.52, 13.405)));
        assert!(place("91,0").unwrap_err().contains("latitude"));
        assert!(place("here").unwrap_err().contains("LATITUDE,LONGITUDE"));
        assert_eq!(attribute("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(attribute("=c").is_err() && attribute("a").is_err());
        assert_eq!(hex("00ff"), Ok(vec![0, 255]));
        assert!(hex("0").is_err() && hex("0g").is_err() && hex("+1").is_err());
        assert_eq!(to_hex(&[0, 255]), "00ff");
        assert!(public_key("00").is_err());
    }
}
