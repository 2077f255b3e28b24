/* Memory that forks share again: a picture of it in a memfd, and the way back to the picture. */
#ifndef BULKHEAD_MEMORY_H
#define BULKHEAD_MEMORY_H

#include <stddef.h>

/* Put this process's large private mappings behind a sealed memfd with their content: bytes, or -errno.
 * -EBUSY where there are other threads, who might write to them meanwhile. */
long memory_share(void);

/* Drop the private copies of pages that are as they were in the picture: bytes, or -errno as above.
 * 0 where there is no picture. */
long memory_give_back(void);

#endif
