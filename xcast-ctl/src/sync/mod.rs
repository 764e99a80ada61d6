//! Keeps the datapath's route maps in step with the kernel's routes.
//!
//! Events come in, map edits go out. [`Netlink`] turns the kernel's messages into [`KernelEvent`]s,
//! [`RouteSync`] turns those into [`Edit`]s, and whoever owns the maps carries the edits out.
//! Between the two there is no I/O and no clock, so everything that can happen can be tested. This
//! module does not know the datapath, nor what is reported about it.
//!
//! A change passes through the modules in this order:
//!
//! * `netlink` follows the kernel, with a `backlog` of what nobody has taken yet, and `parse` reads its messages, `parse_rule` those about policy rules, and `parse_address` addresses for both.
//! * [`event`] says what happened.
//! * `route_sync` takes events in and decides what to look at again.
//! * `rib` holds the kernel's state. Its tables hold a `node` for each prefix; `siblings` has the
//!   order of routes of IPv6, `path` what routes have in common.
//! * [`rules`] says which tables are consulted, and what policy rules leave to the stack.
//! * `fib` merges the tables into one map that longest-prefix match alone decides.
//! * `next_hops` gives out next-hop ids and says what their entries contain, with `ecmp` for
//!   multipath.
//! * `tunnels` has tunnels to other routers, and `tunnelling` what leads into them.
//! * `edit` says what to write.
//!
//! `inspect` shows what is in the maps, and why.

mod backlog;
mod ecmp;
mod edit;
pub mod event;
mod fib;
mod inspect;
mod netlink;
mod next_hops;
mod node;
mod parse;
mod parse_address;
mod parse_rule;
mod path;
mod prefix;
mod rib;
mod route_sync;
pub mod rules;
mod siblings;
#[cfg(test)]
mod tests;
mod tunnelling;
mod tunnels;

pub use self::{
    edit::Edit,
    event::KernelEvent,
    inspect::{GatewayRow, Lookup, NextHopRow, RouteRow, WayTo, XcastTableRow},
    netlink::{Netlink, NetlinkError, NetlinkOptions},
    route_sync::{RouteSync, SyncConfig},
    rules::PolicyRow,
    tunnels::{NoWay, Outer, TunnelSpec, tunnel_index},
};
