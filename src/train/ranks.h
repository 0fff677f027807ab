/* What the ranks of a run (fastvlm/train.h) do together: all of them call it, in the same order. What moves parameters
 * is only started, and runs in order on a thread of its own beside the computing ones; wait for the job's number.
 */
#ifndef FVLM_TRAIN_RANKS_H
#define FVLM_TRAIN_RANKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "fastvlm/train.h"

/* `count` ranks that are not there: what would be sent to them is counted, and nothing else happens. */
fvlm_status fvlm_ranks_pretend(int count, fvlm_ranks **ranks, fvlm_error *error);

/* How `count` elements are divided: a rank's share begins at *start and is a multiple of FVLM_SHARE_UNIT but for the
 * last, which may be short, or empty. */
#define FVLM_SHARE_UNIT ((size_t)256)
static inline size_t fvlm_share(size_t count, int ranks, int rank, size_t *start)
{
    size_t a_rank = (count + (size_t)ranks - 1) / (size_t)ranks;
    size_t unit = (a_rank + FVLM_SHARE_UNIT - 1) / FVLM_SHARE_UNIT * FVLM_SHARE_UNIT;
    *start = unit * (size_t)rank < count ? unit * (size_t)rank : count;
    return count - *start < unit ? count - *start : unit;
}

/* values[count], summed over the ranks. */
void fvlm_ranks_sum(fvlm_ranks *ranks, double *values, size_t count);

/* Start: own[share] receives, or has added to it, this rank's share of the sum of all ranks' values[count]. `own` may
 * lie within `values`. `scratch` holds a share. */
uint64_t fvlm_ranks_reduce(fvlm_ranks *ranks, const float *values, size_t count, float *own, bool add, float *scratch);
/* Start: values[count] from every rank's own[share]. `own` may be where it belongs within `values`. */
uint64_t fvlm_ranks_gather(fvlm_ranks *ranks, const float *own, size_t count, float *values);
/* Return when this job and all before it are done. */
void fvlm_ranks_wait(fvlm_ranks *ranks, uint64_t job);
/* Bytes that this rank has sent for reduce and gather, as rings of ranks send them: (ranks - 1) / ranks of each. */
uint64_t fvlm_ranks_traffic(const fvlm_ranks *ranks);

#endif
