//! corosync with kronosnet.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::namespace::{self, Namespace};
use tests::tap::Tap;

use crate::guide;
use crate::hosts::{Hosts, Way, script};

/// Number of nodes: the first is where the way begins, the others are receivers.
const NODES: usize = 5;
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

/// Where a node is, and the other end of its link.
type Place = (String, &'static str);

fn places(way: Way) -> Vec<Place> {
    let (node, peer) = way.link();
    let others = (1..NODES).map(|number| (format!("H{number}"), "R2"));
    [(node.to_owned(), peer)]
        .into_iter()
        .chain(others)
        .collect()
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
    fn start(hosts: &Hosts, way: Way, with: bool, encrypted: bool) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let configuration = directory.path().join("corosync.conf");
        let places = places(way);
        let shown = configuration.display();
        let written = configure(hosts, &places, directory.path(), encrypted)?;
        fs::write(&configuration, written)?;
        let mut nodes = Vec::new();
        for (index, (name, peer)) in places.iter().enumerate() {
            let namespace = hosts.bed.namespace(name)?;
            let router = match (index, way) {
                (0, Way::Natively) => None,
                _ => Some(hosts.address(peer, name)?),
            };
            let line = match with {
                true => guide::exec("corosync", router)?,
                false => "corosync -f".to_owned(),
            };
            let mut command = guide::shell(&namespace, &format!("{APART} {line} -c {shown}"))?;
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
        for (node, (name, _)) in cluster.nodes.iter_mut().zip(&places) {
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

/// Before a command: it has the directories for itself that corosync uses.
const APART: &str = "unshare --mount sh -c 'mkdir -p /var/lib/corosync && mount -t tmpfs tmpfs /run && \
                     mount -t tmpfs tmpfs /var/lib/corosync && exec \"$@\"' sh";

/// The configuration. Messages are encrypted with a key of the cluster, or not at all.
fn configure(hosts: &Hosts, places: &[Place], directory: &Path, encrypted: bool) -> Result<String> {
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
    for (index, (name, peer)) in places.iter().enumerate() {
        let address = hosts.address(name, peer)?;
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
#[track_caller]
fn cluster(family: Family, way: Way, encrypted: bool) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let hosts = Hosts::with(family, NODES - 1)?;
        let taps = hosts.taps(way)?;
        for with in [false, true] {
            // Without the library all ways are the same.
            if !with && way == Way::Natively {
                continue;
            }
            let [all, fewer] = live_and_die(&hosts, way, &taps, with, encrypted)?;
            println!(
                "{family:?}, {way:?}, encrypted: {encrypted}, under exec: {with}: packets with messages \
                 on the first link by length, to 4 {all:?} and to 3 {fewer:?}"
            );
            if with {
                // All but those from before everyone was known, and what the nodes say as one dies.
                for counts in [all, fewer] {
                    let sum = counts.values().sum::<usize>();
                    ensure!((MESSAGES..2 * MESSAGES).contains(&sum), "{sum} packets");
                }
            } else {
                // Most frames are messages, all of the same length.
                let most = |counts: Lengths| counts.into_values().max();
                ensure!(most(all) == Some(4 * MESSAGES), "not one to each of 4");
                ensure!(most(fewer) == Some(3 * MESSAGES), "not one to each of 3");
            }
        }
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}, {way:?}: {error:#}");
    }
}

/// The life of a cluster: packets with messages to all nodes, and to those that are left when one has died.
fn live_and_die(
    hosts: &Hosts,
    way: Way,
    taps: &[Tap],
    with: bool,
    encrypted: bool,
) -> Result<[Lengths; 2]> {
    let mut cluster = Cluster::start(hosts, way, with, encrypted)?;
    cluster.agrees(&[1, 2, 3, 4, 5])?;
    // kronosnet starts with the least MTU there is, and divides messages until it has found another.
    let deadline = Instant::now() + PATIENCE;
    taps.iter().try_for_each(Tap::drain)?;
    loop {
        cluster.send(&message(0))?;
        if !long_frames(taps)?.is_empty() {
            break;
        }
        ensure!(Instant::now() < deadline, "messages stay divided");
        thread::sleep(Duration::from_millis(100));
    }
    let all = send_all(&mut cluster, taps)?;
    // A process that is killed says nothing any more; the others notice, and go on.
    let victim = cluster.nodes.remove(VICTIM);
    let number = victim.number;
    drop(victim);
    let left: Vec<_> = (1..=NODES).filter(|node| *node != number).collect();
    cluster.agrees(&left)?;
    Ok([all, send_all(&mut cluster, taps)?])
}

fn message(number: usize) -> String {
    format!("{number:04}-").repeat(LEN / 5)
}

/// Numbers of frames, by their length in octets.
type Lengths = BTreeMap<usize, usize>;

/// Sends all messages; how many frames meanwhile are so long that they carry messages of [`LEN`] octets.
fn send_all(cluster: &mut Cluster, taps: &[Tap]) -> Result<Lengths> {
    let mut counts = Lengths::new();
    for number in 0..MESSAGES {
        cluster.send(&message(number))?;
        // After each: the tap holds only so many.
        for (len, count) in long_frames(taps)? {
            *counts.entry(len).or_default() += count;
        }
    }
    Ok(counts)
}

/// How many frames that have been sent can carry a message whole.
fn long_frames(taps: &[Tap]) -> Result<Lengths> {
    let mut counts = Lengths::new();
    for tap in taps {
        while let Some(frame) = tap.take()? {
            if frame.len() >= LEN {
                *counts.entry(frame.len()).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

#[test]
fn corosync_with_encryption_in_udp_ipv4() {
    cluster(Family::Ipv4, Way::InUdp, true);
}

#[test]
fn corosync_with_encryption_natively_ipv4() {
    cluster(Family::Ipv4, Way::Natively, true);
}

#[test]
fn corosync_in_udp_ipv6() {
    cluster(Family::Ipv6, Way::InUdp, false);
}

#[test]
fn corosync_natively_ipv6() {
    cluster(Family::Ipv6, Way::Natively, false);
}
