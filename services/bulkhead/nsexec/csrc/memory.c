/* A fork shares its parent's pages until it writes to them, and what it has copied is its own for good, also
 * where the content is what it was: an object's reference count went up and down again. Where the memory is a
 * private mapping of a file, such a page can be mapped anew: it is the file's again.
 *
 * A second picture, the likeness, is that of a fork which has lived as all will live and has come to rest: of the pages
 * in which it differs from the first. What a fork has made of such a page is most likely the same, and is shared, too.
 *
 * Nothing here calls a libc or writes outside of the stack and the few variables below: what is being replaced is
 * the heap, the interpreter's arenas and its data. Their mappings are large; the small ones (this file's own, the
 * thread's block, which the kernel writes to as well) stay what they are, and so does the stack. */
#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

/* Linux 5.14 */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE 4096ul
#define LEAST (128ul << 10)
#define MOST_REGIONS 512
#define BATCH 256
/* Documentation/admin-guide/mm/pagemap.rst */
#define PRESENT (1ull << 63)
#define SWAPPED (1ull << 62)
#define OF_FILE (1ull << 61)
#define EXCLUSIVE (1ull << 56)
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
/* The likeness: the pages' number and addresses, ascending, then the pages in their order. */
#define INDEX (16ul << 10)
#define MOST_PAGES (INDEX / sizeof(uint64_t) - 1)

struct region {
    unsigned long start, end, offset;
    int of_file;
};

enum kind { OTHER, WRITABLE, SHAREABLE };

static struct region regions[MOST_REGIONS];
static unsigned region_count;
static int picture = -1;
static int likeness = -1;
static int is_model;

/* ---- /proc/self/maps, a byte at a time ---- */

struct reader {
    int fd;
    long size, position;
    char buffer[PAGE];
};

static int next_byte(struct reader *in)
{
    if (in->position == in->size) {
        in->size = sys3(__NR_read, in->fd, in->buffer, sizeof in->buffer);
        in->position = 0;
        if (in->size <= 0) {
            in->size = 0;
            return -1;
        }
    }
    return (unsigned char)in->buffer[in->position++];
}

/* A hexadecimal number and the byte behind it. */
static unsigned long number(struct reader *in, int *behind)
{
    unsigned long value = 0;
    for (;;) {
        int c = next_byte(in);
        if (c >= '0' && c <= '9')
            value = value << 4 | (unsigned long)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (unsigned long)(c - 'a' + 10);
        else {
            *behind = c;
            return value;
        }
    }
}

static enum kind kind_of(const char *perms, int bracket, const struct region *found)
{
    int is_private = perms[0] == 'r' && perms[1] == 'w' && perms[2] == '-' && perms[3] == 'p';
    if (!is_private || (bracket && bracket != 'h' && bracket != 's'))
        return OTHER;
    return bracket != 's' && found->end - found->start >= LEAST ? SHAREABLE : WRITABLE;
}

/* start-end perms offset device inode   path */
static int next_mapping(struct reader *in, struct region *found, enum kind *kind)
{
    char perms[4] = {0};
    int c;
    found->start = number(in, &c);
    if (c != '-')
        return 0;
    found->end = number(in, &c);
    for (int i = 0; i < 4; i++)
        perms[i] = (char)next_byte(in);
    next_byte(in);
    number(in, &c); /* offset */
    while ((c = next_byte(in)) > ' ') /* device */
        ;
    found->of_file = 0;
    while ((c = next_byte(in)) > ' ') /* inode */
        found->of_file |= c != '0';
    while (c == ' ')
        c = next_byte(in);
    int bracket = 0;
    if (c == '[')
        bracket = c = next_byte(in); /* [heap], [stack]; the others are the kernel's */
    while (c != '\n' && c >= 0)
        c = next_byte(in);
    *kind = kind_of(perms, bracket, found);
    return 1;
}

/* Whether an address that must stay is inside. */
static int holds(const struct region *region, const void *address)
{
    return (unsigned long)address >= region->start && (unsigned long)address < region->end;
}

