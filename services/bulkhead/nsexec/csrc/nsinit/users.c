/* Who the process is, read from the container's own /etc/passwd and /etc/group after the pivot, so that
 * no name service of the host is asked and no file of the host can be named. The rules are Docker's:
 * a numeric user is always a number, never a name. The files are hostile: only regular ones are read,
 * without following magic links, a bounded part of them, and a broken line counts for nothing. */
#include "nsinit.h"

enum { FILE_LIMIT = 8 << 20, LINE_LIMIT = 64 << 10, GROUP_LIMIT = 1024, FIELDS = 7 };

static const int64_t ID_LIMIT = 2147483647;

struct reader {
    int fd;
    size_t at, filled, total;
    char buffer[16384];
};

static struct reader reader;
static char line[LINE_LIMIT];
static uint32_t groups[GROUP_LIMIT];
static uint32_t group_count;
static char home[4096];

/* False when there is no such file, or none worth reading and it was not needed for a name. */
static bool reader_open(const char *path, bool needed)
{
    struct statx info;
    int fd = path_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    reader.fd = fd; /* not all of it: the buffer's pages are made when they are written to */
    reader.at = reader.filled = reader.total = 0;
    if (fd == -ENOENT || fd == -ENOTDIR)
        return false;
    must(fd, STEP_USER, path);
    path_stat(fd, &info, STEP_USER, path);
    if ((info.stx_mode & S_IFMT) == S_IFREG)
        return true;
    if (needed)
        die(STEP_USER, -EINVAL, path);
    must_close(fd);
    return false;
}

static int next_byte(void)
{
    if (reader.at == reader.filled) {
        if (reader.total >= FILE_LIMIT)
            return -1;
        long got = sys3(__NR_read, reader.fd, reader.buffer, sizeof reader.buffer);
        if (got <= 0)
            return -1;
        reader.at = 0;
        reader.filled = (size_t)got;
        reader.total += (size_t)got;
    }
    return (unsigned char)reader.buffer[reader.at++];
}

/* One line without its end; a line beyond the limit is empty. False at the end of the file. */
static bool next_line(void)
{
    size_t length = 0;
    int c = next_byte();
    if (c < 0)
        return false;
    for (; c >= 0 && c != '\n'; c = next_byte())
        if (length < LINE_LIMIT)
            line[length++] = (char)c;
    line[length < LINE_LIMIT ? length : 0] = 0;
    return true;
}

/* Cuts the line at its colons; answers how many fields it has. */
static int split_line(char *fields[FIELDS])
{
    int count = 0;
    char *at = line;
    while (count < FIELDS) {
        fields[count++] = at;
        while (*at && *at != ':')
            at++;
        if (!*at)
            break;
        *at++ = 0;
    }
    return count;
}

static bool parse_id(const char *text, uint32_t *id)
{
    int64_t value;
    if (!text_number(text, &value) || value < 0 || value > ID_LIMIT)
        return false;
    *id = (uint32_t)value;
    return true;
}

static _Noreturn void die_unknown(const char *kind, const char *name, const char *file)
{
    static char head[REPORT_DETAIL_MAX / 2], text[REPORT_DETAIL_MAX];
    if (!text_join(head, sizeof head, kind, name, ": no matching entries in ") ||
        !text_join(text, sizeof text, head, file, " file"))
        die(STEP_USER, -ENOENT, kind);
    die(STEP_USER, -ENOENT, text);
}

/* True and the id when `text` is a number; a number out of range ends the launch. */
static bool numeric_id(const char *text, uint32_t *id)
{
    int64_t value;
    const char *digit = text + (*text == '-' || *text == '+');
    if (!*digit)
        return false;
    for (const char *at = digit; *at; at++)
        if (*at < '0' || *at > '9')
            return false;
    if (!text_number(text, &value) || value < 0 || value > ID_LIMIT)
        die(STEP_USER, -ERANGE, "uids and gids must be in range 0-2147483647");
    *id = (uint32_t)value;
    return true;
}

static void add_group(uint32_t gid)
{
    for (uint32_t i = 0; i < group_count; i++)
        if (groups[i] == gid)
            return;
    if (group_count == GROUP_LIMIT)
        die(STEP_USER, -E2BIG, "groups");
    groups[group_count++] = gid;
}

