/* The table of named tensors and the choice of a checkpoint folder's files. */
#define _POSIX_C_SOURCE 200809L
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "formats/tensor_table.h"

static fvlm_error error;

static fvlm_tensor_table *create(void)
{
    fvlm_tensor_table *table;
    assert_int_equal(fvlm_tensor_table_create(&table, &error), FVLM_OK);
    return table;
}

static fvlm_status add(fvlm_tensor_table *table, const char *name, const void *data)
{
    fvlm_tensor tensor = {.name = name, .type = FVLM_F32, .rank = 1, .shape = {2}, .data = data};
    assert_true(fvlm_tensor_measure(&tensor));
    return fvlm_tensor_table_add(table, &tensor, "somewhere.bin", &error);
}

static void test_add_and_find(void **state)
{
    (void)state;
    fvlm_tensor_table *table = create();
    static float values[3000][2];
    char name[32];
    assert_null(fvlm_tensor_table_find(table, "t0"));
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "t%d", i);
        assert_int_equal(add(table, name, values[i]), FVLM_OK);
    }
    assert_int_equal(fvlm_tensor_table_count(table), 3000);
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "t%d", i);
        const fvlm_tensor *found = fvlm_tensor_table_find(table, name);
        assert_ptr_equal(found, fvlm_tensor_table_at(table, (size_t)i));
        assert_ptr_equal(found->data, values[i]);
        assert_int_equal(found->bytes, 8);
    }
    assert_null(fvlm_tensor_table_find(table, "t3000"));
    assert_int_equal(add(table, "t7", values), FVLM_ERROR_FORMAT);
    assert_string_equal(error.message, "somewhere.bin: tensor 't7' occurs twice");

    char *memory = fvlm_tensor_table_alloc(table, 100);
    assert_int_equal(memory[99], 0);
    fvlm_tensor_table_destroy(&table);
    assert_null(table);
    fvlm_tensor_table_destroy(&table);
}

static void test_measure_overflow(void **state)
{
    (void)state;
    fvlm_tensor tensor = {.type = FVLM_F32, .rank = 3, .shape = {SIZE_MAX / 8, 2, 2}};
    assert_false(fvlm_tensor_measure(&tensor));
    tensor.shape[0] = 3;
    assert_true(fvlm_tensor_measure(&tensor));
    assert_int_equal(tensor.bytes, 48);
    tensor.rank = 0;
    assert_true(fvlm_tensor_measure(&tensor));
    assert_int_equal(tensor.bytes, 4);
}

static bool strip_prefix(const char *from, char *to, size_t to_size)
{
    if (strncmp(from, "old.", 4) != 0)
        return false;
    snprintf(to, to_size, "new.%s", from + 4);
    return true;
}

static void test_rename(void **state)
{
    (void)state;
    fvlm_tensor_table *table = create();
    float a[2], b[2];
    assert_int_equal(fvlm_tensor_table_rename(table, strip_prefix, &error), FVLM_OK);
    assert_int_equal(add(table, "old.a", a), FVLM_OK);
    assert_int_equal(add(table, "b", b), FVLM_OK);
    assert_int_equal(fvlm_tensor_table_rename(table, strip_prefix, &error), FVLM_OK);
    assert_ptr_equal(fvlm_tensor_table_find(table, "new.a")->data, a);
    assert_ptr_equal(fvlm_tensor_table_find(table, "b")->data, b);
    assert_null(fvlm_tensor_table_find(table, "old.a"));
    assert_int_equal(add(table, "old.a", b), FVLM_OK);
    assert_int_equal(fvlm_tensor_table_rename(table, strip_prefix, &error), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "'new.a'"));
    fvlm_tensor_table_destroy(&table);
}

/* A folder of its own for each test, removed with what the tests put into it. */
static int make_folder(void **state)
{
    static char folder[32];
    strcpy(folder, "test_tables_XXXXXX");
    *state = mkdtemp(folder);
    return *state ? 0 : -1;
}

static const char *const written[] = {"model.safetensors", "model.safetensors.index.json", "a.safetensors",
                                      "b.safetensors"};

static int remove_folder(void **state)
{
    for (size_t i = 0; i < sizeof written / sizeof written[0]; i++) {
        char *path = fvlm_path_join(*state, written[i]);
        remove(path);
        free(path);
    }
    return rmdir(*state);
}

