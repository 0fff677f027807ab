/* The stack machine that runs the pickle of a PyTorch checkpoint.
 *
 * It knows the opcodes and the globals that weights need and no others; nothing is ever executed or imported. A value
 * is a node; a tensor node knows its storage, offset, shape and strides.
 */
#ifndef FVLM_FORMATS_PICKLE_MACHINE_H
#define FVLM_FORMATS_PICKLE_MACHINE_H

#include "base/error.h"
#include "base/memory.h"
#include "kernels/matrix.h"

typedef enum fvlm_pickle_kind {
    FVLM_PICKLE_MARK,
    FVLM_PICKLE_NONE,
    FVLM_PICKLE_NUMBER,
    FVLM_PICKLE_TEXT,
    FVLM_PICKLE_GLOBAL,
    FVLM_PICKLE_TUPLE,
    FVLM_PICKLE_DICT,
    FVLM_PICKLE_OTHER,
    FVLM_PICKLE_STORAGE,
    FVLM_PICKLE_TENSOR
} fvlm_pickle_kind;

typedef struct fvlm_pickle_node fvlm_pickle_node;
struct fvlm_pickle_node {
    fvlm_pickle_kind kind;
    int meaning;                       /* GLOBAL: the machine's */
    fvlm_dtype type;                   /* STORAGE, TENSOR; GLOBAL of a number type */
    int64_t number;                    /* NUMBER; STORAGE: its elements; TENSOR: its first element in the storage */
    const char *text;                  /* TEXT [length], STORAGE's key [length]; not NUL-terminated */
    size_t length;                     /* of text; items of a TUPLE; pairs of a DICT */
    fvlm_pickle_node **items;          /* TUPLE [length]; DICT [2 * length]: key, value, key, value... */
    size_t capacity;                   /* DICT: pairs that fit */
    fvlm_pickle_node *storage;         /* TENSOR */
    fvlm_pickle_node *shape, *strides; /* TENSOR: tuples of as many numbers, none negative, at most FVLM_MAX_RANK */
};

/* Run code[size]: *root is what it leaves, in `arena`; texts point into the code. `path` is for messages. */
fvlm_status fvlm_pickle_run(const uint8_t *code, size_t size, const char *path, fvlm_arena *arena,
                            const fvlm_pickle_node **root, fvlm_error *error);

#endif
