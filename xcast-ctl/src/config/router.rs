//! The `[router]` table: how the router behaves.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde::Deserialize;
use xcast_common::maps::{IcmpRequests, MAX_FANOUTS, Prune};

use super::{
    address::{check_addresses, is_unicast},
    error::{ConfigError, invalid},
    group, table,
};
use crate::gateways::{Gateways, Stated};

/// Name of the router's own interface unless the configuration gives another one.
pub const DEFAULT_INTERFACE: &str = "xcast0";

/// Added to the name of the router's own interface, it names the other end of the veth pair.
pub const DATAPATH_SUFFIX: &str = "-dp";

/// Longest interface name that the kernel accepts, in octets.
const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;
/// Longest further name of an interface.
const MAX_FURTHER_NAME_LEN: usize = 127;

/// The `[router]` table: how the router behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Router {
    /// Which gateways speak Xcast. A gateway that does not gets one unicast packet per
    /// destination. Default: those that prove it.
    pub gateways: Gateways,
    /// Addresses farther away that answer pings: gateways on the way there get lists only while they forward them.
    /// Default: none, and what gateways return is enough.
    pub probe_through: Vec<IpAddr>,
    /// How a copy's list is pruned. Default: truncated.
    #[serde(with = "prune")]
    pub prune: Prune,
    /// What becomes of ICMP requests that are for several destinations (RFC 5058 section 14). Default: they are
    /// forwarded if a best route back to their source leaves by the port of arrival.
    #[serde(with = "icmp_requests")]
    pub icmp_requests: IcmpRequests,
    /// Addresses besides the router's own that Xcast packets may be sent to (RFC 5058 section
    /// 11.5). Default: none.
    pub anycast: Vec<IpAddr>,
    /// Kernel tables to consult after `local`, `main` and those that `ip rule` names, in this order. Default: none.
    pub tables: Vec<u32>,
    /// The Xcast routing table (RFC 5058 section 11.1): a kernel table whose routes are for lists only, given by its
    /// number, or by its name in iproute2's files. Default: none.
    #[serde(deserialize_with = "table::deserialize")]
    pub xcast_table: Option<u32>,
    /// Name of the router's own interface. Default: [`DEFAULT_INTERFACE`].
    pub interface: String,
    /// Address of the router's own interface. The kernel's reverse path filter drops everything
    /// that arrives on an interface without one. Default: 169.254.88.1, link-local so that no
    /// route to it spreads.
    pub address: Ipv4Addr,
    /// Number of exact port sets to keep device maps for. A further set replaces the least recently
    /// used one; until it has its map, its packets are recirculated. Each set costs a few kilobytes
    /// of kernel memory. Default: 1024, at most [`MAX_FANOUTS`].
    pub subsets: u32,
    /// On SIGTERM and SIGINT, leave everything attached and forwarding. Default: false, detach.
    pub keep: bool,
    /// How long copies are forwarded as the tables say after the controller has ended without detaching, in
    /// seconds. Then every destination goes to the kernel stack, which knows better by then. 0 for ever. Default: 600.
    pub orphan_seconds: u32,
    /// The group, by number or by name, whose members may ask the router, but not stop it. Default: none, and only root
    /// and the router's own user may ask.
    #[serde(deserialize_with = "group::deserialize")]
    pub readers: Option<u32>,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            gateways: Gateways::default(),
            probe_through: Vec::new(),
            prune: Prune::Truncate,
            icmp_requests: IcmpRequests::Verified,
            anycast: Vec::new(),
            tables: Vec::new(),
            xcast_table: None,
            interface: DEFAULT_INTERFACE.to_owned(),
            address: Ipv4Addr::new(169, 254, 88, 1),
            subsets: 1024,
            keep: false,
            orphan_seconds: 600,
            readers: None,
        }
    }
}

impl Router {
    /// How long the tables may be trusted when nobody keeps them up to date; `None` for ever.
    pub fn orphan_limit(&self) -> Option<Duration> {
        (self.orphan_seconds != 0).then(|| Duration::from_secs(self.orphan_seconds.into()))
    }

