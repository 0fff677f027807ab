/* The safetensors reader and writer: round trip, each rule of the format, damage at every byte and header bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/text_buffer.h"
#include "formats/tensor_table.h"

static fvlm_error error;

static fvlm_status parse(const void *data, size_t size, fvlm_tensor_table **table)
{
    assert_int_equal(fvlm_tensor_table_create(table, NULL), FVLM_OK);
    memset(&error, 0, sizeof error);
    return fvlm_safetensors_parse(*table, data, size, "m.safetensors", &error);
}

static void append_length(fvlm_text_buffer *buffer, uint64_t length)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(length >> 8 * i);
    fvlm_text_append(buffer, (const char *)bytes, 8);
}

/* A file of this header, with `data_size` bytes behind it. */
static fvlm_status parse_header(const char *header, size_t data_size)
{
    fvlm_text_buffer file = {0};
    append_length(&file, strlen(header));
    fvlm_text_append_string(&file, header);
    for (size_t i = 0; i < data_size; i++)
        fvlm_text_append(&file, "x", 1);
    fvlm_tensor_table *table;
    fvlm_status status = parse(file.data, file.length, &table);
    fvlm_tensor_table_destroy(&table);
    fvlm_text_clear(&file);
    return status;
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char path[] = "test_safetensors_round_trip.tmp";
    static const fvlm_dtype types[] = {FVLM_F32, FVLM_F16, FVLM_BF16, FVLM_U8,  FVLM_I8,  FVLM_U32, FVLM_I32,
                                       FVLM_I64, FVLM_F64, FVLM_BOOL, FVLM_I16, FVLM_U16, FVLM_U64};
    enum { TYPES = sizeof types / sizeof types[0] };
    uint8_t data[TYPES][6 * 8];
    char names[TYPES][32];
    fvlm_tensor tensors[TYPES];
    for (int i = 0; i < TYPES; i++) {
        for (size_t k = 0; k < sizeof data[i]; k++)
            data[i][k] = (uint8_t)(i * 31 + (int)k);
        snprintf(names[i], sizeof names[i], "a \"quoted\" \xc3\xa9 %d", i);
        tensors[i] = (fvlm_tensor){.name = names[i], .type = types[i], .rank = 2, .shape = {2, 3}, .data = data[i]};
        assert_true(fvlm_tensor_measure(&tensors[i]));
    }
    tensors[3].rank = 0;
    assert_true(fvlm_tensor_measure(&tensors[3]));
    tensors[4].shape[1] = 0;
    assert_true(fvlm_tensor_measure(&tensors[4]));
    assert_int_equal(fvlm_safetensors_write(path, tensors, TYPES, &error), FVLM_OK);

    fvlm_tensor_table *table;
    assert_int_equal(fvlm_tensor_table_create(&table, NULL), FVLM_OK);
    assert_int_equal(fvlm_safetensors_read(table, path, &error), FVLM_OK);
    assert_int_equal(fvlm_tensor_table_count(table), TYPES);
    for (int i = 0; i < TYPES; i++) {
        const fvlm_tensor *tensor = fvlm_tensor_table_find(table, names[i]);
        assert_non_null(tensor);
        assert_int_equal(tensor->type, types[i]);
        assert_int_equal(tensor->rank, tensors[i].rank);
        assert_memory_equal(tensor->shape, tensors[i].shape, (size_t)tensor->rank * sizeof tensor->shape[0]);
        assert_int_equal(tensor->bytes, tensors[i].bytes);
        assert_memory_equal(tensor->data, data[i], tensor->bytes);
    }
    fvlm_tensor_table_destroy(&table);
    remove(path);

    tensors[0].name = "\xff";
    assert_int_equal(fvlm_safetensors_write(path, tensors, 1, &error), FVLM_ERROR_ARGUMENT);
    assert_false(fvlm_file_exists(path));
    assert_int_equal(fvlm_safetensors_write("no/such/folder/x", tensors + 1, 1, &error), FVLM_ERROR_IO);
}

