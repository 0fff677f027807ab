/* One thread pool per engine: a parallel-for over an index range.
 *
 * Workers spin for a moment after a job, then sleep, so that the short jobs of one token follow each other without a
 * system call. A pool serves one caller at a time; callers that come together take turns (acquire and release). How
 * indices fall on threads never changes a result.
 */
#ifndef FVLM_BASE_POOL_H
#define FVLM_BASE_POOL_H

#include <stddef.h>

#include "base/error.h"

typedef struct fvlm_pool fvlm_pool;

/* One call for each index in [0, count). `thread` is in [0, fvlm_pool_threads) and names the scratch to use. */
typedef void (*fvlm_task_fn)(void *argument, size_t index, int thread);

/* `threads` includes the calling thread; at least 1. */
fvlm_status fvlm_pool_create(int threads, fvlm_pool **pool, fvlm_error *error);
void fvlm_pool_destroy(fvlm_pool **pool);
int fvlm_pool_threads(const fvlm_pool *pool);

/* Returns when every index is done. Must not be called from within a task. With more than one calling thread, each
 * holds the pool. */
void fvlm_pool_run(fvlm_pool *pool, size_t count, fvlm_task_fn task, void *argument);

/* The same, for many short tasks over neighbouring memory: a thread takes several indices in a row at a time, at most
 * `most`, the fewer the nearer the end is. */
void fvlm_pool_run_stretches(fvlm_pool *pool, size_t count, size_t most, fvlm_task_fn task, void *argument);

/* Hold the pool over several runs, so that callers may share a workspace that goes with it. Others wait their turn. */
void fvlm_pool_acquire(fvlm_pool *pool);
void fvlm_pool_release(fvlm_pool *pool);

/* Scratch memory of a thread, FVLM_SCRATCH_BYTES aligned to FVLM_ALIGN, for use within one task only. */
#define FVLM_SCRATCH_BYTES ((size_t)4 << 20)
void *fvlm_pool_scratch(fvlm_pool *pool, int thread);

#endif
