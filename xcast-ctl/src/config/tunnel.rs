//! The `[[tunnel]]` tables: tunnels to other Xcast routers (ADR 17).

use std::{collections::HashSet, fmt, fs, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use xcast_overlay::backbone::tunnels::Mode;

use super::{
    address::is_unicast,
    error::{ConfigError, invalid},
};

/// Most tunnels that a router has.
pub const MAX_TUNNELS: usize = 256;
/// Shortest key, in octets: what can be guessed is none.
const SHORTEST_KEY: usize = 16;

/// A `[[tunnel]]` table: another Xcast router, and what is reached through it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// What the tunnel is called in reports.
    pub name: String,
    /// An address of the other router: the destination of what is sent.
    pub remote: IpAddr,
    /// The address of this router that the other one has as its `remote`. Default: what the kernel would use towards
    /// the remote.
    #[serde(default)]
    pub local: Option<IpAddr>,
    /// How packets are carried.
    #[serde(default)]
    pub mode: TunnelMode,
    /// The secret that both routers have. Either this or `key_file`.
    #[serde(default)]
    pub key: Option<Secret>,
    /// The secret that both routers had before: what arrives may still be sent by it.
    #[serde(default)]
    pub previous_key: Option<Secret>,
    /// A file whose first line is the secret, and whose second line, if there is one, the previous one.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// What is reached through it. Of tunnels with the same destinations, the first one that works is used.
    #[serde(default)]
    pub destinations: Vec<IpNet>,
    /// The kernel's own tunnel device to the same router (GRE, WireGuard, VXLAN, ..), by which routing protocols speak: routes
    /// of the Xcast routing table that leave by it lead into this tunnel.
    #[serde(default)]
    pub kernel_device: Option<String>,
}

/// How packets are carried through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelMode {
    /// As is found to work; IP in IP if both do.
    #[default]
    Auto,
    /// IP in IP (protocols 4 and 41).
    Ip,
    /// Inside UDP.
    Udp,
}

impl TunnelMode {
    /// The ways that are tried.
    pub fn modes(self) -> &'static [Mode] {
        match self {
            Self::Auto => &Mode::ALL,
            Self::Ip => &[Mode::Ip],
            Self::Udp => &[Mode::Udp],
        }
    }
}

