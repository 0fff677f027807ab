/* Sums over many rows, by all threads and with the same result for any number of them. */
#ifndef FVLM_KERNELS_ROW_SUMS_H
#define FVLM_KERNELS_ROW_SUMS_H

#include "base/pool.h"

/* Add what the rows first .. first + rows give to sums [width]. */
typedef void (*fvlm_row_sums_fn)(const void *argument, size_t first, size_t rows, double *sums);

/* The sums [width] over `rows` rows, in runs of them whose sums are added in their order. They are in the pool's first
 * scratch memory, of which 3 width doubles behind them are free; width is at most FVLM_MOST_ROW_SUMS. */
#define FVLM_MOST_ROW_SUMS (FVLM_SCRATCH_BYTES / sizeof(double) / 4)
double *fvlm_row_sums(fvlm_pool *pool, size_t rows, size_t width, fvlm_row_sums_fn add, const void *argument);

#endif
