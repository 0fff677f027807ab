/* The tokenizer as llama.cpp reads it from a GGUF file. */
#ifndef FVLM_EXPORT_GGUF_VOCABULARY_H
#define FVLM_EXPORT_GGUF_VOCABULARY_H

#include "formats/gguf.h"
#include "text/tokenizer.h"

/* Put tokenizer.ggml.*: as many tokens as the embeddings have `rows`, their kinds, the merges in order, the ids of the
 * tokens that end (-1: none is known) and pad a text. */
fvlm_status fvlm_gguf_put_tokenizer(fvlm_gguf_writer *writer, const fvlm_tokenizer *tokenizer, int32_t end, size_t rows,
                                    fvlm_error *error);

#endif
