/* What a process inside a container is and may do, one fact a line: "<field> <name> <value>".
 * Static, so that it runs in any image; nothing it does changes more than the container.
 *
 *   probe report             everything below
 *   probe as UID WORDS...    become UID without the engine's help, then run WORDS
 *   probe call NR ARG...     a raw system call: its result, or -errno
 *   probe watch FILE         until FILE exists: looks at every other process, as closely as it may
 *   probe stop               stops (SIGSTOP) every process that appears, for ever
 *   probe lease FILE         holds a write lease on FILE and never gives it up
 *   probe write FILE TEXT    writes to FILE: "ok" or errno
 *   probe filter PID         the process's seccomp filter as hex (run outside)
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST_CALL = 470 };

static const char *outcome(long result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

/* ---- report ---- */

static void lines_of(const char *path, const char *const *wanted, const char *field)
{
    char line[4096];
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        for (const char *const *name = wanted; *name; name++) {
            size_t size = strlen(*name);
            if (strncmp(line, *name, size) || line[size] != ':')
                continue;
            char *value = line + size + 1;
            value += strspn(value, " \t");
            value[strcspn(value, "\n")] = 0;
            printf("%s %s %s\n", field, *name, *value ? value : "-");
        }
    if (file)
        fclose(file);
}

static void report_status(void)
{
    static const char *const names[] = {"Uid",    "Gid",    "Groups", "CapInh", "CapPrm",     "CapEff", "CapBnd",
                                        "CapAmb", "SigBlk", "SigIgn", "Umask",  "NoNewPrivs", "Seccomp", NULL};
    char cwd[4096];
    lines_of("/proc/self/status", names, "status");
    printf("process cwd %s\n", syscall(SYS_getcwd, cwd, sizeof cwd) < 0 ? "?" : cwd);
    printf("process session %s\n", getsid(0) == getpid() ? "own" : "other");
    printf("process dumpable %d\n", prctl(PR_GET_DUMPABLE));
    printf("process nice %d\n", getpriority(PRIO_PROCESS, 0));
    printf("process scheduler %d\n", sched_getscheduler(0));
}

static void report_descriptors(void)
{
    char path[300], target[4096];
    for (int fd = 0; fd < 256; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size < 0)
            continue;
        target[size] = 0;
        target[strcspn(target, "[")] = 0;
        printf("fd %d %s\n", fd, target);
    }
}

static void report_limits(void)
{
    static const char *const names[] = {"cpu",  "fsize",   "data",  "stack",      "core",     "rss",  "nproc",  "nofile",
                                        "memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"};
    struct rlimit limit;
    for (int i = 0; i < 16; i++)
        if (getrlimit(i, &limit) == 0)
            printf("rlimit %s %lld:%lld\n", names[i], (long long)limit.rlim_cur, (long long)limit.rlim_max);
}

static void report_mounts(void)
{
    char line[8192];
    FILE *file = fopen("/proc/self/mountinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *words[64];
        int count = 0, dash = 0;
        for (char *word = strtok(line, " \n"); word && count < 64; word = strtok(NULL, " \n"))
            words[count++] = word;
        for (int i = 6; i < count && !dash; i++)
            dash = strcmp(words[i], "-") ? 0 : i;
        if (dash && dash + 3 < count)
            printf("mount %s %s %s %s %s\n", words[4], words[dash + 1], words[5], words[dash + 3],
                   dash > 6 ? words[6] : "private");
    }
    if (file)
        fclose(file);
}

/* Empty, how many bytes can be read (up to one), or why not; and whether it can be changed. */
static void report_path(const char *path)
{
    struct stat info;
    char byte;
    if (stat(path, &info) < 0) {
        printf("path %s %s\n", path, outcome(-1));
        return;
    }
    if (S_ISDIR(info.st_mode)) {
        struct statvfs fs;
        int entries = -2;
        DIR *list = opendir(path);
        while (list && readdir(list))
            entries++;
        if (list)
            closedir(list);
        statvfs(path, &fs);
        printf("path %s directory entries=%s ro=%d\n", path, entries > 0 ? "some" : "none", (fs.f_flag & ST_RDONLY) != 0);
        return;
    }
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    ssize_t got = fd < 0 ? -1 : read(fd, &byte, 1);
    printf("path %s file read=%s", path, got < 0 ? outcome(-1) : got ? "some" : "none");
    if (fd >= 0)
        close(fd);
    fd = open(path, O_WRONLY | O_NONBLOCK);
    printf(" write=%s", fd < 0 ? outcome(-1) : "opens");
    if (fd >= 0)
        close(fd);
    printf(" chmod=%s\n", outcome(chmod(path, info.st_mode & 07777)));
}