    /// Name of the datapath's end of the router's own veth pair.
    pub fn datapath_interface(&self) -> String {
        format!("{}{DATAPATH_SUFFIX}", self.interface)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_name("router.interface", &self.interface)?;
        let most = MAX_NAME_LEN - DATAPATH_SUFFIX.len();
        if self.interface.len() > most {
            return Err(invalid(
                "router.interface",
                format!(
                    "{:?} is longer than {most} characters: give a shorter name, to which \
                     {DATAPATH_SUFFIX:?} can be added for the other end of the pair",
                    self.interface
                ),
            ));
        }
        if !is_unicast(self.address.into()) {
            return Err(invalid(
                "router.address",
                format!(
                    "{} cannot be an interface's address: give a unicast one",
                    self.address
                ),
            ));
        }
        if self.subsets == 0 || self.subsets > MAX_FANOUTS {
            return Err(invalid(
                "router.subsets",
                format!("{} is out of range: give 1 to {MAX_FANOUTS}", self.subsets),
            ));
        }
        match &self.gateways {
            Gateways::List(addresses) => check_addresses("router.gateways", addresses)?,
            Gateways::Discover(Stated { speak, silent }) => {
                check_addresses("router.gateways.speak", speak)?;
                check_addresses("router.gateways.silent", silent)?;
                if let Some(both) = speak.iter().find(|address| silent.contains(address)) {
                    return Err(invalid(
                        "router.gateways",
                        format!("{both} is in both `speak` and `silent`: remove it from one"),
                    ));
                }
            }
            Gateways::All | Gateways::None => {}
        }
        check_addresses("router.probe_through", &self.probe_through)?;
        check_addresses("router.anycast", &self.anycast)?;
        match self.xcast_table {
            Some(table @ (0 | 253..=255)) => {
                return Err(invalid(
                    "router.xcast_table",
                    format!(
                        "{table} is the kernel's own for unicast: give a table of its own, such as 100"
                    ),
                ));
            }
            Some(table) if self.tables.contains(&table) => {
                return Err(invalid(
                    "router.xcast_table",
                    format!(
                        "{table} is also in router.tables, which unicast follows: remove it from one"
                    ),
                ));
            }
            _ => {}
        }
        let mut seen = HashSet::new();
        for &table in &self.tables {
            match table {
                0 => return Err(invalid("router.tables", "0 is not a table: remove it")),
                254 | 255 => {
                    return Err(invalid(
                        "router.tables",
                        format!("{table} is always consulted first: remove it"),
                    ));
                }
                _ if !seen.insert(table) => {
                    return Err(invalid(
                        "router.tables",
                        format!("{table} is listed twice: remove one"),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name of a prune mode in configuration and reports.
pub fn prune_name(prune: Prune) -> &'static str {
    match prune {
        Prune::Truncate => "truncate",
        Prune::Bitmap => "bitmap",
    }
}

mod prune {
    use serde::{Deserialize, Deserializer};
    use xcast_common::maps::Prune;

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Name {
        Truncate,
        Bitmap,
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Prune, D::Error> {
        Ok(match Name::deserialize(deserializer)? {
            Name::Truncate => Prune::Truncate,
            Name::Bitmap => Prune::Bitmap,
        })
    }
}

mod icmp_requests {
    use serde::{Deserialize, Deserializer};
    use xcast_common::maps::IcmpRequests;

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Name {
        Forward,
        Verified,
        Drop,
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<IcmpRequests, D::Error> {
        Ok(match Name::deserialize(deserializer)? {
            Name::Forward => IcmpRequests::Forward,
            Name::Verified => IcmpRequests::Verified,
            Name::Drop => IcmpRequests::Drop,
        })
    }
}

/// What the kernel accepts as an interface's name (`dev_valid_name`).
pub(super) fn check_name(field: &str, name: &str) -> Result<(), ConfigError> {
    check_name_within(MAX_NAME_LEN, field, name)
}

/// The same for a name that may be a further one (`ALTIFNAMSIZ`).
pub(super) fn check_any_name(field: &str, name: &str) -> Result<(), ConfigError> {
    check_name_within(MAX_FURTHER_NAME_LEN, field, name)
}

fn check_name_within(most: usize, field: &str, name: &str) -> Result<(), ConfigError> {
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." || name.contains(refused) {
        return Err(invalid(
            field,
            format!("{name:?} is not an interface's name"),
        ));
    }
    if name.len() > most {
        return Err(invalid(
            field,
            format!("{name:?} is longer than the {most} characters an interface's name can have"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{assert_says, with_router};

    #[test]
    fn everything_can_be_set() {
        let config = with_router(
            "gateways = ['10.0.0.1']\nprobe_through = ['10.9.0.1']\nprune = 'bitmap'\nanycast = ['10.9.9.9']\n\
             icmp_requests = 'drop'\n\
             tables = [100, 200]\nxcast_table = 300\ninterface = 'x'\naddress = '10.8.8.8'\nsubsets = 4096\n\
             keep = true\norphan_seconds = 0\nreaders = 'daemon'",
        )
        .unwrap();
        let expected = Router {
            gateways: Gateways::List(vec![IpAddr::from([10, 0, 0, 1])]),
            probe_through: vec![IpAddr::from([10, 9, 0, 1])],
            prune: Prune::Bitmap,
            icmp_requests: IcmpRequests::Drop,
            anycast: vec![IpAddr::from([10, 9, 9, 9])],
            tables: vec![100, 200],
            xcast_table: Some(300),
            interface: "x".into(),
            address: Ipv4Addr::new(10, 8, 8, 8),
            subsets: 4096,
            keep: true,
            orphan_seconds: 0,
            readers: Some(1),
        };
        assert_eq!(config.router, expected);
        assert_eq!(
            with_router("gateways = 'none'").unwrap().router.gateways,
            Gateways::None
        );
        assert_eq!(
            with_router("gateways = 'discover'")
                .unwrap()
                .router
                .gateways,
            Gateways::default()
        );
        let stated = Stated {
            speak: vec![IpAddr::from([10, 0, 0, 1])],
            silent: vec![IpAddr::from([10, 0, 0, 2])],
        };
        assert_eq!(
            with_router("gateways = { speak = ['10.0.0.1'], silent = ['10.0.0.2'] }")
                .unwrap()
                .router
                .gateways,
            Gateways::Discover(stated)
        );
    }

    #[test]
    fn values_that_cannot_work_name_their_field() {
        let says = [
            ("interface = 'twelve-chars0'", "router.interface"),
            ("interface = ''", "router.interface"),
            ("interface = 'a/b'", "router.interface"),
            ("address = '224.0.0.1'", "router.address"),
            ("subsets = 0", "router.subsets"),
            ("subsets = 4097", "1 to 4096"),
            ("tables = [254]", "router.tables: 254 is always"),
            ("tables = [7, 7]", "router.tables: 7 is listed twice"),
            ("tables = [0]", "router.tables"),
            ("xcast_table = 254", "router.xcast_table: 254 is"),
            (
                "tables = [7]\nxcast_table = 7",
                "router.xcast_table: 7 is also in",
            ),
            ("xcast_table = 'no such'", "\"no such\": give its number"),
            ("xcast_table = []", "number, or its name"),
            ("probe_through = ['224.1.1.1']", "router.probe_through"),
            ("anycast = ['224.1.1.1']", "router.anycast: 224.1.1.1"),
            (
                "gateways = ['10.0.0.1', '10.0.0.1']",
                "router.gateways: 10.0.0.1 is listed twice",
            ),
            (
                "gateways = { speak = ['10.0.0.1'], silent = ['10.0.0.1'] }",
                "router.gateways: 10.0.0.1 is in both",
            ),
            ("gateways = { speaks = ['10.0.0.1'] }", "speaks"),
        ];
        for (line, said) in says {
            assert_says(with_router(line), &[said]);
        }
        assert!(with_router("interface = 'twelve-chars'").is_ok());
    }
}
