/* Small trees of files, made and deleted in one go: whoever asks gives the interpreter away once, and not once for each
 * system call, of which every one has another thread wake up for the interpreter and the caller wait to have it back. */
#ifndef BULKHEAD_TREES_H
#define BULKHEAD_TREES_H

#include <stddef.h>

struct tree_file {
    const char *name, *content;
    size_t size;
};

/* Delete what is in a directory, through no link: at most so many entries in so many levels of directories. How many
 * entries more there might have been; or -errno (EFBIG: there are more), and a part may be gone. */
long tree_empty(int directory, long most, int levels);

/* Whether an open directory is as if we had made it just now beside others of `parent`, for nobody else: ours, 0700,
 * nothing in it, on it (attributes of any kind), or in hold of it (flock(2), which is ours from then on); or -errno. */
int tree_is_new(int directory, int parent);

/* Write files in place, each readable for all; 0 or -errno. */
int tree_write(const char *directory, const struct tree_file *files, size_t count);

#endif
