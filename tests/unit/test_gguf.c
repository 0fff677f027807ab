/* GGUF: what the writer writes the reader reads; every cut and every flipped bit of a header is either an error or a
 * table whose tensors lie in the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "formats/gguf.h"
#include "kernels/quantize.h"

#define PATH "test_gguf.tmp"

static const float numbers[6] = {1, -2, 3.5f, 0, 1e-3f, -1e3f};
static const size_t matrix_shape[] = {2, 3}, vector_shape[] = {3}, block_shape[] = {2, 32};

/* A file with a value of each kind that is written, and three tensors. */
static void write_sample(void)
{
    fvlm_gguf_writer *writer;
    fvlm_error error;
    float values[64];
    uint8_t blocks[68];
    for (int i = 0; i < 64; i++)
        values[i] = (float)(i - 20) / 8;
    fvlm_from_float(FVLM_Q8_0, values, 64, blocks);
    assert_int_equal(fvlm_gguf_writer_open(PATH, &writer, &error), FVLM_OK);
    fvlm_gguf_put_string(writer, "general.architecture", "test", 4);
    fvlm_gguf_put_u32(writer, "a.number", 4000000000u);
    fvlm_gguf_put_f32(writer, "a.real", 0.25f);
    fvlm_gguf_put_bool(writer, "a.truth", true);
    fvlm_gguf_put_array(writer, "some.texts", FVLM_GGUF_STRING, 2);
    fvlm_gguf_item_string(writer, "first", 5);
    fvlm_gguf_item_string(writer, "", 0);
    fvlm_gguf_put_array(writer, "some.integers", FVLM_GGUF_I32, 2);
    fvlm_gguf_item_i32(writer, -7);
    fvlm_gguf_item_i32(writer, 8);
    fvlm_gguf_put_tensor(writer, "matrix", FVLM_F32, 2, matrix_shape);
    fvlm_gguf_put_tensor(writer, "empty", FVLM_F16, 1, (size_t[]){0});
    fvlm_gguf_put_tensor(writer, "blocks", FVLM_Q8_0, 2, block_shape);
    fvlm_gguf_put_tensor(writer, "scalar", FVLM_I64, 0, NULL);
    const int64_t scalar = -5;
    assert_int_equal(fvlm_gguf_write(writer, numbers, 8, &error), FVLM_OK); /* in pieces */
    assert_int_equal(fvlm_gguf_write(writer, numbers + 2, 16, &error), FVLM_OK);
    assert_int_equal(fvlm_gguf_write(writer, blocks, sizeof blocks, &error), FVLM_OK);
    assert_int_equal(fvlm_gguf_write(writer, &scalar, sizeof scalar, &error), FVLM_OK);
    assert_int_equal(fvlm_gguf_writer_commit(&writer, &error), FVLM_OK);
    assert_null(writer);
}

