/* The reader of PyTorch checkpoints: files that torch wrote (tools/make_torch_samples.py), pickles written by hand that
 * break each rule, damage at every byte and bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <zip.h>

#include "base/file.h"
#include "base/text_buffer.h"
#include "formats/tensor_table.h"

static fvlm_error error;

static fvlm_status parse(const void *data, size_t size, fvlm_tensor_table **table)
{
    assert_int_equal(fvlm_tensor_table_create(table, NULL), FVLM_OK);
    memset(&error, 0, sizeof error);
    return fvlm_pickle_parse(*table, data, size, "m.bin", &error);
}

static void read_sample(const char *name, char **data, size_t *size)
{
    char *path = fvlm_path_join(TEST_DATA, name);
    assert_int_equal(fvlm_file_read(path, 1 << 20, data, size, &error), FVLM_OK);
    free(path);
}

/* The tensor has this type and shape ("2x3") and these bytes. */
static void check_tensor(const fvlm_tensor_table *table, const char *name, fvlm_dtype type, const char *shape,
                         const void *data, size_t bytes)
{
    const fvlm_tensor *tensor = fvlm_tensor_table_find(table, name);
    assert_non_null(tensor);
    assert_int_equal(tensor->type, type);
    fvlm_text_buffer found = {0};
    fvlm_text_append_string(&found, "");
    for (int i = 0; i < tensor->rank; i++)
        fvlm_text_format(&found, i ? "x%zu" : "%zu", tensor->shape[i]);
    assert_string_equal(found.data, shape);
    fvlm_text_clear(&found);
    assert_int_equal(tensor->bytes, bytes);
    if (bytes)
        assert_memory_equal(tensor->data, data, bytes);
}

static void check_sample(const fvlm_tensor_table *table)
{
    static const float weight[] = {0, .25f, .5f, .75f, 1, 1.25f}, transposed[] = {0, 3, 1, 4, 2, 5}, ones[] = {1, 1};
    static const uint16_t half[] = {0x3800, 0xbc00, 0x7bff}, brain[] = {0x3f80, 0xc000, 0x3e80, 0x4040};
    static const uint16_t words[] = {1, 65535};
    static const int64_t count = -7;
    assert_int_equal(fvlm_tensor_table_count(table), 9);
    check_tensor(table, "a.weight", FVLM_F32, "2x3", weight, sizeof weight);
    check_tensor(table, "a.row", FVLM_F32, "3", weight + 3, sizeof weight / 2);
    check_tensor(table, "b.half", FVLM_F16, "3", half, sizeof half);
    check_tensor(table, "c.brain", FVLM_BF16, "2x2", brain, sizeof brain);
    check_tensor(table, "d.transposed", FVLM_F32, "3x2", transposed, sizeof transposed);
    check_tensor(table, "e.count", FVLM_I64, "", &count, sizeof count);
    check_tensor(table, "f.parameter", FVLM_F32, "2", ones, sizeof ones);
    check_tensor(table, "g.words", FVLM_U16, "2", words, sizeof words);
    check_tensor(table, "h.empty", FVLM_F32, "0x4", NULL, 0);
}

static void test_files_of_torch(void **state)
{
    (void)state;
    static const char *const names[] = {"torch_plain.bin", "torch_nested.bin"};
    for (int i = 0; i < 2; i++) {
        char *data;
        size_t size;
        read_sample(names[i], &data, &size);
        fvlm_tensor_table *table;
        assert_int_equal(parse(data, size, &table), FVLM_OK);
        check_sample(table);
        for (size_t k = 0; k < fvlm_tensor_table_count(table); k++) {
            const fvlm_tensor *tensor = fvlm_tensor_table_at(table, k);
            const char *place = tensor->data;
            bool in_file = place >= data && place < data + size;
            assert_int_equal(in_file, strcmp(tensor->name, "d.transposed") != 0);
        }
        fvlm_tensor_table_destroy(&table);
        free(data);
    }
}

static void test_checkpoint_folder(void **state)
{
    (void)state;
    char *path = fvlm_path_join(TEST_DATA, "torch_plain.bin");
    fvlm_tensor_table *table;
    assert_int_equal(fvlm_tensor_table_create(&table, NULL), FVLM_OK);
    assert_int_equal(fvlm_pickle_read(table, path, &error), FVLM_OK);
    check_sample(table);
    assert_int_equal(fvlm_pickle_read(table, path, &error), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "'a.weight' occurs twice"));
    fvlm_tensor_table_destroy(&table);
    free(path);
}