static void report_paths(void)
{
    static const char *const paths[] = {
        "/proc/acpi",        "/proc/asound",        "/proc/bus",          "/proc/fs",           "/proc/interrupts",
        "/proc/irq",         "/proc/kallsyms",      "/proc/kcore",        "/proc/keys",         "/proc/kmsg",
        "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",         "/proc/sys",          "/proc/sysrq-trigger",
        "/proc/timer_list",  "/proc/timer_stats",   "/sys/firmware",      "/sys/devices/virtual/powercap",
        "/sys/kernel/debug", "/sys/fs/cgroup",      "/sys/kernel/security", "/proc/sys/kernel/core_pattern",
        "/sys/kernel/uevent_helper", "/proc/1/root/proc/keys", "/proc/thread-self/root/proc/timer_list"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        report_path(paths[i]);
}

static void report_dev(const char *place, const char *shown)
{
    char path[600], target[300];
    struct stat info;
    struct dirent *entry;
    DIR *list = opendir(place);
    while (list && (entry = readdir(list))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%s", place, entry->d_name);
        if (lstat(path, &info) < 0)
            continue;
        ssize_t size = readlink(path, target, sizeof target - 1);
        target[size < 0 ? 0 : size] = 0;
        printf("dev %s/%s %o %d:%d %u:%u %s\n", shown, entry->d_name, info.st_mode, (int)major(info.st_rdev),
               (int)minor(info.st_rdev), info.st_uid, info.st_gid, *target ? target : "-");
    }
    if (list)
        closedir(list);
}

/* Made in /dev, which is there and writable even when the rest is not. */
static void report_nodes(void)
{
    static const struct {
        char kind;
        int major, minor;
    } nodes[] = {{'c', 1, 3}, {'c', 1, 5}, {'c', 1, 7},  {'c', 5, 0},   {'c', 5, 2},   {'c', 136, 0}, {'c', 1, 1},
                 {'c', 1, 2}, {'c', 1, 4}, {'c', 1, 11}, {'c', 10, 200}, {'c', 10, 229}, {'c', 10, 237}, {'b', 8, 0},
                 {'b', 7, 0}, {'b', 254, 0}, {'b', 259, 0}};
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        dev_t number = makedev((unsigned)nodes[i].major, (unsigned)nodes[i].minor);
        long made = mknod("/dev/.probe", (nodes[i].kind == 'c' ? S_IFCHR : S_IFBLK) | 0600, number);
        printf("node %c:%d:%d make=%s", nodes[i].kind, nodes[i].major, nodes[i].minor, outcome(made));
        int fd = made < 0 ? -1 : open("/dev/.probe", O_RDONLY | O_NONBLOCK | O_NOCTTY);
        printf(" open=%s\n", made < 0 ? "-" : outcome(fd));
        if (fd >= 0)
            close(fd);
        unlink("/dev/.probe");
    }
}

static void report_namespaces(void)
{
    static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"};
    char path[64], target[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        ssize_t size = readlink(path, target, sizeof target - 1);
        target[size < 0 ? 0 : size] = 0;
        printf("namespace %s %s\n", names[i], target);
    }
}

static void report_file(const char *path)
{
    char text[256];
    FILE *file = fopen(path, "r");
    if (file && fgets(text, sizeof text, file)) {
        text[strcspn(text, "\n")] = 0;
        for (char *at = text; *at; at++)
            *at = *at == '\t' ? ' ' : *at;
        printf("setting %s %s\n", path, text);
    }
    if (file)
        fclose(file);
}

/* Calls that end, wait or fork instead of answering, and sync(2), which the whole machine would feel. */
static int is_left_out(int number)
{
    static const int left_out[] = {SYS_rt_sigreturn, SYS_pause, SYS_fork, SYS_vfork, SYS_exit, SYS_exit_group, SYS_sync};
    for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++)
        if (number == left_out[i])
            return 1;
    return 0;
}

/* Every argument is -1: no such descriptor, pointer, flag or process. */
static void report_call(int number)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        close(0);
        alarm(2);
        long result = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
        _exit(result < 0 ? errno : 0);
    }
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("call %d signal-%d\n", number, WTERMSIG(status));
    else
        printf("call %d %s\n", number, WEXITSTATUS(status) ? strerrorname_np(WEXITSTATUS(status)) : "ok");
}

