/* The writer of Core ML packages: what a program was built of is what the reader finds in it, in both types and with
 * weights of 8 bits; what cannot be written is an error, after which nothing more happens. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/system.h"
#include "formats/mil.h"
#include "formats/mil_write.h"

enum { OUT = 5, IN = 2, KERNEL = 3, COLS = IN * KERNEL * KERNEL, SIDE = 8, CHANNELS = OUT };

static char root[64], package[128];
static fvlm_error error;

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/fastvlm_mil_XXXXXX");
    memset(&error, 0, sizeof error);
    if (!mkdtemp(root))
        return -1;
    snprintf(package, sizeof package, "%s/a.mlpackage", root);
    return 0;
}

static int remove_root(void **state)
{
    (void)state;
    return fvlm_folder_remove(root, NULL) ? -1 : 0;
}

/* Of row r, which has a size of its own; row 3 is all zero, and row 4 too small for an fp16 scale. */
static float weight_at(size_t r, size_t i)
{
    static const float sizes[OUT] = {1, 100, 1e-3f, 0, 1e-9f};
    return sizes[r] * ((float)((r * 31 + i * 17) % 23) / 11 - 1);
}

static fvlm_mil_value add_weight(fvlm_mil_builder *builder, bool int8)
{
    float row[COLS];
    fvlm_mil_value weight =
        fvlm_mil_begin_weight(builder, "first_weight", 4, (int64_t[]){OUT, IN, KERNEL, KERNEL}, int8);
    for (size_t r = 0; r < OUT; r++) {
        for (size_t i = 0; i < COLS; i++)
            row[i] = weight_at(r, i);
        fvlm_mil_weight_row(builder, row);
    }
    return weight;
}

/* images -> conv "first" -> gelu "act" -> mul by 0.5 "scaled" -> split "parts" of 2 and 3 -> shape "sizes" of one. */
static fvlm_status build(int type, bool int8, int64_t side)
{
    static const int64_t inputs[2][4] = {{1, IN, SIDE, SIDE}, {1, IN, 2 * SIDE, 2 * SIDE}};
    fvlm_mil_builder *builder;
    fvlm_status status = fvlm_mil_builder_open(package, type, &builder, &error);
    if (status)
        return status;
    fvlm_mil_value images = fvlm_mil_add_input(builder, "images", 4, (int64_t[]){1, IN, side, side}), parts[2];
    fvlm_mil_value weight = add_weight(builder, int8),
                   bias = fvlm_mil_begin_weight(builder, "first_bias", 1, (int64_t[]){OUT}, false);
    for (int i = 0; i < OUT; i++)
        fvlm_mil_weight_row(builder, &(float){(float)i / 4});
    fvlm_mil_begin(builder, "conv", "first");
    fvlm_mil_set(builder, "x", images);
    fvlm_mil_set(builder, "weight", weight);
    fvlm_mil_set(builder, "bias", bias);
    fvlm_mil_set_text(builder, "pad_type", "custom");
    fvlm_mil_set_integers(builder, "pad", 4, (int32_t[]){1, 2, 3, -4});
    fvlm_mil_set_integer(builder, "groups", 1);
    fvlm_mil_value x = fvlm_mil_end(builder, 4, (int64_t[]){1, CHANNELS, side, side});
    fvlm_mil_begin(builder, "gelu", "act");
    fvlm_mil_set(builder, "x", x);
    fvlm_mil_set_text(builder, "mode", "EXACT");
    x = fvlm_mil_end(builder, x.rank, x.shape);
    fvlm_mil_begin(builder, "mul", "scaled");
    fvlm_mil_set(builder, "x", x);
    fvlm_mil_set_number(builder, "y", 0.5f);
    fvlm_mil_set_boolean(builder, "flag", true);
    x = fvlm_mil_end(builder, x.rank, x.shape);
    fvlm_mil_begin(builder, "split", "parts");
    fvlm_mil_set(builder, "x", x);
    fvlm_mil_set_integers(builder, "split_sizes", 2, (int32_t[]){2, 3});
    fvlm_mil_end_many(builder, 2, 4, x.shape, parts);
    fvlm_mil_begin(builder, "shape", "sizes");
    fvlm_mil_set(builder, "x", parts[1]);
    x = fvlm_mil_end_type(builder, FVLM_MIL_INT32, 1, (int64_t[]){4});
    fvlm_mil_about about = {.description = "d",
                            .author = "a",
                            .version = "v",
                            .shapes = inputs,
                            .shape_count = side == FVLM_MIL_ANY ? 2 : 1};
    status = fvlm_mil_builder_finish(builder, x, &about);
    assert_int_equal(fvlm_mil_builder_status(builder), status);
    fvlm_mil_builder_close(&builder);
    assert_null(builder);
    return status;
}

