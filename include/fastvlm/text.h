/* Text: the tokenizer of a checkpoint and the prompts its templates make. */
#ifndef FASTVLM_TEXT_H
#define FASTVLM_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fastvlm/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fvlm_tokenizer fvlm_tokenizer; /* immutable after open; may be shared between threads */

/* Open the tokenizer in the folder or GGUF file `path`: tokenizer.json, or vocab.json + merges.txt with
 * added_tokens.json / tokenizer_config.json. The caller owns *tokenizer. */
FVLM_API fvlm_status fvlm_tokenizer_open(const char *path, fvlm_tokenizer **tokenizer, fvlm_error *error);
FVLM_API void fvlm_tokenizer_close(fvlm_tokenizer **tokenizer);

/* Token ids of `text` (`bytes` of UTF-8; ill-formed bytes become U+FFFD). Special tokens' texts become their ids.
 * *ids is [*count], freed by the caller with fvlm_free. */
FVLM_API fvlm_status fvlm_tokenizer_encode(const fvlm_tokenizer *tokenizer, const char *text, size_t bytes,
                                           int32_t **ids, size_t *count, fvlm_error *error);

/* Text of `ids` [count]. *text is NUL-terminated valid UTF-8 (bytes that form no character become U+FFFD), freed by
 * the caller with fvlm_free. A text may hold NULs itself: *bytes (may be NULL) is its length. */
FVLM_API fvlm_status fvlm_tokenizer_decode(const fvlm_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                           bool skip_special, char **text, size_t *bytes, fvlm_error *error);

/* One turn of a conversation. */
typedef struct fvlm_turn {
    const char *role; /* "user" or "assistant" */
    const char *text; /* NULL in the last assistant turn: the answer that is to be written */
} fvlm_turn;

/* The prompt that a template makes of `turns` [count]. `name` is a built-in name (fvlm_template_names) or the path of
 * a user's template file (docs/templates.md); NULL is the default, qwen_2. `system` replaces the template's system
 * text (NULL keeps it). *prompt is freed by the caller with fvlm_free. */
FVLM_API fvlm_status fvlm_template_render(const char *name, const char *system, const fvlm_turn *turns, size_t count,
                                          char **prompt, fvlm_error *error);

/* The texts that end an answer under a template: "stop" of a user's file. The built-in ones have none, their answers
 * end with the end-of-sequence token. *stops [*count] is one block, freed by the caller with fvlm_free. */
FVLM_API fvlm_status fvlm_template_stops(const char *name, char ***stops, size_t *count, fvlm_error *error);

/* Names of the built-in templates, [*count], static. */
FVLM_API const char *const *fvlm_template_names(size_t *count);

#ifdef __cplusplus
}
#endif
#endif
