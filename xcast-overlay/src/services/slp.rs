//! Messages of the Service Location Protocol, version 2 (RFC 2608), between agents of SLP and the
//! hash table: a registration becomes a [`Service`], and services that were found become a reply.
//!
//! Requests for services, replies, registrations and advertisements of directory agents are here.
//! Messages of other kinds, and those with authentication blocks or extensions, are not read.
//!
//! A reply is never longer than its caller allows: SLP runs over UDP, and its servers have been
//! used to flood others (CVE-2023-29552). What does not fit is left out, and the overflow flag says
//! so (section 8.1): who sees it asks again over TCP.

use bytes::Bytes;

use super::entry::Service;
use crate::{
    places::Place,
    wire::{Reader, Writer},
};

/// The mechanism's name.
pub const MECHANISM: &str = "slp";
/// The port of all agents, both UDP and TCP (section 7).
pub const PORT: u16 = 427;

const VERSION: u8 = 2;
/// Length of a header without its language tag, in octets.
const HEADER_OCTETS: usize = 14;
/// Set if a message was too long for its datagram.
const OVERFLOW: u16 = 0x8000;
/// Set in registrations that replace what was registered before.
const FRESH: u16 = 0x4000;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Ties a reply to a request.
    pub transaction: u16,
    /// Language of the strings (RFC 1766).
    pub language: String,
    /// Whether something was left out.
    pub overflow: bool,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// SrvRqst, section 8.1: where are services of this type?
    Request {
        /// Addresses of agents that have answered and need not do so again, with commas between.
        previous: String,
        /// As in `service:ldap`.
        kind: String,
        /// Scopes, with commas between.
        scopes: String,
        /// A filter of LDAP (RFC 2254), or nothing.
        predicate: String,
    },
    /// SrvRply, section 8.2.
    Reply {
        /// Zero, or what was wrong (section 7).
        error: u16,
        /// Where.
        urls: Vec<Url>,
    },
    /// SrvReg, section 8.3: a service is there.
    Registration {
        /// Where.
        url: Url,
        /// As in `service:ldap`.
        kind: String,
        /// Scopes, with commas between.
        scopes: String,
        /// Attributes: `(name=value),keyword`.
        attributes: String,
    },
    /// DAAdvert, section 8.5: here is a directory agent.
    Advertisement {
        /// Zero, unless it answers a request.
        error: u16,
        /// When it began with nothing, in seconds since 1970; 0 if it ends.
        boot_unix_s: u32,
        /// As in `service:directory-agent://192.0.2.1`.
        url: String,
        /// Scopes, with commas between.
        scopes: String,
        /// Attributes.
        attributes: String,
    },
}

/// A URL and how long it is true (section 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Seconds.
    pub lifetime_s: u16,
    /// As in `service:ldap://192.0.2.1`, or any other URL.
    pub url: String,
}

