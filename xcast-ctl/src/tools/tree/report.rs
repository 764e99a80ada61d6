//! What `xcast-ctl tree` says on standard error; standard output is the stream.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
};

use serde::Serialize;
use xcast_overlay::tree::Status;

/// A line of `xcast-ctl tree --json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Name of the tree.
    pub(super) name: String,
    /// It is the source.
    pub(super) source: bool,
    /// The source's public key, in hexadecimal.
    pub(super) public_key: String,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// The stream has come, or was sent, to its end.
    pub(super) complete: bool,
    /// Octets of the stream that were sent, or written.
    pub(super) octets: u64,
    /// Messages that whoever reads standard output was too slow for.
    pub(super) dropped: u64,
    /// Xcast packets that left this host.
    pub(super) xcast_packets: u64,
    /// Unicast datagrams that left this host.
    pub(super) unicast_packets: u64,
    /// The place in the tree.
    #[serde(flatten)]
    pub(super) status: Status,
}

/// A line for people. Nobody may be reading.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "xcast-ctl: {line}");
}

/// A line for scripts. Nobody may be reading.
pub(super) fn say_json(report: &Report) -> serde_json::Result<()> {
    let line = serde_json::to_string(report)?;
    let _ = writeln!(io::stderr(), "{line}");
    Ok(())
}