static void test_legacy_format(void **state)
{
    (void)state;
    char *data;
    size_t size;
    read_sample("torch_legacy.bin", &data, &size);
    fvlm_tensor_table *table;
    assert_int_equal(parse(data, size, &table), FVLM_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "before 1.6"));
    fvlm_tensor_table_destroy(&table);
    free(data);
    assert_int_equal(parse("GGUF....", 8, &table), FVLM_ERROR_FORMAT);
    fvlm_tensor_table_destroy(&table);
}

struct entry {
    const char *name;
    const void *data;
    size_t size;
};

/* A zip of entries [count] in memory, free with free(). */
static char *make_zip(const struct entry *entries, int count, bool deflate, size_t *size)
{
    zip_error_t problem;
    zip_error_init(&problem);
    zip_source_t *target = zip_source_buffer_create(NULL, 0, 0, &problem);
    assert_non_null(target);
    zip_source_keep(target);
    zip_t *zip = zip_open_from_source(target, ZIP_TRUNCATE, &problem);
    assert_non_null(zip);
    for (int i = 0; i < count; i++) {
        zip_source_t *source = zip_source_buffer(zip, entries[i].data, entries[i].size, 0);
        zip_int64_t index = zip_file_add(zip, entries[i].name, source, 0);
        assert_true(index >= 0);
        zip_set_file_compression(zip, (zip_uint64_t)index, deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
    }
    assert_int_equal(zip_close(zip), 0);
    zip_stat_t stat;
    assert_int_equal(zip_source_stat(target, &stat), 0);
    *size = (size_t)stat.size;
    char *data = malloc(*size);
    assert_int_equal(zip_source_open(target), 0);
    assert_int_equal(zip_source_read(target, data, *size), *size);
    zip_source_close(target);
    zip_source_free(target);
    return data;
}

static const float storage[6] = {1, 2, 3, 4, 5, 6};

static fvlm_status parse_pickle(const void *code, size_t size, bool deflate)
{
    struct entry entries[] = {{"x/data.pkl", code, size}, {"x/data/0", storage, sizeof storage}};
    size_t zip_size;
    char *zip = make_zip(entries, 2, deflate, &zip_size);
    fvlm_tensor_table *table;
    fvlm_status status = parse(zip, zip_size, &table);
    assert_int_equal(error.code, status);
    fvlm_tensor_table_destroy(&table);
    free(zip);
    return status;
}

/* Pieces of pickles. TENSOR's argument is what stands between the storage and the end of _rebuild_tensor_v2's
 * arguments: offset, shape, strides. */
#define TEXT1(text) "X\x01\0\0\0" text
#define STORAGE_ID(type, key, elements)                                                                                \
    "(X\x07\0\0\0storage"                                                                                              \
    "ctorch\n" type "\n" TEXT1(key) "X\x03\0\0\0"                                                                      \
                                    "cpu" elements "tQ"
#define TENSOR(id, rest) "ctorch._utils\n_rebuild_tensor_v2\n(" id rest "\x89}tR"
#define SIX STORAGE_ID("FloatStorage", "0", "K\x06")
#define MODEL(value) "\x80\x02}" TEXT1("w") value "s."

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        const char *code;
        size_t size;
        fvlm_status status;
        const char *words;
    } cases[] = {
#define CASE(code, status, words) {code, sizeof code - 1, status, words}
        CASE(MODEL(TENSOR(SIX, "K\0K\x02K\x03\x86K\x03K\x01\x86")), FVLM_OK, ""),
        CASE(MODEL(TENSOR(SIX, "K\x01K\x02K\x02\x86K\x01K\x02\x86")), FVLM_OK, ""),
        CASE(MODEL(TENSOR(SIX, "K\x05))")), FVLM_OK, ""),
        CASE(MODEL(TENSOR(SIX, "K\x06))")), FVLM_ERROR_FORMAT, "'w': it reaches behind the end"),
        CASE(MODEL(TENSOR(SIX, "K\x01K\x02K\x03\x86K\x03K\x01\x86")), FVLM_ERROR_FORMAT, "reaches behind"),
        CASE(MODEL(TENSOR(SIX, "J\xff\xff\xff\xffK\x01\x85K\x01\x85")), FVLM_ERROR_FORMAT, "make no sense"),
        CASE(MODEL(TENSOR(SIX, "K\0K\x02K\x03\x86K\x01\x85")), FVLM_ERROR_FORMAT, "make no sense"),
        CASE(MODEL(TENSOR(SIX, "K\0\x8a\x08\0\0\0\0\0\0\0\x40K\x02\x86K\x01K\x01\x86")), FVLM_ERROR_FORMAT,
             "overflows"),
        CASE(MODEL(TENSOR(SIX, "K\0K\x02K\x02\x86\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x02\x86")),
             FVLM_ERROR_FORMAT, "reaches behind"),
        CASE(MODEL(TENSOR(SIX, "K\0J\0\0\0\x40\x85K\0\x85")), FVLM_ERROR_LIMIT, "more than twice the file"),
        CASE(MODEL(TENSOR(STORAGE_ID("FloatStorage", "0", "K\x07"), "K\0))")), FVLM_ERROR_FORMAT, "shorter than"),
        CASE(MODEL(TENSOR(STORAGE_ID("DoubleStorage", "0", "K\x03"), "K\x02))")), FVLM_OK, ""),
        CASE(MODEL(TENSOR(STORAGE_ID("FloatStorage", "1", "K\x01"), "K\0))")), FVLM_ERROR_FORMAT, "'x/data/1' is mi"),
        CASE(MODEL(TENSOR(STORAGE_ID("ComplexFloatStorage", "0", "K\x01"), "K\0))")), FVLM_ERROR_UNSUPPORTED,
             "'torch.ComplexFloatStorage'"),
        CASE("\x80\x02" TEXT1("w") ".", FVLM_ERROR_UNSUPPORTED, "dictionary of tensors"),
        CASE("\x80\x02}.", FVLM_ERROR_UNSUPPORTED, "dictionary of tensors"),
        CASE("\x80\x02.", FVLM_ERROR_FORMAT, "a value is missing"),
        CASE("\x80\x02(.", FVLM_ERROR_FORMAT, "a value is missing"),
        CASE("\x80\x02}", FVLM_ERROR_FORMAT, "cut short"),
        CASE("\x80\x02t.", FVLM_ERROR_FORMAT, "a mark is missing"),
        CASE("\x80\x02}u.", FVLM_ERROR_FORMAT, "a mark is missing"),
        CASE("\x80\x02}(Nu.", FVLM_ERROR_FORMAT, "items are set"),
        CASE("\x80\x02NNNs.", FVLM_ERROR_FORMAT, "items are set"),
        CASE("\x80\x02h\x05.", FVLM_ERROR_FORMAT, "never made"),
        CASE("\x80\x02q\x05.", FVLM_ERROR_FORMAT, "a value is missing"),
        CASE("\x80\x02Nr\xff\xff\xff\xff.", FVLM_ERROR_LIMIT, "remembers too many"),
        CASE("\x80\x02X\xff\xff\xff\xff.", FVLM_ERROR_FORMAT, "cut short"),
        CASE("\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\0.", FVLM_ERROR_FORMAT, "64 bits"),
        CASE("\x80\x07.", FVLM_ERROR_UNSUPPORTED, "protocol"),
        CASE("\x80\x02NQ.", FVLM_ERROR_FORMAT, "persistent id"),
        CASE("\x80\x02N)R.", FVLM_ERROR_UNSUPPORTED, "not a function"),
        CASE("\x80\x02N}b.", FVLM_ERROR_UNSUPPORTED, "sets the state"),
        CASE("\x80\x02"
             "cposix\nsystem\n(" TEXT1("a") "tR.",
             FVLM_ERROR_UNSUPPORTED, "'posix.system'"),
        CASE("\x80\x04\x8c\x05posix\x8c\x06system\x93.", FVLM_ERROR_UNSUPPORTED, "'posix.system'"),
        CASE("\x80\x02"
             "cbuiltins\neval\n.",
             FVLM_ERROR_UNSUPPORTED, "'builtins.eval'"),
        CASE("\x80\x02"
             "ctorch\nload\n.",
             FVLM_ERROR_UNSUPPORTED, "'torch.load'"),
        CASE("\x80\x02"
             "ctorch.x FloatStorage\n\n.",
             FVLM_ERROR_UNSUPPORTED, "not"),
        CASE("\x80\x02"
             "(iposix\nsystem\n.",
             FVLM_ERROR_UNSUPPORTED, "opcode 0x69"),
        CASE("\x80\x02N)\x81.", FVLM_ERROR_UNSUPPORTED, "opcode 0x81"),
#undef CASE
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int deflate = 0; deflate < 2; deflate++) {
            fvlm_status status = parse_pickle(cases[i].code, cases[i].size, deflate);
            if (status != cases[i].status || !strstr(error.message, cases[i].words))
                fail_msg("case %zu: status %d, '%s'", i, status, error.message);
        }
}

