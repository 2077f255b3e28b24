/* A small attacker, static, for use inside containers (and `filter` outside).
 *
 *   probe call NR ARG...     a raw system call: prints its result, or -errno
 *   probe call32 NR ARG...   the same by the i386 gate
 *   probe ids                real and effective uid
 *   probe watch FILE         until FILE exists: looks at every other process in /proc as closely as it may
 *   probe filter PID         the process's seccomp filter as hex (by ptrace)
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long argument(char **list, int count, int index)
{
    return index < count ? (long)strtoull(list[index], NULL, 0) : 0;
}

static int call(int count, char **list)
{
    long a[7];
    for (int i = 0; i < 7; i++)
        a[i] = argument(list, count, i);
    long result = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    printf("%ld\n", result < 0 ? -errno : result);
    return 0;
}

static int call32(int count, char **list)
{
#if defined(__x86_64__)
    long result = argument(list, count, 0);
    __asm__ volatile("int $0x80"
                     : "+a"(result)
                     : "b"(argument(list, count, 1)), "c"(argument(list, count, 2)), "d"(argument(list, count, 3))
                     : "memory", "r8", "r9", "r10", "r11");
    printf("%d\n", (int)result);
#endif
    return 0;
}

static unsigned long long permitted(const char *pid)
{
    char path[300], line[256];
    unsigned long long found = 0;
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "CapPrm:", 7))
            found = strtoull(line + 7, NULL, 16);
    if (file)
        fclose(file);
    return found;
}

static unsigned long long seen_caps, own_caps;
static int looks, writable, attached, foreign;

static void look_at_links(const char *pid, dev_t root)
{
    static const char *const names[] = {"root", "cwd"};
    char path[300];
    struct stat info;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/proc/%s/%s/.", pid, names[i]);
        if (stat(path, &info) == 0 && info.st_dev != root)
            foreign++;
    }
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *fds = opendir(path);
    struct dirent *entry;
    while (fds && (entry = readdir(fds))) {
        char below[600];
        snprintf(below, sizeof below, "/proc/%s/fd/%s/.", pid, entry->d_name);
        if (isdigit((unsigned char)entry->d_name[0]) && stat(below, &info) == 0 && info.st_dev != root)
            foreign++;
    }
    if (fds)
        closedir(fds);
}

static void look(const char *pid, dev_t root)
{
    char path[300];
    looks++;
    unsigned long long caps = permitted(pid);
    seen_caps |= caps;
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    int fd = open(path, O_WRONLY);
    if (fd >= 0) {
        if (write(fd, "", 1) == 1)
            writable++;
        close(fd);
    }
    look_at_links(pid, root);
    if ((caps & ~own_caps) && ptrace(PTRACE_SEIZE, atoi(pid), 0, 0) == 0) {
        attached++;
        ptrace(PTRACE_INTERRUPT, atoi(pid), 0, 0); /* only what has stopped can be let go */
        waitpid(atoi(pid), NULL, __WALL);
        ptrace(PTRACE_DETACH, atoi(pid), 0, 0);
    }
}

static int watch(const char *until)
{
    struct stat info, root;
    stat("/", &root);
    own_caps = permitted("self");
    printf("watching\n");
    fflush(stdout);
    while (stat(until, &info) < 0) {
        DIR *list = opendir("/proc");
        struct dirent *entry;
        while (list && (entry = readdir(list)))
            if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != getpid())
                look(entry->d_name, root.st_dev);
        if (list)
            closedir(list);
    }
    printf("looks=%d more_caps=%llx writable=%d attached=%d foreign=%d\n", looks, seen_caps & ~own_caps, writable,
           attached, foreign);
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
    if (count > 2 && !strcmp(list[1], "call"))
        return call(count - 2, list + 2);
    if (count > 2 && !strcmp(list[1], "call32"))
        return call32(count - 2, list + 2);
    if (count > 2 && !strcmp(list[1], "watch"))
        return watch(list[2]);
    if (count > 2 && !strcmp(list[1], "filter"))
        return filter(atoi(list[2]));
    if (count > 1 && !strcmp(list[1], "ids"))
        return printf("%d %d\n", (int)getuid(), (int)geteuid()) < 0;
    return 2;
}
