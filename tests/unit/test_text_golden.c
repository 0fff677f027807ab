/* Text against the reference's answers: token ids both ways, prompts, next-token distributions.
 *
 *     test_text_golden TEXTS TOKENIZER MODEL
 *
 * TEXTS holds tokenizer.jsonl and conversations.json, TOKENIZER the tokenizer they were made with, and MODEL the
 * expected.json and expected.safetensors with sampling cases. Runs on the project's own data and, where it is there,
 * on ../shared/fixtures; exits 77 (skip) when TEXTS is absent. Every tokenizer is tried from tokenizer.json, from
 * vocab.json + merges.txt with the files about added tokens, and from those two alone. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/file.h"
#include "fastvlm/text.h"
#include "formats/tensor_table.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

#define MAX_FILE ((size_t)64 << 20)
#define MAX_REPORTS 5

static int failures;

static void report(const char *what, const char *detail)
{
    if (failures++ < MAX_REPORTS)
        fprintf(stderr, "%s: %.300s\n", what, detail);
}

static void stop(const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

static char *path_in(const char *folder, const char *name)
{
    char *path = fvlm_path_join(folder, name);
    if (!path)
        stop(folder, "out of memory");
    return path;
}

static char *read_file(const char *folder, const char *name, size_t *bytes)
{
    fvlm_error error;
    char *path = path_in(folder, name), *data;
    if (fvlm_file_read(path, MAX_FILE, &data, bytes, &error))
        stop("cannot start", error.message);
    free(path);
    return data;
}

static json_t *read_json(const char *folder, const char *name)
{
    size_t bytes;
    char *data = read_file(folder, name, &bytes);
    json_t *value = json_loadb(data, bytes, 0, NULL);
    if (!value)
        stop(name, "not JSON");
    free(data);
    return value;
}

/* ---- tokens ---- */

static void check_ids(const fvlm_tokenizer *tokenizer, const json_t *row, const int32_t *ids, size_t count)
{
    const json_t *text = json_object_get(row, "text");
    if (!json_is_string(text))
        return; /* a row of tokens in an order that no text gives */
    int32_t *made;
    size_t made_count;
    fvlm_error error;
    if (fvlm_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), &made, &made_count, &error))
        report("encode", error.message);
    else if (made_count != count || memcmp(made, ids, count * sizeof *ids) != 0)
        report("other ids", json_string_value(text));
    fvlm_free(made);
}

static void check_text(const fvlm_tokenizer *tokenizer, const json_t *row, const char *key, const int32_t *ids,
                       size_t count, bool skip_special)
{
    const json_t *expected = json_object_get(row, key);
    char *text;
    size_t bytes;
    fvlm_error error;
    if (fvlm_tokenizer_decode(tokenizer, ids, count, skip_special, &text, &bytes, &error)) {
        report("decode", error.message);
        return;
    }
    if (bytes != json_string_length(expected) || memcmp(text, json_string_value(expected), bytes + 1) != 0)
        report(key, text);
    fvlm_free(text);
}

/* Token by token: the same text as decoding at once, always cut between characters. */
static void check_stream(const fvlm_tokenizer *tokenizer, const json_t *row, const int32_t *ids, size_t count)
{
    const json_t *expected = json_object_get(row, "decoded_skip_special");
    const char *left = json_string_value(expected), *end = left + json_string_length(expected), *text;
    fvlm_detokenizer *detokenizer;
    size_t bytes;
    if (fvlm_detokenizer_create(tokenizer, &detokenizer, NULL))
        stop("stream", "out of memory");
    for (size_t i = 0; i <= count; i++) {
        fvlm_status status = i < count ? fvlm_detokenizer_add(detokenizer, ids[i], &text, &bytes, NULL)
                                       : fvlm_detokenizer_finish(detokenizer, &text, &bytes, NULL);
        if (status || bytes > (size_t)(end - left) || memcmp(text, left, bytes) != 0) {
            report("other stream", json_string_value(expected));
            break;
        }
        left += bytes;
        if (left < end && ((unsigned char)*left & 0xc0) == 0x80)
            report("a character was cut", json_string_value(expected));
    }
    fvlm_detokenizer_destroy(&detokenizer);
}

