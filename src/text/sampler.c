/* Sampling. Each step narrows a list of candidates:
 *
 *     logits [vocabulary] -> penalty, temperature -> candidates (id, logit) -> top-k -> weights exp(logit - max)
 *                         -> top-p -> min-p -> weights over their sum
 *
 * All softmaxes of the chain share the weights, since the largest logit is never removed. Nothing is sorted: top-k
 * keeps the k best in a heap, top-p finds its border by a quickselect that weighs the halves; both take time linear in
 * the vocabulary.
 *
 * Ties: top-k keeps all that equal the k-th, as the reference does. Top-p has to choose among equal logits; the
 * reference leaves that to an unstable sort, here those of low id are removed first.
 */
#include "text/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define EXP_UNDERFLOW 104.0f /* expf(-104) is 0 */

struct candidate {
    float logit, weight;
    int32_t id;
};

struct fvlm_sampler {
    fvlm_sampling sampling; /* with the values that mean "off" replaced by those that do nothing */
    size_t vocabulary;
    uint64_t draws;
    float *logits;        /* [vocabulary], after penalty and temperature */
    float *probabilities; /* [vocabulary] */
    float *heap;          /* [top_k] */
    uint64_t *seen;       /* [vocabulary]: the call in which the penalty was last applied */
    uint64_t calls;
    struct candidate *candidates; /* [vocabulary] */
};

static bool in_range(float value, float low, float high)
{
    return value >= low && value <= high; /* false for NaN */
}

static fvlm_status check(const fvlm_sampling *sampling, size_t vocabulary, fvlm_error *error)
{
    if (vocabulary == 0 || vocabulary > INT32_MAX)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "a vocabulary of %zu tokens cannot be sampled from", vocabulary);
    if (!in_range(sampling->temperature, 0, FLT_MAX))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "temperature %g: it must be 0 (greedy) or more",
                         (double)sampling->temperature);
    if (!in_range(sampling->top_p, 0, 1))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "top-p %g: it must be from 0 to 1", (double)sampling->top_p);
    if (sampling->top_k < 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "top-k %d: it must be 0 (off) or more", sampling->top_k);
    if (!in_range(sampling->min_p, 0, 1))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "min-p %g: it must be from 0 to 1", (double)sampling->min_p);
    if (!in_range(sampling->repetition_penalty, 0, FLT_MAX))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "repetition penalty %g: it must be above 0 (1 is off)",
                         (double)sampling->repetition_penalty);
    return FVLM_OK;
}

fvlm_status fvlm_sampler_create(const fvlm_sampling *sampling, size_t vocabulary, fvlm_sampler **sampler,
                                fvlm_error *error)
{
    *sampler = NULL;
    fvlm_status status = check(sampling, vocabulary, error);
    if (status)
        return status;
    fvlm_sampler *made = fvlm_calloc(1, sizeof *made);
    if (!made)
        return fvlm_fail_memory(error);
    made->sampling = *sampling;
    made->vocabulary = vocabulary;
    fvlm_sampling *own = &made->sampling;
    if (own->top_p == 0)
        own->top_p = 1;
    if (own->repetition_penalty == 0)
        own->repetition_penalty = 1;
    if (own->top_k == 0 || (size_t)own->top_k > vocabulary)
        own->top_k = (int)vocabulary;
    made->logits = fvlm_calloc(vocabulary, sizeof *made->logits);
    made->probabilities = fvlm_calloc(vocabulary, sizeof *made->probabilities);
    made->heap = fvlm_calloc((size_t)own->top_k, sizeof *made->heap);
    made->seen = fvlm_calloc(vocabulary, sizeof *made->seen);
    made->candidates = fvlm_calloc(vocabulary, sizeof *made->candidates);
    *sampler = made;
    if (!made->logits || !made->probabilities || !made->heap || !made->seen || !made->candidates) {
        fvlm_sampler_destroy(sampler);
        return fvlm_fail_memory(error);
    }
    return FVLM_OK;
}