static void test_rules(void **state)
{
    (void)state;
#define F32_2(name, begin, end) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" begin "," end "]}"
    static const struct {
        const char *header;
        size_t data_size;
        fvlm_status status;
        const char *words;
    } cases[] = {
        {"{" F32_2("a", "0", "8") "}", 8, FVLM_OK, ""},
        {"{" F32_2("b", "8", "16") "," F32_2("a", "0", "8") "}", 16, FVLM_OK, ""},
        {"{\"__metadata__\":{\"format\":\"pt\"}}   ", 0, FVLM_OK, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]}," F32_2("b", "0", "8") "}", 8, FVLM_OK, ""},
        {"{" F32_2("a", "0", "8") "}", 7, FVLM_ERROR_FORMAT, "cut short"},
        {"{" F32_2("a", "0", "8") "}", 9, FVLM_ERROR_FORMAT, "from byte 8 on"},
        {"{" F32_2("a", "0", "8") "," F32_2("b", "12", "20") "}", 20, FVLM_ERROR_FORMAT, "from byte 8 on"},
        {"{" F32_2("a", "0", "8") "," F32_2("b", "4", "12") "}", 12, FVLM_ERROR_FORMAT, "overlap"},
        {"{" F32_2("a", "0", "8") "," F32_2("b", "0", "8") "}", 8, FVLM_ERROR_FORMAT, "'a' and 'b' overlap"},
        {"{" F32_2("a", "0", "8") "," F32_2("a", "8", "16") "}", 16, FVLM_ERROR_FORMAT, "duplicate"},
        {"{" F32_2("a", "8", "0") "}", 8, FVLM_ERROR_FORMAT, "[begin, end]"},
        {"{" F32_2("a", "-8", "0") "}", 8, FVLM_ERROR_FORMAT, "[begin, end]"},
        {"{" F32_2("a", "0", "4") "}", 4, FVLM_ERROR_FORMAT, "takes 8 bytes by its shape, but 4"},
        {"{" F32_2("a", "0", "9223372036854775807") "}", 8, FVLM_ERROR_FORMAT, "lies"},
        {"{" F32_2("a", "0", "99999999999999999999") "}", 8, FVLM_ERROR_FORMAT, "too big integer"},
        {"{" F32_2("a", "0", "8.0") "}", 8, FVLM_ERROR_FORMAT, "[begin, end]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, FVLM_ERROR_FORMAT,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, FVLM_ERROR_FORMAT, "array of sizes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, FVLM_ERROR_UNSUPPORTED,
         "8 dimensions"},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, FVLM_ERROR_UNSUPPORTED,
         "'a' has the unknown dtype 'F8_E4M3'"},
        {"{\"a\":{\"dtype\":\"MLX4\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, FVLM_ERROR_UNSUPPORTED, "'MLX4'"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, FVLM_ERROR_FORMAT, "missing"},
        {"{\"a\":[]}", 0, FVLM_ERROR_FORMAT, "missing"},
        {"[1,2]", 0, FVLM_ERROR_FORMAT, "not a JSON object"},
        {"{\"a\":", 0, FVLM_ERROR_FORMAT, "not valid JSON"},
        {"{\"a\":{}} x", 0, FVLM_ERROR_FORMAT, "not valid JSON"},
        {"{\"\xff\":{}}", 0, FVLM_ERROR_FORMAT, "not valid JSON"},
        {"", 0, FVLM_ERROR_FORMAT, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fvlm_status status = parse_header(cases[i].header, cases[i].data_size);
        if (status != cases[i].status || !strstr(error.message, cases[i].words))
            fail_msg("case %zu %s: status %d, '%s'", i, cases[i].header, status, error.message);
    }
}

static void test_header_length(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        fvlm_status status;
    } cases[] = {
        {3, FVLM_ERROR_FORMAT},          {UINT64_MAX, FVLM_ERROR_LIMIT}, {(100u << 20) + 1, FVLM_ERROR_LIMIT},
        {100u << 20, FVLM_ERROR_FORMAT}, {INT64_MAX, FVLM_ERROR_LIMIT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fvlm_text_buffer file = {0};
        append_length(&file, cases[i].length);
        fvlm_text_append_string(&file, "{}");
        fvlm_tensor_table *table;
        assert_int_equal(parse(file.data, file.length, &table), cases[i].status);
        fvlm_tensor_table_destroy(&table);
        fvlm_text_clear(&file);
    }
}

