//! What is connected to what: named topologies, and those from a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Longest name of a node: interfaces are called `to-NODE`, or `to-NODE-2` where a second link
/// joins the same two nodes, and have room for 15 characters.
pub const NODE_NAME_MAX: usize = 10;

/// Hosts behind each of the ten edge routers of [`Topology::dht`] where no number is given.
pub const HOSTS_PER_EDGE: usize = 11;

/// What a node does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends and receives; knows nothing of Xcast.
    Host,
    /// Forwards.
    Router,
    /// A bridge: everything attached to it is on one LAN.
    Switch,
}

/// A link as the topology asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The names of the two nodes.
    pub ends: [String; 2],
    /// Addresses by node name, in place of those of the address plan.
    #[serde(default)]
    pub addresses: BTreeMap<String, Ipv4Net>,
    /// MTU of both ends, in octets.
    pub mtu: Option<u32>,
}

impl Link {
    /// A link with planned addresses and the usual MTU.
    pub fn new(one: &str, other: &str) -> Self {
        Self {
            ends: [one.to_owned(), other.to_owned()],
            addresses: BTreeMap::new(),
            mtu: None,
        }
    }
}

/// Nodes and links, checked to fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    name: String,
    nodes: Vec<(String, Role)>,
    links: Vec<Link>,
}

/// The file format; see [`Topology::from_toml`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    routers: Vec<String>,
    #[serde(default)]
    switches: Vec<String>,
    #[serde(default, rename = "link")]
    links: Vec<Link>,
}

impl Topology {
    /// Puts nodes and links together.
    ///
    /// # Errors
    ///
    /// A name is unusable or taken, or a link's end does not exist.
    pub fn new(name: &str, nodes: Vec<(String, Role)>, links: Vec<Link>) -> Result<Self> {
        check_instance(name)?;
        let mut names = BTreeSet::new();
        for (node, _) in &nodes {
            check_node(node)?;
            if !names.insert(node.as_str()) {
                bail!("node `{node}` is listed twice; give each node a name of its own");
            }
        }
        for link in &links {
            let [one, other] = &link.ends;
            let link_name = format!("link {one} - {other}");
            if one == other {
                bail!("{link_name} joins `{one}` to itself; name two different nodes in `ends`");
            }
            for end in &link.ends {
                if !names.contains(end.as_str()) {
                    bail!(
                        "{link_name} names `{end}`, which is no node; add it to `hosts`, `routers` or `switches`"
                    );
                }
            }
            if let Some(node) = link.addresses.keys().find(|node| !link.ends.contains(node)) {
                bail!("{link_name} has an address for `{node}`, which is not one of its ends");
            }
        }
        if nodes.is_empty() {
            bail!("topology `{name}` has no nodes; list some in `hosts` and `routers`");
        }
        Ok(Self {
            name: name.to_owned(),
            nodes,
            links,
        })
    }

    /// The figure that the idea of Xcast is explained with: nine links from A to B, C and D.
    ///
    /// ```text
    /// A - R1 - R2 - R4 - B
    ///           \
    ///            R5 - R6 - R7 - C
    ///                        \
    ///                         D
    /// ```
    pub fn fig3() -> Self {
        Self::well_formed(
            "fig3",
            "A B C D",
            "R1 R2 R4 R5 R6 R7",
            "A-R1 R1-R2 R2-R4 R4-B R2-R5 R5-R6 R6-R7 R7-C R7-D",
        )
    }

    /// Two equal paths from R1 to R4: A - R1, R1 - R2 - R4, R1 - R3 - R4, R4 - B, R4 - C.
    pub fn mesh() -> Self {
        Self::well_formed(
            "mesh",
            "A B C",
            "R1 R2 R3 R4",
            "A-R1 R1-R2 R1-R3 R2-R4 R3-R4 R4-B R4-C",
        )
    }

    /// A row of `n` routers: A - R1 - R2 - .. - Rn - B.
    pub fn line(n: usize) -> Self {
        let routers = numbered("R", n);
        let path = format!("A {routers} B");
        let nodes: Vec<_> = path.split(' ').collect();
        let links: Vec<_> = nodes.windows(2).map(|pair| pair.join("-")).collect();
        Self::well_formed("line", "A B", &routers, &links.join(" "))
    }

