//! What routers of Xcast do among themselves, where only some routers know Xcast (RFC 5058 section 11).
//!
//! * [`discovery`]: which neighbours speak Xcast.

pub mod discovery;
