/* Detection of instruction sets, the mask that lowers them, counts of processors and cache sizes. */
#if !defined(_WIN32) && !defined(__APPLE__)
#define _GNU_SOURCE 1
#endif
#include "base/cpu.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastvlm/engine.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <sched.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(FVLM_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

#define DETECTED (1u << 31) /* marks the cached word as filled */
#define ALL_FLAGS 0x7fffffffu

/* Each level allows its own flags; the order is ascending within an architecture. */
static const struct {
    const char *name;
    unsigned allowed;
} levels[] = {
    {"none", 0},
    {"avx2", FVLM_CPU_AVX2},
    {"avx512", FVLM_CPU_AVX2 | FVLM_CPU_AVX512},
    {"avx512-vnni", FVLM_CPU_AVX2 | FVLM_CPU_AVX512 | FVLM_CPU_AVX512_VNNI},
    {"avx512-bf16", FVLM_CPU_AVX2 | FVLM_CPU_AVX512 | FVLM_CPU_AVX512_VNNI | FVLM_CPU_AVX512_BF16},
    {"amx", FVLM_CPU_AVX2 | FVLM_CPU_AVX512 | FVLM_CPU_AVX512_VNNI | FVLM_CPU_AVX512_BF16 | FVLM_CPU_AMX},
    {"neon", FVLM_CPU_NEON},
    {"dotprod", FVLM_CPU_NEON | FVLM_CPU_DOTPROD},
    {"i8mm", FVLM_CPU_NEON | FVLM_CPU_DOTPROD | FVLM_CPU_I8MM},
    {"bf16", FVLM_CPU_NEON | FVLM_CPU_DOTPROD | FVLM_CPU_I8MM | FVLM_CPU_ARM_BF16},
    {"simd128", FVLM_CPU_WASM_SIMD},
    {"all", ALL_FLAGS},
};
enum { LEVELS = sizeof levels / sizeof levels[0] };

static _Atomic unsigned cached_flags;

#if defined(FVLM_AMX)
/* Linux gives the 8 KB of tiles to those that ask for them (Documentation/arch/x86/xstate.rst). */
static bool may_use_tiles(void)
{
    enum { OSXSAVE = 1 << 27, BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25 }; /* leaf 1, ecx; leaf 7, edx */
    enum { TILE_STATE = 3 << 17, REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d, enabled, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        (d & (BF16 | TILE | INT8)) != (BF16 | TILE | INT8))
        return false;
    __asm__("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
    return (enabled & TILE_STATE) == TILE_STATE && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#endif

static unsigned detect(void)
{
    unsigned flags = 0;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        flags |= FVLM_CPU_AVX2;
    if (flags && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        flags |= FVLM_CPU_AVX512;
        if (__builtin_cpu_supports("avx512vnni"))
            flags |= FVLM_CPU_AVX512_VNNI;
        if (__builtin_cpu_supports("avx512bf16"))
            flags |= FVLM_CPU_AVX512_BF16;
#if defined(FVLM_AMX)
        if (flags & FVLM_CPU_AVX512_VNNI && flags & FVLM_CPU_AVX512_BF16 && may_use_tiles())
            flags |= FVLM_CPU_AMX;
#endif
    }
#elif defined(__aarch64__)
    flags |= FVLM_CPU_NEON;
#if defined(__linux__)
    /* Bits of AT_HWCAP and AT_HWCAP2, Linux Documentation/arch/arm64/elf_hwcaps. */
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    if (first & 1ul << 20)
        flags |= FVLM_CPU_DOTPROD;
    if (second & 1ul << 13)
        flags |= FVLM_CPU_I8MM;
    if (second & 1ul << 14)
        flags |= FVLM_CPU_ARM_BF16;
#elif defined(__APPLE__)
    flags |= FVLM_CPU_DOTPROD; /* every Apple silicon */
#endif
#elif defined(__wasm_simd128__)
    flags |= FVLM_CPU_WASM_SIMD;
#endif
    return flags;
}

static int find_level(const char *name)
{
    for (int i = 0; i < LEVELS; i++)
        if (strcmp(levels[i].name, name) == 0)
            return i;
    return -1;
}

unsigned fvlm_cpu_flags(void)
{
    unsigned flags = atomic_load_explicit(&cached_flags, memory_order_relaxed);
    if (!(flags & DETECTED)) {
        const char *mask = getenv("FVLM_CPU_MASK");
        int level = mask ? find_level(mask) : -1;
        flags = (detect() & (level >= 0 ? levels[level].allowed : ALL_FLAGS)) | DETECTED;
        atomic_store_explicit(&cached_flags, flags, memory_order_relaxed);
    }
    return flags & ~DETECTED;
}

fvlm_status fvlm_cpu_set_level(const char *level, fvlm_error *error)
{
    int found = find_level(level);
    if (found < 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "unknown instruction set level '%s': use none, avx2, avx512, avx512-vnni, avx512-bf16, amx, "
                         "neon, dotprod, i8mm, bf16, simd128 or all",
                         level);
    atomic_store_explicit(&cached_flags, (detect() & levels[found].allowed) | DETECTED, memory_order_relaxed);
    return FVLM_OK;
}

fvlm_status fvlm_cpu_mask(const char *level, fvlm_error *error)
{
    return fvlm_cpu_set_level(level, error);
}

const char *fvlm_cpu_level_name(unsigned flags)
{
    int best = 0;
    for (int i = 0; i < LEVELS - 1; i++)
        if (levels[i].allowed && (flags & levels[i].allowed) == levels[i].allowed)
            best = i;
    return levels[best].name;
}

int fvlm_cpu_count(void)
{
#if defined(_WIN32)
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return (int)info.dwNumberOfProcessors;
#else
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
#endif
}

size_t fvlm_cpu_cache_bytes(int level)
{
    static const size_t guess[] = {32 << 10, 512 << 10, 8 << 20};
    long bytes = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    static const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
    bytes = sysconf(names[level - 1]);
#endif
    return bytes > 0 ? (size_t)bytes : guess[level - 1];
}
