/* Calls each function that may block with a group open, and looks whether the group has left when the
 * function returns.
 *
 * waiting INTERFACE OWN-ADDRESS [CASE]
 *
 * Before that it sends to everyone ("warm") until a line arrives on standard input. Then it prints a
 * line for each case: "case NAME PACKETS", where PACKETS are those that left. With CASE, which
 * ends the process or replaces it, only that.
 *
 * It looks by system calls that it makes without libc, which nobody can notice. */

#define _GNU_SOURCE
#include <aio.h>
#include <err.h>
#include <errno.h>
#include <error.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <mqueue.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <syslog.h>
#include <termios.h>
#include <threads.h>
#include <ucontext.h>
#include <unistd.h>
#include <wchar.h>

enum { EVERYONE = 8 };
static struct sockaddr_in everyone[EVERYONE];
static int sender, tap;

/* A system call without libc. */
static long call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long answer;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(answer)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return answer;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#endif
}

static char content[64];

static void send_to_all(const char *name)
{
    memset(content, ' ', sizeof content);
    memcpy(content, name, strlen(name));
    for (int to = 0; to < EVERYONE; to++)
        sendto(sender, content, sizeof content, 0, (void *)&everyone[to], sizeof everyone[to]);
}

/* Packets with this content that have left since the last time. */
static int left(void)
{
    static char frame[4096];
    int count = 0;
    for (;;) {
        long len = call(SYS_recvfrom, tap, (long)frame, sizeof frame, MSG_DONTWAIT, 0, 0);
        if (len < 0)
            return count;
        count += memmem(frame, len, content, sizeof content) != NULL;
    }
}

/* What the cases need. */
static const struct timespec MS = {0, 1000000};
static struct timespec past;
static struct timeval ms;
static char buffer[4096], line[64], *lines;
static size_t lines_len;
static struct iovec piece = {buffer, 8};
static int zero, null, text, listens, receives, epoll, event, pipes[2], queue, semaphores, status;
static mqd_t mq = -1;
static FILE *text_file, *null_file, *piped;
static pthread_t thread;
static thrd_t thrd;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, checked;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER, writing = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_spinlock_t spin;
static mtx_t mtx;
static cnd_t cnd;
static sem_t semaphore;
static struct aiocb aio;
static struct sembuf no_operation;
static char *arguments[] = {"x", NULL}, *environment[] = {NULL};
static char *const none = "/nonexistent/program";
static pid_t child;
static sigset_t usr1, nothing;
static struct termios termios;

static void *returns(void *it) { return it; }
static int returns_too(void *it) { (void)it; return 0; }
static void *ends(void *it) { _exit(0); return it; }
static void *sends(void *name) { send_to_all(name); return NULL; }
static void *sends_and_exits(void *name) { send_to_all(name); pthread_exit(NULL); }
static void ignore(int signal) { (void)signal; }

static volatile int ready;

/* Sends without end, in rounds. */
static void *sends_on(void *it)
{
    ready = gettid();
    for (int message = 0;; message++) {
        char text[20];
        snprintf(text, sizeof text, "on %d", message);
        send_to_all(text);
    }
    return it;
}

/* Until SIGUSR2 comes. */
static void stop_here(int signal)
{
    int before = errno;
    sigset_t others;
    sigfillset(&others);
    sigdelset(&others, SIGUSR2);
    sem_post(&semaphore);
    sigsuspend(&others);
    errno = before;
    (void)signal;
}

static volatile int refused;

/* In place of a system call that is refused. */
static void refuse(int signal, siginfo_t *info, void *context)
{
    refused++;
    ucontext_t *there = context;
#if defined(__x86_64__)
    there->uc_mcontext.gregs[REG_RAX] = -EPERM;
#elif defined(__aarch64__)
    there->uc_mcontext.regs[0] = -EPERM;
#endif
    (void)signal, (void)info;
}

/* Wakes who waits for a condition, again and again. */
static void *wakes(void *it)
{
    for (;;) {
        usleep(1000);
        pthread_cond_broadcast(&condition);
        cnd_broadcast(&cnd);
    }
    return it;
}

