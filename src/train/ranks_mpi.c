/* Ranks by MPI. One thread, the worker, makes all calls of MPI: it needs no more than MPI_THREAD_FUNNELED, collectives
 * keep the order in which they were posted, and they run while the other threads compute. Blocking calls on a thread of
 * their own make real progress, which non-blocking ones do not promise between two calls of the library. */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/worker.h"
#include "train/ranks.h"

struct fvlm_ranks {
    fvlm_worker *worker; /* NULL: one process, or ranks that are not there */
    int count, index, local;
    uint64_t traffic;
    int *counts, *starts; /* [count]: the worker's, of the call it makes */
};

/* Set by mpirun and by Slurm's plugins; without, joining would start a daemon for one process. */
static bool started_by_launcher(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            return true;
    return false;
}

static void run_open(void *argument)
{
    fvlm_ranks *ranks = *(fvlm_ranks **)argument;
    int given;
    MPI_Comm here;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks->count);
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks->index);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &ranks->local);
    MPI_Comm_free(&here);
}

static void run_close(void *argument)
{
    (void)argument;
    MPI_Finalize();
}

fvlm_status fvlm_ranks_open(fvlm_ranks **out, fvlm_error *error)
{
    fvlm_ranks *ranks = *out = fvlm_calloc(1, sizeof *ranks);
    if (!ranks)
        return fvlm_fail_memory(error);
    ranks->count = ranks->local = 1;
    if (!started_by_launcher())
        return FVLM_OK;
    fvlm_status status = fvlm_worker_create(&ranks->worker, error);
    if (!status) {
        fvlm_worker_wait(ranks->worker, fvlm_worker_post(ranks->worker, run_open, &ranks, sizeof ranks));
        ranks->counts = fvlm_calloc((size_t)ranks->count, sizeof *ranks->counts);
        ranks->starts = fvlm_calloc((size_t)ranks->count, sizeof *ranks->starts);
        if (!ranks->counts || !ranks->starts)
            status = fvlm_fail_memory(error);
    }
    if (status)
        fvlm_ranks_close(out);
    return status;
}

fvlm_status fvlm_ranks_pretend(int count, fvlm_ranks **out, fvlm_error *error)
{
    fvlm_ranks *ranks = *out = fvlm_calloc(1, sizeof *ranks);
    if (!ranks)
        return fvlm_fail_memory(error);
    ranks->count = ranks->local = count;
    return FVLM_OK;
}

void fvlm_ranks_close(fvlm_ranks **ranks)
{
    fvlm_ranks *old = *ranks;
    if (!old)
        return;
    if (old->worker)
        fvlm_worker_post(old->worker, run_close, &old, sizeof old);
    fvlm_worker_destroy(&old->worker);
    free(old->counts);
    free(old->starts);
    free(old);
    *ranks = NULL;
}

int fvlm_ranks_count(const fvlm_ranks *ranks)
{
    return ranks->count;
}

int fvlm_ranks_index(const fvlm_ranks *ranks)
{
    return ranks->index;
}

int fvlm_ranks_local(const fvlm_ranks *ranks)
{
    return ranks->local;
}

/* Small ones, which everybody waits for. */

struct agreement {
    fvlm_ranks *ranks;
    int *status;
    fvlm_error *error;
};

static void run_agree(void *argument)
{
    const struct agreement *job = argument;
    int mine = *job->status ? job->ranks->index : job->ranks->count, lowest;
    MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (lowest == job->ranks->count)
        return;
    MPI_Bcast(job->status, 1, MPI_INT, lowest, MPI_COMM_WORLD);
    MPI_Bcast(job->error, sizeof *job->error, MPI_BYTE, lowest, MPI_COMM_WORLD);
}

fvlm_status fvlm_ranks_agree(fvlm_ranks *ranks, fvlm_status status, fvlm_error *error)
{
    if (!ranks->worker)
        return status;
    int code = (int)status;
    struct agreement job = {ranks, &code, error};
    fvlm_worker_wait(ranks->worker, fvlm_worker_post(ranks->worker, run_agree, &job, sizeof job));
    return (fvlm_status)code;
}

struct sum {
    double *values;
    size_t count;
};

static void run_sum(void *argument)
{
    const struct sum *job = argument;
    MPI_Allreduce(MPI_IN_PLACE, job->values, (int)job->count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

void fvlm_ranks_sum(fvlm_ranks *ranks, double *values, size_t count)
{
    if (!ranks->worker)
        return;
    struct sum job = {values, count};
    fvlm_worker_wait(ranks->worker, fvlm_worker_post(ranks->worker, run_sum, &job, sizeof job));
}

/* Large ones. */

struct movement {
    fvlm_ranks *ranks;
    const float *from;
    float *to, *scratch;
    size_t count;
    bool add;
};

/* The shares of `count` elements, as MPI wants them; the size of this rank's. */
static size_t divide(fvlm_ranks *ranks, size_t count)
{
    for (int i = 0; i < ranks->count; i++) {
        size_t start;
        ranks->counts[i] = (int)fvlm_share(count, ranks->count, i, &start);
        ranks->starts[i] = (int)start;
    }
    return (size_t)ranks->counts[ranks->index];
}

static void run_reduce(void *argument)
{
    const struct movement *job = argument;
    size_t share = divide(job->ranks, job->count);
    MPI_Reduce_scatter(job->from, job->scratch, job->ranks->counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    for (size_t i = 0; i < share; i++)
        job->to[i] = job->add ? job->to[i] + job->scratch[i] : job->scratch[i];
}

static void run_gather(void *argument)
{
    const struct movement *job = argument;
    size_t share = divide(job->ranks, job->count);
    bool there = job->from == job->to + job->ranks->starts[job->ranks->index];
    MPI_Allgatherv(there ? MPI_IN_PLACE : job->from, (int)share, MPI_FLOAT, job->to, job->ranks->counts,
                   job->ranks->starts, MPI_FLOAT, MPI_COMM_WORLD);
}

static void count_traffic(fvlm_ranks *ranks, size_t count)
{
    ranks->traffic += (uint64_t)count * sizeof(float) * (uint64_t)(ranks->count - 1) / (uint64_t)ranks->count;
}

uint64_t fvlm_ranks_reduce(fvlm_ranks *ranks, const float *values, size_t count, float *own, bool add, float *scratch)
{
    struct movement job = {.ranks = ranks, .from = values, .to = own, .count = count, .add = add, .scratch = scratch};
    count_traffic(ranks, count);
    return !ranks->worker ? 0 : fvlm_worker_post(ranks->worker, run_reduce, &job, sizeof job);
}

uint64_t fvlm_ranks_gather(fvlm_ranks *ranks, const float *own, size_t count, float *values)
{
    struct movement job = {.ranks = ranks, .from = own, .to = values, .count = count};
    count_traffic(ranks, count);
    return !ranks->worker ? 0 : fvlm_worker_post(ranks->worker, run_gather, &job, sizeof job);
}

void fvlm_ranks_wait(fvlm_ranks *ranks, uint64_t job)
{
    if (ranks->worker)
        fvlm_worker_wait(ranks->worker, job);
}

uint64_t fvlm_ranks_traffic(const fvlm_ranks *ranks)
{
    return ranks->traffic;
}
