//! Which sources packets may have that arrive by a port: `source` of a `[[port]]` table.

use std::{collections::HashSet, fmt};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Unexpected, Visitor, value::SeqAccessDeserializer},
};

use super::error::{ConfigError, invalid};

/// Which sources packets may have: what nobody may have, and the router's own, is refused in any case.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Source {
    /// What the kernel's reverse path filter of the interface says, and strict where no gateway is behind the port. Where
    /// the kernel has no filter, sources without any route pass there, too.
    #[default]
    Auto,
    /// Only those that a best route back to leaves by this port (RFC 3704 section 2.2).
    Strict,
    /// Only those that there is a route back to (RFC 3704 section 2.4).
    Loose,
    /// Any.
    Any,
    /// Only those that have proven that they receive at their address: inside UDP, with a cookie of `[relay]`; and
    /// `udp.peers`.
    Proven,
    /// Only those in these networks.
    Prefixes(Vec<IpNet>),
}

impl Source {
    /// The networks, if it is a list.
    pub fn prefixes(&self) -> &[IpNet] {
        match self {
            Self::Prefixes(prefixes) => prefixes,
            _ => &[],
        }
    }

    pub(super) fn validate(&self, field: &str) -> Result<(), ConfigError> {
        let Self::Prefixes(prefixes) = self else {
            return Ok(());
        };
        if prefixes.is_empty() {
            let reason = "no source could send by this port: list a network, or remove the port";
            return Err(invalid(field, reason));
        }
        let mut seen = HashSet::new();
        for prefix in prefixes {
            let whole = prefix.trunc();
            if whole != *prefix {
                let reason = format!("{prefix} is an address in a network: write {whole}");
                return Err(invalid(field, reason));
            }
            if !seen.insert(prefix) {
                let reason = format!("{prefix} is listed twice: remove one");
                return Err(invalid(field, reason));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SourceVisitor;

        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#""auto", "strict", "loose", "any", "proven" or a list of networks"#)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Source, E> {
                match text {
                    "auto" => Ok(Source::Auto),
                    "strict" => Ok(Source::Strict),
                    "loose" => Ok(Source::Loose),
                    "any" => Ok(Source::Any),
                    "proven" => Ok(Source::Proven),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Source, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Source::Prefixes)
            }
        }

        deserializer.deserialize_any(SourceVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{assert_says, with_ports};

    #[test]
    fn a_port_says_whose_packets_it_takes() {
        let parsed = |value: &str| {
            let text = format!("[[port]]\ninterface = 'eth0'\nsource = {value}\n");
            with_ports(&text).unwrap().ports[0].source.clone()
        };
        assert_eq!(parsed("'auto'"), Source::Auto);
        assert_eq!(parsed("'strict'"), Source::Strict);
        assert_eq!(parsed("'loose'"), Source::Loose);
        assert_eq!(parsed("'any'"), Source::Any);
        assert_eq!(parsed("'proven'"), Source::Proven);
        let prefixes = ["10.1.0.0/16", "2001:db8::/32"].map(|text| text.parse().unwrap());
        let list = parsed("['10.1.0.0/16', '2001:db8::/32']");
        assert_eq!(list, Source::Prefixes(prefixes.to_vec()));
        for (value, said) in [
            ("'all'", "\"strict\", \"loose\""),
            ("['10.1.0.1/16']", "port 1: source: 10.1.0.1/16"),
            ("['10.1.0.0/16', '10.1.0.0/16']", "listed twice"),
            ("[]", "port 1: source"),
        ] {
            let text = format!("[[port]]\ninterface = 'eth0'\nsource = {value}\n");
            assert_says(with_ports(&text), &[said]);
        }
    }
}
