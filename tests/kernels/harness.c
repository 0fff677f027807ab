/* The frame of the kernel tests: levels, random numbers, guarded buffers, comparison, timing. See harness.h. */
#define _GNU_SOURCE 1
#include "harness.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/file.h"

#define PATTERN 0xa5
#define MAX_BUFFERS 1024
#define MAX_POOLS 8

/* In ascending order; those whose flags this machine does not have are left out. */
static const char *const level_names[] = {"none", "avx2",    "avx512", "avx512-vnni", "avx512-bf16", "amx",
                                          "neon", "dotprod", "i8mm",   "bf16",        "simd128"};

struct buffer {
    uint8_t *map; /* [slack and data, or data and slack] then or before one page without access */
    size_t map_bytes;
    uint8_t *slack;
    size_t slack_bytes;
    uint8_t *guard; /* that page, where access to it is possible; NULL otherwise */
};

static struct {
    const harness_test *test;
    int round, failures;
    uint64_t seed, state;
    const char *only_level;
    const char *levels[sizeof level_names / sizeof level_names[0]];
    size_t level_count, level;
    struct buffer buffers[MAX_BUFFERS];
    size_t buffer_count;
    fvlm_pool *pools[MAX_POOLS];
    size_t pool_count;
} state;

static const char *current_level(void)
{
    return state.level < state.level_count ? state.levels[state.level] : "no level";
}

void harness_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "FAIL %s round %d seed %llu at %s: ", state.test->name, state.round, (unsigned long long)state.seed,
            current_level());
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    state.failures++;
}

/* Only async-signal-safe calls: the kernel that touched a guard page is named and the program ends. */
static void on_fault(int number)
{
    const char *parts[] = {"FAIL ", state.test->name, " at ", current_level(),
                           number == SIGILL ? ": illegal instruction\n" : ": touched memory outside its buffers\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0)
            break;
    _exit(1);
}

/* A level exists here when the mask leaves something that no lower level has. */
static void find_levels(void)
{
    unsigned seen = 0;
    for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
        if (fvlm_cpu_set_level(level_names[i], NULL) != FVLM_OK)
            continue;
        unsigned flags = fvlm_cpu_flags();
        bool wanted = !state.only_level || strcmp(state.only_level, level_names[i]) == 0;
        if (i == 0 || (flags & ~seen && wanted))
            state.levels[state.level_count++] = level_names[i];
        seen |= flags;
    }
}

const char *harness_first_level(void)
{
    state.level = 0;
    fvlm_cpu_set_level(state.levels[0], NULL);
    return state.levels[0];
}

const char *harness_next_level(void)
{
    if (++state.level >= state.level_count)
        return NULL;
    fvlm_cpu_set_level(state.levels[state.level], NULL);
    return state.levels[state.level];
}

bool harness_is_reference(void)
{
    return state.level == 0;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
uint32_t harness_random(void)
{
    uint64_t z = state.state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

size_t harness_between(size_t low, size_t high)
{
    return low + harness_random() % (high - low + 1);
}

float harness_normal(void)
{
    /* The sum of four uniform numbers has variance 1/3. */
    double sum = -2;
    for (int i = 0; i < 4; i++)
        sum += harness_random() / 4294967296.0;
    return (float)(sum * 1.7320508);
}

static void *guarded(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t body = (bytes + page) / page * page; /* at least one byte of slack */
    if (state.buffer_count == MAX_BUFFERS) {
        fprintf(stderr, "more than %d buffers in a test\n", MAX_BUFFERS);
        exit(1);
    }
    struct buffer *buffer = &state.buffers[state.buffer_count];
    buffer->guard = NULL;
    buffer->map_bytes = body + page;
    buffer->map = mmap(NULL, buffer->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer->map == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    bool guard_behind = state.buffer_count++ % 2 == 0;
    uint8_t *guard = guard_behind ? buffer->map + body : buffer->map;
    uint8_t *data = guard_behind ? guard - bytes : guard + page;
    buffer->slack = guard_behind ? buffer->map : data + bytes;
    buffer->slack_bytes = body - bytes;
    memset(buffer->slack, PATTERN, buffer->slack_bytes);
#ifdef __EMSCRIPTEN__
    /* No page can be protected, but what was written to one shows afterwards. */
    buffer->guard = memset(guard, PATTERN, page);
#else
    if (mprotect(guard, page, PROT_NONE) != 0) {
        perror("mprotect");
        exit(1);
    }
#endif
    return data;
}

static bool untouched(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != PATTERN)
            return false;
    return true;
}

static void release_buffers(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < state.buffer_count; i++) {
        struct buffer *buffer = &state.buffers[i];
        if (!untouched(buffer->slack, buffer->slack_bytes) || (buffer->guard && !untouched(buffer->guard, page)))
            harness_fail("wrote outside buffer %zu", i);
        munmap(buffer->map, buffer->map_bytes);
    }
    state.buffer_count = 0;
}

void *harness_bytes(size_t bytes)
{
    uint8_t *data = guarded(bytes);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)harness_random();
    return data;
}

float *harness_floats(size_t count, float scale)
{
    float *data = guarded(count * sizeof *data);
    for (size_t i = 0; i < count; i++)
        data[i] = harness_normal() * scale;
    return data;
}

float *harness_output(size_t count)
{
    float *data = guarded(count * sizeof *data);
    for (size_t i = 0; i < count; i++)
        data[i] = NAN;
    return data;
}

