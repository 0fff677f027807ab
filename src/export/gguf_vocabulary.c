/* Vocabulary, added tokens and merges as arrays of metadata. */
#include "export/gguf_vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/tokenizer_parts.h"

/* Kinds of tokens, as llama.cpp counts them. */
enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };

static void put_tokens(fvlm_gguf_writer *writer, const fvlm_tokenizer *tokenizer, size_t rows)
{
    fvlm_gguf_put_array(writer, "tokenizer.ggml.tokens", FVLM_GGUF_STRING, rows);
    for (size_t id = 0; id < rows; id++) {
        const fvlm_added_token *added = fvlm_added_by_id(&tokenizer->added, (int32_t)id);
        size_t bytes;
        const char *text = fvlm_vocabulary_token(&tokenizer->vocabulary, (int32_t)id, &bytes);
        char unused[32]; /* embeddings have more rows than there are tokens */
        if (added) {
            text = added->content;
            bytes = added->bytes;
        } else if (!text) {
            bytes = (size_t)snprintf(unused, sizeof unused, "[PAD%zu]", id);
            text = unused;
        }
        fvlm_gguf_item_string(writer, text, bytes);
    }
    fvlm_gguf_put_array(writer, "tokenizer.ggml.token_type", FVLM_GGUF_I32, rows);
    for (size_t id = 0; id < rows; id++) {
        const fvlm_added_token *added = fvlm_added_by_id(&tokenizer->added, (int32_t)id);
        size_t bytes;
        bool known = fvlm_vocabulary_token(&tokenizer->vocabulary, (int32_t)id, &bytes);
        fvlm_gguf_item_i32(writer, added ? (added->special ? CONTROL : USER_DEFINED) : known ? NORMAL : UNUSED);
    }
}

static int compare_ranks(const void *a, const void *b)
{
    const fvlm_merge *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* "left right", the first that go first. */
static fvlm_status put_merges(fvlm_gguf_writer *writer, const fvlm_tokenizer *tokenizer, fvlm_error *error)
{
    const fvlm_merges *merges = &tokenizer->merges;
    fvlm_merge *sorted = fvlm_calloc(merges->used + 1, sizeof *sorted);
    fvlm_text_buffer text = {0};
    if (!sorted)
        return fvlm_fail_memory(error);
    size_t count = 0;
    for (size_t i = 0; i < merges->slot_count; i++)
        if (merges->slots[i].pair != FVLM_NO_PAIR)
            sorted[count++] = merges->slots[i];
    qsort(sorted, count, sizeof *sorted, compare_ranks);
    fvlm_gguf_put_array(writer, "tokenizer.ggml.merges", FVLM_GGUF_STRING, count);
    for (size_t i = 0; i < count && !text.failed; i++) {
        size_t left_bytes, right_bytes;
        const char *left = fvlm_vocabulary_token(&tokenizer->vocabulary, (int32_t)(sorted[i].pair >> 32), &left_bytes);
        const char *right =
            fvlm_vocabulary_token(&tokenizer->vocabulary, (int32_t)(sorted[i].pair & UINT32_MAX), &right_bytes);
        text.length = 0;
        fvlm_text_append(&text, left, left_bytes);
        fvlm_text_append(&text, " ", 1);
        fvlm_text_append(&text, right, right_bytes);
        fvlm_gguf_item_string(writer, text.data, text.length);
    }
    bool failed = text.failed;
    fvlm_text_clear(&text);
    free(sorted);
    return failed ? fvlm_fail_memory(error) : FVLM_OK;
}

fvlm_status fvlm_gguf_put_tokenizer(fvlm_gguf_writer *writer, const fvlm_tokenizer *tokenizer, int32_t end, size_t rows,
                                    fvlm_error *error)
{
    fvlm_gguf_put_string(writer, "tokenizer.ggml.model", "gpt2", 4);
    fvlm_gguf_put_string(writer, "tokenizer.ggml.pre", "qwen2", 5);
    put_tokens(writer, tokenizer, rows);
    fvlm_status status = put_merges(writer, tokenizer, error);
    int32_t pad = fvlm_tokenizer_special(tokenizer, "<|endoftext|>");
    if (end >= 0)
        fvlm_gguf_put_u32(writer, "tokenizer.ggml.eos_token_id", (uint32_t)end);
    if (pad >= 0) {
        fvlm_gguf_put_u32(writer, "tokenizer.ggml.padding_token_id", (uint32_t)pad);
        fvlm_gguf_put_u32(writer, "tokenizer.ggml.bos_token_id", (uint32_t)pad);
    }
    fvlm_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", false);
    return status;
}
