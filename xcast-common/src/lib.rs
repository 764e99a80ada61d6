//! What an Xcast router decides, without any I/O.
//!
//! This crate is shared, line for line, by the XDP programs (`xcast-ebpf`) and by everything that
//! runs on the host (`xcast-ctl`, tests, and whoever wants to know what a router would do with a
//! packet). It does no I/O, does not allocate outside [`host`] and knows no clock. Each module imports
//! from those before it only:
//!
//! 1. [`verifier`]: reads and writes that the BPF verifier must not see through.
//! 2. [`wire`]: packet formats (RFC 5058 sections 9.2 and 9.3): layouts, fields, frames, checksums.
//! 3. [`maps`]: the types that cross the border between kernel and user space.
//! 4. [`packet`]: what is known of an accepted packet, and why a frame is none.
//! 5. [`family`]: what differs between Xcast4 and Xcast6. The rest is the same for both.
//! 6. [`forward`]: the stages that a packet passes through.
//! 7. [`host`]: a router without a kernel, with its tables in memory.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod family;
pub mod forward;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod maps;
pub mod packet;
pub mod verifier;
pub mod wire;
