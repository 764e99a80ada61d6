//! `xcast-ctl init`.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    config::{Config, DATAPATH_SUFFIX, DEFAULT_INTERFACE},
    kernel,
    output::{Outcome, print, print_json},
};

/// Write a commented configuration file
///
/// The file has every setting with its default value. Interfaces given with --interface become
/// ports. Without any, the interfaces of this network namespace are added as comments to choose
/// from.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl init --output xcast.toml --interface eth0 --interface eth1
  xcast-ctl init --output -

EXIT STATUS
  0  done
  2  error, also if the file exists and --force is not given")]
pub(super) struct Args {
    /// File to write; - for standard output
    #[arg(long, short, value_name = "FILE", default_value = "xcast.toml")]
    output: PathBuf,

    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,

    /// Make this interface a port (can be repeated)
    #[arg(long = "interface", value_name = "IF")]
    interfaces: Vec<String>,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// The document of `xcast-ctl init --json`.
#[derive(Debug, Serialize)]
struct Written<'a> {
    /// The file; absent if it went to standard output, in `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a Path>,
    /// Interfaces that became ports.
    ports: &'a [String],
    /// Interfaces that could be ports and are comments.
    candidates: &'a [String],
    /// The configuration, if no file was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

pub(super) fn run(args: &Args) -> Result<Outcome> {
    let candidates = if args.interfaces.is_empty() {
        candidates()?
    } else {
        Vec::new()
    };
    let text = file(&args.interfaces, &candidates);
    if !args.interfaces.is_empty() {
        Config::parse(&text).context("cannot make ports of the given interfaces")?;
    }
    let to_stdout = args.output == Path::new("-");
    if !to_stdout {
        write(&args.output, &text, args.force)?;
    }
    if args.json {
        print_json(&Written {
            output: (!to_stdout).then_some(&*args.output),
            ports: &args.interfaces,
            candidates: &candidates,
            text: to_stdout.then_some(&text),
        })?;
    } else if to_stdout {
        print(&text)?;
    } else {
        let output = args.output.display();
        let next = if args.interfaces.is_empty() {
            "uncomment the [[port]] tables you want, then run"
        } else {
            "next"
        };
        print(&format!(
            "wrote {output}; {next}: xcast-ctl check --config {output}\n"
        ))?;
    }
    Ok(Outcome::Done)
}

fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    if force {
        return fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    // Atomic, unlike checking first: another process may create the file at the same time.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| match path.try_exists() {
            Ok(true) => format!("{} exists: give --force to overwrite it", path.display()),
            _ => format!("cannot write {}", path.display()),
        })?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Ethernet interfaces that could be ports.
fn candidates() -> Result<Vec<String>> {
    let own = |name: &str| name.strip_suffix(DATAPATH_SUFFIX).unwrap_or(name) == DEFAULT_INTERFACE;
    let links = kernel::links()
        .map_err(|error| error.context("cannot suggest ports: name them with --interface"))?;
    let features: HashMap<_, _> = kernel::xdp_features()
        .ok()
        .flatten()
        .into_iter()
        .flatten()
        .collect();
    let native = |ifindex| features.get(&ifindex).map(|features| features.native());
    Ok(links
        .into_iter()
        .filter(|link| link.obstacle(native(link.ifindex)).is_none() && !own(&link.name))
        .map(|link| link.name)
        .collect())
}

const SETTINGS: &str = r#"# Configuration of an Xcast router: xcast-ctl run --config FILE

# Numbers that mark a packet as Xcast. IANA has assigned none. These are the experimental values
# of RFC 3692 and RFC 4727, which any experiment may use: use them only in networks that you
# control, and do not let such packets leave them. They have no defaults and must be stated here,
# the same on every router and source.
[code_points]
# IPv4 protocol number: 253 or 254.
protocol = 253
# The All-Xcast-Routers group.
group = "224.0.0.254"
# The same for IPv6. Give all three or none; without them the router does not forward Xcast6.
group6 = "ff02::114"
# Routing type of the routing header: 253 or 254.
routing_type = 253
# Type of the option that lists ports.
ports_option = 0x5e

[router]
# Which gateways speak Xcast. "discover": those that prove it, again and again, by returning an Xcast
# packet (see xcast-ctl neighbors). What is known of some can be stated:
#   gateways = { speak = ["10.0.0.1"], silent = ["10.0.0.2"] }
# "all", "none", or a list like ["10.0.0.1", "10.0.0.2"]: these, and nobody is asked. A gateway that does
# not speak Xcast gets one unicast packet per destination.
gateways = "discover"

