//! `xcast-ctl tree` between real hosts: one router, a source and members on three links.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    daemon::{self, PATIENCE},
    family::Family,
    trio::{self, A, B, C, R1, R2, R3, Trio, UDP_PORT},
};

/// The payload of a message, unless told otherwise.
const PAYLOAD: usize = 914;

/// A member that runs. It is ended if the test is.
struct Member {
    name: String,
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Member {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has this.
    fn says(&self, words: &str) -> Result<()> {
        let said = trio::until(PATIENCE, || Ok(self.log().contains(words)))?;
        ensure!(said, "{} does not say `{words}`: {}", self.name, self.log());
        Ok(())
    }

    /// The parent that it joined last.
    fn parent(&self) -> Option<SocketAddr> {
        let log = self.log();
        let said = log
            .lines()
            .rev()
            .find_map(|line| line.split("parent ").nth(1))?;
        said.split(',').next()?.parse().ok()
    }

    fn received(&self) -> u64 {
        fs::metadata(&self.output).map_or(0, |file| file.len())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// Waits for it to end: whether it says that all went well, and its last report.
    fn end(&mut self) -> Result<(bool, Value)> {
        let mut status = None;
        let deadline = Instant::now() + PATIENCE;
        while status.is_none() {
            status = self.child.try_wait()?;
            ensure!(
                Instant::now() < deadline,
                "{} does not end: {}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = self.log();
        let report = log.lines().rev().find(|line| line.starts_with('{'));
        let report = report.with_context(|| format!("no report of {}: {log}", self.name))?;
        Ok((
            status.is_some_and(|status| status.success()),
            serde_json::from_str(report)?,
        ))
    }

    /// Waits for it to end well, with all of the stream and nothing else. Its report.
    fn is_whole(&mut self, content: &[u8]) -> Result<Value> {
        let (whole, report) = self.end()?;
        let log = self.log();
        ensure!(
            whole && report["complete"] == true,
            "{}: {report} {log}",
            self.name
        );
        ensure!(
            fs::read(&self.output)? == content,
            "{} has another content: {report} {log}",
            self.name
        );
        ensure!(
            number(&report, "octets")? == content.len() as u64,
            "{report}"
        );
        Ok(report)
    }
}

fn number(report: &Value, field: &str) -> Result<u64> {
    report[field]
        .as_u64()
        .with_context(|| format!("no {field} in {report}"))
}

/// Octets by which each piece of the stream is told from the others.
fn content(octets: usize) -> Vec<u8> {
    let mut content: Vec<u8> = (0..octets as u32).flat_map(u32::to_be_bytes).collect();
    content.truncate(octets);
    content
}

/// Where members are started.
struct Stage<'a> {
    trio: &'a Trio,
    directory: TempDir,
}

impl<'a> Stage<'a> {
    fn new(trio: &'a Trio) -> Result<Self> {
        Ok(Self {
            trio,
            directory: tempfile::tempdir()?,
        })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// An address of the family under test.
    fn at(&self, ip: Ipv4Addr, port: u16) -> SocketAddr {
        SocketAddr::new(self.trio.family.address(ip), port)
    }

    /// Starts a member on the host with this address, which sends by its router.
    fn start(
        &self,
        name: &str,
        ip: Ipv4Addr,
        port: u16,
        input: Stdio,
        arguments: &str,
    ) -> Result<Member> {
        let (host, router) = match ip {
            A => (&self.trio.a, R1),
            B => (&self.trio.b, R2),
            _ => (&self.trio.c, R3),
        };
        let (output, log) = (
            self.path().join(name),
            self.path().join(format!("{name}.log")),
        );
        let mut command = host.namespace.command(daemon::program());
        command.args(["tree", "news", "--json"]);
        if !arguments.contains("--timeout") {
            command.args(["--timeout", "120"]);
        }
        command.arg("--listen").arg(self.at(ip, port).to_string());
        command
            .arg("--udp")
            .arg(self.at(router, UDP_PORT).to_string());
        command
            .arg("--config")
            .arg(self.trio.daemon()?.config())
            .args(arguments.split_whitespace());
        let child = command
            .stdin(input)
            .stdout(File::create(&output)?)
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Member {
            name: name.to_owned(),
            child,
            output,
            log,
        })
    }

    /// Starts a source at host A, and waits for its public key.
    fn source(
        &self,
        name: &str,
        port: u16,
        input: Stdio,
        arguments: &str,
    ) -> Result<(Member, String)> {
        let key = self.path().join(format!("{name}.key"));
        let arguments = format!("--key {} {arguments}", key.display());
        let source = self.start(name, A, port, input, &arguments)?;
        source.says("public key ")?;
        let log = source.log();
        let public = log.split("public key ").nth(1);
        let public = public.and_then(|rest| rest.split(';').next());
        let public = public.context("a public key")?.to_owned();
        Ok((source, public))
    }

    /// Starts a member that joins by way of the source, and waits until it has a parent.
    fn member(
        &self,
        name: &str,
        ip: Ipv4Addr,
        port: u16,
        public: &str,
        arguments: &str,
    ) -> Result<Member> {
        let join = self.at(A, 4000);
        let arguments = format!("--source {public} --join {join} {arguments}");
        let member = self.start(name, ip, port, Stdio::null(), &arguments)?;
        member.says("parent ")?;
        Ok(member)
    }
}

fn stream(trio: &Trio) -> Result<()> {
    let stage = Stage::new(trio)?;
    let content = content(200_000);
    let input = stage.path().join("input");
    fs::write(&input, &content)?;
    // Four of five have gone when it ends: one is stopped on the way.
    let (mut source, public) = stage.source(
        "source",
        4000,
        File::open(&input)?.into(),
        "--wait 5 --rate 1000",
    )?;
    let mut members = Vec::new();
    for (name, ip, port) in [
        ("b1", B, 4001),
        ("b2", B, 4002),
        ("c1", C, 4001),
        ("c2", C, 4002),
        ("c3", C, 4003),
    ] {
        // They have no children, so all are the source's.
        members.push(stage.member(name, ip, port, &public, "--packets 0")?);
    }
    // One is told to end when the stream has begun: it says goodbye, and others do not mind.
    let mut early = members.pop().context("a member")?;
    ensure!(
        trio::until(PATIENCE, || Ok(early.received() > 0))?,
        "{} {}",
        early.log(),
        source.log()
    );
    early.signal(Signal::SIGTERM)?;
    let (whole, report) = early.end()?;
    ensure!(!whole && report["complete"] == false, "{report}");
    for member in &mut members {
        member.is_whole(&content)?;
    }
    let (whole, report) = source.end()?;
    ensure!(whole, "{report}");
    let messages = content.len().div_ceil(PAYLOAD) as u64 + 1;
    let counters = &report["counters"];
    ensure!(
        number(&report, "depth")? == 0 && number(counters, "stream_packets")? >= messages,
        "{report}"
    );
    // One Xcast packet for each message, where unicast would take four or five.
    let xcast = number(&report, "xcast_packets")?;
    ensure!(
        xcast >= messages && xcast < 2 * messages,
        "{xcast} of {messages}: {report}"
    );
    ensure!(
        number(counters, "stream_receivers")? >= 4 * messages,
        "{report}"
    );
    println!("{messages} messages: {counters}, {xcast} xcast packets");
    Ok(())
}

#[test]
fn a_stream_by_lists_ipv4() {
    trio::with_family(Family::Ipv4, |trio| stream(trio));
}

#[test]
fn a_stream_by_lists_ipv6() {
    trio::with_family(Family::Ipv6, |trio| stream(trio));
}

/// A member that others are below dies without a word, and another one stops working: all others get
/// the stream whole, each message once.
fn survivors_miss_nothing(trio: &Trio) -> Result<()> {
    let stage = Stage::new(trio)?;
    let content = content(200_000);
    let (first, rest) = content.split_at(60_000);
    // Two children for each.
    let narrow = "--packets 1 --destinations 2";
    let arguments = format!("{narrow} --wait 2 --rate 800");
    let (mut source, public) = stage.source("source", 4000, Stdio::piped(), &arguments)?;
    let mut input = source.child.stdin.take().context("an input")?;
    let mut members = BTreeMap::new();
    for (name, ip, port) in [
        ("b1", B, 4001),
        ("c1", C, 4001),
        ("b2", B, 4002),
        ("b3", B, 4003),
        ("c2", C, 4002),
        ("c3", C, 4003),
    ] {
        let member = stage.member(name, ip, port, &public, narrow)?;
        members.insert(stage.at(ip, port), member);
    }
    let parents: BTreeMap<SocketAddr, SocketAddr> = members
        .iter()
        .filter_map(|(address, member)| Some((*address, member.parent()?)))
        .collect();
    let has_children = |who: &SocketAddr| parents.values().any(|parent| parent == who);
    // Only two have room at the source.
    let inner = parents.keys().find(|who| has_children(who));
    let inner = *inner.context("an inner member")?;
    let leaf = parents
        .iter()
        .find(|(who, parent)| !has_children(who) && **parent != inner && **who != inner);
    let leaf = *leaf.context("a leaf elsewhere")?.0;

    input.write_all(first)?;
    let begun = trio::until(PATIENCE, || {
        Ok(members.values().all(|member| member.received() > 0))
    })?;
    ensure!(begun, "the stream does not come");
    members
        .remove(&inner)
        .context("a member")?
        .signal(Signal::SIGKILL)?;
    let stopped = members.remove(&leaf).context("a member")?;
    stopped.signal(Signal::SIGSTOP)?;
    input.write_all(rest)?;
    drop(input);

    let mut orphans = 0;
    for (address, member) in &mut members {
        let report = member.is_whole(&content)?;
        let counters = &report["counters"];
        ensure!(number(counters, "lost")? == 0, "{report}");
        if parents.get(address) == Some(&inner) {
            orphans += 1;
            ensure!(number(counters, "orphaned")? > 0, "{report}");
            println!("{}, an orphan: {counters}", member.name);
        }
    }
    ensure!(orphans > 0, "{parents:?}");
    // A process that is stopped cannot end; what it has is the beginning of the stream.
    ensure!(content.starts_with(&fs::read(&stopped.output)?));
    let (whole, report) = source.end()?;
    ensure!(whole, "{report}");
    Ok(())
}

#[test]
fn survivors_miss_nothing_ipv4() {
    trio::with_family(Family::Ipv4, |trio| survivors_miss_nothing(trio));
}

#[test]
fn survivors_miss_nothing_ipv6() {
    trio::with_family(Family::Ipv6, |trio| survivors_miss_nothing(trio));
}

/// Members with `--prefix` are below one of their own network, and only who has the key is the source.
fn near_parents_and_the_true_source(trio: &Trio) -> Result<()> {
    let stage = Stage::new(trio)?;
    let content = content(20_000);
    let narrow = "--packets 1 --destinations 2";
    let arguments = format!("{narrow} --wait 2");
    let (mut source, public) = stage.source("source", 4000, Stdio::piped(), &arguments)?;
    let mut input = source.child.stdin.take().context("an input")?;
    let prefix = format!("{narrow} --prefix");
    let mut members = Vec::new();
    // Once one of each network is below the source, it has no more room.
    for (name, ip, port) in [
        ("b1", B, 4001),
        ("c1", C, 4001),
        ("c2", C, 4002),
        ("b2", B, 4002),
        ("b3", B, 4003),
        ("c3", C, 4003),
    ] {
        let member = stage.member(name, ip, port, &public, &prefix)?;
        let parent = member.parent().context("a parent")?;
        let expected = match port {
            4001 => stage.at(A, 4000),
            _ => stage.at(ip, 4001),
        };
        ensure!(parent == expected, "{name} is below {parent}");
        members.push(member);
    }

    // Another source of the same name, which those who expect this one's key do not hear.
    let wait = "--wait 1 --linger 1";
    let (mut other, others_key) = stage.source("other", 4100, Stdio::piped(), wait)?;
    ensure!(others_key != public);
    let join = format!("--join {}", stage.at(A, 4100));
    let believes = |key: &str, name: &str, port, more: &str| {
        let arguments = format!("--source {key} {join} {more}");
        stage.start(name, B, port, Stdio::null(), &arguments)
    };
    let mut believer = believes(&others_key, "believer", 4101, "")?;
    let mut sceptic = believes(&public, "sceptic", 4102, "--timeout 4")?;
    let false_content = b"who believes that?";
    let mut others_input = other.child.stdin.take().context("an input")?;
    others_input.write_all(false_content)?;
    drop(others_input);
    believer.is_whole(false_content)?;
    let (whole, report) = sceptic.end()?;
    ensure!(!whole && number(&report, "octets")? == 0, "{report}");
    ensure!(fs::read(&sceptic.output)?.is_empty());

    input.write_all(&content)?;
    drop(input);
    for member in &mut members {
        member.is_whole(&content)?;
    }
    ensure!(source.end()?.0);
    Ok(())
}

#[test]
fn near_parents_and_the_true_source_ipv4() {
    trio::with_family(Family::Ipv4, |trio| near_parents_and_the_true_source(trio));
}

#[test]
fn near_parents_and_the_true_source_ipv6() {
    trio::with_family(Family::Ipv6, |trio| near_parents_and_the_true_source(trio));
}
