/* /dev, the console and the standard descriptors. */
#include "nsinit.h"

static uint32_t node_type(const struct statx *info) { return info->stx_mode & S_IFMT; }

static uint64_t device_number(uint32_t major, uint32_t minor)
{
    return (minor & 0xffu) | ((uint64_t)(major & 0xfffu) << 8) | ((uint64_t)(minor & ~0xffu) << 12);
}

static bool same_device(int parent, const struct plan_device *d, int flags, const char *name)
{
    struct statx info;
    if (sys5(__NR_statx, parent, name, flags, STATX_BASIC_STATS, &info) < 0)
        return false;
    return node_type(&info) == (d->mode & S_IFMT) && info.stx_rdev_major == d->major && info.stx_rdev_minor == d->minor;
}

static void make_node(const struct stage *s, const struct plan_device *d)
{
    const char *name;
    bool direct = s->dev >= 0 && text_starts(d->path, "/dev/") && !text_find(d->path + 5, '/');
    int parent = direct ? s->dev : path_parent(s->root, d->path, &name);
    must(parent, STEP_DEVICE, d->path);
    if (direct)
        name = d->path + 5;
    long made = sys4(__NR_mknodat, parent, name, d->mode, device_number(d->major, d->minor));
    if (made == -EEXIST && same_device(parent, d, AT_SYMLINK_NOFOLLOW, name))
        made = 0;
    must(made, STEP_DEVICE, d->path);
    must(sys5(__NR_fchownat, parent, name, d->uid, d->gid, AT_SYMLINK_NOFOLLOW), STEP_DEVICE, d->path);
    if (!direct)
        must_close(parent);
}

static void make_links(const struct stage *s)
{
    static const char *const links[][2] = {
        {"/proc/self/fd", "fd"},       {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
        {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},         {"/proc/kcore", "core"}}; /* the last one where the kernel has it */
    size_t count = sizeof links / sizeof *links - (sys3(__NR_faccessat, AT_FDCWD, "/proc/kcore", 0) < 0);
    int dev = s->dev >= 0 ? s->dev : path_target(s->root, "/dev", true);
    must(dev, STEP_DEVICE, "/dev");
    for (size_t i = 0; i < count; i++) {
        long made = sys3(__NR_symlinkat, links[i][0], dev, links[i][1]);
        if (made != -EEXIST)
            must(made, STEP_DEVICE, links[i][1]);
    }
    if (s->dev < 0)
        must_close(dev);
}

/* Inside a user namespace nobody makes nodes: the host's of the same name is bound, if it is the same device. */
static void bind_node(const struct stage *s, const struct plan_device *d)
{
    int source = (int)must(sys4(__NR_openat, AT_FDCWD, d->path, O_PATH | O_CLOEXEC | O_NOFOLLOW, 0), STEP_DEVICE, d->path);
    if (!same_device(source, d, AT_EMPTY_PATH, ""))
        die(STEP_DEVICE, -ENODEV, d->path);
    int tree = mount_clone(source, false, STEP_DEVICE, d->path);
    int target = path_target(s->root, d->path, false);
    must(target, STEP_DEVICE, d->path);
    mount_attach(tree, target, STEP_DEVICE, d->path);
    must_close(target);
    must_close(tree);
    must_close(source);
}

void devices_make(const struct stage *s)
{
    struct plan_device device;
    struct plan_cursor cursor = s->plan.devices;
    if (!wants(s, PLAN_SETUP_DEV))
        return; /* the host's or a volume's: no nodes are left there, and none of its own changes hands */
    while (plan_next_device(&cursor, &device))
        wants(s, PLAN_BIND_DEVICES) ? bind_node(s, &device) : make_node(s, &device);
    make_links(s);
}

/* ---- the console ---- */

/* Always the container's own devpts: by the descriptor we mounted, or for a process that joins later by
 * a look-up that accepts nothing but /dev/pts/ptmx of a devpts (CVE-2025-52565). */
static int open_master(const struct stage *s)
{
    struct statx info;
    int root = s->pts >= 0 ? s->pts : s->root;
    const char *path = s->pts >= 0 ? "ptmx" : "dev/pts/ptmx";
    int master = path_open(root, path, O_RDWR | O_NOCTTY, RESOLVE_NO_SYMLINKS);
    must(master, STEP_CONSOLE, "/dev/pts/ptmx");
    path_stat(master, &info, STEP_CONSOLE, "/dev/pts/ptmx");
    bool genuine = node_type(&info) == S_IFCHR && info.stx_rdev_major == 5 && info.stx_rdev_minor == 2;
    if (!genuine || path_filesystem(master) != DEVPTS_SUPER_MAGIC)
        die(STEP_CONSOLE, -ENOTTY, "/dev/pts/ptmx");
    return master;
}

static int open_peer(const struct stage *s, int master)
{
    int unlock = 0;
    struct winsize size = {.ws_row = (unsigned short)s->plan.general.rows,
                           .ws_col = (unsigned short)s->plan.general.columns};
    must(sys3(__NR_ioctl, master, TIOCSPTLCK, &unlock), STEP_CONSOLE, "unlock");
    int peer = (int)must(sys3(__NR_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC), STEP_CONSOLE, "peer");
    if (size.ws_row || size.ws_col)
        must(sys3(__NR_ioctl, master, TIOCSWINSZ, &size), STEP_CONSOLE, "size");
    return peer;
}

static void bind_console(const struct stage *s, int peer)
{
    int root = s->dev >= 0 ? s->dev : s->root;
    int target = path_target(root, s->dev >= 0 ? "console" : "dev/console", false);
    must(target, STEP_CONSOLE, "/dev/console");
    int tree = mount_clone(peer, false, STEP_CONSOLE, "/dev/console");
    mount_attach(tree, target, STEP_CONSOLE, "/dev/console");
    must_close(tree);
    must_close(target);
}

static void take_stdio(int from, int target)
{
    must(sys3(__NR_dup3, from, target, 0), STEP_STDIO, "standard descriptors");
}

void console_make(const struct stage *s, bool new_container)
{
    int master = open_master(s);
    int peer = open_peer(s, master);
    if (new_container)
        bind_console(s, peer);
    report_fd(REPORT_CONSOLE, master);
    for (int fd = 0; fd < 3; fd++)
        take_stdio(peer, fd);
    must_close(master);
    must_close(peer);
}

/* The container's own /dev/null: through the host's, root inside could change the host's inode. */
static int open_null(const struct stage *s)
{
    struct statx info;
    int root = s->dev >= 0 ? s->dev : s->root;
    int fd = path_open(root, s->dev >= 0 ? "null" : "dev/null", O_RDWR, RESOLVE_NO_SYMLINKS);
    must(fd, STEP_STDIO, "/dev/null");
    path_stat(fd, &info, STEP_STDIO, "/dev/null");
    if (node_type(&info) != S_IFCHR || info.stx_rdev_major != 1 || info.stx_rdev_minor != 3)
        die(STEP_STDIO, -ENODEV, "/dev/null");
    return fd;
}

void stdio_null(const struct stage *s)
{
    static const uint64_t flags[] = {PLAN_NULL_STDIN, PLAN_NULL_STDOUT, PLAN_NULL_STDERR};
    int null = -1;
    for (int fd = 0; fd < 3; fd++) {
        if (!wants(s, flags[fd]))
            continue;
        if (null < 0)
            null = open_null(s);
        take_stdio(null, fd);
    }
    must_close(null);
}
