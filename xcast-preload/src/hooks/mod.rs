//! What a program calls in place of libc's functions of the same names.
//!
//! Every hook does its part and then calls the function that the program meant, if the program's
//! datagram has not been taken. The library's own calls arrive here as well, and pass
//! (`raw::is_inside`).
//!
//! Most hooks only do something first ([`trampoline`]). A thread can be cancelled in the functions
//! behind the others. glibc unwinds it through these then, so they are `C-unwind`, and nothing is alive
//! in them that would have to be dropped.
//!
//! [`sending`] is what it is about. [`descriptors`] keeps the library's notes of sockets true, [`waiting`]
//! ends groups, [`process`] is start, end and fork. All use [`thread`].

mod descriptors;
mod process;
mod sending;
mod thread;
mod trampoline;
mod waiting;
