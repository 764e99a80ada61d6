//! Nodes of the hash table, as `xcast-ctl dht` runs them in namespaces.

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    daemon::{PATIENCE, ctl, program},
    layout::{GROUP, PORTS_OPTION, PROTOCOL},
    namespace::Namespace,
};

/// The port of every node.
pub const PORT: u16 = 6881;

/// A node that runs; it ends with this.
#[derive(Debug)]
pub struct Node {
    /// Its process.
    pub child: Child,
    /// Where it runs.
    pub namespace: Namespace,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Node {
    /// Starts a node, and waits until it is ready.
    pub fn join(namespace: Namespace, ip: IpAddr, arguments: &[&str]) -> Result<Self> {
        let (node, line) = Self::joined(namespace, ip, arguments)?;
        ensure!(line.starts_with("ready "), "{line}");
        Ok(node)
    }

    /// Starts a node, and waits until it prints a line: which one.
    pub fn joined(namespace: Namespace, ip: IpAddr, arguments: &[&str]) -> Result<(Self, String)> {
        let address = SocketAddr::new(ip, PORT);
        let mut child = namespace
            .command(program())
            .args(["dht", "join", "--listen", &address.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let node = Self {
            child,
            namespace,
            address,
        };
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = lines
            .recv_timeout(PATIENCE)
            .context("the node is not ready")?;
        Ok((node, line))
    }

    /// Runs a verb: its exit status, and what it printed.
    pub fn ask(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = ctl(&self.namespace, &[&["dht"][..], arguments].concat())?;
        let code = output.status.code().context("ended by a signal")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(code < 2, "{arguments:?}: {errors}");
        Ok((code, String::from_utf8(output.stdout)?))
    }

    /// Runs a verb that has to succeed: its document.
    pub fn done(&self, arguments: &[&str]) -> Result<Value> {
        let (code, text) = self.ask(&[arguments, &["--json"]].concat())?;
        ensure!(code == 0, "{arguments:?}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until its status is so.
    pub fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, text) = self.ask(&["status", "--json"])?;
            if is_so(&serde_json::from_str(&text)?) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not so: {what}: {text}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until it ends, and with which status.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("the node does not end")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The code points of the tests, as options of `dht join`.
pub fn code_points() -> Vec<String> {
    let options = [
        ("--protocol", PROTOCOL.to_string()),
        ("--group", GROUP.to_string()),
        ("--group6", "ff02::114".to_owned()),
        ("--routing-type", PROTOCOL.to_string()),
        ("--ports-option", PORTS_OPTION.to_string()),
    ];
    let options = options.into_iter();
    options
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
}
