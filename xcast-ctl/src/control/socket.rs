//! The control socket: its name, and who may use it.

use std::{
    io,
    os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr},
};

/// Name of the control socket of the router that owns `interface`.
pub(super) fn name(interface: &str) -> String {
    format!("xcast/{interface}")
}

/// Its abstract address.
pub(super) fn address(interface: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name(interface))
}

/// Root and the user itself may talk to each other.
pub(super) fn trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
