/* nsinit: the small static program that becomes the container's first process.
 *
 * It is born in the new namespaces from a sealed memfd with three standard descriptors, the launch
 * socket (3), the plan (4) and the descriptors that the plan names. It has no libc, no environment and
 * nothing of its caller's memory. Each step either succeeds or ends the process with a report. */
#ifndef BULKHEAD_NSINIT_H
#define BULKHEAD_NSINIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../failpoints.h"
#include "../plan.h"
#include "../steps.h"
#include "../sys.h"
#include "kernel.h"

struct stage {
    struct plan plan;
    int root; /* the container's root directory */
    int dev;  /* the fresh tmpfs on /dev, or -1 */
    uint64_t dev_attributes; /* what /dev becomes when all is in it */
    int pts;  /* the fresh devpts on /dev/pts, or -1 */
    int proc; /* a procfs of our own, attached nowhere, or -1 */
    int fifo; /* O_PATH of what the parked process waits for, or -1 */
    int extra; /* the next of the descriptors that came along: they are taken in the plan's order */
    uint32_t uid, gid;
    const char *home;
    const char *program; /* what argv[0] resolves to */
    const char **argv, **env;
    bool score_set; /* oom_score_adj is written */
    bool user_named; /* the user came from the plan's USER, not as numbers */
};

/* ---- report.c: the launch socket ---- */
_Noreturn void die(int step, long error, const char *detail);
void warn(int step, long error, const char *detail);
void report(uint32_t kind, int step, long error, const char *detail);
void report_fd(uint32_t kind, int fd);
void await_caller(void);
void report_through(int fd);
int report_socket(void);
/* From here on the caller is not heard nor needed; failures go to stderr. */
void report_leave(void);

/* Dies when `result` is an error, else hands it on. */
static inline long must(long result, int step, const char *detail)
{
    if (result < 0)
        die(step, result, detail);
    return result;
}

/* The next descriptor that came along. */
static inline int take_extra(struct stage *s) { return s->extra++; }

static inline bool wants(const struct stage *s, uint64_t flag) { return (s->plan.general.flags & flag) != 0; }

/* ---- failpoints.c ---- */
extern bool failpoints_armed;
void failpoints_take(const struct stage *s);
void failpoint_suffer(int point);

/* Nothing, unless this launch is to fail. */
static inline void failpoint(int point)
{
    if (__builtin_expect(failpoints_armed, false))
        failpoint_suffer(point);
}

/* ---- text.c: what a libc would bring ---- */
/* The compiler calls these by name for plain assignments and loops. */
void *memcpy(void *restrict into, const void *restrict from, size_t size);
void *memset(void *into, int value, size_t size);
void *memchr(const void *in, int value, size_t size);
size_t text_length(const char *text);
bool text_equal(const char *a, const char *b);
bool text_starts(const char *text, const char *prefix);
const char *text_find(const char *text, char c);
/* Joins up to three parts; false when they do not fit. */
bool text_join(char *into, size_t size, const char *a, const char *b, const char *c);
/* Decimal with an optional sign and nothing else; false when it is no number or beyond 2^62. */
bool text_number(const char *text, int64_t *value);
char *number_text(char *end, uint64_t value);
void *reserve(size_t size);

/* ---- paths.c: names inside the container, never through the host ---- */
int path_open(int root, const char *path, uint64_t flags, uint64_t resolve);
/* O_PATH of the target, made if it is missing: a directory, or a file when `directory` is false. */
int path_target(int root, const char *path, bool directory);
/* Directory that holds `path` (made if missing) and, in *name, its last component. */
int path_parent(int root, const char *path, const char **name);
uint64_t path_filesystem(int fd);
void path_stat(int fd, struct statx *into, int step, const char *detail);
void must_close(int fd);

/* ---- mounts.c, devices.c, masks.c: the file system the container sees ---- */
void mounts_detach_from_host(const struct stage *s);
void rootfs_open(struct stage *s);
void rootfs_attach(const struct stage *s);
void root_change(struct stage *s);
/* Where the new root and the masks' file system are attached: root.path, or "/" where that cannot be reached. */
const char *root_place(const struct stage *s);
void mounts_make(struct stage *s);
void root_enter(struct stage *s);
int mount_try(const char *type, const char *source, struct plan_cursor options, uint64_t attributes);
int mount_new(const char *type, const char *source, struct plan_cursor options, uint64_t attributes, int step,
              const char *what);
void mount_attributes(int fd, uint64_t set, uint64_t clear, uint64_t propagation, bool tree, int step, const char *what);
void mount_attach(int fd, int target, int step, const char *what);
int mount_clone(int from, bool tree, int step, const char *what);
void copy_up(int from, int to);
void devices_make(const struct stage *s);
void console_make(const struct stage *s, bool new_container);
void stdio_null(const struct stage *s);
void masks_prepare(const struct stage *s);
void masks_apply(const struct stage *s);

/* ---- kernel settings ---- */
void procfs_open(struct stage *s);
void sysctls_write(const struct stage *s);
void procfs_of_host(struct stage *s);
void oom_score_write(struct stage *s);
void profile_set(const struct stage *s);
void names_set(const struct stage *s);
void loopback_up(void);

/* ---- namespaces.c: those that exist, and those that cannot be made at birth ---- */
void namespaces_join(struct stage *s);
void namespaces_make(struct stage *s);

/* ---- hooks.c ---- */
void hooks_run(const struct stage *s, uint32_t kind);

/* ---- users.c ---- */
void user_resolve(struct stage *s);
void groups_set(const struct stage *s);

/* ---- confine.c, launch.c: the process that execs ---- */
void affinity_set(const struct stage *s);
void tuning_set(const struct stage *s);
void rlimits_set(const struct stage *s);
void directory_make(const struct stage *s);
void directory_enter(const struct stage *s);
void credentials_set(const struct stage *s);
void filter_load(const struct stage *s);
void capabilities_final(const struct stage *s);
void environment_prepare(struct stage *s);
void program_find(struct stage *s);
const char **strings_gather(struct plan_cursor cursor, size_t spare);
void descriptors_settle(struct stage *s);
void fifo_await(const struct stage *s);
void session_start(const struct stage *s);

#endif
