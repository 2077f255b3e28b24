/* The launch socket: how a stage that cannot go on says where and why. */
#include "nsinit.h"

static int sync_fd = STAGE_SYNC_FD;

void report_through(int fd) { sync_fd = fd; }

int report_socket(void) { return sync_fd; }

void report_leave(void)
{
    must_close(sync_fd);
    sync_fd = -1;
}

static void send_message(struct report *message, size_t size, void *control, size_t control_length)
{
    struct user_iovec part = {message, size};
    struct user_message m = {.parts = &part, .part_count = 1, .control = control, .control_length = control_length};
    long sent;
    do /* a seccomp filter that lets a program live lets it write; sendmsg it may refuse */
        sent = control ? sys3(__NR_sendmsg, sync_fd, &m, MSG_NOSIGNAL_) : sys3(__NR_write, sync_fd, message, size);
    while (sent == -EINTR);
    if (sent < 0) /* the caller is gone: nobody wants this container */
        sys_exit(125);
}

void report(uint32_t kind, int step, long error, const char *detail)
{
    static struct report message;
    size_t length = text_length(detail);
    if (length > REPORT_DETAIL_MAX)
        length = REPORT_DETAIL_MAX;
    message.kind = kind;
    message.step = (unsigned int)step;
    message.error = (int)error;
    message.length = (unsigned int)length;
    memcpy(message.detail, detail, length);
    send_message(&message, REPORT_FIXED + length, NULL, 0);
}

void report_fd(uint32_t kind, int fd)
{
    static struct report message;
    struct user_descriptor control = {
        .length = sizeof(size_t) + 3 * sizeof(int), .level = SOL_SOCKET_, .type = SCM_RIGHTS_, .fd = fd};
    message.kind = kind;
    send_message(&message, REPORT_FIXED, &control, sizeof control);
}

void warn(int step, long error, const char *detail)
{
    if (sync_fd >= 0)
        report(REPORT_WARNING, step, -error, detail);
}

static const char *reason(long error)
{
    static const struct {
        long error;
        const char *text;
    } known[] = {{-ENOENT, "no such file or directory"}, {-EACCES, "permission denied"},
                 {-ENOEXEC, "exec format error"},        {-ENOTDIR, "not a directory"},
                 {-EISDIR, "is a directory"},            {-EPERM, "operation not permitted"},
                 {-ELOOP, "too many levels of symbolic links"}, {-E2BIG, "argument list too long"},
                 {-ETXTBSY, "text file busy"},           {-ENOMEM, "cannot allocate memory"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].error == error)
            return known[i].text;
    return NULL;
}

static void say(const char *text) { sys3(__NR_write, 2, text, text_length(text)); }

/* Nobody listens any more (the one who created us may have ended long ago): the container's own stderr does. */
static _Noreturn void die_alone(int step, long error, const char *detail)
{
    char digits[32];
    const char *text = reason(error);
    say(step == STEP_EXEC ? "exec " : step == STEP_HOOK ? "error running " : "");
    say(detail);
    if (error != -ECANCELED) { /* of a hook: told by the detail */
        say(text ? ": " : ": error ");
        say(text ? text : number_text(digits + sizeof digits, (uint64_t)-error));
    }
    say("\n");
    sys_exit(1);
}

_Noreturn void die(int step, long error, const char *detail)
{
    if (sync_fd < 0)
        die_alone(step, error, detail);
    report(REPORT_ERROR, step, -error, detail);
    sys_exit(125);
}

/* One byte means go on; anything else means that the caller is gone. */
void await_caller(void)
{
    char byte;
    long got;
    do
        got = sys3(__NR_read, sync_fd, &byte, 1);
    while (got == -EINTR);
    if (got != 1)
        sys_exit(125);
}
