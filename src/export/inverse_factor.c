/* The factor of an inverse.
 *
 * With J the matrix that reverses an order: J H J = C C^T (Cholesky, C lower), so (J H J)^-1 = D^T D for D = C^-1, and
 * L = J D^T J. Both steps go by blocks of NB columns, so that nearly all the work is matrix products of the kernels; a
 * product's operand that is not contiguous is copied, which is small beside the product.
 */
#include "export/inverse_factor.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/gemm.h"

#define NB 128
#define TILE 512 /* rows of the trailing matrix that are updated by one product */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* y[m, rows] += x[m, cols] w[rows, cols]^T; y's rows are y_stride apart. */
static void add_product(fvlm_pool *pool, const float *x, size_t m, size_t cols, const float *w, size_t rows, float *y,
                        size_t y_stride)
{
    fvlm_matrix matrix = {.type = FVLM_F32, .rows = rows, .cols = cols, .data = w};
    fvlm_epilogue epilogue = {.residual = y, .residual_stride = y_stride};
    fvlm_linear(pool, &matrix, x, m, cols, y, y_stride, &epilogue);
}

/* to[rows, cols] = sign * from, whose rows are from_stride apart. */
static void pack(const float *from, size_t from_stride, size_t rows, size_t cols, float sign, float *to)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            to[i * cols + j] = sign * from[i * from_stride + j];
}

/* The Cholesky factor of the block a[nb, nb], in place; false when it is not positive definite. */
static bool factor_block(float *a, size_t stride, size_t nb)
{
    for (size_t j = 0; j < nb; j++)
        for (size_t i = j; i < nb; i++) {
            double sum = a[i * stride + j];
            for (size_t k = 0; k < j; k++)
                sum -= (double)a[i * stride + k] * a[j * stride + k];
            if (i == j && !(sum > 0 && isfinite(sum)))
                return false;
            a[i * stride + j] = (float)(i == j ? sqrt(sum) : sum / a[j * stride + j]);
        }
    return true;
}

struct solve {
    const float *c; /* the block [nb, nb], lower, rows `stride` apart */
    float *a;       /* rows below it */
    size_t stride, nb;
};

/* One row r of the panel: r = r C^-T. */
static void solve_row(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct solve *solve = argument;
    float *row = solve->a + index * solve->stride;
    for (size_t j = 0; j < solve->nb; j++) {
        double sum = row[j];
        for (size_t k = 0; k < j; k++)
            sum -= (double)row[k] * solve->c[j * solve->stride + k];
        row[j] = (float)(sum / solve->c[j * solve->stride + j]);
    }
}

/* a[n, n], of which the lower half counts, becomes its Cholesky factor. panel and negated are [n, NB]. */
static bool factor(fvlm_pool *pool, float *a, size_t n, float *panel, float *negated)
{
    for (size_t k = 0; k < n; k += NB) {
        size_t nb = least(NB, n - k), below = k + nb, rest = n - below;
        float *block = a + k * n + k;
        if (!factor_block(block, n, nb))
            return false;
        struct solve solve = {block, a + below * n + k, n, nb};
        fvlm_pool_run(pool, rest, solve_row, &solve);
        pack(a + below * n + k, n, rest, nb, 1, panel);
        pack(a + below * n + k, n, rest, nb, -1, negated);
        for (size_t i = 0; i < rest; i += TILE) {
            size_t rows = least(TILE, rest - i);
            add_product(pool, negated + i * nb, rows, nb, panel, i + rows, a + (below + i) * n + below, n);
        }
    }
    return true;
}

struct invert {
    const float *c; /* the block [nb, nb], lower, rows n apart */
    const float *s; /* [nb, before]: minus what the columns before have to be solved for */
    float *d;       /* D^T [n, n]: column c of D is row c */
    size_t n, first, nb;
};

/* Rows first .. first + nb of column `column` of D: the solution of C d = s, or of C d = unit vector. */
static void invert_column(void *argument, size_t column, int thread)
{
    (void)thread;
    const struct invert *invert = argument;
    float *d = invert->d + column * invert->n + invert->first;
    for (size_t i = 0; i < invert->nb; i++) {
        double sum = column < invert->first ? invert->s[i * invert->first + column] : column - invert->first == i;
        for (size_t k = 0; k < i; k++)
            sum -= (double)invert->c[i * invert->n + k] * d[k];
        d[i] = (float)(sum / invert->c[i * invert->n + i]);
    }
}

/* d = (C^-1)^T of the lower C [n, n]. s is [NB, n], panel and negated are [n, NB]. */
static void invert(fvlm_pool *pool, const float *c, size_t n, float *d, float *s, float *panel, float *negated)
{
    memset(d, 0, n * n * sizeof *d);
    for (size_t first = 0; first < n; first += NB) {
        size_t nb = least(NB, n - first);
        memset(s, 0, nb * first * sizeof *s);
        for (size_t k = 0; k < first; k += NB) { /* s -= C[first.., k..] D[k.., before k + NB] */
            pack(c + first * n + k, n, nb, NB, -1, negated);
            pack(d + k, n, k + NB, NB, 1, panel);
            add_product(pool, negated, nb, NB, panel, k + NB, s, first);
        }
        struct invert job = {c + first * n + first, s, d, n, first, nb};
        fvlm_pool_run(pool, first + nb, invert_column, &job);
    }
}

/* l = J h J with `extra` on the diagonal. */
static void reverse(const float *h, size_t n, float extra, float *l)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            l[i * n + j] = h[(n - 1 - i) * n + (n - 1 - j)] + (i == j ? extra : 0);
}

bool fvlm_inverse_factor(fvlm_pool *pool, float *h, size_t n, double damping, float *l)
{
    float *s = fvlm_aligned_alloc(NB * n * sizeof *s), *panel = fvlm_aligned_alloc(NB * n * sizeof *panel);
    float *negated = fvlm_aligned_alloc(NB * n * sizeof *negated);
    bool fine = s && panel && negated;
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += h[i * n + i] / (double)n;
    if (!(mean > 0) || !isfinite(mean))
        mean = 1; /* inputs that are all zero: any factor will do */
    bool done = false;
    while (fine && !done) {
        reverse(h, n, (float)(damping * mean), l);
        done = factor(pool, l, n, panel, negated);
        damping *= 10;
    }
    if (fine) {
        invert(pool, l, n, h, s, panel, negated);
        reverse(h, n, 0, l);
    }
    fvlm_aligned_free(s);
    fvlm_aligned_free(panel);
    fvlm_aligned_free(negated);
    return fine;
}
