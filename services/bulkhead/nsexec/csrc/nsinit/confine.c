/* From a privileged stage to exactly what the container may be. */
#include "nsinit.h"

/* Root that has just executed holds its bounding set as permitted: one call instead of one per bit. */
static uint64_t caps_held(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};
    must(sys2(__NR_capget, &header, data), STEP_CAPABILITIES, "capget");
    return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

static void caps_set(uint64_t effective, uint64_t permitted, uint64_t inheritable, const char *what)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    for (unsigned int half = 0; half < 2; half++)
        data[half] = (struct __user_cap_data_struct){.effective = (uint32_t)(effective >> (32 * half)),
                                                     .permitted = (uint32_t)(permitted >> (32 * half)),
                                                     .inheritable = (uint32_t)(inheritable >> (32 * half))};
    must(sys2(__NR_capset, &header, data), STEP_CAPABILITIES, what);
}

/* The plan's sets, never more than this process was given itself. */
struct wanted {
    uint64_t bounding, effective, inheritable, permitted, ambient;
};

static struct wanted wanted;

static void choose_caps(const struct stage *s)
{
    const uint64_t *caps = s->plan.general.caps;
    uint64_t held = caps_held();
    wanted.bounding = caps[CAP_BOUNDING] & held;
    wanted.permitted = caps[CAP_PERMITTED] & held;
    wanted.effective = caps[CAP_EFFECTIVE] & wanted.permitted;
    wanted.inheritable = caps[CAP_INHERITABLE] & held;
    wanted.ambient = caps[CAP_AMBIENT] & wanted.permitted & wanted.inheritable;
    if (wants(s, PLAN_USER_CAPS) && s->uid != 0) /* what execve of another user does */
        wanted.permitted = wanted.effective = wanted.ambient = 0;
}

static void drop_bounding(void)
{
    for (unsigned int cap = 0; cap < 64; cap++) {
        if (wanted.bounding & (1ull << cap))
            continue;
        long dropped = sys2(__NR_prctl, PR_CAPBSET_DROP, cap);
        if (dropped == -EINVAL) /* beyond the kernel's last */
            break;
        must(dropped, STEP_CAPABILITIES, "bounding set");
    }
}

static void raise_ambient(void)
{
    sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned int cap = 0; cap < 64; cap++)
        if (wanted.ambient & (1ull << cap))
            must(sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0), STEP_CAPABILITIES, "ambient set");
}

/* A filter without no_new_privs needs CAP_SYS_ADMIN until it is loaded, so that one stays till then. */
static bool filter_needs_admin(const struct stage *s)
{
    return s->plan.filter && !wants(s, PLAN_NO_NEW_PRIVILEGES);
}

void credentials_set(const struct stage *s)
{
    uint64_t kept = filter_needs_admin(s) ? 1ull << CAP_SYS_ADMIN : 0;
    choose_caps(s);
    drop_bounding();
    must(sys5(__NR_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0), STEP_CREDENTIALS, "keepcaps");
    groups_set(s);
    must(sys3(__NR_setresgid, s->gid, s->gid, s->gid), STEP_CREDENTIALS, "setresgid");
    must(sys3(__NR_setresuid, s->uid, s->uid, s->uid), STEP_CREDENTIALS, "setresuid");
    must(sys5(__NR_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0), STEP_CREDENTIALS, "keepcaps");
    must(sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), STEP_CREDENTIALS, "dumpable");
    caps_set(wanted.effective | kept, wanted.permitted | kept, wanted.inheritable, "capset");
    raise_ambient();
    if (wants(s, PLAN_NO_NEW_PRIVILEGES))
        must(sys5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), STEP_NO_NEW_PRIVILEGES, "prctl");
    sys1(__NR_umask, s->plan.general.umask);
}

void filter_load(const struct stage *s)
{
    struct sock_fprog program = {.len = (unsigned short)s->plan.filter_length,
                                 .filter = (struct sock_filter *)(uintptr_t)s->plan.filter};
    uint32_t flags = s->plan.general.filter_flags;
    if (!s->plan.filter)
        return;
    long result = must(sys3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program), STEP_SECCOMP, "filter");
    if (flags & SECCOMP_FILTER_FLAG_NEW_LISTENER) { /* from now on calls may wait for who listens */
        report(REPORT_LISTENER, STEP_SECCOMP, result, "");
        await_caller();
        must_close((int)result);
    }
}

