/* GPTQ (arXiv 2210.17323): rounding a weight matrix column by column, and moving each column's error into the columns
 * that are still to come, by what the layer's inputs say of how they go together. */
#ifndef FVLM_EXPORT_GPTQ_H
#define FVLM_EXPORT_GPTQ_H

#include <stdbool.h>

#include "base/pool.h"
#include "kernels/matrix.h"

/* out = w[rows, cols] in the block type `type`. l[cols, cols] is fvlm_inverse_factor of the inputs' x^T x. values is
 * workspace [rows, cols]. False when out of memory. Does not depend on the pool's threads. */
bool fvlm_gptq(fvlm_pool *pool, const fvlm_matrix *w, const float *l, fvlm_dtype type, float *values, uint8_t *out);
/* The same by rounding each value on its own. */
void fvlm_round_to_nearest(fvlm_pool *pool, const fvlm_matrix *w, fvlm_dtype type, float *values, uint8_t *out);

/* The squared outputs, added up, of a linear layer d over inputs with gram[cols, cols] = x^T x: trace(d gram d^T). `d`
 * is w - other (other NULL: w alone). values is workspace [2, rows, cols]. */
double fvlm_output_energy(fvlm_pool *pool, const fvlm_matrix *w, const fvlm_matrix *other, const float *gram,
                          float *values);

#endif
