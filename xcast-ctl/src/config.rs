//! The configuration file.
//!
//! [`Config::load`] validates everything before anything is done with it; an error names the line
//! or the field, and what to do. `xcast-ctl init` writes the file this module reads, commented.

mod udp;

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use thiserror::Error;
use xcast_common::maps::{MAX_FANOUTS, MAX_REAL_PORTS, Prune, Settings};
use xcast_host::{CodePointError, CodePoints, Ipv6CodePoints};

pub use self::udp::{Peer, Udp};

/// Name of the router's own interface unless the configuration gives another one.
pub const DEFAULT_INTERFACE: &str = "xcast0";

/// What the other end of the router's own veth pair is called: the interface's name and this.
pub const DATAPATH_SUFFIX: &str = "-dp";

/// Longest interface name the kernel takes, in octets.
const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path} (xcast-ctl init writes one)")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The file's content is wrong.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// Not TOML, an unknown field, or a value of the wrong type.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What was expected.
        message: String,
    },
    /// A code point is not stated.
    #[error(
        "code_points.{field} is missing: add the line {example:?} under [code_points]; IANA assigned \
         Xcast no code points, and the experimental ones of RFC 4727 must not be defaults, so the \
         network's own choice has to be stated, the same on every router and source"
    )]
    MissingCodePoint {
        /// Name of the field.
        field: &'static str,
        /// The line to add.
        example: &'static str,
    },
    /// A value that cannot work.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, with its table.
        field: String,
        /// What is wrong with its value, and the remedy.
        reason: String,
    },
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        field: field.into(),
        reason: reason.into(),
    }
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Numbers that mark a packet as Xcast.
    pub code_points: CodePoints,
    /// How the router behaves.
    pub router: Router,
    /// Xcast inside UDP; `None` if it takes none.
    pub udp: Option<Udp>,
    /// The interfaces it works on.
    pub ports: Vec<Port>,
}

/// The `[router]` table: how the router behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Router {
    /// Which gateways speak Xcast. A gateway that does not gets one unicast packet per
    /// destination. Default: all.
    pub gateways: Gateways,
    /// How a copy's list is pruned. Default: truncated.
    #[serde(with = "prune")]
    pub prune: Prune,
    /// Addresses besides the router's own that Xcast packets may be sent to (RFC 5058 section
    /// 11.5). Default: none.
    pub anycast: Vec<IpAddr>,
    /// Kernel tables to consult after `local` and `main`, in this order. Default: none.
    pub tables: Vec<u32>,
    /// Name of the router's own interface. Default: [`DEFAULT_INTERFACE`].
    pub interface: String,
    /// Address of the router's own interface. The kernel's reverse path filter drops everything
    /// that arrives on an interface without one. Default: 169.254.88.1, link-local so that no
    /// route to it spreads.
    pub address: Ipv4Addr,
    /// Exact sets of ports to keep device maps for. Beyond that the least recently used one makes
    /// room, and its packets are recirculated meanwhile. Each costs a few kilobytes of kernel
    /// memory. Default: 1024, at most [`MAX_FANOUTS`].
    pub subsets: u32,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            gateways: Gateways::All,
            prune: Prune::Truncate,
            anycast: Vec::new(),
            tables: Vec::new(),
            interface: DEFAULT_INTERFACE.to_owned(),
            address: Ipv4Addr::new(169, 254, 88, 1),
            subsets: 1024,
        }
    }
}

impl Router {
    /// Name of the datapath's end of the router's own veth pair.
    pub fn datapath_interface(&self) -> String {
        format!("{}{DATAPATH_SUFFIX}", self.interface)
    }
}

/// A `[[port]]` table: an interface the router works on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name of the interface. It may appear later, go away and come back.
    pub interface: String,
    /// Accept frames to the group's MAC address, not only to the interface's own. With two such
    /// routers on one LAN both forward every packet. Default: false.
    #[serde(default)]
    pub group_mac: bool,
}

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

/// The name of a prune mode in configuration and reports.
pub fn prune_name(prune: Prune) -> &'static str {
    match prune {
        Prune::Truncate => "truncate",
        Prune::Bitmap => "bitmap",
    }
}

mod prune {
    use super::{Deserialize, Deserializer, Prune};

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

/// The file as it is written, before it is known to make sense.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    code_points: StatedCodePoints,
    #[serde(default)]
    router: Router,
    udp: Option<Udp>,
    #[serde(default)]
    port: Vec<Port>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedCodePoints {
    protocol: Option<u8>,
    group: Option<Ipv4Addr>,
    group6: Option<Ipv6Addr>,
    routing_type: Option<u8>,
    ports_option: Option<u8>,
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        load(path, Self::parse)
    }

