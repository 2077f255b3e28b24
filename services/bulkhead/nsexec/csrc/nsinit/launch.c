/* The last part: what is executed, with which words, and the exec itself. */
#include "nsinit.h"

static const char *lookup(const struct stage *s, const char *key)
{
    size_t length = text_length(key);
    const char *found = NULL;
    for (const char **entry = s->env; *entry; entry++)
        if (text_starts(*entry, key) && (*entry)[length] == '=')
            found = *entry + length + 1; /* the last one wins, as in the shells */
    return found;
}

const char **strings_gather(struct plan_cursor cursor, size_t spare)
{
    const char **list = reserve((cursor.left + spare + 1) * sizeof *list);
    for (size_t i = 0; plan_next_string(&cursor, &list[i]); i++)
        ;
    return list;
}

void environment_prepare(struct stage *s)
{
    static char entry[4096 + 8];
    s->argv = strings_gather(s->plan.argv, 0);
    s->env = strings_gather(s->plan.env, 1);
    const char *home = lookup(s, "HOME");
    if (home && *home)
        return;
    if (!text_join(entry, sizeof entry, "HOME=", s->home, ""))
        return;
    const char **at = s->env;
    while (*at && !text_starts(*at, "HOME="))
        at++;
    *at = entry;
}

/* 0 when this user may execute the file; directories count as not permitted, as Docker says it. */
static long executable(const char *path)
{
    struct statx info;
    long result = sys5(__NR_statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, &info);
    if (result < 0)
        return result;
    if ((info.stx_mode & S_IFMT) == S_IFDIR || (info.stx_mode & 0111) == 0)
        return -EACCES;
    return sys4(__NR_faccessat2, AT_FDCWD, path, 1, AT_EACCESS);
}

static const char *search(const char *path, const char *name)
{
    static char candidate[4096], directory[4096];
    while (path) {
        const char *colon = text_find(path, ':');
        size_t length = colon ? (size_t)(colon - path) : text_length(path);
        if (length < sizeof directory) {
            memcpy(directory, length ? path : ".", length ? length : 1);
            directory[length ? length : 1] = 0;
            if (text_join(candidate, sizeof candidate, directory, "/", name) && executable(candidate) == 0)
                return candidate;
        }
        path = colon ? colon + 1 : NULL;
    }
    die(STEP_LOOKUP, -ENOENT, name);
}

void program_find(struct stage *s)
{
    const char *name = s->argv[0];
    if (!text_find(name, '/')) {
        s->program = search(*name ? lookup(s, "PATH") : NULL, name);
        return;
    }
    must(executable(name), STEP_LOOKUP, name);
    s->program = name;
}

void session_start(const struct stage *s)
{
    must(sys0(__NR_setsid), STEP_SESSION, "setsid");
    if (wants(s, PLAN_TERMINAL))
        must(sys3(__NR_ioctl, 0, TIOCSCTTY, 0), STEP_CONSOLE, "controlling terminal");
}

/* Moves what must outlive this point out of the way of the descriptors that the payload keeps, then closes the rest.
 * Copying upwards is safe: each kept descriptor came in above the place it goes to. */
void descriptors_settle(struct stage *s)
{
    s->fifo = wants(s, PLAN_FIFO) ? take_extra(s) : -1;
    if (s->fifo < 0)
        s->proc = -1; /* closed with the rest: only who waits for the FIFO needs it */
    int first = STAGE_SYNC_FD + (int)s->plan.general.preserved, came = s->extra;
    int *const keep[] = {&s->fifo, &s->proc};
    int above = came + (int)s->plan.general.preserved + 3;
    int sync = (int)must(sys3(__NR_fcntl, report_socket(), F_DUPFD_CLOEXEC, above), STEP_STDIO, "descriptors");
    report_through(sync);
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++)
        if (*keep[i] >= 0)
            *keep[i] = (int)must(sys3(__NR_fcntl, *keep[i], F_DUPFD_CLOEXEC, above), STEP_STDIO, "descriptors");
    for (int fd = STAGE_SYNC_FD; fd < first; fd++, came++)
        must(sys3(__NR_dup3, came, fd, 0), STEP_STDIO, "preserved descriptors");
    must(sys3(__NR_dup3, sync, first, O_CLOEXEC), STEP_STDIO, "descriptors");
    report_through(first++);
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++)
        if (*keep[i] >= 0) {
            must(sys3(__NR_dup3, *keep[i], first, O_CLOEXEC), STEP_STDIO, "descriptors");
            *keep[i] = first++;
        }
    must(sys3(__NR_close_range, first, ~0u, 0), STEP_STDIO, "close");
}

/* Blocks until somebody reads (runc's order, step 36), and tells it by one byte. Through the procfs of our own: the
 * container's may be missing or be anything. */
void fifo_await(const struct stage *s)
{
    char digits[32], path[64];
    bool own = s->proc >= 0;
    text_join(path, sizeof path, own ? "self/fd/" : "/proc/self/fd/",
              number_text(digits + sizeof digits, (uint64_t)s->fifo), "");
    int fd = (int)must(sys4(__NR_openat, own ? s->proc : AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0), STEP_FIFO, "open");
    must(sys3(__NR_write, fd, "0", 1), STEP_FIFO, "write");
    must_close(fd);
    must_close(s->fifo);
    must_close(s->proc);
}
