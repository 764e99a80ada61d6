//! corosync with kronosnet.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::namespace::{self, Namespace};
use tests::tap::Tap;

use crate::hosts::{Hosts, exec, of_family, script};

/// Hosts, in the order of their node numbers from 1 on, and the router that takes their packets.
const NODES: [(&str, &str); 5] = [
    ("A", "R1"),
    ("H1", "R2"),
    ("H2", "R2"),
    ("H3", "R2"),
    ("H4", "R2"),
];
/// Messages that the first node sends to the others, one after the other, and their length.
const MESSAGES: usize = 60;
const LEN: usize = 700;
/// The node that dies.
const VICTIM: usize = 2;

/// A running cluster: a process of corosync and a member of its process group on each node.
struct Cluster {
    nodes: Vec<Node>,
    _directory: tempfile::TempDir,
}

struct Node {
    number: usize,
    corosync: Child,
    member: Option<Member>,
}

/// A program that sends to the group and says what it receives.
struct Member {
    process: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Cluster {
    /// Starts on all nodes; each is its own network namespace, and has /run and /var/lib/corosync for
    /// itself.
    fn start(hosts: &Hosts, with: bool, encrypted: bool) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let configuration = directory.path().join("corosync.conf");
        fs::write(
            &configuration,
            configure(hosts, directory.path(), encrypted)?,
        )?;
        let mut nodes = Vec::new();
        for (index, (name, router)) in NODES.iter().enumerate() {
            let namespace = hosts.bed.namespace(name)?;
            let udp = hosts.address(router, name)?;
            let mut command = apart(&namespace);
            if with {
                // The arguments of `exec` without the namespace, which is entered already.
                let exec = exec(&namespace, Some(udp));
                command.args(exec.get_args().skip(3)).arg("--");
            }
            command.args(["corosync", "-f", "-c"]).arg(&configuration);
            let log = fs::File::create(directory.path().join(format!("log-{name}")))?;
            command.stderr(log.try_clone()?).stdout(log);
            nodes.push(Node {
                number: index + 1,
                corosync: command.spawn().context("corosync")?,
                member: None,
            });
        }
        let mut cluster = Self {
            nodes,
            _directory: directory,
        };
        for (node, (name, _)) in cluster.nodes.iter_mut().zip(NODES) {
            node.member = Some(Member::start(&hosts.bed.namespace(name)?)?);
        }
        Ok(cluster)
    }

    /// Waits until every member that is left sees these members.
    fn agrees(&mut self, members: &[usize]) -> Result<()> {
        let members: Vec<_> = members.iter().map(usize::to_string).collect();
        let wanted = format!("members {}", members.join(" "));
        for member in self
            .nodes
            .iter_mut()
            .filter_map(|node| node.member.as_mut())
        {
            member.wait_for(&wanted)?;
        }
        Ok(())
    }

    /// The first node sends a message, and every member receives it next.
    fn send(&mut self, text: &str) -> Result<()> {
        let first = self.nodes[0].member.as_mut().context("no member")?;
        writeln!(first.input, "{text}")?;
        let wanted = format!("message 1 {text}");
        for node in &mut self.nodes {
            if let Some(member) = &mut node.member {
                let line = member
                    .line()
                    .with_context(|| format!("node {}", node.number))?;
                ensure!(line == wanted, "node {}: {line:?}", node.number);
            }
        }
        Ok(())
    }
}

