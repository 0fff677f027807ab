/* Ranks where the build has no MPI: one. */
#include <stdlib.h>

#include "base/memory.h"
#include "train/ranks.h"

struct fvlm_ranks {
    int count;
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
    *ranks = fvlm_calloc(1, sizeof **ranks);
    if (!*ranks)
        return fvlm_fail_memory(error);
    (*ranks)->count = 1;
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
    return ranks->count;
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

/* One rank's parameters are not sharded, so nobody calls these. */

uint64_t fvlm_ranks_reduce(fvlm_ranks *ranks, const float *values, size_t count, float *own, bool add, float *scratch)
{
    (void)ranks;
    (void)values;
    (void)count;
    (void)own;
    (void)add;
    (void)scratch;
    return 0;
}

uint64_t fvlm_ranks_gather(fvlm_ranks *ranks, const float *own, size_t count, float *values)
{
    (void)ranks;
    (void)own;
    (void)count;
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
    (void)ranks;
    return 0;
}
