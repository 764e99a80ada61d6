//! What routers of Xcast do among themselves, where only some routers know Xcast (RFC 5058 section 11).
//!
//! * [`discovery`]: which neighbours speak Xcast.
//! * [`tunnels`]: which tunnels to other routers work, and how, with [`path_mtu`]; [`cookie`] is by what they know each
//!   other.
//! * [`passage`]: which of them also forward it.

pub mod cookie;
pub mod discovery;
pub mod passage;
pub mod path_mtu;
pub mod tunnels;
