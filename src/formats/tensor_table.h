/* The table of named tensors that every checkpoint format opens into. */
#ifndef FVLM_FORMATS_TENSOR_TABLE_H
#define FVLM_FORMATS_TENSOR_TABLE_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"
#include "base/file.h"
#include "kernels/matrix.h"

#define FVLM_MAX_RANK 8

typedef struct fvlm_tensor {
    const char *name; /* owned by the table */
    fvlm_dtype type;
    int rank;
    size_t shape[FVLM_MAX_RANK];
    size_t bytes;     /* of data: the product of shape times the element's size, or of its blocks */
    const void *data; /* row major; into a mapping, or memory that the table owns. May be unaligned */
} fvlm_tensor;

/* Owns its mappings, names and converted data. Not thread safe while tensors are added; read-only afterwards. */
typedef struct fvlm_tensor_table fvlm_tensor_table;

fvlm_status fvlm_tensor_table_create(fvlm_tensor_table **table, fvlm_error *error);
void fvlm_tensor_table_destroy(fvlm_tensor_table **table);

size_t fvlm_tensor_table_count(const fvlm_tensor_table *table);
/* The i-th tensor, in the order in which they were added. */
const fvlm_tensor *fvlm_tensor_table_at(const fvlm_tensor_table *table, size_t index);
/* NULL where there is none of that name. */
const fvlm_tensor *fvlm_tensor_table_find(const fvlm_tensor_table *table, const char *name);

/* Give every tensor the name that `rename` writes into `to` [to_size] (false: keep the name). Two tensors of one name
 * are an error. */
typedef bool (*fvlm_rename_fn)(const char *from, char *to, size_t to_size);
fvlm_status fvlm_tensor_table_rename(fvlm_tensor_table *table, fvlm_rename_fn rename, fvlm_error *error);

/* Give the i-th tensor another shape or other data; the name stays. */
void fvlm_tensor_table_replace(fvlm_tensor_table *table, size_t index, const fvlm_tensor *tensor);

/* Tell the system that the tensor's bytes are no longer needed in memory; they are read again when they are. */
void fvlm_tensor_table_forget(const fvlm_tensor_table *table, const void *data, size_t bytes);

/* For the readers: add a tensor (the name is copied; a duplicate name is FVLM_ERROR_FORMAT that names `path`); hand a
 * mapping over; allocate memory that lives as long as the table. */
fvlm_status fvlm_tensor_table_add(fvlm_tensor_table *table, const fvlm_tensor *tensor, const char *path,
                                  fvlm_error *error);
fvlm_status fvlm_tensor_table_own(fvlm_tensor_table *table, fvlm_mapping *mapping, fvlm_error *error);
void *fvlm_tensor_table_alloc(fvlm_tensor_table *table, size_t bytes);
/* *bytes that values of `type` in `shape` [rank] take; false when the product overflows, or rows are not whole blocks.
 */
bool fvlm_dtype_size(fvlm_dtype type, int rank, const size_t *shape, size_t *bytes);
/* Set tensor->bytes from its type and shape; false when the product overflows. */
bool fvlm_tensor_measure(fvlm_tensor *tensor);

/* The readers: each adds the file's tensors to `table`. A failed call leaves a table that is only good for destroying.
 * mlpackage: `path` is the .mlpackage folder; the tensors get the names of LLaVA checkpoints
 * (model.vision_tower.vision_tower.model....); where the program had batch norm folded into a convolution, the
 * convolution gets a bias and there are no bn tensors. */
fvlm_status fvlm_safetensors_read(fvlm_tensor_table *table, const char *path, fvlm_error *error);
fvlm_status fvlm_pickle_read(fvlm_tensor_table *table, const char *path, fvlm_error *error);
fvlm_status fvlm_mlpackage_read(fvlm_tensor_table *table, const char *path, fvlm_error *error);

/* The same on bytes in memory, which must outlive the table; `path` is for messages. */
fvlm_status fvlm_safetensors_parse(fvlm_tensor_table *table, const uint8_t *data, size_t size, const char *path,
                                   fvlm_error *error);
fvlm_status fvlm_pickle_parse(fvlm_tensor_table *table, const uint8_t *data, size_t size, const char *path,
                              fvlm_error *error);
/* `model` is the .mlmodel file, `weights` is weights/weight.bin; NULL where there is none. */
fvlm_status fvlm_mlpackage_parse(fvlm_tensor_table *table, const uint8_t *model, size_t model_size,
                                 const uint8_t *weights, size_t weights_size, const char *path, fvlm_error *error);
/* What the package says of itself, as fvlm_mil_metadata (formats/mil.h) has it; the caller owns *metadata. */
fvlm_status fvlm_mlpackage_metadata(const char *path, json_t **metadata, fvlm_error *error);

/* Every weight file of a checkpoint folder: model.safetensors, or the shards of model.safetensors.index.json, or
 * pytorch_model.bin, or the shards of pytorch_model.bin.index.json, and a *.mlpackage where there is one. *layout says
 * which: "safetensors" or "bin"; static. */
fvlm_status fvlm_checkpoint_read(fvlm_tensor_table *table, const char *folder, const char **layout, fvlm_error *error);

/* Begin a safetensors file: the header, with `format` ("pt", "mlx") as its metadata. The caller then writes the data of
 * tensors [count] in their order, whose own `data` is not looked at, and commits. */
fvlm_status fvlm_safetensors_begin(const char *path, const char *format, const fvlm_tensor *tensors, size_t count,
                                   fvlm_writer **writer, fvlm_error *error);
/* Write tensors [count], of F32, F16 or BF16, as torch.load reads them: a dictionary by name. */
fvlm_status fvlm_torch_write(const char *path, const fvlm_tensor *tensors, size_t count, fvlm_error *error);
/* Write tensors [count] to a safetensors file, put in place only when it is whole. */
fvlm_status fvlm_safetensors_write(const char *path, const fvlm_tensor *tensors, size_t count, fvlm_error *error);

#endif