/* 37 opcodes are known, every other one is refused. */
static void test_every_opcode(void **state)
{
    (void)state;
    int refused = 0;
    for (int opcode = 0; opcode < 256; opcode++) {
        char code[] = {(char)0x80, 2, '}', '}', (char)opcode, '.', '.', '.', '.', '.', '.', '.', '.', '.'};
        assert_int_not_equal(parse_pickle(code, sizeof code, false), FVLM_OK);
        refused += strstr(error.message, "is not one that weights need") != NULL;
    }
    assert_int_equal(refused, 256 - 37);
}

static void test_bombs(void **state)
{
    (void)state;
    static const char *const bodies[] = {"(", "N", "}", ")", "]", "(t", "Nq\x01h\x01h\x01h\x01t"};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        fvlm_text_buffer code = {0};
        fvlm_text_append(&code, "\x80\x02", 2);
        while (code.length < 4 << 20)
            fvlm_text_append_string(&code, bodies[i]);
        clock_t start = clock();
        fvlm_status status = parse_pickle(code.data, code.length, true);
        assert_true(status == FVLM_ERROR_LIMIT || status == FVLM_ERROR_FORMAT);
        assert_true(clock() - start < 5 * CLOCKS_PER_SEC);
        fvlm_text_clear(&code);
    }
}