static void check_tokens(const char *folder, const char *rows)
{
    fvlm_tokenizer *tokenizer;
    fvlm_error error;
    if (fvlm_tokenizer_open(folder, &tokenizer, &error)) {
        report("open", error.message);
        return;
    }
    size_t lines = 0;
    for (const char *line = rows, *next; *line; line = next) {
        next = strchr(line, '\n') + 1;
        json_t *row = json_loadb(line, (size_t)(next - line), JSON_ALLOW_NUL, NULL);
        const json_t *list = json_object_get(row, "ids");
        size_t count = json_array_size(list);
        int32_t *ids = calloc(count + 1, sizeof *ids);
        if (!row || !ids)
            stop("tokenizer.jsonl", "not JSON");
        for (size_t i = 0; i < count; i++)
            ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
        check_ids(tokenizer, row, ids, count);
        check_text(tokenizer, row, "decoded", ids, count, false);
        check_text(tokenizer, row, "decoded_skip_special", ids, count, true);
        check_stream(tokenizer, row, ids, count);
        free(ids);
        json_decref(row);
        lines++;
    }
    printf("%zu texts, tokenizer from %s\n", lines, folder);
    fvlm_tokenizer_close(&tokenizer);
}

static void copy_file(const char *from, const char *to, const char *name)
{
    size_t bytes;
    char *data = read_file(from, name, &bytes), *path = path_in(to, name);
    fvlm_writer *writer;
    fvlm_error error;
    if (fvlm_writer_open(path, &writer, &error) || fvlm_writer_write(writer, data, bytes, &error) ||
        fvlm_writer_commit(&writer, &error))
        stop("copy", error.message);
    free(path);
    free(data);
}

/* The same with the tokenizer's files [count] alone. */
static void check_tokens_from(const char *folder, const char *rows, const char *const *names, size_t count)
{
    char aside[] = "text_golden_XXXXXX";
    if (!mkdtemp(aside))
        stop("mkdtemp", aside);
    for (size_t i = 0; i < count; i++)
        copy_file(folder, aside, names[i]);
    check_tokens(aside, rows);
    for (size_t i = 0; i < count; i++) {
        char *path = path_in(aside, names[i]);
        remove(path);
        free(path);
    }
    rmdir(aside);
}

/* ---- prompts ---- */

static void check_prompt(const json_t *row)
{
    const json_t *list = json_object_get(row, "turns");
    size_t count = json_array_size(list);
    fvlm_turn turns[32];
    if (count > sizeof turns / sizeof *turns)
        stop("conversations.json", "too many turns");
    for (size_t i = 0; i < count; i++) {
        const json_t *turn = json_array_get(list, i);
        bool user = strcmp(json_string_value(json_array_get(turn, 0)), "u") == 0;
        turns[i] = (fvlm_turn){user ? "user" : "assistant", json_string_value(json_array_get(turn, 1))};
    }
    const char *name = json_string_value(json_object_get(row, "template"));
    const char *system = json_string_value(json_object_get(row, "system"));
    const char *expected = json_string_value(json_object_get(row, "prompt"));
    char *prompt;
    fvlm_status status = fvlm_template_render(name, system, turns, count, &prompt, NULL);
    if (expected ? status || strcmp(prompt, expected) != 0 : status != FVLM_ERROR_ARGUMENT)
        report(name, status ? "refused" : prompt);
    fvlm_free(prompt);
}

static void check_prompts(const char *folder)
{
    json_t *rows = read_json(folder, "conversations.json");
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        check_prompt(row);
    }
    printf("%zu conversations\n", json_array_size(rows));
    json_decref(rows);
}

