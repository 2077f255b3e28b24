/* A fuzzer of the launch plan's decoder, guided by coverage: gcc tells of every edge of plan.c
 * (-fsanitize-coverage=trace-pc,trace-cmp), an input that reaches a new one is kept and mutated further.
 *
 *   plan_fuzz SECONDS CORPUS   CORPUS is a directory of inputs, to which new ones are added
 *
 * Exits 0 after its time; a finding is the sanitizers' report, and the input in CORPUS/finding.
 */
#define main plan_test_main /* the same walk over what was accepted as in the unit test */
#include "plan_test.c"
#undef main

#include <dirent.h>
#include <inttypes.h>
#include <time.h>
#include <unistd.h>

enum { EDGES = 1 << 16, LARGEST = 1 << 14, MOST = 4096, CONSTANTS = 256 };

struct input {
    unsigned char *bytes;
    size_t size;
};

static unsigned char reached[EDGES];
static uint32_t reached_count, fresh;
static uintptr_t before;
static uint64_t constants[CONSTANTS];
static uint32_t constant_count;
static struct input corpus[MOST];
static uint32_t corpus_size;
static unsigned char current[LARGEST];
static size_t current_size;
static const char *directory;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    unsigned char *edge = &reached[((here >> 1) ^ before) % EDGES];
    before = here;
    if (!*edge) {
        *edge = 1;
        reached_count++;
        fresh = 1;
    }
}

/* What the decoder compares with is what it would like to see. */
static void remember(uint64_t wanted)
{
    if (wanted > 1)
        constants[constant_count++ % CONSTANTS] = wanted;
}

#define TRACE_CMP(name, type)                                                                      \
    void name(type a, type b);                                                                     \
    void name(type a, type b)                                                                      \
    {                                                                                              \
        remember(a);                                                                               \
        remember(b);                                                                               \
    }
TRACE_CMP(__sanitizer_cov_trace_cmp1, uint8_t)
TRACE_CMP(__sanitizer_cov_trace_cmp2, uint16_t)
TRACE_CMP(__sanitizer_cov_trace_cmp4, uint32_t)
TRACE_CMP(__sanitizer_cov_trace_cmp8, uint64_t)
TRACE_CMP(__sanitizer_cov_trace_const_cmp1, uint8_t)
TRACE_CMP(__sanitizer_cov_trace_const_cmp2, uint16_t)
TRACE_CMP(__sanitizer_cov_trace_const_cmp4, uint32_t)
TRACE_CMP(__sanitizer_cov_trace_const_cmp8, uint64_t)

void __sanitizer_cov_trace_switch(uint64_t value, void *table);
void __sanitizer_cov_trace_switch(uint64_t value, void *table)
{
    const uint64_t *cases = table; /* their number, their width, they */
    (void)value;
    for (uint64_t i = 0; i < cases[0]; i++)
        remember(cases[2 + i]);
}

static void save(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    if (file) {
        fwrite(current, 1, current_size, file);
        fclose(file);
    }
}

void __sanitizer_set_death_callback(void (*callback)(void));
static void dying(void) { save("finding"); }

static void keep(void)
{
    if (corpus_size == MOST)
        return;
    struct input *kept = &corpus[corpus_size++];
    kept->bytes = malloc(current_size + 1);
    CLAIM(kept->bytes);
    memcpy(kept->bytes, current, current_size);
    kept->size = current_size;
}

static void try_current(void)
{
    struct plan plan;
    before = 0;
    fresh = 0;
    decode(current, current_size, &plan);
}

static uint64_t name_of(void)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < current_size; i++)
        hash = (hash ^ current[i]) * 1099511628211u;
    return hash;
}

static void load(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        return;
    current_size = fread(current, 1, sizeof current, file);
    fclose(file);
    try_current();
    keep();
}

static void insert(size_t at, const unsigned char *bytes, size_t size)
{
    if (current_size + size > LARGEST)
        return;
    memmove(current + at + size, current + at, current_size - at);
    memcpy(current + at, bytes, size);
    current_size += size;
}

static void delete(size_t at, size_t size)
{
    memmove(current + at, current + at + size, current_size - at - size);
    current_size -= size;
}

static uint32_t below(size_t limit) { return limit ? random_u32() % (uint32_t)limit : 0; }

static void overwrite(size_t at, uint64_t value, size_t size)
{
    if (at + size <= current_size)
        memcpy(current + at, &value, size);
}

static void mutate(void)
{
    static const uint32_t edges[] = {0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fffffff, 0x80000000u, 0xfffffffcu, 0xffffffffu};
    size_t at = below(current_size);
    const struct input *other = &corpus[below(corpus_size)];
    size_t from = below(other->size), part = 1 + below(other->size - from < 64 ? other->size - from : 64);
    switch (random_u32() % 8) {
    case 0: current[at] ^= (unsigned char)(1u << random_u32() % 8); break;
    case 1: current[at] = (unsigned char)random_u32(); break;
    case 2: overwrite(at, edges[below(sizeof edges / sizeof *edges)], 4); break;
    case 3: overwrite(at, constants[below(CONSTANTS)], 4u << random_u32() % 2); break;
    case 4: overwrite(at, current_size - at - 4 + random_u32() % 3, 4); break; /* a length that just fits, or not */
    case 5: delete(at, 1 + below(current_size - at < 32 ? current_size - at : 32)); break;
    case 6:
        if (from + part <= other->size)
            insert(at, other->bytes + from, part);
        break;
    default:
        if (from + part <= other->size && at + part <= current_size)
            memcpy(current + at, other->bytes + from, part);
    }
}

static void next_input(void)
{
    const struct input *parent = &corpus[below(corpus_size)];
    memcpy(current, parent->bytes, parent->size);
    current_size = parent->size;
    for (uint32_t edits = 1 + random_u32() % 6; edits > 0 && current_size > 0; edits--)
        mutate();
    if (current_size >= 16 && random_u32() % 16)
        set_length(current, current_size);
}

int main(int count, char **arguments)
{
    CLAIM(count == 3);
    directory = arguments[2];
    __sanitizer_set_death_callback(dying);
    DIR *listing = opendir(directory);
    CLAIM(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        if (entry->d_name[0] != '.')
            load(entry->d_name);
    closedir(listing);
    CLAIM(corpus_size > 0);
    printf("%" PRIu32 " inputs reach %" PRIu32 " edges\n", corpus_size, reached_count);
    seed ^= (uint64_t)getpid() << 32 ^ (uint64_t)time(NULL);
    time_t end = time(NULL) + atol(arguments[1]);
    uint64_t rounds = 0;
    for (; rounds % 4096 || time(NULL) < end; rounds++) {
        next_input();
        try_current();
        if (fresh) {
            char name[32];
            snprintf(name, sizeof name, "%016" PRIx64, name_of());
            save(name);
            keep();
        }
    }
    printf("%" PRIu64 " executions, %" PRIu32 " inputs reach %" PRIu32 " edges, nothing found\n", rounds, corpus_size,
           reached_count);
    return 0;
}
