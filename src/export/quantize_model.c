/* Quantising: calibrate, round the layers, write, compare answers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "export/convert_gguf.h"
#include "export/quantize_layers.h"
#include "kernels/quantize.h"

#define DEFAULT_TOKENS 32

static bool tell(void *user, uint64_t done, uint64_t total)
{
    const fvlm_quantize_options *options = user;
    return fvlm_stage(options, "writing", done, total, NULL) == FVLM_OK;
}

/* Round and write; everything that needs the model before. */
static fvlm_status write_model(const fvlm_quantize_options *options, fvlm_engine *engine, fvlm_quantize_report *report,
                               fvlm_error *error)
{
    fvlm_convert_options convert = options->convert;
    fvlm_plan plan;
    fvlm_calibration calibration = {0};
    fvlm_layer_files files = {0};
    convert.on_progress = tell;
    convert.user = (void *)options;
    fvlm_status status = fvlm_plan_make(engine->source, convert.type, convert.keep, &plan, error);
    if (!status && options->sample_count > 0) {
        status = fvlm_calibration_open(options, engine, &calibration, error);
        if (!status)
            status = fvlm_quantize_layers(options, &calibration, &plan, &files, report, error);
        fvlm_calibration_clear(&calibration);
    }
    fvlm_conversion conversion = {.source = engine->source, .plan = &plan, .pool = engine->pool, .options = &convert};
    if (!status)
        status = fvlm_convert_to_gguf(&conversion, error);
    if (!status)
        report->convert = (fvlm_convert_report){plan.bytes_before, plan.bytes_after, plan.count, plan.replaced};
    fvlm_layer_files_clear(&files, status == FVLM_OK);
    fvlm_plan_clear(&plan);
    return status;
}

/* ---- comparing ---- */

/* The negative log-likelihood of targets[count] behind a prompt. */
struct likelihood {
    fvlm_engine *engine;
    const fvlm_prompt *prompt;
    size_t first; /* the first target's position */
    float *logits;
    double sum;
};

static void add_rows(void *user, size_t first, size_t rows, const float *x)
{
    struct likelihood *likelihood = user;
    const fvlm_engine *engine = likelihood->engine;
    size_t hidden = engine->config.decoder.hidden, vocabulary = engine->config.decoder.vocabulary;
    for (size_t i = 0; i < rows; i++) {
        size_t next = first + i + 1;
        if (next < likelihood->first || next >= likelihood->prompt->count)
            continue;
        /* The rows are still needed where they are; the workspace behind them is free between two runs of layers. */
        fvlm_decoder_logits(engine->decoder, engine->pool, x + i * hidden, 1, likelihood->logits,
                            engine->workspace + FVLM_DECODER_ROWS * hidden);
        double most = -INFINITY, sum = 0;
        for (size_t v = 0; v < vocabulary; v++)
            most = likelihood->logits[v] > most ? likelihood->logits[v] : most;
        for (size_t v = 0; v < vocabulary; v++)
            sum += exp(likelihood->logits[v] - most);
        likelihood->sum += log(sum) + most - likelihood->logits[likelihood->prompt->positions[next].token];
    }
}

static fvlm_status append_tokens(fvlm_prompt *prompt, const int32_t *tokens, size_t count, fvlm_error *error)
{
    fvlm_position *positions = realloc(prompt->positions, (prompt->count + count + 1) * sizeof *positions);
    if (!positions)
        return fvlm_fail_memory(error);
    prompt->positions = positions;
    for (size_t i = 0; i < count; i++)
        positions[prompt->count++] = (fvlm_position){.token = tokens[i]};
    return FVLM_OK;
}

/* *sum of the negative log-likelihoods of the target tokens. */
static fvlm_status measure(fvlm_session *session, const fvlm_calibration_sample *sample, const int32_t *tokens,
                           size_t count, double *sum, fvlm_error *error)
{
    fvlm_engine *engine = session->engine;
    fvlm_prompt prompt;
    fvlm_status status = fvlm_calibration_prompt(engine, sample, &prompt, error);
    if (status)
        return status;
    struct likelihood likelihood = {.engine = engine, .prompt = &prompt, .first = prompt.count};
    likelihood.logits = fvlm_aligned_alloc(engine->config.decoder.vocabulary * sizeof(float));
    status = likelihood.logits ? append_tokens(&prompt, tokens, count, error) : fvlm_fail_memory(error);
    if (!status && prompt.count > engine->context)
        status = fvlm_fail(error, FVLM_ERROR_LIMIT, "a sample and its answer take %zu positions, the context has %zu",
                           prompt.count, engine->context);
    if (!status) {
        fvlm_pool_acquire(engine->pool);
        fvlm_session_run(session, &prompt, 0, add_rows, &likelihood);
        fvlm_pool_release(engine->pool);
        *sum += likelihood.sum;
    }
    fvlm_aligned_free(likelihood.logits);
    fvlm_prompt_clear(&prompt);
    return status;
}

