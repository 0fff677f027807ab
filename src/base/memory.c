/* Aligned blocks and the arena: a list of chunks, each at least CHUNK_BYTES, large requests in chunks of their own. */
#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise */
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "fastvlm/status.h"

#ifdef _WIN32
#include <malloc.h>
#endif

#define CHUNK_BYTES ((size_t)64 << 10)

void fvlm_free(void *memory)
{
    free(memory);
}

void *fvlm_aligned_alloc(size_t bytes)
{
    size_t rounded;
    if (!fvlm_size_add(bytes ? bytes : 1, FVLM_ALIGN - 1, &rounded))
        return NULL;
    rounded &= ~(size_t)(FVLM_ALIGN - 1);
#ifdef _WIN32
    void *memory = _aligned_malloc(rounded, FVLM_ALIGN);
    return memory ? memset(memory, 0, rounded) : NULL;
#else
    /* calloc knows which pages are fresh from the system and leaves them untouched; it aligns to less than we need,
     * so the block's own address is kept just in front of the aligned one. */
    if (rounded > SIZE_MAX - FVLM_ALIGN - sizeof(void *))
        return NULL;
    char *block = calloc(1, rounded + FVLM_ALIGN + sizeof(void *));
    if (!block)
        return NULL;
    uintptr_t aligned = ((uintptr_t)block + sizeof(void *) + FVLM_ALIGN - 1) & ~(uintptr_t)(FVLM_ALIGN - 1);
    memcpy((void *)(aligned - sizeof(void *)), &block, sizeof block);
    return (void *)aligned;
#endif
}

void fvlm_aligned_free(void *memory)
{
    if (!memory)
        return;
#ifdef _WIN32
    _aligned_free(memory);
#else
    void *block;
    memcpy(&block, (char *)memory - sizeof block, sizeof block);
    free(block);
#endif
}

void fvlm_prefer_large_pages(void *memory, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = ((uintptr_t)memory + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)memory + bytes) & ~(page - 1);
    if (start < end)
        madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

void *fvlm_calloc(size_t count, size_t size)
{
    return calloc(count ? count : 1, size ? size : 1);
}

char *fvlm_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = malloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

struct chunk {
    struct chunk *next;
    char *data; /* [size], aligned */
    size_t size, used;
};

struct fvlm_arena {
    struct chunk *chunks; /* the one being filled first */
    size_t bytes;
};

fvlm_arena *fvlm_arena_create(void)
{
    return calloc(1, sizeof(fvlm_arena));
}

void fvlm_arena_destroy(fvlm_arena **arena)
{
    if (!*arena)
        return;
    for (struct chunk *chunk = (*arena)->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        fvlm_aligned_free(chunk->data);
        free(chunk);
    }
    free(*arena);
    *arena = NULL;
}

static struct chunk *chunk_add(fvlm_arena *arena, size_t size)
{
    struct chunk *chunk = calloc(1, sizeof *chunk);
    if (!chunk)
        return NULL;
    chunk->size = size;
    chunk->data = fvlm_aligned_alloc(size);
    if (!chunk->data) {
        free(chunk);
        return NULL;
    }
    arena->bytes += size;
    return chunk;
}

void *fvlm_arena_alloc(fvlm_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (!fvlm_size_multiply(count, size, &bytes) || !fvlm_size_add(bytes ? bytes : 1, FVLM_ALIGN - 1, &bytes))
        return NULL;
    bytes &= ~(size_t)(FVLM_ALIGN - 1);

    struct chunk *first = arena->chunks;
    if (!first || first->size - first->used < bytes) {
        struct chunk *chunk = chunk_add(arena, bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES);
        if (!chunk)
            return NULL;
        if (bytes > CHUNK_BYTES && first) { /* full at once: keep filling the present one */
            chunk->next = first->next;
            first->next = chunk;
        } else {
            chunk->next = first;
            arena->chunks = chunk;
        }
        first = chunk;
    }
    void *memory = first->data + first->used;
    first->used += bytes;
    return memory;
}

char *fvlm_arena_strdup(fvlm_arena *arena, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = fvlm_arena_alloc(arena, bytes, 1);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

size_t fvlm_arena_bytes(const fvlm_arena *arena)
{
    return arena->bytes;
}
