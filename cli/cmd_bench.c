/* fastvlm bench: how long the stages of an answer take. Each run answers from nothing in a new session: decode the
 * picture, encode it, prefill, then a fixed number of tokens. Reported are medians. With --roofline, what the machine
 * itself reaches. */
#include <stdlib.h>

#include "answer.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/memory.h"
#include "command.h"
#include "fastvlm/roofline.h"
#include "options.h"
#include "output.h"

static char *image_path, *prompt_text;
static int as_json, roofline, runs = 5, tokens = 64;

static const struct poptOption table[] = {
    {"image", 'i', POPT_ARG_STRING, &image_path, 0, "Picture (default: a drawn one, 1024 x 768)", "FILE"},
    {"prompt", 'p', POPT_ARG_STRING, &prompt_text, 0, "Question (default: \"Describe the image.\")", "TEXT"},
    {"runs", 'r', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &runs, 0, "How often to measure", "N"},
    {"tokens", 'n', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &tokens, 0, "Tokens to generate in each run", "N"},
    {"roofline", '\0', POPT_ARG_NONE, &roofline, 0,
     "Instead of a model, measure the most that one thread and --threads can compute and read", NULL},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object", NULL},
    CLI_MODEL_GROUP,
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {.command = "bench",
                                .arguments = "[--model M] [OPTION...]",
                                .about = "measure encoding, prefill, decoding, time to first token and memory",
                                .example = "  fastvlm bench --model llava-fastvithd_0.5b_stage3 --threads 2 --json"};

/* One number a run. */
typedef struct series {
    const char *key, *title;
    double *values; /* [runs] */
} series;

enum { LOAD_PICTURE, ENCODE, PREFILL, PREFILL_RATE, FIRST_TOKEN, DECODE_RATE, SERIES_COUNT };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values [count]. */
static double median(const double *values, size_t count)
{
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* A landscape: smooth areas, edges and fine texture, so that no stage sees a constant. */
static fvlm_status draw_picture(fvlm_image **image, fvlm_error *error)
{
    enum { WIDTH = 1024, HEIGHT = 768 };
    uint8_t *rgb = malloc((size_t)WIDTH * HEIGHT * 3);
    if (!rgb)
        return fvlm_fail_memory(error);
    for (int y = 0; y < HEIGHT; y++) {
        for (int x = 0; x < WIDTH; x++) {
            uint8_t *pixel = rgb + 3 * ((size_t)y * WIDTH + (size_t)x);
            int dx = x - 760, dy = y - 180;
            bool sun = dx * dx + dy * dy<90 * 90, land = y> 460 + (x * 7 % 311) / 8;
            int grain = (x * 31 + y * 57) % 23;
            pixel[0] = (uint8_t)(sun ? 250 : land ? 60 + grain : 90 + y / 8);
            pixel[1] = (uint8_t)(sun ? 220 : land ? 120 + 2 * grain : 150 + y / 10);
            pixel[2] = (uint8_t)(sun ? 90 : land ? 50 + grain : 230 - y / 12);
        }
    }
    fvlm_status status = fvlm_image_from_rgb(rgb, WIDTH, HEIGHT, image, error);
    free(rgb);
    return status;
}

/* Run number `run`: fills one value of every series, and *stats. */
static fvlm_status measure(fvlm_engine *engine, const char *prompt, series *all, size_t run, fvlm_prefill_stats *stats,
                           fvlm_error *error)
{
    fvlm_session *session = NULL;
    fvlm_image *image = NULL;
    fvlm_answer answer = {0};
    const fvlm_generation generation = {.max_tokens = tokens, .ignore_end = true};
    fvlm_status status = fvlm_session_open(engine, &session, error);
    double start_ms = fvlm_clock_ms(), decoded_ms = 0, prefilled_ms = 0;
    if (status == FVLM_OK)
        status = image_path ? fvlm_image_open(image_path, &image, error) : draw_picture(&image, error);
    decoded_ms = fvlm_clock_ms();
    if (status == FVLM_OK)
        status = fvlm_session_prefill(session, prompt, (const fvlm_image *const *)&image, 1, stats, error);
    prefilled_ms = fvlm_clock_ms();
    if (status == FVLM_OK)
        status = fvlm_session_generate(session, &generation, NULL, NULL, &answer, error);
    if (status == FVLM_OK) {
        all[LOAD_PICTURE].values[run] = decoded_ms - start_ms;
        all[ENCODE].values[run] = stats->encode_ms;
        all[PREFILL].values[run] = stats->prefill_ms;
        all[PREFILL_RATE].values[run] = stats->prefill_ms > 0 ? stats->prompt_tokens * 1000 / stats->prefill_ms : 0;
        all[FIRST_TOKEN].values[run] = prefilled_ms - start_ms + answer.first_ms;
        all[DECODE_RATE].values[run] = cli_decode_rate(&answer);
    }
    fvlm_answer_clear(&answer);
    fvlm_image_free(&image);
    fvlm_session_close(&session);
    return status;
}

static int report(const fvlm_engine *engine, const series *all, double load_ms, const fvlm_prefill_stats *stats)
{
    fvlm_engine_info info;
    fvlm_engine_describe(engine, &info);
    size_t count = (size_t)runs;
    if (as_json) {
        json_t *object =
            json_pack("{so ss ss ss si si si si si si so sI sI}", "model", cli_json_text(cli_model_name()), "precision",
                      info.precision, "kv_type", info.kv_type, "isa", info.isa, "threads", info.threads, "resolution",
                      info.resolution, "runs", runs, "prompt_tokens", stats->prompt_tokens, "image_tokens",
                      stats->image_tokens, "tokens", tokens, "load_ms", cli_json_number(load_ms), "weight_bytes",
                      (json_int_t)info.weight_bytes, "peak_memory_bytes", (json_int_t)fvlm_peak_memory());
        for (size_t i = 0; i < SERIES_COUNT; i++)
            json_object_set_new(object, all[i].key, cli_json_number(median(all[i].values, count)));
        return cli_print_json(object);
    }
    cli_print("model %s, vision %s at %d px, KV cache %s, %s, %d threads\n", cli_model_name(), info.precision,
              info.resolution, info.kv_type, info.isa, info.threads);
    cli_print("prompt of %d tokens, %d of them the picture; %d tokens generated; %d runs\n\n", stats->prompt_tokens,
              stats->image_tokens, tokens, runs);
    cli_print("%-22s %10s %10s %10s\n", "", "median", "lowest", "highest");
    cli_print("%-22s %10.1f\n", "load model (ms)", load_ms);
    for (size_t i = 0; i < SERIES_COUNT; i++)
        cli_print("%-22s %10.1f %10.1f %10.1f\n", all[i].title, median(all[i].values, count), all[i].values[0],
                  all[i].values[count - 1]);
    cli_print("%-22s %10.1f\n", "peak memory (MB)", (double)fvlm_peak_memory() / 1e6);
    cli_print("%-22s %10.1f\n", "weights (MB)", (double)info.weight_bytes / 1e6);
    return CLI_DONE;
}

/* One thread beside all that may be used: what bounds a lone stream, and what a model as a whole. */
static int measure_roofline(void)
{
    fvlm_error error;
    fvlm_engine_options options;
    fvlm_roofline one = {0}, all = {0};
    fvlm_status status = cli_engine_options_get(&options, &error);
    int threads = options.threads > 0 ? options.threads : fvlm_cpu_count();
    if (status == FVLM_OK)
        status = fvlm_roofline_measure(1, &one, &error);
    if (status == FVLM_OK)
        status = fvlm_roofline_measure(threads, &all, &error);
    if (status)
        return cli_fail(&error);

    const char *isa = fvlm_cpu_level_name(fvlm_cpu_flags());
    const struct {
        const char *title, *key;
        double one, all;
    } rows[] = {{"fp32 (GFLOP/s)", "fp32_gflops", one.fp32, all.fp32},
                {"bf16 (GFLOP/s)", "bf16_gflops", one.bf16, all.bf16},
                {"int8 (GOP/s)", "int8_gops", one.int8, all.int8},
                {"memory read (GB/s)", "read_gb_per_s", one.read, all.read}};
    enum { ROWS = sizeof rows / sizeof *rows };
    if (as_json) {
        json_t *single = json_object(), *every = json_object();
        for (size_t i = 0; i < ROWS; i++) {
            json_object_set_new(single, rows[i].key, cli_json_number(rows[i].one / 1e9));
            json_object_set_new(every, rows[i].key, cli_json_number(rows[i].all / 1e9));
        }
        return cli_print_json(
            json_pack("{ss si so so}", "isa", isa, "threads", threads, "one_thread", single, "all_threads", every));
    }
    cli_print("%s, %d threads\n\n%-22s %10s %10s\n", isa, threads, "", "1 thread", "all");
    for (size_t i = 0; i < ROWS; i++)
        cli_print("%-22s %10.1f %10.1f\n", rows[i].title, rows[i].one / 1e9, rows[i].all / 1e9);
    return CLI_DONE;
}

int cmd_bench(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (roofline)
        return measure_roofline();
    if (runs < 1 || runs > 1000)
        return cli_usage_error(&usage, "--runs is %d; it has to be from 1 to 1000", runs);
    if (tokens < 1 || tokens > 100000)
        return cli_usage_error(&usage, "--tokens is %d; it has to be from 1 to 100000", tokens);

    series all[SERIES_COUNT] = {
        [LOAD_PICTURE] = {.key = "picture_ms", .title = "decode picture (ms)"},
        [ENCODE] = {.key = "encode_ms", .title = "encode (ms)"},
        [PREFILL] = {.key = "prefill_ms", .title = "prefill (ms)"},
        [PREFILL_RATE] = {.key = "prefill_tokens_per_s", .title = "prefill (tokens/s)"},
        [FIRST_TOKEN] = {.key = "ttft_ms", .title = "first token (ms)"},
        [DECODE_RATE] = {.key = "decode_tokens_per_s", .title = "decode (tokens/s)"},
    };
    fvlm_error error;
    fvlm_engine *engine = NULL;
    fvlm_prefill_stats stats = {0};
    char *prompt = NULL;
    double *values = fvlm_calloc((size_t)runs * SERIES_COUNT, sizeof *values);
    fvlm_status status = values ? FVLM_OK : fvlm_fail_memory(&error);
    for (size_t i = 0; values && i < SERIES_COUNT; i++)
        all[i].values = values + i * (size_t)runs;
    if (status == FVLM_OK)
        status = cli_question_prompt(prompt_text ? prompt_text : "Describe the image.", 1, &prompt, &error);
    double start_ms = fvlm_clock_ms();
    if (status == FVLM_OK)
        status = cli_engine_open(&engine, &error);
    double load_ms = fvlm_clock_ms() - start_ms;
    cli_progress progress;
    cli_progress_start(&progress, "measuring", "runs", 0, (uint64_t)runs, as_json);
    for (size_t run = 0; status == FVLM_OK && run < (size_t)runs; run++) {
        status = measure(engine, prompt, all, run, &stats, &error);
        cli_progress_update(&progress, run + 1);
    }
    if (status) {
        code = cli_fail(&error);
    } else {
        cli_progress_finish(&progress, (uint64_t)runs);
        for (size_t i = 0; i < SERIES_COUNT; i++)
            qsort(all[i].values, (size_t)runs, sizeof(double), compare);
        code = report(engine, all, load_ms, &stats);
    }
    free(values);
    fvlm_free(prompt);
    fvlm_engine_close(&engine);
    return code;
}
