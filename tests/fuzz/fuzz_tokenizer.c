/* A tokenizer.json, a NUL byte, and a text: opening, encoding, decoding and streaming must not fail badly, and the
 * decoded text must be the same whether it comes at once or token by token. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* What streaming makes of the ids must be text [bytes]. */
static void check_stream(const fvlm_tokenizer *tokenizer, const int32_t *ids, size_t count, const char *text,
                         size_t bytes)
{
    fvlm_detokenizer *detokenizer;
    require(!fvlm_detokenizer_create(tokenizer, &detokenizer, NULL));
    size_t done = 0;
    for (size_t i = 0; i <= count; i++) {
        const char *piece;
        size_t length;
        require(!(i < count ? fvlm_detokenizer_add(detokenizer, ids[i], &piece, &length, NULL)
                            : fvlm_detokenizer_finish(detokenizer, &piece, &length, NULL)));
        require(length <= bytes - done && memcmp(piece, text + done, length) == 0);
        require(fvlm_utf8_valid(piece, length));
        done += length;
    }
    require(done == bytes);
    fvlm_detokenizer_destroy(&detokenizer);
}

static void check_text(const fvlm_tokenizer *tokenizer, const char *text, size_t bytes)
{
    int32_t *ids;
    size_t count, whole_bytes;
    fvlm_error error;
    if (fvlm_tokenizer_encode(tokenizer, text, bytes, &ids, &count, &error))
        return;
    char *whole;
    require(!fvlm_tokenizer_decode(tokenizer, ids, count, true, &whole, &whole_bytes, NULL));
    check_stream(tokenizer, ids, count, whole, whole_bytes);
    fvlm_free(whole);
    fvlm_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data, *separator = size ? memchr(json, '\0', size) : NULL;
    size_t json_bytes = separator ? (size_t)(separator - json) : size;
    fvlm_tokenizer *tokenizer;
    fvlm_error error = {0};
    fvlm_status status = fvlm_tokenizer_parse(json, json_bytes, "input", &tokenizer, &error);
    require((status == FVLM_OK) == (tokenizer != NULL) && (!status || error.code == status));
    if (status)
        return 0;
    if (separator)
        check_text(tokenizer, separator + 1, size - json_bytes - 1);
    fvlm_tokenizer_close(&tokenizer);
    return 0;
}
