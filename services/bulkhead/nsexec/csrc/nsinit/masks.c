/* Masked and read-only paths. What covers them comes from a file system of our own that the container
 * never sees otherwise: never from its /dev/null, which it could have replaced (CVE-2025-31133). */
#include "nsinit.h"

static int mask_file = -1, mask_directory = -1;

#define MASK_ATTRIBUTES (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)

/* Where no node can be made: still the host's tree that is looked at, and a genuine null device or none. */
static int host_null(void)
{
    struct statx info;
    int fd = (int)must(sys4(__NR_openat, AT_FDCWD, "/dev/null", O_PATH | O_CLOEXEC | O_NOFOLLOW, 0), STEP_MASK, "null");
    path_stat(fd, &info, STEP_MASK, "null");
    if ((info.stx_mode & S_IFMT) != S_IFCHR || info.stx_rdev_major != 1 || info.stx_rdev_minor != 3)
        die(STEP_MASK, -ENODEV, "null");
    return fd;
}

/* Attached on root->path, which the container's root is about to cover: it must be mounted somewhere
 * to be cloned from before Linux 6.15. It leaves with the old root. */
void masks_prepare(const struct stage *s)
{
    struct plan_cursor none = {0};
    if (s->plan.masked.left == 0)
        return;
    int fd = mount_new("tmpfs", "", none, MASK_ATTRIBUTES, STEP_MASK, "tmpfs");
    bool bound = wants(s, PLAN_BIND_DEVICES);
    if (!bound)
        must(sys4(__NR_mknodat, fd, "null", S_IFCHR | 0666, 0x103), STEP_MASK, "null");
    must(sys3(__NR_mkdirat, fd, "empty", 0755), STEP_MASK, "empty");
    const char *place = root_place(s);
    must(sys5(__NR_move_mount, fd, "", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH), STEP_MASK, place);
    mask_file = bound ? host_null() : (int)must(sys4(__NR_openat, fd, "null", O_PATH | O_CLOEXEC | O_NOFOLLOW, 0), STEP_MASK, "null");
    mask_directory = (int)must(sys4(__NR_openat, fd, "empty", O_PATH | O_CLOEXEC | O_DIRECTORY, 0), STEP_MASK, "empty");
    must_close(fd);
}

/* O_PATH of an existing path without any symlink on the way, or -1 when there is none. */
static int open_existing(const struct stage *s, const char *path, int step)
{
    int fd = path_open(s->root, path, O_PATH, RESOLVE_NO_SYMLINKS);
    if (fd == -ENOENT || fd == -ENOTDIR)
        return -1;
    return (int)must(fd, step, path);
}

static void mask(const struct stage *s, const char *path)
{
    struct statx info;
    int target = open_existing(s, path, STEP_MASK);
    if (target < 0)
        return;
    path_stat(target, &info, STEP_MASK, path);
    bool directory = (info.stx_mode & S_IFMT) == S_IFDIR;
    int tree = mount_clone(directory ? mask_directory : mask_file, false, STEP_MASK, path);
    /* Read-only does not keep anybody from opening the null device, but its mode, owner and attributes as they are. */
    mount_attributes(tree, MOUNT_ATTR_RDONLY | (directory ? MOUNT_ATTR_NODEV : 0), 0, 0, false, STEP_MASK, path);
    mount_attach(tree, target, STEP_MASK, path);
    must_close(tree);
    must_close(target);
}

static void make_readonly(const struct stage *s, const char *path)
{
    int target = open_existing(s, path, STEP_READONLY);
    if (target < 0)
        return;
    int tree = mount_clone(target, true, STEP_READONLY, path);
    mount_attributes(tree, MOUNT_ATTR_RDONLY, 0, 0, true, STEP_READONLY, path);
    mount_attach(tree, target, STEP_READONLY, path);
    must_close(tree);
    must_close(target);
}

void masks_apply(const struct stage *s)
{
    const char *path;
    struct plan_cursor readonly = s->plan.readonly, masked = s->plan.masked;
    while (plan_next_string(&readonly, &path))
        make_readonly(s, path);
    while (plan_next_string(&masked, &path))
        mask(s, path);
    must_close(mask_file);
    must_close(mask_directory);
}