impl Message {
    /// Reads a message. `None` if it is none, or of a kind that is not known here.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(Bytes::copy_from_slice(datagram));
        let (version, function) = (reader.u8()?, reader.u8()?);
        let length = number(reader.array()?);
        let flags = reader.u16()?;
        let extension = number(reader.array()?);
        if version != VERSION || length != datagram.len() || extension != 0 {
            return None;
        }
        let transaction = reader.u16()?;
        let language = string(&mut reader)?;
        let body = Body::read(function, &mut reader)?;
        reader.is_empty().then_some(Self {
            transaction,
            language,
            overflow: flags & OVERFLOW != 0,
            body,
        })
    }

    /// Writes it. `None` if a string or the whole is too long.
    pub fn encode(&self) -> Option<Bytes> {
        let mut body = Writer::default();
        self.body.write(&mut body)?;
        let length = HEADER_OCTETS + self.language.len() + body.len();
        let mut flags = 0;
        if self.overflow {
            flags |= OVERFLOW;
        }
        if let Body::Registration { .. } = self.body {
            flags |= FRESH;
        }
        let mut writer = Writer::default();
        writer.u8(VERSION);
        writer.u8(self.body.function());
        let [zero, high, middle, low] = u32::try_from(length).ok()?.to_be_bytes();
        if zero != 0 {
            return None;
        }
        writer.octets(&[high, middle, low]);
        writer.u16(flags);
        writer.octets(&[0; 3]);
        writer.u16(self.transaction);
        write_string(&mut writer, &self.language)?;
        writer.octets(&body.finish());
        Some(writer.finish())
    }

    /// The reply to a request: these services, with how long each is true in seconds, as many as fit
    /// into `max_octets`. `None` if the message is no request.
    pub fn reply<'a>(
        &self,
        services: impl IntoIterator<Item = (&'a Service, i64)>,
        max_octets: usize,
    ) -> Option<Self> {
        let Body::Request { .. } = self.body else {
            return None;
        };
        // Error and number of URLs.
        let mut length = HEADER_OCTETS + self.language.len() + 4;
        let (mut urls, mut overflow) = (Vec::new(), false);
        for (service, life_s) in services {
            let url = Url {
                lifetime_s: life_s.clamp(0, u16::MAX.into()) as u16,
                url: service.uri.clone(),
            };
            if length + url.octets() > max_octets {
                overflow = true;
                break;
            }
            length += url.octets();
            urls.push(url);
        }
        Some(Self {
            overflow,
            body: Body::Reply { error: 0, urls },
            ..self.clone()
        })
    }
}

impl Body {
    fn function(&self) -> u8 {
        match self {
            Self::Request { .. } => 1,
            Self::Reply { .. } => 2,
            Self::Registration { .. } => 3,
            Self::Advertisement { .. } => 8,
        }
    }

    fn read(function: u8, reader: &mut Reader) -> Option<Self> {
        Some(match function {
            1 => {
                let body = Self::Request {
                    previous: string(reader)?,
                    kind: string(reader)?,
                    scopes: string(reader)?,
                    predicate: string(reader)?,
                };
                no_authentication(&string(reader)?)?;
                body
            }
            2 => {
                let error = reader.u16()?;
                let count = reader.u16()?;
                let urls = (0..count).map(|_| Url::read(reader));
                Self::Reply {
                    error,
                    urls: urls.collect::<Option<_>>()?,
                }
            }
            3 => {
                let body = Self::Registration {
                    url: Url::read(reader)?,
                    kind: string(reader)?,
                    scopes: string(reader)?,
                    attributes: string(reader)?,
                };
                no_blocks(reader)?;
                body
            }
            8 => {
                let (error, boot_unix_s) = (reader.u16()?, reader.u32()?);
                let body = Self::Advertisement {
                    error,
                    boot_unix_s,
                    url: string(reader)?,
                    scopes: string(reader)?,
                    attributes: string(reader)?,
                };
                no_authentication(&string(reader)?)?;
                no_blocks(reader)?;
                body
            }
            _ => return None,
        })
    }

    fn write(&self, writer: &mut Writer) -> Option<()> {
        match self {
            Self::Request {
                previous,
                kind,
                scopes,
                predicate,
            } => {
                // No security parameter index.
                for text in [previous, kind, scopes, predicate, ""] {
                    write_string(writer, text)?;
                }
            }
            Self::Reply { error, urls } => {
                writer.u16(*error);
                writer.u16(urls.len().try_into().ok()?);
                for url in urls {
                    url.write(writer)?;
                }
            }
            Self::Registration {
                url,
                kind,
                scopes,
                attributes,
            } => {
                url.write(writer)?;
                for text in [kind, scopes, attributes] {
                    write_string(writer, text)?;
                }
                writer.u8(0);
            }
            Self::Advertisement {
                error,
                boot_unix_s,
                url,
                scopes,
                attributes,
            } => {
                writer.u16(*error);
                writer.u32(*boot_unix_s);
                for text in [url, scopes, attributes, ""] {
                    write_string(writer, text)?;
                }
                writer.u8(0);
            }
        }
        Some(())
    }

