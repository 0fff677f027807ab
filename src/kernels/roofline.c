/* Measuring this machine's limits: choice of the instruction set, and timing over the threads of a pool. */
#include "fastvlm/roofline.h"

#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/pool.h"
#include "kernels/roofline_body.h"

enum { ROUNDS = 8 };                   /* measured rounds, of which the best counts */
#define OPERATIONS ((size_t)1 << 20)   /* calls of a thread in a round: some 20 to 40 ms */
#define READ_LEAST ((size_t)128 << 20) /* bytes that a thread reads; more where the caches need it */

/* Plain C, of which compilers make what every processor of the architecture has. */
static double reference_fp32(size_t rounds, float seeds[2])
{
    enum { SUMS = 16 };
    float sum[SUMS] = {0}, a = seeds[0], b = seeds[1];
    for (size_t round = 0; round < rounds; round++)
        for (int i = 0; i < SUMS; i++)
            sum[i] = sum[i] * a + b;
    for (int i = 0; i < SUMS; i++)
        seeds[0] += sum[i];
    return (double)rounds * SUMS * 2;
}

static float reference_read(const float *memory, size_t count)
{
    enum { WORDS = 8 };
    uint64_t words[WORDS], sum[WORDS] = {0}; /* integers, as compilers keep the order of float sums */
    for (size_t at = 0; at < count; at += WORDS * sizeof(uint64_t) / sizeof(float)) {
        memcpy(words, memory + at, sizeof words);
        for (int i = 0; i < WORDS; i++)
            sum[i] += words[i];
    }
    for (int i = 1; i < WORDS; i++)
        sum[0] += sum[i];
    return (float)sum[0];
}

static const fvlm_roofline_kernels reference = {reference_fp32, reference_read};

static const fvlm_roofline_kernels *select_kernels(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512)
        return &fvlm_roofline_kernels_avx512;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_roofline_kernels_avx2;
#elif defined(__aarch64__)
    if (flags & FVLM_CPU_NEON)
        return &fvlm_roofline_kernels_neon;
#endif
    return &reference;
}

/* NULL where no instruction set has them. */
static const fvlm_roofline_dot_kernels *select_dot_kernels(void)
{
    unsigned flags = fvlm_cpu_flags();
    (void)flags;
#if defined(FVLM_AMX)
    if (flags & FVLM_CPU_AMX)
        return &fvlm_roofline_dot_kernels_amx;
#endif
#if defined(__x86_64__)
    if (flags & FVLM_CPU_AVX512_BF16 && flags & FVLM_CPU_AVX512_VNNI)
        return &fvlm_roofline_dot_kernels_avx512bf16;
    if (flags & FVLM_CPU_AVX512_VNNI)
        return &fvlm_roofline_dot_kernels_avx512vnni;
    if (flags & FVLM_CPU_AVX2)
        return &fvlm_roofline_dot_kernels_avx2;
#endif
    return NULL;
}

/* One loop on every thread. */
struct loop {
    double (*operations)(size_t rounds, float seeds[2]);
    float (*read)(const float *memory, size_t count); /* where `operations` is NULL */
    const float *memory;                              /* [threads, count] */
    size_t count;
    fvlm_pool *pool;
};

static void loop_task(void *argument, size_t index, int thread)
{
    const struct loop *loop = argument;
    float *result = fvlm_pool_scratch(loop->pool, thread); /* written, so that the work cannot be left out */
    float seeds[2] = {1e-3f, 2e-3f};
    if (loop->operations)
        loop->operations(loop->count, seeds);
    else
        seeds[0] = loop->read(loop->memory + index * loop->count, loop->count);
    *result = seeds[0];
}

/* The shortest time of a round, seconds. */
static double best_seconds(struct loop *loop)
{
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = fvlm_clock_ms();
        fvlm_pool_run(loop->pool, (size_t)fvlm_pool_threads(loop->pool), loop_task, loop);
        double seconds = (fvlm_clock_ms() - start) / 1000;
        best = round == 0 || seconds < best ? seconds : best;
    }
    return best;
}

/* Operations a second of all threads. */
static double operation_rate(fvlm_pool *pool, double (*operations)(size_t rounds, float seeds[2]))
{
    struct loop loop = {.operations = operations, .count = OPERATIONS, .pool = pool};
    double one = operations(1, (float[2]){1e-3f, 2e-3f});
    return one * (double)OPERATIONS * fvlm_pool_threads(pool) / best_seconds(&loop);
}

static fvlm_status read_rate(fvlm_pool *pool, float (*read)(const float *memory, size_t count), double *rate,
                             fvlm_error *error)
{
    size_t bytes = 4 * fvlm_cpu_cache_bytes(3), total, threads = (size_t)fvlm_pool_threads(pool);
    bytes = (bytes > READ_LEAST ? bytes : READ_LEAST) / 4096 * 4096;
    float *memory = fvlm_size_multiply(bytes, threads, &total) ? fvlm_aligned_alloc(total) : NULL;
    if (!memory)
        return fvlm_fail_memory(error);
    memset(memory, 0x3c, total); /* untouched pages would all be the same one */
    struct loop loop = {.read = read, .memory = memory, .count = bytes / sizeof *memory, .pool = pool};
    *rate = (double)total / best_seconds(&loop);
    fvlm_aligned_free(memory);
    return FVLM_OK;
}

fvlm_status fvlm_roofline_measure(int threads, fvlm_roofline *roofline, fvlm_error *error)
{
    const fvlm_roofline_kernels *kernels = select_kernels();
    const fvlm_roofline_dot_kernels *dot = select_dot_kernels();
    fvlm_pool *pool = NULL;
    *roofline = (fvlm_roofline){0};
    fvlm_status status = fvlm_pool_create(threads, &pool, error);
    if (status == FVLM_OK) {
        roofline->fp32 = operation_rate(pool, kernels->fp32);
        roofline->bf16 = dot ? operation_rate(pool, dot->bf16) : 0;
        roofline->int8 = dot ? operation_rate(pool, dot->int8) : 0;
        status = read_rate(pool, kernels->read, &roofline->read, error);
    }
    fvlm_pool_destroy(&pool);
    return status;
}
