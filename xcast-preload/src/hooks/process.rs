//! Start, end and fork of a process.

use std::{
    cell::RefCell,
    ffi::{CString, c_int, c_long},
    sync::OnceLock,
    time::Duration,
};

use nix::errno::Errno;

use super::{
    thread::{end_all, end_own},
    trampoline::trampolines,
};
use crate::{
    engine,
    raw::{self, inside, is_borrowed, set_pending},
    settings::Settings,
    statistics::{self, Counter},
    table, timer,
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
    raw::settle();
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
    raw::begin();
}

extern "C" fn fini() {
    let _ = inside(engine::finish);
    if !is_borrowed() {
        show_statistics();
    }
}

/// Shows what was counted, if that is wanted and there is anything. A signal handler may call this.
fn show_statistics() {
    table::sum_up();
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
    table::forks();
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
    raw::settle();
    let _ = inside(|| {
        if let Some((timer, engines)) = held {
            engine::forked(engines);
            timer::forked(timer);
        }
        table::sum_up();
        statistics::reset();
    });
}

/// The process ends without asking anybody.
fn end_process(_: c_long) {
    fini();
}

trampolines! { end_process: _exit _Exit quick_exit }

/// A thread ends. If it is the main one, the process goes on without it.
fn end_thread(_: c_long) {
    end_own();
    if raw::is_main_thread() {
        let _ = inside(timer::main_ends);
    }
}

trampolines! { end_thread: pthread_exit thrd_exit }

/// How long a signal waits for groups of other threads to leave. A thread that a signal has stopped is not to be
/// waited for for long: it may take another signal to have it go on.
const SIGNAL_WAITS: Duration = Duration::from_millis(10);
/// The same for another program in this one's place.
const EXEC_WAITS: Duration = Duration::from_millis(100);

/// The process may end, and none of its threads goes on then.
fn end_perhaps(_: c_long) {
    end_all(SIGNAL_WAITS);
}

trampolines! { end_perhaps:
    abort __assert_fail raise gsignal kill killpg tgkill sigqueue
    pthread_kill pthread_sigqueue pidfd_send_signal
}

/// The process may become another program, which counts by itself. If it does not, it begins again with what
/// it has not shown.
fn become_another(_: c_long) {
    end_all(EXEC_WAITS);
    if !is_borrowed() {
        show_statistics();
        statistics::reset();
    }
}

trampolines! { become_another: execl execlp execle execv execve execvp execvpe execveat fexecve }

/// A process begins without `fork`, and nobody will tell the library.
fn part(_: c_long) {
    end_own();
    raw::part();
}

trampolines! { part: vfork __vfork _Fork clone __clone }

/// A system call of the program's own making. Rust's standard library waits by this.
fn call(number: c_long) {
    match number {
        libc::SYS_exit_group => end_all(EXEC_WAITS),
        libc::SYS_execve | libc::SYS_execveat => become_another(number),
        libc::SYS_kill | libc::SYS_tkill | libc::SYS_tgkill => end_perhaps(number),
        libc::SYS_clone | libc::SYS_clone3 => part(number),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork | libc::SYS_vfork => part(number),
        _ => end_own(),
    }
}

trampolines! { call: syscall }
