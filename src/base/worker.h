/* A thread of its own that runs jobs one after the other, in the order in which they are posted. */
#ifndef FVLM_BASE_WORKER_H
#define FVLM_BASE_WORKER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FVLM_JOB_BYTES 64

typedef struct fvlm_worker fvlm_worker;

fvlm_status fvlm_worker_create(fvlm_worker **worker, fvlm_error *error);
/* Runs what was posted, then frees and nulls. NULL is fine. */
void fvlm_worker_destroy(fvlm_worker **worker);

/* Run run(argument) on the worker, with a copy of `bytes` (at most FVLM_JOB_BYTES) of `argument`. The result is the
 * job's number, from 1. Waits while very many jobs are outstanding. */
uint64_t fvlm_worker_post(fvlm_worker *worker, void (*run)(void *argument), const void *argument, size_t bytes);
/* Return when this job, and so all before it, are done. 0: at once. */
void fvlm_worker_wait(fvlm_worker *worker, uint64_t job);

#endif
