//! Whose the interfaces are that have the names of the router's own pair.

use anyhow::{Result, bail};

use crate::kernel;

/// Written down at both ends of the pair (`ip link show` tells it): what has it was made by a router.
pub(crate) const ALIAS: &str = "xcast-ctl: the Xcast router's own";

/// The router's own pair, as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pair {
    /// There is no interface of the name.
    Absent,
    /// A router made it; these are the indices of the host's and the datapath's end.
    Own(u32, u32),
    /// Somebody else made it.
    Foreign,
}

/// Finds out about the pair with these names, in this network namespace.
///
/// # Errors
///
/// The kernel does not tell.
pub(crate) fn pair(name: &str, peer: &str) -> Result<Pair> {
    let links = kernel::links()?;
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let is_marked = |link: &kernel::Link| {
        link.kind.as_deref() == Some("veth") && link.alias.as_deref() == Some(ALIAS)
    };
    Ok(match (find(name), find(peer)) {
        (None, _) => Pair::Absent,
        (Some(own), Some(other))
            if own.peer == Some(other.ifindex)
                && !own.peer_elsewhere
                && is_marked(own)
                && is_marked(other) =>
        {
            Pair::Own(own.ifindex, other.ifindex)
        }
        _ => Pair::Foreign,
    })
}

/// Whether the pair is there; an error if the name is somebody else's.
pub(super) fn is_there(name: &str, peer: &str) -> Result<bool> {
    match pair(name, peer)? {
        Pair::Absent => Ok(false),
        Pair::Own(..) => Ok(true),
        Pair::Foreign => bail!(
            "interface {name} exists and was not made by a router: remove it, or set router.interface to another name"
        ),
    }
}
