//! Tests of the Xcast router on real interfaces, against expectations of their own.
//!
//! Read in this order: [`packet`] builds and reads frames; [`oracle`] says, from RFC 5058 and the
//! project's documented decisions, what a router must make of one; [`layout`] describes the router
//! most tests use. [`namespace`], [`tap`] and [`daemon`] are what a test needs of the kernel and of
//! the router under test, and [`rig`] puts it all together: send a frame, compare whatever comes
//! out. [`bed`] does so with whole networks, on whose hosts [`dht`] runs nodes of the hash table; [`trio`] compares it with the kernel's unicast, on one
//! router between ordinary hosts, beside which [`bpf`] plays other programs and [`hold`] slow drivers, while [`served`] is a
//! flow that attacks may not harm. [`faults`] measures what is
//! lost when something fails. [`sites`] is two routers with others between them that know nothing of Xcast.
//!
//! [`layering`] is about the project's own source: which file depends on which.

pub mod bed;
pub mod bird;
pub mod bpf;
pub mod cpu;
pub mod daemon;
pub mod dht;
pub mod family;
pub mod faults;
pub mod hold;
pub mod layering;
pub mod layout;
pub mod namespace;
pub mod oracle;
pub mod packet;
pub mod rig;
pub mod served;
pub mod sites;
pub mod tap;
pub mod trio;
