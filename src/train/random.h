/* Random numbers without a state: the n-th of a stream is a function of seed, stream and n, so that nothing drifts when
 * a run is resumed or a sample is skipped. */
#ifndef FVLM_TRAIN_RANDOM_H
#define FVLM_TRAIN_RANDOM_H

#include <stdint.h>

/* SplitMix64's finisher (Steele, Lea, Flood 2014). */
static inline uint64_t fvlm_random_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t fvlm_random(uint64_t seed, uint64_t stream, uint64_t n)
{
    uint64_t key = fvlm_random_mix(seed + 0x9e3779b97f4a7c15u);
    key = fvlm_random_mix(key ^ (stream + 0x9e3779b97f4a7c15u));
    return fvlm_random_mix(key + (n + 1) * 0x9e3779b97f4a7c15u);
}

/* In [0, 1). */
static inline float fvlm_random_unit(uint64_t seed, uint64_t stream, uint64_t n)
{
    return (float)(fvlm_random(seed, stream, n) >> 40) * 0x1p-24f;
}

#endif
