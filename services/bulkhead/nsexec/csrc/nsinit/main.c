/* The order of a launch. It is Docker's (runc's) with its reasons; see design section 4. */
#include "nsinit.h"

_Noreturn void nsinit_main(void);

static void read_plan(struct stage *s)
{
    struct statx info;
    path_stat(STAGE_PLAN_FD, &info, STEP_PLAN, "size");
    size_t size = info.stx_size ? (size_t)info.stx_size : 1;
    const void *block =
        (const void *)must(sys6(__NR_mmap, 0, size, 1, MAP_PRIVATE_FILE, STAGE_PLAN_FD, 0), STEP_PLAN, "mmap");
    must(plan_decode(block, (size_t)info.stx_size, &s->plan), STEP_PLAN, "decode");
    must_close(STAGE_PLAN_FD);
    /* A corpse of this name has not come to its program. Not before there was a plan: a program may run its runner. */
    sys5(__NR_prctl, PR_SET_NAME, STAGE_NAME, 0, 0, 0);
    failpoints_take(s);
    failpoint(FAILPOINT_BEGUN);
}

/* exec resets handlers but keeps what is ignored, and the mask; a full affinity undoes a cpuset's. */
static void reset_inherited(void)
{
    static unsigned long all_cpus[128];
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } fallback = {0};
    uint64_t none = 0;
    for (int signal = 1; signal <= SIGNALS; signal++)
        sys4(__NR_rt_sigaction, signal, &fallback, 0, sizeof none);
    must(sys4(__NR_rt_sigprocmask, 2, &none, 0, sizeof none), STEP_PREPARE, "signal mask");
    memset(all_cpus, 0xff, sizeof all_cpus);
    sys3(__NR_sched_setaffinity, 0, sizeof all_cpus, all_cpus);
    sys1(__NR_umask, 0);
}

/* With the root's mount, for who would hold it: in a moment we may have it from nowhere but "/". */
static void report_mounted(const struct stage *s)
{
    if (s->root >= 0)
        report_fd(REPORT_MOUNTED, s->root);
    else
        report(REPORT_MOUNTED, STEP_NONE, 0, "");
}

static void join_keyring(const struct stage *s)
{
    if (!wants(s, PLAN_KEYRING))
        return;
    long result = sys2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
    if (result != -ENOSYS)
        must(result, STEP_KEYRING, "join");
}

/* The caller places us in the cgroups meanwhile; a cgroup namespace is rooted where we are then. */
static void await_cgroup(const struct stage *s)
{
    if (wants(s, PLAN_WAIT_CGROUP)) {
        report_mounted(s);
        if (!wants(s, PLAN_GO_ON))
            await_caller();
    }
    if (wants(s, PLAN_NEW_CGROUP_NS))
        must(sys1(__NR_unshare, CLONE_NEWCGROUP), STEP_CGROUP_NAMESPACE, "unshare");
}

/* A member of the pid namespace is born as a child of our caller, and we leave. */
static void fork_into(void)
{
    long pid = must(sys5(__NR_clone, CLONE_PARENT, 0, 0, 0, 0), STEP_FORK, "clone");
    if (pid == 0)
        return;
    report(REPORT_PID, STEP_FORK, pid, "");
    sys_exit(0);
}

/* Settings of the new namespaces; then whoever created us puts its own finish to it. */
static void settle_container(struct stage *s)
{
    procfs_open(s);
    sysctls_write(s);
    oom_score_write(s);
    await_cgroup(s);
    names_set(s);
    hooks_run(s, HOOK_CREATE_CONTAINER);
}

/* Root of a user namespace may not write the host's settings of its own process any more. */
static void settle_early(struct stage *s)
{
    bool leaves = wants(s, PLAN_BECOME_ROOT) || (s->plan.general.unshare & CLONE_NEWUSER);
    if (!leaves && !wants(s, PLAN_EXEC))
        return;
    procfs_of_host(s);
    /* What may not be dumped belongs to the host's root, and an ordinary user's own stage could not write it. Nothing
     * of the container can see this process yet. */
    bool ordinary = sys0(__NR_geteuid) != 0;
    if (ordinary)
        must(sys5(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0), STEP_OOM_SCORE, "dumpable");
    oom_score_write(s);
    if (ordinary)
        must(sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), STEP_OOM_SCORE, "dumpable");
    if (!wants(s, PLAN_EXEC)) {
        must_close(s->proc);
        s->proc = -1;
    }
}

