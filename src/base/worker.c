/* A ring of jobs, a counter of those posted and one of those done. */
#include "base/worker.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define RING 256

struct job {
    void (*run)(void *argument);
    _Alignas(16) unsigned char argument[FVLM_JOB_BYTES];
};

struct fvlm_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t posted_more, done_more;
    struct job jobs[RING]; /* job n is in jobs[n % RING] */
    uint64_t posted, done;
    bool stop;
};

static void *worker_main(void *argument)
{
    fvlm_worker *worker = argument;
    pthread_mutex_lock(&worker->lock);
    for (;;) {
        while (worker->done == worker->posted && !worker->stop)
            pthread_cond_wait(&worker->posted_more, &worker->lock);
        if (worker->done == worker->posted)
            break;
        struct job *job = &worker->jobs[(worker->done + 1) % RING];
        pthread_mutex_unlock(&worker->lock);
        job->run(job->argument);
        pthread_mutex_lock(&worker->lock);
        worker->done++;
        pthread_cond_broadcast(&worker->done_more);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

fvlm_status fvlm_worker_create(fvlm_worker **worker, fvlm_error *error)
{
    fvlm_worker *made = *worker = fvlm_calloc(1, sizeof *made);
    if (!made)
        return fvlm_fail_memory(error);
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->posted_more, NULL);
    pthread_cond_init(&made->done_more, NULL);
    if (pthread_create(&made->thread, NULL, worker_main, made) == 0)
        return FVLM_OK;
    free(made);
    *worker = NULL;
    return fvlm_fail(error, FVLM_ERROR_MEMORY, "cannot start a thread");
}

void fvlm_worker_destroy(fvlm_worker **worker)
{
    fvlm_worker *old = *worker;
    if (!old)
        return;
    pthread_mutex_lock(&old->lock);
    old->stop = true;
    pthread_cond_signal(&old->posted_more);
    pthread_mutex_unlock(&old->lock);
    pthread_join(old->thread, NULL);
    pthread_cond_destroy(&old->posted_more);
    pthread_cond_destroy(&old->done_more);
    pthread_mutex_destroy(&old->lock);
    free(old);
    *worker = NULL;
}

uint64_t fvlm_worker_post(fvlm_worker *worker, void (*run)(void *argument), const void *argument, size_t bytes)
{
    assert(bytes <= FVLM_JOB_BYTES);
    pthread_mutex_lock(&worker->lock);
    while (worker->posted - worker->done == RING - 1)
        pthread_cond_wait(&worker->done_more, &worker->lock);
    uint64_t number = worker->posted + 1;
    struct job *job = &worker->jobs[number % RING];
    job->run = run;
    memcpy(job->argument, argument, bytes);
    worker->posted = number;
    pthread_cond_signal(&worker->posted_more);
    pthread_mutex_unlock(&worker->lock);
    return number;
}

void fvlm_worker_wait(fvlm_worker *worker, uint64_t job)
{
    pthread_mutex_lock(&worker->lock);
    while (worker->done < job)
        pthread_cond_wait(&worker->done_more, &worker->lock);
    pthread_mutex_unlock(&worker->lock);
}
