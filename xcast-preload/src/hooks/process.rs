//! Start, end and fork of a process.

use std::{
    cell::RefCell,
    ffi::{CString, c_int},
    sync::{OnceLock, atomic::Ordering},
};

use nix::errno::Errno;

use super::thread::{PROCESS, is_borrowed, original, process};
use crate::{
    engine,
    raw::{self, inside, set_pending},
    settings::Settings,
    statistics::{self, Counter},
    timer,
};

/// Where statistics go, if anywhere, and whether as JSON.
static STATISTICS: OnceLock<Option<(CString, bool)>> = OnceLock::new();

thread_local! {
    /// The library's locks while the process forks.
    static FORKING: RefCell<Option<(timer::Held, engine::Held)>> = const { RefCell::new(None) };
}

#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

#[used]
#[unsafe(link_section = ".fini_array")]
static FINI: extern "C" fn() = fini;

extern "C" fn init() {
    PROCESS.store(process(), Ordering::Relaxed);
    let _ = inside(|| {
        let settings = match Settings::read(|name| std::env::var(name).ok()) {
            Ok(settings) => settings,
            Err(error) => {
                let line = format!("xcast: {error}; nothing is done\n");
                return raw::append(c"-", line.as_bytes());
            }
        };
        let path = settings.statistics.as_ref();
        let path = path.and_then(|path| CString::new(path.as_os_str().as_encoded_bytes()).ok());
        let _ = STATISTICS.set(path.map(|path| (path, settings.json)));
        if let Some(signal) = settings.signal {
            raw::on_signal(signal, show_on_signal);
        }
        engine::start(settings);
        // SAFETY: the functions stay where they are, since this library is never unloaded.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
    });
}

extern "C" fn fini() {
    let _ = inside(engine::finish);
    if !is_borrowed() {
        show_statistics();
    }
}

/// Shows what was counted, if that is wanted and there is anything. A signal handler may call this.
fn show_statistics() {
    let anything = statistics::value(Counter::Sends) > 0;
    if let Some(Some((path, json))) = STATISTICS.get()
        && anything
    {
        // SAFETY: `getpid` has no conditions.
        let process = unsafe { libc::getpid() };
        raw::append(
            path,
            statistics::line(process.unsigned_abs(), *json).octets(),
        );
    }
}

extern "C" fn show_on_signal(_: c_int) {
    let errno = Errno::last_raw();
    show_statistics();
    Errno::set_raw(errno);
}

unsafe extern "C" fn before_fork() {
    let held = inside(|| (timer::hold(), engine::hold()));
    set_pending(None);
    let _ = FORKING.try_with(|forking| *forking.borrow_mut() = held);
}

unsafe extern "C" fn after_fork() {
    let _ = FORKING.try_with(|forking| forking.borrow_mut().take());
}

unsafe extern "C" fn in_child() {
    let held = FORKING.try_with(|forking| forking.borrow_mut().take());
    let held = held.ok().flatten();
    PROCESS.store(process(), Ordering::Relaxed);
    let _ = inside(|| {
        if let Some((timer, engines)) = held {
            engine::forked(engines);
            timer::forked(timer);
        }
        statistics::reset();
    });
}

/// Functions that end the process without asking anybody.
macro_rules! exits {
    ($($name:ident),*) => {$(
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(status: c_int) -> ! {
            type Original = unsafe extern "C-unwind" fn(c_int) -> !;
            let original = original!($name: Original);
            fini();
            // SAFETY: the caller's own argument.
            unsafe { original(status) }
        }
    )*};
}

exits!(_exit, _Exit, quick_exit);