static size_t read_part(const char *name, char **data)
{
    char path[256];
    size_t size;
    snprintf(path, sizeof path, "%s/%s", package, name);
    assert_int_equal(fvlm_file_read(path, 1 << 20, data, &size, &error), FVLM_OK);
    return size;
}

static size_t find(const fvlm_mil *mil, const char *type, const char *name)
{
    for (size_t op = 0; op < fvlm_mil_count(mil); op++)
        if (strcmp(fvlm_mil_type(mil, op), type) == 0 && strcmp(fvlm_mil_name(mil, op), name) == 0)
            return op;
    fail_msg("no operation %s of type %s", name, type);
    return 0;
}

static void check_operand(const fvlm_mil *mil, size_t op, size_t expected)
{
    size_t producer;
    assert_true(fvlm_mil_operand(mil, op, 0, &producer));
    assert_int_equal(producer, expected);
    assert_false(fvlm_mil_operand(mil, op, 1, &producer));
}

static void check_weights(fvlm_mil *mil, size_t conv, int type, bool int8)
{
    fvlm_tensor tensor;
    float values[OUT * COLS], bias[OUT];
    assert_int_equal(fvlm_mil_tensor(mil, conv, "weight", &tensor, &error), FVLM_OK);
    assert_int_equal(tensor.rank, 4);
    assert_int_equal(tensor.shape[0], OUT);
    assert_int_equal(tensor.shape[3], KERNEL);
    assert_int_equal(tensor.type, type == FVLM_MIL_FLOAT16 ? FVLM_F16 : FVLM_F32);
    fvlm_to_float(tensor.type, tensor.data, OUT * COLS, values);
    for (size_t r = 0; r < OUT; r++)
        for (size_t i = 0; i < COLS; i++) {
            float exact = weight_at(r, i), got = values[r * COLS + i], most = fabsf(weight_at(r, 0));
            for (size_t k = 1; k < COLS; k++)
                most = fmaxf(most, fabsf(weight_at(r, k)));
            if (!int8)
                assert_true(got ==
                            (type == FVLM_MIL_FLOAT16 ? fvlm_float_from_f16(fvlm_f16_from_float(exact)) : exact));
            else if (type == FVLM_MIL_FLOAT16) /* its scale is a multiple of 6e-8 */
                assert_true(fabsf(got - exact) <= most / 127 * 0.5f + most * 1e-3f + 127 * 3e-8f);
            else
                assert_true(fabsf(got - exact) <= most / 127 * 0.5001f);
        }
    assert_int_equal(fvlm_mil_tensor(mil, conv, "bias", &tensor, &error), FVLM_OK);
    fvlm_to_float(tensor.type, tensor.data, OUT, bias);
    for (int i = 0; i < OUT; i++)
        assert_true(bias[i] == (float)i / 4);
}