    /// What a registration describes, which need not be a valid description yet. `None` for other
    /// messages.
    pub fn service(&self, place: Option<Place>) -> Option<Service> {
        let Self::Registration {
            url,
            kind,
            scopes,
            attributes,
        } = self
        else {
            return None;
        };
        let named = [
            ("kind".to_owned(), kind.clone()),
            ("scopes".to_owned(), scopes.clone()),
        ];
        let pair = |attribute: &str| {
            let inner = attribute
                .strip_prefix('(')
                .and_then(|inner| inner.strip_suffix(')'));
            let (name, value) = inner
                .and_then(|inner| inner.split_once('='))
                .unwrap_or((attribute, ""));
            (unescaped(name), unescaped(value))
        };
        let attributes = list(attributes)
            .map(pair)
            .filter(|(name, _)| !name.is_empty());
        Some(Service {
            mechanism: MECHANISM.to_owned(),
            uri: url.url.clone(),
            attributes: attributes.chain(named).collect(),
            place,
        })
    }

    /// The registration of a service: its URI as it is, its mechanism or the `kind` that it was
    /// registered with, and its attributes.
    pub fn registration(service: &Service, lifetime_s: u16) -> Self {
        let of = |name: &str, otherwise: String| {
            let known = service.attributes.get(name).cloned();
            known.unwrap_or(otherwise)
        };
        let attributes = service
            .attributes
            .iter()
            .filter(|(name, _)| !["kind", "scopes"].contains(&name.as_str()));
        let attributes = attributes.map(|(name, value)| match value.is_empty() {
            true => escaped(name),
            false => format!("({}={})", escaped(name), escaped(value)),
        });
        Self::Registration {
            url: Url {
                lifetime_s,
                url: service.uri.clone(),
            },
            kind: of("kind", format!("service:{}", service.mechanism)),
            scopes: of("scopes", "DEFAULT".to_owned()),
            attributes: attributes.collect::<Vec<_>>().join(","),
        }
    }
}

impl Url {
    /// Its length in octets.
    fn octets(&self) -> usize {
        6 + self.url.len()
    }

    fn read(reader: &mut Reader) -> Option<Self> {
        let _reserved = reader.u8()?;
        let lifetime_s = reader.u16()?;
        let url = string(reader)?;
        no_blocks(reader)?;
        Some(Self { lifetime_s, url })
    }

    fn write(&self, writer: &mut Writer) -> Option<()> {
        writer.u8(0);
        writer.u16(self.lifetime_s);
        write_string(writer, &self.url)?;
        writer.u8(0);
        Some(())
    }
}

fn number([high, middle, low]: [u8; 3]) -> usize {
    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
}

/// Two octets of length, and UTF-8.
fn string(reader: &mut Reader) -> Option<String> {
    let length = reader.u16()?;
    let octets = reader.take(length.into())?;
    String::from_utf8(octets.to_vec()).ok()
}

fn write_string(writer: &mut Writer, text: &str) -> Option<()> {
    writer.u16(text.len().try_into().ok()?);
    writer.octets(text.as_bytes());
    Some(())
}

fn no_authentication(parameters: &str) -> Option<()> {
    parameters.is_empty().then_some(())
}

fn no_blocks(reader: &mut Reader) -> Option<()> {
    (reader.u8()? == 0).then_some(())
}

/// The elements of a list, with commas between those that are not within parentheses.
fn list(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth <= 0
    })
    .map(str::trim)
}

/// Characters that section 5 reserves in attributes.
const RESERVED: &str = "(),\\!<=>~;*+";