void capabilities_final(const struct stage *s)
{
    if (filter_needs_admin(s))
        caps_set(wanted.effective, wanted.permitted, wanted.inheritable, "capset");
}

/* ---- limits and place ---- */

void affinity_set(const struct stage *s)
{
    static uint32_t mask[256];
    uint32_t word, count = 0;
    struct plan_cursor cursor = s->plan.affinity;
    while (count < sizeof mask / sizeof *mask && plan_next_u32(&cursor, &word))
        mask[count++] = word;
    if (count)
        must(sys3(__NR_sched_setaffinity, 0, sizeof mask, mask), STEP_AFFINITY, "sched_setaffinity");
}

static void set_scheduler(const struct plan_tuning *t)
{
    struct { /* struct sched_attr, its first version */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } a = {sizeof a, t->policy, t->scheduler_flags, t->nice, t->priority, t->runtime, t->deadline, t->period};
    must(sys3(__NR_sched_setattr, 0, &a, 0), STEP_SCHEDULER, "sched_setattr");
}

static void set_memory_policy(const struct stage *s)
{
    static uint32_t nodes[64];
    uint32_t word, count = 0;
    struct plan_cursor cursor = s->plan.nodes;
    while (count < sizeof nodes / sizeof *nodes && plan_next_u32(&cursor, &word))
        nodes[count++] = word;
    must(sys3(__NR_set_mempolicy, s->plan.tuning.memory_mode, nodes, count ? sizeof nodes * 8 : 0), STEP_MEMORY_POLICY,
         "set_mempolicy");
}

void tuning_set(const struct stage *s)
{
    const struct plan_tuning *t = &s->plan.tuning;
    if (t->present & TUNE_SCHEDULER)
        set_scheduler(t);
    if (t->present & TUNE_IO_PRIORITY)
        must(sys3(__NR_ioprio_set, 1, 0, t->io_priority), STEP_IO_PRIORITY, "ioprio_set");
    if (t->present & TUNE_MEMORY_POLICY)
        set_memory_policy(s);
    if (t->present & TUNE_PERSONALITY)
        must(sys1(__NR_personality, t->personality), STEP_PERSONALITY, "personality");
}

static void set_limit(const struct plan_rlimit *l)
{
    static char text[64];
    char digits[32];
    struct user_limit now, limit = {l->soft, l->hard};
    const char *name = number_text(digits + sizeof digits, l->resource);
    text_join(text, sizeof text, name, "", "");
    long result = sys4(__NR_prlimit64, 0, l->resource, &limit, 0);
    if (result != -EPERM) {
        must(result, STEP_RLIMIT, text);
        return;
    }
    must(sys4(__NR_prlimit64, 0, l->resource, 0, &now), STEP_RLIMIT, text);
    limit.hard = now.hard; /* raising it takes CAP_SYS_RESOURCE, which we lack */
    if (limit.soft > limit.hard)
        limit.soft = limit.hard;
    must(sys4(__NR_prlimit64, 0, l->resource, &limit, 0), STEP_RLIMIT, text);
    warn(STEP_RLIMIT, result, text);
}

void rlimits_set(const struct stage *s)
{
    struct plan_rlimit limit;
    struct plan_cursor cursor = s->plan.rlimits;
    while (plan_next_rlimit(&cursor, &limit))
        set_limit(&limit);
}

/* A missing working directory is made while the root can still be written, as Docker does. What is wrong with
 * it is told by directory_enter. */
void directory_make(const struct stage *s)
{
    if (!wants(s, PLAN_CREATE_CWD))
        return;
    int fd = path_open(s->root, s->plan.cwd, O_PATH | O_DIRECTORY, 0);
    if (fd == -ENOENT)
        fd = path_target(s->root, s->plan.cwd, true);
    if (fd >= 0)
        must_close(fd);
}

/* CVE-2024-21626: a working directory must be a name inside, reached without /proc/self/fd. */
void directory_enter(const struct stage *s)
{
    static char now[4096];
    const char *path = s->plan.cwd;
    int fd = path_open(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);
    must(fd, STEP_CWD, path);
    must(sys1(__NR_fchdir, fd), STEP_CWD, path);
    must_close(fd);
    must(sys2(__NR_getcwd, now, sizeof now), STEP_CWD, path);
    if (now[0] != '/') /* "(unreachable)/..." */
        die(STEP_CWD, -EXDEV, path);
}
