/* Tokens to text as they come. A token may end in the middle of a character (a rare one takes up to three tokens), so
 * its bytes wait until the rest is there; what was given out is always what fvlm_tokenizer_decode makes of all tokens
 * so far, minus at most three bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

struct fvlm_detokenizer {
    const fvlm_tokenizer *tokenizer;
    fvlm_text_buffer pending; /* bytes not given out: less than a character between two calls */
    fvlm_text_buffer emitted; /* what the last call gave out */
};

fvlm_status fvlm_detokenizer_create(const fvlm_tokenizer *tokenizer, fvlm_detokenizer **detokenizer, fvlm_error *error)
{
    *detokenizer = fvlm_calloc(1, sizeof **detokenizer);
    if (!*detokenizer)
        return fvlm_fail_memory(error);
    (*detokenizer)->tokenizer = tokenizer;
    return FVLM_OK;
}

void fvlm_detokenizer_destroy(fvlm_detokenizer **detokenizer)
{
    if (!*detokenizer)
        return;
    fvlm_text_clear(&(*detokenizer)->pending);
    fvlm_text_clear(&(*detokenizer)->emitted);
    free(*detokenizer);
    *detokenizer = NULL;
}

static fvlm_status give_out(fvlm_detokenizer *detokenizer, bool final, const char **text, size_t *bytes,
                            fvlm_error *error)
{
    fvlm_text_buffer *pending = &detokenizer->pending, *emitted = &detokenizer->emitted;
    emitted->length = 0;
    size_t used = fvlm_utf8_append_replaced(emitted, pending->data, pending->length, final);
    fvlm_text_append(emitted, "", 0);
    if (pending->failed || emitted->failed)
        return fvlm_fail_memory(error);
    if (used)
        memmove(pending->data, pending->data + used, pending->length - used);
    pending->length -= used;
    *text = emitted->data;
    *bytes = emitted->length;
    return FVLM_OK;
}

fvlm_status fvlm_detokenizer_add(fvlm_detokenizer *detokenizer, int32_t token, const char **text, size_t *bytes,
                                 fvlm_error *error)
{
    fvlm_tokenizer_append_bytes(detokenizer->tokenizer, token, true, &detokenizer->pending);
    return give_out(detokenizer, false, text, bytes, error);
}

fvlm_status fvlm_detokenizer_finish(fvlm_detokenizer *detokenizer, const char **text, size_t *bytes, fvlm_error *error)
{
    return give_out(detokenizer, true, text, bytes, error);
}
