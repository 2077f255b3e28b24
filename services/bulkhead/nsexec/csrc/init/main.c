/* docker-init: the first process of a container made with --init.
 *
 *     docker-init -- program [argument...]
 *
 * Runs the program as its child, passes on every signal, reaps every orphan, and ends as the child does: with its exit
 * code, or 128 plus the signal that killed it. Static and without a libc: nothing of the image is loaded. */
#include <asm/ioctls.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/wait.h>
#include <stddef.h>
#include <stdint.h>

#include "../sys.h"

enum {
    CHILD_ENDED = 17, /* SIGCHLD, on every architecture that sys.h knows */
    SET_MASK = 2,
    EXIT_NOT_EXECUTABLE = 126,
    EXIT_NOT_FOUND = 127,
    EXIT_SIGNALLED = 128,
};

/* What is never held back: a fault of our own (ILL TRAP ABRT BUS FPE SEGV SYS), and TTIN TTOU, which are ignored. */
#define BIT(number) (UINT64_C(1) << ((number) - 1))
static const uint64_t not_held =
    BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) | BIT(31) | BIT(21) | BIT(22);

struct action {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static size_t length_of(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

static void say(const char *text)
{
    sys3(__NR_write, 2, text, length_of(text));
}

static const char *reason(long error)
{
    switch (-error) {
    case ENOENT:
        return "No such file or directory";
    case EACCES:
        return "Permission denied";
    case ENOEXEC:
        return "Exec format error";
    case ENOTDIR:
        return "Not a directory";
    default:
        return "cannot be executed";
    }
}

static void ignore_terminal_signals(int ignored)
{
    struct action action = {.handler = (void *)(uintptr_t)(ignored ? 1 : 0)};
    sys4(__NR_rt_sigaction, 21, &action, 0, sizeof action.mask);
    sys4(__NR_rt_sigaction, 22, &action, 0, sizeof action.mask);
}

static const char *search_path(char **environment)
{
    static const char wanted[] = "PATH=";
    for (; *environment; environment++) {
        size_t i = 0;
        while (wanted[i] && (*environment)[i] == wanted[i])
            i++;
        if (!wanted[i])
            return *environment + i;
    }
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* One directory of the path with the name behind it; the rest of the path, or NULL. */
static const char *candidate(char *into, size_t size, const char *path, const char *name)
{
    size_t used = 0, length = length_of(name);
    while (*path && *path != ':' && used < size - 1)
        into[used++] = *path++;
    into[used] = 0;
    while (*path && *path != ':')
        path++;
    if (used + length + 2 <= size) {
        if (used)
            into[used++] = '/';
        for (size_t i = 0; i <= length; i++)
            into[used + i] = name[i];
    }
    return *path ? path + 1 : NULL;
}

/* As execvp(3): a file that may not be executed is told of only when no other is found. */
static long execute(char **words, char **environment)
{
    static char place[4096];
    long found = -ENOENT;
    for (const char *at = words[0]; *at; at++)
        if (*at == '/')
            return sys3(__NR_execve, words[0], words, environment);
    for (const char *path = search_path(environment); path && *words[0];) {
        path = candidate(place, sizeof place, path, words[0]);
        long error = sys3(__NR_execve, place, words, environment);
        if (error == -EACCES)
            found = error;
        else if (error != -ENOENT && error != -ENOTDIR)
            return error;
    }
    return found;
}

/* The child: a process group of its own, in the foreground of the terminal if there is one. */
static _Noreturn void become(char **words, char **environment, const uint64_t *mask)
{
    sys2(__NR_setpgid, 0, 0);
    int group = (int)sys0(__NR_getpid);
    sys3(__NR_ioctl, 0, TIOCSPGRP, &group);
    ignore_terminal_signals(0);
    sys4(__NR_rt_sigprocmask, SET_MASK, mask, 0, sizeof *mask);
    long error = execute(words, environment);
    say("docker-init: exec ");
    say(words[0]);
    say(" failed: ");
    say(reason(error));
    say("\n");
    sys_exit(error == -ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

static int code_of(int status)
{
    int number = status & 0x7f;
    return number ? EXIT_SIGNALLED + number : (status >> 8) & 0xff;
}

/* Take in every child that has ended; when ours is among them, end as it did. */
static void reap(long child)
{
    for (;;) {
        int status = 0;
        long ended = sys4(__NR_wait4, -1, &status, WNOHANG, 0);
        if (ended == child)
            sys_exit(code_of(status));
        if (ended <= 0)
            return;
    }
}

static _Noreturn void supervise(long child, uint64_t held)
{
    for (;;) {
        char information[128];
        long number = sys4(__NR_rt_sigtimedwait, &held, information, 0, sizeof held);
        if (number == CHILD_ENDED)
            reap(child);
        else if (number > 0)
            sys2(__NR_kill, child, number);
    }
}

/* `stack` is as the kernel leaves it: a count, the words, NULL, the environment. */
_Noreturn void init_main(long *stack);
_Noreturn void init_main(long *stack)
{
    char **words = (char **)(stack + 1), **environment = words + stack[0] + 1;
    words += stack[0] > 0;
    if (*words && words[0][0] == '-' && words[0][1] == '-' && !words[0][2])
        words++;
    if (!*words) {
        say("docker-init: no program given\n");
        sys_exit(EXIT_NOT_EXECUTABLE);
    }
    uint64_t held = ~not_held, before = 0;
    sys4(__NR_rt_sigprocmask, SET_MASK, &held, &before, sizeof held);
    ignore_terminal_signals(1);
    long child = sys5(__NR_clone, CHILD_ENDED, 0, 0, 0, 0);
    if (child == 0)
        become(words, environment, &before);
    if (child < 0) {
        say("docker-init: cannot fork\n");
        sys_exit(EXIT_NOT_EXECUTABLE);
    }
    supervise(child, held);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall init_main\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl init_main\n\tbrk #0\n");
#endif
