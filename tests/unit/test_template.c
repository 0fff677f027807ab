/* Prompt templates: the user's file format, what is refused, stop texts. That the published templates give the
 * published prompts is test_text_golden's matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "text/template.h"

#define ARRAY_COUNT(array) (sizeof(array) / sizeof *(array))

static const fvlm_turn talk[] = {{"user", "Hi"}, {"assistant", "Yes?"}, {"user", "Why"}, {"assistant", NULL}};

static void check(const char *name, const char *system, size_t count, const char *expected)
{
    char *prompt;
    fvlm_error error = {0};
    if (fvlm_template_render(name, system, talk, count, &prompt, &error))
        fail_msg("%s", error.message);
    assert_string_equal(prompt, expected);
    fvlm_free(prompt);
}

static void test_default_template(void **state)
{
    (void)state;
    check(NULL, NULL, 4,
          "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
          "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nWhy<|im_end|>\n<|im_start|>assistant\n");
    check("qwen_2", "Rhyme.", 1, "<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
    check("qwen_2", "", 0, "<|im_start|>system\n<|im_end|>\n");
}

static void test_system_text_in_each_style(void **state)
{
    (void)state;
    check("llava_v0", "S", 4, "S###Human: Hi###Assistant: Yes?###Human: Why###Assistant:");
    check("llava_v1", "S", 4, "S USER: Hi ASSISTANT: Yes?</s>USER: Why ASSISTANT:");
    check("mpt", "S", 1, "<|im_start|>system\nS<|im_end|><|im_start|>user\nHi<|im_end|>");
    check("llama_2", "S", 4, "[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] Yes? </s><s>[INST] Why [/INST]");
    check("llama_2", "", 1, "[INST] Hi [/INST]");
    check("plain", "S", 2, "SHi\nYes?\n"); /* no markers to tell them apart */
}

static void test_names(void **state)
{
    (void)state;
    size_t count;
    const char *const *names = fvlm_template_names(&count);
    assert_true(count >= 15);
    for (size_t i = 0; i < count; i++)
        assert_non_null(fvlm_template_find(names[i]));
    assert_null(fvlm_template_find("no such"));
}

static void refuse_turns(const char *name, const fvlm_turn *turns, size_t count, const char *words)
{
    char *prompt;
    fvlm_error error = {0};
    assert_int_equal(fvlm_template_render(name, NULL, turns, count, &prompt, &error), FVLM_ERROR_ARGUMENT);
    assert_null(prompt);
    if (!strstr(error.message, words))
        fail_msg("\"%s\" says nothing of \"%s\"", error.message, words);
}

static void test_bad_conversations_are_refused(void **state)
{
    (void)state;
    static const fvlm_turn stranger[] = {{"user", "Hi"}, {"system", "x"}}, nobody[] = {{NULL, "x"}};
    static const fvlm_turn answer[] = {{"assistant", "x"}}, empty[] = {{"user", ""}};
    refuse_turns("qwen_2", stranger, 2, "turn 2");
    refuse_turns("qwen_2", nobody, 1, "turn 1");
    refuse_turns("llama_2", answer, 1, "first turn");
    refuse_turns("llama_2", empty, 1, "first turn");
    refuse_turns("no such", talk, 1, "qwen_2");
}

/* ---- a user's file ---- */

static fvlm_status parse(const char *json, fvlm_template_file **file, fvlm_error *error)
{
    return fvlm_template_file_parse(json, strlen(json), "mine.json", file, error);
}

static void check_file(const char *json, const char *system, size_t count, const char *expected)
{
    fvlm_template_file *file;
    fvlm_error error = {0};
    char *prompt;
    if (parse(json, &file, &error) ||
        fvlm_template_fill(fvlm_template_file_template(file), system, talk, count, &prompt, &error))
        fail_msg("%s", error.message);
    assert_string_equal(prompt, expected);
    fvlm_free(prompt);
    fvlm_template_file_close(&file);
    assert_null(file);
}