static void build_container(struct stage *s)
{
    if (wants(s, PLAN_LOOPBACK))
        loopback_up();
    if (wants(s, PLAN_CHROOT)) {
        settle_container(s);
        root_change(s);
        return;
    }
    mounts_detach_from_host(s);
    rootfs_open(s);
    masks_prepare(s);
    rootfs_attach(s);
    mounts_make(s);
    devices_make(s);
    stdio_null(s);
    if (wants(s, PLAN_TERMINAL))
        console_make(s, true);
    masks_apply(s);
    failpoint(FAILPOINT_MOUNTED);
    settle_container(s);
    root_enter(s);
    failpoint(FAILPOINT_PIVOTED);
}

static void join_container(struct stage *s)
{
    s->root = (int)must(sys4(__NR_openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0), STEP_ROOTFS, "/");
    stdio_null(s);
    if (wants(s, PLAN_TERMINAL))
        console_make(s, false);
}

static bool is_terminal(const struct statx *info)
{
    return (info->stx_mode & S_IFMT) == S_IFCHR && info->stx_rdev_major >= 136 && info->stx_rdev_major <= 143;
}

/* /dev/stdout and its like must be open to the user. Only what was made for this process: the owner of
 * another device or file that the caller passed is not ours to change. */
static void give_stdio(const struct stage *s)
{
    struct statx info;
    for (int fd = 0; fd < 3; fd++) {
        path_stat(fd, &info, STEP_STDIO, "standard descriptors");
        if (info.stx_uid != s->uid && (is_terminal(&info) || (info.stx_mode & S_IFMT) == S_IFIFO))
            sys3(__NR_fchown, fd, s->uid, -1);
    }
}

static void become_user(struct stage *s)
{
    user_resolve(s);
    profile_set(s);
    descriptors_settle(s);
    rlimits_set(s);
    directory_enter(s);
    give_stdio(s);
    environment_prepare(s);
    tuning_set(s);
    credentials_set(s);
    program_find(s);
}

/* Once a process is visible in a pid namespace that others live in, it holds nothing they do not. */
static void enter_session(const struct stage *s)
{
    bool late = wants(s, PLAN_FORK_LATE), late_filter = wants(s, PLAN_LATE_FILTER);
    if (!late)
        session_start(s);
    if (!late_filter) {
        filter_load(s);
        capabilities_final(s);
    }
    if (late) {
        fork_into();
        session_start(s);
    }
    if (late_filter) {
        filter_load(s);
        capabilities_final(s);
    }
}

static _Noreturn void run(const struct stage *s)
{
    if (wants(s, PLAN_PARK) && !wants(s, PLAN_GO_ON))
        report(REPORT_READY, STEP_NONE, 0, "");
    if (wants(s, PLAN_FIFO)) {
        report_leave();
        fifo_await(s);
    } else if (wants(s, PLAN_PARK))
        await_caller();
    hooks_run(s, HOOK_START_CONTAINER);
    failpoint(FAILPOINT_RELEASED);
    long error = sys3(__NR_execve, s->program, s->argv, s->env);
    die(STEP_EXEC, error, s->argv[0]);
}

_Noreturn void nsinit_main(void)
{
    static struct stage stage;
    struct stage *s = &stage;
    *s = (struct stage){.root = -1, .dev = -1, .pts = -1, .proc = -1, .fifo = -1, .extra = STAGE_FIRST_EXTRA_FD};
    must(sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), STEP_PREPARE, "dumpable");
    reset_inherited();
    read_plan(s);
    affinity_set(s);
    join_keyring(s);
    if (wants(s, PLAN_EXEC))
        await_cgroup(s);
    settle_early(s);
    namespaces_join(s);
    namespaces_make(s);
    if (wants(s, PLAN_FORK_EARLY))
        fork_into();
    failpoint(FAILPOINT_JOINED);
    if (wants(s, PLAN_EXEC))
        join_container(s);
    else
        build_container(s);
    become_user(s);
    enter_session(s);
    failpoint(FAILPOINT_CONFINED);
    run(s);
}