    /// Validates the text of a configuration file.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file = File::parse(text)?;
        let config = Self {
            code_points: file.code_points.validate()?,
            router: file.router,
            udp: file.udp,
            ports: file.port,
        };
        config.router.validate()?;
        if let Some(udp) = &config.udp {
            udp.validate()?;
        }
        validate_ports(&config.ports, &config.router)?;
        Ok(config)
    }
}

impl Config {
    /// What the programs have to know, with secrets of the duplicate check and of marks.
    pub fn settings(&self, [hash_key, mark]: [u64; 2]) -> Settings {
        let CodePoints {
            protocol,
            group,
            ipv6,
        } = self.code_points;
        let settings = Settings {
            group: group.into(),
            protocol,
            prune: self.router.prune as u8,
            udp_port: self.udp_port(),
            hash_key,
            mark,
            ..Settings::default()
        };
        match ipv6 {
            None => settings,
            Some(ipv6) => Settings {
                group6: ipv6.group.into(),
                routing_type: ipv6.routing_type,
                ports_option: ipv6.ports_option,
                ipv6: 1,
                ..settings
            },
        }
    }
}

fn load<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|error| ConfigError::File {
        path: path.to_owned(),
        source: Box::new(error),
    })
}

impl File {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| syntax_error(text, &error))
    }
}

impl StatedCodePoints {
    fn validate(&self) -> Result<CodePoints, ConfigError> {
        let protocol = self.protocol.ok_or(ConfigError::MissingCodePoint {
            field: "protocol",
            example: "protocol = 253",
        })?;
        let group = self.group.ok_or(ConfigError::MissingCodePoint {
            field: "group",
            example: "group = '224.0.0.254'",
        })?;
        let wrong =
            |error: CodePointError| invalid(format!("code_points.{}", error.field), error.reason);
        let ipv4 = CodePoints::new(protocol, group).map_err(wrong)?;
        match self.ipv6()? {
            Some(ipv6) => ipv4.with_ipv6(ipv6).map_err(wrong),
            None => Ok(ipv4),
        }
    }

    /// Those of Xcast6: all of them, or none.
    fn ipv6(&self) -> Result<Option<Ipv6CodePoints>, ConfigError> {
        if self.group6.is_none() && self.routing_type.is_none() && self.ports_option.is_none() {
            return Ok(None);
        }
        Ok(Some(Ipv6CodePoints {
            group: self.group6.ok_or(ConfigError::MissingCodePoint {
                field: "group6",
                example: "group6 = 'ff02::114'",
            })?,
            routing_type: self.routing_type.ok_or(ConfigError::MissingCodePoint {
                field: "routing_type",
                example: "routing_type = 253",
            })?,
            ports_option: self.ports_option.ok_or(ConfigError::MissingCodePoint {
                field: "ports_option",
                example: "ports_option = 0x5e",
            })?,
        }))
    }
}

/// Reads only the code points of a configuration file, for a host that is no router.
///
/// # Errors
///
/// See [`ConfigError`].
pub fn load_code_points(path: &Path) -> Result<CodePoints, ConfigError> {
    load(path, |text| File::parse(text)?.code_points.validate())
}

