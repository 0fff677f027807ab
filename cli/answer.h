/* What predict, chat, eval, trace and bench share: opening the model and the pictures, and making the prompt. */
#ifndef FVLM_CLI_ANSWER_H
#define FVLM_CLI_ANSWER_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"
#include "fastvlm/engine.h"
#include "fastvlm/image.h"
#include "fastvlm/session.h"

/* Load the model of the options' group "model". */
fvlm_status cli_engine_open(fvlm_engine **engine, fvlm_error *error);
/* That model as it was asked for. */
const char *cli_model_name(void);

/* Pictures, in the order in which `<image>` stands for them. */
typedef struct cli_images {
    fvlm_image **items; /* [count] */
    size_t count;
} cli_images;

/* Append the picture at `path` ("-": standard input). */
fvlm_status cli_images_add(cli_images *images, const char *path, fvlm_error *error);
/* Free those from the `count`-th on. */
void cli_images_truncate(cli_images *images, size_t count);
void cli_images_clear(cli_images *images);

/* The user's words of a turn with `images` new pictures: where `text` places no `<image>`, one and a newline for each
 * picture come before it; where it does, their number has to be `images`. Free with free(). */
fvlm_status cli_turn_text(const char *text, size_t images, char **turn, fvlm_error *error);

/* The whole prompt of one question, by the options' group "prompt". Free with fvlm_free. */
fvlm_status cli_question_prompt(const char *text, size_t images, char **prompt, fvlm_error *error);

/* How many times `<image>` stands in `text`. */
size_t cli_placeholders(const char *text);

/* "stop" or "length". */
const char *cli_finish_name(fvlm_finish finish);

/* The members that every answer has in JSON: text, tokens, finish_reason, prompt_tokens, image_tokens, reused_tokens,
 * encode_ms, prefill_ms, ttft_ms, decode_tokens_per_s, model, precision. NULL when out of memory. */
json_t *cli_answer_json(const fvlm_engine *engine, const fvlm_prefill_stats *stats, const fvlm_answer *answer,
                        double ttft_ms);
double cli_decode_rate(const fvlm_answer *answer);

#endif
