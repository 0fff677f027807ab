/* Overflow-checked arithmetic: every size that comes from a file or the network goes through here. */
#ifndef FVLM_BASE_CHECKED_H
#define FVLM_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *sum = a + b; false when it does not fit, *sum is then untouched. */
static inline bool fvlm_size_add(size_t a, size_t b, size_t *sum)
{
    if (b > SIZE_MAX - a)
        return false;
    *sum = a + b;
    return true;
}

/* *product = a * b; false when it does not fit, *product is then untouched. */
static inline bool fvlm_size_multiply(size_t a, size_t b, size_t *product)
{
    if (a != 0 && b > SIZE_MAX / a)
        return false;
    *product = a * b;
    return true;
}

/* True when [offset, offset + bytes) lies within [0, total). */
static inline bool fvlm_range_fits(uint64_t offset, uint64_t bytes, uint64_t total)
{
    return offset <= total && bytes <= total - offset;
}

#endif