/* First passwd line with this name or, when name is NULL, this uid; name_of_match is then its name. */
static bool find_user(struct stage *s, const char *name, uint32_t uid, char *name_of_match, size_t size)
{
    char *f[FIELDS] = {NULL};
    bool found = false;
    if (!reader_open("/etc/passwd", name != NULL))
        return false;
    while (!found && next_line()) {
        uint32_t line_uid, line_gid;
        if (split_line(f) < 6 || !parse_id(f[2], &line_uid) || !parse_id(f[3], &line_gid))
            continue;
        if (name ? !text_equal(f[0], name) : line_uid != uid)
            continue;
        found = true;
        s->uid = line_uid;
        s->gid = line_gid;
        if (!text_join(name_of_match, size, f[0], "", ""))
            *name_of_match = 0;
        if (f[5][0] == '/' && text_join(home, sizeof home, f[5], "", ""))
            s->home = home;
    }
    must_close(reader.fd);
    return found;
}

static bool lists_member(const char *members, const char *name)
{
    size_t length = text_length(name);
    while (*members) {
        const char *comma = text_find(members, ',');
        size_t size = comma ? (size_t)(comma - members) : text_length(members);
        if (size == length && text_starts(members, name))
            return true;
        members += size + (comma != NULL);
    }
    return false;
}

/* Supplementary groups of a user that passwd knows. */
static void add_memberships(const char *name)
{
    char *f[FIELDS];
    uint32_t gid;
    if (!*name || !reader_open("/etc/group", true))
        return;
    while (next_line())
        if (split_line(f) >= 4 && parse_id(f[2], &gid) && lists_member(f[3], name))
            add_group(gid);
    must_close(reader.fd);
}

static uint32_t find_group(const char *name)
{
    char *f[FIELDS];
    uint32_t gid, found = 0;
    bool known = false;
    if (numeric_id(name, &gid))
        return gid;
    if (reader_open("/etc/group", true)) {
        while (!known && next_line())
            if (split_line(f) >= 3 && text_equal(f[0], name) && parse_id(f[2], &found))
                known = true;
        must_close(reader.fd);
    }
    if (!known)
        die_unknown("unable to find group ", name, "group");
    return found;
}

/* What comes before the next colon; returns what comes after it. */
static const char *take_field(const char *from, char *field, size_t size)
{
    const char *colon = text_find(from, ':');
    size_t length = colon ? (size_t)(colon - from) : text_length(from);
    if (length >= size)
        die(STEP_USER, -ENAMETOOLONG, "user");
    memcpy(field, from, length);
    field[length] = 0;
    return colon ? colon + 1 : "";
}

/* `user`, `user:group`, `:group`: numbers or names. What follows a second colon counts for nothing, as with runc. */
static void resolve_named(struct stage *s)
{
    static char user[1024], group[1024], matched[1024];
    uint32_t number = 0;
    take_field(take_field(s->plan.user, user, sizeof user), group, sizeof group);
    s->uid = s->gid = 0;
    bool numeric = !*user || numeric_id(user, &number);
    bool found = find_user(s, numeric ? NULL : user, number, matched, sizeof matched);
    if (!found && !numeric)
        die_unknown("unable to find user ", user, "passwd");
    if (!found)
        s->uid = number;
    if (*group)
        s->gid = find_group(group);
    add_group(s->gid);
    if (!*group && found)
        add_memberships(matched);
}

void user_resolve(struct stage *s)
{
    static char ignored[1024];
    const char *name;
    uint32_t gid;
    struct plan_cursor numbers = s->plan.groups, names = s->plan.group_names;
    s->home = "/";
    s->user_named = s->plan.user != NULL;
    if (s->user_named)
        resolve_named(s);
    else {
        find_user(s, NULL, s->plan.general.uid, ignored, sizeof ignored); /* for HOME */
        s->uid = s->plan.general.uid;
        s->gid = s->plan.general.gid;
    }
    while (plan_next_u32(&numbers, &gid))
        add_group(gid);
    while (plan_next_string(&names, &name))
        add_group(find_group(name));
}

void groups_set(const struct stage *s)
{
    if (!wants(s, PLAN_NO_SETGROUPS))
        must(sys2(__NR_setgroups, group_count, groups), STEP_CREDENTIALS, "setgroups");
    else if (group_count > (s->user_named ? 1u : 0u)) /* a named user's own group is among them */
        warn(STEP_CREDENTIALS, -EPERM, "additional groups are dropped");
}
