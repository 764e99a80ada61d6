//! The control socket of a node, in its network namespace, and the verbs' end of it.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::message::{NodeStatus, Progress, Report, Request, Response};
use crate::control::socket::{self, Found};

/// How long a verb waits for a place in the node's backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a verb waits for the next line: the node tells its progress several times a second.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Name of the control socket of the node that the user calls so.
pub(super) fn name(node: &str) -> String {
    format!("xcast-dht/{node}")
}

/// A node that answers.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
}

impl Node {
    /// The node that the user calls so; whether it runs, the first question tells.
    pub(super) fn named(node: &str) -> Self {
        Self { name: name(node) }
    }

    /// Its state.
    pub(super) fn status(&self) -> Result<NodeStatus> {
        match self.ask(&Request::Status, |_| {})? {
            Response::Status(status) => Ok(*status),
            _ => bail!(MISFIT),
        }
    }

    /// Has it do something, and tells of its progress.
    pub(super) fn done(&self, request: &Request, progress: impl FnMut(Progress)) -> Result<Report> {
        match self.ask(request, progress)? {
            Response::Done(report) => Ok(*report),
            _ => bail!(MISFIT),
        }
    }

    fn ask(&self, request: &Request, mut progress: impl FnMut(Progress)) -> Result<Response> {
        let name = &self.name;
        let context = || format!("control socket @{name}");
        let stream = self.connect()?;
        stream
            .set_read_timeout(Some(LINE_TIMEOUT))
            .with_context(context)?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        match (&stream).write_all(line.as_bytes()) {
            // Sent away; it may have been told why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result.with_context(context)?,
        }
        let mut reader = BufReader::new(stream);
        loop {
            line.clear();
            let length = reader
                .read_line(&mut line)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::WouldBlock => anyhow!("{}: the node does not answer", context()),
                    _ => anyhow::Error::from(error).context(context()),
                })?;
            if length == 0 {
                bail!("{}: the node ended before it was done", context());
            }
            let response = serde_json::from_str(&line).with_context(|| {
                format!(
                    "{}: cannot read the answer; is the node of another version?",
                    context()
                )
            })?;
            match response {
                Response::Progress(now) => progress(now),
                Response::Error(error) => bail!(error),
                response => return Ok(response),
            }
        }
    }

    fn connect(&self) -> Result<UnixStream> {
        let name = &self.name;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        loop {
            match socket::find(name).with_context(|| format!("control socket @{name}"))? {
                Found::Daemon(stream) => return Ok(stream),
                Found::Nobody => bail!(
                    "no DHT node runs in this network namespace (no control socket @{name}); start one \
                     with: xcast-ctl dht join --bootstrap ADDRESS:PORT"
                ),
                Found::Others(uid) => bail!(
                    "control socket @{name} belongs to user {uid}; only root or this user may use it"
                ),
                Found::Busy if Instant::now() > deadline => {
                    bail!("control socket @{name}: the node has too many clients")
                }
                Found::Busy => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

const MISFIT: &str =
    "the node's answer does not fit the question; is it of another version than this command?";
