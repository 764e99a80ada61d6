//! BIRD on the routers that speak Xcast: BGP between the ends of tunnels (RFC 4271, over several hops), into the Xcast
//! routing table.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result};

use super::plan::{CAPABLE, TABLE, neighbours};
use crate::{
    messages::Family,
    process,
    testbed::{Node, Testbed},
};

/// Processes that end when this is dropped.
pub(super) struct Birds(BTreeMap<String, Child>);

impl Birds {
    pub(super) fn start(testbed: &Testbed) -> Result<Self> {
        let mut birds = Self(BTreeMap::new());
        for name in CAPABLE {
            let directory = testbed.directory();
            let file = |extension: &str| directory.join(format!("{name}-bird.{extension}"));
            let text = configuration(testbed, testbed.node(name)?)?;
            fs::write(file("conf"), text)
                .with_context(|| format!("failed to write BIRD's configuration of {name}"))?;
            let bird = || -> Result<_> {
                let mut bird = testbed.command(name, "bird")?;
                bird.arg("-c").arg(file("conf")).arg("-s").arg(file("ctl"));
                Ok(bird)
            };
            process::output(bird()?.arg("-p")).context(
                "BIRD cannot read this; is bird2 installed? cargo xtask setup does that",
            )?;
            let log = fs::File::create(file("log"))?;
            let child = bird()?
                .arg("-f")
                .arg("-P")
                .arg(file("pid"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .context("failed to start BIRD")?;
            birds.0.insert(name.to_owned(), child);
        }
        Ok(birds)
    }

    /// Ends one, without a word to its neighbours.
    pub(super) fn end(&mut self, router: &str) -> Result<()> {
        let mut child = self.0.remove(router).context("BIRD does not run there")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Birds {
    fn drop(&mut self) {
        for child in self.0.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The autonomous system of a router: private use (RFC 6996), and its number in the figure.
fn system(router: &str) -> String {
    format!("6500{}", router.trim_start_matches('X'))
}

/// Networks of hosts that no router between this one and them speaks Xcast for.
fn own_hosts(router: &str) -> &'static [&'static str] {
    match router {
        "X1" => &["A"],
        "X3" => &["B"],
        _ => &["C", "D"],
    }
}

fn configuration(testbed: &Testbed, node: &Node) -> Result<String> {
    let id = node.address.context("a router without address")?;
    let mut text = format!(
        "router id {id};\nlog stderr {{ warning, error, fatal, bug }};\n\
         protocol device {{ scan time 1; }}\n"
    );
    for family in [Family::Ipv4, Family::Ipv6] {
        let channel = family.name().to_lowercase();
        let own = family.of_node(node)?;
        // What BGP learns is for lists only: it is in a table of its own, and so are the tunnels' far ends.
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{channel} table lists_{channel};\n{channel} table ends_{channel};\n\
             protocol static ends_of_tunnels_{channel} {{ {channel} {{ table ends_{channel}; }};"
        );
        for other in neighbours(&node.name) {
            let end = family.of_node(testbed.node(other)?)?;
            let len = if end.is_ipv4() { 32 } else { 128 };
            let _ = writeln!(text, "route {end}/{len} via \"xcast0\";");
        }
        let _ = writeln!(
            text,
            "}}\nprotocol static hosts_{channel} {{ {channel} {{ table lists_{channel}; }};"
        );
        for host in own_hosts(&node.name) {
            let address = family.of_node(testbed.node(host)?)?;
            let len = if address.is_ipv4() { 32 } else { 128 };
            let _ = writeln!(text, "route {address}/{len} unreachable;");
        }
        let _ = writeln!(
            text,
            "}}\nprotocol kernel kernel_{channel} {{ kernel table {TABLE}; scan time 1; {channel} {{ \
             table lists_{channel}; import none; export where source = RTS_BGP; }}; }}"
        );
        for other in neighbours(&node.name) {
            let end = family.of_node(testbed.node(other)?)?;
            let _ = writeln!(
                text,
                "protocol bgp to_{other}_{channel} {{ local {own} as {}; neighbor {end} as {}; multihop 16; \
                 hold time 6; connect retry time 1; connect delay time 1; error wait time 1, 2; \
                 {channel} {{ table lists_{channel}; igp table ends_{channel}; import all; export all; \
                 next hop self; }}; }}",
                system(&node.name),
                system(other)
            );
        }
    }
    Ok(text)
}
