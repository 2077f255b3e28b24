/* The steps a launch goes through, once: the enum for C and, by the same list, the names that
 * Python shows (`_nsexec.STEPS`). Append only at the end of the list: old shims read new numbers. */
#ifndef BULKHEAD_STEPS_H
#define BULKHEAD_STEPS_H

#define BULKHEAD_STEPS(X)                                                                          \
    X(NONE, "none")                                                                                \
    X(PREPARE, "prepare")                                                                          \
    X(CLONE, "clone")                                                                              \
    X(DESCRIPTORS, "descriptors")                                                                  \
    X(STAGE, "stage")                                                                              \
    X(PLAN, "plan")                                                                                \
    X(SYNC, "sync")                                                                                \
    X(NAMESPACE, "namespace")                                                                      \
    X(SESSION, "session")                                                                          \
    X(KEYRING, "keyring")                                                                          \
    X(PROPAGATION, "propagation")                                                                  \
    X(ROOTFS, "rootfs")                                                                            \
    X(MOUNT, "mount")                                                                              \
    X(DEVICE, "device")                                                                            \
    X(CONSOLE, "console")                                                                          \
    X(MASK, "mask")                                                                                \
    X(READONLY, "readonly")                                                                        \
    X(CGROUP_NAMESPACE, "cgroup-namespace")                                                        \
    X(PROCFS, "procfs")                                                                            \
    X(SYSCTL, "sysctl")                                                                            \
    X(OOM_SCORE, "oom-score")                                                                      \
    X(PIVOT, "pivot")                                                                              \
    X(HOSTNAME, "hostname")                                                                        \
    X(LOOPBACK, "loopback")                                                                        \
    X(USER, "user")                                                                                \
    X(RLIMIT, "rlimit")                                                                            \
    X(CWD, "cwd")                                                                                  \
    X(STDIO, "stdio")                                                                              \
    X(CAPABILITIES, "capabilities")                                                                \
    X(NO_NEW_PRIVILEGES, "no-new-privileges")                                                      \
    X(SECCOMP, "seccomp")                                                                          \
    X(CREDENTIALS, "credentials")                                                                  \
    X(LOOKUP, "lookup")                                                                            \
    X(FORK, "fork")                                                                                \
    X(EXEC, "exec")                                                                                \
    X(CGROUP, "cgroup")                                                                            \
    X(HOOK, "hook")                                                                                \
    X(FIFO, "exec-fifo")                                                                           \
    X(USER_NAMESPACE, "user-namespace")                                                            \
    X(TIME_NAMESPACE, "time-namespace")                                                            \
    X(SCHEDULER, "scheduler")                                                                      \
    X(IO_PRIORITY, "io-priority")                                                                  \
    X(PERSONALITY, "personality")                                                                  \
    X(MEMORY_POLICY, "memory-policy")                                                              \
    X(AFFINITY, "affinity")                                                                        \
    X(PROFILE, "security-profile")

#define BULKHEAD_STEP_ENUM(name, text) STEP_##name,
enum step { BULKHEAD_STEPS(BULKHEAD_STEP_ENUM) STEP_COUNT };
#undef BULKHEAD_STEP_ENUM

/* One message on the launch socket (SOCK_SEQPACKET), from the stage to its caller. `length` bytes
 * of `detail` follow the fixed part; numbers are in host order, both ends are one machine. */
enum report_kind {
    REPORT_ERROR = 1,   /* the launch failed: step, errno, what it was about */
    REPORT_WARNING = 2, /* something was granted less than asked */
    REPORT_MOUNTED = 3, /* file systems and devices are there; carries the root's mount; waits for one byte, or goes on */
    REPORT_CONSOLE = 4, /* carries the pty master by SCM_RIGHTS */
    REPORT_PID = 5,     /* `error` holds the pid of the process that will exec */
    REPORT_READY = 6,   /* everything but exec is done; waits for one byte, or for its FIFO */
    REPORT_USER = 7,    /* is in its user namespace; waits until that is mapped */
    REPORT_TIME = 8,    /* has made its time namespace; waits until the clocks are set */
    REPORT_LISTENER = 9, /* `error` is the descriptor of the filter's listener; waits until it was fetched */
    REPORT_FAILPOINT = 10, /* `error` is the number of one that is set; waits if that says so */
};

#define REPORT_DETAIL_MAX 1008

struct report {
    unsigned int kind;
    unsigned int step;
    int error;
    unsigned int length;
    char detail[REPORT_DETAIL_MAX];
};

#define REPORT_FIXED (sizeof(struct report) - REPORT_DETAIL_MAX)

#define STAGE_NAME "nsinit [stage]" /* at most 15 bytes (PR_SET_NAME) */

/* Where spawn puts descriptors for the stage. */
enum stage_fd { STAGE_SYNC_FD = 3, STAGE_PLAN_FD = 4, STAGE_FIRST_EXTRA_FD = 5 };

#endif
