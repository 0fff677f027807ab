/* fastvlm predict: pictures and a question in, the answer out as it comes. */
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "base/file.h"
#include "base/memory.h"
#include "command.h"
#include "options.h"
#include "output.h"
#include "show_picture.h"

static char **image_paths, *prompt_text;
static int as_json, show_stats;
static cli_display display;

static const struct poptOption table[] = {
    {"image", 'i', POPT_ARG_ARGV, &image_paths, 0, "Picture file, `-` for standard input; may be repeated", "FILE"},
    {"image-file", '\0', POPT_ARG_ARGV | POPT_ARGFLAG_DOC_HIDDEN, &image_paths, 0, NULL, NULL},
    {"prompt", 'p', POPT_ARG_STRING, &prompt_text, 0,
     "The question. Each picture puts one <image> and a newline before it, unless it places them itself", "TEXT"},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object when the answer is complete", NULL},
    CLI_SHOW_OPTION,
    {"stats", '\0', POPT_ARG_NONE, &show_stats, 0, "Print times to standard error after the answer", NULL},
    CLI_MODEL_GROUP,
    CLI_GENERATION_GROUP,
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "predict",
    .arguments = "--image FILE [--image FILE...] --prompt TEXT [OPTION...]",
    .about = "answer a question about pictures",
    .example = "  fastvlm predict --model llava-fastvithd_0.5b_stage3 --image cat.jpg --prompt \"What is this?\"\n"
               "  curl -s https://example.org/cat.jpg | fastvlm predict --model ./checkpoint --image - --prompt "
               "\"Which animal?\" --json"};

static bool print_piece(void *user, const char *text, size_t bytes)
{
    (void)user;
    return cli_write(text, bytes) && !cli_interrupted();
}

static json_t *beams_json(const fvlm_answer *answers, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{so so sf}", "text", cli_json_text(answers[i].text), "tokens",
                                              cli_json_tokens(answers[i].tokens, answers[i].token_count), "score",
                                              answers[i].score));
    return list;
}

/* Answer the question in a new session and print the answer. answers is [beams], cleared by the caller. */
static fvlm_status answer_question(fvlm_engine *engine, const fvlm_generation *generation, fvlm_session *session,
                                   cli_images *images, const char *prompt, fvlm_answer *answers, int *code,
                                   fvlm_error *error)
{
    double start_ms = fvlm_clock_ms();
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; status == FVLM_OK && i < cli_count(image_paths); i++)
        status = cli_images_add(images, image_paths[i], error);
    fvlm_prefill_stats stats;
    if (status == FVLM_OK)
        status = fvlm_session_prefill(session, prompt, (const fvlm_image *const *)images->items, images->count, &stats,
                                      error);
    if (status)
        return status;

    bool streaming = !as_json && generation->beams <= 1;
    double before_ms = fvlm_clock_ms() - start_ms;
    for (size_t i = 0; status == FVLM_OK && i < images->count; i++)
        status = cli_show_picture(images->items[i], display, error);
    if (status)
        return status;
    if (streaming)
        cli_interrupt_catch();
    status = fvlm_session_generate(session, generation, streaming ? print_piece : NULL, NULL, answers, error);
    if (streaming) {
        cli_write("\n", 1);
        if (cli_interrupted())
            cli_interrupt_exit();
        cli_interrupt_release();
    }
    if (status)
        return status;

    double ttft_ms = before_ms + answers[0].first_ms;
    if (as_json) {
        json_t *object = cli_answer_json(engine, &stats, answers, ttft_ms);
        if (generation->beams > 1)
            json_object_set_new(object, "beams", beams_json(answers, (size_t)generation->beams));
        *code = cli_print_json(object);
    } else if (!streaming) {
        cli_print("%s\n", answers[0].text);
    }
    if (show_stats)
        fprintf(stderr,
                "time to first token %.0f ms (encode %.0f, prefill of %d tokens %.0f), then %.1f tokens/s, peak memory "
                "%.0f MB\n",
                ttft_ms, stats.encode_ms, stats.prompt_tokens, stats.prefill_ms, cli_decode_rate(answers),
                (double)fvlm_peak_memory() / 1e6);
    return FVLM_OK;
}

static int check_usage(void)
{
    size_t from_stdin = 0;
    for (size_t i = 0; i < cli_count(image_paths); i++)
        from_stdin += strcmp(image_paths[i], "-") == 0;
    if (!prompt_text)
        return cli_usage_error(&usage, "--prompt is missing");
    if (!image_paths)
        return cli_usage_error(&usage, "--image is missing (`fastvlm chat` answers without one)");
    if (as_json && cli_show)
        return cli_usage_error(&usage, "--json prints an object and no pictures: leave --show out");
    if (!cli_show_get(&usage, &display))
        return CLI_USAGE;
    if (from_stdin > 1)
        return cli_usage_error(&usage, "standard input holds one picture, but `--image -` is given %zu times",
                               from_stdin);
    return CLI_DONE;
}

int cmd_predict(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if ((code = check_usage()) != CLI_DONE)
        return code;

    fvlm_error error;
    fvlm_engine *engine = NULL;
    fvlm_session *session = NULL;
    cli_images images = {0};
    char *prompt = NULL;
    fvlm_answer *answers = NULL;
    fvlm_generation generation;
    fvlm_status status = cli_generation_get(CLI_TEMPERATURE, &generation, &error);
    if (status)
        return cli_fail(&error);
    size_t answer_count = (size_t)generation.beams;
    if (!(answers = fvlm_calloc(answer_count, sizeof *answers)))
        status = fvlm_fail_memory(&error);
    if (status == FVLM_OK)
        status = cli_question_prompt(prompt_text, cli_count(image_paths), &prompt, &error);
    if (status == FVLM_OK)
        status = cli_engine_open(&engine, &error);
    if (status == FVLM_OK)
        status = fvlm_session_open(engine, &session, &error);
    if (status == FVLM_OK)
        status = answer_question(engine, &generation, session, &images, prompt, answers, &code, &error);
    if (status)
        code = cli_fail(&error);

    for (size_t i = 0; answers && i < answer_count; i++)
        fvlm_answer_clear(&answers[i]);
    free(answers);
    fvlm_free(prompt);
    cli_images_clear(&images);
    fvlm_session_close(&session);
    fvlm_engine_close(&engine);
    return code;
}
