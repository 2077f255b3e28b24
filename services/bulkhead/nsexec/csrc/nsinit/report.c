/* The launch socket: how a stage that cannot go on says where and why. */
#include "nsinit.h"

static void send_message(struct report *message, size_t size, void *control, size_t control_length)
{
    struct user_iovec part = {message, size};
    struct user_message m = {.parts = &part, .part_count = 1, .control = control, .control_length = control_length};
    long sent;
    do
        sent = sys3(__NR_sendmsg, STAGE_SYNC_FD, &m, MSG_NOSIGNAL_);
    while (sent == -EINTR);
    if (sent < 0) /* the caller is gone: nobody wants this container */
        sys1(__NR_exit_group, 125);
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

void warn(int step, long error, const char *detail) { report(REPORT_WARNING, step, -error, detail); }

_Noreturn void die(int step, long error, const char *detail)
{
    report(REPORT_ERROR, step, -error, detail);
    for (;;)
        sys1(__NR_exit_group, 125);
}

/* One byte means go on; anything else means that the caller is gone. */
void await_caller(void)
{
    char byte;
    long got;
    do
        got = sys3(__NR_read, STAGE_SYNC_FD, &byte, 1);
    while (got == -EINTR);
    if (got != 1)
        sys1(__NR_exit_group, 125);
}
