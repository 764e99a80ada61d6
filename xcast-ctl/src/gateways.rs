//! Which gateways speak Xcast. The configuration states it, the router goes by it, and reports show
//! it.

use std::{fmt, net::IpAddr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// Which gateways speak Xcast: `"all"`, `"none"`, or a list of their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Gateways {
    /// Every gateway does.
    #[default]
    All,
    /// No gateway does.
    None,
    /// Exactly these do.
    List(Vec<IpAddr>),
}

impl Gateways {
    /// Whether this gateway speaks Xcast.
    pub fn speak(&self, gateway: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::List(addresses) => addresses.contains(&gateway),
        }
    }
}

impl Serialize for Gateways {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
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
                f.write_str(r#""all", "none" or a list of IP addresses"#)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Gateways, E> {
                match text {
                    "all" => Ok(Gateways::All),
                    "none" => Ok(Gateways::None),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Gateways, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Gateways::List)
            }
        }

        deserializer.deserialize_any(GatewaysVisitor)
    }
}
