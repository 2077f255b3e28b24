/* Memory that forks share again: a picture of it in a memfd, and the way back to the picture. */
#ifndef BULKHEAD_MEMORY_H
#define BULKHEAD_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Put this process's large private mappings behind a sealed memfd with their content: bytes, or -errno.
 * -EBUSY where there are other threads, who might write to them meanwhile. */
long memory_share(void);

/* Drop the private copies of pages that are as they were in the picture, or as in the likeness: bytes, or -errno as above.
 * 0 where there is no picture. */
long memory_give_back(void);

struct memory_range {
    uint64_t start, end;
};

/* Which pages this process has made or copied since it was forked: how many ranges, or -errno. What does not fit is
 * left out. */
long memory_written(struct memory_range *ranges, unsigned most);

/* Make the copies of these at once, in a fork that would come to them one fault after the other. */
void memory_copy(const struct memory_range *ranges, unsigned count);
/* Let this fork's memory be the likeness for all others, as it is after it has given back next: 0, or -errno. */
long memory_model(void);

/* Whether there is a likeness. */
int memory_is_drawn(void);

#endif