/* ---- distributions ---- */

static float setting(const json_t *settings, const char *key)
{
    return (float)json_number_value(json_object_get(settings, key)); /* null: 0, which is off */
}

/* case0's last logits through the settings; the penalty covers the prompt, image positions (-200) aside. */
static void check_distribution(const fvlm_tensor_table *table, const json_t *settings, size_t n, const int32_t *prompt,
                               size_t prompt_count)
{
    char name[48];
    snprintf(name, sizeof name, "sample%zu.probs", n);
    const fvlm_tensor *logits = fvlm_tensor_table_find(table, "case0.logits");
    const fvlm_tensor *expected = fvlm_tensor_table_find(table, name);
    if (!logits || !expected || logits->rank != 2 || logits->shape[1] * sizeof(float) != expected->bytes)
        stop(name, "not as expected");
    size_t vocabulary = logits->shape[1];
    const float *last = (const float *)logits->data + (logits->shape[0] - 1) * vocabulary; /* [vocabulary] */
    const float *wanted = expected->data;                                                  /* [vocabulary] */
    fvlm_sampling sampling = {.temperature = setting(settings, "temperature"),
                              .top_p = setting(settings, "top_p"),
                              .top_k = (int)setting(settings, "top_k"),
                              .min_p = setting(settings, "min_p"),
                              .repetition_penalty = setting(settings, "repetition_penalty")};
    fvlm_sampler *sampler;
    fvlm_error error;
    if (fvlm_sampler_create(&sampling, vocabulary, &sampler, &error))
        stop(name, error.message);
    const float *made = fvlm_sampler_probabilities(sampler, last, prompt, prompt_count);
    double worst = 0;
    for (size_t i = 0; i < vocabulary; i++) {
        double off = fabs((double)made[i] - wanted[i]);
        worst = off > worst || isnan(off) ? off : worst; /* fmax, which drops NaN, breaks gcc 12 for arm64 here */
    }
    printf("%s: max-abs %.3g\n", name, worst);
    if (!(worst <= 1e-5))
        report(name, "other distribution");
    fvlm_sampler_destroy(&sampler);
}

static void check_distributions(const char *folder)
{
    json_t *expected = read_json(folder, "expected.json");
    const json_t *ids = json_object_get(json_array_get(json_object_get(expected, "cases"), 0), "input_ids");
    size_t count = json_array_size(ids), n;
    int32_t *prompt = calloc(count + 1, sizeof *prompt);
    char *path = path_in(folder, "expected.safetensors");
    fvlm_tensor_table *table;
    fvlm_error error;
    if (!prompt || fvlm_tensor_table_create(&table, &error) || fvlm_safetensors_read(table, path, &error))
        stop("expected.safetensors", error.message);
    for (size_t i = 0; i < count; i++)
        prompt[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    json_t *settings;
    json_array_foreach(json_object_get(expected, "sampling"), n, settings)
    {
        check_distribution(table, settings, n, prompt, count);
    }
    fvlm_tensor_table_destroy(&table);
    free(path);
    free(prompt);
    json_decref(expected);
}

int main(int argc, char **argv)
{
    static const char *const files[] = {"vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"};
    if (argc != 4) {
        fprintf(stderr, "usage: %s TEXTS TOKENIZER MODEL\n", argv[0]);
        return 2;
    }
    if (!fvlm_folder_exists(argv[1])) {
        printf("skipped: there is no %s\n", argv[1]);
        return 77;
    }
    size_t bytes;
    char *rows = read_file(argv[1], "tokenizer.jsonl", &bytes);
    check_tokens(argv[2], rows);
    check_tokens_from(argv[2], rows, files, 4);
    check_tokens_from(argv[2], rows, files, 2);
    free(rows);
    check_prompts(argv[1]);
    check_distributions(argv[3]);
    if (failures)
        fprintf(stderr, "%d failures\n", failures);
    return failures > 0;
}