static unsigned long find_regions(void)
{
    struct reader in = {.fd = (int)sys4(__NR_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0)};
    unsigned long size = 0;
    enum kind kind;
    region_count = 0;
    if (in.fd < 0)
        return 0;
    while (region_count < MOST_REGIONS && next_mapping(&in, &regions[region_count], &kind)) {
        struct region *region = &regions[region_count];
        if (kind != SHAREABLE || holds(region, &in) || holds(region, regions) || holds(region, __builtin_thread_pointer()))
            continue;
        region->offset = size;
        size += region->end - region->start;
        region_count++;
    }
    sys1(__NR_close, in.fd);
    return size;
}

/* ---- pages ---- */

static int open_pagemap(void)
{
    return (int)sys4(__NR_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC, 0);
}

static long read_pagemap(int pagemap, unsigned long address, uint64_t *entries, unsigned count)
{
    long size = (long)(count * sizeof *entries);
    return sys4(__NR_pread64, pagemap, entries, size, address / PAGE * sizeof *entries) == size ? 0 : -EIO;
}

static unsigned batch(const struct region *region, unsigned long address)
{
    unsigned long left = (region->end - address) / PAGE;
    return left < BATCH ? (unsigned)left : BATCH;
}

static long write_pages(int file, unsigned long address, unsigned long size, unsigned long offset)
{
    while (size) {
        long written = sys4(__NR_pwrite64, file, address, size, offset);
        if (written <= 0)
            return written ? written : -EIO;
        address += (unsigned long)written;
        offset += (unsigned long)written;
        size -= (unsigned long)written;
    }
    return 0;
}

/* What is not there need not be in the picture either, unless a file would say what it is. */
static long take_picture(const struct region *region, int pagemap)
{
    uint64_t entries[BATCH];
    for (unsigned long address = region->start; address < region->end;) {
        unsigned count = batch(region, address);
        long failed = read_pagemap(pagemap, address, entries, count);
        for (unsigned i = 0; i < count && !failed; i++, address += PAGE)
            if (region->of_file || entries[i] & (PRESENT | SWAPPED))
                failed = write_pages(picture, address, PAGE, region->offset + (address - region->start));
        if (failed)
            return failed;
    }
    return 0;
}

static long map_file(unsigned long address, unsigned long size, int file, unsigned long offset)
{
    long found =
        sys6(__NR_mmap, address, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, offset);
    return found < 0 && found > -4096 ? found : 0;
}

static long replace(const struct region *region)
{
    return map_file(region->start, region->end - region->start, picture, region->offset);
}

