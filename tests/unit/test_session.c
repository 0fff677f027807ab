/* Sessions over the repository's golden checkpoint: prefix reuse, streaming, stopping, limits, threads. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fastvlm/fastvlm.h"

#define MODEL TEST_GOLDEN "/llava"
#define TOKENS 12

static fvlm_engine *open_with(fvlm_engine_options options)
{
    fvlm_error error = {0};
    fvlm_engine *engine;
    options.model = MODEL;
    if (fvlm_engine_open(&options, &engine, &error))
        fail_msg("%s", error.message);
    return engine;
}

static fvlm_engine *open_engine(int threads, int context)
{
    return open_with((fvlm_engine_options){.threads = threads, .context = context});
}

static fvlm_image *open_image(const char *name)
{
    char path[512];
    fvlm_error error = {0};
    fvlm_image *image;
    snprintf(path, sizeof path, "%s/images/%s", TEST_GOLDEN, name);
    if (fvlm_image_open(path, &image, &error))
        fail_msg("%s", error.message);
    return image;
}

static char *render(const fvlm_turn *turns, size_t count)
{
    char *prompt;
    assert_int_equal(fvlm_template_render(NULL, NULL, turns, count, &prompt, NULL), FVLM_OK);
    return prompt;
}

static char *question(const char *text)
{
    fvlm_turn turns[] = {{"user", text}, {"assistant", NULL}};
    return render(turns, 2);
}

/* What generation gives when it must not stop early. */
static fvlm_answer generate(fvlm_session *session, fvlm_sampling sampling, fvlm_text_fn on_text, void *user)
{
    fvlm_generation generation = {.sampling = sampling, .max_tokens = TOKENS, .ignore_end = true};
    fvlm_answer answer;
    assert_int_equal(fvlm_session_generate(session, &generation, on_text, user, &answer, NULL), FVLM_OK);
    return answer;
}

static void assert_same_logits(const fvlm_session *a, const fvlm_session *b, size_t vocabulary, float most)
{
    for (size_t i = 0; i < vocabulary; i++)
        assert_true(fvlm_session_logits(a)[i] - fvlm_session_logits(b)[i] <= most &&
                    fvlm_session_logits(b)[i] - fvlm_session_logits(a)[i] <= most);
}

static void test_next_turn_reuses_the_cache(void **state)
{
    (void)state;
    fvlm_engine *engine = open_engine(2, 0);
    fvlm_engine_info info;
    fvlm_engine_describe(engine, &info);
    fvlm_image *image = open_image("shapes.png"), *other = open_image("photo.jpg");
    fvlm_session *talk, *fresh;
    assert_int_equal(fvlm_session_open(engine, &talk, NULL), FVLM_OK);
    assert_int_equal(fvlm_session_open(engine, &fresh, NULL), FVLM_OK);
    assert_null(fvlm_session_logits(talk));

    fvlm_prefill_stats stats;
    char *first = question("<image>\nDescribe the image.");
    const fvlm_image *images[] = {image};
    assert_int_equal(fvlm_session_prefill(talk, first, images, 1, &stats, NULL), FVLM_OK);
    assert_int_equal(stats.reused_tokens, 0);
    assert_int_equal(stats.image_tokens, info.tokens_per_tile);
    int first_tokens = stats.prompt_tokens;
    fvlm_answer answer = generate(talk, (fvlm_sampling){0}, NULL, NULL);

    fvlm_turn turns[] = {{"user", "<image>\nDescribe the image."},
                         {"assistant", answer.text},
                         {"user", "And the colours?"},
                         {"assistant", NULL}};
    char *second = render(turns, 4);
    assert_int_equal(fvlm_session_prefill(talk, second, images, 1, &stats, NULL), FVLM_OK);
    assert_true(stats.reused_tokens >= first_tokens);
    assert_int_equal(fvlm_session_prefill(fresh, second, images, 1, &stats, NULL), FVLM_OK);
    assert_int_equal(stats.reused_tokens, 0);
    assert_same_logits(talk, fresh, (size_t)info.vocabulary, 1e-4f);

    /* Another picture under the same words is not taken for the first one. */
    images[0] = other;
    assert_int_equal(fvlm_session_prefill(talk, second, images, 1, &stats, NULL), FVLM_OK);
    assert_true(stats.reused_tokens < first_tokens - info.tokens_per_tile);
    fvlm_session_close(&fresh);
    assert_int_equal(fvlm_session_open(engine, &fresh, NULL), FVLM_OK);
    assert_int_equal(fvlm_session_prefill(fresh, second, images, 1, &stats, NULL), FVLM_OK);
    assert_same_logits(talk, fresh, (size_t)info.vocabulary, 1e-4f);

    fvlm_answer_clear(&answer);
    fvlm_free(first);
    fvlm_free(second);
    fvlm_session_close(&talk);
    fvlm_session_close(&fresh);
    fvlm_image_free(&image);
    fvlm_image_free(&other);
    fvlm_engine_close(&engine);
}