/// A secret, which is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Its octets.
    pub fn octets(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Tunnel {
    /// The secret, and the previous one, wherever they are written.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has no key.
    pub fn keys(&self) -> Result<(Secret, Option<Secret>), ConfigError> {
        let field = |name| format!("tunnel {:?}: {name}", self.name);
        match (&self.key, &self.key_file) {
            (Some(key), None) => Ok((key.clone(), self.previous_key.clone())),
            (None, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    let reason = format!(
                        "cannot read {}: {error}: write the secret into its first line",
                        path.display()
                    );
                    invalid(field("key_file"), reason)
                })?;
                let mut lines = text.lines().map(|line| Secret(line.trim().to_owned()));
                let key = lines.next().unwrap_or(Secret(String::new()));
                check_key(&field("key_file"), &key)?;
                let previous = lines.next().filter(|key| !key.0.is_empty());
                if let Some(previous) = &previous {
                    check_key(&field("key_file"), previous)?;
                }
                Ok((key, previous))
            }
            (None, None) => Err(invalid(
                field("key"),
                "there is none: give both routers the same secret, as `key` or in a `key_file`",
            )),
            (Some(_), Some(_)) => Err(invalid(
                field("key_file"),
                "there is a `key` as well: remove one of them",
            )),
        }
    }

    fn validate(&self, given: &Given<'_>) -> Result<(), ConfigError> {
        let field = |name| format!("tunnel {:?}: {name}", self.name);
        if !is_unicast(self.remote) || is_link_local(self.remote) {
            let reason = format!("{} is no address of another router: give one", self.remote);
            return Err(invalid(field("remote"), reason));
        }
        if self.remote.is_ipv6() && !given.has_ipv6 {
            let reason = "this router does not forward Xcast6, by which such a tunnel is asked: set \
                          code_points.group6, routing_type and ports_option, or use an address of IPv4";
            return Err(invalid(field("remote"), reason));
        }
        if let Some(local) = self.local {
            if local.is_ipv6() != self.remote.is_ipv6() {
                let reason = format!("{local} and the remote are not of one family");
                return Err(invalid(field("local"), reason));
            }
            if !is_unicast(local) || local == self.remote {
                let reason = format!("{local} is no address of this router: give one, or none");
                return Err(invalid(field("local"), reason));
            }
        }
        if self.mode == TunnelMode::Udp && !given.has_udp {
            let reason = "the router has no UDP port: add udp.port, the same on both routers";
            return Err(invalid(field("mode"), reason));
        }
        for (name, key) in [("key", &self.key), ("previous_key", &self.previous_key)] {
            if let Some(key) = key {
                check_key(&field(name), key)?;
            }
        }
        if self.previous_key.is_some() && self.key.is_none() {
            let reason = "there is no `key`: in a key file, the previous one is the second line";
            return Err(invalid(field("previous_key"), reason));
        }
        if self
            .key_file
            .as_ref()
            .is_some_and(|path| !path.is_absolute())
        {
            return Err(invalid(field("key_file"), "give the whole path, from /"));
        }
        self.keys()?;
        if let Some(device) = &self.kernel_device {
            self.validate_kernel_device(device, given)?;
        }
        let mut seen = HashSet::new();
        for prefix in &self.destinations {
            let whole = prefix.trunc();
            if whole != *prefix {
                let reason = format!("{prefix} is an address in a network: write {whole}");
                return Err(invalid(field("destinations"), reason));
            }
            if !seen.insert(prefix) {
                let reason = format!("{prefix} is listed twice: remove one");
                return Err(invalid(field("destinations"), reason));
            }
        }
        Ok(())
    }

    fn validate_kernel_device(&self, device: &str, given: &Given<'_>) -> Result<(), ConfigError> {
        let reason = if device.is_empty() {
            "give the device's name, or leave this out".to_owned()
        } else if !given.has_xcast_table {
            "only routes of the Xcast routing table lead into a tunnel by its device: set router.xcast_table"
                .to_owned()
        } else if given.ports.contains(&device) {
            format!(
                "{device:?} is a port, whose gateways get lists without a tunnel: name another device, or leave this out"
            )
        } else {
            return Ok(());
        };
        Err(invalid(
            format!("tunnel {:?}: kernel_device", self.name),
            reason,
        ))
    }
}

/// What else the configuration has that tunnels depend on.
pub(super) struct Given<'a> {
    /// A port for Xcast inside UDP.
    pub(super) has_udp: bool,
    /// Code points for Xcast6.
    pub(super) has_ipv6: bool,
    /// A table of routes for lists.
    pub(super) has_xcast_table: bool,
    /// Names of the interfaces that are ports.
    pub(super) ports: Vec<&'a str>,
}

/// Checks all tunnels of a router.
pub(super) fn validate_tunnels(tunnels: &[Tunnel], given: &Given<'_>) -> Result<(), ConfigError> {
    if tunnels.len() > MAX_TUNNELS {
        let reason = format!(
            "{} of them, and there is room for {MAX_TUNNELS}",
            tunnels.len()
        );
        return Err(invalid("tunnel", reason));
    }
    let (mut names, mut ends) = (HashSet::new(), HashSet::new());
    for tunnel in tunnels {
        let name = &tunnel.name;
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let reason = format!("{name:?} is no name: give one without spaces");
            return Err(invalid("tunnel: name", reason));
        }
        if !names.insert(name) {
            let reason = format!("{name:?} is the name of two tunnels: rename one");
            return Err(invalid("tunnel: name", reason));
        }
        tunnel.validate(given)?;
        if !ends.insert((tunnel.remote, tunnel.local)) {
            let reason = format!(
                "another tunnel to {} has the same `local`: put all destinations into one",
                tunnel.remote
            );
            return Err(invalid(format!("tunnel {name:?}: remote"), reason));
        }
    }
    Ok(())
}

