//! Our nodes with nodes of others that know nothing of us: libtorrent, Transmission, and the crate
//! `mainline`. Both ways: we ask, and they ask.
//!
//! Each test has a network namespace of its own, in which the addresses 198.18.N.1 and
//! 2001:db8:N::1 are this host: no two in one /24 or /64, and such that BEP 42 counts.

mod libtorrent;
mod mainline;
mod namespace;
mod ours;
mod program;
mod transmission;
