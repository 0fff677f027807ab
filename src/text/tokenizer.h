/* What the model needs of a tokenizer beyond the public header (fastvlm/text.h). */
#ifndef FVLM_TEXT_TOKENIZER_H
#define FVLM_TEXT_TOKENIZER_H

#include "base/bundle.h"
#include "fastvlm/text.h"

/* The tokenizer among the files of a model, as fvlm_tokenizer_open finds it in a folder. */
fvlm_status fvlm_tokenizer_read(const fvlm_bundle *files, fvlm_tokenizer **tokenizer, fvlm_error *error);

/* Id of a special token's text, or -1. */
int32_t fvlm_tokenizer_special(const fvlm_tokenizer *tokenizer, const char *text);

/* One more than the largest id that has a token. */
int32_t fvlm_tokenizer_size(const fvlm_tokenizer *tokenizer);

/* Turns tokens into text as they come: a character is given out once all its bytes are there.
 * `emitted` is what was given out last; valid until the next call. */
typedef struct fvlm_detokenizer fvlm_detokenizer;
fvlm_status fvlm_detokenizer_create(const fvlm_tokenizer *tokenizer, fvlm_detokenizer **detokenizer, fvlm_error *error);
void fvlm_detokenizer_destroy(fvlm_detokenizer **detokenizer);
/* Add a token (special ones give nothing); *text [*bytes] are the characters that are now whole. */
fvlm_status fvlm_detokenizer_add(fvlm_detokenizer *detokenizer, int32_t token, const char **text, size_t *bytes,
                                 fvlm_error *error);
/* The end: what is left of an unfinished character becomes U+FFFD. */
fvlm_status fvlm_detokenizer_finish(fvlm_detokenizer *detokenizer, const char **text, size_t *bytes, fvlm_error *error);

#endif