void fvlm_sampler_destroy(fvlm_sampler **sampler)
{
    if (!*sampler)
        return;
    free((*sampler)->logits);
    free((*sampler)->probabilities);
    free((*sampler)->heap);
    free((*sampler)->seen);
    free((*sampler)->candidates);
    free(*sampler);
    *sampler = NULL;
}

/* Into the finite range, so that differences are numbers; NaN becomes the lowest. */
static float finite(float value)
{
    return value > FLT_MAX ? FLT_MAX : value >= -FLT_MAX ? value : -FLT_MAX;
}

/* sampler->logits: the finite logits with the penalty of every token in the history, once each. */
static void penalize(fvlm_sampler *sampler, const float *logits, const int32_t *history, size_t count)
{
    float penalty = sampler->sampling.repetition_penalty;
    for (size_t i = 0; i < sampler->vocabulary; i++)
        sampler->logits[i] = finite(logits[i]);
    if (penalty == 1)
        return;
    sampler->calls++;
    for (size_t i = 0; i < count; i++) {
        int32_t id = history[i];
        if (id < 0 || (size_t)id >= sampler->vocabulary || sampler->seen[id] == sampler->calls)
            continue;
        sampler->seen[id] = sampler->calls;
        float logit = sampler->logits[id];
        sampler->logits[id] = finite(logit < 0 ? logit * penalty : logit / penalty);
    }
}

static int32_t largest(const fvlm_sampler *sampler)
{
    size_t best = 0;
    for (size_t i = 1; i < sampler->vocabulary; i++)
        if (sampler->logits[i] > sampler->logits[best])
            best = i;
    return (int32_t)best;
}

/* heap [count]: the smallest is heap[0]; put `value` in its place. */
static void replace_smallest(float *heap, size_t count, float value)
{
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (value <= heap[child])
            break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

/* The k-th largest logit. */
static float kth_largest(fvlm_sampler *sampler)
{
    size_t k = (size_t)sampler->sampling.top_k;
    for (size_t i = 0; i < k; i++)
        sampler->heap[i] = -INFINITY;
    for (size_t i = 0; i < sampler->vocabulary; i++)
        if (sampler->logits[i] > sampler->heap[0])
            replace_smallest(sampler->heap, k, sampler->logits[i]);
    return sampler->heap[0];
}

/* Fill the candidates with what top-k leaves, weighed against the largest, but for what weighs nothing in float;
 * returns how many. */
static size_t gather(fvlm_sampler *sampler)
{
    float top = sampler->logits[largest(sampler)], threshold = top - EXP_UNDERFLOW;
    if ((size_t)sampler->sampling.top_k < sampler->vocabulary) {
        float kth = kth_largest(sampler);
        threshold = kth > threshold ? kth : threshold;
    }
    size_t count = 0;
    for (size_t i = 0; i < sampler->vocabulary; i++) {
        float logit = sampler->logits[i];
        if (logit >= threshold)
            sampler->candidates[count++] = (struct candidate){logit, expf(logit - top), (int32_t)i};
    }
    return count;
}

static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->logit < b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate held = *a;
    *a = *b;
    *b = held;
}

/* Move what comes before a pivot to the front of candidates [count >= 2]; both parts are left with something.
 * Returns where the second part starts. */
static size_t partition(struct candidate *candidates, size_t count)
{
    struct candidate *low = &candidates[0], *middle = &candidates[count / 2], *high = &candidates[count - 1];
    if (before(middle, low))
        swap(middle, low);
    if (before(high, low))
        swap(high, low);
    if (before(high, middle))
        swap(high, middle);
    struct candidate pivot = *middle; /* low comes before it: the first part is not empty */
    swap(middle, high);
    size_t front = 0;
    for (size_t i = 0; i + 1 < count; i++)
        if (before(&candidates[i], &pivot))
            swap(&candidates[i], &candidates[front++]);
    swap(&candidates[front], &candidates[count - 1]);
    return front;
}

