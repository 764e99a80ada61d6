//! What all hooks share: the function behind a hook, and the calling thread's group.

use std::time::Duration;

use crate::{
    engine, lock,
    raw::{self, inside, pending, set_pending},
};

/// Where the function is that the program meant.
macro_rules! address {
    ($name:ident) => {{
        static FOUND: std::sync::atomic::AtomicPtr<std::ffi::c_void> =
            std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
        $crate::raw::original(&FOUND, concat!(stringify!($name), "\0"))
    }};
}
pub(super) use address;

/// The function that the program meant.
macro_rules! original {
    ($name:ident: $type:ty) => {{
        let address = $crate::hooks::thread::address!($name);
        // SAFETY: the name's function in libc has this type.
        unsafe { std::mem::transmute::<*mut std::ffi::c_void, $type>(address) }
    }};
}
pub(super) use original;

thread_local! {
    /// Ends the thread's group when the thread ends.
    pub(super) static LEAVE: Leave = const { Leave };
}

/// Ends the thread's group when it is dropped.
pub(super) struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        end_own();
        lock::stand_up();
    }
}

/// How long a thread waits to end its group. Whoever has the lock may be stopped by a signal until this thread goes on, as in
/// some garbage collectors; the timer ends the group then, or the thread's next call.
const OWN_WAITS: Duration = Duration::from_millis(100);

/// Ends the thread's group.
pub(super) fn end_own() {
    if let Some(fd) = pending() {
        set_pending(None);
        let ended = inside(|| engine::end_thread_within(fd, raw::thread(), OWN_WAITS));
        if ended == Some(false) {
            set_pending(Some(fd));
        }
    }
}

/// Ends the groups of all threads, as far as that can be done in this time.
pub(super) fn end_all(patience: Duration) {
    if raw::has_worked() {
        set_pending(None);
        let _ = inside(|| engine::end_all_within(patience));
    }
}