static void check(int type, bool int8)
{
    char *model, *weights;
    int64_t numbers[4];
    fvlm_mil *mil;
    fvlm_tensor number;
    fvlm_tensor_table *table;
    size_t model_size = read_part("Data/com.apple.CoreML/model.mlmodel", &model);
    size_t weights_size = read_part("Data/com.apple.CoreML/weights/weight.bin", &weights);
    assert_int_equal(weights[0], 2); /* blobs */
    assert_int_equal(weights[4], 2); /* the format's version */
    assert_int_equal(fvlm_tensor_table_create(&table, &error), FVLM_OK);
    assert_int_equal(
        fvlm_mil_open(table, (uint8_t *)model, model_size, (uint8_t *)weights, weights_size, "test", &mil, &error),
        FVLM_OK);
    size_t conv = find(mil, "conv", "first"), act = find(mil, "gelu", "act"), scaled = find(mil, "mul", "scaled");
    size_t split = find(mil, "split", "parts_0"), shape = find(mil, "shape", "sizes");
    check_operand(mil, conv, FVLM_MIL_INPUT);
    check_operand(mil, act, conv);
    check_operand(mil, scaled, act);
    check_operand(mil, split, scaled);
    check_operand(mil, shape, split);
    check_weights(mil, conv, type, int8);
    assert_string_equal(fvlm_mil_text(mil, conv, "pad_type", ""), "custom");
    assert_string_equal(fvlm_mil_text(mil, act, "mode", ""), "EXACT");
    assert_int_equal(fvlm_mil_numbers(mil, conv, "pad", 4, 0, numbers, &error), FVLM_OK);
    assert_true(numbers[0] == 1 && numbers[1] == 2 && numbers[2] == 3 && numbers[3] == -4);
    assert_int_equal(fvlm_mil_numbers(mil, conv, "groups", 1, 7, numbers, &error), FVLM_OK);
    assert_int_equal(numbers[0], 1);
    assert_int_equal(fvlm_mil_numbers(mil, scaled, "flag", 1, 0, numbers, &error), FVLM_OK);
    assert_int_equal(numbers[0], 1);
    assert_int_equal(fvlm_mil_numbers(mil, split, "split_sizes", 2, 0, numbers, &error), FVLM_OK);
    assert_true(numbers[0] == 2 && numbers[1] == 3);
    assert_int_equal(fvlm_mil_tensor(mil, scaled, "y", &number, &error), FVLM_OK);
    float y;
    fvlm_to_float(number.type, number.data, 1, &y);
    assert_true(y == 0.5f);
    fvlm_mil_close(&mil);
    fvlm_tensor_table_destroy(&table);
    free(model);
    free(weights);
}

static void test_what_is_built_is_read(void **state)
{
    (void)state;
    static const int types[] = {FVLM_MIL_FLOAT32, FVLM_MIL_FLOAT16};
    char *text;
    for (int t = 0; t < 2; t++)
        for (int int8 = 0; int8 < 2; int8++)
            for (int flexible = 0; flexible < 2; flexible++) {
                assert_int_equal(build(types[t], int8, flexible ? FVLM_MIL_ANY : SIDE), FVLM_OK);
                check(types[t], int8);
            }
    read_part("Manifest.json", &text);
    assert_non_null(strstr(text, "com.apple.CoreML/model.mlmodel"));
    free(text);
}

static void test_what_cannot_be_written(void **state)
{
    (void)state;
    char place[256];
    assert_int_equal(build(FVLM_MIL_FLOAT32, false, SIDE), FVLM_OK);
    /* A file where the folder of weights is to be, then a folder where the model is. */
    snprintf(place, sizeof place, "%s/Data/com.apple.CoreML/weights", package);
    assert_int_equal(fvlm_folder_remove(place, &error), FVLM_OK);
    fclose(fopen(place, "wb"));
    assert_int_equal(build(FVLM_MIL_FLOAT32, false, SIDE), FVLM_ERROR_IO);
    assert_non_null(strstr(error.message, "weights"));
    remove(place);
    snprintf(place, sizeof place, "%s/Data/com.apple.CoreML/model.mlmodel", package);
    remove(place);
    assert_int_equal(fvlm_folder_create(place, &error), FVLM_OK);
    assert_int_equal(build(FVLM_MIL_FLOAT16, true, SIDE), FVLM_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "model.mlmodel"));
}

/* Nothing is computed that C leaves open, which the sanitizers see. */
static void test_weights_that_are_no_numbers(void **state)
{
    (void)state;
    static const float rows[3][2] = {{NAN, 1}, {INFINITY, -INFINITY}, {NAN, NAN}};
    fvlm_mil_builder *builder;
    assert_int_equal(fvlm_mil_builder_open(package, FVLM_MIL_FLOAT16, &builder, &error), FVLM_OK);
    fvlm_mil_begin_weight(builder, "w", 2, (int64_t[]){3, 2}, true);
    for (int i = 0; i < 3; i++)
        fvlm_mil_weight_row(builder, rows[i]);
    assert_int_equal(fvlm_mil_builder_status(builder), FVLM_OK);
    fvlm_mil_builder_close(&builder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_built_is_read, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_written, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_weights_that_are_no_numbers, make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
