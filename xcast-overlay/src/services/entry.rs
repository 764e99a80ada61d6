//! Descriptions of services.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use thiserror::Error;

use crate::{
    id::Id,
    krpc::bencode::{Bencoded, Writer},
    places::Place,
    signed::{Purpose, Signed},
};

/// Longest entry in octets: it fits into an item of BEP 44, and one fits into every answer.
pub const MAX_ENTRY_OCTETS: usize = 800;

/// Degrees are stored as millionths, which is 11 cm.
const MICRO: f64 = 1_000_000.0;

/// What a service is.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// What finds or is found there: `ldap`, `slp`, `uddi`, `dns-sd`, or another name in small
    /// letters.
    pub mechanism: String,
    /// How to reach it.
    pub uri: String,
    /// What else there is to know.
    pub attributes: BTreeMap<String, String>,
    /// Where it is.
    pub place: Option<Place>,
}

/// A description that its publisher has signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What is described.
    pub service: Service,
    /// The larger, the newer.
    pub seq: i64,
    /// When it is no longer true, in seconds since 1970.
    pub expires_unix_s: i64,
    signed: Signed,
}

/// Why something is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// It is too long.
    #[error("entry has {0} octets; at most {MAX_ENTRY_OCTETS} may be: shorten its attributes")]
    TooLong(usize),
    /// A part is missing or is not what it should be.
    #[error("entry has no valid {0}")]
    Malformed(&'static str),
    /// The signature is wrong.
    #[error("entry is not signed by its publisher")]
    Forged,
}

impl Entry {
    /// Signs a description.
    ///
    /// # Errors
    ///
    /// If it is too long, or has no mechanism or URI.
    pub fn sign(
        key: &SigningKey,
        mut service: Service,
        seq: i64,
        expires_unix_s: i64,
    ) -> Result<Self, EntryError> {
        service.mechanism = service.mechanism.to_lowercase();
        service.check()?;
        let body = body(&service, seq, expires_unix_s);
        let signed = Signed::new(key, Purpose::Service, b"", body);
        // Read back, so that it is what others will read: a place is rounded.
        let entry = Self::from_signed(signed)?;
        match entry.encode().len() {
            len if len > MAX_ENTRY_OCTETS => Err(EntryError::TooLong(len)),
            _ => Ok(entry),
        }
    }

    /// Reads an entry, and checks its signature. Whether it has expired is for the caller to say.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn decode(octets: &Bytes) -> Result<Self, EntryError> {
        if octets.len() > MAX_ENTRY_OCTETS {
            return Err(EntryError::TooLong(octets.len()));
        }
        let item = Bencoded::read(octets).map_err(|_| EntryError::Malformed("encoding"))?;
        let signed = Signed::read(&item, octets).ok_or(EntryError::Malformed("signature"))?;
        if !signed.is_valid(Purpose::Service, b"") {
            return Err(EntryError::Forged);
        }
        Self::from_signed(signed)
    }

    /// Writes it, bencoded.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        self.signed.write(&mut writer);
        writer.finish().datagram(0)
    }

    /// Its publisher: the hash of the publisher's key.
    pub fn publisher(&self) -> Id {
        Id::hash_of(&[b"xcast publisher 1", &self.signed.key])
    }

    /// What tells it from the publisher's other entries: its mechanism and URI.
    pub fn name(&self) -> Id {
        let service = &self.service;
        Id::hash_of(&[service.mechanism.as_bytes(), b"\0", service.uri.as_bytes()])
    }

    fn from_signed(signed: Signed) -> Result<Self, EntryError> {
        let body = Bencoded::read(&signed.body).map_err(|_| EntryError::Malformed("body"))?;
        let text = |item: &Bencoded<'_>, what| {
            let octets = item.octets().ok_or(EntryError::Malformed(what))?;
            String::from_utf8(octets.to_vec()).map_err(|_| EntryError::Malformed(what))
        };
        let field = |key: &[u8], what| body.key(key).ok_or(EntryError::Malformed(what));
        let integer = |key: &[u8], what| {
            field(key, what)?
                .integer()
                .ok_or(EntryError::Malformed(what))
        };
        let mut attributes = BTreeMap::new();
        let list = field(b"a", "attributes")?
            .list()
            .ok_or(EntryError::Malformed("attributes"))?;
        for pair in list.chunks_exact(2) {
            attributes.insert(text(&pair[0], "attribute")?, text(&pair[1], "attribute")?);
        }
        let place = match body.key(b"p").map(|place| place.list()) {
            None => None,
            Some(Some([latitude, longitude])) => {
                let degrees = |item: &Bencoded<'_>| Some(item.integer()? as f64 / MICRO);
                let place = degrees(latitude)
                    .zip(degrees(longitude))
                    .and_then(|(latitude, longitude)| Place::new(latitude, longitude).ok());
                Some(place.ok_or(EntryError::Malformed("place"))?)
            }
            Some(_) => return Err(EntryError::Malformed("place")),
        };
        let service = Service {
            mechanism: text(field(b"m", "mechanism")?, "mechanism")?,
            uri: text(field(b"u", "URI")?, "URI")?,
            attributes,
            place,
        };
        service.check()?;
        let seq = integer(b"q", "seq")?;
        let expires_unix_s = integer(b"e", "expiry")?;
        Ok(Self {
            service,
            seq,
            expires_unix_s,
            signed,
        })
    }
}