static int is_same(const void *page, const void *other)
{
    const uint64_t *a = page, *b = other;
    for (unsigned i = 0; i < PAGE / sizeof *a; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

static int is_pictured(unsigned long address, unsigned long offset)
{
    uint64_t pictured[PAGE / sizeof(uint64_t)];
    return sys4(__NR_pread64, picture, pictured, PAGE, offset) == (long)PAGE && is_same((const void *)address, pictured);
}

static int is_copy(uint64_t entry)
{
    return entry & PRESENT && !(entry & OF_FILE);
}

/* ---- the likeness ---- */

/* While it is open: where it is, how large, and the next of its pages. */
struct likeness {
    const uint64_t *index;
    unsigned long size;
    unsigned next;
};

static void open_likeness(struct likeness *known)
{
    struct stat found;
    known->index = NULL;
    known->next = 0;
    if (!memory_is_drawn() ||
        sys4(__NR_newfstatat, likeness, "", &found, AT_EMPTY_PATH) || found.st_size <= (long)INDEX)
        return;
    long place = sys6(__NR_mmap, 0, found.st_size, PROT_READ, MAP_SHARED, likeness, 0);
    if (place < 0 && place > -4096)
        return;
    known->index = (const void *)place;
    known->size = (unsigned long)found.st_size;
}

static void close_likeness(const struct likeness *known)
{
    if (known->index)
        sys2(__NR_munmap, known->index, known->size);
}

/* The page's place among the likeness', which is asked for in ascending order; -1 if it is not one of them. */
static int place_in(struct likeness *known, unsigned long address)
{
    if (!known->index)
        return -1;
    while (known->next < known->index[0] && known->index[1 + known->next] < address)
        known->next++;
    return known->next < known->index[0] && known->index[1 + known->next] == address ? (int)known->next : -1;
}

/* Let the page be that of a file, which says the same. What is mapped there may be another mapping by now, made when the
 * one that was replaced had been freed: to drop its page would leave zeros. */
static int show(unsigned long address, int file, unsigned long offset)
{
    return map_file(address, PAGE, file, offset) == 0;
}

/* Whether a copy could be given up. */
static int give_up(struct likeness *known, unsigned long address, unsigned long offset)
{
    int place = place_in(known, address);
    unsigned long start = INDEX + (unsigned long)place * PAGE;
    if (place >= 0 && is_same((const void *)address, (const char *)known->index + start))
        return show(address, likeness, start);
    return is_pictured(address, offset) && show(address, picture, offset);
}

static long give_back_region(const struct region *region, int pagemap, struct likeness *known)
{
    uint64_t entries[BATCH];
    long given = 0;
    for (unsigned long address = region->start; address < region->end;) {
        unsigned count = batch(region, address);
        if (read_pagemap(pagemap, address, entries, count))
            return given;
        for (unsigned i = 0; i < count; i++, address += PAGE)
            if (is_copy(entries[i]) && give_up(known, address, region->offset + (address - region->start)))
                given += (long)PAGE;
    }
    return given;
}

/* Add the copies in a region to the likeness. */
static long draw_region(const struct region *region, int pagemap, uint64_t *count)
{
    uint64_t entries[BATCH];
    for (unsigned long address = region->start; address < region->end;) {
        unsigned pages = batch(region, address);
        long failed = read_pagemap(pagemap, address, entries, pages);
        for (unsigned i = 0; i < pages && !failed; i++, address += PAGE) {
            if (!is_copy(entries[i]) || *count == MOST_PAGES)
                continue;
            failed = write_pages(likeness, address, PAGE, INDEX + *count * PAGE);
            if (!failed)
                failed = write_pages(likeness, (unsigned long)&address, sizeof address, ++*count * sizeof *count);
        }
        if (failed)
            return failed;
    }
    return 0;
}

/* Where it fails there is no likeness: it counts when it is sealed. */
static long draw(int pagemap)
{
    uint64_t count = 0;
    long failed = 0;
    for (unsigned i = 0; i < region_count && !failed; i++)
        failed = draw_region(&regions[i], pagemap, &count);
    if (!failed)
        failed = write_pages(likeness, (unsigned long)&count, sizeof count, 0);
    return failed ? failed : sys3(__NR_fcntl, likeness, F_ADD_SEALS, ALL_SEALS);
}

/* ---- what a life writes to ---- */

struct list {
    struct memory_range *ranges;
    unsigned count, most;
};

static int note(struct list *list, unsigned long address)
{
    struct memory_range *last = list->count ? &list->ranges[list->count - 1] : 0;
    if (last && last->end == address) {
        last->end += PAGE;
        return 1;
    }
    if (list->count == list->most)
        return 0;
    list->ranges[list->count].start = address;
    list->ranges[list->count++].end = address + PAGE;
    return 1;
}

/* A page that is neither a file's nor anybody else's too was made or copied here. */
static int note_written(struct list *list, const struct region *found, int pagemap)
{
    uint64_t entries[BATCH];
    for (unsigned long address = found->start; address < found->end;) {
        unsigned count = batch(found, address);
        if (read_pagemap(pagemap, address, entries, count))
            return 1;
        for (unsigned i = 0; i < count; i++, address += PAGE)
            if ((entries[i] & (PRESENT | EXCLUSIVE | OF_FILE)) == (PRESENT | EXCLUSIVE) && !note(list, address))
                return 0;
    }
    return 1;
}

long memory_written(struct memory_range *ranges, unsigned most)
{
    struct list list = {.ranges = ranges, .most = most};
    struct region found;
    enum kind kind;
    int pagemap = open_pagemap();
    if (pagemap < 0)
        return pagemap;
    struct reader in = {.fd = (int)sys4(__NR_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0)};
    int room = in.fd >= 0;
    while (room && next_mapping(&in, &found, &kind))
        if (kind >= WRITABLE)
            room = note_written(&list, &found, pagemap);
    if (in.fd >= 0)
        sys1(__NR_close, in.fd);
    sys1(__NR_close, pagemap);
    return (long)list.count;
}

void memory_copy(const struct memory_range *ranges, unsigned count)
{
    /* What is not mapped here is not needed either. */
    for (unsigned i = 0; i < count; i++)
        sys3(__NR_madvise, ranges[i].start, ranges[i].end - ranges[i].start, MADV_POPULATE_WRITE);
}

/* ---- memory behind a picture ---- */

static void block_signals(uint64_t *before)
{
    uint64_t all = ~0ull;
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, before, sizeof all);
}

static void restore_signals(const uint64_t *before)
{
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, before, 0, sizeof *before);
}

