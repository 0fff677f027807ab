/* Folders of base/system.h: made, looked into and removed without following links. */
#define _DEFAULT_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/system.h"

static char root[64];
static fvlm_error error;

/* The path of `name` in the test's folder, valid until four more calls. */
static const char *in_root(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static void write_file(const char *name, const char *text)
{
    FILE *file = fopen(in_root(name), "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/fvlm-system-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return fvlm_folder_remove(root, NULL) == FVLM_OK && !fvlm_folder_exists(root) ? 0 : -1;
}

static void test_create(void **state)
{
    (void)state;
    assert_int_equal(fvlm_folder_create(in_root("a/b/c"), &error), FVLM_OK);
    assert_int_equal(fvlm_folder_create(in_root("a/b/c"), &error), FVLM_OK);
    assert_int_equal(fvlm_folder_create(in_root("a/b/d/"), &error), FVLM_OK);
    assert_true(fvlm_folder_exists(in_root("a/b/c")));
    assert_true(fvlm_folder_exists(in_root("a/b/d")));
    write_file("a/file", "x");
    assert_int_equal(fvlm_folder_create(in_root("a/file"), &error), FVLM_ERROR_IO);
    assert_int_equal(fvlm_folder_create(in_root("a/file/below"), &error), FVLM_ERROR_IO);
    assert_non_null(strstr(error.message, "a/file"));
}

static void test_remove_keeps_what_links_lead_to(void **state)
{
    (void)state;
    assert_int_equal(fvlm_folder_create(in_root("kept"), &error), FVLM_OK);
    write_file("kept/file", "x");
    assert_int_equal(fvlm_folder_create(in_root("gone/below"), &error), FVLM_OK);
    write_file("gone/below/file", "x");
    assert_int_equal(symlink(in_root("kept"), in_root("gone/link")), 0);
    assert_int_equal(fvlm_folder_remove(in_root("gone"), &error), FVLM_OK);
    assert_false(fvlm_folder_exists(in_root("gone")));
    assert_true(fvlm_file_exists(in_root("kept/file")));
    assert_int_equal(fvlm_folder_remove(in_root("gone"), &error), FVLM_OK);
    assert_int_equal(symlink(in_root("kept"), in_root("link")), 0);
    assert_int_equal(fvlm_folder_remove(in_root("link"), &error), FVLM_OK);
    assert_false(fvlm_folder_exists(in_root("link")));
    assert_true(fvlm_file_exists(in_root("kept/file")));
}

static void test_within(void **state)
{
    (void)state;
    assert_int_equal(fvlm_folder_create(in_root("a/b"), &error), FVLM_OK);
    assert_int_equal(fvlm_folder_create(in_root("ab"), &error), FVLM_OK);
    assert_int_equal(symlink(in_root("a/b"), in_root("link")), 0);
    assert_true(fvlm_path_within(in_root("a/b"), in_root("a")));
    assert_true(fvlm_path_within(in_root("a"), in_root("a/b/..")));
    assert_true(fvlm_path_within(in_root("link"), in_root("a")));
    assert_true(fvlm_path_within(in_root("a"), "/"));
    assert_false(fvlm_path_within(in_root("a"), in_root("a/b")));
    assert_false(fvlm_path_within(in_root("ab"), in_root("a")));
    assert_false(fvlm_path_within(in_root("none"), in_root("a")));
}

static void test_only_child(void **state)
{
    (void)state;
    char *child;
    assert_int_equal(fvlm_folder_create(in_root("parent/child"), &error), FVLM_OK);
    assert_int_equal(fvlm_folder_only_child(in_root("parent"), &child, &error), FVLM_OK);
    assert_string_equal(child, in_root("parent/child"));
    free(child);
    assert_int_equal(fvlm_folder_only_child(in_root("parent/child"), &child, &error), FVLM_OK);
    assert_null(child);
    write_file("parent/file", "x");
    assert_int_equal(fvlm_folder_only_child(in_root("parent"), &child, &error), FVLM_OK);
    assert_null(child);
    assert_int_equal(fvlm_folder_only_child(in_root("none"), &child, &error), FVLM_ERROR_IO);
    assert_null(child);
}

static void test_rename_and_size(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    write_file("one", "12345");
    write_file("two", "x");
    assert_int_equal(fvlm_path_rename(in_root("one"), in_root("two"), &error), FVLM_OK);
    assert_true(fvlm_file_size(in_root("two"), &bytes));
    assert_int_equal(bytes, 5);
    assert_false(fvlm_file_size(in_root("one"), &bytes));
    assert_false(fvlm_file_size(root, &bytes));
    assert_int_equal(fvlm_path_rename(in_root("one"), in_root("two"), &error), FVLM_ERROR_IO);
    assert_non_null(strstr(error.message, "one"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_remove_keeps_what_links_lead_to, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_within, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_only_child, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_rename_and_size, make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
