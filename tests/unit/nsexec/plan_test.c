/* The decoder of the launch plan, alone: for ASan and UBSan, and a small fuzzer of its own.
 *
 *   plan_test ROUNDS FILE...   each file is a sound plan; exits 0 when every claim holds
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

#define CLAIM(holds)                                                                               \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #holds);                    \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t seed = 88172645463325252u;

static uint32_t random_u32(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

/* A copy of exactly that size: ASan sees every byte read beyond it. */
static int decode(const unsigned char *bytes, size_t size, struct plan *plan)
{
    unsigned char *copy = malloc(size ? size : 1);
    CLAIM(copy);
    memcpy(copy, bytes, size);
    int result = plan_decode(copy, size, plan);
    if (result == 0) { /* what was accepted can be walked */
        struct plan_mount mount;
        const char *key, *value;
        size_t seen = 0;
        while (plan_next_mount(&plan->mounts, &mount)) {
            seen += strlen(mount.source) + strlen(mount.target) + strlen(mount.type);
            while (plan_next_option(&mount.option_cursor, &key, &value))
                seen += strlen(key) + strlen(value);
        }
        struct plan_device device;
        while (plan_next_device(&plan->devices, &device))
            seen += strlen(device.path);
        struct plan_rlimit limit;
        while (plan_next_rlimit(&plan->rlimits, &limit))
            seen += limit.resource;
        struct plan_hook hook;
        while (plan_next_hook(&plan->hooks, &hook)) {
            seen += strlen(hook.path);
            while (plan_next_string(&hook.argv, &value) || plan_next_string(&hook.env, &value))
                seen += strlen(value);
        }
        struct plan_cursor *texts[] = {&plan->hidden, &plan->state, &plan->masked, &plan->readonly, &plan->argv, &plan->env, &plan->group_names,
                                       &plan->root.lower};
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
            while (plan_next_string(texts[i], &value))
                seen += strlen(value);
        while (plan_next_option(&plan->sysctl, &key, &value))
            seen += strlen(key) + strlen(value);
        CLAIM(seen > 0);
        CLAIM(plan->filter_length <= PLAN_MAX_FILTER);
        CLAIM(plan->cwd != NULL && strlen(plan->cwd) < size);
    }
    free(copy);
    return result;
}

static void set_length(unsigned char *bytes, size_t length)
{
    uint32_t value = (uint32_t)length;
    memcpy(bytes + 8, &value, sizeof value);
}

static void every_truncation_is_refused(const unsigned char *bytes, size_t size)
{
    struct plan plan;
    unsigned char *copy = malloc(size);
    CLAIM(copy);
    for (size_t length = 0; length < size; length++) {
        memcpy(copy, bytes, size);
        CLAIM(decode(copy, length, &plan) != 0);
        if (length >= 16) { /* a header that knows of it does not help */
            set_length(copy, length);
            CLAIM(decode(copy, length, &plan) != 0);
        }
    }
    free(copy);
}

static void anything_else_is_harmless(const unsigned char *bytes, size_t size, long rounds)
{
    struct plan plan;
    unsigned char *copy = malloc(size);
    CLAIM(copy);
    for (long round = 0; round < rounds; round++) {
        memcpy(copy, bytes, size);
        size_t length = random_u32() % 4 ? size : random_u32() % (uint32_t)size;
        for (uint32_t edits = 1 + random_u32() % 4; edits > 0; edits--) {
            uint32_t at = random_u32() % (uint32_t)size;
            uint32_t values[] = {0, 1, 0x7f, 0xff, random_u32() & 0xff};
            copy[at] = (unsigned char)values[random_u32() % 5];
        }
        if (length >= 16)
            set_length(copy, length);
        decode(copy, length, &plan);
    }
    free(copy);
}

int main(int count, char **arguments)
{
    static unsigned char bytes[1 << 20];
    CLAIM(count > 2);
    for (int i = 2; i < count; i++) {
        struct plan plan;
        FILE *file = fopen(arguments[i], "rb");
        CLAIM(file);
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        CLAIM(decode(bytes, size, &plan) == 0);
        every_truncation_is_refused(bytes, size);
        anything_else_is_harmless(bytes, size, atol(arguments[1]));
    }
    return 0;
}