# Addresses farther away that answer pings, such as those of further Xcast routers. Gateways on the way
# there get lists only while they also forward them, not if they merely return what is for this router.
probe_through = []

# How a copy's list is pruned. "truncate" keeps the copy's own destinations only. "bitmap" keeps
# the list and clears bits: packets stay as long as they were, and survive authentication (AH).
prune = "truncate"

# ICMP requests (echo and the like) for several destinations: all would answer the source (RFC 5058
# section 14). "verified" forwards them if the way back to the source is by the port they came by,
# "forward" always, "drop" never.
icmp_requests = "verified"

# Anycast addresses: Xcast packets may be sent to these as well as to the router's own addresses
# (RFC 5058 section 11.5).
anycast = []

# Kernel routing tables to consult after "local" (255), "main" (254) and those that ip rule names, by number, in this
# order.
tables = []

# The Xcast routing table (RFC 5058 section 11.1), by number or by its name in /etc/iproute2/rt_tables: routes
# for lists only, from any routing daemon. See docs/deployment.md.
#xcast_table = 100

# Name of the router's own interface, at most 12 characters. The router creates it as a veth pair
# whose other end is named "<interface>-dp". Programs on this machine send Xcast packets into it.
interface = "xcast0"

# Address of that interface. The kernel drops packets from an interface without one.
address = "169.254.88.1"

# Number of exact port sets to keep device maps for, at most 4096. A further set replaces the
# least recently used one; until then its packets are recirculated once per copy, which is slower.
subsets = 1024

# On SIGTERM and SIGINT, leave everything attached and forwarding, for the next router to take over.
keep = false

# How long a router that was killed, or left with keep, forwards by its tables, in seconds. Then it hands
# everything to the kernel's stack. 0 for ever.
orphan_seconds = 600

# Group whose members may ask the router (status, stats, ports, explain, ..) and cannot stop it, by name
# or number: for monitoring without root. Without it only root may ask.
#readers = "xcast"

# What one source (an IPv4 address, or a /64 of IPv6) may use per second on each port; 0 is no limit.
# A port may have packets_per_second and copies_per_second of its own.
[limits]
# Xcast packets.
packets_per_second = 10000
# Copies that are made of them.
copies_per_second = 100000
# Copies handed to the kernel's stack, of all sources together. One source has a quarter of it at most, and a port a half.
stack_copies_per_second = 10000

# Xcast packets inside UDP, from programs that may not send raw packets. Without this table none
# are accepted. The port has no default: choose one that no program on this router listens on,
# because datagrams that arrive for it from outside reach neither programs nor the packet filter.
# Any sender may use its own source address. A peer may also use addresses of the given networks,
# of which there can be at most 1024 in all.
#[udp]
#port = 4242
#peers = [{ address = "10.0.0.2", sources = ["10.1.0.0/16", "10.2.0.0/16"] }]

# Serve sources of which nothing is known: they ask at udp.port, and prove by a cookie that they receive at
# the address that they send from. Relays with the same anycast address need the same secret: a file with 32
# hexadecimal digits. With relayed_ports, sources may have copies come from the router's own address, where
# reverse-path filters would drop copies with theirs. See also source = "proven" below.
#[relay]
#questions_per_second = 1000
#capacity_copies_per_second = 200000
#relayed_ports = [50000, 50063]
# Without ports of their own: all send from udp.port, in envelopes that say who they are, to receivers that open them.
#envelopes = true
#replies_per_second = 1000
#secret_file = "/etc/xcast-relay.secret"

# A tunnel to another Xcast router, past routers that know nothing of Xcast (docs/tunnels.md); one table each. Both routers
# have the same key, and each has the other's address as its remote. Lists for the destinations go by it while it works;
# of several tunnels with the same destinations, the first one that works is used. mode = "auto" takes IP in IP where the path
# lets it pass, else UDP to udp.port.
#[[tunnel]]
#name = "branch"
#remote = "198.51.100.2"
#local = "192.0.2.1"
#mode = "auto"
# What openssl rand -hex 16 prints; or key_file, with the name of a file that has it in its first line.
#key = ""
#destinations = ["10.20.0.0/16", "2001:db8:20::/48"]
# Where routing protocols speak by a tunnel device of the kernel to the same router, kernel_device = "gre1" has routes of
# xcast_table by that device lead into this tunnel.

