/* GGUF: the single-file format of ggml and llama.cpp.
 *
 *   "GGUF", u32 version 3, u64 tensor count, u64 value count
 *   values:  key, u32 type, value                           (a string: u64 length, bytes)
 *   tensors: name, u32 rank, u64 dims[rank] innermost first, u32 type, u64 offset from the data's start
 *   padding to general.alignment (32 when absent), then the data, each tensor aligned
 */
#ifndef FVLM_FORMATS_GGUF_H
#define FVLM_FORMATS_GGUF_H

#include "base/memory.h"
#include "formats/tensor_table.h"

typedef enum fvlm_gguf_type { /* of values: the file's numbers */
                              FVLM_GGUF_U8 = 0,
                              FVLM_GGUF_I8,
                              FVLM_GGUF_U16,
                              FVLM_GGUF_I16,
                              FVLM_GGUF_U32,
                              FVLM_GGUF_I32,
                              FVLM_GGUF_F32,
                              FVLM_GGUF_BOOL,
                              FVLM_GGUF_STRING,
                              FVLM_GGUF_ARRAY,
                              FVLM_GGUF_U64,
                              FVLM_GGUF_I64,
                              FVLM_GGUF_F64
} fvlm_gguf_type;

/* "u32", "string", ...; static. */
const char *fvlm_gguf_type_name(fvlm_gguf_type type);

/* One entry of the metadata. */
typedef struct fvlm_gguf_value {
    const char *key;
    fvlm_gguf_type type; /* never ARRAY: that is `array` */
    bool array;
    uint64_t count;      /* of the array's items; 1 otherwise */
    const uint8_t *data; /* as in the file: unaligned; strings each behind their u64 length */
    size_t bytes;        /* of data */
} fvlm_gguf_value;

/* A number type of tensors in the file, as ggml counts them. */
typedef struct fvlm_gguf_tensor_type {
    const char *name;          /* "Q4_K"; NULL: not known here */
    size_t block, block_bytes; /* elements of a block, and its bytes */
    bool supported;            /* ... as `dtype` */
    fvlm_dtype dtype;
} fvlm_gguf_tensor_type;

typedef struct fvlm_gguf_tensor {
    const char *name;
    uint32_t type_id;
    fvlm_gguf_tensor_type type;
    int rank;
    size_t shape[FVLM_MAX_RANK]; /* outermost first, as everywhere in this project */
    const uint8_t *data;
    size_t bytes; /* 0 for a type that is not known */
} fvlm_gguf_tensor;

typedef struct fvlm_gguf {
    const char *path;
    unsigned version;
    size_t alignment;
    fvlm_gguf_value *values; /* [value_count] */
    size_t value_count;
    fvlm_gguf_tensor *tensors; /* [tensor_count] */
    size_t tensor_count;
    fvlm_mapping mapping;
    fvlm_arena *arena;
} fvlm_gguf;

/* True where the file at `path` begins as GGUF does. */
bool fvlm_gguf_is(const char *path);
/* Map the file and check its whole header: every length, type, name and range. The caller owns *gguf. */
fvlm_status fvlm_gguf_open(const char *path, fvlm_gguf **gguf, fvlm_error *error);
/* The same on bytes in memory, which must outlive *gguf; `path` is for messages. */
fvlm_status fvlm_gguf_parse(const uint8_t *data, size_t size, const char *path, fvlm_gguf **gguf, fvlm_error *error);
void fvlm_gguf_close(fvlm_gguf **gguf);

/* The file's number of a type that kernels read; false where the format has none. */
bool fvlm_gguf_dtype(fvlm_dtype type, uint32_t *id);

/* NULL where there is none. */
const fvlm_gguf_value *fvlm_gguf_find(const fvlm_gguf *gguf, const char *key);
/* The next string of a string value: *at is 0 at first. *text [*bytes] is not NUL-terminated. */
void fvlm_gguf_string(const fvlm_gguf_value *value, size_t *at, const char **text, size_t *bytes);
/* The number at `index` of a value that is no string. */
double fvlm_gguf_number(const fvlm_gguf_value *value, uint64_t index);

/* Add the tensors to `table`; they point into *gguf, which must outlive it. A type that no kernel reads is an error. */
fvlm_status fvlm_gguf_add_tensors(const fvlm_gguf *gguf, fvlm_tensor_table *table, fvlm_error *error);

/* A file that is being written: values, then the list of tensors, then their data in the same order, in pieces of any
 * size, so that a model never has to be in memory. Errors of the put functions come with the first data. */
typedef struct fvlm_gguf_writer fvlm_gguf_writer;
fvlm_status fvlm_gguf_writer_open(const char *path, fvlm_gguf_writer **writer, fvlm_error *error);
void fvlm_gguf_put_u32(fvlm_gguf_writer *writer, const char *key, uint32_t value);
void fvlm_gguf_put_f32(fvlm_gguf_writer *writer, const char *key, float value);
void fvlm_gguf_put_bool(fvlm_gguf_writer *writer, const char *key, bool value);
void fvlm_gguf_put_string(fvlm_gguf_writer *writer, const char *key, const char *text, size_t bytes);
/* An array, whose `count` items follow. */
void fvlm_gguf_put_array(fvlm_gguf_writer *writer, const char *key, fvlm_gguf_type type, uint64_t count);
void fvlm_gguf_item_string(fvlm_gguf_writer *writer, const char *text, size_t bytes);
void fvlm_gguf_item_i32(fvlm_gguf_writer *writer, int32_t value);
void fvlm_gguf_item_f32(fvlm_gguf_writer *writer, float value);
/* Announce a tensor. */
void fvlm_gguf_put_tensor(fvlm_gguf_writer *writer, const char *name, fvlm_dtype type, int rank, const size_t *shape);
/* The next `bytes` of the data of the current tensor; what a tensor's size asks for must come exactly. */
fvlm_status fvlm_gguf_write(fvlm_gguf_writer *writer, const void *data, size_t bytes, fvlm_error *error);
/* Put the file in place, free. On failure the old file stays as it was. */
fvlm_status fvlm_gguf_writer_commit(fvlm_gguf_writer **writer, fvlm_error *error);
void fvlm_gguf_writer_abort(fvlm_gguf_writer **writer);

#endif
