//! Which gateways speak Xcast. The configuration states it or leaves it to discovery, the router goes
//! by it, and reports show it.

use std::{fmt, net::IpAddr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

/// Which gateways speak Xcast: `"discover"`, `"all"`, `"none"`, or a list of their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gateways {
    /// Those that prove it (RFC 5058 section 11.2), apart from what is stated of some.
    Discover(Stated),
    /// Every gateway does.
    All,
    /// No gateway does.
    None,
    /// Exactly these do.
    List(Vec<IpAddr>),
}

/// What is known of gateways without asking them. Written as a table: `{ speak = [...], silent = [...] }`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stated {
    /// These speak Xcast.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speak: Vec<IpAddr>,
    /// These do not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<IpAddr>,
}

impl Default for Gateways {
    fn default() -> Self {
        Self::Discover(Stated::default())
    }
}

impl Gateways {
    /// Whether this gateway speaks Xcast, as far as that is stated; `None` if it has to be asked.
    pub fn stated(&self, gateway: IpAddr) -> Option<bool> {
        match self {
            Self::Discover(stated) if stated.speak.contains(&gateway) => Some(true),
            Self::Discover(stated) if stated.silent.contains(&gateway) => Some(false),
            Self::Discover(_) => None,
            Self::All => Some(true),
            Self::None => Some(false),
            Self::List(addresses) => Some(addresses.contains(&gateway)),
        }
    }

    /// Whether some are to be asked.
    pub fn is_to_discover(&self) -> bool {
        matches!(self, Self::Discover(_))
    }
}

impl Serialize for Gateways {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Discover(stated) if *stated == Stated::default() => {
                serializer.serialize_str("discover")
            }
            Self::Discover(stated) => stated.serialize(serializer),
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::List(addresses) => addresses.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Gateways {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct GatewaysVisitor;

        impl<'de> Visitor<'de> for GatewaysVisitor {
            type Value = Gateways;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#""discover", "all", "none", a list of IP addresses, or a table with lists `speak` and `silent`"#)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Gateways, E> {
                match text {
                    "discover" => Ok(Gateways::default()),
                    "all" => Ok(Gateways::All),
                    "none" => Ok(Gateways::None),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Gateways, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Gateways::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Gateways, A::Error> {
                Stated::deserialize(MapAccessDeserializer::new(map)).map(Gateways::Discover)
            }
        }

        deserializer.deserialize_any(GatewaysVisitor)
    }
}
