/* The mount table of the container, made inside its own mount namespace with descriptors only. */
#include "nsinit.h"

#define MS_MOVE_ 0x2000u
#define MS_REC_ 0x4000u
#define MS_PRIVATE_ 0x40000u
#define MS_SLAVE_ 0x80000u
#define MS_SHARED_ 0x100000u

void mount_attributes(int fd, uint64_t set, uint64_t clear, uint64_t propagation, bool tree, int step, const char *what)
{
    struct mount_attr attributes = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
    if (!set && !clear && !propagation)
        return;
    unsigned int flags = AT_EMPTY_PATH | (tree ? AT_RECURSIVE : 0u);
    must(sys5(__NR_mount_setattr, fd, "", flags, &attributes, sizeof attributes), step, what);
}

void mount_attach(int fd, int target, int step, const char *what)
{
    must(sys5(__NR_move_mount, fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), step, what);
}

int mount_clone(int from, bool tree, int step, const char *what)
{
    unsigned int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (tree ? AT_RECURSIVE : 0u);
    return (int)must(sys3(__NR_open_tree, from, "", flags), step, what);
}

/* On a line of their own the kernel's words about a refused option ("e tmpfs: Unknown parameter 'x'"), if it has any. */
static _Noreturn void die_with_log(int context, int step, long error, const char *what)
{
    static char log[512], text[REPORT_DETAIL_MAX];
    long got = sys3(__NR_read, context, log, sizeof log - 1);
    if (got <= 2)
        die(step, error, what);
    log[got] = 0;
    if (log[got - 1] == '\n')
        log[got - 1] = 0;
    die(step, error, text_join(text, sizeof text, what, "\n", log + 2) ? text : what);
}

