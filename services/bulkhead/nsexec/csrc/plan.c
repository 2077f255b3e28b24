/* Decoder of the launch plan. Everything is checked once by plan_decode, with the same readers that
 * the stage uses afterwards, so what was checked is what is used. */
#include "plan.h"

#include <string.h>

#define PLAN_EINVAL (-22)

static bool take(struct plan_cursor *c, void *into, size_t size)
{
    if ((size_t)(c->end - c->at) < size)
        return false;
    memcpy(into, c->at, size);
    c->at += size;
    return true;
}

static bool take_u32(struct plan_cursor *c, uint32_t *value) { return take(c, value, sizeof *value); }

static bool take_u64(struct plan_cursor *c, uint64_t *value) { return take(c, value, sizeof *value); }

/* A string is its length, its bytes and a NUL; a NUL inside would end it early somewhere else. */
static bool take_string(struct plan_cursor *c, const char **text)
{
    uint32_t length;
    if (!take_u32(c, &length) || length > PLAN_MAX_STRING || (size_t)(c->end - c->at) <= length)
        return false;
    if (c->at[length] != 0 || memchr(c->at, 0, length) != NULL)
        return false;
    *text = (const char *)c->at;
    c->at += (size_t)length + 1;
    return true;
}

static bool step_down(struct plan_cursor *c)
{
    if (c->left == 0)
        return false;
    c->left--;
    return true;
}

bool plan_next_string(struct plan_cursor *c, const char **text) { return step_down(c) && take_string(c, text); }

bool plan_next_option(struct plan_cursor *c, const char **key, const char **value)
{
    return step_down(c) && take_string(c, key) && take_string(c, value);
}

bool plan_next_u32(struct plan_cursor *c, uint32_t *value) { return step_down(c) && take_u32(c, value); }

bool plan_next_rlimit(struct plan_cursor *c, struct plan_rlimit *l)
{
    return step_down(c) && take_u32(c, &l->resource) && take_u64(c, &l->soft) && take_u64(c, &l->hard);
}

bool plan_next_device(struct plan_cursor *c, struct plan_device *d)
{
    return step_down(c) && take_u32(c, &d->mode) && take_u32(c, &d->uid) && take_u32(c, &d->gid) &&
           take_u32(c, &d->major) && take_u32(c, &d->minor) && take_string(c, &d->path);
}

bool plan_next_mount(struct plan_cursor *c, struct plan_mount *m)
{
    if (!step_down(c))
        return false;
    if (!take_u32(c, &m->kind) || !take_u32(c, &m->flags) || !take_u32(c, &m->propagation) ||
        !take_u32(c, &m->options) || !take_u64(c, &m->set) || !take_u64(c, &m->clear) ||
        !take_u64(c, &m->tree_set) || !take_u64(c, &m->tree_clear))
        return false;
    if (m->kind < MOUNT_FILESYSTEM || m->kind > MOUNT_REMOUNT || (m->flags & ~(uint32_t)MOUNT_FLAGS_KNOWN))
        return false;
    if (!take_string(c, &m->source) || !take_string(c, &m->target) || !take_string(c, &m->type))
        return false;
    m->option_cursor = (struct plan_cursor){c->at, c->end, m->options};
    for (uint32_t i = 0; i < m->options; i++) {
        const char *text;
        if (!take_string(c, &text) || !take_string(c, &text))
            return false;
    }
    m->option_cursor.end = c->at;
    return true;
}

static bool skip_strings(struct plan_cursor *c, uint32_t count)
{
    const char *text;
    for (; count > 0; count--)
        if (!take_string(c, &text))
            return false;
    return true;
}

bool plan_next_hook(struct plan_cursor *c, struct plan_hook *h)
{
    uint32_t words, variables;
    if (!step_down(c) || !take_u32(c, &h->kind) || !take_u32(c, &h->timeout) || !take_u32(c, &words) ||
        !take_u32(c, &variables) || !take_string(c, &h->path))
        return false;
    if (h->kind < HOOK_CREATE_CONTAINER || h->kind > HOOK_START_CONTAINER || words == 0)
        return false;
    h->argv = (struct plan_cursor){c->at, c->end, words};
    if (!skip_strings(c, words))
        return false;
    h->env = (struct plan_cursor){c->at, c->end, variables};
    return skip_strings(c, variables);
}

/* Each walks a whole section: true when every entry is sound and nothing follows the last. */
static bool all_strings(struct plan_cursor c)
{
    const char *text;
    while (c.left)
        if (!plan_next_string(&c, &text))
            return false;
    return c.at == c.end;
}

static bool all_options(struct plan_cursor c)
{
    const char *key, *value;
    while (c.left)
        if (!plan_next_option(&c, &key, &value))
            return false;
    return c.at == c.end;
}

static bool all_u32(struct plan_cursor c)
{
    uint32_t value;
    while (c.left)
        if (!plan_next_u32(&c, &value))
            return false;
    return c.at == c.end;
}

static bool all_rlimits(struct plan_cursor c)
{
    struct plan_rlimit limit;
    while (c.left)
        if (!plan_next_rlimit(&c, &limit))
            return false;
    return c.at == c.end;
}

static bool all_devices(struct plan_cursor c)
{
    struct plan_device device;
    while (c.left)
        if (!plan_next_device(&c, &device))
            return false;
    return c.at == c.end;
}

static bool all_mounts(struct plan_cursor c)
{
    struct plan_mount mount;
    while (c.left)
        if (!plan_next_mount(&c, &mount))
            return false;
    return c.at == c.end;
}

static bool all_hooks(struct plan_cursor c)
{
    struct plan_hook hook;
    while (c.left)
        if (!plan_next_hook(&c, &hook))
            return false;
    return c.at == c.end;
}