static void test_thread_count_changes_nothing(void **state)
{
    (void)state;
    fvlm_image *image = open_image("shapes.png");
    const fvlm_image *images[] = {image};
    char *prompt = question("<image>\nWhat is it?");
    fvlm_engine *engines[2] = {open_engine(1, 0), open_engine(3, 0)};
    fvlm_session *sessions[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fvlm_session_open(engines[i], &sessions[i], NULL), FVLM_OK);
        assert_int_equal(fvlm_session_prefill(sessions[i], prompt, images, 1, NULL, NULL), FVLM_OK);
    }
    fvlm_engine_info info;
    fvlm_engine_describe(engines[0], &info);
    assert_memory_equal(fvlm_session_logits(sessions[0]), fvlm_session_logits(sessions[1]),
                        (size_t)info.vocabulary * sizeof(float));
    for (int i = 0; i < 2; i++) {
        fvlm_session_close(&sessions[i]);
        fvlm_engine_close(&engines[i]);
    }
    fvlm_free(prompt);
    fvlm_image_free(&image);
}

/* |a - b| / |b| of two sessions' logits. */
static double relative_difference(const fvlm_session *a, const fvlm_session *b, size_t vocabulary)
{
    double differences = 0, squares = 0;
    for (size_t i = 0; i < vocabulary; i++) {
        double x = fvlm_session_logits(a)[i], y = fvlm_session_logits(b)[i];
        differences += (x - y) * (x - y);
        squares += y * y;
    }
    return sqrt(differences / squares);
}

/* What a KV cache of fewer bits changes is small; in it, too, a conversation goes on, threads change nothing, and beams
 * are found. */