static void write_text(const char *folder, const char *name, const char *text)
{
    char *path = fvlm_path_join(folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
    free(path);
}

static void write_tensor(const char *folder, const char *name, const char *tensor_name, float value)
{
    char *path = fvlm_path_join(folder, name);
    fvlm_tensor tensor = {.name = tensor_name, .type = FVLM_F32, .rank = 1, .shape = {1}, .bytes = 4, .data = &value};
    assert_int_equal(fvlm_safetensors_write(path, &tensor, 1, &error), FVLM_OK);
    free(path);
}

static void check_value(const fvlm_tensor_table *table, const char *name, float expected)
{
    const fvlm_tensor *tensor = fvlm_tensor_table_find(table, name);
    assert_non_null(tensor);
    float value;
    memcpy(&value, tensor->data, sizeof value);
    assert_true(value == expected);
}

static void expect_failed_read(const char *folder, fvlm_status expected, const char *words)
{
    const char *layout;
    fvlm_tensor_table *table = create();
    assert_int_equal(fvlm_checkpoint_read(table, folder, &layout, &error), expected);
    if (!strstr(error.message, words))
        fail_msg("'%s' does not say '%s'", error.message, words);
    fvlm_tensor_table_destroy(&table);
}

static void test_checkpoint_shards(void **state)
{
    const char *folder = *state, *layout;
    expect_failed_read(folder, FVLM_ERROR_IO, "has no weights");
    expect_failed_read("no such folder", FVLM_ERROR_IO, "no such folder");

    write_tensor(folder, "a.safetensors", "x", 1.5f);
    write_text(folder, "model.safetensors.index.json",
               "{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\"}}");
    expect_failed_read(folder, FVLM_ERROR_IO, "b.safetensors is missing");

    write_tensor(folder, "b.safetensors", "y", 2.5f);
    fvlm_tensor_table *table = create();
    assert_int_equal(fvlm_checkpoint_read(table, folder, &layout, &error), FVLM_OK);
    assert_string_equal(layout, "safetensors");
    check_value(table, "x", 1.5f);
    check_value(table, "y", 2.5f);
    fvlm_tensor_table_destroy(&table);

    write_tensor(folder, "b.safetensors", "z", 2.5f);
    expect_failed_read(folder, FVLM_ERROR_FORMAT, "tensor 'y' is not in b.safetensors");
    write_tensor(folder, "b.safetensors", "x", 2.5f);
    expect_failed_read(folder, FVLM_ERROR_FORMAT, "tensor 'x' occurs twice");

    write_tensor(folder, "model.safetensors", "single", 3.5f);
    table = create();
    assert_int_equal(fvlm_checkpoint_read(table, folder, &layout, &error), FVLM_OK);
    check_value(table, "single", 3.5f);
    fvlm_tensor_table_destroy(&table);
}

static void test_hostile_index(void **state)
{
    static const struct {
        const char *index, *words;
    } cases[] = {
        {"{\"weight_map\": {\"x\": \"../a.safetensors\"}}", "'../a.safetensors' is not the name of a file"},
        {"{\"weight_map\": {\"x\": \"/etc/passwd\"}}", "'/etc/passwd' is not the name of a file"},
        {"{\"weight_map\": {\"x\": \"\"}}", "'' is not the name of a file"},
        {"{\"weight_map\": {\"x\": 7}}", "the file of 'x' is not a string"},
        {"{\"weight_map\": {}}", "weight_map is missing or empty"},
        {"{\"weight_map\": [\"x\"]}", "weight_map is missing or empty"},
        {"{}", "weight_map is missing or empty"},
        {"[]", "not a JSON object"},
        {"", "not valid JSON"},
        {"{\"weight_map\": {\"x\": \"a\", \"x\": \"a\"}}", "duplicate object key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(*state, "model.safetensors.index.json", cases[i].index);
        expect_failed_read(*state, FVLM_ERROR_FORMAT, cases[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_and_find),
        cmocka_unit_test(test_measure_overflow),
        cmocka_unit_test(test_rename),
        cmocka_unit_test_setup_teardown(test_checkpoint_shards, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_hostile_index, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
