#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "failpoints.h"
#include "steps.h"
#include "sys.h"

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

enum { STACK_SIZE = 64 * 1024, BIRTH_SIZE = STACK_SIZE + 4096, HIGH_FD = 64 };

/* A mapping shared with the child, which lives in our memory until it executes the stage: its stack is below. We do not
 * stand still for so long (CLONE_VFORK), and so must not touch this before the child has let go of it. */
struct spawn_birth {
    struct spawn_request request;
    int ours, sync, pidfd;
    volatile int step, error;
    volatile int reached; /* enum failpoint, the last one passed; FAILPOINT_BEGUN: it is about to execute the stage */
    uint32_t shared;      /* a futex: the kernel clears it when the child is gone from our memory */
};

_Static_assert(sizeof(struct spawn_birth) <= BIRTH_SIZE - STACK_SIZE, "it lies beside the stack");

#define BULKHEAD_FAILPOINT_STEP(name, text, step) STEP_##step,
static const int failpoint_steps[] = {BULKHEAD_FAILPOINTS(BULKHEAD_FAILPOINT_STEP)};
#undef BULKHEAD_FAILPOINT_STEP

static void close_quietly(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

#define scoped_fd __attribute__((cleanup(close_quietly))) int

static int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        bytes += n;
        size -= (size_t)n;
    }
    return 0;
}

int spawn_seal(const char *name, const void *bytes, size_t size, int executable)
{
    unsigned int kind = executable ? MFD_EXEC : MFD_NOEXEC_SEAL;
    scoped_fd fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | kind);
    if (fd < 0 && errno == EINVAL) /* before 6.3 no memfd said whether it may be executed */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int error = write_all(fd, bytes, size);
    if (error < 0)
        return error;
    unsigned int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    /* One inode serves every launch of this process: nobody inside may take its x bits away (6.3). */
    if (fcntl(fd, F_ADD_SEALS, seals | F_SEAL_EXEC) < 0 && fcntl(fd, F_ADD_SEALS, seals) < 0)
        return -errno;
    int stolen = fd;
    fd = -1;
    return stolen;
}

/* Where it cannot be done here the stage says why. */
static void loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    scoped_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return;
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    ioctl(fd, SIOCSIFFLAGS, &request);
}

/* In the thread that calls: it leaves and comes back, and who cannot come back is not to go on elsewhere. */
int spawn_network(void)
{
    static const char place[] = "/proc/thread-self/ns/net";
    scoped_fd home = open(place, O_RDONLY | O_CLOEXEC);
    if (home < 0 || unshare(CLONE_NEWNET) < 0)
        return -errno;
    int fd = open(place, O_RDONLY | O_CLOEXEC);
    int outcome = fd < 0 ? -errno : fd;
    loopback_up();
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
    return outcome;
}

/* ---- between clone and exec: raw system calls, own stack, our memory only through *child ---- */

static _Noreturn void child_exit(struct spawn_birth *child, int step, long error)
{
    child->step = step;
    child->error = (int)-error;
    sys_exit(127);
}

static void suffer(struct spawn_birth *child, int point)
{
    uint32_t word = child->request.failpoints[point], argument = failpoint_argument(word);
    switch (word & FAILPOINT_ACTION_MASK) {
    case FAILPOINT_KILL: failpoint_kill();
    case FAILPOINT_ERROR: child_exit(child, failpoint_steps[point], -(long)argument);
    case FAILPOINT_DELAY: failpoint_delay(argument);
    }
}

static void failpoint(struct spawn_birth *child, int point)
{
    child->reached = point;
    if (child->request.armed)
        suffer(child, point);
}

/* Above all targets, and not far above: the limit on descriptors may be low. */
static int lift(struct spawn_birth *child, int fd)
{
    long high = sys3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_FD + child->request.extra_count);
    if (high < 0)
        child_exit(child, STEP_DESCRIPTORS, high);
    return (int)high;
}

