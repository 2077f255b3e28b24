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

static const char **gather(struct plan_cursor cursor, size_t spare)
{
    const char **list = reserve((cursor.left + spare + 1) * sizeof *list);
    for (size_t i = 0; plan_next_string(&cursor, &list[i]); i++)
        ;
    return list;
}

void environment_prepare(struct stage *s)
{
    static char entry[4096 + 8];
    s->argv = gather(s->plan.argv, 0);
    s->env = gather(s->plan.env, 1);
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