static void test_file_with_everything(void **state)
{
    (void)state;
    static const char json[] =
        "{\"description\": \"all keys\", \"system_prefix\": \"<S>\", \"system\": \"sys\", \"system_suffix\": \"</S>\","
        "\"user_prefix\": \"<U>\", \"user_suffix\": \"</U>\", \"assistant_prefix\": \"<A>\","
        "\"assistant_suffix\": \"</A>\", \"assistant_open\": \"<A>think:\", \"first_prefix\": \"<U1>\","
        "\"turns\": [[\"user\", \"2+2\"], [\"assistant\", \"4\"]], \"stop\": [\"</A>\", \"\\u00e9\"]}";
    check_file(json, NULL, 4, "<S>sys</S><U1>2+2</U><A>4</A><U>Hi</U><A>Yes?</A><U>Why</U><A>think:");
    check_file(json, "", 1, "<U1>2+2</U><A>4</A><U>Hi</U>"); /* nothing around nothing */
    check_file(json, "other", 0, "<S>other</S><U1>2+2</U><A>4</A>");
}

static void test_file_system_options(void **state)
{
    (void)state;
    check_file("{\"user_prefix\": \"U:\", \"system_prefix\": \"S:\", \"keep_empty_system\": true}", NULL, 1, "S:U:Hi");
    check_file("{\"user_prefix\": \"U:\", \"system_suffix\": \"|\", \"system_in_first_turn\": true}", "s", 2,
               "U:s|HiYes?");
    check_file("{\"user_suffix\": \"\\n\"}", NULL, 4, "Hi\nYes?Why\n"); /* what is not there is empty */
}

static void test_bad_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"", "mine.json"},
        {"[]", "JSON object"},
        {"{}", "user_prefix"},
        {"{\"user_prefix\": \"a\", \"user_prefix\": \"b\"}", "duplicate"},
        {"{\"user_prefix\": 7}", "\"user_prefix\" must be a text"},
        {"{\"user_prefx\": \"a\"}", "user_prefx"},
        {"{\"user_prefix\": \"a\", \"stop\": \"b\"}", "\"stop\""},
        {"{\"user_prefix\": \"a\", \"stop\": [\"\"]}", "\"stop\""},
        {"{\"user_prefix\": \"a\", \"keep_empty_system\": \"yes\"}", "true or false"},
        {"{\"user_prefix\": \"a\", \"turns\": [[\"system\", \"x\"]]}", "\"turns\""},
        {"{\"user_prefix\": \"a\", \"turns\": [[\"user\"]]}", "\"turns\""},
        {"{\"user_prefix\": \"a\", \"turns\": 1}", "\"turns\""},
        {"{\"user_prefix\": \"a\", \"description\": 1}", "\"description\""},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        fvlm_template_file *file;
        fvlm_error error = {0};
        assert_int_equal(parse(cases[i].json, &file, &error), FVLM_ERROR_FORMAT);
        assert_null(file);
        if (!strstr(error.message, "mine.json") || !strstr(error.message, cases[i].words))
            fail_msg("\"%s\" says nothing of \"%s\"", error.message, cases[i].words);
    }
}

static void test_template_from_a_path(void **state)
{
    (void)state;
    static const char path[] = "test_template.json.tmp";
    static const char json[] = "{\"user_prefix\": \"[\", \"user_suffix\": \"]\", \"stop\": [\"one\", \"two\"]}";
    fvlm_writer *writer;
    assert_int_equal(fvlm_writer_open(path, &writer, NULL), FVLM_OK);
    assert_int_equal(fvlm_writer_write(writer, json, sizeof json - 1, NULL), FVLM_OK);
    assert_int_equal(fvlm_writer_commit(&writer, NULL), FVLM_OK);
    check(path, NULL, 1, "[Hi]");

    char **stops;
    size_t count;
    assert_int_equal(fvlm_template_stops(path, &stops, &count, NULL), FVLM_OK);
    assert_int_equal(count, 2);
    assert_string_equal(stops[0], "one");
    assert_string_equal(stops[1], "two");
    fvlm_free(stops);
    remove(path);

    assert_int_equal(fvlm_template_stops(NULL, &stops, &count, NULL), FVLM_OK);
    assert_int_equal(count, 0);
    fvlm_free(stops);
    assert_int_equal(fvlm_template_stops(path, &stops, &count, NULL), FVLM_ERROR_ARGUMENT);
    assert_null(stops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_template),
        cmocka_unit_test(test_system_text_in_each_style),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_bad_conversations_are_refused),
        cmocka_unit_test(test_file_with_everything),
        cmocka_unit_test(test_file_system_options),
        cmocka_unit_test(test_bad_files_are_refused),
        cmocka_unit_test(test_template_from_a_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
