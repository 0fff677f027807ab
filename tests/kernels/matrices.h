/* Random weight matrices of every type, in the harness's guarded memory. */
#ifndef FVLM_TESTS_KERNELS_MATRICES_H
#define FVLM_TESTS_KERNELS_MATRICES_H

#include "kernels/matrix.h"

/* Elements are about 1 in size; `cols` is a multiple of a block, and of 128 for MLX's types. */
fvlm_matrix random_matrix(fvlm_dtype type, size_t rows, size_t cols);

/* A number of columns that the type allows, about `most` at most. */
size_t random_cols(fvlm_dtype type, size_t most);

#endif