    /// One router R1 with a source A and `n` hosts H1 .. Hn, each behind a port of its own.
    pub fn star(n: usize) -> Self {
        let hosts = numbered("H", n);
        let links: Vec<_> = hosts.split(' ').map(|host| format!("R1-{host}")).collect();
        Self::well_formed(
            "star",
            &format!("A {hosts}"),
            "R1",
            &format!("A-R1 {}", links.join(" ")),
        )
    }

    /// One router R1 with a source A behind one port, and `n` hosts H1 .. Hn on a bridged LAN
    /// behind another.
    pub fn lan(n: usize) -> Self {
        let hosts = numbered("H", n);
        let links: Vec<_> = hosts.split(' ').map(|host| format!("{host}-lan")).collect();
        let mut topology = Self::well_formed(
            "lan",
            &format!("A {hosts}"),
            "R1",
            &format!("A-R1 R1-lan {}", links.join(" ")),
        );
        topology.nodes.push(("lan".to_owned(), Role::Switch));
        topology
    }

    /// A small Internet for overlays: a ring of five routers R1 .. R5, two routers behind each of them
    /// (R6 and R7 behind R1, and so on), and `n` hosts behind each of those ten, each on a link of its
    /// own: H1 .. Hn behind R6. Any two nodes have exactly one shortest path.
    pub fn dht(n: usize) -> Self {
        Self::ring_with_edges(5, 2, n)
    }

    /// The same with a ring of `ring` routers, `edges` routers behind each of them and `hosts` hosts
    /// behind each of those. With an odd `ring`, any two nodes have exactly one shortest path.
    pub fn ring_with_edges(ring: usize, edges: usize, hosts: usize) -> Self {
        let count = ring * edges;
        let around = match ring {
            1 => 0,
            2 => 1,
            n => n,
        };
        let circle = (1..=around).map(|i| format!("R{i}-R{}", i % ring + 1));
        let up = (0..count).map(|i| format!("R{}-R{}", i / edges + 1, ring + 1 + i));
        let down = (0..count * hosts).map(|i| format!("R{}-H{}", ring + 1 + i / hosts, i + 1));
        let links: Vec<_> = circle.chain(up).chain(down).collect();
        Self::well_formed(
            "dht",
            &numbered("H", count * hosts),
            &numbered("R", ring + count),
            &links.join(" "),
        )
    }

    /// The same with a switch in the middle of the first link between two nodes: nothing but a bridge,
    /// so a place where frames can be lost or delayed on purpose without a router noticing.
    ///
    /// # Errors
    ///
    /// There is no such link, or the switch's name is unusable or taken.
    pub fn with_switch(self, switch: &str, one: &str, other: &str) -> Result<Self> {
        let Self {
            name,
            mut nodes,
            mut links,
        } = self;
        let joins = |link: &Link| {
            link.ends.iter().any(|end| end == one) && link.ends.iter().any(|end| end == other)
        };
        let Some(at) = links.iter().position(joins) else {
            bail!("no link joins `{one}` to `{other}`");
        };
        let [one, other] = links[at].ends.clone();
        links[at] = Link::new(&one, switch);
        links.insert(at + 1, Link::new(switch, &other));
        nodes.push((switch.to_owned(), Role::Switch));
        Self::new(&name, nodes, links)
    }

