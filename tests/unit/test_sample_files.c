/* The samples of a file, and the order of an epoch: a function of seed, epoch and grouping alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "train/sample_files.h"

#define COUNT 400
#define BATCH 8

static fvlm_error error;

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* COUNT samples; every third has a picture, and texts grow from sample to sample. */
static fvlm_dataset *open_many(const char *path)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < COUNT; i++)
        fprintf(file, "{\"id\": \"%d\"%s, \"conversations\": [{\"value\": \"%*s\"}]}\n", i,
                i % 3 == 0 ? ", \"image\": \"a.png\"" : "", 1 + i * 8, "x");
    assert_int_equal(fclose(file), 0);
    fvlm_dataset *set;
    assert_int_equal(fvlm_dataset_open(&path, NULL, 1, &set, &error), FVLM_OK);
    assert_int_equal(fvlm_dataset_count(set), COUNT);
    return set;
}

static void order(fvlm_dataset *set, uint64_t seed, uint64_t epoch, bool shuffle, fvlm_grouping grouping, size_t *items)
{
    assert_int_equal(fvlm_dataset_order(set, seed, epoch, shuffle, grouping, BATCH, items, &error), FVLM_OK);
}

static void assert_permutation(const size_t *items)
{
    bool seen[COUNT] = {false};
    for (size_t i = 0; i < COUNT; i++) {
        assert_true(items[i] < COUNT && !seen[items[i]]);
        seen[items[i]] = true;
    }
}

static void test_order(void **state)
{
    (void)state;
    fvlm_dataset *set = open_many("order.jsonl");
    size_t plain[COUNT], first[COUNT], again[COUNT], other[COUNT];
    order(set, 1, 0, false, FVLM_GROUP_NONE, plain);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(plain[i], i);
    order(set, 1, 0, true, FVLM_GROUP_NONE, first);
    order(set, 1, 0, true, FVLM_GROUP_NONE, again);
    assert_memory_equal(first, again, sizeof first);
    assert_permutation(first);
    order(set, 2, 0, true, FVLM_GROUP_NONE, other);
    assert_memory_not_equal(first, other, sizeof first);
    order(set, 1, 1, true, FVLM_GROUP_NONE, other);
    assert_memory_not_equal(first, other, sizeof first);
    fvlm_dataset_close(&set);
}

/* About the tokens of sample i: a quarter of its text, and a picture's. */
static size_t length_of(size_t i)
{
    return 2 * i + (i % 3 == 0 ? 256 : 0);
}

/* The spread of lengths within batches, summed. */
static size_t spread(const size_t *items)
{
    size_t sum = 0;
    for (size_t i = 0; i + BATCH <= COUNT; i += BATCH) {
        size_t low = SIZE_MAX, high = 0;
        for (size_t j = i; j < i + BATCH; j++) {
            low = length_of(items[j]) < low ? length_of(items[j]) : low;
            high = length_of(items[j]) > high ? length_of(items[j]) : high;
        }
        sum += high - low;
    }
    return sum;
}

static size_t mixed_batches(const size_t *items)
{
    size_t mixed = 0;
    for (size_t i = 0; i + BATCH <= COUNT; i += BATCH) {
        size_t pictures = 0;
        for (size_t j = i; j < i + BATCH; j++)
            pictures += items[j] % 3 == 0;
        mixed += pictures > 0 && pictures < BATCH;
    }
    return mixed;
}

static void test_grouping(void **state)
{
    (void)state;
    fvlm_dataset *set = open_many("grouping.jsonl");
    size_t none[COUNT], length[COUNT], modality[COUNT], again[COUNT];
    order(set, 1, 0, true, FVLM_GROUP_NONE, none);
    order(set, 1, 0, true, FVLM_GROUP_LENGTH, length);
    order(set, 1, 0, true, FVLM_GROUP_MODALITY, modality);
    order(set, 1, 0, true, FVLM_GROUP_MODALITY, again);
    assert_memory_equal(modality, again, sizeof again);
    assert_permutation(length);
    assert_permutation(modality);
    assert_true(spread(none) > 20000);
    assert_true(spread(length) < spread(none) / 4);
    assert_true(spread(modality) < spread(none) / 4);
    assert_true(mixed_batches(none) > 30);
    assert_true(mixed_batches(modality) <= 1);
    /* Batches come in no order of length. */
    size_t falling = 0;
    for (size_t i = BATCH; i + BATCH <= COUNT; i += BATCH)
        falling += length[i] < length[i - BATCH];
    assert_true(falling > 10 && falling < 39);
    fvlm_dataset_close(&set);
}

static void test_weights(void **state)
{
    (void)state;
    write_text("a.json", " [ {\"n\": \"[,]\\\"\"} , {\"n\": 2},{\"n\": [3, {}]},{\"n\": 4}]");
    write_text("b.json", "{\"n\": 5}\n\n {\"n\": 6}\n{\"n\": 7}");
    const char *paths[] = {"a.json", "b.json"};
    const double weights[] = {0.5, 2};
    fvlm_dataset *set;
    assert_int_equal(fvlm_dataset_open(paths, weights, 2, &set, &error), FVLM_OK);
    assert_int_equal(fvlm_dataset_count(set), 7);
    assert_int_equal(fvlm_dataset_epoch_count(set), 2 + 6);
    size_t items[8], counts[7] = {0};
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        order(set, 1, epoch, true, FVLM_GROUP_NONE, items);
        for (size_t i = 0; i < 8; i++)
            counts[items[i]]++;
    }
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(counts[i], i < 4 ? 1 : 4); /* each half of a.json in one of the epochs */
    json_t *object;
    char name[64];
    for (size_t i = 1; i < 7; i++) {
        assert_int_equal(fvlm_dataset_parse(set, i, &object, &error), FVLM_OK);
        if (i != 2)
            assert_int_equal(json_integer_value(json_object_get(object, "n")), i + 1);
        json_decref(object);
    }
    fvlm_dataset_name(set, 5, name, sizeof name);
    assert_string_equal(name, "b.json, sample 2");
    fvlm_dataset_close(&set);
    const double none[] = {0, 1};
    assert_int_equal(fvlm_dataset_open(paths, none, 2, &set, &error), FVLM_ERROR_ARGUMENT);
    assert_null(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_grouping),
        cmocka_unit_test(test_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
