//! What an Xcast router decides, without any I/O.
//!
//! This crate is shared, line for line, by the XDP programs (`xcast-ebpf`) and by everything that
//! runs on the host (`xcast-ctl`, tests, and whoever wants to know what a router would do with a
//! packet). It does no I/O, does not allocate and knows no clock. A packet flows through its
//! modules in this order:
//!
//! 1. [`wire`]: where the fields of packets are (RFC 5058 sections 9.2 and 9.3); [`family`] says what differs between Xcast4
//!    and Xcast6, and [`address`] what their addresses have in common. The rest is the same for both.
//! 2. [`view`]: bounds-checked access to a frame, in a form the BPF verifier can follow.
//! 3. [`tunnel`]: does it come inside UDP? Then the outer headers come off.
//! 4. [`ingress`]: is this frame ours, and is it well formed?
//! 5. [`plan`]: look up every destination and group them into *branches*, one per output copy.
//!    Unless, says [`recent`], a packet just before had the same list: its plan will do.
//! 6. [`branch`]: turn one copy of the frame into what its branch asks for: a shorter Xcast packet
//!    or, with one destination left, an ordinary unicast packet (X2U).
//!
//! Beside them, [`mark`] is how a copy finds its plan, [`trie`] the form of the route map, [`checksum`] has the one's
//! complement arithmetic, [`maps`] the types that cross the border between kernel and user space, and [`counter`] the names
//! of everything that is counted.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(any(test, feature = "user"))]
extern crate std;

pub mod address;
pub mod branch;
pub mod checksum;
pub mod counter;
pub mod family;
pub mod ingress;
pub mod maps;
pub mod mark;
pub mod plan;
pub mod recent;
pub mod trie;
pub mod tunnel;
pub mod view;
pub mod wire;