impl Router {
    fn validate(&self) -> Result<(), ConfigError> {
        check_name("router.interface", &self.interface)?;
        let most = MAX_NAME_LEN - DATAPATH_SUFFIX.len();
        if self.interface.len() > most {
            return Err(invalid(
                "router.interface",
                format!(
                    "{:?} has more than {most} characters, which leaves no room for the {DATAPATH_SUFFIX:?} of the pair's other end",
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
                format!("{} is not within 1 to {MAX_FANOUTS}", self.subsets),
            ));
        }
        if let Gateways::List(addresses) = &self.gateways {
            check_addresses("router.gateways", addresses)?;
        }
        check_addresses("router.anycast", &self.anycast)?;
        let mut seen = HashSet::new();
        for &table in &self.tables {
            match table {
                0 => return Err(invalid("router.tables", "0 is no table: remove it")),
                254 | 255 => {
                    return Err(invalid(
                        "router.tables",
                        format!("{table} is always consulted first: remove it"),
                    ));
                }
                _ if !seen.insert(table) => {
                    return Err(invalid("router.tables", format!("{table} is listed twice")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn validate_ports(ports: &[Port], router: &Router) -> Result<(), ConfigError> {
    if ports.is_empty() {
        return Err(invalid(
            "port",
            "no interface to work on: add a [[port]] table with interface = \"NAME\" for each",
        ));
    }
    if ports.len() > MAX_REAL_PORTS {
        return Err(invalid(
            "port",
            format!(
                "{} ports: the most one router has is {MAX_REAL_PORTS}",
                ports.len()
            ),
        ));
    }
    let mut seen = HashSet::new();
    for (number, port) in (1..).zip(ports) {
        let name = &port.interface;
        let field = format!("port {number}: interface");
        check_name(&field, name)?;
        if *name == router.interface || *name == router.datapath_interface() {
            return Err(invalid(
                field,
                format!(
                    "{name:?} is the router's own: remove this port or change router.interface"
                ),
            ));
        }
        if name == "lo" {
            return Err(invalid(field, "\"lo\" leads nowhere: remove this port"));
        }
        if !seen.insert(name) {
            return Err(invalid(field, format!("{name:?} is listed twice")));
        }
    }
    Ok(())
}

/// What the kernel accepts as an interface's name (`dev_valid_name`).
fn check_name(field: &str, name: &str) -> Result<(), ConfigError> {
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." || name.contains(refused) {
        return Err(invalid(
            field,
            format!("{name:?} is not an interface's name"),
        ));
    }
    if name.len() > MAX_NAME_LEN {
        return Err(invalid(
            field,
            format!(
                "{name:?} is longer than the {MAX_NAME_LEN} characters an interface's name can have"
            ),
        ));
    }
    Ok(())
}

fn check_addresses(field: &str, addresses: &[IpAddr]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for address in addresses {
        if !is_unicast(*address) {
            return Err(invalid(
                field,
                format!("{address} is not a unicast address"),
            ));
        }
        if !seen.insert(address) {
            return Err(invalid(field, format!("{address} is listed twice")));
        }
    }
    Ok(())
}

/// Can be the address of an interface that talks to others.
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            (1..224).contains(&first) && first != 127
        }
        IpAddr::V6(address) => {
            let mapped = address.to_ipv4_mapped().is_some();
            !address.is_multicast()
                && !address.is_loopback()
                && !address.is_unspecified()
                && !mapped
        }
    }
}

fn syntax_error(text: &str, error: &toml::de::Error) -> ConfigError {
    let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    ConfigError::Syntax {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: error.message().replace('\n', "; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE_POINTS: &str = "[code_points]\nprotocol = 253\ngroup = '224.0.0.254'\n";
    const PORT: &str = "[[port]]\ninterface = 'eth0'\n";

    fn with_router(lines: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{CODE_POINTS}[router]\n{lines}\n{PORT}"))
    }

    fn with_ports(ports: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{CODE_POINTS}{ports}"))
    }

    #[track_caller]
    fn assert_says<T: fmt::Debug>(result: Result<T, ConfigError>, parts: &[&str]) {
        let error = result.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n'), "{error:?} is one line");
    }

    #[test]
    fn only_code_points_and_ports_are_required() {
        let config = Config::parse(&format!("{CODE_POINTS}{PORT}")).unwrap();
        assert_eq!(config.router, Router::default());
        assert_eq!(config.router.datapath_interface(), "xcast0-dp");
        assert!(!config.ports[0].group_mac);
    }

    #[test]
    fn everything_can_be_set() {
        let config = with_router(
            "gateways = ['10.0.0.1']\nprune = 'bitmap'\nanycast = ['10.9.9.9']\n\
             tables = [100, 200]\ninterface = 'x'\naddress = '10.8.8.8'\nsubsets = 4096",
        )
        .unwrap();
        let expected = Router {
            gateways: Gateways::List(vec![IpAddr::from([10, 0, 0, 1])]),
            prune: Prune::Bitmap,
            anycast: vec![IpAddr::from([10, 9, 9, 9])],
            tables: vec![100, 200],
            interface: "x".into(),
            address: Ipv4Addr::new(10, 8, 8, 8),
            subsets: 4096,
        };
        assert_eq!(config.router, expected);
        assert_eq!(
            with_router("gateways = 'none'").unwrap().router.gateways,
            Gateways::None
        );
    }

    #[test]
    fn a_missing_code_point_says_which_line_to_add_and_why() {
        for text in ["", PORT, "[code_points]\ngroup = '224.0.0.254'"] {
            let says = [
                "code_points.protocol",
                "protocol = 253",
                "RFC 4727",
                "every router",
            ];
            assert_says(Config::parse(text), &says);
        }
        let text = "[code_points]\nprotocol = 253";
        assert_says(
            Config::parse(text),
            &["code_points.group", "group = '224.0.0.254'"],
        );
    }

    #[test]
    fn code_points_of_xcast6_come_together() {
        let ipv6 = "group6 = 'ff02::114'\nrouting_type = 253\nports_option = 0x5e\n";
        let config = Config::parse(&format!("{CODE_POINTS}{ipv6}{PORT}")).unwrap();
        assert_eq!(config.code_points.ipv6.unwrap().routing_type, 253);
        for line in ipv6.lines() {
            let some = format!("{CODE_POINTS}{}{PORT}", ipv6.replace(line, ""));
            assert_says(Config::parse(&some), &["code_points.", line]);
        }
        let wrong = format!("{CODE_POINTS}{}{PORT}", ipv6.replace("253", "4"));
        assert_says(
            Config::parse(&wrong),
            &["code_points.routing_type", "segment routing"],
        );
    }

    #[test]
    fn code_points_in_use_are_refused() {
        let stated = |protocol, group| {
            let (protocol, group) = (Some(protocol), Some(group));
            let ipv4 = StatedCodePoints {
                protocol,
                group,
                ..StatedCodePoints::default()
            };
            ipv4.validate()
        };
        let group = Ipv4Addr::new(224, 0, 0, 254);
        assert_says(
            stated(17, group),
            &["code_points.protocol", "17 is UDP", "253"],
        );
        assert_says(stated(89, group), &["OSPF"]);
        assert_says(stated(0, group), &["reserved"]);
        assert_says(stated(255, group), &["reserved"]);
        let unicast = Ipv4Addr::new(10, 0, 0, 1);
        assert_says(
            stated(253, unicast),
            &["code_points.group", "not a multicast"],
        );
        assert_says(stated(253, Ipv4Addr::new(224, 0, 0, 5)), &["OSPF"]);
        assert!(stated(254, group).is_ok());
    }

    #[test]
    fn syntax_errors_name_the_line() {
        assert_says(
            with_router("prume = 'bitmap'"),
            &["line 5, column 1", "prume", "`prune`"],
        );
        assert_says(
            with_router("prune = 'cut'"),
            &["line 5", "cut", "`truncate`"],
        );
        assert_says(
            with_router("gateways = 'some'"),
            &["line 5", "\"all\", \"none\" or a list"],
        );
        assert_says(with_router("gateways = ['a']"), &["line 5", "IP address"]);
        assert_says(with_router("prune ="), &["line 5"]);
        assert_says(
            Config::parse("[code_points]\nprotocol = 300"),
            &["line 2", "300"],
        );
        assert_says(
            with_ports("[[port]]\ngroup_mac = true"),
            &["line 4", "interface"],
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
            ("anycast = ['224.1.1.1']", "router.anycast: 224.1.1.1"),
            (
                "gateways = ['10.0.0.1', '10.0.0.1']",
                "router.gateways: 10.0.0.1 is listed twice",
            ),
        ];
        for (line, said) in says {
            assert_says(with_router(line), &[said]);
        }
        assert!(with_router("interface = 'twelve-chars'").is_ok());
    }

    #[test]
    fn ports_are_up_to_64_different_interfaces_of_others() {
        let ports = |names: &mut dyn Iterator<Item = String>| {
            with_ports(
                &names
                    .map(|name| format!("[[port]]\ninterface = '{name}'\n"))
                    .collect::<String>(),
            )
        };
        assert!(ports(&mut (0..64).map(|i| format!("eth{i}"))).is_ok());
        assert_says(
            ports(&mut (0..65).map(|i| format!("eth{i}"))),
            &["65 ports", "64"],
        );
        assert_says(with_ports(""), &["[[port]]"]);
        for (name, said) in [
            ("xcast0", "the router's own"),
            ("xcast0-dp", "the router's own"),
            ("lo", "nowhere"),
            ("sixteen-letters0", "15 characters"),
            ("eth0", "twice"),
        ] {
            let names = &mut ["eth0", name].into_iter().map(String::from);
            assert_says(ports(names), &["port 2: interface", said]);
        }
    }

    #[test]
    fn a_host_without_ports_still_has_code_points() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xcast.toml");
        std::fs::write(&path, CODE_POINTS).unwrap();
        assert_eq!(load_code_points(&path).unwrap().protocol, 253);
        assert_says(Config::load(&path), &["xcast.toml"]);
        assert_says(
            Config::load(directory.path()),
            &["cannot read", "xcast-ctl init"],
        );
    }
}