/// Reserved characters become a backslash and two hexadecimal digits (section 5).
fn escaped(text: &str) -> String {
    let escape = |c: char| match RESERVED.contains(c) || c.is_ascii_control() {
        true => format!("\\{:02x}", c as u32),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match digits.filter(u8::is_ascii) {
            Some(octet) => {
                plain.push(char::from(octet));
                plain.push_str(&part[2..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn any_url() -> impl Strategy<Value = Url> {
        (any::<u16>(), "[a-z:/.ü]{0,40}").prop_map(|(lifetime_s, url)| Url { lifetime_s, url })
    }

    fn any_body() -> impl Strategy<Value = Body> {
        let text = || "[ -~ü]{0,20}";
        prop_oneof![
            (text(), text(), text(), text()).prop_map(|(previous, kind, scopes, predicate)| {
                Body::Request {
                    previous,
                    kind,
                    scopes,
                    predicate,
                }
            }),
            (any::<u16>(), prop::collection::vec(any_url(), 0..5))
                .prop_map(|(error, urls)| Body::Reply { error, urls }),
            (any_url(), text(), text(), text()).prop_map(|(url, kind, scopes, attributes)| {
                Body::Registration {
                    url,
                    kind,
                    scopes,
                    attributes,
                }
            }),
            (any::<u16>(), any::<u32>(), text(), text(), text()).prop_map(
                |(error, boot_unix_s, url, scopes, attributes)| Body::Advertisement {
                    error,
                    boot_unix_s,
                    url,
                    scopes,
                    attributes,
                }
            ),
        ]
    }

    fn any_message() -> impl Strategy<Value = Message> {
        (any::<u16>(), "[a-z]{2}", any::<bool>(), any_body()).prop_map(
            |(transaction, language, overflow, body)| Message {
                transaction,
                language,
                overflow,
                body,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in any_message()) {
            let octets = message.encode().expect("short enough");
            prop_assert_eq!(Message::decode(&octets), Some(message));
            for end in 0..octets.len() {
                prop_assert_eq!(Message::decode(&octets[..end]), None);
            }
        }

        #[test]
        fn damage_does_no_harm(
            message in any_message(),
            at in any::<prop::sample::Index>(),
            octet in any::<u8>(),
        ) {
            let mut octets = message.encode().expect("short enough").to_vec();
            let at = at.index(octets.len());
            octets[at] = octet;
            if let Some(read) = Message::decode(&octets) {
                // Reserved bits and octets are not kept.
                let written = read.encode().expect("as long as before");
                prop_assert_eq!(Message::decode(&written), Some(read));
            }
        }

        #[test]
        fn a_service_that_is_registered_is_the_same_service(
            attributes in prop::collection::btree_map("[a-z(),=\\\\*ü]{1,9}", "[a-z(),=\\\\*ü]{0,9}", 0..5),
        ) {
            let service = Service {
                mechanism: MECHANISM.into(),
                uri: "service:printer:lpr://printer.example.org".into(),
                attributes: attributes
                    .into_iter()
                    .chain([
                        ("kind".to_owned(), "service:printer:lpr".to_owned()),
                        ("scopes".to_owned(), "DEFAULT".to_owned()),
                    ])
                    .collect(),
                place: None,
            };
            prop_assert_eq!(Body::registration(&service, 9).service(None), Some(service));
        }
    }

    fn request() -> Message {
        Message {
            transaction: 7,
            language: "en".into(),
            overflow: false,
            body: Body::Request {
                previous: String::new(),
                kind: "service:ldap".into(),
                scopes: "DEFAULT".into(),
                predicate: String::new(),
            },
        }
    }

    #[test]
    fn a_reply_is_as_long_as_allowed() {
        let services: Vec<Service> = (0..20)
            .map(|number| Service {
                mechanism: MECHANISM.into(),
                uri: format!("service:ldap://host{number}.example.org"),
                attributes: BTreeMap::new(),
                place: None,
            })
            .collect();
        let with_life = || services.iter().map(|service| (service, 100_000));
        let asked = request().encode().expect("short enough");
        for max_octets in [asked.len(), 200, 300] {
            let reply = request().reply(with_life(), max_octets).expect("a reply");
            assert!(reply.overflow);
            let octets = reply.encode().expect("short enough");
            assert!(
                octets.len() <= max_octets,
                "{} of {max_octets}",
                octets.len()
            );
        }
        let reply = request().reply(with_life(), 1400).expect("a reply");
        let Body::Reply { error: 0, urls } = &reply.body else {
            panic!("{reply:?}");
        };
        assert_eq!((urls.len(), urls[0].lifetime_s), (20, u16::MAX));
        assert_eq!((reply.overflow, reply.transaction), (false, 7));
        assert_eq!(reply.reply(with_life(), 1400), None, "it is no request");
    }
}
