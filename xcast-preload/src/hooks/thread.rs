//! What all hooks share: the function behind a hook, and the calling thread's group.

use std::{
    ffi::c_int,
    sync::atomic::{AtomicI32, Ordering},
};

use crate::{
    engine,
    raw::{self, inside, pending, set_pending},
};

/// The function that the program meant.
macro_rules! original {
    ($name:ident: $type:ty) => {{
        static FOUND: std::sync::atomic::AtomicPtr<std::ffi::c_void> =
            std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
        let address = crate::raw::original(&FOUND, concat!(stringify!($name), "\0"));
        // SAFETY: the name's function in libc has this type.
        unsafe { std::mem::transmute::<*mut std::ffi::c_void, $type>(address) }
    }};
}
pub(super) use original;

/// The process that the library's notes are about. The child of a `vfork` works in its parent's
/// memory, but has descriptors of its own: what it closes stays open for the parent.
pub(super) static PROCESS: AtomicI32 = AtomicI32::new(0);

pub(super) fn process() -> c_int {
    // SAFETY: `getpid` has no conditions.
    unsafe { libc::getpid() }
}

/// Whether this is the child of a `vfork`.
pub(super) fn is_borrowed() -> bool {
    PROCESS.load(Ordering::Relaxed) != process()
}

thread_local! {
    /// Ends the thread's group when the thread ends.
    pub(super) static LEAVE: Leave = const { Leave };
}

/// Ends the thread's group when it is dropped.
pub(super) struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        end_own();
    }
}

/// Ends the thread's group.
pub(super) fn end_own() {
    if let Some(fd) = pending() {
        set_pending(None);
        let _ = inside(|| engine::with(fd, |engine| engine.end_thread(raw::thread())));
    }
}
