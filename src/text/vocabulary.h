/* The token strings of a byte-level BPE and their ids, both ways.
 *
 * Files spell a token's bytes in the "byte alphabet" of GPT-2: each byte is one printable character (bytes that print
 * stand for themselves as Latin-1, the other 68 are U+0100 and on), so that space is U+0120 and newline U+010A. Tokens
 * are kept as the files spell them. */
#ifndef FVLM_TEXT_VOCABULARY_H
#define FVLM_TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text_buffer.h"

/* Ids are below this: ten times the largest vocabulary in use, and small enough that a file cannot ask for much. */
#define FVLM_TOKEN_LIMIT (1 << 21)

typedef struct fvlm_token_text {
    uint32_t offset, bytes; /* into `text`; bytes 0: no token has this id */
} fvlm_token_text;

typedef struct fvlm_vocabulary_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
} fvlm_vocabulary_slot;

typedef struct fvlm_vocabulary {
    fvlm_text_buffer text;       /* every token behind the other */
    fvlm_token_text *tokens;     /* [id_count] of id_capacity, by id */
    fvlm_vocabulary_slot *slots; /* [slot_count], a power of two; open addressing by the token's string */
    size_t id_count, id_capacity, slot_count, used;
} fvlm_vocabulary;

/* Add a token; both string and id must be new. `name` is the file's, for errors. Start from a zeroed vocabulary. */
fvlm_status fvlm_vocabulary_add(fvlm_vocabulary *vocabulary, const char *token, size_t bytes, int32_t id,
                                const char *name, fvlm_error *error);
void fvlm_vocabulary_clear(fvlm_vocabulary *vocabulary);

/* The token's id, or -1. */
int32_t fvlm_vocabulary_find(const fvlm_vocabulary *vocabulary, const char *token, size_t bytes);

/* The string of a token, not NUL-terminated, or NULL when no token has this id. */
const char *fvlm_vocabulary_token(const fvlm_vocabulary *vocabulary, int32_t id, size_t *bytes);

/* The byte alphabet: append the character of a byte; append the bytes that a token's characters spell. A token with a
 * character outside the alphabet stands for its own UTF-8, as in the tokenizers library. */
void fvlm_alphabet_append_character(fvlm_text_buffer *buffer, unsigned char byte);
void fvlm_alphabet_append_bytes(fvlm_text_buffer *buffer, const char *token, size_t bytes);

#endif
