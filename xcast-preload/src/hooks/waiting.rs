//! Calls that may block, or that others see.
//!
//! All that glibc has of them: what is missing here waits for the timer, like system calls that a
//! program makes without libc.

use std::ffi::{c_int, c_long, c_void};

use super::{
    thread::{end_own, original},
    trampoline::trampolines,
};
use crate::raw::pending;

/// The thread's group ends first.
fn end(_: c_long) {
    end_own();
}

trampolines! { end:
    // Files and streams. To open one blocks where it is a FIFO.
    open open64 openat openat64 creat creat64
    read readv pread pread64 preadv preadv64 preadv2 preadv64v2
    write writev pwrite pwrite64 pwritev pwritev64 pwritev2 pwritev64v2
    sendfile sendfile64 splice tee vmsplice copy_file_range
    fsync fdatasync sync syncfs sync_file_range msync
    flock lockf lockf64 ioctl tcdrain tcflow tcsendbreak tcsetattr
    eventfd_read eventfd_write send recv recvfrom accept accept4

    poll ppoll select pselect epoll_wait epoll_pwait epoll_pwait2
    aio_suspend aio_suspend64 lio_listio lio_listio64 gai_suspend

    nanosleep clock_nanosleep usleep sleep pause sched_yield thrd_sleep thrd_yield
    sigsuspend sigpause sigwait sigwaitinfo sigtimedwait
    wait wait3 wait4 waitpid waitid

    // Threads and semaphores, of all kinds.
    pthread_join pthread_timedjoin_np pthread_clockjoin_np thrd_join
    pthread_cond_wait pthread_cond_timedwait pthread_cond_clockwait cnd_wait cnd_timedwait
    pthread_barrier_wait pthread_spin_lock
    pthread_mutex_timedlock pthread_mutex_clocklock mtx_lock mtx_timedlock
    pthread_rwlock_timedrdlock pthread_rwlock_timedwrlock
    pthread_rwlock_clockrdlock pthread_rwlock_clockwrlock
    sem_wait sem_timedwait sem_clockwait semop semtimedop
    msgrcv msgsnd mq_receive mq_timedreceive mq_send mq_timedsend

    // Streams of stdio: who prints may have to wait for who reads.
    fopen fopen64 freopen freopen64 fclose fflush fflush_unlocked flockfile _IO_flockfile
    fseek fseeko fseeko64 fsetpos fsetpos64 rewind
    fread fread_unlocked fgets fgets_unlocked fgetc fgetc_unlocked getc getc_unlocked _IO_getc
    getchar getchar_unlocked getline getdelim __getdelim __uflow __underflow
    scanf fscanf vscanf vfscanf __isoc99_scanf __isoc99_fscanf __isoc99_vscanf __isoc99_vfscanf
    __isoc23_scanf __isoc23_fscanf __isoc23_vscanf __isoc23_vfscanf
    fgetwc getwc getwchar fgetws __wuflow __wunderflow
    fwrite fwrite_unlocked fputs fputs_unlocked puts perror psignal psiginfo
    fputc fputc_unlocked putc putc_unlocked _IO_putc putchar putchar_unlocked __overflow
    printf fprintf vprintf vfprintf dprintf vdprintf
    fputwc putwc putwchar fputws wprintf fwprintf vwprintf vfwprintf __woverflow
    syslog vsyslog
    warn vwarn warnx vwarnx err verr errx verrx error error_at_line

    // What asks name servers.
    getaddrinfo getnameinfo gethostbyname gethostbyname2 gethostbyaddr
    gethostbyname_r gethostbyname2_r gethostbyaddr_r

    // They start programs without what is called before and after a fork.
    posix_spawn posix_spawnp system popen pclose

    // What programs with _FORTIFY_SOURCE call instead.
    __open_2 __open64_2 __openat_2 __openat64_2
    __read_chk __pread_chk __pread64_chk __recv_chk __recvfrom_chk __poll_chk __ppoll_chk
    __fread_chk __fread_unlocked_chk __fgets_chk __fgets_unlocked_chk __fgetws_chk
    __printf_chk __fprintf_chk __vprintf_chk __vfprintf_chk __dprintf_chk __vdprintf_chk
    __wprintf_chk __fwprintf_chk __vwprintf_chk __vfwprintf_chk __syslog_chk __vsyslog_chk

    // Other names of the same.
    __open __open64 __read __write __pread64 __pwrite64 __send __poll __select
    __nanosleep __sched_yield __wait __waitpid __sigsuspend __sigpause __xpg_sigpause

    // Functions registered with `atexit` may do anything.
    exit
}

/// A lock that nobody has does not block: the thread's group ends if it cannot be had at once.
macro_rules! locks {
    ($($lock:ident or $try_lock:ident,)*) => {$(
        /// # Safety
        ///
        /// As in libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $lock(lock: *mut c_void) -> c_int {
            type Original = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;
            if pending().is_some() {
                let original = original!($try_lock: Original);
                // SAFETY: the caller's own argument.
                let answer = unsafe { original(lock) };
                if answer != libc::EBUSY {
                    return answer;
                }
                end_own();
            }
            let original = original!($lock: Original);
            // SAFETY: the caller's own argument.
            unsafe { original(lock) }
        }
    )*};
}

locks! {
    pthread_mutex_lock or pthread_mutex_trylock,
    pthread_rwlock_rdlock or pthread_rwlock_tryrdlock,
    pthread_rwlock_wrlock or pthread_rwlock_trywrlock,
}
