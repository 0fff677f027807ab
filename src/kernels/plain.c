/* Plain C bodies, until the vectorised families replace this file. */
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/norm.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
static float act(fvlm_activation a, float x)
{
    switch (a) {
    case FVLM_ACTIVATION_GELU:
        return 0.5f * x * (1 + erff(x * 0.70710678f));
    case FVLM_ACTIVATION_RELU:
        return x > 0 ? x : 0;
    case FVLM_ACTIVATION_SILU:
        return x / (1 + expf(-x));
    case FVLM_ACTIVATION_SIGMOID:
        return 1 / (1 + expf(-x));
    default:
        return x;
    }
}
void fvlm_activate(fvlm_activation a, const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = act(a, x[i]);
}
void fvlm_swiglu(const float *g, const float *u, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = act(FVLM_ACTIVATION_SILU, g[i]) * u[i];
}
void fvlm_softmax(float *x, size_t n)
{
    float m = -INFINITY, s = 0;
    for (size_t i = 0; i < n; i++)
        m = x[i] > m ? x[i] : m;
    for (size_t i = 0; i < n; i++)
        s += x[i] = expf(x[i] - m);
    for (size_t i = 0; i < n; i++)
        x[i] /= s;
}
void fvlm_layer_norm(fvlm_pool *p, const float *x, size_t m, size_t c, const float *w, const float *b, float eps,
                     float *y)
{
    (void)p;
    for (size_t r = 0; r < m; r++, x += c, y += c) {
        double s = 0, v = 0;
        for (size_t i = 0; i < c; i++)
            s += x[i];
        s /= c;
        for (size_t i = 0; i < c; i++)
            v += (x[i] - s) * (x[i] - s);
        v = 1 / sqrt(v / c + eps);
        for (size_t i = 0; i < c; i++)
            y[i] = (x[i] - s) * v * w[i] + b[i];
    }
}
void fvlm_rms_norm(fvlm_pool *p, const float *x, size_t m, size_t c, const float *w, float eps, float *y)
{
    (void)p;
    for (size_t r = 0; r < m; r++, x += c, y += c) {
        double v = 0;
        for (size_t i = 0; i < c; i++)
            v += x[i] * x[i];
        v = 1 / sqrt(v / c + eps);
        for (size_t i = 0; i < c; i++)
            y[i] = x[i] * v * w[i];
    }
}
void fvlm_row_mean(const float *x, size_t m, size_t c, float *o)
{
    for (size_t i = 0; i < c; i++) {
        double s = 0;
        for (size_t r = 0; r < m; r++)
            s += x[r * c + i];
        o[i] = s / m;
    }
}
void fvlm_scale_gelu(fvlm_pool *p, const float *x, size_t m, size_t c, const float *s, float *y)
{
    (void)p;
    for (size_t r = 0; r < m; r++)
        for (size_t i = 0; i < c; i++)
            y[r * c + i] = act(FVLM_ACTIVATION_GELU, x[r * c + i] * s[i]);
}
void fvlm_depthwise_pack(const float *w, size_t c, size_t k, const float *s, float *o)
{
    for (size_t i = 0; i < c; i++)
        for (size_t j = 0; j < k * k; j++)
            o[j * c + i] = w[i * k * k + j] * (s ? s[i] : 1);
}
void fvlm_depthwise_forward(fvlm_pool *p, const fvlm_depthwise *d, const float *x, float *y)
{
    (void)p;
    long H = d->height, W = d->width, C = d->channels, K = d->kernel, S = d->stride, ci = C / d->multiplier;
    long oh = (H + S - 1) / S, ow = (W + S - 1) / S;
    for (long i = 0; i < oh; i++)
        for (long j = 0; j < ow; j++)
            for (long c = 0; c < C; c++) {
                float s = d->bias ? d->bias[c] : 0;
                for (long a = 0; a < K; a++)
                    for (long b = 0; b < K; b++) {
                        long yy = i * S + a - K / 2, xx = j * S + b - K / 2;
                        if (yy < 0 || xx < 0 || yy >= H || xx >= W)
                            continue;
                        s += x[(yy * W + xx) * ci + c / d->multiplier] * d->weight[(a * K + b) * C + c];
                    }
                y[(i * ow + j) * C + c] = act(d->activation, s);
            }
}
void fvlm_stem_pack(const float *w, size_t c, float *o)
{
    for (size_t i = 0; i < c; i++)
        for (int ch = 0; ch < 3; ch++)
            for (int t = 0; t < 9; t++)
                o[(t * 3 + ch) * c + i] = w[i * 27 + ch * 9 + t];
}
void fvlm_stem_forward(fvlm_pool *p, const fvlm_stem *d, const uint8_t *x, float *y)
{
    (void)p;
    long H = d->height, W = d->width, C = d->channels, oh = (H + 1) / 2, ow = (W + 1) / 2;
    for (long i = 0; i < oh; i++)
        for (long j = 0; j < ow; j++)
            for (long c = 0; c < C; c++) {
                float s = d->bias[c];
                for (int a = 0; a < 3; a++)
                    for (int b = 0; b < 3; b++) {
                        long yy = i * 2 + a - 1, xx = j * 2 + b - 1;
                        if (yy < 0 || xx < 0 || yy >= H || xx >= W)
                            continue;
                        for (int ch = 0; ch < 3; ch++)
                            s += x[(yy * W + xx) * 3 + ch] / 255.0f * d->weight[((a * 3 + b) * 3 + ch) * C + c];
                    }
                y[(i * ow + j) * C + c] = act(d->activation, s);
            }
}
size_t fvlm_attention_workspace(size_t q, size_t k, size_t d, int t)
{
    (void)q;
    (void)k;
    (void)d;
    (void)t;
    return 0;
}
void fvlm_attention_forward(fvlm_pool *p, const fvlm_attention *a, float *ws)
{
    (void)p;
    (void)ws;
    for (size_t i = 0; i < a->queries; i++)
        for (size_t h = 0; h < a->heads; h++) {
            size_t g = h / (a->heads / a->kv_heads), n = a->causal ? a->keys - a->queries + i + 1 : a->keys,
                   tot = n + (a->tail ? a->tail_count : 0);
            float *s = malloc(tot * 4);
            for (size_t j = 0; j < tot; j++) {
                size_t r = j < n ? j : (size_t)a->tail[i * a->tail_stride + j - n];
                float z = 0;
                for (size_t d = 0; d < a->head_dim; d++)
                    z += a->q[i * a->q_stride + h * a->head_dim + d] * a->k[r * a->k_stride + g * a->head_dim + d];
                s[j] = z * a->scale;
            }
            fvlm_softmax(s, tot);
            for (size_t d = 0; d < a->head_dim; d++) {
                float z = 0;
                for (size_t j = 0; j < tot; j++) {
                    size_t r = j < n ? j : (size_t)a->tail[i * a->tail_stride + j - n];
                    z += s[j] * a->v[r * a->v_stride + g * a->head_dim + d];
                }
                a->out[i * a->out_stride + h * a->head_dim + d] = z;
            }
            free(s);
        }
}
void fvlm_rope_table(size_t n, size_t d, double base, float *t)
{
    for (size_t p = 0; p < n; p++)
        for (size_t i = 0; i < d / 2; i++) {
            double f = p * pow(base, -2.0 * i / d);
            t[p * d + i] = cos(f);
            t[p * d + d / 2 + i] = sin(f);
        }
}
void fvlm_rope(float *x, size_t rows, size_t st, size_t H, size_t d, const int32_t *pos, const float *t)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t h = 0; h < H; h++) {
            float *v = x + r * st + h * d;
            const float *c = t + pos[r] * d, *s = c + d / 2;
            for (size_t i = 0; i < d / 2; i++) {
                float a = v[i], b = v[i + d / 2];
                v[i] = a * c[i] - b * s[i];
                v[i + d / 2] = b * c[i] + a * s[i];
            }
        }
}
