//! Links that lose packets at random.
//!
//! This kernel has no netem, and XDP passes by netfilter: so packets are lost where there is no XDP,
//! on the interfaces of a switch in the middle of a link, or on that of a host. There a rule of
//! nftables (`numgen random`, family netdev) drops them on their way in, and on a host also on their
//! way out. Neighbour discovery is spared, so that it is the overlay's messages that are measured.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::bed::Bed;

const TABLE: &str = "xcast_loss";

/// Has every interface of a node of the testbed lose this part of IP packets, in percent: a switch
/// those that it is to forward, a host those that it gets and sends.
///
/// # Errors
///
/// There is no such node, or nftables refuses.
pub fn lose(bed: &Bed, node: &str, percent: f64, is_switch: bool) -> Result<()> {
    let node = bed.testbed.node(node)?;
    let mut rules = format!("table netdev {TABLE}\ndelete table netdev {TABLE}\n");
    let threshold = (percent * 1000.0).round() as u32;
    if threshold > 0 {
        let hooks: &[&str] = match is_switch {
            true => &["ingress"],
            false => &["ingress", "egress"],
        };
        rules += &format!("table netdev {TABLE} {{\n");
        for (number, interface) in node.interfaces.iter().enumerate() {
            for hook in hooks {
                rules += &format!(
                    "chain {hook}{number} {{\n type filter hook {hook} device \"{}\" priority 0; policy accept;\n \
                     meta protocol {{ ip, ip6 }} meta l4proto != ipv6-icmp numgen random mod 100000 < {threshold} \
                     counter drop\n}}\n",
                    interface.name
                );
            }
        }
        rules += "}\n";
    }
    nft(&node.namespace, &rules)
}

/// Packets that were lost on purpose at a node since [`lose`].
///
/// # Errors
///
/// There is no such node, or nftables refuses.
pub fn lost(bed: &Bed, node: &str) -> Result<u64> {
    let namespace = bed.namespace(node)?;
    let output = Command::new("ip")
        .args([
            "netns", "exec", namespace, "nft", "list", "table", "netdev", TABLE,
        ])
        .output()
        .context("failed to start `ip`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let mut sum = 0;
    while let Some(word) = words.next() {
        if word == "counter" && words.next() == Some("packets") {
            sum += words
                .next()
                .and_then(|count| count.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(sum)
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start `ip`")?;
    if let Some(mut stdin) = child.stdin.take() {
        // What nft has to say is worth more than a broken pipe.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "nft failed in {namespace}; install it with `apt-get install nftables`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
