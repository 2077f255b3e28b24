/* System calls without a libc: the stage is linked with none, and the code between clone and exec
 * shares its caller's memory, so must not touch errno, locks or caches. All return -errno. */
#ifndef BULKHEAD_SYS_H
#define BULKHEAD_SYS_H

#include <asm/unistd.h>

#if defined(__x86_64__)
static inline long sys_raw(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long sys_raw(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "nsexec knows x86_64 and aarch64"
#endif

#define sys0(n) sys_raw(n, 0, 0, 0, 0, 0, 0)
#define sys1(n, a) sys_raw(n, (long)(a), 0, 0, 0, 0, 0)
#define sys2(n, a, b) sys_raw(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define sys3(n, a, b, c) sys_raw(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sys4(n, a, b, c, d) sys_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sys5(n, a, b, c, d, e) sys_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define sys6(n, a, b, c, d, e, f)                                                                  \
    sys_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* Where a seccomp filter refuses even this, the trap's signal ends the process, the first of a pid namespace too. */
static inline _Noreturn void sys_exit(int code)
{
    sys1(__NR_exit_group, code);
    __builtin_trap();
}

/* Numbers that older headers lack; from 424 on they are the same on every architecture. */
#ifndef __NR_open_tree
#define __NR_open_tree 428
#define __NR_move_mount 429
#define __NR_fsopen 430
#define __NR_fsconfig 431
#define __NR_fsmount 432
#define __NR_fspick 433
#endif
#ifndef __NR_clone3
#define __NR_clone3 435
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif

#endif