    /// The topology that a command line names: `fig3`, `line N`, `star N`, `lan N`, `mesh`, `dht [N]`,
    /// or the path of a TOML file.
    ///
    /// # Errors
    ///
    /// The name is unknown, N is missing or out of range, or the file cannot be used.
    pub fn from_words(words: &[String]) -> Result<Self> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["fig3"] => Ok(Self::fig3()),
            ["mesh"] => Ok(Self::mesh()),
            ["line", n] => Ok(Self::line(count("line", n, 64)?)),
            ["star", n] => Ok(Self::star(count("star", n, 250)?)),
            ["lan", n] => Ok(Self::lan(count("lan", n, 250)?)),
            ["dht"] => Ok(Self::dht(HOSTS_PER_EDGE)),
            ["dht", n] => Ok(Self::dht(count("dht", n, 60)?)),
            ["line" | "star" | "lan"] => bail!(
                "topology `{}` needs a number, as in: {} 4",
                words[0],
                words[0]
            ),
            ["fig3" | "mesh", ..] => bail!("topology `{}` takes no number", words[0]),
            [path] if path.ends_with(".toml") => Self::load(Path::new(path)),
            _ => bail!(
                "unknown topology `{}`; known are fig3, line N, star N, lan N, mesh, dht N, and the path of a .toml file",
                words.join(" ")
            ),
        }
    }

    /// Reads a topology from a file. Without a `name` in it, it is called after the file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or [`Self::from_toml`] fails.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read topology {}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::from_toml(&stem, &text).with_context(|| format!("bad topology {}", path.display()))
    }

    /// Reads a topology from TOML, with a name in case the text has none:
    ///
    /// ```toml
    /// name = "office"                # optional
    /// hosts = ["A", "B"]
    /// routers = ["R1"]
    /// switches = []                  # optional
    ///
    /// [[link]]
    /// ends = ["A", "R1"]
    ///
    /// [[link]]
    /// ends = ["R1", "B"]
    /// addresses = { R1 = "192.0.2.1/24", B = "192.0.2.2/24" }   # optional
    /// mtu = 1400                     # optional
    /// ```
    ///
    /// # Errors
    ///
    /// The text is no such TOML, or [`Self::new`] fails.
    pub fn from_toml(name: &str, text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                1 + text[..span.start.min(text.len())].matches('\n').count()
            });
            anyhow!(
                "line {line}: {}",
                error.message().trim().replace('\n', ", ")
            )
        })?;
        let role = |names: Vec<String>, role| names.into_iter().map(move |name| (name, role));
        let nodes = role(file.hosts, Role::Host)
            .chain(role(file.routers, Role::Router))
            .chain(role(file.switches, Role::Switch))
            .collect();
        Self::new(file.name.as_deref().unwrap_or(name), nodes, file.links)
    }

    /// The topology's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names and roles of the nodes: hosts, then routers, then switches.
    pub fn nodes(&self) -> &[(String, Role)] {
        &self.nodes
    }

    /// The links, in the order of the address plan.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// From words; for the names and links written or generated in this file.
    fn well_formed(name: &str, hosts: &str, routers: &str, links: &str) -> Self {
        let role = |names: &str, role| {
            names
                .split(' ')
                .map(|name| (name.to_owned(), role))
                .collect::<Vec<_>>()
        };
        Self {
            name: name.to_owned(),
            nodes: [role(hosts, Role::Host), role(routers, Role::Router)].concat(),
            links: links
                .split(' ')
                .filter_map(|link| link.split_once('-'))
                .map(|(one, other)| Link::new(one, other))
                .collect(),
        }
    }
}

/// Checks the name of a testbed. It may have dashes, unlike a node's: the last dash of a
/// namespace's name separates the two.
pub(super) fn check_instance(name: &str) -> Result<()> {
    let usable = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(usable) {
        bail!("testbed name `{name}` is unusable; take 1 to 64 letters, digits, `-` and `_`");
    }
    Ok(())
}

fn check_node(name: &str) -> Result<()> {
    let usable = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.len() > NODE_NAME_MAX || !name.chars().all(usable) {
        bail!("node name `{name}` is unusable; take 1 to {NODE_NAME_MAX} letters, digits and `_`");
    }
    Ok(())
}

fn count(topology: &str, word: &str, most: usize) -> Result<usize> {
    match word.parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => bail!("topology `{topology}` takes a number from 1 to {most}, not `{word}`"),
    }
}