static void test_zip_bomb(void **state)
{
    (void)state;
    size_t zeros = (size_t)32 << 20, size;
    char *data = calloc(1, zeros);
    struct entry entries[] = {{"x/data.pkl", data, zeros}};
    char *zip = make_zip(entries, 1, true, &size);
    assert_true(size < zeros / 100);
    fvlm_tensor_table *table;
    assert_int_equal(parse(zip, size, &table), FVLM_ERROR_LIMIT);
    fvlm_tensor_table_destroy(&table);
    free(zip);
    free(data);
}

static void test_odd_archives(void **state)
{
    (void)state;
    static const char code[] = MODEL(TENSOR(SIX, "K\0K\x06\x85K\x01\x85"));
    struct entry entries[] = {
        {"archive/x/data.pkl", code, sizeof code - 1},
        {"archive/x/data/0", storage, sizeof storage},
        {"archive/x/byteorder", "little", 6},
    };
    size_t size;
    fvlm_tensor_table *table;
    char *zip = make_zip(entries, 3, true, &size);
    assert_int_equal(parse(zip, size, &table), FVLM_OK);
    check_tensor(table, "w", FVLM_F32, "6", storage, sizeof storage);
    fvlm_tensor_table_destroy(&table);
    free(zip);

    entries[2] = (struct entry){"archive/x/byteorder", "big", 3};
    zip = make_zip(entries, 3, false, &size);
    assert_int_equal(parse(zip, size, &table), FVLM_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "big-endian"));
    fvlm_tensor_table_destroy(&table);
    free(zip);

    zip = make_zip(entries + 1, 1, false, &size);
    assert_int_equal(parse(zip, size, &table), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "without data.pkl"));
    fvlm_tensor_table_destroy(&table);
    free(zip);
}

static void test_truncation_at_every_byte(void **state)
{
    (void)state;
    char *data;
    size_t size;
    read_sample("torch_plain.bin", &data, &size);
    for (size_t cut = 0; cut < size; cut++) {
        char *part = malloc(cut ? cut : 1); /* of its own, so that ASan sees a read behind the end */
        memcpy(part, data, cut);
        fvlm_tensor_table *table;
        assert_int_equal(parse(part, cut, &table), FVLM_ERROR_FORMAT);
        assert_int_equal(error.code, FVLM_ERROR_FORMAT);
        fvlm_tensor_table_destroy(&table);
        free(part);
    }
    free(data);
}

static void test_every_bit_flipped(void **state)
{
    (void)state;
    char *data;
    size_t size, refused = 0;
    unsigned sum = 0;
    read_sample("torch_plain.bin", &data, &size);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        data[bit / 8] ^= (char)(1 << bit % 8);
        fvlm_tensor_table *table;
        fvlm_status status = parse(data, size, &table);
        assert_int_equal(error.code, status);
        refused += status != FVLM_OK;
        for (size_t i = 0; !status && i < fvlm_tensor_table_count(table); i++) {
            const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
            for (size_t k = 0; k < tensor->bytes; k++)
                sum += ((const uint8_t *)tensor->data)[k];
        }
        fvlm_tensor_table_destroy(&table);
        data[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(sum > 0 && refused > size);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_of_torch),
        cmocka_unit_test(test_checkpoint_folder),
        cmocka_unit_test(test_legacy_format),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_every_opcode),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_zip_bomb),
        cmocka_unit_test(test_odd_archives),
        cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_every_bit_flipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
