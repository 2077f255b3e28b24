/* Names inside the container. The image chooses its symlinks and a volume's other users change them
 * while we look, so a path is resolved beneath the root by the kernel, once, and then only its
 * descriptor is used (CVE-2021-30465 and its family). */
#include "nsinit.h"

enum { PATH_LIMIT = 4096, LINK_LIMIT = 40, TRIES = 4096 };

#define REAL (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS)

int path_open(int root, const char *path, uint64_t flags, uint64_t resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve | RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    long fd;
    int tries = 0;
    do /* EAGAIN: something was renamed while ".." was being resolved; who renames for ever shall not hold us */
        fd = sys4(__NR_openat2, root, path, &how, sizeof how);
    while ((fd == -EAGAIN && ++tries < TRIES) || fd == -EINTR);
    return (int)fd;
}

void must_close(int fd)
{
    if (fd >= 0)
        sys1(__NR_close, fd);
}

void path_stat(int fd, struct statx *into, int step, const char *detail)
{
    must(sys5(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, into), step, detail);
}

uint64_t path_filesystem(int fd)
{
    struct statfs info = {0};
    return sys2(__NR_fstatfs, fd, &info) < 0 ? 0 : (uint64_t)info.f_type;
}

/* A walk that expands symlinks itself, so that what is missing can be made on the way. `done` has no
 * symlinks; each look-up refuses them, so a swap in between ends in an error, not elsewhere. */
struct walk {
    int root;
    char done[PATH_LIMIT], rest[PATH_LIMIT], scratch[PATH_LIMIT], name[256];
    int links;
};

static struct walk walk;

static void strip_last(char *path)
{
    size_t length = text_length(path);
    while (length > 0 && path[length - 1] != '/')
        length--;
    path[length > 0 ? length - 1 : 0] = 0;
}

/* Moves the next component of `rest` to `name`; false at the end. */
static int next_name(struct walk *w)
{
    size_t start = 0, length = 0;
    while (w->rest[start] == '/')
        start++;
    while (w->rest[start + length] && w->rest[start + length] != '/')
        length++;
    if (length == 0)
        return 0;
    if (length >= sizeof w->name)
        return -ENAMETOOLONG;
    memcpy(w->name, w->rest + start, length);
    w->name[length] = 0;
    start += length;
    for (length = 0; w->rest[start + length]; length++)
        w->rest[length] = w->rest[start + length];
    w->rest[length] = 0;
    return 1;
}

static bool is_last(const struct walk *w)
{
    for (const char *at = w->rest; *at; at++)
        if (*at != '/')
            return false;
    return true;
}

static long create_in(int parent, const char *name, bool directory)
{
    if (directory)
        return sys3(__NR_mkdirat, parent, name, 0755);
    long fd = sys4(__NR_openat, parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0644);
    if (fd >= 0)
        must_close((int)fd);
    return fd < 0 ? fd : 0;
}

static int make_entry(struct walk *w, bool directory)
{
    int parent = path_open(w->root, *w->done ? w->done : ".", O_PATH | O_DIRECTORY, REAL);
    if (parent < 0)
        return parent;
    long made = create_in(parent, w->name, directory);
    must_close(parent);
    return made == -EEXIST || made >= 0 ? 0 : (int)made;
}

static int expand_link(struct walk *w, int link)
{
    long length = sys4(__NR_readlinkat, link, "", w->scratch, sizeof w->scratch - 1);
    if (length < 0)
        return (int)length;
    w->scratch[length] = 0;
    if (++w->links > LINK_LIMIT)
        return -ELOOP;
    if (w->scratch[0] == '/')
        w->done[0] = 0;
    static char joined[PATH_LIMIT];
    if (!text_join(joined, sizeof joined, w->scratch, "/", w->rest))
        return -ENAMETOOLONG;
    memcpy(w->rest, joined, text_length(joined) + 1);
    return 0;
}

/* Goes one component down; answers 0, or an error. */
static int descend(struct walk *w, bool directory)
{
    struct statx info;
    static char candidate[PATH_LIMIT];
    if (text_equal(w->name, "."))
        return 0;
    if (text_equal(w->name, "..")) {
        strip_last(w->done);
        return 0;
    }
    if (!text_join(candidate, sizeof candidate, w->done, *w->done ? "/" : "", w->name))
        return -ENAMETOOLONG;
    int fd = path_open(w->root, candidate, O_PATH | O_NOFOLLOW, REAL);
    if (fd == -ENOENT) {
        int error = make_entry(w, directory || !is_last(w));
        if (error < 0)
            return error;
        fd = path_open(w->root, candidate, O_PATH | O_NOFOLLOW, REAL);
    }
    if (fd < 0)
        return fd;
    path_stat(fd, &info, STEP_MOUNT, candidate);
    int error = 0;
    if ((info.stx_mode & S_IFMT) == S_IFLNK)
        error = expand_link(w, fd);
    else if (!text_join(w->done, sizeof w->done, candidate, "", ""))
        error = -ENAMETOOLONG;
    must_close(fd);
    return error;
}

/* The usual case: only the last name is missing. -EEXIST when a dangling link has it. */
static int target_in_parent(int root, const char *path, bool directory)
{
    static char parent[PATH_LIMIT];
    if (!text_join(parent, sizeof parent, path, "", ""))
        return -ENAMETOOLONG;
    strip_last(parent);
    const char *name = path + text_length(parent) + (path[text_length(parent)] == '/');
    if (!*name || text_find(name, '/') || text_equal(name, ".") || text_equal(name, ".."))
        return -ENOENT;
    int holder = path_open(root, *parent ? parent : ".", O_PATH | O_DIRECTORY, 0);
    if (holder < 0)
        return holder;
    long made = create_in(holder, name, directory);
    int fd = made < 0 ? (int)made : path_open(holder, name, O_PATH | O_NOFOLLOW, REAL);
    must_close(holder);
    return fd;
}

int path_target(int root, const char *path, bool directory)
{
    int fd = path_open(root, path, O_PATH, 0);
    if (fd == -ENOENT)
        fd = target_in_parent(root, path, directory);
    if (fd != -ENOENT && fd != -EEXIST)
        return fd;
    walk.root = root;
    walk.links = 0;
    walk.done[0] = 0;
    if (!text_join(walk.rest, sizeof walk.rest, path, "", ""))
        return -ENAMETOOLONG;
    int more;
    while ((more = next_name(&walk)) > 0) {
        int error = descend(&walk, directory);
        if (error < 0)
            return error;
    }
    return more < 0 ? more : path_open(root, *walk.done ? walk.done : ".", O_PATH | O_NOFOLLOW, REAL);
}

int path_parent(int root, const char *path, const char **name)
{
    static char parent[PATH_LIMIT];
    if (!text_join(parent, sizeof parent, path, "", ""))
        return -ENAMETOOLONG;
    size_t slash = text_length(parent);
    while (slash > 0 && parent[slash - 1] != '/')
        slash--;
    *name = path + slash;
    parent[slash] = 0;
    if (!**name || text_equal(*name, ".") || text_equal(*name, ".."))
        return -EINVAL;
    return path_target(root, *parent ? parent : ".", true);
}