fvlm_pool *harness_pool(int threads)
{
    for (size_t i = 0; i < state.pool_count; i++)
        if (fvlm_pool_threads(state.pools[i]) == threads)
            return state.pools[i];
    fvlm_error error;
    fvlm_pool *pool = NULL;
    if (state.pool_count == MAX_POOLS || fvlm_pool_create(threads, &pool, &error) != FVLM_OK) {
        fprintf(stderr, "no pool of %d threads\n", threads);
        exit(1);
    }
    state.pools[state.pool_count++] = pool;
    return pool;
}

static bool element_near(float expected, float got, harness_tolerance tolerance, double *excess)
{
    *excess = 0;
    if (isnan(expected) || isnan(got)) {
        *excess = INFINITY;
        return isnan(expected) && isnan(got);
    }
    if (expected == got)
        return true;
    *excess = fabs((double)got - expected) / (tolerance.absolute + tolerance.relative * fabs(expected));
    return *excess <= 1;
}

bool harness_near_rows(const char *what, const float *expected, size_t expected_stride, const float *got,
                       size_t got_stride, size_t rows, size_t width, harness_tolerance tolerance)
{
    size_t wrong = 0, worst_row = 0, worst_column = 0;
    double worst = -1;
    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column < width; column++) {
            double excess;
            if (element_near(expected[row * expected_stride + column], got[row * got_stride + column], tolerance,
                             &excess))
                continue;
            wrong++;
            if (excess > worst) {
                worst = excess;
                worst_row = row;
                worst_column = column;
            }
        }
    if (wrong)
        harness_fail("%s: %zu of %zu x %zu wrong, worst [%zu, %zu]: expected %.9g, got %.9g", what, wrong, rows, width,
                     worst_row, worst_column, (double)expected[worst_row * expected_stride + worst_column],
                     (double)got[worst_row * got_stride + worst_column]);
    return wrong == 0;
}

bool harness_near(const char *what, const float *expected, const float *got, size_t count, harness_tolerance tolerance)
{
    return harness_near_rows(what, expected, count, got, count, 1, count, tolerance);
}

bool harness_equal(const char *what, const void *expected, const void *got, size_t bytes)
{
    if (memcmp(expected, got, bytes) == 0)
        return true;
    size_t at = 0;
    while (((const uint8_t *)expected)[at] == ((const uint8_t *)got)[at])
        at++;
    harness_fail("%s: bytes differ from %zu of %zu on", what, at, bytes);
    return false;
}

void harness_bench(const char *what, double flops, double bytes, void (*call)(void *argument), void *argument)
{
    /* 0.3 s or three calls, whichever is longer, after one call that warms the caches. */
    double best = INFINITY, spent = 0;
    call(argument);
    for (int i = 0; i < 3 || spent < 300; i++) {
        double begin = fvlm_clock_ms();
        call(argument);
        double taken = fvlm_clock_ms() - begin;
        spent += taken;
        best = taken < best ? taken : best;
    }
    printf("%-40s %-12s %12.0f ns", what, current_level(), best * 1e6);
    if (flops > 0)
        printf(" %8.1f GFLOP/s", flops / best * 1e-6);
    if (bytes > 0)
        printf(" %7.2f GB/s", bytes / best * 1e-6);
    putchar('\n');
    fflush(stdout);
}

static void seed_round(const char *name, int round)
{
    state.round = round;
    state.state = state.seed * 1000003u + (uint64_t)round;
    for (const char *c = name; *c; c++)
        state.state = state.state * 31 + (uint8_t)*c;
}

static void run_test(const harness_test *test, bool bench)
{
    state.test = test;
    if (bench) {
        seed_round(test->name, 0);
        if (test->bench)
            test->bench();
        release_buffers();
        return;
    }
    int before = state.failures;
    for (int round = 0; round < test->rounds; round++) {
        seed_round(test->name, round);
        test->check();
        release_buffers();
    }
    printf("%-4s %s: %d rounds\n", state.failures == before ? "ok" : "FAIL", test->name, test->rounds);
}

int harness_main(int argc, char **argv, const harness_test *tests, size_t count)
{
    bool bench = false;
    int first_name = argc;
    state.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            bench = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            state.seed = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--level") == 0 && i + 1 < argc) {
            state.only_level = argv[++i];
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "usage: %s [--bench] [--seed N] [--level NAME] [TEST...]\n", argv[0]);
            return 2;
        } else {
            first_name = i;
            break;
        }
    }
    find_levels();
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    signal(SIGILL, on_fault);
    printf("levels:");
    for (size_t i = 0; i < state.level_count; i++)
        printf(" %s", state.levels[i]);
    printf(", seed %llu\n", (unsigned long long)state.seed);

    int found = 0;
    for (size_t i = 0; i < count; i++) {
        bool wanted = first_name == argc;
        for (int name = first_name; name < argc; name++)
            wanted |= strcmp(argv[name], tests[i].name) == 0;
        if (!wanted)
            continue;
        found++;
        run_test(&tests[i], bench);
    }
    for (size_t i = 0; i < state.pool_count; i++)
        fvlm_pool_destroy(&state.pools[i]);
    if (found == 0)
        fprintf(stderr, "no test of that name\n");
    return state.failures || found == 0 ? 1 : 0;
}
