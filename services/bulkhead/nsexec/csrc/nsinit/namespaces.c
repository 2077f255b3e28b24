/* Namespaces that exist already, and those that cannot be made at birth: nothing can be executed in a user namespace
 * before it is mapped, and a time namespace's clocks are set before anybody is in it. */
#include "nsinit.h"

/* Whoever joins or makes a user namespace is nobody in it, with all capabilities, until it becomes its root. */
static void become_root(void)
{
    must(sys3(__NR_setresgid, 0, 0, 0), STEP_USER_NAMESPACE, "setresgid 0");
    must(sys3(__NR_setresuid, 0, 0, 0), STEP_USER_NAMESPACE, "setresuid 0");
    must(sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), STEP_USER_NAMESPACE, "dumpable");
}

/* True when joined; what our capabilities do not suffice for may work once in the user namespace. */
static bool try_join(int fd, uint32_t flags)
{
    long result = sys2(__NR_setns, fd, flags);
    if (result == -EPERM)
        return false;
    must(result, STEP_NAMESPACE, "join");
    return true;
}

/* Three passes, as runc: what is ours to join, then the user namespace, then what is that one's. */
void namespaces_join(struct stage *s)
{
    enum { MOST = 16 };
    bool joined[MOST] = {false};
    for (int pass = 0; pass < 3; pass++) {
        uint32_t flags;
        int fd = STAGE_FIRST_EXTRA_FD;
        struct plan_cursor cursor = s->plan.joins;
        for (int i = 0; i < MOST && plan_next_u32(&cursor, &flags); i++, fd++) {
            bool user = (flags & CLONE_NEWUSER) != 0;
            if (joined[i] || user != (pass == 1))
                continue;
            joined[i] = try_join(fd, flags);
            if (!joined[i] && pass > 0)
                die(STEP_NAMESPACE, -EPERM, "join");
        }
        if (pass == 1 && wants(s, PLAN_BECOME_ROOT))
            become_root();
    }
    for (uint32_t i = 0; i < s->plan.joins.left; i++)
        must_close(take_extra(s));
}

static void make_user_namespace(void)
{
    must(sys1(__NR_unshare, CLONE_NEWUSER), STEP_USER_NAMESPACE, "unshare");
    /* Else /proc/<pid>/uid_map belongs to the host's root, and an ordinary user could not write it. */
    must(sys5(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0), STEP_USER_NAMESPACE, "dumpable");
    report(REPORT_USER, STEP_NONE, 0, "");
    await_caller();
    become_root();
}

void namespaces_make(struct stage *s)
{
    uint32_t flags = s->plan.general.unshare;
    if (flags & CLONE_NEWUSER)
        make_user_namespace();
    flags &= ~(uint32_t)CLONE_NEWUSER;
    if (flags)
        must(sys1(__NR_unshare, flags), STEP_NAMESPACE, "unshare");
    if (wants(s, PLAN_TIME_OFFSETS)) {
        report(REPORT_TIME, STEP_NONE, 0, "");
        await_caller();
    }
}
