//! The configuration file, a module for each of its tables.
//!
//! [`Config::load`] validates everything before anything is done with it. An error names the line
//! or the field, and what to do. `xcast-ctl init` writes the file this module reads, commented.

mod address;
mod code_points;
mod error;
mod group;
mod limits;
mod port;
mod relay;
mod router;
mod source;
mod table;
#[cfg(test)]
mod testing;
mod tunnel;
mod udp;

use std::path::Path;

use serde::Deserialize;
use xcast_common::{maps::Settings, wire::Be16};
use xcast_host::CodePoints;

use self::{
    code_points::StatedCodePoints,
    error::syntax_error,
    port::validate_ports,
    tunnel::{Given, validate_tunnels},
};
pub use self::{
    error::ConfigError,
    limits::Limits,
    port::Port,
    relay::Relay,
    router::{DATAPATH_SUFFIX, DEFAULT_INTERFACE, Router, prune_name},
    source::Source,
    tunnel::{Secret, Tunnel, TunnelMode},
    udp::{Peer, Udp},
};

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Numbers that mark a packet as Xcast.
    pub code_points: CodePoints,
    /// How the router behaves.
    pub router: Router,
    /// How much one source may use.
    pub limits: Limits,
    /// Xcast inside UDP; `None` if it accepts none.
    pub udp: Option<Udp>,
    /// Serving sources that nothing is known of; `None` if it serves none.
    pub relay: Option<Relay>,
    /// The interfaces it forwards between.
    pub ports: Vec<Port>,
    /// Tunnels to other routers, the preferred ones first.
    pub tunnels: Vec<Tunnel>,
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
            limits: file.limits,
            udp: file.udp,
            relay: file.relay,
            ports: file.port,
            tunnels: file.tunnel,
        };
        config.router.validate()?;
        if let Some(udp) = &config.udp {
            udp.validate()?;
        }
        if let Some(relay) = &config.relay {
            relay.validate(config.udp.as_ref())?;
        }
        validate_ports(&config.ports, &config.router)?;
        validate_tunnels(
            &config.tunnels,
            &Given {
                has_udp: config.udp.is_some(),
                has_ipv6: config.code_points.ipv6.is_some(),
                has_xcast_table: config.router.xcast_table.is_some(),
                ports: config
                    .ports
                    .iter()
                    .map(|port| port.interface.as_str())
                    .collect(),
            },
        )?;
        Ok(config)
    }

    /// UDP port where Xcast inside UDP is accepted, as the datapath has it: 0 for none.
    pub fn udp_port(&self) -> Be16 {
        Be16::new(self.udp.as_ref().map_or(0, |udp| udp.port.get()))
    }

    /// The programs' constants, with the secrets of the duplicate check and of marks.
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
            icmp_requests: self.router.icmp_requests as u8,
            stack_copy_ns: self.limits.stack_copy_ns(),
            tunnels: u8::from(!self.tunnels.is_empty()),
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

/// Reads only the code points of a configuration file, for a host that is no router.
///
/// # Errors
///
/// See [`ConfigError`].
pub fn load_code_points(path: &Path) -> Result<CodePoints, ConfigError> {
    load(path, |text| File::parse(text)?.code_points.validate())
}

/// The file as it is written, before it is known to make sense.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    code_points: StatedCodePoints,
    #[serde(default)]
    router: Router,
    #[serde(default)]
    limits: Limits,
    udp: Option<Udp>,
    relay: Option<Relay>,
    #[serde(default)]
    port: Vec<Port>,
    #[serde(default)]
    tunnel: Vec<Tunnel>,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        testing::{CODE_POINTS, PORT, assert_says, with_ports, with_router},
        *,
    };

    #[test]
    fn only_code_points_and_ports_are_required() {
        let config = Config::parse(&format!("{CODE_POINTS}{PORT}")).unwrap();
        assert_eq!(config.router, Router::default());
        assert_eq!(config.router.datapath_interface(), "xcast0-dp");
        assert!(!config.ports[0].group_mac);
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
            &["line 5", "\"all\", \"none\", a list"],
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

    /// The keys that a table may have, as the error about another one lists them.
    fn keys(table: &str) -> BTreeSet<String> {
        let error = Config::parse(&format!("{table}\nno_such_key = 1")).unwrap_err();
        let text = error.to_string();
        let (_, expected) = text.split_once("expected ").expect(&text);
        let names = expected.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect()
    }

    #[test]
    fn the_readme_explains_every_key_and_no_other() {
        let mut expected = BTreeSet::new();
        for table in keys("") {
            let heading = match table.as_str() {
                "port" | "tunnel" => format!("[[{table}]]"),
                _ => format!("[{table}]"),
            };
            expected.extend(
                keys(&heading)
                    .into_iter()
                    .map(|key| format!("{table}.{key}")),
            );
        }
        let readme = include_str!("../../../README.md");
        let (_, table) = readme.split_once("| key | meaning |\n").unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let mut explained = BTreeSet::new();
        for row in table.lines().filter(|line| line.starts_with("| `")) {
            let cell = row.split('|').nth(1).unwrap();
            let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
            let table = names[0]
                .strip_prefix("[[")
                .and_then(|name| name.strip_suffix("]]"));
            let keys = names.iter().filter(|name| !name.starts_with("[["));
            explained.extend(keys.map(|name| match table {
                Some(table) => format!("{table}.{name}"),
                None => (*name).to_owned(),
            }));
        }
        assert_eq!(explained, expected);
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
