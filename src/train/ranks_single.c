/* Ranks where the build has no MPI: one, or some that are not there. */
#include <stdlib.h>

#include "base/memory.h"
#include "train/ranks.h"

struct fvlm_ranks {
    int count, local;
    uint64_t traffic;
};

fvlm_status fvlm_ranks_open(fvlm_ranks **ranks, fvlm_error *error)
{
    *ranks = NULL;
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    if (size && atoi(size) > 1)
        return fvlm_fail(
            error, FVLM_ERROR_UNSUPPORTED,
            "mpirun started %s processes, but this build has no MPI: install libopenmpi-dev and build with "
            "-Dmpi=enabled",
            size);
    return fvlm_ranks_pretend(1, ranks, error);
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
    free(*ranks);
    *ranks = NULL;
}

int fvlm_ranks_count(const fvlm_ranks *ranks)
{
    return ranks->count;
}

int fvlm_ranks_index(const fvlm_ranks *ranks)
{
    (void)ranks;
    return 0;
}

int fvlm_ranks_local(const fvlm_ranks *ranks)
{
    return ranks->local;
}

fvlm_status fvlm_ranks_agree(fvlm_ranks *ranks, fvlm_status status, fvlm_error *error)
{
    (void)ranks;
    (void)error;
    return status;
}

void fvlm_ranks_sum(fvlm_ranks *ranks, double *values, size_t count)
{
    (void)ranks;
    (void)values;
    (void)count;
}

static void count_traffic(fvlm_ranks *ranks, size_t count)
{
    ranks->traffic += (uint64_t)count * sizeof(float) * (uint64_t)(ranks->count - 1) / (uint64_t)ranks->count;
}

uint64_t fvlm_ranks_reduce(fvlm_ranks *ranks, const float *values, size_t count, float *own, bool add, float *scratch)
{
    count_traffic(ranks, count);
    (void)values;
    (void)own;
    (void)add;
    (void)scratch;
    return 0;
}

uint64_t fvlm_ranks_gather(fvlm_ranks *ranks, const float *own, size_t count, float *values)
{
    count_traffic(ranks, count);
    (void)own;
    (void)values;
    return 0;
}

void fvlm_ranks_wait(fvlm_ranks *ranks, uint64_t job)
{
    (void)ranks;
    (void)job;
}

uint64_t fvlm_ranks_traffic(const fvlm_ranks *ranks)
{
    return ranks->traffic;
}