fn numbered(prefix: &str, n: usize) -> String {
    let names: Vec<_> = (1..=n).map(|i| format!("{prefix}{i}")).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn error(text: &str) -> String {
        format!(
            "{:#}",
            Topology::from_toml("test", text).expect_err("accepted")
        )
    }

    #[test]
    fn named_topologies_are_well_formed() {
        for (name, nodes, links) in [
            ("fig3", 10, 9),
            ("mesh", 7, 7),
            ("line 1", 3, 2),
            ("line 64", 66, 65),
            ("star 250", 252, 251),
            ("lan 3", 6, 5),
            ("dht", 125, 125),
            ("dht 2", 35, 35),
        ] {
            let topology = Topology::from_words(&words(name)).expect(name);
            assert_eq!(topology.nodes().len(), nodes, "{name}");
            assert_eq!(topology.links().len(), links, "{name}");
            let Topology { name, nodes, links } = topology;
            Topology::new(&name, nodes, links).expect("well formed");
        }
    }

    #[test]
    fn a_switch_goes_into_a_link() {
        let topology = Topology::dht(2).with_switch("W1", "H1", "R6").unwrap();
        assert_eq!(topology.nodes().len(), 36);
        let ends: Vec<_> = topology.links().iter().map(|link| &link.ends).collect();
        assert!(
            ends.contains(&&["R6".to_owned(), "W1".to_owned()]),
            "{ends:?}"
        );
        assert!(
            ends.contains(&&["W1".to_owned(), "H1".to_owned()]),
            "{ends:?}"
        );
        let error = topology.with_switch("W2", "H1", "R7").unwrap_err();
        assert!(error.to_string().contains("no link joins"), "{error}");
    }

    #[test]
    fn unknown_names_and_bad_numbers_say_what_to_give() {
        for (text, expected) in [
            ("ring", "known are fig3"),
            ("line", "needs a number"),
            ("lan 0", "from 1 to 250, not `0`"),
            ("star many", "not `many`"),
            ("fig3 2", "takes no number"),
            ("/nonexistent/x.toml", "failed to read topology"),
        ] {
            let error = Topology::from_words(&words(text)).expect_err(text);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }

    #[test]
    fn a_file_becomes_a_topology() {
        let text = r#"
            hosts = ["A", "B"]
            routers = ["R1"]
            [[link]]
            ends = ["A", "R1"]
            [[link]]
            ends = ["R1", "B"]
            addresses = { R1 = "192.0.2.1/24", B = "192.0.2.2/24" }
            mtu = 1400
        "#;
        let topology = Topology::from_toml("office", text).unwrap();
        assert_eq!(topology.name(), "office");
        assert_eq!(topology.nodes()[2], ("R1".to_owned(), Role::Router));
        assert_eq!(topology.links()[1].mtu, Some(1400));
        assert_eq!(
            topology.links()[1].addresses["B"].to_string(),
            "192.0.2.2/24"
        );
    }

    #[test]
    fn malformed_files_name_the_field_and_the_remedy() {
        for (text, expected) in [
            ("", "has no nodes; list some in `hosts` and `routers`"),
            ("hosts = [\"A\"", "line 1: "),
            (
                "hosts = [\"A\"]\nnods = []",
                "line 2: unknown field `nods`, expected one of `name`, `hosts`",
            ),
            ("hosts = [\"A\", \"A\"]", "node `A` is listed twice"),
            (
                "hosts = [\"A-1\"]",
                "node name `A-1` is unusable; take 1 to 10 letters",
            ),
            (
                "hosts = [\"elevenchars\"]",
                "node name `elevenchars` is unusable",
            ),
            (
                "name = \"a b\"\nhosts = [\"A\"]",
                "testbed name `a b` is unusable",
            ),
            (
                "hosts = [\"A\"]\n[[link]]\nends = [\"A\", \"R1\"]",
                "names `R1`, which is no node; add it to `hosts`",
            ),
            (
                "hosts = [\"A\"]\n[[link]]\nends = [\"A\", \"A\"]",
                "joins `A` to itself",
            ),
            ("hosts = [\"A\"]\n[[link]]\nends = [\"A\"]", "line 3: "),
            (
                "hosts = [\"A\", \"B\"]\n[[link]]\nmtu = 3",
                "missing field `ends`",
            ),
            (
                "hosts = [\"A\", \"B\"]\n[[link]]\nends = [\"A\", \"B\"]\naddresses = { C = \"10.0.0.1/8\" }",
                "has an address for `C`",
            ),
            (
                "hosts = [\"A\", \"B\"]\n[[link]]\nends = [\"A\", \"B\"]\naddresses = { A = \"10.0.0.1\" }",
                "line 4: invalid IP address syntax",
            ),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