static void place(struct spawn_birth *child, int high, int target, int flags)
{
    long result = sys3(__NR_dup3, high, target, flags);
    if (result < 0)
        child_exit(child, STEP_DESCRIPTORS, result);
}

/* Everything is lifted out of the way first, so that no target overwrites a source. */
static int arrange(struct spawn_birth *child)
{
    const struct spawn_request *r = &child->request;
    int high[STAGE_FIRST_EXTRA_FD + SPAWN_MAX_EXTRA];
    int count = 0;
    for (int i = 0; i < 3; i++)
        high[count++] = lift(child, r->stdio[i]);
    high[count++] = lift(child, child->sync);
    high[count++] = lift(child, r->plan);
    for (size_t i = 0; i < r->extra_count; i++)
        high[count++] = lift(child, r->extra[i]);
    int program = lift(child, r->program);
    for (int i = 0; i < count; i++)
        place(child, high[i], i, 0);
    place(child, program, count, O_CLOEXEC);
    long result = sys3(__NR_close_range, count + 1, ~0u, 0);
    if (result < 0)
        child_exit(child, STEP_DESCRIPTORS, result);
    return count;
}

/* A thread that moves itself ("0" into `tasks`) takes no global lock. Anybody else's write to
 * cgroup.procs does, and waits for an RCU grace period: some 6 ms in each hierarchy. */
static void join_groups(struct spawn_birth *child)
{
    const struct spawn_request *r = &child->request;
    for (size_t i = 0; i < r->tasks_count; i++) {
        long result = sys3(__NR_write, r->tasks[i], "0", 1);
        if (result < 0)
            child_exit(child, STEP_CGROUP, result);
    }
}

static void enter_network(struct spawn_birth *child)
{
    if (child->request.network < 0)
        return;
    long result = sys2(__NR_setns, child->request.network, CLONE_NEWNET);
    if (result < 0)
        child_exit(child, STEP_NAMESPACE, result);
}

static int child_main(void *argument)
{
    static char name[] = "nsinit";
    struct spawn_birth *child = argument;
    failpoint(child, FAILPOINT_CLONED);
    join_groups(child);
    failpoint(child, FAILPOINT_GROUPED);
    enter_network(child);
    int program = arrange(child);
    failpoint(child, FAILPOINT_ARRANGED);
    child->reached = FAILPOINT_BEGUN;
    char *argv[] = {name, NULL}, *environment[] = {NULL};
    long error = sys5(__NR_execveat, program, "", argv, environment, AT_EMPTY_PATH);
    child_exit(child, STEP_STAGE, error);
}

/* clone3 onto another stack: the child must not return through frames that its parent will use. */
static long clone3_call(struct clone_args *arguments, int (*entry)(void *), void *argument)
{
    long result;
#if defined(__x86_64__)
    register long r8 __asm__("r8") = (long)entry;
    register long r9 __asm__("r9") = (long)argument;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r9, %%rdi\n\t"
                     "call *%%r8\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(__NR_clone3), "D"(arguments), "S"(sizeof *arguments), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = __NR_clone3;
    register long x0 __asm__("x0") = (long)arguments;
    register long x1 __asm__("x1") = (long)sizeof *arguments;
    register long x10 __asm__("x10") = (long)entry;
    register long x11 __asm__("x11") = (long)argument;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, x11\n\t"
                     "blr x10\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x10), "r"(x11)
                     : "memory");
    result = x0;
#endif
    return result;
}

/* ---- in the caller ---- */

static int fail(struct spawn_result *result, int step, int error)
{
    result->step = step;
    result->error = error;
    return -1;
}

static void *stack_of(struct spawn_birth *birth) { return (char *)(birth + 1) - BIRTH_SIZE; }

/* The child leaves its frames by exec, never by return: AddressSanitizer still knows of those of the child
 * before, whose stack was at the same place. */
