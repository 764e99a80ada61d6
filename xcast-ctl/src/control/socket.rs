//! The control socket: its name, and who may use it.
//!
//! Anybody may bind an abstract name. Where somebody else has the router's name, the router takes another
//! one that begins with it, and clients look for it: whose a socket is, the kernel tells them.

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::kernel;

/// Names tried at random before the router gives up.
const ATTEMPTS: u32 = 8;

/// Name of the control socket of the router that owns `interface`.
pub(super) fn name(interface: &str) -> String {
    format!("xcast/{interface}")
}

/// What a search for a router found.
#[derive(Debug)]
pub(super) enum Found {
    /// A connection to it.
    Router(UnixStream),
    /// Only sockets of others; one of these users.
    Others(u32),
    /// It, or somebody else, has no place for another client at the moment.
    Busy,
    Nobody,
}

/// Connects to the router that owns `interface`, in the network namespace of the calling thread.
pub(super) fn find(interface: &str) -> io::Result<Found> {
    let mut found = Found::Nobody;
    for name in names(interface) {
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
            return Ok(Found::Router(stream));
        }
        if matches!(found, Found::Nobody) {
            found = Found::Others(uid);
        }
    }
    Ok(found)
}

/// The names that the router may have: the usual one, and what listens at names made of it.
fn names(interface: &str) -> Vec<String> {
    let usual = name(interface);
    let prefix = format!("@{usual}/");
    // "Num RefCount Protocol Flags Type St Inode Path"; the flag says that it listens.
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let others = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let listens = fields.nth(3)? == "00010000";
        let path = fields.nth(3)?;
        (listens && path.starts_with(&prefix)).then(|| path[1..].to_owned())
    });
    let others: Vec<_> = others.collect();
    [usual].into_iter().chain(others).collect()
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

/// Listens at the router's name, or at one made of it if somebody else has that.
pub(super) fn listen(interface: &str) -> io::Result<UnixListener> {
    let usual = name(interface);
    let mut result = bind(&usual);
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

/// Root and the user itself may talk to each other.
pub(super) fn trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