static void test_round_trip(void **state)
{
    (void)state;
    write_sample();
    fvlm_gguf *gguf;
    fvlm_error error;
    assert_true(fvlm_gguf_is(PATH));
    assert_int_equal(fvlm_gguf_open(PATH, &gguf, &error), FVLM_OK);
    assert_int_equal(gguf->version, 3);
    assert_int_equal(gguf->value_count, 6);
    const char *text;
    size_t bytes, at = 0;
    fvlm_gguf_string(fvlm_gguf_find(gguf, "general.architecture"), &at, &text, &bytes);
    assert_int_equal(bytes, 4);
    assert_memory_equal(text, "test", 4);
    assert_true(fvlm_gguf_number(fvlm_gguf_find(gguf, "a.number"), 0) == 4000000000.0);
    assert_true(fvlm_gguf_number(fvlm_gguf_find(gguf, "a.real"), 0) == 0.25);
    assert_true(fvlm_gguf_number(fvlm_gguf_find(gguf, "a.truth"), 0) == 1);
    const fvlm_gguf_value *texts = fvlm_gguf_find(gguf, "some.texts");
    assert_true(texts->array && texts->count == 2);
    at = 0;
    fvlm_gguf_string(texts, &at, &text, &bytes);
    assert_memory_equal(text, "first", 5);
    fvlm_gguf_string(texts, &at, &text, &bytes);
    assert_int_equal(bytes, 0);
    assert_int_equal(at, texts->bytes);
    assert_true(fvlm_gguf_number(fvlm_gguf_find(gguf, "some.integers"), 0) == -7);
    assert_true(fvlm_gguf_number(fvlm_gguf_find(gguf, "some.integers"), 1) == 8);
    assert_null(fvlm_gguf_find(gguf, "a.numbe"));

    fvlm_tensor_table *table;
    assert_int_equal(fvlm_tensor_table_create(&table, &error), FVLM_OK);
    assert_int_equal(fvlm_gguf_add_tensors(gguf, table, &error), FVLM_OK);
    assert_int_equal(fvlm_tensor_table_count(table), 4);
    const fvlm_tensor *matrix = fvlm_tensor_table_find(table, "matrix");
    assert_int_equal(matrix->rank, 2);
    assert_int_equal(matrix->shape[0], 2);
    assert_int_equal(matrix->shape[1], 3);
    assert_memory_equal(matrix->data, numbers, sizeof numbers);
    assert_int_equal(fvlm_tensor_table_find(table, "scalar")->rank, 0);
    const fvlm_tensor *blocks = fvlm_tensor_table_find(table, "blocks");
    assert_int_equal(blocks->type, FVLM_Q8_0);
    assert_int_equal(blocks->bytes, 68);
    assert_int_equal((uintptr_t)blocks->data % 32, 0);
    float row[32];
    fvlm_matrix_row(&(fvlm_matrix){.type = FVLM_Q8_0, .rows = 2, .cols = 32, .data = blocks->data}, 1, row);
    assert_float_equal(row[31], 43.0f / 8, 0.05);
    fvlm_tensor_table_destroy(&table);
    fvlm_gguf_close(&gguf);
}

static void test_data_must_be_as_announced(void **state)
{
    (void)state;
    fvlm_gguf_writer *writer;
    fvlm_error error;
    assert_int_equal(fvlm_gguf_writer_open(PATH, &writer, &error), FVLM_OK);
    fvlm_gguf_put_tensor(writer, "vector", FVLM_F32, 1, vector_shape);
    assert_int_equal(fvlm_gguf_write(writer, numbers, 8, &error), FVLM_OK);
    assert_int_equal(fvlm_gguf_writer_commit(&writer, &error), FVLM_ERROR_ARGUMENT);
    assert_int_equal(fvlm_gguf_writer_open(PATH, &writer, &error), FVLM_OK);
    fvlm_gguf_put_tensor(writer, "vector", FVLM_F32, 1, vector_shape);
    assert_int_equal(fvlm_gguf_write(writer, numbers, 16, &error), FVLM_ERROR_ARGUMENT);
    fvlm_gguf_writer_abort(&writer);
    assert_int_equal(fvlm_gguf_writer_open(PATH, &writer, &error), FVLM_OK);
    fvlm_gguf_put_tensor(writer, "vector", FVLM_U32, 1, vector_shape);
    assert_int_equal(fvlm_gguf_writer_commit(&writer, &error), FVLM_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "U32"));
}

/* Parse a copy that ends where its block does; 0 when it is accepted, having touched all that it points to. */
static fvlm_status try(const uint8_t *data, size_t size, fvlm_error *error)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    fvlm_gguf *gguf;
    fvlm_status status = fvlm_gguf_parse(copy, size, "sample", &gguf, error);
    if (!status) {
        volatile uint8_t seen = 0;
        for (size_t i = 0; i < gguf->tensor_count; i++)
            for (size_t b = 0; b < gguf->tensors[i].bytes; b++)
                seen ^= gguf->tensors[i].data[b];
        fvlm_gguf_close(&gguf);
    } else {
        assert_null(gguf);
        assert_non_null(strstr(error->message, "sample"));
    }
    free(copy);
    return status;
}

