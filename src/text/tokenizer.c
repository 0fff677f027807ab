/* Text to ids and back, in the steps of the tokenizers library:
 *
 *     text -> well-formed UTF-8 -> cut at added tokens -> NFC -> cut at normalised added tokens
 *          -> cut into words by the split pattern -> byte-pair merging -> ids
 *     ids  -> the tokens' bytes, one behind the other -> well-formed UTF-8
 *
 * A tokenizer does not change once it is open; each call has its own workspace. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/normalize.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

/* A word takes 32 bytes of workspace for each of its own; this bounds it to 2 GB. */
#define MAX_TEXT ((size_t)64 << 20)

void fvlm_tokenizer_close(fvlm_tokenizer **tokenizer)
{
    if (!*tokenizer)
        return;
    fvlm_vocabulary_clear(&(*tokenizer)->vocabulary);
    fvlm_merges_clear(&(*tokenizer)->merges);
    fvlm_added_clear(&(*tokenizer)->added);
    fvlm_splitter_destroy(&(*tokenizer)->splitter);
    free(*tokenizer);
    *tokenizer = NULL;
}

int32_t fvlm_tokenizer_special(const fvlm_tokenizer *tokenizer, const char *text)
{
    const fvlm_added_token *token = fvlm_added_by_content(&tokenizer->added, text, strlen(text));
    return token ? token->id : -1;
}

int32_t fvlm_tokenizer_size(const fvlm_tokenizer *tokenizer)
{
    const fvlm_added_tokens *added = &tokenizer->added;
    int32_t words = (int32_t)tokenizer->vocabulary.id_count;
    int32_t last = added->count ? added->tokens[added->count - 1].id : -1;
    return last >= words ? last + 1 : words;
}

struct encoder {
    const fvlm_tokenizer *tokenizer;
    fvlm_splitter_workspace *split;
    fvlm_bpe_workspace bpe;
    fvlm_text_buffer spelled; /* a word in the byte alphabet */
    fvlm_ids ids;
    fvlm_error *error;
};

static bool encode_word(void *user, const char *word, size_t bytes)
{
    struct encoder *encoder = user;
    const fvlm_tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->ignore_merges) {
        encoder->spelled.length = 0;
        for (size_t i = 0; i < bytes; i++)
            fvlm_alphabet_append_character(&encoder->spelled, (unsigned char)word[i]);
        if (encoder->spelled.failed)
            return false;
        int32_t id = fvlm_vocabulary_find(&tokenizer->vocabulary, encoder->spelled.data, encoder->spelled.length);
        if (id >= 0)
            return fvlm_ids_append(&encoder->ids, id);
    }
    return fvlm_bpe_encode(&tokenizer->merges, word, bytes, &encoder->bpe, &encoder->ids);
}

static fvlm_status encode_words(struct encoder *encoder, const char *text, size_t bytes)
{
    return fvlm_splitter_run(encoder->tokenizer->splitter, encoder->split, text, bytes, encode_word, encoder,
                             encoder->error);
}

static fvlm_status encode_raw(struct encoder *encoder, const char *text, size_t bytes);

/* Cut text [bytes] at the added tokens of `set`; what is between them goes to `rest`. */
static fvlm_status cut_at_added(struct encoder *encoder, const fvlm_added_set *set, const char *text, size_t bytes,
                                fvlm_status (*rest)(struct encoder *, const char *, size_t))
{
    size_t from = 0, start, end;
    for (const fvlm_added_token *token;
         (token = fvlm_added_find(&encoder->tokenizer->added, set, text, bytes, from, &start, &end)); from = end) {
        fvlm_status status = start > from ? rest(encoder, text + from, start - from) : FVLM_OK;
        if (status)
            return status;
        if (!fvlm_ids_append(&encoder->ids, token->id))
            return fvlm_fail_memory(encoder->error);
    }
    return from < bytes ? rest(encoder, text + from, bytes - from) : FVLM_OK;
}

/* A stretch of raw text without added tokens. */
static fvlm_status encode_raw(struct encoder *encoder, const char *text, size_t bytes)
{
    const fvlm_added_set *normalized = &encoder->tokenizer->added.normalized;
    if (!encoder->tokenizer->nfc || fvlm_normalize_is_plain(text, bytes))
        return cut_at_added(encoder, normalized, text, bytes, encode_words);
    fvlm_text_buffer buffer = {0};
    fvlm_status status = fvlm_normalize_nfc(&buffer, text, bytes, encoder->error);
    if (!status)
        status = cut_at_added(encoder, normalized, buffer.data, buffer.length, encode_words);
    fvlm_text_clear(&buffer);
    return status;
}

fvlm_status fvlm_tokenizer_encode(const fvlm_tokenizer *tokenizer, const char *text, size_t bytes, int32_t **ids,
                                  size_t *count, fvlm_error *error)
{
    *ids = NULL;
    *count = 0;
    if (bytes > MAX_TEXT)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "a text of %zu bytes; at most %zu can be tokenized at once", bytes,
                         MAX_TEXT);
    struct encoder encoder = {.tokenizer = tokenizer, .error = error};
    fvlm_text_buffer repaired = {0};
    fvlm_status status = fvlm_splitter_workspace_create(&encoder.split, error);
    if (status)
        goto out;
    if (!fvlm_utf8_valid(text, bytes)) {
        fvlm_utf8_append_replaced(&repaired, text, bytes, true);
        if (repaired.failed) {
            status = fvlm_fail_memory(error);
            goto out;
        }
        text = repaired.data;
        bytes = repaired.length;
    }
    status = cut_at_added(&encoder, &tokenizer->added.raw, text, bytes, encode_raw);
    if (status)
        goto out;
    if (!encoder.ids.data && !(encoder.ids.data = fvlm_calloc(1, sizeof *encoder.ids.data))) {
        status = fvlm_fail_memory(error);
        goto out;
    }
    *ids = encoder.ids.data;
    *count = encoder.ids.count;
    encoder.ids.data = NULL;
out:
    free(encoder.ids.data);
    fvlm_text_clear(&encoder.spelled);
    fvlm_text_clear(&repaired);
    fvlm_bpe_clear(&encoder.bpe);
    fvlm_splitter_workspace_destroy(&encoder.split);
    return status;
}

void fvlm_tokenizer_append_bytes(const fvlm_tokenizer *tokenizer, int32_t id, bool skip_special,
                                 fvlm_text_buffer *bytes)
{
    const fvlm_added_token *added = fvlm_added_by_id(&tokenizer->added, id);
    if (added) {
        if (!added->special || !skip_special)
            fvlm_alphabet_append_bytes(bytes, added->content, added->bytes);
        return;
    }
    size_t length;
    const char *token = fvlm_vocabulary_token(&tokenizer->vocabulary, id, &length);
    if (token)
        fvlm_alphabet_append_bytes(bytes, token, length);
}

fvlm_status fvlm_tokenizer_decode(const fvlm_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                                  char **text, size_t *bytes, fvlm_error *error)
{
    fvlm_text_buffer raw = {0}, whole = {0};
    for (size_t i = 0; i < count; i++)
        fvlm_tokenizer_append_bytes(tokenizer, ids[i], skip_special, &raw);
    if (!raw.failed)
        fvlm_utf8_append_replaced(&whole, raw.data, raw.length, true);
    if (bytes)
        *bytes = whole.length;
    *text = raw.failed ? NULL : fvlm_text_take(&whole);
    fvlm_text_clear(&raw);
    return *text ? FVLM_OK : fvlm_fail_memory(error);
}
