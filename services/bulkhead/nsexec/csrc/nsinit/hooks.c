/* Hooks that run inside: createContainer in the container's mount namespace before the pivot, startContainer as
 * the container's user just before exec. Input and output are memory files, so no hook can block us by not
 * reading or by writing much. */
#include "nsinit.h"

enum { OUTPUT_SHOWN = 600, HOW_MAX = 64, SIGCHLD_ = 17, SIGKILL_ = 9, POLLIN_ = 1 };

static const char *const kind_names[] = {"", "createContainer", "startContainer"};

struct user_poll {
    int fd;
    short events, revents;
};

static int memory_file(const char *name)
{
    return (int)must(sys2(__NR_memfd_create, name, 1), STEP_HOOK, "memory file"); /* MFD_CLOEXEC */
}

static void write_text(int fd, const char *text)
{
    size_t length = text_length(text);
    while (length > 0) {
        long written = must(sys3(__NR_write, fd, text, length), STEP_HOOK, "state");
        text += written;
        length -= (size_t)written;
    }
}

/* The container's state as JSON; the plan leaves out the pid, which is this process's own. */
static int state_file(const struct stage *s, uint32_t kind)
{
    const char *creating = "", *created = "", *tail = "";
    char digits[32];
    struct plan_cursor parts = s->plan.state;
    plan_next_string(&parts, &creating);
    plan_next_string(&parts, &created);
    plan_next_string(&parts, &tail);
    int fd = memory_file("state");
    write_text(fd, kind == HOOK_CREATE_CONTAINER ? creating : created);
    write_text(fd, number_text(digits + sizeof digits, (uint64_t)sys0(__NR_getpid)));
    write_text(fd, tail);
    must(sys3(__NR_lseek, fd, 0, 0), STEP_HOOK, "state");
    return fd;
}

static _Noreturn void become_hook(const struct stage *s, const struct plan_hook *h, int input, int output, const char *name)
{
    static char text[REPORT_DETAIL_MAX];
    const char **argv = strings_gather(h->argv, 0), **env = strings_gather(h->env, 0);
    must(sys3(__NR_dup3, input, 0, 0), STEP_HOOK, h->path);
    must(sys3(__NR_dup3, output, 1, 0), STEP_HOOK, h->path);
    must(sys3(__NR_dup3, output, 2, 0), STEP_HOOK, h->path);
    sys2(__NR_setpgid, 0, 0);
    if (h->kind == HOOK_CREATE_CONTAINER && s->root >= 0) /* the root to be: relative paths mean it, as with runc */
        must(sys1(__NR_fchdir, s->root), STEP_HOOK, h->path);
    must(sys3(__NR_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC_), STEP_HOOK, h->path);
    long error = sys3(__NR_execve, h->path, argv, env);
    text_join(text, sizeof text, name, ": fork/exec ", h->path);
    die(STEP_HOOK, error, text);
}

static _Noreturn void hook_failed(const char *name, const char *how, int output)
{
    static char text[REPORT_DETAIL_MAX], shown[OUTPUT_SHOWN + 1], head[128];
    long got = sys4(__NR_pread64, output, shown, OUTPUT_SHOWN, 0);
    shown[got > 0 ? got : 0] = 0;
    text_join(head, sizeof head, name, ": ", how);
    text_join(text, sizeof text, head, ", output: ", shown);
    die(STEP_HOOK, -ECANCELED, text);
}

/* False when it ran out of its time; then it and what it started in its group are killed. */
static bool in_time(int pidfd, long pid, uint32_t seconds)
{
    struct user_poll wanted = {pidfd, POLLIN_, 0};
    struct {
        int64_t seconds, nanoseconds;
    } limit = {seconds, 0};
    long ready;
    do
        ready = sys5(__NR_ppoll, &wanted, 1, seconds ? &limit : NULL, NULL, 0);
    while (ready == -EINTR);
    if (ready > 0)
        return true;
    sys2(__NR_kill, -pid, SIGKILL_);
    sys2(__NR_kill, pid, SIGKILL_);
    return false;
}

/* As strsignal(3) has them, in lower case. */
static const char *signal_text(int number)
{
    static const char *const names[] = {
        [1] = "hangup",          [2] = "interrupt",    [3] = "quit",        [4] = "illegal instruction",
        [6] = "aborted",         [7] = "bus error",    [8] = "floating point exception", [9] = "killed",
        [11] = "segmentation fault", [13] = "broken pipe", [14] = "alarm clock", [15] = "terminated",
        [31] = "bad system call"};
    return number < (int)(sizeof names / sizeof *names) ? names[number] : NULL;
}

static void outcome_text(char how[HOW_MAX], int status)
{
    char digits[32];
    int number = status & 0x7f;
    const char *name = number ? signal_text(number) : NULL;
    uint64_t shown = (uint64_t)(number ? number : status >> 8 & 0xff);
    text_join(how, HOW_MAX, number ? "signal: " : "exit status ",
              name ? name : number_text(digits + sizeof digits, shown), "");
}

static void run_hook(const struct stage *s, const struct plan_hook *h, const char *name)
{
    char how[HOW_MAX];
    int pidfd = -1, status = 0;
    int input = state_file(s, h->kind), output = memory_file("output");
    long pid = must(sys5(__NR_clone, CLONE_PIDFD | SIGCHLD_, 0, &pidfd, 0, 0), STEP_HOOK, h->path);
    if (pid == 0)
        become_hook(s, h, input, output, name);
    bool finished = in_time(pidfd, pid, h->timeout);
    while (sys4(__NR_wait4, pid, &status, 0, 0) == -EINTR)
        ;
    must_close(pidfd);
    must_close(input);
    if (!finished)
        hook_failed(name, "context deadline exceeded", output);
    if (status != 0) {
        outcome_text(how, status);
        hook_failed(name, how, output);
    }
    must_close(output);
}

void hooks_run(const struct stage *s, uint32_t kind)
{
    static char name[64];
    char digits[32], count[40];
    uint64_t number = 0;
    struct plan_hook hook;
    struct plan_cursor cursor = s->plan.hooks;
    while (plan_next_hook(&cursor, &hook)) {
        if (hook.kind != kind)
            continue;
        text_join(count, sizeof count, "hook #", number_text(digits + sizeof digits, number++), " (");
        text_join(name, sizeof name, count, kind_names[kind], ")");
        run_hook(s, &hook, name);
    }
}