/* Another thread might write to a page between the look at it and the deed. */
static int is_alone(void)
{
    struct stat tasks;
    return sys4(__NR_newfstatat, AT_FDCWD, "/proc/self/task", &tasks, 0) == 0 && tasks.st_nlink == 3;
}

static long share(int pagemap)
{
    unsigned long size = find_regions();
    long failed = size ? sys2(__NR_ftruncate, picture, size) : -ENOENT;
    for (unsigned i = 0; i < region_count && !failed; i++)
        failed = take_picture(&regions[i], pagemap);
    if (!failed)
        failed = sys3(__NR_fcntl, picture, F_ADD_SEALS, ALL_SEALS);
    /* From here on a failure leaves some regions as they are, which is as good. */
    unsigned done = 0;
    while (!failed && done < region_count) {
        failed = replace(&regions[done]);
        done += !failed;
    }
    region_count = done;
    return done ? (long)size : failed;
}

long memory_share(void)
{
    uint64_t before;
    if (picture >= 0)
        return -EALREADY;
    if (getpagesize() != PAGE)
        return -EOPNOTSUPP;
    if (!is_alone())
        return -EBUSY;
    int pagemap = open_pagemap();
    if (pagemap < 0)
        return pagemap;
    picture = (int)sys2(__NR_memfd_create, "bulkhead-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    long done = picture;
    if (picture >= 0) {
        block_signals(&before);
        done = share(pagemap);
        restore_signals(&before);
        if (done < 0) {
            sys1(__NR_close, picture);
            picture = -1;
        } else
            likeness = (int)sys2(__NR_memfd_create, "bulkhead-likeness", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    sys1(__NR_close, pagemap);
    return done;
}

long memory_give_back(void)
{
    uint64_t before;
    long given = 0;
    if (picture < 0)
        return 0;
    if (!is_alone())
        return -EBUSY;
    int pagemap = open_pagemap();
    if (pagemap < 0)
        return pagemap;
    struct likeness known;
    block_signals(&before);
    open_likeness(&known);
    for (unsigned i = 0; i < region_count; i++)
        given += give_back_region(&regions[i], pagemap, &known);
    close_likeness(&known);
    if (is_model) {
        is_model = 0;
        draw(pagemap);
    }
    restore_signals(&before);
    sys1(__NR_close, pagemap);
    return given;
}

long memory_model(void)
{
    if (likeness < 0)
        return -ENOENT;
    is_model = 1;
    return 0;
}

int memory_is_drawn(void)
{
    return likeness >= 0 && sys2(__NR_fcntl, likeness, F_GET_SEALS) == ALL_SEALS;
}