impl Service {
    fn check(&self) -> Result<(), EntryError> {
        let small = self.mechanism == self.mechanism.to_lowercase();
        if self.mechanism.is_empty() || !small {
            return Err(EntryError::Malformed("mechanism"));
        }
        // RFC 3986: a scheme, a colon, and no white space.
        let (scheme, rest) = self.uri.split_once(':').unwrap_or_default();
        let letters = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if scheme.is_empty()
            || rest.is_empty()
            || !scheme.chars().all(letters)
            || self.uri.contains(char::is_whitespace)
        {
            return Err(EntryError::Malformed("URI"));
        }
        Ok(())
    }
}

fn body(service: &Service, seq: i64, expires_unix_s: i64) -> Bytes {
    let mut writer = Writer::default();
    writer.dict(|w| {
        w.octets(b"a");
        w.list(|w| {
            for (name, value) in &service.attributes {
                w.octets(name.as_bytes());
                w.octets(value.as_bytes());
            }
        });
        w.key_integer("e", expires_unix_s);
        w.key_octets("m", service.mechanism.as_bytes());
        if let Some(place) = service.place {
            w.octets(b"p");
            w.list(|w| {
                for degrees in [place.latitude(), place.longitude()] {
                    w.integer((degrees * MICRO).round() as i64);
                }
            });
        }
        w.key_integer("q", seq);
        w.key_octets("u", service.uri.as_bytes());
    });
    writer.finish().datagram(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::krpc::signing_key;

    fn service() -> Service {
        Service {
            mechanism: "LDAP".into(),
            uri: "ldap://directory.example.org:389/dc=example,dc=org".into(),
            attributes: BTreeMap::from([("name".into(), "Staff of Example".into())]),
            place: Place::new(52.52, 13.405).ok(),
        }
    }

    #[test]
    fn written_and_read() {
        let entry = Entry::sign(&signing_key([1; 32]), service(), 7, 1000).expect("an entry");
        assert_eq!(entry.service.mechanism, "ldap");
        let place = entry.service.place.expect("a place");
        assert!(place.distance_m(Place::new(52.52, 13.405).expect("a place")) < 0.2);
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn a_changed_octet_is_noticed() {
        let entry = Entry::sign(&signing_key([1; 32]), service(), 7, 1000).expect("an entry");
        let octets = entry.encode();
        for at in 0..octets.len() {
            let mut changed = octets.to_vec();
            changed[at] ^= 1;
            assert!(Entry::decode(&changed.into()).is_err(), "octet {at}");
        }
    }

    #[test]
    fn what_is_no_entry() {
        let sign = |change: fn(&mut Service)| {
            let mut service = service();
            change(&mut service);
            Entry::sign(&signing_key([1; 32]), service, 1, 1).map(drop)
        };
        assert_eq!(
            sign(|s| s.mechanism.clear()),
            Err(EntryError::Malformed("mechanism"))
        );
        for uri in ["", "ldap", "ldap:", ":x", "ld ap://x", "ldap://a b"] {
            let service = Service {
                uri: uri.into(),
                ..service()
            };
            let entry = Entry::sign(&signing_key([1; 32]), service, 1, 1);
            assert_eq!(entry, Err(EntryError::Malformed("URI")), "{uri}");
        }
        let long = sign(|s| drop(s.attributes.insert("text".into(), "a".repeat(900))));
        assert!(matches!(long, Err(EntryError::TooLong(900..))));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(
            change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let entry = Entry::sign(&signing_key([1; 32]), service(), 7, 1000).expect("an entry");
            let mut octets = entry.encode().to_vec();
            for (at, octet) in change {
                let at = at.index(octets.len());
                octets[at] = octet;
            }
            octets.truncate(cut.index(octets.len()));
            prop_assert!(Entry::decode(&octets.into()).is_err());
        }
    }
}