static void new_child(void) { if (fork() == 0) _exit(0); }
static void new_thread(void) { pthread_create(&thread, NULL, returns, NULL); }
static void new_thrd(void) { thrd_create(&thrd, returns_too, NULL); }
static void alarms(void)
{
    struct itimerval often = {{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &often, NULL);
}

/* Names without declarations, or with ones that the compiler would not call as they are. */
long __read_chk(int, void *, size_t, size_t);
long __recv_chk(int, void *, size_t, size_t, int);
long __recvfrom_chk(int, void *, size_t, size_t, int, void *, socklen_t *);
int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __printf_chk(int, const char *, ...);
int __fprintf_chk(FILE *, int, const char *, ...);
int __open_2(const char *, int);
size_t __fread_chk(void *, size_t, size_t, size_t, FILE *);
char *__fgets_chk(char *, size_t, int, FILE *);
int __poll(struct pollfd *, nfds_t, int);
int __select(int, fd_set *, fd_set *, fd_set *, struct timeval *);
long __read(int, void *, size_t);
long __write(int, const void *, size_t);
int __nanosleep(const struct timespec *, struct timespec *);
int __overflow(FILE *, int);
int __uflow(FILE *);
int __sched_yield(void);

/* Each: its name, what comes before the group, and the call. */
#define CASES \
    X(open, , status = open("/dev/null", O_RDONLY)) \
    X(openat, , openat(AT_FDCWD, "/dev/null", O_RDONLY)) \
    X(open64, , open64("/dev/null", O_RDONLY)) \
    X(creat, , creat("/dev/null", 0600)) \
    X(read, , read(zero, buffer, 8)) \
    X(readv, , readv(zero, &piece, 1)) \
    X(pread, , pread(text, buffer, 8, 0)) \
    X(pread64, , pread64(text, buffer, 8, 0)) \
    X(preadv, , preadv(text, &piece, 1, 0)) \
    X(preadv2, , preadv2(text, &piece, 1, 0, 0)) \
    X(write, , write(null, buffer, 8)) \
    X(writev, , writev(null, &piece, 1)) \
    X(pwrite, , pwrite(null, buffer, 8, 0)) \
    X(pwritev, , pwritev(null, &piece, 1, 0)) \
    X(pwritev2, , pwritev2(null, &piece, 1, 0, 0)) \
    X(sendfile, , sendfile(null, text, NULL, 8)) \
    X(splice, , splice(text, NULL, pipes[1], NULL, 8, 0)) \
    X(tee, , tee(pipes[0], pipes[0], 8, SPLICE_F_NONBLOCK)) \
    X(vmsplice, , vmsplice(pipes[1], &piece, 1, SPLICE_F_NONBLOCK)) \
    X(copy_file_range, , copy_file_range(text, NULL, null, NULL, 8, 0)) \
    X(fsync, , fsync(text)) \
    X(fdatasync, , fdatasync(text)) \
    X(flock, , flock(text, LOCK_EX)) \
    X(lockf, , lockf(text, F_LOCK, 0)) \
    X(fcntl, , fcntl(text, F_SETLKW, &(struct flock){.l_type = F_WRLCK})) \
    X(ioctl, , ioctl(text, FIONREAD, &status)) \
    X(tcdrain, , tcdrain(null)) \
    X(tcsetattr, , tcsetattr(null, TCSADRAIN, &termios)) \
    X(eventfd_read, , eventfd_read(event, &(eventfd_t){0})) \
    X(eventfd_write, , eventfd_write(event, 1)) \
    X(send, , send(receives, buffer, 1, 0)) \
    X(recv, , recv(receives, buffer, 8, MSG_DONTWAIT)) \
    X(recvfrom, , recvfrom(receives, buffer, 8, MSG_DONTWAIT, NULL, NULL)) \
    X(recvmsg, , recvmsg(receives, &(struct msghdr){.msg_iov = &piece, .msg_iovlen = 1}, MSG_DONTWAIT)) \
    X(recvmmsg, , recvmmsg(receives, &(struct mmsghdr){{.msg_iov = &piece, .msg_iovlen = 1}, 0}, 1, MSG_DONTWAIT, NULL)) \
    X(accept, , accept(listens, NULL, NULL)) \
    X(accept4, , accept4(listens, NULL, NULL, 0)) \
    X(connect, , connect(listens, (void *)&everyone[0], sizeof everyone[0])) \
    X(shutdown, , shutdown(receives, SHUT_WR)) \
    X(poll, , poll(NULL, 0, 1)) \
    X(ppoll, , ppoll(NULL, 0, &MS, NULL)) \
    X(select, , select(0, NULL, NULL, NULL, &ms)) \
    X(pselect, , pselect(0, NULL, NULL, NULL, &MS, NULL)) \
    X(epoll_wait, , epoll_wait(epoll, (struct epoll_event *)buffer, 1, 1)) \
    X(epoll_pwait, , epoll_pwait(epoll, (struct epoll_event *)buffer, 1, 1, NULL)) \
    X(epoll_pwait2, , epoll_pwait2(epoll, (struct epoll_event *)buffer, 1, &MS, NULL)) \
    X(aio_suspend, , aio_suspend((const struct aiocb *[]){&aio}, 1, &MS)) \
    X(nanosleep, , nanosleep(&MS, NULL)) \
    X(clock_nanosleep, , clock_nanosleep(CLOCK_MONOTONIC, 0, &MS, NULL)) \
    X(usleep, , usleep(1)) \
    X(sleep, , sleep(0)) \
    X(pause, alarms(), pause()) \
    X(sigsuspend, alarms(), sigsuspend(&nothing)) \
    X(sigpause, alarms(), sigpause(SIGUSR2)) \
    X(sched_yield, , sched_yield()) \
    X(thrd_sleep, , thrd_sleep(&MS, NULL)) \
    X(thrd_yield, , thrd_yield()) \
    X(sigwait, raise(SIGUSR1), sigwait(&usr1, &status)) \
    X(sigwaitinfo, raise(SIGUSR1), sigwaitinfo(&usr1, NULL)) \
    X(sigtimedwait, , sigtimedwait(&usr1, NULL, &MS)) \
    X(wait, new_child(), wait(&status)) \
    X(wait3, new_child(), wait3(&status, 0, NULL)) \
    X(wait4, new_child(), wait4(-1, &status, 0, NULL)) \
    X(waitpid, new_child(), waitpid(-1, &status, 0)) \
    X(waitid, new_child(), waitid(P_ALL, 0, (siginfo_t *)buffer, WEXITED)) \
    X(pthread_join, new_thread(), pthread_join(thread, NULL)) \
    X(pthread_timedjoin_np, new_thread(), pthread_timedjoin_np(thread, NULL, &MS)) \
    X(thrd_join, new_thrd(), thrd_join(thrd, NULL)) \
    X(pthread_cond_wait, pthread_mutex_lock(&mutex), (pthread_cond_wait(&condition, &mutex), pthread_mutex_unlock(&mutex))) \
    X(pthread_cond_timedwait, pthread_mutex_lock(&mutex), (pthread_cond_timedwait(&condition, &mutex, &past), pthread_mutex_unlock(&mutex))) \
    X(pthread_cond_clockwait, pthread_mutex_lock(&mutex), (pthread_cond_clockwait(&condition, &mutex, CLOCK_MONOTONIC, &past), pthread_mutex_unlock(&mutex))) \
    X(cnd_wait, mtx_lock(&mtx), (cnd_wait(&cnd, &mtx), mtx_unlock(&mtx))) \
    X(cnd_timedwait, mtx_lock(&mtx), (cnd_timedwait(&cnd, &mtx, &past), mtx_unlock(&mtx))) \
    X(pthread_barrier_wait, , pthread_barrier_wait(&barrier)) \
    X(pthread_spin_lock, , pthread_spin_lock(&spin)) \
    X(pthread_mutex_lock, pthread_mutex_lock(&checked), (pthread_mutex_lock(&checked), pthread_mutex_unlock(&checked))) \
    X(pthread_mutex_timedlock, , (pthread_mutex_timedlock(&mutex, &past), pthread_mutex_unlock(&mutex))) \
    X(pthread_mutex_clocklock, , (pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &past), pthread_mutex_unlock(&mutex))) \
    X(mtx_lock, , (mtx_lock(&mtx), mtx_unlock(&mtx))) \
    X(pthread_rwlock_rdlock, , pthread_rwlock_rdlock(&writing)) \
    X(pthread_rwlock_wrlock, , pthread_rwlock_wrlock(&writing)) \
    X(pthread_rwlock_timedrdlock, , pthread_rwlock_timedrdlock(&writing, &past)) \
    X(pthread_rwlock_timedwrlock, , pthread_rwlock_timedwrlock(&writing, &past)) \
    X(sem_wait, , sem_wait(&semaphore)) \
    X(sem_timedwait, , sem_timedwait(&semaphore, &past)) \
    X(sem_clockwait, , sem_clockwait(&semaphore, CLOCK_MONOTONIC, &past)) \
    X(semop, , semop(semaphores, &no_operation, 1)) \
    X(semtimedop, , semtimedop(semaphores, &no_operation, 1, &MS)) \
    X(msgrcv, , msgrcv(queue, buffer, 8, 0, IPC_NOWAIT)) \
    X(msgsnd, , msgsnd(queue, buffer, 8, IPC_NOWAIT)) \
    X(mq_receive, , mq_receive(mq, buffer, 8, NULL)) \
    X(mq_timedreceive, , mq_timedreceive(mq, buffer, 8, NULL, &past)) \
    X(mq_send, , mq_send(mq, buffer, 1, 0)) \
    X(mq_timedsend, , mq_timedsend(mq, buffer, 1, 0, &past)) \
    X(fopen, , fopen("/dev/null", "r")) \
    X(freopen, , freopen("/dev/null", "w", null_file)) \
    X(fflush, , fflush(null_file)) \
    X(fread, , fread(buffer, 1, 8, text_file)) \
    X(fgets, , fgets(line, 8, text_file)) \
    X(fgetc, , fgetc(text_file)) \
    X(getc, , getc(text_file)) \
    X(getchar, , getchar()) \
    X(getline, , getline(&lines, &lines_len, text_file)) \
    X(getdelim, , getdelim(&lines, &lines_len, '\n', text_file)) \
    X(fscanf, , fscanf(text_file, "%7s", line)) \
    X(scanf, , scanf("%7s", line)) \
    X(fwrite, , fwrite(buffer, 1, 8, null_file)) \
    X(fputs, , fputs("text", null_file)) \
    X(puts, , puts("text")) \
    X(putchar, , putchar('\n')) \
    X(fputc, , fputc('\n', null_file)) \
    X(printf, , printf("%d %s\n", 1, "text")) \
    X(fprintf, , fprintf(null_file, "%d %f\n", 1, 2.0)) \
    X(dprintf, , dprintf(null, "%d\n", 1)) \
    X(syslog, , syslog(LOG_DEBUG, "text")) \
    X(flockfile, , flockfile(null_file)) \
    X(funlocked, funlockfile(null_file), fputs_unlocked("text", null_file)) \
    X(fseek, , fseek(null_file, 0, SEEK_SET)) \
    X(fseeko, , fseeko(null_file, 0, SEEK_SET)) \
    X(rewind, , rewind(null_file)) \
    X(warn, , warn("%s", "text")) \
    X(warnx, , warnx("%s", "text")) \
    X(error, , error(0, 0, "%s", "text")) \
    X(psignal, , psignal(SIGUSR1, "text")) \
    X(gai_suspend, , gai_suspend(NULL, 0, &past)) \
    X(getaddrinfo, , getaddrinfo("127.0.0.1", NULL, NULL, (struct addrinfo **)buffer)) \
    X(gethostbyname, , gethostbyname("127.0.0.1")) \
    X(posix_spawn, , posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environment)) \
    X(posix_spawnp, , posix_spawnp(&child, "true", NULL, NULL, arguments, environment)) \
    X(system, , system("true")) \
    X(popen, , piped = popen("true", "r")) \
    X(pclose, , pclose(piped)) \
    X(fork, , new_child()) \
    X(vfork, , if (vfork() == 0) _exit(0)) \
    X(clone, , clone(returns_too, buffer + 4096, SIGCHLD, NULL)) \
    X(syscall, , syscall(SYS_sched_yield)) \
    X(kill, , kill(getpid(), 0)) \
    X(raise, , raise(0)) \
    X(pthread_kill, , pthread_kill(pthread_self(), 0)) \
    X(tgkill, , tgkill(getpid(), gettid(), 0)) \
    X(execl, , execl(none, "x", NULL)) \
    X(execlp, , execlp(none, "x", NULL)) \
    X(execle, , execle(none, "x", NULL, environment)) \
    X(execv, , execv(none, arguments)) \
    X(execve, , execve(none, arguments, environment)) \
    X(execvp, , execvp(none, arguments)) \
    X(execvpe, , execvpe(none, arguments, environment)) \
    X(execveat, , execveat(AT_FDCWD, none, arguments, environment, 0)) \
    X(fexecve, , fexecve(null, arguments, environment)) \
    X(read_chk, , __read_chk(zero, buffer, 8, 8)) \
    X(recv_chk, , __recv_chk(receives, buffer, 8, 8, MSG_DONTWAIT)) \
    X(recvfrom_chk, , __recvfrom_chk(receives, buffer, 8, 8, MSG_DONTWAIT, NULL, NULL)) \
    X(poll_chk, , __poll_chk(NULL, 0, 1, 0)) \
    X(open_2, , __open_2("/dev/null", O_RDONLY)) \
    X(fread_chk, , __fread_chk(buffer, 8, 1, 8, text_file)) \
    X(fgets_chk, , __fgets_chk(line, 8, 8, text_file)) \
    X(printf_chk, , __printf_chk(1, "%d %s\n", 1, "text")) \
    X(fprintf_chk, , __fprintf_chk(null_file, 1, "%d %f\n", 1, 2.0)) \
    X(uflow, , __uflow(text_file)) \
    X(overflow, , __overflow(null_file, 'x')) \
    X(internal_poll, , __poll(NULL, 0, 1)) \
    X(internal_select, , __select(0, NULL, NULL, NULL, &ms)) \
    X(internal_read, , __read(zero, buffer, 8)) \
    X(internal_write, , __write(null, buffer, 8)) \
    X(internal_nanosleep, , __nanosleep(&MS, NULL)) \
    X(internal_yield, , __sched_yield()) \
    X(fclose, , fclose(null_file)) \
    /* A group stays open through these. */ \
    X(held, , getpid()) \
    X(held_mutex, , (pthread_mutex_lock(&mutex), pthread_mutex_unlock(&mutex))) \
    X(held_rwlock, , (pthread_rwlock_rdlock(&rwlock), pthread_rwlock_unlock(&rwlock)))

