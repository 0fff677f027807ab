/* Opening the model and the pictures, making the prompt, and an answer as JSON. */
#include "answer.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text_buffer.h"
#include "builtin_model.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static const char placeholder[] = "<image>";

fvlm_status cli_engine_open(fvlm_engine **engine, fvlm_error *error)
{
    char *model = NULL;
    fvlm_engine_options options;
    *engine = NULL;
    fvlm_status status = cli_engine_options_get(&options, error);
    if (status == FVLM_OK)
        status = cli_model_path(cli_model.model, &model, error);
    options.model = model;
    if (status == FVLM_OK)
        status = fvlm_engine_open(&options, engine, error);
    free(model);
    return status;
}

const char *cli_model_name(void)
{
    return cli_model.model ? cli_model.model : CLI_BUILTIN_NAME;
}

fvlm_status cli_images_add(cli_images *images, const char *path, fvlm_error *error)
{
    fvlm_image **items = realloc(images->items, (images->count + 1) * sizeof *items);
    if (!items)
        return fvlm_fail_memory(error);
    images->items = items;
    fvlm_status status = fvlm_image_open(path, &items[images->count], error);
    images->count += status == FVLM_OK;
    return status;
}

void cli_images_truncate(cli_images *images, size_t count)
{
    while (images->count > count)
        fvlm_image_free(&images->items[--images->count]);
}

void cli_images_clear(cli_images *images)
{
    cli_images_truncate(images, 0);
    free(images->items);
    images->items = NULL;
}

size_t cli_placeholders(const char *text)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, placeholder)); at += sizeof placeholder - 1)
        count++;
    return count;
}

fvlm_status cli_turn_text(const char *text, size_t images, char **turn, fvlm_error *error)
{
    size_t placed = cli_placeholders(text);
    *turn = NULL;
    if (placed > 0 && placed != images)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "the prompt has %zu %s but %zu picture%s given; give as many, or leave %s out of the prompt",
                         placed, placeholder, images, images == 1 ? " is" : "s are", placeholder);
    fvlm_text_buffer buffer = {0};
    for (size_t i = placed; i < images; i++)
        fvlm_text_format(&buffer, "%s\n", placeholder);
    fvlm_text_append_string(&buffer, text);
    *turn = fvlm_text_take(&buffer);
    return *turn ? FVLM_OK : fvlm_fail_memory(error);
}

fvlm_status cli_question_prompt(const char *text, size_t images, char **prompt, fvlm_error *error)
{
    char *turn;
    *prompt = NULL;
    fvlm_status status = cli_turn_text(text, images, &turn, error);
    if (status)
        return status;
    const fvlm_turn turns[] = {{"user", turn}, {"assistant", NULL}};
    status = fvlm_template_render(cli_prompt.template_name, cli_prompt.system, turns, 2, prompt, error);
    free(turn);
    return status;
}

const char *cli_finish_name(fvlm_finish finish)
{
    return finish == FVLM_FINISH_LENGTH ? "length" : "stop";
}

double cli_decode_rate(const fvlm_answer *answer)
{
    return answer->token_count > 1 && answer->decode_ms > 0
               ? (double)(answer->token_count - 1) * 1000 / answer->decode_ms
               : 0;
}

json_t *cli_answer_json(const fvlm_engine *engine, const fvlm_prefill_stats *stats, const fvlm_answer *answer,
                        double ttft_ms)
{
    fvlm_engine_info info;
    fvlm_engine_describe(engine, &info);
    return json_pack("{so so ss si si si so so so so so ss}", "text", cli_json_text(answer->text), "tokens",
                     cli_json_tokens(answer->tokens, answer->token_count), "finish_reason",
                     cli_finish_name(answer->finish), "prompt_tokens", stats->prompt_tokens, "image_tokens",
                     stats->image_tokens, "reused_tokens", stats->reused_tokens, "encode_ms",
                     cli_json_number(stats->encode_ms), "prefill_ms", cli_json_number(stats->prefill_ms), "ttft_ms",
                     cli_json_number(ttft_ms), "decode_tokens_per_s", cli_json_number(cli_decode_rate(answer)), "model",
                     cli_json_text(cli_model_name()), "precision", info.precision);
}
