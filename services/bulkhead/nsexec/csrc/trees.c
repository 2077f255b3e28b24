#define _GNU_SOURCE
#include "trees.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Entries with the longest names, as many as a small tree's directory may have. */
#define LISTING (20 << 10)
#define READABLE 0644
#define PRIVATE 0700

/* As getdents64(2) has them. */
struct entry {
    uint64_t inode;
    int64_t next;
    unsigned short size;
    unsigned char type;
    char name[];
};

struct listing {
    _Alignas(8) char bytes[LISTING];
    long size;
};

static int is_own(const struct entry *entry)
{
    return strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0;
}

static int is_directory(int parent, const struct entry *entry)
{
    struct stat found;
    if (entry->type != DT_UNKNOWN)
        return entry->type == DT_DIR;
    return fstatat(parent, entry->name, &found, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(found.st_mode);
}

static int read_on(int directory, struct listing *found)
{
    for (;;) {
        size_t room = sizeof found->bytes - (size_t)found->size;
        long size = syscall(SYS_getdents64, directory, found->bytes + found->size, room);
        if (size <= 0)
            return size == 0 ? 0 : errno == EINVAL ? -EFBIG : -errno;
        found->size += size;
    }
}

/* All at once, so that nothing is passed over for what is deleted; who reads the directory next reads it from its
 * beginning. */
static int list(int directory, struct listing *found)
{
    found->size = 0;
    if (lseek(directory, 0, SEEK_SET) < 0)
        return -errno;
    int failed = read_on(directory, found);
    return lseek(directory, 0, SEEK_SET) < 0 ? -errno : failed;
}

static const struct entry *entry_at(const struct listing *found, long position)
{
    return (const struct entry *)(const void *)(found->bytes + position);
}

static long count(const struct listing *found)
{
    long entries = 0;
    for (long at = 0; at < found->size; at += entry_at(found, at)->size)
        entries += !is_own(entry_at(found, at));
    return entries;
}

static long erase(int parent, const char *name, long most, int levels)
{
    int directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0)
        return -errno;
    most = tree_empty(directory, most, levels);
    close(directory);
    if (most < 0)
        return most;
    return unlinkat(parent, name, AT_REMOVEDIR) < 0 ? -errno : most;
}

static long delete_entry(int parent, const struct entry *entry, long most, int levels)
{
    if (!is_directory(parent, entry))
        return unlinkat(parent, entry->name, 0) < 0 ? -errno : most;
    /* Most are empty, as those of a container that has written nothing are. */
    if (unlinkat(parent, entry->name, AT_REMOVEDIR) == 0)
        return most;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -errno;
    return erase(parent, entry->name, most, levels - 1);
}

long tree_empty(int directory, long most, int levels)
{
    struct listing found;
    int failed = list(directory, &found);
    if (failed)
        return failed;
    most -= count(&found);
    if (most < 0 || levels <= 0)
        return -EFBIG;
    for (long at = 0; at < found.size && most >= 0; at += entry_at(&found, at)->size)
        if (!is_own(entry_at(&found, at)))
            most = delete_entry(directory, entry_at(&found, at), most, levels);
    return most;
}

static int is_ours(int directory)
{
    struct stat found;
    if (fstat(directory, &found) < 0)
        return -errno;
    return found.st_uid == geteuid() && found.st_gid == getegid() && (found.st_mode & ALLPERMS) == PRIVATE;
}

static int is_empty(int directory)
{
    struct listing found;
    int failed = list(directory, &found);
    if (failed)
        return failed == -EFBIG ? 0 : failed;
    return count(&found) == 0;
}

static int has_no_attributes(int directory)
{
    ssize_t size = flistxattr(directory, NULL, 0);
    return size < 0 ? -errno : size == 0;
}

/* Flags of chattr(1), and the project whose quota it counts for. */
static int is_like(int directory, int parent)
{
    struct fsxattr mine, others;
    if (ioctl(directory, FS_IOC_FSGETXATTR, &mine) < 0 || ioctl(parent, FS_IOC_FSGETXATTR, &others) < 0)
        return -errno;
    /* The one flag that only says that there are extended attributes. */
    return ((mine.fsx_xflags ^ others.fsx_xflags) & ~(unsigned)FS_XFLAG_HASATTR) == 0 &&
           mine.fsx_projid == others.fsx_projid;
}

static int is_free(int directory)
{
    if (flock(directory, LOCK_EX | LOCK_NB) == 0)
        return 1;
    return errno == EWOULDBLOCK ? 0 : -errno;
}

int tree_is_new(int directory, int parent)
{
    int answer = is_ours(directory);
    if (answer > 0)
        answer = is_empty(directory);
    if (answer > 0)
        answer = has_no_attributes(directory);
    if (answer > 0)
        answer = is_like(directory, parent);
    return answer > 0 ? is_free(directory) : answer;
}

static int write_all(int fd, const char *content, size_t size)
{
    while (size) {
        ssize_t written = write(fd, content, size);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        content += written;
        size -= (size_t)written;
    }
    return 0;
}

static int write_file(int directory, const struct tree_file *file)
{
    int fd = openat(directory, file->name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, READABLE);
    if (fd < 0)
        return -errno;
    int failed = write_all(fd, file->content, file->size);
    if (!failed && fchmod(fd, READABLE) < 0)
        failed = -errno;
    close(fd);
    return failed;
}

int tree_write(const char *directory, const struct tree_file *files, size_t count)
{
    int failed = 0, parent = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return -errno;
    for (size_t i = 0; i < count && !failed; i++)
        failed = write_file(parent, files + i);
    close(parent);
    return failed;
}