static void test_kv_types(void **state)
{
    (void)state;
    static const struct {
        fvlm_kv_type type;
        const char *name;
        double bar; /* of the logits' relative difference: twice what was measured */
    } cases[] = {{FVLM_KV_FP32, "fp32", 0}, {FVLM_KV_BF16, "bf16", 0.015}, {FVLM_KV_INT8, "int8", 0.033}};
    fvlm_image *image = open_image("shapes.png");
    const fvlm_image *images[] = {image};
    char *first = question("<image>\nWhat is it?");
    fvlm_turn turns[] = {
        {"user", "<image>\nWhat is it?"}, {"assistant", "A shape"}, {"user", "And?"}, {"assistant", NULL}};
    char *second = render(turns, 4);
    fvlm_engine *plain = open_engine(1, 0);
    fvlm_session *expected;
    fvlm_engine_info info;
    fvlm_prefill_stats stats;
    fvlm_engine_describe(plain, &info);
    assert_string_equal(info.kv_type, "fp32"); /* as nothing is rounded */
    size_t vocabulary = (size_t)info.vocabulary;
    assert_int_equal(fvlm_session_open(plain, &expected, NULL), FVLM_OK);
    assert_int_equal(fvlm_session_prefill(expected, second, images, 1, NULL, NULL), FVLM_OK);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fvlm_engine *one = open_with((fvlm_engine_options){.threads = 1, .kv_type = cases[i].type});
        fvlm_engine *three = open_with((fvlm_engine_options){.threads = 3, .kv_type = cases[i].type});
        fvlm_session *talk, *fresh;
        fvlm_engine_describe(one, &info);
        assert_string_equal(info.kv_type, cases[i].name);
        assert_int_equal(fvlm_session_open(one, &talk, NULL), FVLM_OK);
        assert_int_equal(fvlm_session_open(three, &fresh, NULL), FVLM_OK);
        assert_int_equal(fvlm_session_prefill(fresh, second, images, 1, NULL, NULL), FVLM_OK);
        assert_int_equal(fvlm_session_prefill(talk, second, images, 1, NULL, NULL), FVLM_OK);
        assert_memory_equal(fvlm_session_logits(talk), fvlm_session_logits(fresh), vocabulary * sizeof(float));
        double difference = relative_difference(talk, expected, vocabulary);
        print_message("%s: logits' relative difference %g\n", cases[i].name, difference);
        assert_true(difference <= cases[i].bar && (difference > 0) == (cases[i].bar > 0));

        assert_int_equal(fvlm_session_prefill(talk, first, images, 1, NULL, NULL), FVLM_OK);
        assert_int_equal(fvlm_session_prefill(talk, second, images, 1, &stats, NULL), FVLM_OK);
        assert_true(stats.reused_tokens > stats.image_tokens);
        assert_true(relative_difference(talk, fresh, vocabulary) <= 1e-5 + cases[i].bar);

        fvlm_generation generation = {.max_tokens = TOKENS, .beams = 3, .length_penalty = 1, .ignore_end = true};
        fvlm_answer answers[2][3];
        assert_int_equal(fvlm_session_generate(fresh, &generation, NULL, NULL, answers[0], NULL), FVLM_OK);
        assert_int_equal(fvlm_session_generate(expected, &generation, NULL, NULL, answers[1], NULL), FVLM_OK);
        assert_int_equal(answers[0][0].token_count, TOKENS);
        assert_true(fabs(answers[0][0].score - answers[1][0].score) <= 1e-5 + 2 * cases[i].bar);
        for (int j = 0; j < 6; j++)
            fvlm_answer_clear(&answers[j / 3][j % 3]);
        fvlm_session_close(&talk);
        fvlm_session_close(&fresh);
        fvlm_engine_close(&one);
        fvlm_engine_close(&three);
    }
    fvlm_engine *rounding = open_with((fvlm_engine_options){.precision = FVLM_PRECISION_BF16});
    fvlm_engine_describe(rounding, &info);
    assert_string_equal(info.kv_type, "bf16"); /* the set's weights are bf16 */
    fvlm_engine_close(&rounding);
    fvlm_session_close(&expected);
    fvlm_engine_close(&plain);
    fvlm_free(first);
    fvlm_free(second);
    fvlm_image_free(&image);
}

struct pieces {
    char text[4096];
    size_t length;
    int calls, stop_after;
};

static bool collect(void *user, const char *text, size_t bytes)
{
    struct pieces *pieces = user;
    assert_true(pieces->length + bytes < sizeof pieces->text);
    assert_true(bytes > 0);
    assert_int_not_equal((unsigned char)text[0] & 0xc0, 0x80); /* no piece begins within a character */
    memcpy(pieces->text + pieces->length, text, bytes);
    pieces->length += bytes;
    pieces->calls++;
    return pieces->calls != pieces->stop_after;
}