# One table per port. Interfaces may appear later, go away and come back.
# source = "auto" is at least as strict as the kernel's rp_filter of the interface, and strict where no
# gateway is behind it (without rp_filter: also sources without any route pass). "strict": only sources to which a best route leaves by this port. "loose": only
# sources to which there is a route. "any". "proven": only sources that have proven their address to [relay], and
# udp.peers. Or a list of networks.
"#;

fn file(interfaces: &[String], candidates: &[String]) -> String {
    let mut text = SETTINGS.to_owned();
    // Writing to a string cannot fail. A name is at most 15 octets without quotes or escapes;
    // anything else is found when the result is parsed.
    for name in interfaces {
        let _ = write!(
            text,
            "\n[[port]]\ninterface = {name:?}\n\
             # Also accept frames to the group's MAC address. Two such routers on one LAN both\n\
             # forward every packet.\ngroup_mac = false\nsource = \"auto\"\n"
        );
    }
    if interfaces.is_empty() {
        text += "# Uncomment those to use.\n";
    }
    for name in candidates {
        let _ = write!(
            text,
            "#\n#[[port]]\n#interface = {name:?}\n#group_mac = false\n"
        );
    }
    if interfaces.is_empty() && candidates.is_empty() {
        text += "#\n#[[port]]\n#interface = \"eth0\"\n#group_mac = false\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, Port, Router, Source};

    #[test]
    fn the_file_states_the_defaults() {
        let config = Config::parse(&file(&["eth0".into(), "eth1".into()], &[])).unwrap();
        assert_eq!(config.router, Router::default());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.code_points.protocol, 253);
        let port = |interface: &str| Port {
            interface: interface.to_owned(),
            group_mac: false,
            source: Source::Auto,
            packets_per_second: None,
            copies_per_second: None,
        };
        assert_eq!(config.ports, [port("eth0"), port("eth1")]);
    }

    #[test]
    fn without_ports_the_file_says_what_to_add() {
        for candidates in [vec![], vec!["eth0".to_owned()]] {
            let text = file(&[], &candidates);
            let error = Config::parse(&text).unwrap_err();
            assert!(error.to_string().contains("[[port]]"), "{error}");
            let uncommented = uncommented(&text, "[[port]]");
            assert!(Config::parse(&uncommented).is_ok());
        }
    }

    /// The file with the settings of a table, which are comments in it. They have no space behind the #.
    fn uncommented(text: &str, table: &str) -> String {
        let header = format!("#{table}");
        let mut inside = false;
        let lines = text.lines().map(|line| {
            inside = line == header || inside && !line.is_empty();
            match line.strip_prefix('#') {
                Some(setting) if inside && !setting.starts_with(' ') => setting,
                _ => line,
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn tables_can_be_uncommented() {
        let text = file(&["eth0".into()], &[]);
        let config = Config::parse(&text).unwrap();
        assert_eq!(
            (&config.udp, config.relay.is_some(), config.tunnels.len()),
            (&None, false, 0)
        );

        let text = uncommented(&text, "[udp]");
        let udp = Config::parse(&text).unwrap().udp.unwrap();
        assert_eq!((udp.port.get(), udp.peers.len()), (4242, 1));

        let secret = tempfile::NamedTempFile::new().unwrap();
        fs::write(&secret, "00112233445566778899aabbccddeeff\n").unwrap();
        let path = secret.path().to_str().unwrap();
        let relay = uncommented(&text, "[relay]").replace("/etc/xcast-relay.secret", path);
        let relay = Config::parse(&relay).unwrap().relay.unwrap();
        assert_eq!(relay.relayed_ports(), Some(50000..=50063));
        assert!(relay.envelopes);

        // It has no key, or all routers would have the same.
        let tunnel = uncommented(&text, "[[tunnel]]");
        let error = Config::parse(&tunnel).unwrap_err();
        assert!(error.to_string().contains("openssl rand"), "{error}");
        let key = "key = \"00112233445566778899aabbccddeeff\"";
        let config = Config::parse(&tunnel.replace("key = \"\"", key)).unwrap();
        assert_eq!(config.tunnels[0].name, "branch");
        assert_eq!(config.tunnels[0].destinations.len(), 2);
    }

    #[test]
    fn a_file_is_overwritten_only_by_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xcast.toml");
        write(&path, "one", false).unwrap();
        let error = write(&path, "two", false).unwrap_err();
        assert!(format!("{error:#}").contains("--force"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write(&path, "two", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    }
}
