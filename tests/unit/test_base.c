/* The base room: checked sizes, errors, text, files, the pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/text_buffer.h"

static void test_checked_sizes(void **state)
{
    (void)state;
    size_t x = 7;
    assert_true(fvlm_size_multiply(1 << 16, 1 << 10, &x));
    assert_int_equal(x, 1 << 26);
    assert_false(fvlm_size_multiply(SIZE_MAX / 2, 3, &x));
    assert_int_equal(x, 1 << 26);
    assert_false(fvlm_size_add(SIZE_MAX, 1, &x));
    assert_true(fvlm_range_fits(10, 0, 10));
    assert_false(fvlm_range_fits(10, 1, 10));
    assert_false(fvlm_range_fits(UINT64_MAX, 2, 10));
}

static void test_error_is_one_printable_line(void **state)
{
    (void)state;
    fvlm_error error;
    char name[600];
    memset(name, 'a', sizeof name);
    strcpy(name + 500, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9");
    assert_int_equal(fvlm_fail(&error, FVLM_ERROR_IO, "a\nb %s", name), FVLM_ERROR_IO);
    assert_int_equal(error.message[1], '?');
    size_t length = strlen(error.message);
    assert_true(length == 510 || length == 511);
    assert_int_equal((unsigned char)error.message[length - 1], 0xa9);
    assert_int_equal(fvlm_fail(NULL, FVLM_ERROR_FORMAT, "x"), FVLM_ERROR_FORMAT);
}

static void test_arena(void **state)
{
    (void)state;
    fvlm_arena *arena = fvlm_arena_create();
    char *small = fvlm_arena_strdup(arena, "hello");
    float *large = fvlm_arena_alloc(arena, 1 << 20, sizeof *large);
    float *after = fvlm_arena_alloc(arena, 3, sizeof *after);
    assert_string_equal(small, "hello");
    assert_int_equal((uintptr_t)large % FVLM_ALIGN, 0);
    assert_int_equal((uintptr_t)after % FVLM_ALIGN, 0);
    assert_true(large[(1 << 20) - 1] == 0);
    assert_null(fvlm_arena_alloc(arena, SIZE_MAX / 2, 4));
    fvlm_arena_destroy(&arena);
    assert_null(arena);
}

static void test_text_buffer(void **state)
{
    (void)state;
    fvlm_text_buffer buffer = {0};
    for (int i = 0; i < 100; i++)
        fvlm_text_format(&buffer, "%d,", i);
    fvlm_text_append(&buffer, "\0x", 2);
    assert_int_equal(buffer.length, 290 + 2);
    char *text = fvlm_text_take(&buffer);
    assert_int_equal(strlen(text), 290);
    free(text);
    text = fvlm_text_take(&buffer);
    assert_string_equal(text, "");
    free(text);
}

static void test_writer_keeps_the_old_file(void **state)
{
    (void)state;
    const char *path = "test_base_writer.tmp";
    fvlm_error error;
    fvlm_writer *writer;
    assert_int_equal(fvlm_writer_open(path, &writer, &error), FVLM_OK);
    assert_int_equal(fvlm_writer_write(writer, "old", 3, &error), FVLM_OK);
    assert_int_equal(fvlm_writer_commit(&writer, &error), FVLM_OK);
    assert_int_equal(fvlm_writer_open(path, &writer, &error), FVLM_OK);
    assert_int_equal(fvlm_writer_write(writer, "new", 3, &error), FVLM_OK);
    fvlm_writer_abort(&writer);
    assert_null(writer);
    assert_false(fvlm_file_exists("test_base_writer.tmp.part"));

    char *data;
    size_t size;
    assert_int_equal(fvlm_file_read(path, 100, &data, &size, &error), FVLM_OK);
    assert_string_equal(data, "old");
    free(data);
    assert_int_equal(fvlm_file_read(path, 2, &data, &size, &error), FVLM_ERROR_LIMIT);

    fvlm_mapping mapping;
    assert_int_equal(fvlm_mapping_open(path, &mapping, &error), FVLM_OK);
    assert_memory_equal(mapping.data, "old", 3);
    fvlm_mapping_close(&mapping);
    assert_int_equal(fvlm_mapping_open(".", &mapping, &error), FVLM_ERROR_IO);
    assert_int_equal(fvlm_mapping_open("no such file", &mapping, &error), FVLM_ERROR_IO);
    assert_non_null(strstr(error.message, "no such file"));
    remove(path);
}

static void count_index(void *argument, size_t index, int thread)
{
    (void)thread;
    atomic_int *seen = argument;
    atomic_fetch_add(&seen[index], 1);
}

static void test_pool_runs_each_index_once(void **state)
{
    (void)state;
    static atomic_int seen[1000];
    for (int threads = 1; threads <= 5; threads++) {
        fvlm_pool *pool;
        assert_int_equal(fvlm_pool_create(threads, &pool, NULL), FVLM_OK);
        for (int round = 0; round < 200; round++) {
            size_t count = (size_t)(round * 5);
            memset(seen, 0, sizeof seen);
            fvlm_pool_run(pool, count, count_index, seen);
            fvlm_pool_run_stretches(pool, count, 7, count_index, seen);
            for (size_t i = 0; i < 1000; i++)
                assert_int_equal(seen[i], i < count ? 2 : 0);
        }
        assert_int_equal((uintptr_t)fvlm_pool_scratch(pool, threads - 1) % FVLM_ALIGN, 0);
        fvlm_pool_destroy(&pool);
    }
    fvlm_pool *pool;
    assert_int_equal(fvlm_pool_create(0, &pool, NULL), FVLM_ERROR_ARGUMENT);
}

static void test_cpu_levels(void **state)
{
    (void)state;
    fvlm_error error;
    assert_int_equal(fvlm_cpu_set_level("none", &error), FVLM_OK);
    assert_int_equal(fvlm_cpu_flags(), 0);
    assert_string_equal(fvlm_cpu_level_name(0), "none");
    assert_int_equal(fvlm_cpu_set_level("sse9", &error), FVLM_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "sse9"));
    assert_int_equal(fvlm_cpu_set_level("all", &error), FVLM_OK);
    assert_true(fvlm_cpu_count() >= 1);
    assert_true(fvlm_cpu_cache_bytes(1) >= 8 << 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checked_sizes),
        cmocka_unit_test(test_error_is_one_printable_line),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_text_buffer),
        cmocka_unit_test(test_writer_keeps_the_old_file),
        cmocka_unit_test(test_pool_runs_each_index_once),
        cmocka_unit_test(test_cpu_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
