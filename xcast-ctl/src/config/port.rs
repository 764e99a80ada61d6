//! The `[[port]]` tables: interfaces the router works on.

use std::collections::HashSet;

use serde::Deserialize;
use xcast_common::maps::{MAX_PORT_SOURCES, MAX_REAL_PORTS};

use super::{
    error::{ConfigError, invalid},
    limits::Limits,
    router::{Router, check_any_name},
    source::Source,
};

/// A `[[port]]` table: an interface the router works on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name of the interface, or one of its further names (`ip link property add`). It may appear later, go away and come back.
    pub interface: String,
    /// Accept frames to the group's MAC address, not only to the interface's own. Two such routers
    /// on one LAN both forward every packet. Default: false.
    #[serde(default)]
    pub group_mac: bool,
    /// Which sources packets may have that arrive by it. Default: at least what the kernel's reverse path filter
    /// says, and strict where no gateway is behind the port.
    #[serde(default)]
    pub source: Source,
    /// Instead of the one in `[limits]`.
    pub packets_per_second: Option<u32>,
    /// Instead of the one in `[limits]`.
    pub copies_per_second: Option<u32>,
}

impl Port {
    /// What one of the port's sources may use, if `limits` hold where the port says nothing.
    pub fn limits(&self, limits: &Limits) -> Limits {
        Limits {
            packets_per_second: self.packets_per_second.unwrap_or(limits.packets_per_second),
            copies_per_second: self.copies_per_second.unwrap_or(limits.copies_per_second),
            ..*limits
        }
    }
}

/// Up to [`MAX_REAL_PORTS`] different interfaces, none of them the router's own.
pub(super) fn validate_ports(ports: &[Port], router: &Router) -> Result<(), ConfigError> {
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
                "{} ports are too many: a router has at most {MAX_REAL_PORTS}",
                ports.len()
            ),
        ));
    }
    let mut seen = HashSet::new();
    for (number, port) in (1..).zip(ports) {
        let name = &port.interface;
        let field = format!("port {number}: interface");
        check_any_name(&field, name)?;
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
            return Err(invalid(
                field,
                format!("{name:?} is listed twice: remove one"),
            ));
        }
        port.source.validate(&format!("port {number}: source"))?;
    }
    let listed = ports.iter().flat_map(|port| port.source.prefixes());
    let count = listed.count();
    if count > MAX_PORT_SOURCES as usize {
        return Err(invalid(
            "port",
            format!(
                "{count} networks in the lists of sources, and there is room for \
                 {MAX_PORT_SOURCES}: combine them into shorter prefixes"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{assert_says, with_ports};

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
            ("more-than-127", "127 characters"),
            ("eth0", "twice"),
        ] {
            let long = "x".repeat(128);
            let name = if name == "more-than-127" { &long } else { name };
            let names = &mut ["eth0", name].into_iter().map(String::from);
            assert_says(ports(names), &["port 2: interface", said]);
        }
    }
}