#define X(name, before, it) \
    static void before_##name(void) { before; } \
    static void call_##name(void) { it; }
CASES
#undef X

static const struct { const char *name; void (*before)(void), (*it)(void); } cases[] = {
#define X(name, before, it) {#name, before_##name, call_##name},
    CASES
#undef X
};

/* Threads whose groups end with them. */
static int by_thread(void *(*it)(void *), const char *name)
{
    left();
    pthread_create(&thread, NULL, it, (void *)name);
    pthread_join(thread, NULL);
    return left();
}

/* Another thread has an open group, and calls nothing. */
static void *sends_and_spins(void *name)
{
    send_to_all(name);
    ready = 1;
    for (;;)
        ;
    return NULL;
}

/* What is sent late, if anything. */
static const char *late;
static void sends_late(void) { send_to_all(late); }
static int destructs;
static __attribute__((destructor)) void destructor(void)
{
    if (destructs)
        sends_late();
}

/* The process ends, or becomes another one, with an open group: "own_" of this thread, "other_" of
 * another one. */
static void end(const char *name)
{
    if (strncmp(name, "other_", 6) == 0) {
        pthread_create(&thread, NULL, sends_and_spins, (void *)name);
        while (!ready)
            ;
        name += 6;
    } else {
        send_to_all(name);
        name += 4;
    }
#define IS(what) if (strcmp(name, what) == 0)
    /* "own_return" and "other_return" return. */
    IS("exit") exit(0);
    IS("_exit") _exit(0);
    IS("_Exit") _Exit(0);
    IS("quick_exit") quick_exit(0);
    IS("abort") abort();
    IS("kill") kill(getpid(), SIGKILL);
    IS("raise") raise(SIGTERM);
    IS("tgkill") tgkill(getpid(), gettid(), SIGKILL);
    IS("exit_group") syscall(SYS_exit_group, 0);
    IS("execl") execl("/bin/true", "true", NULL);
    IS("execlp") execlp("true", "true", NULL);
    IS("execle") execle("/bin/true", "true", NULL, environment);
    IS("execv") execv("/bin/true", arguments);
    IS("execve") execve("/bin/true", arguments, environment);
    IS("execvp") execvp("true", arguments);
    IS("execvpe") execvpe("true", arguments, environment);
    IS("execveat") execveat(AT_FDCWD, "/bin/true", arguments, environment, 0);
    IS("fexecve") fexecve(open("/bin/true", O_RDONLY), arguments, environment);
    IS("SYS_execve") syscall(SYS_execve, "/bin/true", arguments, environment);
    /* What is sent later than the library expects anything. */
    late = "late";
    IS("atexit") atexit(sends_late);
    IS("at_quick_exit") {
        at_quick_exit(sends_late);
        quick_exit(0);
    }
    IS("destructor") destructs = 1;
    /* Children that nobody tells the library of: in the parent's memory, and with a copy of it. What
     * they do ends nothing of the parent's. */
    IS("vfork_exec") {
        if (vfork() == 0) {
            execv("/bin/true", arguments);
            _exit(1);
        }
        left();
        send_to_all("parent");
        status = left();
        printf("case held %d\n", status);
    }
    IS("vfork_exit") {
        if (vfork() == 0)
            _exit(0);
        left();
        send_to_all("parent");
        status = left();
        printf("case held %d\n", status);
    }
    /* Lengths whose sum does not fit: it would be 50. */
    IS("overflow") {
        struct iovec pieces[] = {{buffer, SIZE_MAX - 99}, {buffer, 150}};
        struct msghdr message = {.msg_name = &everyone[0], .msg_namelen = sizeof everyone[0]};
        message.msg_iov = pieces;
        message.msg_iovlen = 2;
        long sent = sendmsg(sender, &message, 0);
        printf("case %s 1\n", sent < 0 && errno == EINVAL ? "refused" : "sent");
    }
    /* A socket with a number above those that are looked after. */
    IS("high") {
        struct rlimit limit = {9000, 9000};
        setrlimit(RLIMIT_NOFILE, &limit);
        int fd = open("/dev/null", O_RDONLY);
        while (fd < 5000)
            fd = dup(fd);
        struct sockaddr_in own = {0};
        socklen_t len = sizeof own;
        getsockname(sender, (void *)&own, &len);
        own.sin_port = 0;
        sender = socket(AF_INET, SOCK_DGRAM, 0);
        int bound = bind(sender, (void *)&own, sizeof own);
        for (int round = 0; round < 50; round++)
            send_to_all("warm_up");
        send_to_all("high");
        printf("case %s 1\n", bound == 0 && sender > 5000 ? "high" : "low");
    }
    /* Addresses and lengths that the kernel refuses. */
    IS("bad") {
        struct sockaddr *to = (void *)&everyone[0];
        static char address[1000];
        memcpy(address, to, sizeof everyone[0]);
        struct msghdr message = {.msg_name = to, .msg_namelen = sizeof everyone[0]};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        message.msg_controllen = 32;
        struct mmsghdr messages = {message};
        int answers[] = {
            sendto(sender, (void *)-1, 100, 0, to, sizeof everyone[0]) < 0 ? errno : 0,
            sendto(sender, buffer, 8, 0, (void *)16, sizeof everyone[0]) < 0 ? errno : 0,
            sendto(sender, buffer, 8, 0, (void *)address, sizeof address) < 0 ? errno : 0,
            sendmsg(sender, (void *)-8, 0) < 0 ? errno : 0,
            sendmsg(sender, &message, 0) < 0 ? errno : 0,
            sendmmsg(sender, (void *)-8, 1, 0) < 0 ? errno : 0,
            sendmmsg(sender, &messages, 1, 0) < 0 ? errno : 0,
        };
        printf("refused");
        for (size_t number = 0; number < sizeof answers / sizeof *answers; number++)
            printf(" %s", strerrorname_np(answers[number]));
        printf("\n");
    }
    /* Another process has the socket, by sendmmsg. */
    IS("given") {
        int pair[2];
        socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
        static union {
            char room[CMSG_SPACE(sizeof(int))];
            struct cmsghdr header;
        } control;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &sender, sizeof(int));
        struct mmsghdr messages[2] = {{{.msg_iov = &piece, .msg_iovlen = 1}}};
        messages[1] = messages[0];
        messages[1].msg_hdr.msg_control = &control;
        messages[1].msg_hdr.msg_controllen = sizeof control.room;
        printf("given %d\n", sendmmsg(pair[0], messages, 2, 0));
        send_to_all("alone");
    }
    /* A destination is refused from now on: in which round of two is the program told so? */
    IS("prohibited") {
        int round = 0, told = 0;
        status = system("ip route add prohibit 10.9.1.2");
        for (; !told && round < 500; round++) {
            char text[20];
            snprintf(text, sizeof text, "round %d", round);
            for (int to = 0; to < 2; to++)
                told |= sendto(sender, text, strlen(text), 0, (void *)&everyone[to],
                               sizeof everyone[to]) < 0;
            usleep(1000);
        }
        status |= system("ip route del prohibit 10.9.1.2");
        printf("told %d %d\n", status, round);
    }
    /* A child changes the socket that it shares with its parent. */
    IS("changed") {
        if (fork() == 0) {
            int ttl = 33;
            setsockopt(sender, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl);
            _exit(0);
        }
        wait(NULL);
        send_to_all("after");
    }
    /* A thread is stopped by a signal and goes on by another one, as some garbage collectors do it. */
    IS("stops") {
        struct sigaction action = {.sa_handler = stop_here};
        sigfillset(&action.sa_mask);
        sigaction(SIGUSR1, &action, NULL);
        action.sa_handler = ignore;
        sigaction(SIGUSR2, &action, NULL);
        sem_init(&semaphore, 0, 0);
        pthread_t other;
        pthread_create(&other, NULL, sends_on, NULL);
        while (!ready)
            usleep(100);
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
        event._sigev_un._tid = ready;
        timer_t timer;
        timer_create(CLOCK_MONOTONIC, &event, &timer);
        for (int time = 0; time < 50; time++) {
            /* A group of this thread is open while the other one is stopped, perhaps at the same socket. */
            char beside[sizeof content] = {0};
            snprintf(beside, sizeof beside, "beside %d", time);
            for (int to = 0; to < EVERYONE; to++)
                sendto(sender, beside, sizeof beside, 0, (void *)&everyone[to], sizeof everyone[to]);
            struct itimerspec soon = {.it_value.tv_nsec = 100000 + 1000 * time};
            timer_settime(timer, 0, &soon, NULL);
            int stopped = 0;
            while (sem_getvalue(&semaphore, &stopped) == 0 && stopped == 0)
                ;
            while (sem_wait(&semaphore) != 0)
                ;
            pthread_kill(other, SIGUSR2);
        }
        printf("stopped\n");
    }
    /* Much more than the link takes, by a socket that does not wait: what is said to be sent arrives. */
    IS("slow") {
        status = system("tc qdisc add dev xcast0 root tbf rate 300kbit burst 5kb limit 4mb");
        fcntl(sender, F_SETFL, O_NONBLOCK);
        static char text[1000];
        int said = 0, queued;
        for (int message = 0; message < 300; message++) {
            memset(text, ' ', sizeof text);
            text[sprintf(text, "slow %d", message)] = ' ';
            for (int to = 0; to < EVERYONE; to++)
                said += sendto(sender, text, sizeof text, 0, (void *)&everyone[to],
                               sizeof everyone[to]) == sizeof text;
        }
        /* Behind all that is queued. */
        for (int last = 0; last < 2; last++) {
            do
                usleep(1000);
            while (ioctl(sender, SIOCOUTQ, &queued) == 0 && queued > 0);
            if (last == 0)
                sendto(sender, "last", 4, 0, (void *)&everyone[0], sizeof everyone[0]);
        }
        status |= system("tc qdisc del dev xcast0 root");
        printf("said %d %d\n", status, said);
    }
    /* A filter refuses membarrier(2). Two threads send by turns: how often is it called then? */
    IS("filtered") {
        struct sigaction action = {.sa_sigaction = refuse, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &action, NULL);
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog filter = {sizeof code / sizeof *code, code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        status = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
        for (int turn = 0; turn < 100; turn++) {
            pthread_t other;
            send_to_all("turn");
            pthread_create(&other, NULL, sends, "turn");
            pthread_join(other, NULL);
        }
        printf("filtered %d %d\n", status, refused);
    }
    /* The process ends with its last thread. */
    IS("main_exits") {
        pthread_t last;
        pthread_create(&last, NULL, sends, "last");
        pthread_exit(NULL);
    }
    /* Six messages by a socket that is left alone. */
    if (strncmp(name, "count", 5) == 0) {
        int one = socket(AF_INET, SOCK_DGRAM, 0), fd = dup(one);
        struct msghdr message = {.msg_name = &everyone[0], .msg_namelen = sizeof everyone[0]};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        struct mmsghdr messages[3] = {{message}, {message}, {message}};
        sendto(fd, buffer, 8, 0, (void *)&everyone[0], sizeof everyone[0]);
        sendmsg(fd, &message, 0);
        sendmmsg(fd, messages, 3, 0);
        sendmmsg(fd, messages, 1, 0);
    }
    IS("count_exec") execv(arguments[0], arguments);
    IS("count_exec") execv("/bin/true", arguments);
    IS("_Fork") {
        if (_Fork() == 0)
            _exit(0);
        wait(NULL);
    }
    /* Another thread of the child ends it. */
    IS("_Fork_thread") {
        if (_Fork() == 0) {
            pthread_t other;
            pthread_create(&other, NULL, ends, NULL);
            for (;;)
                call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
        }
        wait(NULL);
    }
}

