//! Sends what an unmodified program sends to many destinations as one Xcast packet.
//!
//! The dynamic linker loads this library into a program (`LD_PRELOAD`); `xcast-ctl exec` sees to
//! that. It takes the place of libc's send functions. Where a program sends the same octets to
//! several destinations by one UDP socket, they leave as one packet that lists them all, from the
//! program's own address and port. The program notices nothing, and neither do receivers.
//!
//! # The rules
//!
//! 1. **Nothing waits.** A datagram is taken into a group while the thread repeats its content to
//!    further destinations. The group ends, and leaves, as soon as the thread does anything else that
//!    can be seen: other content, a destination again, a call that may block or end the process
//!    (`group`). A timer ends what a program leaves open (`timer`).
//! 2. **Who is not sure passes.** A datagram is taken only if the socket has repeated content before
//!    (`habit`), a router answers, nothing about socket, call and destination is special
//!    (`sockets`), and the kernel has taken a datagram to that destination already, so that its
//!    errors are the program's. Everything else leaves as the program sent it.
//! 3. **Order.** What a socket sends to a destination leaves in the order in which it was given.
//! 4. **Nothing is lost.** If the router goes away, a group leaves as single datagrams at once. If the
//!    process ends, or becomes another one, the groups of all its threads leave first. Only a signal that
//!    kills it between two sends of a round, or a crash, loses the beginning of that round: a library
//!    cannot handle a signal for a program that does not, and the program would notice if it did.
//!
//! # Reading order
//!
//! `group`, `habit`, `sockets` and `settings` decide; they have no I/O. `engine` joins them,
//! with `kernel` for questions to the kernel. `table` is what is known without a lock, `timer` the
//! one thread, `statistics` what is counted. `hooks` is what the program calls, and with `raw` and
//! `lock` all that is unsafe.

#![cfg_attr(
    test,
    expect(
        dead_code,
        reason = "hooks would take the place of the test program's own functions"
    )
)]

mod address;
mod engine;
mod group;
mod habit;
#[cfg(not(test))]
mod hooks;
mod kernel;
mod lock;
mod raw;
mod settings;
mod sockets;
mod statistics;
mod table;
mod timer;