fn check_key(field: &str, key: &Secret) -> Result<(), ConfigError> {
    let len = key.octets().len();
    if len < SHORTEST_KEY {
        let reason = format!(
            "{len} octets can be guessed: give at least {SHORTEST_KEY}, such as `openssl rand -hex 16` prints"
        );
        return Err(invalid(field, reason));
    }
    Ok(())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        testing::{CODE_POINTS, PORT, assert_says},
    };

    const KEY: &str = "key = '0123456789abcdef'";

    fn with_tunnel(lines: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!(
            "{CODE_POINTS}[udp]\nport = 4242\n[[tunnel]]\nname = 'west'\n{lines}\n{PORT}"
        ))
    }

    #[test]
    fn a_remote_and_a_key_are_required() {
        let config = with_tunnel(&format!("remote = '192.0.2.1'\n{KEY}")).unwrap();
        let [tunnel] = &config.tunnels[..] else {
            panic!("{:?}", config.tunnels);
        };
        assert_eq!(tunnel.mode, TunnelMode::Auto);
        assert_eq!(tunnel.keys().unwrap().0.octets(), b"0123456789abcdef");
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn what_cannot_work_names_its_field() {
        let remote = format!("remote = '192.0.2.1'\n{KEY}");
        let says = [
            (
                "remote = '192.0.2.1'".to_owned(),
                "\"west\": key: there is none",
            ),
            (
                "remote = '192.0.2.1'\nkey = 'short'".to_owned(),
                "key: 5 octets can be guessed",
            ),
            (format!("remote = '224.0.0.9'\n{KEY}"), "remote: 224.0.0.9"),
            (
                format!("remote = '2001:db8::1'\n{KEY}"),
                "code_points.group6",
            ),
            (
                format!("{remote}\nlocal = '2001:db8::1'"),
                "local: 2001:db8::1 and the remote",
            ),
            (format!("{remote}\nmode = 'gre'"), "`auto`, `ip`, `udp`"),
            (
                format!("{remote}\ndestinations = ['10.0.0.9/8']"),
                "write 10.0.0.0/8",
            ),
            (
                format!("{remote}\ndestinations = ['10.0.0.0/8', '10.0.0.0/8']"),
                "10.0.0.0/8 is listed twice",
            ),
            (
                "remote = '192.0.2.1'\nkey_file = '/nonexistent'".to_owned(),
                "key_file: cannot read",
            ),
            (
                "remote = '192.0.2.1'\nkey_file = 'key'".to_owned(),
                "key_file: give the whole path",
            ),
            (
                format!("{remote}\nkernel_device = 'gre1'"),
                "kernel_device: only routes of the Xcast routing table",
            ),
            (
                format!("{remote}\n[[tunnel]]\nname = 'west'\nremote = '192.0.2.2'\n{KEY}"),
                "\"west\" is the name of two tunnels",
            ),
            (
                format!("{remote}\n[[tunnel]]\nname = 'east'\n{remote}"),
                "\"east\": remote: another tunnel to 192.0.2.1",
            ),
        ];
        for (lines, said) in says {
            assert_says(with_tunnel(&lines), &[said]);
        }
        let without_udp =
            format!("{CODE_POINTS}[[tunnel]]\nname = 'a'\n{remote}\nmode = 'udp'\n{PORT}");
        assert_says(Config::parse(&without_udp), &["mode", "udp.port"]);
    }

    #[test]
    fn a_kernel_device_is_no_port() {
        let config = |device: &str| {
            Config::parse(&format!(
                "{CODE_POINTS}[router]\nxcast_table = 100\n[[tunnel]]\nname = 'west'\nremote = '192.0.2.1'\n{KEY}\n\
                 kernel_device = '{device}'\n[[port]]\ninterface = 'eth0'\n"
            ))
        };
        let tunnels = config("gre1").unwrap().tunnels;
        assert_eq!(tunnels[0].kernel_device.as_deref(), Some("gre1"));
        assert_says(config("eth0"), &["kernel_device", "is a port"]);
        assert_says(config(""), &["kernel_device", "give the device's name"]);
    }

    #[test]
    fn keys_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "0123456789abcdef\nfedcba9876543210\n").unwrap();
        let lines = format!("remote = '192.0.2.1'\nkey_file = '{}'", path.display());
        let config = with_tunnel(&lines).unwrap();
        let (key, previous) = config.tunnels[0].keys().unwrap();
        assert_eq!(key.octets(), b"0123456789abcdef");
        assert_eq!(previous.unwrap().octets(), b"fedcba9876543210");
    }
}
