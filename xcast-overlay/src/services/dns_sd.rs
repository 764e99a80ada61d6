//! What DNS-based service discovery tells of a link (RFC 6763), as a description that is found far
//! from it.
//!
//! Names that end in `.local` mean nothing elsewhere (RFC 6762, section 3), so a description has the
//! address instead.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use thiserror::Error;

use super::entry::Service;
use crate::places::Place;

/// The mechanism's name.
pub const MECHANISM: &str = "dns-sd";

/// A service, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What people call it.
    pub name: String,
    /// Its type, as in `_ldap._tcp`.
    pub kind: String,
    /// The host that it is on.
    pub host: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What its TXT record says, in no order. A key without a value has an empty one.
    pub text: BTreeMap<String, String>,
}

/// Why a line tells of no service that others can use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InstanceError {
    /// It has too few fields, or one that is no address or port.
    #[error("line is not of avahi-browse --parsable --resolve: {0}")]
    Malformed(String),
    /// Its type is a name for people, which avahi-browse has in a table of its own.
    #[error("{0:?} is no type as in _ldap._tcp: use avahi-browse with --no-db-lookup")]
    NoType(String),
    /// Its address is one of the link.
    #[error("{0} can be reached on its own link only")]
    LinkLocal(IpAddr),
}

impl Instance {
    /// Reads a line of `avahi-browse --parsable --resolve --no-db-lookup`: `None` for one that tells of no
    /// resolved service.
    ///
    /// # Errors
    ///
    /// The service is not to be described.
    pub fn from_avahi(line: &str) -> Result<Option<Self>, InstanceError> {
        if !line.starts_with("=;") {
            return Ok(None);
        }
        let malformed = || InstanceError::Malformed(line.to_owned());
        // = interface family name type domain host address port text
        let mut fields = line.splitn(10, ';').skip(3);
        let mut field = || fields.next().ok_or_else(malformed);
        let (name, kind, _domain, host) = (field()?, field()?, field()?, field()?);
        let (address, port, text) = (field()?, field()?, field()?);
        if !kind.starts_with('_') {
            return Err(InstanceError::NoType(kind.to_owned()));
        }
        let ip: IpAddr = address.parse().map_err(|_| malformed())?;
        let is_of_link = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if is_of_link {
            return Err(InstanceError::LinkLocal(ip));
        }
        let port = port.parse().map_err(|_| malformed())?;
        let pair = |string: String| match string.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (string, String::new()),
        };
        Ok(Some(Self {
            name: unescaped(name),
            kind: kind.to_owned(),
            host: host.to_owned(),
            address: SocketAddr::new(ip, port),
            text: quoted(text).into_iter().map(pair).collect(),
        }))
    }

    /// The description. Its URI has the type's name as scheme, as the most common ones do (`_ldap._tcp`,
    /// `_http._tcp`, `_ipp._tcp`), and the path that the TXT record names, if any.
    pub fn service(&self, place: Option<Place>) -> Service {
        let scheme = self.kind.split('.').next().unwrap_or_default();
        let scheme = scheme.trim_start_matches('_');
        // Of web pages, and of printers.
        let path = ["path", "rp"].iter().find_map(|key| self.text.get(*key));
        let path = path.map_or("", |path| path.trim_start_matches('/'));
        let slash = if path.is_empty() { "" } else { "/" };
        let named = [
            ("instance".to_owned(), self.name.clone()),
            ("kind".to_owned(), self.kind.clone()),
            ("host".to_owned(), self.host.clone()),
        ];
        Service {
            mechanism: MECHANISM.to_owned(),
            uri: format!("{scheme}://{}{slash}{path}", self.address),
            attributes: self.text.clone().into_iter().chain(named).collect(),
            place,
        }
    }
}

/// A text in which `\DDD` stands for the octet of this decimal number, and `\C` for the character.
fn unescaped(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            octets.push(*first);
            continue;
        }
        let number = after.get(..3).and_then(|digits| {
            let digits = str::from_utf8(digits).ok()?;
            digits.parse::<u8>().ok()
        });
        let (octet, len) = match (number, after) {
            (Some(number), _) => (number, 3),
            (None, [octet, ..]) => (*octet, 1),
            (None, []) => break,
        };
        octets.push(octet);
        rest = &after[len..];
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// Strings between quotation marks, with spaces between them.
fn quoted(text: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('"') {
        let mut escaped = false;
        let end = after.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else { break };
        strings.push(unescaped(&after[..end]));
        rest = &after[end + 1..];
    }
    strings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_resolved_line_is_a_service() {
        let line = r#"=;to-R7;IPv4;Staff\032directory\059\032Gr\195\188n;_ldap._tcp;local;c.local;10.77.7.2;3890;"base=dc=c,dc=org" "note=say \"hi\"" "tls""#;
        let instance = Instance::from_avahi(line)
            .expect("a good line")
            .expect("a service");
        assert_eq!(instance.name, "Staff directory; Grün");
        assert_eq!(instance.text["base"], "dc=c,dc=org");
        assert_eq!(instance.text["note"], "say \"hi\"");
        assert_eq!(instance.text["tls"], "");
        let service = instance.service(None);
        assert_eq!(service.uri, "ldap://10.77.7.2:3890");
        assert_eq!(service.attributes["instance"], "Staff directory; Grün");
        assert_eq!(service.attributes["kind"], "_ldap._tcp");
    }

    #[test]
    fn a_path_is_part_of_the_uri() {
        let line = r#"=;eth0;IPv6;Pages;_http._tcp;local;h.local;fd77::1;80;"path=/docs""#;
        let instance = Instance::from_avahi(line)
            .expect("good")
            .expect("a service");
        assert_eq!(instance.service(None).uri, "http://[fd77::1]:80/docs");
    }

    #[test]
    fn what_is_no_service() {
        for other in ["", "+;eth0;IPv4;a;_ldap._tcp;local", "Failed to resolve"] {
            assert_eq!(Instance::from_avahi(other), Ok(None), "{other}");
        }
        let of_link = "=;eth0;IPv6;a;_ldap._tcp;local;h.local;fe80::1;389;";
        assert!(matches!(
            Instance::from_avahi(of_link),
            Err(InstanceError::LinkLocal(_))
        ));
        let named = "=;eth0;IPv4;a;LDAP Directory Server;local;h.local;10.0.0.1;389;";
        assert!(matches!(
            Instance::from_avahi(named),
            Err(InstanceError::NoType(_))
        ));
        for malformed in [
            "=;eth0;IPv4;a;_ldap._tcp;local;h.local;10.0.0.1",
            "=;eth0;IPv4;a;_ldap._tcp;local;h.local;nowhere;389;",
            "=;eth0;IPv4;a;_ldap._tcp;local;h.local;10.0.0.1;70000;",
        ] {
            let error = Instance::from_avahi(malformed);
            assert!(
                matches!(error, Err(InstanceError::Malformed(_))),
                "{malformed}"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(line in "(=;[^;]{0,3};[^;]{0,3};[a\\\\0-9\"ü]{0,9};_a._b;l;h;10.0.0.1;1;)?[ \\\\0-9a\"ü]{0,30}") {
            let _ = Instance::from_avahi(&line);
        }
    }
}