static void test_json_bombs(void **state)
{
    (void)state;
    fvlm_text_buffer header = {0};
    for (int i = 0; i < 100000; i++)
        fvlm_text_append(&header, "[", 1);
    assert_int_equal(parse_header(header.data, 0), FVLM_ERROR_FORMAT);
    fvlm_text_clear(&header);

    fvlm_text_append(&header, "[[]", 3);
    for (int i = 0; i < 1000000; i++)
        fvlm_text_append(&header, ",[]", 3);
    fvlm_text_append(&header, "]", 1);
    assert_int_equal(parse_header(header.data, 0), FVLM_ERROR_LIMIT);
    fvlm_text_clear(&header);
}

static void test_thousands_of_tensors(void **state)
{
    (void)state;
    fvlm_text_buffer header = {0};
    for (int i = 0; i < 20000; i++)
        fvlm_text_format(&header,
                         "%c\"model.vision_tower.vision_tower.model.network.%d.weight\":{\"dtype\":\"BF16\","
                         "\"shape\":[1,2],\"data_offsets\":[%d,%d]}",
                         i ? ',' : '{', i, 4 * i, 4 * i + 4);
    fvlm_text_append(&header, "}", 1);
    clock_t start = clock();
    assert_int_equal(parse_header(header.data, 80000), FVLM_OK);
    assert_true(clock() - start < 5 * CLOCKS_PER_SEC);
    fvlm_text_clear(&header);
}

/* A model of about 4 kB. */
static void make_model(char **data, size_t *size)
{
    static const char path[] = "test_safetensors_model.tmp";
    static float values[48];
    fvlm_tensor tensors[20];
    char names[20][16];
    for (int i = 0; i < 20; i++) {
        snprintf(names[i], sizeof names[i], "layer.%d", i);
        tensors[i] = (fvlm_tensor){.name = names[i], .type = FVLM_F32, .rank = 2, .shape = {4, 8}, .data = values};
        assert_true(fvlm_tensor_measure(&tensors[i]));
    }
    assert_int_equal(fvlm_safetensors_write(path, tensors, 20, &error), FVLM_OK);
    assert_int_equal(fvlm_file_read(path, 1 << 20, data, size, &error), FVLM_OK);
    remove(path);
}

static void test_truncation_at_every_byte(void **state)
{
    (void)state;
    char *model;
    size_t size;
    make_model(&model, &size);
    for (size_t cut = 0; cut < size; cut++) {
        char *part = malloc(cut ? cut : 1); /* of its own, so that ASan sees a read behind the end */
        memcpy(part, model, cut);
        fvlm_tensor_table *table;
        fvlm_status status = parse(part, cut, &table);
        assert_true(status == FVLM_ERROR_FORMAT || status == FVLM_ERROR_LIMIT);
        assert_int_equal(error.code, status);
        fvlm_tensor_table_destroy(&table);
        free(part);
    }
    free(model);
}

static void test_every_header_bit_flipped(void **state)
{
    (void)state;
    char *model;
    size_t size, refused = 0;
    make_model(&model, &size);
    size_t header = 8 + (size_t)(uint8_t)model[0] + ((size_t)(uint8_t)model[1] << 8);
    assert_in_range(header, 1000, size);
    for (size_t bit = 0; bit < 8 * header; bit++) {
        model[bit / 8] ^= (char)(1 << bit % 8);
        fvlm_tensor_table *table;
        fvlm_status status = parse(model, size, &table);
        assert_int_equal(error.code, status);
        for (size_t i = 0; !status && i < fvlm_tensor_table_count(table); i++) {
            const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
            const char *data = tensor->data;
            assert_true(data >= model + 8 && data + tensor->bytes <= model + size);
        }
        refused += status != FVLM_OK;
        fvlm_tensor_table_destroy(&table);
        model[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(refused > 4 * header);
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_json_bombs),
        cmocka_unit_test(test_thousands_of_tensors),
        cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_every_header_bit_flipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