/* fsconfig takes strings below 256 bytes; a longer path goes in as a descriptor (6.13). */
static long configure(int context, const char *key, const char *value)
{
    if (text_length(value) < 256)
        return sys5(__NR_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0);
    long fd = sys4(__NR_openat, AT_FDCWD, value, O_PATH | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long result = sys5(__NR_fsconfig, context, FSCONFIG_SET_FD, key, 0, fd);
    must_close((int)fd);
    return result;
}

static long set_option(int context, const char *key, const char *value)
{
    if (!*value)
        return sys5(__NR_fsconfig, context, FSCONFIG_SET_FLAG, key, 0, 0);
    return configure(context, key, value);
}

static long set_options(int context, struct plan_cursor options, unsigned int command)
{
    const char *key, *value;
    long result = 0;
    while (result >= 0 && plan_next_option(&options, &key, &value))
        result = set_option(context, key, value);
    return result < 0 ? result : sys5(__NR_fsconfig, context, command, 0, 0, 0);
}

static long make_superblock(int context, const char *source, struct plan_cursor options)
{
    long result = *source ? configure(context, "source", source) : 0;
    return result < 0 ? result : set_options(context, options, FSCONFIG_CMD_CREATE);
}

/* A descriptor, or the error. */
int mount_try(const char *type, const char *source, struct plan_cursor options, uint64_t attributes)
{
    int context = (int)sys2(__NR_fsopen, type, FSOPEN_CLOEXEC);
    if (context < 0)
        return context;
    long result = make_superblock(context, source, options);
    if (result >= 0)
        result = sys3(__NR_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    must_close(context);
    return (int)result;
}

int mount_new(const char *type, const char *source, struct plan_cursor options, uint64_t attributes, int step,
              const char *what)
{
    int context = (int)must(sys2(__NR_fsopen, type, FSOPEN_CLOEXEC), step, what);
    long result = make_superblock(context, source, options);
    if (result < 0)
        die_with_log(context, step, result, what);
    long fd = sys3(__NR_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    must(fd, step, what);
    must_close(context);
    return (int)fd;
}

/* A shared parent of the new root would carry it to the host, and pivot_root refuses it. What is shared
 * is known only mount by mount, so go up until one takes the change: that is the one it lies on. */
static void privatise_parent(const char *path)
{
    static char at[4096];
    if (!text_join(at, sizeof at, path, "", ""))
        die(STEP_PROPAGATION, -ENAMETOOLONG, path);
    for (size_t length = text_length(at); length > 0; length--) {
        if (length > 1 && at[length] != '/' && at[length] != 0)
            continue;
        at[length] = 0;
        long result = sys5(__NR_mount, 0, at, 0, MS_PRIVATE_, 0);
        if (result != -EINVAL) {
            must(result, STEP_PROPAGATION, at);
            return;
        }
    }
    die(STEP_PROPAGATION, -EINVAL, path);
}

void mounts_detach_from_host(const struct stage *s)
{
    uint32_t propagation = s->plan.general.root_propagation;
    must(sys5(__NR_mount, 0, "/", 0, propagation, 0), STEP_PROPAGATION, "/");
    if (propagation & MS_SHARED_)
        privatise_parent(s->plan.root.path);
}

/* ---- the root file system ---- */

static void overlay_set(int context, const char *key, const char *value)
{
    long result = set_option(context, key, value);
    if (result < 0)
        die_with_log(context, STEP_ROOTFS, result, value);
}

static void append(char *text, size_t size, const char *a, const char *b)
{
    size_t used = text_length(text);
    if (!text_join(text + used, size - used, a, b, ""))
        die(STEP_ROOTFS, -E2BIG, "layers");
}

static void append_layer(char *text, size_t size, const char *before, const char *path)
{
    char digits[32];
    long fd = must(sys4(__NR_openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0), STEP_ROOTFS, path);
    append(text, size, before, number_text(digits + sizeof digits, (uint64_t)fd));
}

/* Before 6.8 all layers are one option, and all options one page: so a layer is named by its descriptor,
 * which inside /proc/self/fd is a mere number. */
static int overlay_classic(const struct plan_root *root)
{
    static char data[4096];
    const char *layer, *before = "lowerdir=";
    struct plan_cursor lower = root->lower;
    long first = must(sys3(__NR_fcntl, STAGE_SYNC_FD, F_DUPFD_CLOEXEC, 0), STEP_ROOTFS, "descriptors");
    for (; plan_next_string(&lower, &layer); before = ":")
        append_layer(data, sizeof data, before, layer);
    append_layer(data, sizeof data, ",upperdir=", root->upper);
    append_layer(data, sizeof data, ",workdir=", root->work);
    append(data, sizeof data, ",index=off,metacopy=off,redirect_dir=nofollow,uuid=off", root->is_volatile ? ",volatile" : "");
    must(sys1(__NR_chdir, "/proc/self/fd"), STEP_ROOTFS, "/proc/self/fd");
    must(sys5(__NR_mount, "overlay", root->path, "overlay", 0, data), STEP_ROOTFS, root->upper);
    must(sys1(__NR_chdir, "/"), STEP_ROOTFS, "/");
    must(sys3(__NR_close_range, first, ~0u, 0), STEP_ROOTFS, "descriptors");
    int fd = (int)must(sys3(__NR_open_tree, AT_FDCWD, root->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), STEP_ROOTFS,
                       root->path);
    must(sys2(__NR_umount2, root->path, MNT_DETACH), STEP_ROOTFS, root->path);
    return fd;
}

static int overlay_new(const struct plan_root *root)
{
    const char *layer = "";
    struct plan_cursor lower = root->lower;
    int context = (int)must(sys2(__NR_fsopen, "overlay", FSOPEN_CLOEXEC), STEP_ROOTFS, "overlay");
    for (bool first = true; plan_next_string(&lower, &layer); first = false) {
        long result = set_option(context, "lowerdir+", layer);
        if (first && result == -EINVAL) { /* the option is not known here */
            must_close(context);
            return overlay_classic(root);
        }
        if (result < 0)
            die_with_log(context, STEP_ROOTFS, result, layer);
    }
    overlay_set(context, "source", "overlay"); /* what df calls it */
    overlay_set(context, "upperdir", root->upper);
    overlay_set(context, "workdir", root->work);
    overlay_set(context, "index", "off");
    overlay_set(context, "metacopy", "off");
    overlay_set(context, "redirect_dir", "nofollow");
    overlay_set(context, "uuid", "off"); /* else each first mount writes an attribute, and waits for the journal */
    if (root->is_volatile)
        overlay_set(context, "volatile", "");
    long result = sys5(__NR_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (result < 0)
        die_with_log(context, STEP_ROOTFS, result, root->upper);
    int fd = (int)must(sys3(__NR_fsmount, context, FSMOUNT_CLOEXEC, 0), STEP_ROOTFS, root->upper);
    must_close(context);
    return fd;
}

void rootfs_open(struct stage *s)
{
    const struct plan_root *root = &s->plan.root;
    unsigned int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
    if (root->kind == ROOT_OVERLAY)
        s->root = overlay_new(root);
    else if (root->kind == ROOT_OVERLAY_CLASSIC)
        s->root = overlay_classic(root);
    else if (wants(s, PLAN_ROOT_GIVEN))
        s->root = take_extra(s);
    else
        s->root = (int)must(sys3(__NR_open_tree, AT_FDCWD, root->path, flags), STEP_ROOTFS, root->path);
}

const char *root_place(const struct stage *s)
{
    const char *path = s->plan.root.path;
    return sys3(__NR_faccessat, AT_FDCWD, path, 0) == -EACCES ? "/" : path;
}

/* pivot_root wants a mount point; root->path is a directory that exists and, in this mount namespace
 * only, is covered by the new root. The file system of the masks was attached below it before. */
void rootfs_attach(const struct stage *s)
{
    const char *path = root_place(s);
    must(sys5(__NR_move_mount, s->root, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), STEP_ROOTFS, path);
}

/* ---- config mounts ---- */

/* Docker mounts inside /proc only what lxcfs and its like provide, and on /proc nothing but a procfs:
 * masks and settings would go to files that the image made. */
static bool allowed_in_proc(const struct plan_mount *m)
{
    return (m->flags & (MOUNT_PROC_OK | MOUNT_IS_PROC | MOUNT_NEEDS_PROC)) != 0;
}

static bool is_directory(int fd, const char *what)
{
    struct statx info;
    path_stat(fd, &info, STEP_MOUNT, what);
    return (info.stx_mode & S_IFMT) == S_IFDIR;
}

static int open_mount_target(const struct stage *s, const struct plan_mount *m, bool directory)
{
    int fd;
    if (m->flags & MOUNT_NOFOLLOW) { /* CVE-2019-16884: /proc of an image is a link to elsewhere */
        fd = path_open(s->root, m->target, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
        if (fd == -ENOENT)
            fd = path_target(s->root, m->target, true);
        else if (fd == -ELOOP || fd == -ENOTDIR)
            die(STEP_MOUNT, -ENOTDIR, m->target);
    } else
        fd = path_target(s->root, m->target, directory);
    must(fd, STEP_MOUNT, m->target);
    if (path_filesystem(fd) == PROC_SUPER_MAGIC && !allowed_in_proc(m))
        die(STEP_MOUNT, -EPERM, m->target);
    if (is_directory(fd, m->target) != directory) /* move_mount would only say EINVAL */
        die(STEP_MOUNT, -ENOTDIR, m->target);
    return fd;
}

/* What a user namespace may not mount (sysfs of a network namespace that is not its own) is bound from the host. */
static int bind_of_host(const struct plan_mount *m)
{
    const unsigned int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
    int fd = (int)must(sys3(__NR_open_tree, AT_FDCWD, m->target, flags), STEP_MOUNT, m->target);
    mount_attributes(fd, m->set & MOUNT_ATTR_RDONLY, 0, 0, true, STEP_MOUNT, m->target);
    return fd;
}

static int make_filesystem(const struct plan_mount *m, uint64_t attributes)
{
    if (m->flags & MOUNT_OR_HOST) {
        int fd = mount_try(m->type, m->source, m->option_cursor, attributes);
        return fd == -EPERM ? bind_of_host(m) : (int)must(fd, STEP_MOUNT, m->target);
    }
    return mount_new(m->type, m->source, m->option_cursor, attributes, STEP_MOUNT, m->target);
}

/* Nodes, and places to mount on, are still to be made in /dev: it becomes read-only at the end. */
static uint64_t at_first(const struct plan_mount *m)
{
    return m->flags & MOUNT_IS_DEV ? m->set & ~(uint64_t)MOUNT_ATTR_RDONLY : m->set;
}

static int attach_filesystem(const struct stage *s, const struct plan_mount *m)
{
    bool copies = (m->flags & MOUNT_COPY_UP) != 0;
    int target = open_mount_target(s, m, true);
    int fd = make_filesystem(m, copies ? 0 : at_first(m));
    if (copies) {
        copy_up(target, fd);
        mount_attributes(fd, at_first(m), m->clear, 0, false, STEP_MOUNT, m->target);
    }
    mount_attach(fd, target, STEP_MOUNT, m->target);
    mount_attributes(fd, 0, 0, m->propagation & ~MS_REC_, (m->propagation & MS_REC_) != 0, STEP_MOUNT, m->target);
    must_close(target);
    return fd;
}

static int bind_source(struct stage *s, const struct plan_mount *m)
{
    bool tree = (m->flags & MOUNT_RECURSIVE) != 0;
    unsigned int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (tree ? AT_RECURSIVE : 0u);
    if (m->flags & MOUNT_GIVEN)
        return take_extra(s);
    return (int)must(sys3(__NR_open_tree, AT_FDCWD, m->source, flags), STEP_MOUNT, m->source);
}

static int attach_bind(struct stage *s, const struct plan_mount *m)
{
    int fd = bind_source(s, m);
    if ((m->flags & MOUNT_NEEDS_PROC) && path_filesystem(fd) != PROC_SUPER_MAGIC)
        die(STEP_MOUNT, -EPERM, m->target);
    mount_attributes(fd, m->set, m->clear, m->propagation & ~MS_REC_, false, STEP_MOUNT, m->target);
    mount_attributes(fd, m->tree_set, m->tree_clear, 0, true, STEP_MOUNT, m->target);
    if (m->propagation & MS_REC_)
        mount_attributes(fd, 0, 0, m->propagation & ~MS_REC_, true, STEP_MOUNT, m->target);
    int target = open_mount_target(s, m, is_directory(fd, m->source));
    mount_attach(fd, target, STEP_MOUNT, m->target);
    must_close(target);
    return fd;
}

static void make_symlink(const struct stage *s, const struct plan_mount *m)
{
    const char *name;
    int parent = path_parent(s->root, m->target, &name);
    must(parent, STEP_MOUNT, m->target);
    long result = sys3(__NR_symlinkat, m->source, parent, name);
    if (result != -EEXIST)
        must(result, STEP_MOUNT, m->target);
    must_close(parent);
}

static void change_superblock(int target, const struct plan_mount *m)
{
    int context = (int)must(sys3(__NR_fspick, target, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH), STEP_MOUNT, m->target);
    long result = set_options(context, m->option_cursor, FSCONFIG_CMD_RECONFIGURE);
    if (result < 0)
        die_with_log(context, STEP_MOUNT, result, m->target);
    must_close(context);
}

static void change_mount(const struct stage *s, const struct plan_mount *m)
{
    int target = path_open(s->root, m->target, O_PATH, 0);
    must(target, STEP_MOUNT, m->target);
    if (m->options)
        change_superblock(target, m);
    mount_attributes(target, m->set, m->clear, m->propagation & ~MS_REC_, false, STEP_MOUNT, m->target);
    mount_attributes(target, m->tree_set, m->tree_clear, 0, true, STEP_MOUNT, m->target);
    must_close(target);
}

static void make_mount(struct stage *s, const struct plan_mount *m)
{
    int fd = -1;
    switch (m->kind) {
    case MOUNT_FILESYSTEM: fd = attach_filesystem(s, m); break;
    case MOUNT_BIND: fd = attach_bind(s, m); break;
    case MOUNT_SYMLINK: make_symlink(s, m); break;
    default: change_mount(s, m); break;
    }
    if (m->flags & MOUNT_IS_DEV) {
        s->dev = fd;
        s->dev_attributes = m->set & MOUNT_ATTR_RDONLY;
    } else if (m->flags & MOUNT_IS_PTS)
        s->pts = fd;
    else
        must_close(fd);
}

void mounts_make(struct stage *s)
{
    struct plan_mount mount;
    struct plan_cursor cursor = s->plan.mounts;
    while (plan_next_mount(&cursor, &mount))
        make_mount(s, &mount);
}

/* Where pivot_root is impossible (the old root is an initramfs). What lies below the moved root can be reached by
 * whoever mounts a procfs or sysfs anew only if one is visible there: so the host's are taken away first. */
static void root_move(struct stage *s)
{
    const char *path;
    struct plan_cursor none = {0}, hidden = s->plan.hidden;
    while (plan_next_string(&hidden, &path)) {
        if (sys2(__NR_umount2, path, MNT_DETACH) >= 0)
            continue;
        int cover = mount_new("tmpfs", "", none, MOUNT_ATTR_RDONLY, STEP_PIVOT, "tmpfs");
        must(sys5(__NR_move_mount, cover, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), STEP_PIVOT, path);
        must_close(cover);
    }
    must(sys1(__NR_fchdir, s->root), STEP_PIVOT, "/");
    must(sys5(__NR_mount, ".", "/", 0, MS_MOVE_, 0), STEP_PIVOT, "move");
    must(sys1(__NR_chroot, "."), STEP_PIVOT, "chroot");
}

static uint64_t mount_id(int at, const char *path, int flags)
{
    struct statx info = {0};
    must(sys5(__NR_statx, at, path, flags, STATX_MNT_ID, &info), STEP_PIVOT, "mount id");
    return info.stx_mnt_id;
}

/* Whatever still lies on the new root would be the root of all who join this mount namespace later: the old root stays
 * if something was attached over its "/", where the first umount takes that instead. "/.." is what lies on top. */
static void root_uncover(const struct stage *s)
{
    enum { MOST = 4 };
    for (int i = 0; mount_id(AT_FDCWD, "/..", 0) != mount_id(s->root, "", AT_EMPTY_PATH); i++) {
        if (i == MOST)
            die(STEP_PIVOT, -EBUSY, "old root");
        must(sys2(__NR_umount2, ".", MNT_DETACH), STEP_PIVOT, "old root");
    }
}

/* A mount that is attached nowhere is taken apart when its descriptor is closed, and that waits for an RCU grace period
 * as the old root's end does: with that it costs nothing more. Where /proc is shared or missing it stays as it is. */
static void procfs_leave(const struct stage *s)
{
    if (s->proc >= 0 && !(s->plan.general.root_propagation & MS_SHARED_))
        sys5(__NR_move_mount, s->proc, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH);
}

static void root_pivot(struct stage *s)
{
    procfs_leave(s);
    int old = (int)must(sys4(__NR_openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0), STEP_PIVOT, "/");
    must(sys1(__NR_fchdir, s->root), STEP_PIVOT, "/");
    must(sys2(__NR_pivot_root, ".", "."), STEP_PIVOT, "/");
    if (s->plan.general.root_propagation & MS_SHARED_) /* what the host shares must stay mounted there */
        mount_attributes(old, 0, 0, MS_SLAVE_, true, STEP_PIVOT, "old root");
    must_close(old);
    must(sys2(__NR_umount2, ".", MNT_DETACH), STEP_PIVOT, "old root");
    root_uncover(s);
}

/* After this nothing of the host's tree can be named any more. */
void root_enter(struct stage *s)
{
    directory_make(s);
    mount_attributes(s->dev, s->dev_attributes, 0, 0, false, STEP_PIVOT, "/dev");
    if (wants(s, PLAN_ROOT_READONLY))
        mount_attributes(s->root, MOUNT_ATTR_RDONLY, 0, 0, false, STEP_PIVOT, "/");
    if (wants(s, PLAN_MOVE_ROOT))
        root_move(s);
    else
        root_pivot(s);
    must(sys1(__NR_chdir, "/"), STEP_PIVOT, "/");
    uint32_t propagation = s->plan.general.final_propagation;
    if (propagation)
        must(sys5(__NR_mount, 0, "/", 0, propagation, 0), STEP_PROPAGATION, "/");
}

/* Without a mount namespace of its own a process changes its root and nothing else. */
void root_change(struct stage *s)
{
    const char *path = s->plan.root.path;
    s->root = (int)must(sys4(__NR_openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0), STEP_ROOTFS, path);
    directory_make(s);
    must(sys1(__NR_fchdir, s->root), STEP_ROOTFS, path);
    must(sys1(__NR_chroot, "."), STEP_ROOTFS, path);
    must(sys1(__NR_chdir, "/"), STEP_ROOTFS, path);
}
