/* Settings of the kernel that belong to the new namespaces or the process. They are written through a
 * procfs of our own that is attached nowhere, so no mount can redirect them (CVE-2025-52881). */
#include "nsinit.h"

#include <linux/sockios.h>

/* struct ifreq, whose header does not go without a libc. */
struct interface_request {
    char name[16];
    short flags;
    char rest[22];
};

enum { INTERFACE_UP = 1 };

void procfs_open(struct stage *s)
{
    struct plan_cursor none = {0};
    const uint64_t attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV;
    bool needed = s->plan.sysctl.left > 0 || wants(s, PLAN_OOM_SCORE) || s->plan.profile;
    if (!needed && !wants(s, PLAN_FIFO))
        return;
    s->proc = mount_try("proc", "", none, attributes);
    if (s->proc < 0 && !needed)
        return; /* the container's own has to do */
    must(s->proc, STEP_PROCFS, "proc");
    if (path_filesystem(s->proc) != PROC_SUPER_MAGIC)
        die(STEP_PROCFS, -ENODEV, "proc");
}

/* The host's, while nothing of the container has been entered: later it is not ours to write to, or not ours to mount. */
void procfs_of_host(struct stage *s)
{
    s->proc = (int)sys4(__NR_openat, AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (s->proc >= 0 && path_filesystem(s->proc) != PROC_SUPER_MAGIC)
        die(STEP_PROCFS, -ENODEV, "/proc");
}

static long write_setting(int proc, const char *path, const char *value)
{
    size_t length = text_length(value);
    int fd = path_open(proc, path, O_WRONLY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    if (fd < 0)
        return fd;
    long written = sys3(__NR_write, fd, value, length);
    must_close(fd);
    return written < 0 ? written : ((size_t)written == length ? 0 : -EIO);
}

void sysctls_write(const struct stage *s)
{
    static char path[512];
    const char *key, *value;
    struct plan_cursor cursor = s->plan.sysctl;
    while (plan_next_option(&cursor, &key, &value)) {
        if (!text_join(path, sizeof path, "sys/", key, ""))
            die(STEP_SYSCTL, -ENAMETOOLONG, key);
        must(write_setting(s->proc, path, value), STEP_SYSCTL, key);
    }
}

void oom_score_write(struct stage *s)
{
    char path[64], value[32], digits[32];
    int32_t score = s->plan.general.oom_score_adj;
    if (!wants(s, PLAN_OOM_SCORE) || s->score_set)
        return;
    s->score_set = true;
    char *pid = number_text(digits + sizeof digits, (uint64_t)sys0(__NR_getpid));
    text_join(path, sizeof path, pid, "/oom_score_adj", "");
    char *number = number_text(value + sizeof value, (uint64_t)(score < 0 ? -score : score));
    if (score < 0)
        *--number = '-';
    long result = write_setting(s->proc, path, number);
    if (result == -EACCES || result == -EPERM) /* below our own, without CAP_SYS_RESOURCE */
        warn(STEP_OOM_SCORE, result, number);
    else
        must(result, STEP_OOM_SCORE, number);
}

/* AppArmor's or SELinux's profile from exec on: `file under attr=text`. */
void profile_set(const struct stage *s)
{
    char digits[32], attribute[64], path[128];
    const char *equals = s->plan.profile ? text_find(s->plan.profile, '=') : NULL;
    if (!equals)
        return;
    size_t length = (size_t)(equals - s->plan.profile);
    if (length >= sizeof attribute)
        die(STEP_PROFILE, -ENAMETOOLONG, s->plan.profile);
    memcpy(attribute, s->plan.profile, length);
    attribute[length] = 0;
    char *pid = number_text(digits + sizeof digits, (uint64_t)sys0(__NR_getpid));
    text_join(path, sizeof path, pid, "/attr/", attribute);
    must(write_setting(s->proc, path, equals + 1), STEP_PROFILE, equals + 1);
}

void names_set(const struct stage *s)
{
    const char *host = s->plan.hostname, *domain = s->plan.domainname;
    if (host)
        must(sys2(__NR_sethostname, host, text_length(host)), STEP_HOSTNAME, host);
    if (domain)
        must(sys2(__NR_setdomainname, domain, text_length(domain)), STEP_HOSTNAME, domain);
}

void loopback_up(void)
{
    struct interface_request request = {.name = "lo"};
    int fd = (int)must(sys3(__NR_socket, AF_INET_, SOCK_DGRAM_CLOEXEC, 0), STEP_LOOPBACK, "lo");
    must(sys3(__NR_ioctl, fd, SIOCGIFFLAGS, &request), STEP_LOOPBACK, "lo");
    if (!(request.flags & INTERFACE_UP)) { /* see spawn_network */
        request.flags = (short)(request.flags | INTERFACE_UP);
        must(sys3(__NR_ioctl, fd, SIOCSIFFLAGS, &request), STEP_LOOPBACK, "lo");
    }
    must_close(fd);
}