static uint8_t *read_sample(size_t *size)
{
    char *data;
    write_sample();
    assert_int_equal(fvlm_file_read(PATH, 1 << 20, &data, size, NULL), FVLM_OK);
    return (uint8_t *)data;
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    size_t size;
    uint8_t *data = read_sample(&size);
    fvlm_error error;
    assert_int_equal(try(data, size, &error), FVLM_OK);
    /* The last tensor has 8 bytes and 24 of padding behind it. */
    for (size_t cut = 0; cut < size - 24; cut++)
        assert_int_not_equal(try(data, cut, &error), FVLM_OK);
    free(data);
}

static void test_any_bit_flipped(void **state)
{
    (void)state;
    size_t size, refused = 0;
    uint8_t *data = read_sample(&size);
    fvlm_error error;
    for (size_t bit = 0; bit < 8 * size; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        refused += try(data, size, &error) != FVLM_OK;
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(refused > size); /* most of the header's bits say something that can be wrong */
    free(data);
}

/* The sample with the bytes `from` [length] replaced once. */
static fvlm_status replaced(const void *from, const void *to, size_t length, fvlm_error *error)
{
    size_t size, at = 0;
    uint8_t *data = read_sample(&size);
    while (at + length <= size && memcmp(data + at, from, length) != 0)
        at++;
    assert_true(at + length <= size);
    memcpy(data + at, to, length);
    fvlm_status status = try(data, size, error);
    free(data);
    return status;
}

static void test_lies(void **state)
{
    (void)state;
    fvlm_error error;
    assert_int_equal(replaced("a.number", "a.real\0\0", 8, &error), FVLM_ERROR_FORMAT); /* NUL in a key */
    assert_int_equal(replaced("scalar", "matrix", 6, &error), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "'matrix' occurs twice"));
    assert_int_equal(replaced("GGUF\3", "GGUF\1", 5, &error), FVLM_ERROR_UNSUPPORTED);
    assert_int_equal(replaced("GGUF\3\0\0\0", "GGUF\0\0\0\3", 8, &error), FVLM_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "big-endian"));
    const uint64_t tensors = 4, many = UINT64_MAX / 8;
    assert_int_equal(replaced(&tensors, &many, 8, &error), FVLM_ERROR_FORMAT);
    /* The matrix [3, 2] claims a length whose product overflows. */
    const uint64_t shape[] = {3, 2}, huge[] = {3, UINT64_MAX / 2};
    assert_int_equal(replaced(shape, huge, sizeof shape, &error), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "overflows"));
    const uint64_t longer[] = {3, 3};
    assert_int_equal(replaced(shape, longer, sizeof shape, &error), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "overlap"));
    const uint64_t blocks[] = {32, 2}, odd[] = {31, 2};
    assert_int_equal(replaced(blocks, odd, sizeof blocks, &error), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "block"));
}

static void test_types_without_kernels_are_listed(void **state)
{
    (void)state;
    size_t size;
    uint8_t *data = read_sample(&size);
    /* After the matrix's shape comes its type: make it one that is not known. */
    const uint64_t shape[] = {3, 2};
    size_t at = 0;
    while (memcmp(data + at, shape, sizeof shape) != 0)
        at++;
    data[at + sizeof shape] = 200;
    fvlm_gguf *gguf;
    fvlm_tensor_table *table;
    fvlm_error error;
    assert_int_equal(fvlm_gguf_parse(data, size, "sample", &gguf, &error), FVLM_OK);
    assert_int_equal(gguf->tensors[0].type_id, 200);
    assert_null(gguf->tensors[0].type.name);
    assert_int_equal(fvlm_tensor_table_create(&table, &error), FVLM_OK);
    assert_int_equal(fvlm_gguf_add_tensors(gguf, table, &error), FVLM_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "matrix"));
    fvlm_tensor_table_destroy(&table);
    fvlm_gguf_close(&gguf);
    free(data);
}

static int clean(void **state)
{
    (void)state;
    remove(PATH);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_data_must_be_as_announced),
        cmocka_unit_test(test_cut_anywhere), cmocka_unit_test(test_any_bit_flipped),
        cmocka_unit_test(test_lies),         cmocka_unit_test(test_types_without_kernels_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, clean);
}