static int report(void)
{
    report_descriptors();
    report_status();
    report_limits();
    report_mounts();
    report_paths();
    report_dev("/dev", "/dev");
    report_nodes();
    report_namespaces();
    report_file("/proc/self/oom_score_adj");
    report_file("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    report_file("/proc/sys/net/ipv4/ping_group_range");
    for (int number = 0; number < LAST_CALL; number++)
        if (!is_left_out(number))
            report_call(number);
    return 0;
}

/* ---- attackers ---- */

static int call(char **list)
{
    long a[7] = {0};
    for (int i = 0; i < 7 && list[i]; i++)
        a[i] = (long)strtoull(list[i], NULL, 0);
    long result = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    printf("%s\n", outcome(result));
    return 0;
}

static int become(char **list)
{
    uid_t user = (uid_t)atoi(list[0]);
    if (setresgid(user, user, user) < 0 || setresuid(user, user, user) < 0)
        return 1;
    execv(list[1], list + 1);
    return 1;
}

static int write_to(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    printf("%s\n", fd < 0 ? outcome(-1) : outcome(write(fd, text, strlen(text))));
    return 0;
}

/* Pids are given out in order, so the next is known before it is born. */
static _Noreturn void stop(void)
{
    int last = getpid();
    printf("ready\n");
    fflush(stdout);
    for (;;)
        for (int pid = last + 1; pid < last + 4; pid++)
            if (kill(pid, SIGSTOP) == 0)
                last = pid;
}

static _Noreturn void lease(const char *path)
{
    signal(SIGIO, SIG_IGN);
    int fd = open(path, O_RDONLY);
    printf("%s\n", fcntl(fd, F_SETLEASE, F_WRLCK) < 0 ? outcome(-1) : "ready");
    fflush(stdout);
    for (;;)
        pause();
}

static void look(const char *pid, dev_t root, long found[3])
{
    static const char *const names[] = {"root", "cwd", "fd/3", "fd/4", "fd/5", "fd/6"};
    char path[300];
    struct stat info;
    found[0]++;
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    int fd = open(path, O_WRONLY);
    if (fd >= 0) {
        found[1]++;
        close(fd);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/proc/%s/%s/.", pid, names[i]);
        if (stat(path, &info) == 0 && info.st_dev != root)
            found[2]++;
    }
    if (ptrace(PTRACE_SEIZE, atoi(pid), 0, 0) == 0) {
        char line[256];
        snprintf(path, sizeof path, "/proc/%s/comm", pid);
        FILE *file = fopen(path, "r");
        if (file && fgets(line, sizeof line, file) && !strncmp(line, "nsinit", 6))
            found[2]++;
        if (file)
            fclose(file);
        ptrace(PTRACE_INTERRUPT, atoi(pid), 0, 0);
        waitpid(atoi(pid), NULL, __WALL);
        ptrace(PTRACE_DETACH, atoi(pid), 0, 0);
    }
}

static int watch(const char *until)
{
    struct stat info, root;
    long found[3] = {0};
    stat("/", &root);
    printf("ready\n");
    fflush(stdout);
    while (stat(until, &info) < 0) {
        DIR *list = opendir("/proc");
        struct dirent *entry;
        while (list && (entry = readdir(list)))
            if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != getpid())
                look(entry->d_name, root.st_dev, found);
        if (list)
            closedir(list);
    }
    printf("looks=%ld writable=%ld foreign=%ld\n", found[0], found[1], found[2]);
    return 0;
}

static int filter(pid_t pid)
{
    static struct sock_filter code[4096];
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
        return 1;
    waitpid(pid, NULL, __WALL);
    long count = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0, code);
    for (long i = 0; i < count * (long)sizeof *code; i++)
        printf("%02x", ((unsigned char *)code)[i]);
    ptrace(PTRACE_DETACH, pid, 0, 0);
    return count <= 0;
}

int main(int count, char **list)
{
    const char *verb = count > 1 ? list[1] : "";
    if (!strcmp(verb, "report"))
        return report();
    if (!strcmp(verb, "stop"))
        stop();
    if (count > 3 && !strcmp(verb, "as"))
        return become(list + 2);
    if (count > 3 && !strcmp(verb, "write"))
        return write_to(list[2], list[3]);
    if (count > 2 && !strcmp(verb, "call"))
        return call(list + 2);
    if (count > 2 && !strcmp(verb, "watch"))
        return watch(list[2]);
    if (count > 2 && !strcmp(verb, "lease"))
        lease(list[2]);
    if (count > 2 && !strcmp(verb, "filter"))
        return filter(atoi(list[2]));
    return 2;
}
