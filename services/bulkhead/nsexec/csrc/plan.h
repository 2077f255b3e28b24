/* The launch plan: what the stage shall do, as one block of bytes. The sole writer is
 * nsexec/plan.py; the layout is drawn there. Decoding allocates nothing: every string is
 * NUL-terminated inside the block, so entries point into it. Knows neither Python nor the kernel. */
#ifndef BULKHEAD_PLAN_H
#define BULKHEAD_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLAN_MAGIC 0x504e4842u /* "BHNP" */
#define PLAN_VERSION 2u
#define PLAN_MAX_BYTES (16u << 20)
#define PLAN_MAX_FILTER 4096u /* instructions: BPF_MAXINSNS */
#define PLAN_MAX_STRING (1u << 20)

enum plan_flag {
    PLAN_EXEC = 1 << 0,              /* join a running container instead of building one */
    PLAN_WAIT_CGROUP = 1 << 1,       /* report MOUNTED and wait for the caller */
    PLAN_NEW_CGROUP_NS = 1 << 2,     /* unshare it once placed */
    PLAN_TERMINAL = 1 << 3,
    PLAN_NO_NEW_PRIVILEGES = 1 << 4,
    PLAN_ROOT_READONLY = 1 << 5,
    PLAN_KEYRING = 1 << 6,
    PLAN_LOOPBACK = 1 << 7,
    PLAN_FORK_EARLY = 1 << 8,        /* joins a pid namespace and mounts a procfs for it */
    PLAN_FORK_LATE = 1 << 9,         /* joins a pid namespace: visible there only when confined */
    PLAN_LATE_FILTER = 1 << 10,      /* the filter would refuse what the late fork still needs */
    PLAN_PARK = 1 << 11,
    PLAN_SETUP_DEV = 1 << 12,        /* /dev is ours: links and device nodes are made */
    PLAN_OOM_SCORE = 1 << 13,
    PLAN_CREATE_CWD = 1 << 14,
    PLAN_USER_CAPS = 1 << 15,        /* a user other than 0 keeps no effective and permitted set */
    PLAN_NULL_STDIN = 1 << 16,
    PLAN_NULL_STDOUT = 1 << 17,
    PLAN_NULL_STDERR = 1 << 18,
    PLAN_FIFO = 1 << 19,             /* with PARK: wait for a reader of a FIFO, not for the caller */
    PLAN_MOVE_ROOT = 1 << 20,        /* MS_MOVE and chroot where pivot_root cannot work (an initramfs) */
    PLAN_CHROOT = 1 << 21,           /* no mount namespace of its own: only the root directory changes */
    PLAN_ROOT_GIVEN = 1 << 22,       /* the root comes as a detached mount, opened by the caller */
    PLAN_BECOME_ROOT = 1 << 23,      /* joins a user namespace: 0 is another user afterwards */
    PLAN_NO_SETGROUPS = 1 << 24,     /* the user namespace forbids it */
    PLAN_TIME_OFFSETS = 1 << 25,     /* the caller sets the new time namespace's clocks */
    PLAN_BIND_DEVICES = 1 << 26,     /* device nodes cannot be made here: the host's are bound */
    PLAN_GO_ON = 1 << 27,            /* with PARK: waits once, at the end, and does not say that it does */
    PLAN_FLAGS_KNOWN = (1 << 28) - 1,
};

enum plan_section {
    SECTION_GENERAL = 1,
    SECTION_JOIN,
    SECTION_ROOT,
    SECTION_MOUNTS,
    SECTION_DEVICES,
    SECTION_MASKED,
    SECTION_READONLY,
    SECTION_SYSCTL,
    SECTION_HOSTNAME,
    SECTION_DOMAINNAME,
    SECTION_USER,
    SECTION_GROUPS,
    SECTION_GROUP_NAMES,
    SECTION_RLIMITS,
    SECTION_CWD,
    SECTION_ARGV,
    SECTION_ENV,
    SECTION_FILTER,
    SECTION_HIDDEN,
    SECTION_HOOKS,
    SECTION_STATE,
    SECTION_TUNING,
    SECTION_AFFINITY,
    SECTION_NODES,
    SECTION_PROFILE,
    SECTION_FAILPOINTS, /* only from the process that starts the stage: see failpoints.h */
    SECTION_END,
};

/* A place in the block and how many entries follow. */
struct plan_cursor {
    const unsigned char *at, *end;
    uint32_t left;
};

enum cap_set { CAP_BOUNDING, CAP_EFFECTIVE, CAP_INHERITABLE, CAP_PERMITTED, CAP_AMBIENT, CAP_SETS };

