/* The pool: an epoch counter announces a job, an atomic cursor hands out its indices, a counter of workers that have
 * finished ends it. The same code runs in every build, under ThreadSanitizer and in WebAssembly too. */
#include "base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/memory.h"

/* About 20 to 50 microseconds of pause instructions: longer than the gap between two kernels of one token. */
#define SPINS 2000

struct worker {
    struct fvlm_pool *pool;
    pthread_t thread;
    int index;
};

struct fvlm_pool {
    int threads;
    struct worker *workers; /* [threads - 1] */
    int started;
    void *scratch; /* [threads, FVLM_SCRATCH_BYTES] */

    pthread_mutex_t owner; /* held from acquire to release */
    pthread_mutex_t lock;  /* guards sleeping */
    pthread_cond_t wake, done;

    fvlm_task_fn task;
    void *argument;
    size_t count, most; /* indices in all, and that a thread takes at a time */
    atomic_size_t cursor;
    atomic_uint epoch; /* raised once a job */
    atomic_int busy;   /* workers that have not finished the job */
    atomic_bool stop;
};

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Half an even share of what is left, so that threads end together. */
static size_t stretch(const struct fvlm_pool *pool, size_t first)
{
    if (pool->most == 1)
        return 1;
    size_t count = (pool->count - first) / (2 * (size_t)pool->threads);
    return count < 1 ? 1 : count > pool->most ? pool->most : count;
}

static void take_indices(struct fvlm_pool *pool, int thread)
{
    size_t first = atomic_load_explicit(&pool->cursor, memory_order_relaxed);
    while (first < pool->count) {
        size_t end = first + stretch(pool, first);
        if (!atomic_compare_exchange_weak_explicit(&pool->cursor, &first, end, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        for (size_t index = first; index < end; index++)
            pool->task(pool->argument, index, thread);
        first = atomic_load_explicit(&pool->cursor, memory_order_relaxed);
    }
}

static void *worker_main(void *argument)
{
    struct worker *self = argument;
    struct fvlm_pool *pool = self->pool;
    unsigned seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&pool->epoch, memory_order_acquire) == seen; i++)
            relax();
        if (atomic_load_explicit(&pool->epoch, memory_order_acquire) == seen) {
            pthread_mutex_lock(&pool->lock);
            while (atomic_load_explicit(&pool->epoch, memory_order_acquire) == seen)
                pthread_cond_wait(&pool->wake, &pool->lock);
            pthread_mutex_unlock(&pool->lock);
        }
        seen++;
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        take_indices(pool, self->index);
        if (atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

/* Start a new epoch: what was written before it is seen by every worker. */
static void announce(struct fvlm_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->epoch, 1, memory_order_release);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void fvlm_pool_run(fvlm_pool *pool, size_t count, fvlm_task_fn task, void *argument)
{
    fvlm_pool_run_stretches(pool, count, 1, task, argument);
}

void fvlm_pool_run_stretches(fvlm_pool *pool, size_t count, size_t most, fvlm_task_fn task, void *argument)
{
    if (pool->threads == 1 || count <= 1) {
        for (size_t index = 0; index < count; index++)
            task(argument, index, 0);
        return;
    }
    pool->task = task;
    pool->argument = argument;
    pool->count = count;
    pool->most = most;
    atomic_store_explicit(&pool->cursor, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->busy, pool->threads - 1, memory_order_relaxed);
    announce(pool);
    take_indices(pool, 0);
    for (int i = 0; i < SPINS && atomic_load_explicit(&pool->busy, memory_order_acquire) > 0; i++)
        relax();
    if (atomic_load_explicit(&pool->busy, memory_order_acquire) > 0) {
        pthread_mutex_lock(&pool->lock);
        while (atomic_load_explicit(&pool->busy, memory_order_acquire) > 0)
            pthread_cond_wait(&pool->done, &pool->lock);
        pthread_mutex_unlock(&pool->lock);
    }
}

void fvlm_pool_acquire(fvlm_pool *pool)
{
    pthread_mutex_lock(&pool->owner);
}

void fvlm_pool_release(fvlm_pool *pool)
{
    pthread_mutex_unlock(&pool->owner);
}

fvlm_status fvlm_pool_create(int threads, fvlm_pool **out, fvlm_error *error)
{
    *out = NULL;
    if (threads < 1 || threads > 1024)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%d threads: use 1 to 1024", threads);
    fvlm_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return fvlm_fail_memory(error);
    pool->threads = threads;
    pthread_mutex_init(&pool->owner, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->workers = fvlm_calloc((size_t)threads, sizeof *pool->workers);
    pool->scratch = fvlm_aligned_alloc((size_t)threads * FVLM_SCRATCH_BYTES);
    if (!pool->workers || !pool->scratch) {
        fvlm_pool_destroy(&pool);
        return fvlm_fail_memory(error);
    }
    for (int i = 0; i < threads - 1; i++) {
        pool->workers[i] = (struct worker){.pool = pool, .index = i + 1};
        if (pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]) != 0) {
            fvlm_pool_destroy(&pool);
            return fvlm_fail(error, FVLM_ERROR_IO, "cannot start thread %d of %d: use fewer with --threads", i + 2,
                             threads);
        }
        pool->started++;
    }
    *out = pool;
    return FVLM_OK;
}

void fvlm_pool_destroy(fvlm_pool **pool)
{
    fvlm_pool *old = *pool;
    if (!old)
        return;
    atomic_store_explicit(&old->stop, true, memory_order_relaxed);
    announce(old);
    for (int i = 0; i < old->started; i++)
        pthread_join(old->workers[i].thread, NULL);
    pthread_mutex_destroy(&old->owner);
    pthread_mutex_destroy(&old->lock);
    pthread_cond_destroy(&old->wake);
    pthread_cond_destroy(&old->done);
    fvlm_aligned_free(old->scratch);
    free(old->workers);
    free(old);
    *pool = NULL;
}

int fvlm_pool_threads(const fvlm_pool *pool)
{
    return pool->threads;
}

void *fvlm_pool_scratch(fvlm_pool *pool, int thread)
{
    return (char *)pool->scratch + (size_t)thread * FVLM_SCRATCH_BYTES;
}
