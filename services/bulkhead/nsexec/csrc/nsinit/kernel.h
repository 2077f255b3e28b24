/* The kernel's own declarations, and the few that its exported headers leave to a libc. */
#ifndef BULKHEAD_KERNEL_H
#define BULKHEAD_KERNEL_H

#include <asm/ioctls.h>
#include <asm/statfs.h>
#include <asm/termios.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/stat.h>
#include <linux/types.h>

/* <linux/fcntl.h> pulls in asm/fcntl.h, where these live. */
#ifndef AT_FDCWD
#define AT_FDCWD (-100)
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef O_PATH
#error "these kernel headers lack O_PATH"
#endif
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef DEVPTS_SUPER_MAGIC
#define DEVPTS_SUPER_MAGIC 0x1cd1
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS 0x22
#define MAP_PRIVATE_FILE 2
#define SIGNALS 64
#define CLOSE_RANGE_CLOEXEC_ 4
#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000u
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef SECCOMP_FILTER_FLAG_NEW_LISTENER
#define SECCOMP_FILTER_FLAG_NEW_LISTENER 8
#endif

struct user_limit {
    uint64_t soft, hard;
};

struct user_iovec {
    void *base;
    size_t length;
};

struct user_message {
    void *name;
    uint32_t name_length;
    struct user_iovec *parts;
    size_t part_count;
    void *control;
    size_t control_length;
    uint32_t flags;
};

/* struct cmsghdr with room for one descriptor. */
struct user_descriptor {
    size_t length;
    int level, type, fd, padding;
};

enum { SOL_SOCKET_ = 1, SCM_RIGHTS_ = 1, MSG_NOSIGNAL_ = 0x4000, AF_INET_ = 2, SOCK_DGRAM_CLOEXEC = 2 | 02000000 };

#endif
