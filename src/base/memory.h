/* Memory: aligned blocks and arenas.
 *
 * Three lifetimes exist: mapped weights (base/file.h), a model arena, and a session workspace that is measured once
 * and allocated once. All blocks are aligned to FVLM_ALIGN, the width of a cache line and of an AVX-512 register.
 */
#ifndef FVLM_BASE_MEMORY_H
#define FVLM_BASE_MEMORY_H

#include <stddef.h>

#define FVLM_ALIGN 64

/* `bytes` of zeroed memory aligned to FVLM_ALIGN, or NULL. Large blocks come as untouched zero pages. */
void *fvlm_aligned_alloc(size_t bytes);
void fvlm_aligned_free(void *memory);
/* Ask the system for large pages behind a block that will be used whole. Only a hint. */
void fvlm_prefer_large_pages(void *memory, size_t bytes);

/* count x size, zeroed, or NULL on overflow or exhaustion; free with free(). */
void *fvlm_calloc(size_t count, size_t size);

/* A copy of `text`, or NULL; free with free(). */
char *fvlm_strdup(const char *text);

/* An arena gives blocks that live until the whole arena is freed. Not thread safe. */
typedef struct fvlm_arena fvlm_arena;
fvlm_arena *fvlm_arena_create(void); /* NULL when out of memory */
void fvlm_arena_destroy(fvlm_arena **arena);
/* Zeroed, aligned to FVLM_ALIGN; NULL when out of memory or count x size overflows. */
void *fvlm_arena_alloc(fvlm_arena *arena, size_t count, size_t size);
char *fvlm_arena_strdup(fvlm_arena *arena, const char *text);
size_t fvlm_arena_bytes(const fvlm_arena *arena);

#endif