static bool one_string(struct plan_cursor c, const char **text)
{
    return c.left == 1 && plan_next_string(&c, text) && c.at == c.end;
}

static bool decode_general(struct plan_cursor c, struct plan_general *g)
{
    return c.left == 1 && take(&c, g, sizeof *g) && c.at == c.end && g->reserved == 0 &&
           (g->flags & ~(uint64_t)PLAN_FLAGS_KNOWN) == 0;
}

static bool decode_tuning(struct plan_cursor c, struct plan_tuning *t)
{
    return c.left == 1 && take(&c, t, sizeof *t) && c.at == c.end && t->reserved == 0 &&
           (t->present & ~(uint32_t)TUNE_FLAGS_KNOWN) == 0;
}

static bool decode_root(struct plan_cursor c, struct plan_root *r)
{
    uint32_t lowers;
    if (c.left != 1 || !take_u32(&c, &r->kind) || !take_u32(&c, &r->is_volatile) || !take_u32(&c, &lowers))
        return false;
    if (r->kind < ROOT_BIND || r->kind > ROOT_OVERLAY_CLASSIC || (r->kind != ROOT_BIND && lowers == 0))
        return false;
    if (!take_string(&c, &r->path) || !take_string(&c, &r->upper) || !take_string(&c, &r->work))
        return false;
    r->lower = (struct plan_cursor){c.at, c.end, lowers};
    return all_strings(r->lower);
}

static bool decode_filter(struct plan_cursor c, struct plan *plan)
{
    size_t size = (size_t)(c.end - c.at);
    if (c.left == 0 || c.left > PLAN_MAX_FILTER || size != (size_t)c.left * 8)
        return false;
    plan->filter = c.at;
    plan->filter_length = c.left;
    return true;
}

static bool decode_section(uint16_t tag, struct plan_cursor c, struct plan *p)
{
    switch (tag) {
    case SECTION_GENERAL: return decode_general(c, &p->general);
    case SECTION_ROOT: return decode_root(c, &p->root);
    case SECTION_FILTER: return decode_filter(c, p);
    case SECTION_JOIN: p->joins = c; return all_u32(c);
    case SECTION_MOUNTS: p->mounts = c; return all_mounts(c);
    case SECTION_DEVICES: p->devices = c; return all_devices(c);
    case SECTION_MASKED: p->masked = c; return all_strings(c);
    case SECTION_READONLY: p->readonly = c; return all_strings(c);
    case SECTION_SYSCTL: p->sysctl = c; return all_options(c);
    case SECTION_GROUPS: p->groups = c; return all_u32(c);
    case SECTION_GROUP_NAMES: p->group_names = c; return all_strings(c);
    case SECTION_RLIMITS: p->rlimits = c; return all_rlimits(c);
    case SECTION_ARGV: p->argv = c; return c.left > 0 && all_strings(c);
    case SECTION_ENV: p->env = c; return all_strings(c);
    case SECTION_HIDDEN: p->hidden = c; return all_strings(c);
    case SECTION_HOOKS: p->hooks = c; return all_hooks(c);
    case SECTION_STATE: p->state = c; return c.left == 3 && all_strings(c);
    case SECTION_TUNING: return decode_tuning(c, &p->tuning);
    case SECTION_AFFINITY: p->affinity = c; return all_u32(c);
    case SECTION_NODES: p->nodes = c; return all_u32(c);
    case SECTION_FAILPOINTS: p->failpoints = c; return all_u32(c);
    case SECTION_PROFILE: return one_string(c, &p->profile);
    case SECTION_HOSTNAME: return one_string(c, &p->hostname);
    case SECTION_DOMAINNAME: return one_string(c, &p->domainname);
    case SECTION_USER: return one_string(c, &p->user);
    case SECTION_CWD: return one_string(c, &p->cwd);
    default: return false;
    }
}

/* A plan that lacks what its mode needs is as broken as one cut short. */
static bool complete(const struct plan *p, uint32_t seen)
{
    uint32_t needed = 1u << SECTION_GENERAL | 1u << SECTION_CWD | 1u << SECTION_ARGV;
    if ((p->general.flags & PLAN_EXEC) == 0)
        needed |= 1u << SECTION_ROOT;
    if (seen & 1u << SECTION_HOOKS)
        needed |= 1u << SECTION_STATE;
    return (seen & needed) == needed;
}

int plan_decode(const void *block, size_t length, struct plan *plan)
{
    struct {
        uint32_t magic;
        uint16_t version, sections;
        uint32_t length, reserved;
    } head;
    struct plan_cursor c = {block, (const unsigned char *)block + length, 0};
    uint32_t seen = 0;
    memset(plan, 0, sizeof *plan);
    if (length > PLAN_MAX_BYTES || !take(&c, &head, sizeof head))
        return PLAN_EINVAL;
    if (head.magic != PLAN_MAGIC || head.version != PLAN_VERSION || head.length != length || head.reserved)
        return PLAN_EINVAL;
    for (uint16_t i = 0, last = 0; i < head.sections; i++) {
        struct {
            uint16_t tag, reserved;
            uint32_t count, size;
        } s;
        if (!take(&c, &s, sizeof s) || s.tag <= last || s.tag >= SECTION_END || s.reserved)
            return PLAN_EINVAL;
        if ((size_t)(c.end - c.at) < s.size)
            return PLAN_EINVAL;
        if (!decode_section(s.tag, (struct plan_cursor){c.at, c.at + s.size, s.count}, plan))
            return PLAN_EINVAL;
        seen |= 1u << s.tag;
        last = s.tag;
        c.at += s.size;
    }
    return c.at == c.end && complete(plan, seen) ? 0 : PLAN_EINVAL;
}
