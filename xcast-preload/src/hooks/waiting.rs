//! Calls that may block, that others see, or that may end the process.

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};

use libc::{
    epoll_event, fd_set, nfds_t, off_t, pid_t, pollfd, pthread_t, sigset_t, size_t, sockaddr,
    socklen_t, ssize_t, timespec, timeval,
};

use super::thread::{end_own, original};

/// The thread's group ends first.
macro_rules! ends {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $answer {
            type Original = unsafe extern "C-unwind" fn($($type),*) -> $answer;
            let original = original!($name: Original);
            end_own();
            // SAFETY: the caller's own arguments.
            unsafe { original($($argument),*) }
        }
    )*};
}

ends! {
    send(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int) -> ssize_t;
    write(fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t;
    writev(fd: c_int, list: *const libc::iovec, count: c_int) -> ssize_t;
    sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t;

    recv(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    recvfrom(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int, address: *mut sockaddr, address_len: *mut socklen_t) -> ssize_t;
    read(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t;
    readv(fd: c_int, list: *const libc::iovec, count: c_int) -> ssize_t;
    accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int;
    accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int;

    poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int;
    ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    select(count: c_int, readable: *mut fd_set, writable: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int;
    pselect(count: c_int, readable: *mut fd_set, writable: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    epoll_wait(fd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int;
    epoll_pwait(fd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int, mask: *const sigset_t) -> c_int;
    epoll_pwait2(fd: c_int, events: *mut epoll_event, count: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int;

    nanosleep(time: *const timespec, left: *mut timespec) -> c_int;
    clock_nanosleep(clock: c_int, flags: c_int, time: *const timespec, left: *mut timespec) -> c_int;
    usleep(time: c_uint) -> c_int;
    sleep(time: c_uint) -> c_uint;
    pause() -> c_int;
    sched_yield() -> c_int;
    sigsuspend(mask: *const sigset_t) -> c_int;
    sigwait(set: *const sigset_t, signal: *mut c_int) -> c_int;
    sigwaitinfo(set: *const sigset_t, information: *mut c_void) -> c_int;
    sigtimedwait(set: *const sigset_t, information: *mut c_void, timeout: *const timespec) -> c_int;
    wait(status: *mut c_int) -> pid_t;
    waitpid(process: pid_t, status: *mut c_int, options: c_int) -> pid_t;
    wait4(process: pid_t, status: *mut c_int, options: c_int, usage: *mut c_void) -> pid_t;
    waitid(kind: c_uint, id: c_uint, information: *mut c_void, options: c_int) -> c_int;
    pthread_join(other: pthread_t, value: *mut *mut c_void) -> c_int;
    pthread_cond_wait(condition: *mut c_void, mutex: *mut c_void) -> c_int;
    pthread_cond_timedwait(condition: *mut c_void, mutex: *mut c_void, time: *const timespec) -> c_int;
    pthread_cond_clockwait(condition: *mut c_void, mutex: *mut c_void, clock: c_int, time: *const timespec) -> c_int;
    sem_wait(semaphore: *mut c_void) -> c_int;
    sem_timedwait(semaphore: *mut c_void, time: *const timespec) -> c_int;
    sem_clockwait(semaphore: *mut c_void, clock: c_int, time: *const timespec) -> c_int;

    fgets(buffer: *mut c_char, len: c_int, file: *mut c_void) -> *mut c_char;
    fread(buffer: *mut c_void, size: size_t, count: size_t, file: *mut c_void) -> size_t;
    getline(line: *mut *mut c_char, len: *mut size_t, file: *mut c_void) -> ssize_t;
    getdelim(line: *mut *mut c_char, len: *mut size_t, end: c_int, file: *mut c_void) -> ssize_t;

    // What programs with _FORTIFY_SOURCE call instead.
    __recv_chk(fd: c_int, buffer: *mut c_void, len: size_t, size: size_t, flags: c_int) -> ssize_t;
    __recvfrom_chk(fd: c_int, buffer: *mut c_void, len: size_t, size: size_t, flags: c_int, address: *mut sockaddr, address_len: *mut socklen_t) -> ssize_t;
    __read_chk(fd: c_int, buffer: *mut c_void, len: size_t, size: size_t) -> ssize_t;
    __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int;
    __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: size_t) -> c_int;
    __fgets_chk(buffer: *mut c_char, size: size_t, len: c_int, file: *mut c_void) -> *mut c_char;
    __fread_chk(buffer: *mut c_void, size: size_t, each: size_t, count: size_t, file: *mut c_void) -> size_t;

    // Rust's standard library waits by this. As in libc it passes on six arguments, used or not.
    syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long;

    // They start programs without what is called before and after a fork.
    posix_spawn(process: *mut pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    posix_spawnp(process: *mut pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    system(command: *const c_char) -> c_int;
    popen(command: *const c_char, mode: *const c_char) -> *mut c_void;
    pclose(file: *mut c_void) -> c_int;

    kill(process: pid_t, signal: c_int) -> c_int;
    raise(signal: c_int) -> c_int;
    pthread_kill(other: pthread_t, signal: c_int) -> c_int;
    abort() -> !;
    execv(path: *const c_char, arguments: *const *const c_char) -> c_int;
    execve(path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    execvp(file: *const c_char, arguments: *const *const c_char) -> c_int;
    execvpe(file: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    fexecve(fd: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
}
