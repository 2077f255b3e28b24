#include "lines.h"

#include <stdint.h>
#include <string.h>

/* Counts of a block fit into bytes, of which the compiler adds many at once. */
#define BLOCK 128
#define PREFIX "{\"log\":\""
#define NEWLINE "\\n"
#define LONG_ESCAPE 6

static const char digits[] = "0123456789abcdef";

struct census {
    size_t newlines, briefly, at_length;
    unsigned all;
};

/* As dockerd does (daemon/logger/jsonfilelog/jsonlog). */
static inline unsigned is_brief(unsigned char c)
{
    return (c == '"') | (c == '\\') | (c == '\r');
}

static inline unsigned is_long(unsigned char c)
{
    return (c == '<') | (c == '>') | (c == '&') | ((c < ' ') & (c != '\n') & (c != '\r'));
}

static void count(const unsigned char *text, size_t size, struct census *found)
{
    uint8_t newlines = 0, briefly = 0, at_length = 0, all = 0;
    for (size_t i = 0; i < size; i++) {
        newlines = (uint8_t)(newlines + (text[i] == '\n'));
        briefly = (uint8_t)(briefly + is_brief(text[i]));
        at_length = (uint8_t)(at_length + is_long(text[i]));
        all |= text[i];
    }
    found->newlines += newlines;
    found->briefly += briefly;
    found->at_length += at_length;
    found->all |= all;
}

size_t lines_measure(struct lines_request *request)
{
    struct census found = {0};
    size_t done = 0;
    for (; request->size - done >= BLOCK && found.all < 0x80; done += BLOCK)
        count(request->text + done, BLOCK, &found);
    if (found.all < 0x80)
        count(request->text + done, request->size - done, &found);
    if (found.all >= 0x80)
        return 0;
    request->escapes = found.briefly + found.at_length;
    return request->size - found.newlines + found.briefly + (LONG_ESCAPE - 1) * found.at_length +
           found.newlines * (strlen(PREFIX) + strlen(NEWLINE) + request->suffix_size);
}

static char *append(char *out, const void *bytes, size_t size)
{
    memcpy(out, bytes, size);
    return out + size;
}

static char *append_escaped(char *out, const unsigned char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = text[i];
        if (is_brief(c)) {
            *out++ = '\\';
            *out++ = c == '\r' ? 'r' : (char)c;
        } else if (is_long(c)) {
            out = append(out, "\\u00", LONG_ESCAPE - 2);
            *out++ = digits[c >> 4];
            *out++ = digits[c & 15];
        } else {
            *out++ = (char)c;
        }
    }
    return out;
}

void lines_write(const struct lines_request *request, char *out)
{
    const unsigned char *text = request->text, *end = text + request->size;
    while (text < end) {
        const unsigned char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t size = (size_t)(newline - text);
        out = append(out, PREFIX, strlen(PREFIX));
        out = request->escapes ? append_escaped(out, text, size) : append(out, text, size);
        out = append(out, NEWLINE, strlen(NEWLINE));
        out = append(out, request->suffix, request->suffix_size);
        text = newline + 1;
    }
}
