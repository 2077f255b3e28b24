/* Lines of a container's output as Docker's json-file records: of all that a shim does with them, the dear part. */
#ifndef BULKHEAD_LINES_H
#define BULKHEAD_LINES_H

#include <stddef.h>

/* What is around each line: `{"log":"` is before it, its newline's escape and `suffix` behind. */
struct lines_request {
    const unsigned char *text;
    size_t size; /* the last byte is a newline */
    const char *suffix;
    size_t suffix_size;
    size_t escapes; /* found by lines_measure: how many bytes are written otherwise */
};

/* How many bytes the records take; 0 where a byte is not ASCII, which takes more thought than is had here. */
size_t lines_measure(struct lines_request *request);

/* Write them: as many as lines_measure has said. */
void lines_write(const struct lines_request *request, char *out);

#endif