impl Member {
    /// Starts on a node, as soon as corosync is there.
    fn start(namespace: &Namespace) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut command = namespace.command("python3");
            command.arg(script("cpg.py")).stderr(Stdio::null());
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut process = command.spawn()?;
            let output = process.stdout.take().context("no output")?;
            let mut output = BufReader::new(output);
            let mut line = String::new();
            output.read_line(&mut line)?;
            if line.is_empty() {
                process.wait()?;
                ensure!(Instant::now() < deadline, "corosync does not come up");
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            let (sender, lines) = mpsc::channel();
            sender.send(line.trim_end().to_owned())?;
            thread::spawn(move || {
                for line in output.lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
            let input = process.stdin.take().context("no input")?;
            return Ok(Self {
                process,
                input,
                lines,
            });
        }
    }

    fn line(&mut self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("says nothing")
    }

    fn wait_for(&mut self, wanted: &str) -> Result<()> {
        let mut said = Vec::new();
        while said.last().is_none_or(|line| line != wanted) {
            let line = self.line().with_context(|| format!("after {said:?}"))?;
            said.push(line);
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(member) = &mut self.member {
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
        let _ = self.corosync.kill();
        let _ = self.corosync.wait();
    }
}

/// A command in a namespace that has the directories for itself that corosync uses.
fn apart(namespace: &Namespace) -> Command {
    let mut command = namespace.command("unshare");
    let prepare = "mkdir -p /var/lib/corosync && mount -t tmpfs tmpfs /run && \
                   mount -t tmpfs tmpfs /var/lib/corosync && exec \"$@\"";
    command.args(["--mount", "sh", "-c", prepare, "sh"]);
    command
}

/// The configuration. Messages are encrypted with a key of the cluster, or not at all.
fn configure(hosts: &Hosts, directory: &Path, encrypted: bool) -> Result<String> {
    let key: PathBuf = directory.join("key");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o400)
        .open(&key)?;
    file.write_all(&[0x5a; 256])?;
    let (cipher, hash) = match encrypted {
        true => ("aes256", "sha256"),
        false => ("none", "none"),
    };
    let mut nodes = String::new();
    for (index, (name, _)) in NODES.iter().enumerate() {
        let node = hosts.bed.testbed.node(name)?;
        let address: IpAddr = of_family(hosts.family, node.address, node.address6)?;
        let number = index + 1;
        nodes += &format!("  node {{\n    nodeid: {number}\n    ring0_addr: {address}\n  }}\n");
    }
    Ok(format!(
        "totem {{\n  version: 2\n  cluster_name: xcast\n  transport: knet\n  crypto_cipher: {cipher}\n  \
         crypto_hash: {hash}\n  keyfile: {}\n  token: 1000\n  knet_mtu: 1200\n}}\nsystem {{\n  sched_rr: no\n  \
         move_to_root_cgroup: no\n}}\nlogging {{\n  to_stderr: yes\n  to_syslog: no\n}}\nquorum {{\n  \
         provider: corosync_votequorum\n}}\nnodelist {{\n{nodes}}}\n",
        key.display()
    ))
}

/// Five nodes form a cluster, everyone receives what the first one sends, in order, and when a node
/// dies the others go on. Packets with messages on the first link: one instead of four.
fn cluster(family: Family, encrypted: bool) -> Result<()> {
    let hosts = Hosts::with(family, NODES.len() - 1)?;
    let tap = hosts.tap("A", "R1")?;
    let mut packets = Vec::new();
    for with in [false, true] {
        let mut cluster = Cluster::start(&hosts, with, encrypted)?;
        cluster.agrees(&[1, 2, 3, 4, 5])?;
        tap.drain()?;
        packets.push(send_all(&mut cluster, &tap)?);
        // A process that is killed says nothing any more; the others notice, and go on.
        let victim = cluster.nodes.remove(VICTIM);
        let number = victim.number;
        drop(victim);
        let left: Vec<_> = (1..=5).filter(|node| *node != number).collect();
        cluster.agrees(&left)?;
        packets.push(send_all(&mut cluster, &tap)?);
    }
    println!(
        "{family:?}, encrypted: {encrypted}: packets with messages on the first link by length, to 4 \
         and to 3: {:?} without, {:?} with",
        &packets[..2],
        &packets[2..]
    );
    let [all, fewer, all_shared, fewer_shared] = &packets[..] else {
        unreachable!("four counts");
    };
    // Without, most frames are messages, all of the same length.
    let most = |counts: &Lengths| counts.values().max().copied().unwrap_or(0);
    ensure!(most(all) == 4 * MESSAGES && most(fewer) == 3 * MESSAGES);
    // All but those from before everyone was known, and what the nodes say as one of them dies.
    let sum = |counts: &Lengths| counts.values().sum::<usize>();
    ensure!(sum(all_shared) < 2 * MESSAGES && sum(fewer_shared) < 2 * MESSAGES);
    Ok(())
}

fn message(number: usize) -> String {
    format!("{number:04}-").repeat(LEN / 5)
}

/// Numbers of frames, by their length in octets.
type Lengths = BTreeMap<usize, usize>;

/// Sends all messages; how many frames meanwhile are so long that they carry messages of [`LEN`] octets.
fn send_all(cluster: &mut Cluster, tap: &Tap) -> Result<Lengths> {
    let mut counts = Lengths::new();
    for number in 0..MESSAGES {
        cluster.send(&message(number))?;
        // After each: the tap holds only so many.
        while let Some(frame) = tap.take()? {
            if frame.len() >= LEN {
                *counts.entry(frame.len()).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

#[test]
fn corosync_with_encryption_ipv4() {
    if !namespace::available() {
        return;
    }
    if let Err(error) = cluster(Family::Ipv4, true) {
        panic!("{error:#}");
    }
}

#[test]
fn corosync_ipv6() {
    if !namespace::available() {
        return;
    }
    if let Err(error) = cluster(Family::Ipv6, false) {
        panic!("{error:#}");
    }
}
