/* What a tokenizer is made of, for the files of this room that build and use it. */
#ifndef FVLM_TEXT_TOKENIZER_PARTS_H
#define FVLM_TEXT_TOKENIZER_PARTS_H

#include "base/text_buffer.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/splitter.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

struct fvlm_tokenizer {
    fvlm_vocabulary vocabulary;
    fvlm_merges merges;
    fvlm_added_tokens added;
    fvlm_splitter *splitter;
    bool nfc;           /* normalise before splitting */
    bool ignore_merges; /* a word that is itself a token is not built by merges */
};

/* A tokenizer from the content of a tokenizer.json alone; `name` is the file's, for errors. */
fvlm_status fvlm_tokenizer_parse(const char *json, size_t bytes, const char *name, fvlm_tokenizer **tokenizer,
                                 fvlm_error *error);

/* Append the bytes that a token stands for; nothing for an id without a token, or a special one if `skip_special`. */
void fvlm_tokenizer_append_bytes(const fvlm_tokenizer *tokenizer, int32_t id, bool skip_special,
                                 fvlm_text_buffer *bytes);

#endif
