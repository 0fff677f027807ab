/* What an instruction set provides for linear layers, and single-threaded products for other kernels.
 *
 * The right-hand matrix of a product is first unpacked into panels: `panel` of its columns at a time, k after k, so
 * that the innermost loop reads one cache line after the other whatever the stored layout and type were. The left-hand
 * matrix is read where it lies. Each output is one chain of fused multiply-adds in the order of k, so a result depends
 * neither on the shape of the blocks nor, with fused arithmetic, on the instruction set.
 *
 * A body for another precision is another table: its panels may hold what they like, since only its own `unpack` and
 * `block` look into them.
 */
#ifndef FVLM_KERNELS_GEMM_BLOCK_H
#define FVLM_KERNELS_GEMM_BLOCK_H

#include "kernels/gemm.h"

/* y[m, n] = epilogue(sum[m, n] + x[m, k] B), B [k, n] as panels. */
typedef struct fvlm_gemm_block {
    size_t m, n, k;
    const float *panels; /* [ceil(n / panel), k, panel]; columns behind n may hold anything */
    const float *x;      /* [m, k] */
    size_t x_stride;
    const float *sum; /* [m, n], may be y; NULL: 0 */
    size_t sum_stride;
    float *y; /* [m, n] */
    size_t y_stride;
    const fvlm_epilogue *epilogue; /* whose pointers start at this block's first row and column; NULL: none */
} fvlm_gemm_block;

/* A few rows of x against many of W. */
typedef struct fvlm_gemv {
    const fvlm_matrix *w;
    const float *x; /* [m, w->cols] */
    size_t m, x_stride;
    float *y; /* [m, w->rows] */
    size_t y_stride;
    const fvlm_epilogue *epilogue; /* for the whole of y; NULL: none */
} fvlm_gemv;

typedef struct fvlm_gemm_kernels {
    size_t panel; /* columns of B in a panel */
    size_t tile;  /* rows of x that the innermost loop takes at once */
    /* panel[cols, panel] from W[row .. row + rows, col .. col + cols], transposed; rows <= panel. For the grouped types
     * col and cols are multiples of 32. */
    void (*unpack)(const fvlm_matrix *w, size_t row, size_t rows, size_t col, size_t cols, float *panel);
    void (*block)(const fvlm_gemm_block *call);
    /* The outputs of W's rows row .. row + rows. */
    void (*gemv)(const fvlm_gemv *call, size_t row, size_t rows);
    /* F16, BF16 and F32 to float. */
    void (*to_float)(fvlm_dtype type, const void *x, size_t count, float *y);
} fvlm_gemm_kernels;

extern const fvlm_gemm_kernels fvlm_gemm_kernels_reference, fvlm_gemm_kernels_avx2, fvlm_gemm_kernels_avx512,
    fvlm_gemm_kernels_neon, fvlm_gemm_kernels_wasm; /* those of this build's architecture exist */

/* The best of the instruction sets that fvlm_cpu_flags allows. */
const fvlm_gemm_kernels *fvlm_gemm_kernels_select(void);

/* Few rows of x: a task takes fvlm_gemv_rows of W, at most FVLM_GEMV_TASK, about 16 KB; a thread takes up to
 * FVLM_GEMV_STRETCH tasks in a row, half a megabyte, as reading only gets up to speed after some lines. */
#define FVLM_GEMV_TASK 256
#define FVLM_GEMV_STRETCH 32
size_t fvlm_gemv_rows(const fvlm_matrix *w);

/* Floats that panels of a B [k, n] take. */
size_t fvlm_gemm_panels_size(const fvlm_gemm_kernels *kernels, size_t k, size_t n);
/* Panels for C = A B^T, b [n, k] with rows b_stride apart: attention's keys. */
void fvlm_gemm_panels_from_rows(const fvlm_gemm_kernels *kernels, const float *b, size_t b_stride, size_t n, size_t k,
                                float *panels);
/* Panels for C = A B, b [k, n] with rows b_stride apart: attention's values. */
void fvlm_gemm_panels_from_columns(const fvlm_gemm_kernels *kernels, const float *b, size_t b_stride, size_t k,
                                   size_t n, float *panels);

#endif
