/* Byte-pair merging: which two neighbouring tokens become one, and in which order. */
#ifndef FVLM_TEXT_BPE_H
#define FVLM_TEXT_BPE_H

#include "text/vocabulary.h"

#define FVLM_NO_PAIR UINT64_MAX

typedef struct fvlm_merge {
    uint64_t pair; /* left << 32 | right; FVLM_NO_PAIR: free */
    int32_t rank;  /* low ranks go first */
    int32_t id;    /* of the token that the pair becomes */
} fvlm_merge;

typedef struct fvlm_merges {
    fvlm_merge *slots; /* [slot_count], a power of two; open addressing by the pair */
    size_t slot_count, used;
    int32_t next_rank;
    int32_t last_id;         /* of the merge added last */
    int32_t byte_token[256]; /* the token of each byte, or -1 */
} fvlm_merges;

/* Start: look up the 256 bytes. */
fvlm_status fvlm_merges_begin(fvlm_merges *merges, const fvlm_vocabulary *vocabulary, fvlm_error *error);
/* Add the merge of two tokens, which ranks behind those before. Both and what they become must be in the vocabulary.
 * `name` is the file's, for errors. */
fvlm_status fvlm_merges_add(fvlm_merges *merges, const fvlm_vocabulary *vocabulary, const char *left, size_t left_bytes,
                            const char *right, size_t right_bytes, const char *name, fvlm_error *error);
void fvlm_merges_clear(fvlm_merges *merges);

/* A growing row of ids. */
typedef struct fvlm_ids {
    int32_t *data; /* [count] of capacity */
    size_t count, capacity;
} fvlm_ids;

/* Workspace of one caller; zero it at first, keep it for many words, free with fvlm_bpe_clear. */
typedef struct fvlm_bpe_workspace {
    char *memory;
    size_t bytes;
} fvlm_bpe_workspace;

/* Append the tokens of a word [bytes]; bytes without a token of their own are left out, as the tokenizers library
 * does without an unknown token. n log n in the word's length. False when out of memory. */
bool fvlm_bpe_encode(const fvlm_merges *merges, const char *word, size_t bytes, fvlm_bpe_workspace *workspace,
                     fvlm_ids *ids);
void fvlm_bpe_clear(fvlm_bpe_workspace *workspace);
bool fvlm_ids_append(fvlm_ids *ids, int32_t id);

#endif
