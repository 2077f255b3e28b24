/* Places in the core where it can be made to fail on purpose, in a launch's order: see bulkhead.failpoints, whose
 * catalogue says what has just been done there. A process reads what is set for it before the clone; from then on
 * nothing is asked, and what is done needs system calls only. */
#ifndef BULKHEAD_FAILPOINTS_H
#define BULKHEAD_FAILPOINTS_H

#include <asm/unistd.h>
#include <stdint.h>

#include "steps.h"
#include "sys.h"

#define BULKHEAD_FAILPOINTS(X)                         \
    X(CLONED, "nsexec.child.cloned", CLONE)            \
    X(GROUPED, "nsexec.child.grouped", CGROUP)         \
    X(ARRANGED, "nsexec.child.arranged", STAGE)        \
    X(BEGUN, "nsexec.stage.begun", PLAN)               \
    X(JOINED, "nsexec.stage.joined", NAMESPACE)        \
    X(MOUNTED, "nsexec.stage.mounted", MOUNT)          \
    X(PIVOTED, "nsexec.stage.pivoted", PIVOT)          \
    X(CONFINED, "nsexec.stage.confined", CREDENTIALS)  \
    X(RELEASED, "nsexec.stage.released", EXEC)

#define BULKHEAD_FAILPOINT_ENUM(name, text, step) FAILPOINT_##name,
enum failpoint { BULKHEAD_FAILPOINTS(BULKHEAD_FAILPOINT_ENUM) FAILPOINT_COUNT };
#undef BULKHEAD_FAILPOINT_ENUM

/* A word for each point: the action, and above it the errno or the milliseconds. Python writes them. */
enum failpoint_action { FAILPOINT_OFF, FAILPOINT_TELL, FAILPOINT_KILL, FAILPOINT_ERROR, FAILPOINT_DELAY, FAILPOINT_HOLD };
enum { FAILPOINT_ACTION_BITS = 4, FAILPOINT_ACTION_MASK = 15 };

static inline uint32_t failpoint_argument(uint32_t word) { return word >> FAILPOINT_ACTION_BITS; }

/* The first process of a pid namespace does not hear its own SIGKILL: a call that strict seccomp forbids ends it alike. */
static inline _Noreturn void failpoint_kill(void)
{
    sys2(__NR_kill, sys0(__NR_getpid), 9);
    sys5(__NR_prctl, 22 /* PR_SET_SECCOMP */, 1, 0, 0, 0);
    sys0(__NR_getpid);
    sys_exit(137);
}

static inline void failpoint_delay(uint32_t milliseconds)
{
    int64_t left[2] = {milliseconds / 1000, (int64_t)(milliseconds % 1000) * 1000000};
    while (sys2(__NR_nanosleep, left, left) == -4 /* EINTR */)
        ;
}

#endif