static void test_streaming_and_stopping(void **state)
{
    (void)state;
    fvlm_engine *engine = open_engine(2, 0);
    fvlm_session *session;
    assert_int_equal(fvlm_session_open(engine, &session, NULL), FVLM_OK);
    char *prompt = question("Say something.");
    assert_int_equal(fvlm_session_prefill(session, prompt, NULL, 0, NULL, NULL), FVLM_OK);
    struct pieces pieces = {0};
    fvlm_answer whole = generate(session, (fvlm_sampling){0}, collect, &pieces);
    assert_int_equal(whole.token_count, TOKENS);
    assert_int_equal(whole.finish, FVLM_FINISH_LENGTH);
    assert_int_equal(pieces.length, strlen(whole.text));
    assert_memory_equal(pieces.text, whole.text, pieces.length);

    /* Stop at a text from the middle of the answer: nothing of it comes out, neither streamed nor returned. */
    char stop[8] = "";
    size_t middle = strlen(whole.text) / 2;
    while (((unsigned char)whole.text[middle] & 0xc0) == 0x80)
        middle++;
    snprintf(stop, sizeof stop, "%.4s", whole.text + middle);
    const char *stops[] = {"never in there", stop};
    fvlm_generation generation = {.max_tokens = TOKENS, .ignore_end = true, .stop = stops, .stop_count = 2};
    pieces = (struct pieces){0};
    fvlm_answer cut;
    assert_int_equal(fvlm_session_prefill(session, prompt, NULL, 0, NULL, NULL), FVLM_OK);
    assert_int_equal(fvlm_session_generate(session, &generation, collect, &pieces, &cut, NULL), FVLM_OK);
    assert_int_equal(cut.finish, FVLM_FINISH_STOP);
    assert_null(strstr(cut.text, stop));
    assert_memory_equal(cut.text, whole.text, strlen(cut.text));
    assert_int_equal(pieces.length, strlen(cut.text));

    pieces = (struct pieces){.stop_after = 2};
    fvlm_answer called;
    generation.stop_count = 0;
    assert_int_equal(fvlm_session_prefill(session, prompt, NULL, 0, NULL, NULL), FVLM_OK);
    assert_int_equal(fvlm_session_generate(session, &generation, collect, &pieces, &called, NULL), FVLM_OK);
    assert_int_equal(called.finish, FVLM_FINISH_CALLBACK);
    assert_int_equal(pieces.calls, 2);

    fvlm_answer_clear(&whole);
    fvlm_answer_clear(&cut);
    fvlm_answer_clear(&called);
    fvlm_free(prompt);
    fvlm_session_close(&session);
    fvlm_engine_close(&engine);
}

static void test_a_seed_gives_the_same_answer(void **state)
{
    (void)state;
    fvlm_engine *engine = open_engine(2, 0);
    fvlm_session *session;
    assert_int_equal(fvlm_session_open(engine, &session, NULL), FVLM_OK);
    char *prompt = question("Say something.");
    fvlm_answer answers[3];
    uint64_t seeds[3] = {7, 7, 8};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fvlm_session_prefill(session, prompt, NULL, 0, NULL, NULL), FVLM_OK);
        answers[i] = generate(session, (fvlm_sampling){.temperature = 2.0f, .seed = seeds[i]}, NULL, NULL);
    }
    size_t bytes = TOKENS * sizeof(int32_t);
    assert_memory_equal(answers[0].tokens, answers[1].tokens, bytes);
    assert_memory_not_equal(answers[0].tokens, answers[2].tokens, bytes);
    for (int i = 0; i < 3; i++)
        fvlm_answer_clear(&answers[i]);
    fvlm_free(prompt);
    fvlm_session_close(&session);
    fvlm_engine_close(&engine);
}

