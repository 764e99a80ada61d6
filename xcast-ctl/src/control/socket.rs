//! Control sockets of routers and other daemons: their names, and who may use them.
//!
//! Anybody may bind an abstract name. Where somebody else has the daemon's name, the daemon takes another
//! one that begins with it, and clients look for it: whose a socket is, the kernel tells them.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::kernel;

/// Names tried at random before the daemon gives up.
const ATTEMPTS: u32 = 8;

/// Name of the control socket of the router that owns `interface`.
pub(crate) fn name(interface: &str) -> String {
    format!("xcast/{interface}")
}

/// What a search for a daemon found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A connection to it.
    Daemon(UnixStream),
    /// Only sockets of others; one of these users.
    Others(u32),
    /// It, or somebody else, has no place for another client at the moment.
    Busy,
    Nobody,
}

/// Connects to the daemon of this name, in the network namespace of the calling thread.
pub(crate) fn find(name: &str) -> io::Result<Found> {
    let mut found = Found::Nobody;
    for name in names(name) {
        let stream = match connect(&name) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                found = Found::Busy;
                continue;
            }
            Err(error) => return Err(error),
        };
        let uid = getsockopt(&stream, PeerCredentials)?.uid();
        // Root trusts nobody but root.
        if trusted(uid) {
            return Ok(Found::Daemon(stream));
        }
        if matches!(found, Found::Nobody) {
            found = Found::Others(uid);
        }
    }
    Ok(found)
}

/// The names that the daemon may have: the usual one, and what listens at names made of it.
fn names(usual: &str) -> Vec<String> {
    let prefix = format!("@{usual}/");
    // "Num RefCount Protocol Flags Type St Inode Path"; the flag says that it listens.
    let table = fs::read("/proc/thread-self/net/unix").unwrap_or_default();
    // Anybody's names are in it, and they may be any octets.
    let table = String::from_utf8_lossy(&table);
    let others = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let listens = fields.nth(3)? == "00010000";
        let path = fields.nth(3)?;
        (listens && path.starts_with(&prefix)).then(|| path[1..].to_owned())
    });
    let others: Vec<_> = others.collect();
    [usual.to_owned()].into_iter().chain(others).collect()
}

/// Connects without waiting for a place in the socket's backlog.
fn connect(name: &str) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A name that begins with a zero is an abstract one.
    socket.connect(&SockAddr::unix(format!("\0{name}"))?)?;
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// Listens at the daemon's name, or at one made of it if somebody else has that.
pub(crate) fn listen(usual: &str) -> io::Result<UnixListener> {
    let mut result = bind(usual);
    for _ in 0..ATTEMPTS {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let number = kernel::random().map_err(io::Error::other)?;
                result = bind(&format!("{usual}/{number:x}"));
            }
            _ => break,
        }
    }
    result
}

fn bind(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Full,
    /// Ask, and change nothing.
    Read,
}

/// What the client at the other end of this connection may do; `None` if nothing. Members of the group `readers` may read.
/// The kernel vouches for who it was when it connected (SO_PEERCRED, SO_PEERGROUPS; Linux 4.13).
pub(crate) fn access(stream: &impl AsFd, readers: Option<u32>) -> Option<Access> {
    let peer = getsockopt(stream, PeerCredentials).ok()?;
    if trusted(peer.uid()) {
        return Some(Access::Full);
    }
    let readers = readers?;
    let is_reader = peer.gid() == readers || kernel::peer_is_in_group(stream, readers);
    is_reader.then_some(Access::Read)
}

/// Root and the user itself may talk to each other.
pub(crate) fn trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
