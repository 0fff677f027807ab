/* Quantising rows to MLX's affine groups: what fvlm_matrix describes as MLX4 and MLX8. */
#ifndef FVLM_KERNELS_GROUPED_H
#define FVLM_KERNELS_GROUPED_H

#include <stddef.h>
#include <stdint.h>

/* words[cols * bits / 32], scales[cols / group] and biases[cols / group] of x[cols]; cols is a multiple of group, group
 * one of 32 / bits. Values are mx.quantize's to the bit: the group's larger end is hit exactly (as `bias`, q = 0), and
 * q is found with the scale before that is rounded to its stored type, which is the caller's business. */
void fvlm_grouped_quantize(const float *x, size_t cols, size_t bits, size_t group, uint32_t *words, float *scales,
                           float *biases);

#endif