static void forget_frames(void *stack)
{
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack, BIRTH_SIZE);
#endif
    (void)stack;
}

/* At the upper end of its mapping: a stack that grows too far meets what is not mapped. */
static struct spawn_birth *allocate(const struct spawn_request *request)
{
    char *place = mmap(NULL, BIRTH_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (place == MAP_FAILED)
        return NULL;
    forget_frames(place);
    struct spawn_birth *birth = (struct spawn_birth *)(void *)(place + BIRTH_SIZE) - 1;
    birth->request = *request;
    birth->ours = birth->sync = birth->pidfd = -1;
    birth->step = STEP_NONE;
    birth->shared = 1;
    return birth;
}

static long clone_stage(struct spawn_birth *child)
{
    struct clone_args arguments = {0};
    sigset_t all, before;
    bool placed = child->request.cgroup >= 0;
    arguments.flags = child->request.clone_flags | CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID |
                      (placed ? CLONE_INTO_CGROUP : 0);
    arguments.cgroup = placed ? (unsigned int)child->request.cgroup : 0u;
    arguments.pidfd = (uint64_t)(uintptr_t)&child->pidfd;
    arguments.child_tid = (uint64_t)(uintptr_t)&child->shared;
    arguments.stack = (uint64_t)(uintptr_t)stack_of(child);
    arguments.stack_size = STACK_SIZE;
    /* No exit signal: a stage that only forks must not wake the caller. execve sets SIGCHLD. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* no handler of ours may run in the child */
    long pid = clone3_call(&arguments, child_main, child);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid;
}

struct spawn_birth *spawn_conceive(const struct spawn_request *request, struct spawn_result *result)
{
    int pair[2];
    struct spawn_birth *birth = allocate(request);
    if (birth && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
        birth->ours = pair[0];
        birth->sync = pair[1];
        return birth;
    }
    fail(result, STEP_PREPARE, errno);
    if (birth)
        munmap(stack_of(birth), BIRTH_SIZE);
    close(request->plan);
    return NULL;
}

void spawn_forget(struct spawn_birth *birth)
{
    int *const held[] = {&birth->ours, &birth->sync, &birth->request.plan};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++)
        close_quietly(held[i]);
    munmap(stack_of(birth), BIRTH_SIZE);
}

int spawn_bear(struct spawn_birth *birth, struct spawn_result *result)
{
    int sync = birth->sync, plan = birth->request.plan;
    long pid = clone_stage(birth);
    if (pid < 0) {
        spawn_forget(birth);
        return fail(result, STEP_CLONE, (int)-pid);
    }
    *result = (struct spawn_result){.pid = (int)pid, .pidfd = birth->pidfd, .sync = birth->ours};
    close(sync); /* not by way of what the child reads */
    close(plan);
    return 0;
}

int spawn_settle(struct spawn_birth *birth, struct spawn_result *result)
{
    while (__atomic_load_n(&birth->shared, __ATOMIC_ACQUIRE)) /* not private: it is the kernel that wakes */
        syscall(__NR_futex, &birth->shared, FUTEX_WAIT, 1, NULL, NULL, 0);
    int outcome = 0;
    if (birth->step != STEP_NONE)
        outcome = fail(result, birth->step, birth->error);
    else if (birth->reached != FAILPOINT_BEGUN)
        outcome = fail(result, failpoint_steps[birth->reached], ECANCELED); /* it was killed */
    munmap(stack_of(birth), BIRTH_SIZE);
    return outcome;
}

/* The signal of the stage's own death must not wake us: it is not the end of what it has forked. */
void spawn_await_end(int sync, int pidfd, int milliseconds)
{
    struct pollfd ends[] = {{.fd = sync}, {.fd = pidfd, .events = POLLIN}};
    struct timespec patience = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000L};
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    sigaddset(&mask, SIGCHLD);
    ppoll(ends, sizeof ends / sizeof *ends, &patience, &mask);
}