int main(int count, char **words)
{
    (void)count;
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(6000)};
    inet_pton(AF_INET, words[2], &own.sin_addr);
    sender = socket(AF_INET, SOCK_DGRAM, 0);
    if (bind(sender, (void *)&own, sizeof own) != 0)
        return 1;
    for (int to = 0; to < EVERYONE; to++) {
        everyone[to] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(5000)};
        inet_pton(AF_INET, "10.9.1.1", &everyone[to].sin_addr);
        everyone[to].sin_addr.s_addr = htonl(ntohl(everyone[to].sin_addr.s_addr) + to);
    }
    tap = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    link.sll_ifindex = if_nametoindex(words[1]);
    if (bind(tap, (void *)&link, sizeof link) != 0)
        return 1;
    struct pollfd input = {0, POLLIN, 0};
    while (poll(&input, 1, 1) == 0)
        for (int to = 0; to < EVERYONE; to++)
            sendto(sender, "warm", 4, 0, (void *)&everyone[to], sizeof everyone[to]);
    if (words[3]) {
        end(words[3]);
        return 0;
    }

    zero = open("/dev/zero", O_RDONLY);
    null = open("/dev/null", O_RDWR);
    text_file = tmpfile();
    for (int number = 0; number < 1000; number++)
        fputs("some text\n", text_file);
    rewind(text_file);
    text = fileno(tmpfile());
    if (write(text, buffer, sizeof buffer) < 0)
        return 1;
    null_file = fopen("/dev/null", "w");
    listens = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    listen(listens, 1);
    receives = socket(AF_INET, SOCK_DGRAM, 0);
    epoll = epoll_create1(0);
    event = eventfd(1, EFD_NONBLOCK);
    if (pipe2(pipes, O_NONBLOCK) != 0)
        return 1;
    queue = msgget(IPC_PRIVATE, 0600);
    semaphores = semget(IPC_PRIVATE, 1, 0600);
    *(long *)buffer = 1;
    sem_init(&semaphore, 0, 100);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&checked, &attributes);
    pthread_rwlock_wrlock(&writing);
    pthread_barrier_init(&barrier, NULL, 1);
    pthread_spin_init(&spin, 0);
    mtx_init(&mtx, mtx_timed);
    cnd_init(&cnd);
    pthread_create(&thread, NULL, wakes, NULL);
    sigemptyset(&usr1);
    sigemptyset(&nothing);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    struct sigaction action = {.sa_handler = ignore};
    sigaction(SIGALRM, &action, NULL);

    static int counts[sizeof cases / sizeof *cases];
    for (size_t number = 0; number < sizeof cases / sizeof *cases; number++) {
        cases[number].before();
        left();
        send_to_all(cases[number].name);
        cases[number].it();
        counts[number] = left();
        struct itimerval never = {{0, 0}, {0, 0}};
        setitimer(ITIMER_REAL, &never, NULL);
    }
    for (size_t number = 0; number < sizeof cases / sizeof *cases; number++)
        printf("case %s %d\n", cases[number].name, counts[number]);
    printf("case thread_returns %d\n", by_thread(sends, "thread_returns"));
    printf("case thread_exits %d\n", by_thread(sends_and_exits, "thread_exits"));
    msgctl(queue, IPC_RMID, NULL);
    semctl(semaphores, 0, IPC_RMID);
    return 0;
}
