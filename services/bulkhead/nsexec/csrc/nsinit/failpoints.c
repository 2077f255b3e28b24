/* What the plan says that this launch is to suffer, and where. The caller hears of it first. */
#include "nsinit.h"

bool failpoints_armed;
static uint32_t words[FAILPOINT_COUNT];

static const struct {
    int step;
    const char *name;
} points[] = {
#define BULKHEAD_FAILPOINT_ROW(name, text, step) {STEP_##step, text},
    BULKHEAD_FAILPOINTS(BULKHEAD_FAILPOINT_ROW)
#undef BULKHEAD_FAILPOINT_ROW
};

void failpoints_take(const struct stage *s)
{
    struct plan_cursor cursor = s->plan.failpoints;
    for (int point = 0; point < FAILPOINT_COUNT && plan_next_u32(&cursor, &words[point]); point++)
        failpoints_armed = true;
}

void failpoint_suffer(int point)
{
    uint32_t action = words[point] & FAILPOINT_ACTION_MASK, argument = failpoint_argument(words[point]);
    bool heard = report_socket() >= 0;
    if (action == FAILPOINT_OFF)
        return;
    if (heard)
        report(REPORT_FAILPOINT, points[point].step, point, points[point].name);
    if (action == FAILPOINT_KILL)
        failpoint_kill();
    if (action == FAILPOINT_ERROR)
        die(points[point].step, -(long)argument, points[point].name);
    if (action == FAILPOINT_DELAY)
        failpoint_delay(argument);
    if (action == FAILPOINT_HOLD && heard)
        await_caller();
}
