//! What routers of Xcast do among themselves, where only some routers know Xcast (RFC 5058 section 11).
//!
//! * [`discovery`]: which neighbours speak Xcast.
//! * [`relay`]: what a relay grants to sources, and whether it has too much to do.

pub mod discovery;
pub mod relay;
