/* What an instruction set provides for products of 8-bit integers with matrices as they are stored; single-threaded.
 *
 * A row of x becomes integers -127..127 with a scale for each FVLM_INT8_COLS of them. Many rows: 32 rows of W at a
 * time are unpacked into a panel of 8-bit integers, with a scale for each row and as many columns, and used for all
 * rows of x. Few rows: W's own integers are multiplied as they come from memory, so that only x is rounded.
 */
#ifndef FVLM_KERNELS_INT8_H
#define FVLM_KERNELS_INT8_H

#include "kernels/gemm_block.h"

#define FVLM_INT8_COLS 128
/* Rows of W in a panel. */
#define FVLM_INT8_PANEL 32
/* Bytes of a panel's part for one group of columns: its integers, then its scales. */
#define FVLM_INT8_PART (FVLM_INT8_PANEL * FVLM_INT8_COLS + FVLM_INT8_PANEL * 4)

/* x [rows, cols] as integers. */
typedef struct fvlm_int8_rows {
    size_t rows, cols;
    int8_t *data;  /* [rows, stride]; 0 behind cols up to a whole group */
    size_t stride; /* fvlm_int8_stride(cols) */
    float *scale;  /* [groups, rows] */
    int32_t *sum;  /* [groups, rows], of the integers */
} fvlm_int8_rows;

/* A panel times x's rows first_row .. first_row + count. */
typedef struct fvlm_int8_block {
    const void *panel;
    size_t columns; /* of y; at most FVLM_INT8_PANEL */
    const fvlm_int8_rows *x;
    size_t first_row, count;
    float *y; /* [count, columns] */
    size_t y_stride;
    const fvlm_epilogue *epilogue; /* whose pointers start at y; NULL: none */
} fvlm_int8_block;

/* A row of x as W's integers meet it. */
typedef struct fvlm_int8_vector {
    int8_t *data;   /* [cols up to whole groups], in the order that the type of W asks for */
    float *scale;   /* [cols / fvlm_int8_step(W)] */
    float *sum;     /* the same: scale times the sum of the integers */
    int32_t *start; /* [fvlm_int8_starts(cols)]: what sums of products of Q8_0 and Q4_0 begin with */
} fvlm_int8_vector;

typedef struct fvlm_int8_kernels {
    /* Rows first .. first + count of `to` from x [count, to->cols]. */
    void (*prepare)(const float *x, size_t x_stride, size_t first, size_t count, const fvlm_int8_rows *to);
    /* W's rows row .. row + rows, at most a panel's, as [groups of columns, FVLM_INT8_PART bytes]. */
    void (*unpack)(const fvlm_matrix *w, size_t row, size_t rows, void *panel);
    void (*block)(const fvlm_int8_block *call);
    /* x [w->cols] for products with w. */
    void (*arrange)(const fvlm_matrix *w, const float *x, const fvlm_int8_vector *to);
    /* y[row .. row + rows] = epilogue(W[row .. row + rows] x) for at most FVLM_GEMV_TASK rows; x is that of the
     * epilogue's row `x_row`. */
    void (*multiply)(const fvlm_matrix *w, size_t row, size_t rows, const fvlm_int8_vector *x,
                     const fvlm_epilogue *epilogue, size_t x_row, float *y);
} fvlm_int8_kernels;

extern const fvlm_int8_kernels fvlm_int8_kernels_reference, fvlm_int8_kernels_avx2, fvlm_int8_kernels_avx512vnni,
    fvlm_int8_kernels_amx, fvlm_int8_kernels_dotprod,
    fvlm_int8_kernels_i8mm; /* those of this build's architecture exist */

/* The best of the instruction sets that fvlm_cpu_flags allows. */
const fvlm_int8_kernels *fvlm_int8_kernels_select(void);

/* Columns of W that share a scale; 0 where W's numbers are not integers. */
size_t fvlm_int8_step(const fvlm_matrix *w);

static inline size_t fvlm_int8_count(size_t cols)
{
    return (cols + FVLM_INT8_COLS - 1) / FVLM_INT8_COLS;
}

/* One for each 4 bytes of W, at most one for each 4 columns. */
static inline size_t fvlm_int8_starts(size_t cols)
{
    return fvlm_int8_count(cols) * (FVLM_INT8_COLS / 4);
}

/* Bytes between rows of integers: an odd number of cache lines, for the sake of the cache's sets. */
static inline size_t fvlm_int8_stride(size_t cols)
{
    return fvlm_int8_count(cols) * FVLM_INT8_COLS + 64;
}

#endif