static void test_limits_are_clear_errors(void **state)
{
    (void)state;
    fvlm_engine *engine = open_engine(1, 48);
    fvlm_session *session;
    fvlm_error error;
    fvlm_answer answers[4];
    assert_int_equal(fvlm_session_open(engine, &session, NULL), FVLM_OK);
    fvlm_generation generation = {.max_tokens = 1000, .ignore_end = true};
    assert_int_equal(fvlm_session_generate(session, &generation, NULL, NULL, answers, &error), FVLM_ERROR_ARGUMENT);

    assert_int_equal(fvlm_session_prefill(session, "<image> and <image>", NULL, 0, NULL, &error), FVLM_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "2 <image>"));
    assert_int_equal(fvlm_session_prefill(session, "", NULL, 0, NULL, &error), FVLM_ERROR_ARGUMENT);
    char *lengthy = question("One two three four five six seven eight nine ten eleven twelve thirteen fourteen.");
    assert_int_equal(fvlm_session_prefill(session, lengthy, NULL, 0, NULL, &error), FVLM_ERROR_LIMIT);
    assert_non_null(strstr(error.message, "48"));

    /* A full context ends the answer: the last token needs no position of its own. */
    fvlm_prefill_stats stats;
    assert_int_equal(fvlm_session_prefill(session, "Say it.", NULL, 0, &stats, NULL), FVLM_OK);
    assert_int_equal(fvlm_session_generate(session, &generation, NULL, NULL, answers, &error), FVLM_OK);
    assert_int_equal(answers[0].token_count, (size_t)(48 - stats.prompt_tokens + 1));
    assert_int_equal(answers[0].finish, FVLM_FINISH_LENGTH);
    fvlm_answer_clear(&answers[0]);

    assert_int_equal(fvlm_session_prefill(session, "Say it.", NULL, 0, NULL, NULL), FVLM_OK);
    generation.beams = 4;
    assert_int_equal(fvlm_session_generate(session, &generation, NULL, NULL, answers, &error), FVLM_OK);
    for (int i = 0; i < 4; i++) {
        assert_true(answers[i].token_count > 1);
        assert_true(i == 0 || answers[i].score <= answers[i - 1].score);
        fvlm_answer_clear(&answers[i]);
    }
    generation.beams = 1000;
    assert_int_equal(fvlm_session_generate(session, &generation, NULL, NULL, answers, &error), FVLM_ERROR_ARGUMENT);
    fvlm_free(lengthy);
    fvlm_session_close(&session);
    fvlm_engine_close(&engine);
}

struct talker {
    fvlm_engine *engine;
    const fvlm_image *image;
    const char *prompt;
    fvlm_answer answer;
};

static void *talk(void *argument)
{
    struct talker *talker = argument;
    fvlm_session *session;
    fvlm_generation generation = {.max_tokens = TOKENS, .ignore_end = true};
    if (fvlm_session_open(talker->engine, &session, NULL))
        return NULL;
    if (!fvlm_session_prefill(session, talker->prompt, &talker->image, 1, NULL, NULL) &&
        fvlm_session_generate(session, &generation, NULL, NULL, &talker->answer, NULL))
        talker->answer = (fvlm_answer){0};
    fvlm_session_close(&session);
    return NULL;
}

static void test_sessions_side_by_side(void **state)
{
    (void)state;
    fvlm_engine *engine = open_engine(2, 0);
    fvlm_image *images[2] = {open_image("shapes.png"), open_image("photo.jpg")};
    char *prompt = question("<image>\nDescribe the image.");
    struct talker alone[2], together[2];
    for (int i = 0; i < 2; i++) {
        alone[i] = together[i] = (struct talker){.engine = engine, .image = images[i], .prompt = prompt};
        talk(&alone[i]);
        assert_int_equal(alone[i].answer.token_count, TOKENS);
    }
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, talk, &together[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(together[i].answer.token_count, TOKENS);
        assert_memory_equal(together[i].answer.tokens, alone[i].answer.tokens, TOKENS * sizeof(int32_t));
        fvlm_answer_clear(&alone[i].answer);
        fvlm_answer_clear(&together[i].answer);
        fvlm_image_free(&images[i]);
    }
    fvlm_free(prompt);
    fvlm_engine_close(&engine);
}

static void test_bad_models(void **state)
{
    (void)state;
    fvlm_engine *engine;
    fvlm_error error;
    fvlm_engine_options options = {.model = "no/such/folder"};
    assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_ERROR_IO);
    assert_non_null(strstr(error.message, "no/such/folder"));
    assert_null(engine);
    options = (fvlm_engine_options){.model = MODEL, .resolution = 100};
    assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_ERROR_ARGUMENT);
    options = (fvlm_engine_options){.model = MODEL, .context = 1 << 30};
    assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_ERROR_ARGUMENT);
    options = (fvlm_engine_options){.model = MODEL, .threads = 5000};
    assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_ERROR_ARGUMENT);
}

