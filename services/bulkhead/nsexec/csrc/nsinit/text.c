/* What a libc would bring: entry point, memory and text routines. */
#include "nsinit.h"

void *memcpy(void *restrict into, const void *restrict from, size_t size)
{
    unsigned char *to = into;
    const unsigned char *source = from;
    for (size_t i = 0; i < size; i++)
        to[i] = source[i];
    return into;
}

void *memset(void *into, int value, size_t size)
{
    unsigned char *to = into;
    for (size_t i = 0; i < size; i++)
        to[i] = (unsigned char)value;
    return into;
}

void *memchr(const void *in, int value, size_t size)
{
    const unsigned char *at = in;
    for (size_t i = 0; i < size; i++)
        if (at[i] == (unsigned char)value)
            return (void *)(uintptr_t)(at + i);
    return NULL;
}

size_t text_length(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

bool text_equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

bool text_starts(const char *text, const char *prefix)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return false;
    return true;
}

const char *text_find(const char *text, char c)
{
    for (; *text; text++)
        if (*text == c)
            return text;
    return NULL;
}

bool text_join(char *into, size_t size, const char *a, const char *b, const char *c)
{
    const char *parts[] = {a, b, c};
    size_t used = 0;
    for (int i = 0; i < 3; i++) {
        size_t length = text_length(parts[i]);
        if (length >= size - used)
            return false;
        memcpy(into + used, parts[i], length);
        used += length;
    }
    into[used] = 0;
    return true;
}

bool text_number(const char *text, int64_t *value)
{
    bool negative = *text == '-';
    int64_t sum = 0;
    if (*text == '-' || *text == '+')
        text++;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || sum > INT64_MAX / 16)
            return false;
        sum = sum * 10 + (*text - '0');
    }
    *value = negative ? -sum : sum;
    return true;
}

/* Writes backwards from `end`; answers where the text begins. */
char *number_text(char *end, uint64_t value)
{
    *--end = 0;
    do
        *--end = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    return end;
}

void *reserve(size_t size)
{
    return (void *)must(sys6(__NR_mmap, 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0), STEP_PLAN, "memory");
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall nsinit_main\n\thlt\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tbl nsinit_main\n\tbrk #0\n");
#endif
