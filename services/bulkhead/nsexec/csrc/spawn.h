/* Starting the stage: clone, arrange descriptors, execute the sealed program. Knows the kernel only. */
#ifndef BULKHEAD_SPAWN_H
#define BULKHEAD_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failpoints.h"

#define SPAWN_MAX_EXTRA 256
#define SPAWN_MAX_TASKS 32

struct spawn_request {
    uint64_t clone_flags; /* CLONE_NEW* only; the rest is spawn's business */
    int network;          /* a network namespace to enter, or -1 */
    int cgroup;           /* a cgroup2 directory to be born in, or -1 */
    size_t tasks_count;
    int tasks[SPAWN_MAX_TASKS]; /* `tasks` files of cgroup v1 groups, open for writing: joined before exec */
    int program;          /* sealed memfd, see spawn_seal */
    int plan;             /* memfd that holds the plan */
    int stdio[3];
    size_t extra_count;
    int extra[SPAWN_MAX_EXTRA]; /* arrive from STAGE_FIRST_EXTRA_FD on */
    bool armed;                 /* a failpoint is set; the stage's own are in the plan */
    uint32_t failpoints[FAILPOINT_COUNT];
};

/* A child that is to be, or may be in our memory still. */
struct spawn_birth;

struct spawn_result {
    int pid, pidfd, sync; /* sync: our end of the launch socket */
    int step, error;      /* enum step and errno when -1 was returned */
};

/* A sealed, executable, close-on-exec memfd with these bytes; -errno on failure. */
int spawn_seal(const char *name, const void *bytes, size_t size, int executable);

/* A descriptor of a network namespace that nobody was in yet, its loopback up; -errno on failure. */
int spawn_network(void);

/* All that a child needs but the process, for spawn_bear or spawn_forget; NULL when that cannot be had. The plan's
 * descriptor is taken in any case. */
struct spawn_birth *spawn_conceive(const struct spawn_request *request, struct spawn_result *result);

/* There will be no child. */
void spawn_forget(struct spawn_birth *birth);

/* 0 when there is a child, for spawn_settle; -1 otherwise: then nothing is left behind, neither process nor descriptor.
 * The caller goes on at once, while the child is on its way to the stage program. */
int spawn_bear(struct spawn_birth *birth, struct spawn_result *result);

/* Once for each child: wait until it executes the stage program, or has ended. 0 when it did (its further failures come
 * as reports), -1 when it has failed before; it is the caller's to reap. */
int spawn_settle(struct spawn_birth *birth, struct spawn_result *result);

/* Wait, for a while at most, until nobody holds the other end of `sync`, or the process of `pidfd` (-1: none) has ended;
 * what was said there meanwhile is kept. */
void spawn_await_end(int sync, int pidfd, int milliseconds);

#endif
