//! What senders of a testbed sent, sent again on the same graph: what each link is crossed by.
//!
//! A [`Bed`] is what `cargo xtask testbed list --json` says of a testbed, a [`Fanout`] is what
//! `xcast_overlay::net` says of each message that leaves (`Settings::fanouts`), a JSON object a line.
//! [`replay`] makes of them packets and octets for each link, which are exactly those that the
//! interfaces counted: by the rules of [`xcast_host::split`] and of [`fanout`](crate::fanout), and
//! without anything that was measured. What hosts say without a sender (ARP, neighbour discovery,
//! ICMP) is not there, and neither are a sender's probes.

mod bed;
mod links;
mod record;

pub use bed::{Bed, BedError, BedLink, BedNode, Interface, Role};
pub use links::{Crossed, Replay, ReplayError, replay};
pub use record::{Fanout, Via};