static fvlm_status answer(fvlm_session *session, const fvlm_calibration_sample *sample, int max_tokens,
                          fvlm_answer *answer, fvlm_error *error)
{
    fvlm_engine *engine = session->engine;
    fvlm_prompt prompt;
    fvlm_generation generation = {.max_tokens = max_tokens};
    fvlm_status status = fvlm_calibration_prompt(engine, sample, &prompt, error);
    if (status)
        return status;
    fvlm_pool_acquire(engine->pool);
    fvlm_session_run(session, &prompt, 0, NULL, NULL);
    fvlm_pool_release(engine->pool);
    fvlm_prompt_clear(&prompt);
    return fvlm_session_generate(session, &generation, NULL, NULL, answer, error);
}

struct comparison {
    fvlm_session *before, *after;
    double sums[2];
    size_t targets, tokens, same_tokens;
};

static fvlm_status compare_sample(const fvlm_quantize_options *options, struct comparison *comparison,
                                  const fvlm_calibration_sample *sample, fvlm_quantize_report *report,
                                  fvlm_error *error)
{
    fvlm_answer answers[2] = {0};
    int32_t *reference = NULL;
    size_t count = 0, same = 0;
    int most = options->max_tokens > 0 ? options->max_tokens : DEFAULT_TOKENS;
    fvlm_status status = answer(comparison->before, sample, most, &answers[0], error);
    if (!status)
        status = answer(comparison->after, sample, most, &answers[1], error);
    if (!status && sample->answer)
        status = fvlm_tokenizer_encode(comparison->before->engine->tokenizer, sample->answer, strlen(sample->answer),
                                       &reference, &count, error);
    const int32_t *targets = sample->answer ? reference : answers[0].tokens;
    count = sample->answer ? count : answers[0].token_count;
    if (!status)
        status = measure(comparison->before, sample, targets, count, &comparison->sums[0], error);
    if (!status)
        status = measure(comparison->after, sample, targets, count, &comparison->sums[1], error);
    if (!status) {
        size_t a = answers[0].token_count, b = answers[1].token_count;
        while (same < a && same < b && answers[0].tokens[same] == answers[1].tokens[same])
            same++;
        comparison->targets += count;
        comparison->tokens += a > b ? a : b;
        comparison->same_tokens += same;
        report->answers++;
        report->same_answers += a == b && same == a;
    }
    fvlm_free(reference);
    fvlm_answer_clear(&answers[0]);
    fvlm_answer_clear(&answers[1]);
    return status;
}

static fvlm_status compare(const fvlm_quantize_options *options, fvlm_engine *before, fvlm_quantize_report *report,
                           fvlm_error *error)
{
    fvlm_engine_options engine = {.model = options->convert.output, .threads = options->convert.threads};
    fvlm_engine *after = NULL;
    struct comparison comparison = {0};
    bool all = options->sample_count < 4;
    fvlm_status status = fvlm_engine_open(&engine, &after, error);
    if (!status)
        status = fvlm_session_open(before, &comparison.before, error);
    if (!status)
        status = fvlm_session_open(after, &comparison.after, error);
    for (size_t i = 0; i < options->sample_count && !status; i++) {
        if (!all && i % 4 != 3)
            continue;
        status = fvlm_stage(options, "answering", i, options->sample_count, error);
        if (!status)
            status = compare_sample(options, &comparison, &options->samples[i], report, error);
    }
    if (!status) {
        double targets = comparison.targets ? (double)comparison.targets : NAN;
        report->perplexity_before = exp(comparison.sums[0] / targets);
        report->perplexity_after = exp(comparison.sums[1] / targets);
        report->same_tokens = comparison.tokens ? (double)comparison.same_tokens / (double)comparison.tokens : 1;
    }
    fvlm_session_close(&comparison.before);
    fvlm_session_close(&comparison.after);
    fvlm_engine_close(&after);
    return status;
}

fvlm_status fvlm_quantize(const fvlm_quantize_options *options, fvlm_quantize_report *report, fvlm_error *error)
{
    *report = (fvlm_quantize_report){.perplexity_before = NAN, .perplexity_after = NAN, .same_tokens = NAN};
    const fvlm_convert_options *convert = &options->convert;
    if (!convert->output || !convert->output[0])
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no output given");
    if (convert->target != FVLM_CONVERT_GGUF && convert->target != FVLM_CONVERT_GGUF_SPLIT)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "quantised models are written as GGUF");
    if (options->method == FVLM_QUANTIZE_GPTQ && options->sample_count == 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "GPTQ needs pictures and prompts to calibrate with");
    fvlm_engine_options engine_options = {.model = convert->model, .threads = convert->threads};
    fvlm_engine *engine;
    fvlm_status status = fvlm_engine_open(&engine_options, &engine, error);
    if (!status)
        status = fvlm_convert_check_output(engine->source, convert, error);
    if (!status)
        status = write_model(options, engine, report, error);
    if (!status && options->sample_count > 0)
        status = compare(options, engine, report, error);
    fvlm_engine_close(&engine);
    if (status)
        fvlm_quantize_report_clear(report);
    return status;
}

void fvlm_quantize_report_clear(fvlm_quantize_report *report)
{
    free(report->layers);
    *report = (fvlm_quantize_report){0};
}