/* A GGUF file of the model as a buffer. Free with free(). */
static void *read_converted(size_t *bytes)
{
    char path[] = "session-XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    fvlm_convert_options options = {.model = MODEL, .output = path, .type = "q8_0"};
    assert_int_equal(fvlm_convert(&options, NULL, NULL), FVLM_OK);
    close(descriptor);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*bytes);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, file), *bytes);
    fclose(file);
    remove(path);
    return data;
}

static void test_a_model_in_memory(void **state)
{
    (void)state;
    size_t bytes;
    void *data = read_converted(&bytes), *kept = malloc(bytes);
    assert_non_null(kept);
    memcpy(kept, data, bytes);
    fvlm_error error;
    fvlm_engine *engine;
    fvlm_session *session;
    fvlm_tokenizer *tokenizer;
    const char *name = "test:model", *copy = "session-copy.gguf";
    fvlm_engine_options options = {.model = name, .threads = 1};
    assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_ERROR_IO);
    assert_int_equal(fvlm_model_in_memory(name, (char *)data + 1, bytes - 1, &error), FVLM_ERROR_ARGUMENT);
    assert_int_equal(fvlm_model_in_memory("", data, bytes, &error), FVLM_ERROR_ARGUMENT);
    assert_int_equal(fvlm_model_in_memory(name, data, bytes / 2, &error), FVLM_OK);
    assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_ERROR_FORMAT);
    assert_non_null(strstr(error.message, name));
    assert_int_equal(fvlm_model_in_memory(name, data, bytes, &error), FVLM_OK);

    /* A conversion lets go of each tensor behind it, which must not empty memory. The copy answers the same. */
    fvlm_convert_options conversion = {.model = name, .output = copy};
    assert_int_equal(fvlm_convert(&conversion, NULL, &error), FVLM_OK);
    assert_memory_equal(data, kept, bytes);
    assert_int_equal(fvlm_tokenizer_open(name, &tokenizer, &error), FVLM_OK);
    fvlm_tokenizer_close(&tokenizer);
    fvlm_answer answers[2];
    char *prompt = question("Say something.");
    for (int i = 0; i < 2; i++) {
        options.model = i == 0 ? name : copy;
        assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_OK);
        assert_int_equal(fvlm_session_open(engine, &session, &error), FVLM_OK);
        assert_int_equal(fvlm_session_prefill(session, prompt, NULL, 0, NULL, &error), FVLM_OK);
        answers[i] = generate(session, (fvlm_sampling){0}, NULL, NULL);
        fvlm_session_close(&session);
        fvlm_engine_close(&engine);
    }
    assert_string_equal(answers[0].text, answers[1].text);
    assert_memory_equal(data, kept, bytes);
    fvlm_answer_clear(&answers[0]);
    fvlm_answer_clear(&answers[1]);

    assert_int_equal(fvlm_model_in_memory(name, NULL, 0, &error), FVLM_OK);
    options.model = name;
    assert_int_equal(fvlm_engine_open(&options, &engine, &error), FVLM_ERROR_IO);
    for (int i = 0; i < 16; i++)
        assert_int_equal(fvlm_model_in_memory(&"aaaaaaaaaaaaaaaa"[i], data, bytes, &error), FVLM_OK);
    assert_int_equal(fvlm_model_in_memory(name, data, bytes, &error), FVLM_ERROR_LIMIT);
    for (int i = 0; i < 16; i++)
        assert_int_equal(fvlm_model_in_memory(&"aaaaaaaaaaaaaaaa"[i], NULL, 0, &error), FVLM_OK);
    remove(copy);
    fvlm_free(prompt);
    free(kept);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_turn_reuses_the_cache),
        cmocka_unit_test(test_thread_count_changes_nothing),
        cmocka_unit_test(test_kv_types),
        cmocka_unit_test(test_streaming_and_stopping),
        cmocka_unit_test(test_a_seed_gives_the_same_answer),
        cmocka_unit_test(test_limits_are_clear_errors),
        cmocka_unit_test(test_sessions_side_by_side),
        cmocka_unit_test(test_bad_models),
        cmocka_unit_test(test_a_model_in_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
