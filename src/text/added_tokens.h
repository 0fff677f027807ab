/* Tokens beside the vocabulary, such as <|im_end|>, which are looked for in the text before anything else. */
#ifndef FVLM_TEXT_ADDED_TOKENS_H
#define FVLM_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct fvlm_added_token {
    char *content; /* NUL-terminated, owned */
    size_t bytes;  /* of content, which may hold NULs */
    int32_t id;
    bool special;     /* left out of an answer's text */
    bool normalized;  /* looked for in the normalised text instead of the raw one, its content normalised too */
    bool single_word; /* only between characters that are not \w */
    bool lstrip;      /* takes the white space on its left */
    bool rstrip;      /* and on its right */
} fvlm_added_token;

/* What the matcher walks: every token of one kind, sorted by its bytes. */
typedef struct fvlm_added_set {
    struct fvlm_added_key {
        char *text; /* [bytes], owned: content, or its normalised form */
        size_t bytes;
        int32_t token; /* index into tokens */
    } * keys;
    size_t count;
    uint32_t first[257]; /* keys [first[b], first[b + 1]) begin with byte b */
} fvlm_added_set;

typedef struct fvlm_added_tokens {
    fvlm_added_token *tokens; /* [count] of capacity, in no order until fvlm_added_finish, then by id */
    size_t count, capacity;
    fvlm_added_set raw, normalized;
} fvlm_added_tokens;

/* Add `token` (content is copied); one with the same content is replaced. Empty contents are passed over. */
fvlm_status fvlm_added_add(fvlm_added_tokens *added, const fvlm_added_token *token, const char *name,
                           fvlm_error *error);
/* Build the sets once all are there. `nfc`: contents of normalised tokens are put into that form. */
fvlm_status fvlm_added_finish(fvlm_added_tokens *added, bool nfc, const char *name, fvlm_error *error);
void fvlm_added_clear(fvlm_added_tokens *added);

const fvlm_added_token *fvlm_added_by_id(const fvlm_added_tokens *added, int32_t id);
const fvlm_added_token *fvlm_added_by_content(const fvlm_added_tokens *added, const char *content, size_t bytes);

/* The first token of `set` in text [bytes] from `from` on, the longest of those that start there. Its place is
 * [*start, *end), widened by what lstrip and rstrip take, but not to the left of `from`. NULL when there is none. */
const fvlm_added_token *fvlm_added_find(const fvlm_added_tokens *added, const fvlm_added_set *set, const char *text,
                                        size_t bytes, size_t from, size_t *start, size_t *end);

#endif