/* Remove, from the lowest on, the candidates whose weights together are at most (1 - p) of all; one always stays.
 * Returns how many are left, moved to the front. */
static size_t keep_top_p(struct candidate *candidates, size_t count, float p)
{
    double total = 0;
    for (size_t i = 0; i < count; i++)
        total += candidates[i].weight;
    double allowed = (1 - (double)p) * total, below = 0;

    /* All that weigh less than their share of what is allowed can go at once: mostly nearly everything. The largest
     * weighs 1 and stays whatever rounding does. */
    double share = fmin(allowed / (double)count, 1);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (candidates[i].weight >= share)
            candidates[kept++] = candidates[i];
        else
            below += candidates[i].weight;
    }
    count = kept;

    size_t low = 0, high = count; /* the first that stays is in [low, high), in the order of `before` */
    while (high - low > 1) {
        size_t border = low + partition(candidates + low, high - low);
        double weight = 0;
        for (size_t i = low; i < border; i++)
            weight += candidates[i].weight;
        if (below + weight > allowed) {
            high = border;
        } else {
            below += weight;
            low = border;
        }
    }
    memmove(candidates, candidates + low, (count - low) * sizeof *candidates);
    return count - low;
}

/* Remove what is less likely than min_p times the likeliest, whose weight is 1. */
static size_t keep_min_p(struct candidate *candidates, size_t count, float min_p)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (candidates[i].weight >= min_p)
            candidates[kept++] = candidates[i];
    return kept;
}

const float *fvlm_sampler_probabilities(fvlm_sampler *sampler, const float *logits, const int32_t *history,
                                        size_t count)
{
    const fvlm_sampling *sampling = &sampler->sampling;
    memset(sampler->probabilities, 0, sampler->vocabulary * sizeof *sampler->probabilities);
    penalize(sampler, logits, history, count);
    if (sampling->temperature == 0) {
        sampler->probabilities[largest(sampler)] = 1;
        return sampler->probabilities;
    }
    if (sampling->temperature != 1)
        for (size_t i = 0; i < sampler->vocabulary; i++)
            sampler->logits[i] = finite(sampler->logits[i] / sampling->temperature);

    struct candidate *candidates = sampler->candidates;
    size_t left = gather(sampler);
    if (sampling->top_p < 1)
        left = keep_top_p(candidates, left, sampling->top_p);
    if (sampling->min_p > 0)
        left = keep_min_p(candidates, left, sampling->min_p);
    double total = 0;
    for (size_t i = 0; i < left; i++)
        total += candidates[i].weight;
    for (size_t i = 0; i < left; i++)
        sampler->probabilities[candidates[i].id] = (float)(candidates[i].weight / total);
    return sampler->probabilities;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

double fvlm_sampler_uniform(uint64_t seed, uint64_t n)
{
    /* The seed is mixed first: seeds 1, 2, 3 are neighbours, and so are the counters. */
    uint64_t bits = mix(mix(seed) + (n + 1) * UINT64_C(0x9e3779b97f4a7c15));
    return (double)(bits >> 11) * 0x1p-53;
}

const float *fvlm_sampler_penalize(fvlm_sampler *sampler, const float *logits, const int32_t *history, size_t count)
{
    penalize(sampler, logits, history, count);
    return sampler->logits;
}

int32_t fvlm_sampler_next(fvlm_sampler *sampler, const float *logits, const int32_t *history, size_t count)
{
    if (sampler->sampling.temperature == 0) {
        penalize(sampler, logits, history, count);
        return largest(sampler);
    }
    const float *probabilities = fvlm_sampler_probabilities(sampler, logits, history, count);
    double left = fvlm_sampler_uniform(sampler->sampling.seed, sampler->draws++);
    int32_t last = 0; /* the last token that can be drawn, should rounding leave a little over */
    for (size_t i = 0; i < sampler->vocabulary; i++) {
        if (probabilities[i] == 0)
            continue;
        last = (int32_t)i;
        left -= probabilities[i];
        if (left < 0)
            break;
    }
    return last;
}
