/* From named tensors to what kernels read: matrices that stay mapped, vectors as float32.
 *
 * A loader keeps the first error; later calls return NULL or an empty matrix and do nothing, so a constructor loads
 * everything and checks the status once.
 */
#ifndef FVLM_MODEL_WEIGHTS_H
#define FVLM_MODEL_WEIGHTS_H

#include "base/memory.h"
#include "base/pool.h"
#include "formats/tensor_table.h"
#include "model/config.h"

#define FVLM_MAX_NAME 256

typedef struct fvlm_loader {
    const fvlm_tensor_table *table;
    fvlm_arena *arena;     /* what must be converted or reordered lives here */
    fvlm_pool *pool;       /* for packing */
    size_t quantized_bits; /* MLX: of matrices with scales */
    size_t quantized_group;
    bool in_place;              /* leave matrices that are not aligned where they lie, for readers that do not mind */
    uint64_t parameters, bytes; /* counts of what was loaded: weights, and their stored size */
    fvlm_status status;
    fvlm_error *error;
} fvlm_loader;

/* True where the tensor "name" exists. Names are printf formats here and below. */
bool fvlm_loader_has(const fvlm_loader *loader, const char *name, ...) FVLM_PRINTF(2, 3);

/* float32 [count], whatever the stored type and shape (the product must be count). Mapped where it can be. */
const float *fvlm_load_vector(fvlm_loader *loader, size_t count, const char *name, ...) FVLM_PRINTF(3, 4);

/* A view of "name.weight" [rows, cols] (or [rows, cols, 1, 1]), with "name.scales" and "name.biases" where the
 * checkpoint has them. */
fvlm_matrix fvlm_load_matrix(fvlm_loader *loader, size_t rows, size_t cols, const char *name, ...) FVLM_PRINTF(4, 5);

/* count floats in the arena, or NULL (out of memory, or an earlier error). */
float *fvlm_loader_alloc(fvlm_loader *loader, size_t count);

/* Open the weights of a checkpoint folder, under the names and in the shapes of LLaVA checkpoints, quantised ones as
 * they are. *layout is fvlm_engine_info's; static. The caller destroys *table, which may be set after an error too. */
fvlm_status fvlm_weights_open(const char *folder, const fvlm_config *config, fvlm_tensor_table **table,
                              const char **layout, fvlm_error *error);
/* The name of a tensor of transformers' fast_vlm in LLaVA checkpoints; false where it has the same: for
 * fvlm_tensor_table_rename. */
bool fvlm_rename_fast_vlm(const char *from, char *to, size_t to_size);

#endif
