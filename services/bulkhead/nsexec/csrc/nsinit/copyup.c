/* tmpcopyup: a new tmpfs begins with what the image has at its place. Directory descriptors only; what changes
 * meanwhile is an error or is left out, never followed elsewhere. */
#include "nsinit.h"

enum { DEPTH_LIMIT = 64, ENTRIES = 8192 };

struct entry { /* struct linux_dirent64 */
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

static void copy_directory(int from, int to, unsigned int depth);

static void keep_owner_and_times(int to, const char *name, const struct statx *info)
{
    const int64_t times[4] = {info->stx_atime.tv_sec, info->stx_atime.tv_nsec, info->stx_mtime.tv_sec,
                              info->stx_mtime.tv_nsec};
    must(sys5(__NR_fchownat, to, name, info->stx_uid, info->stx_gid, AT_SYMLINK_NOFOLLOW), STEP_MOUNT, name);
    if ((info->stx_mode & S_IFMT) != S_IFLNK) /* after the owner, whose change takes set-id bits away */
        must(sys3(__NR_fchmodat, to, name, info->stx_mode & 07777u), STEP_MOUNT, name);
    must(sys4(__NR_utimensat, to, name, times, AT_SYMLINK_NOFOLLOW), STEP_MOUNT, name);
}

static void copy_file(int from, int to, const char *name)
{
    int source = (int)must(sys4(__NR_openat, from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0), STEP_MOUNT, name);
    int target = (int)must(sys4(__NR_openat, to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600),
                           STEP_MOUNT, name);
    while (must(sys4(__NR_sendfile, target, source, 0, 1 << 20), STEP_MOUNT, name) > 0)
        ;
    must_close(source);
    must_close(target);
}

static void copy_link(int from, int to, const char *name)
{
    static char text[4096];
    long length = must(sys4(__NR_readlinkat, from, name, text, sizeof text - 1), STEP_MOUNT, name);
    text[length] = 0;
    must(sys3(__NR_symlinkat, text, to, name), STEP_MOUNT, name);
}

static void copy_subdirectory(int from, int to, const char *name, unsigned int depth)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    if (depth == DEPTH_LIMIT)
        die(STEP_MOUNT, -ELOOP, name);
    must(sys3(__NR_mkdirat, to, name, 0700), STEP_MOUNT, name);
    int source = (int)must(sys4(__NR_openat, from, name, flags, 0), STEP_MOUNT, name);
    int target = (int)must(sys4(__NR_openat, to, name, flags, 0), STEP_MOUNT, name);
    copy_directory(source, target, depth + 1);
    must_close(source);
    must_close(target);
}

static void copy_entry(int from, int to, const char *name, unsigned int depth)
{
    struct statx info;
    must(sys5(__NR_statx, from, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info), STEP_MOUNT, name);
    switch (info.stx_mode & S_IFMT) {
    case S_IFREG: copy_file(from, to, name); break;
    case S_IFLNK: copy_link(from, to, name); break;
    case S_IFDIR: copy_subdirectory(from, to, name, depth); break;
    case S_IFIFO: must(sys4(__NR_mknodat, to, name, S_IFIFO | 0600, 0), STEP_MOUNT, name); break;
    default: return; /* sockets mean nothing without their listener, nodes are devices_make's */
    }
    keep_owner_and_times(to, name, &info);
}

static void copy_directory(int from, int to, unsigned int depth)
{
    char *buffer = reserve(ENTRIES);
    long got;
    while ((got = must(sys3(__NR_getdents64, from, buffer, ENTRIES), STEP_MOUNT, "copy-up")) > 0)
        for (long at = 0; at < got; at += ((struct entry *)(void *)(buffer + at))->length) {
            const char *name = ((struct entry *)(void *)(buffer + at))->name;
            if (!text_equal(name, ".") && !text_equal(name, ".."))
                copy_entry(from, to, name, depth);
        }
    sys2(__NR_munmap, buffer, ENTRIES);
}

void copy_up(int from, int to)
{
    struct statx info;
    int source = path_open(from, ".", O_RDONLY | O_DIRECTORY, 0), target = path_open(to, ".", O_RDONLY | O_DIRECTORY, 0);
    must(source, STEP_MOUNT, "copy-up");
    must(target, STEP_MOUNT, "copy-up");
    path_stat(source, &info, STEP_MOUNT, "copy-up");
    copy_directory(source, target, 0);
    keep_owner_and_times(target, ".", &info);
    must_close(source);
    must_close(target);
}