struct plan_general {
    uint64_t flags;
    uint64_t caps[CAP_SETS];
    uint32_t uid;
    uint32_t gid;
    uint32_t umask;
    int32_t oom_score_adj;
    uint32_t rows;
    uint32_t columns;
    uint32_t root_propagation;  /* MS_* of the whole tree before anything is mounted */
    uint32_t final_propagation; /* MS_* of the new root after pivot, 0 leaves it */
    uint32_t filter_flags;
    uint32_t preserved; /* the last descriptors that came along stay open from 3 on */
    uint32_t unshare;   /* CLONE_NEW* that the stage makes itself, the user namespace first */
    uint32_t reserved;
};

enum tuning_flag {
    TUNE_SCHEDULER = 1 << 0,
    TUNE_IO_PRIORITY = 1 << 1,
    TUNE_PERSONALITY = 1 << 2,
    TUNE_MEMORY_POLICY = 1 << 3,
    TUNE_FLAGS_KNOWN = (1 << 4) - 1,
};

/* How the process is scheduled and where its memory comes from, where the config says so. */
struct plan_tuning {
    uint32_t present;
    uint32_t personality;
    uint32_t io_priority;
    uint32_t memory_mode;
    uint32_t policy;
    int32_t nice;
    uint32_t priority;
    uint32_t reserved;
    uint64_t scheduler_flags, runtime, deadline, period;
};

enum hook_kind { HOOK_CREATE_CONTAINER = 1, HOOK_START_CONTAINER };

struct plan_hook {
    uint32_t kind;
    uint32_t timeout; /* seconds, 0 for none */
    const char *path;
    struct plan_cursor argv, env;
};

enum mount_kind { MOUNT_FILESYSTEM = 1, MOUNT_BIND, MOUNT_SYMLINK, MOUNT_REMOUNT };

enum mount_flag {
    MOUNT_RECURSIVE = 1 << 0,
    MOUNT_NOFOLLOW = 1 << 1,     /* the target must be an ordinary directory (proc, sysfs) */
    MOUNT_IS_DEV = 1 << 2,       /* keep its descriptor: device nodes go there */
    MOUNT_IS_PTS = 1 << 3,       /* keep its descriptor: the console comes from there */
    MOUNT_PROC_OK = 1 << 4,      /* this target may lie inside /proc */
    MOUNT_IS_PROC = 1 << 5,
    MOUNT_NEEDS_PROC = 1 << 6,   /* the target is /proc: only a procfs may be bound there */
    MOUNT_GIVEN = 1 << 7,        /* the source comes as a detached mount, opened by the caller */
    MOUNT_COPY_UP = 1 << 8,      /* what the target holds is copied into the new file system */
    MOUNT_OR_HOST = 1 << 9,      /* where it cannot be mounted (sysfs of a foreign netns), the host's is bound */
    MOUNT_FLAGS_KNOWN = (1 << 10) - 1,
};

struct plan_mount {
    uint32_t kind;
    uint32_t flags;
    uint32_t propagation;
    uint32_t options; /* pairs that follow, read with plan_next_option */
    uint64_t set, clear;
    uint64_t tree_set, tree_clear; /* the same, for the whole tree (rro and its like) */
    const char *source, *target, *type;
    struct plan_cursor option_cursor;
};

struct plan_device {
    uint32_t mode, uid, gid, major, minor;
    const char *path;
};

enum root_kind {
    ROOT_BIND = 1,
    ROOT_OVERLAY,
    ROOT_OVERLAY_CLASSIC, /* as kernels before 6.8 take it, tried by itself where they do */
};

struct plan_root {
    uint32_t kind;
    uint32_t is_volatile;
    const char *path;  /* bind: the source; overlay: a directory to attach to */
    const char *upper;
    const char *work;
    struct plan_cursor lower;
};

struct plan_rlimit {
    uint32_t resource;
    uint64_t soft, hard;
};

struct plan {
    struct plan_general general;
    struct plan_root root;
    struct plan_cursor joins, mounts, devices, masked, readonly, sysctl, groups, group_names, rlimits,
        argv, env, hidden, hooks, state, affinity, nodes, failpoints;
    struct plan_tuning tuning;
    const char *hostname, *domainname, *user, *cwd, *profile; /* NULL when absent */
    const unsigned char *filter;
    uint32_t filter_length; /* instructions */
};

/* 0, or -EINVAL when any byte of the block is not as the layout says. */
int plan_decode(const void *block, size_t length, struct plan *plan);

/* Each answers false at the end. Cursors are values: copy one to walk again. */
bool plan_next_string(struct plan_cursor *cursor, const char **text);
bool plan_next_option(struct plan_cursor *cursor, const char **key, const char **value);
bool plan_next_u32(struct plan_cursor *cursor, uint32_t *value);
bool plan_next_mount(struct plan_cursor *cursor, struct plan_mount *mount);
bool plan_next_device(struct plan_cursor *cursor, struct plan_device *device);
bool plan_next_hook(struct plan_cursor *cursor, struct plan_hook *hook);
bool plan_next_rlimit(struct plan_cursor *cursor, struct plan_rlimit *limit);

#endif
