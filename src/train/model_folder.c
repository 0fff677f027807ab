/* A model's folder: its small files copied, its tensors under the names and in the types that they came in, but for
 * GGUF's blocks. */
#include "train/model_folder.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/weights.h"

fvlm_status fvlm_model_folder_copy(const fvlm_source *source, const char *folder, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; fvlm_small_files[i] && !status; i++)
        status = fvlm_bundle_copy(&source->files, fvlm_small_files[i], folder, error);
    return status;
}

/* Write values [count] in a float type, a run at a time. */
static fvlm_status write_converted(fvlm_writer *writer, const float *values, size_t count, fvlm_dtype type,
                                   fvlm_error *error)
{
    enum { RUN = 4096 };
    double run[RUN];
    fvlm_status status = FVLM_OK;
    for (size_t first = 0, n; first < count && !status; first += n) {
        n = count - first < RUN ? count - first : RUN;
        for (size_t i = 0; i < n; i++) {
            float value = values[first + i];
            if (type == FVLM_F64)
                run[i] = (double)value;
            else if (type == FVLM_F32)
                ((float *)run)[i] = value;
            else
                ((uint16_t *)run)[i] = type == FVLM_BF16 ? fvlm_bf16_from_float(value) : fvlm_f16_from_float(value);
        }
        status = fvlm_writer_write(writer, run, n * fvlm_dtype_bytes(type), error);
    }
    return status;
}

bool fvlm_block_matrix(const fvlm_tensor *tensor, fvlm_matrix *matrix)
{
    size_t bytes, block = fvlm_dtype_block(tensor->type, &bytes);
    if (block == 0)
        return false;
    size_t cols = tensor->shape[tensor->rank - 1];
    *matrix = (fvlm_matrix){.type = tensor->type,
                            .rows = cols ? tensor->bytes / bytes * block / cols : 0,
                            .cols = cols,
                            .data = tensor->data};
    return true;
}

static fvlm_status write_blocks(fvlm_writer *writer, const fvlm_matrix *matrix, fvlm_dtype type, fvlm_error *error)
{
    float *row = fvlm_calloc(matrix->cols + 1, sizeof *row);
    fvlm_status status = row ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0; i < matrix->rows && !status; i++) {
        fvlm_matrix_row(matrix, i, row);
        status = write_converted(writer, row, matrix->cols, type, error);
    }
    free(row);
    return status;
}

/* The tensors under the names of the files; *own is to be destroyed where it is not NULL. */
static fvlm_status open_named(const fvlm_source *source, fvlm_tensor_table **own, const fvlm_tensor_table **table,
                              fvlm_error *error)
{
    *own = NULL;
    *table = source->table;
    if (!source->config.fast_vlm)
        return FVLM_OK;
    const char *layout;
    fvlm_status status = fvlm_tensor_table_create(own, error);
    if (!status)
        status = fvlm_checkpoint_read(*own, source->path, &layout, error);
    *table = *own;
    return status;
}

fvlm_status fvlm_model_folder_write(const fvlm_source *source, fvlm_replace_fn replace, void *user, const char *folder,
                                    fvlm_error *error)
{
    fvlm_tensor_table *own;
    const fvlm_tensor_table *table;
    fvlm_status status = fvlm_model_folder_copy(source, folder, error);
    if (!status)
        status = open_named(source, &own, &table, error);
    if (status)
        return status;
    size_t count = fvlm_tensor_table_count(table);
    fvlm_tensor *tensors = fvlm_calloc(count + 1, sizeof *tensors);
    char *path = fvlm_path_join(folder, "model.safetensors");
    fvlm_writer *writer = NULL;
    if (!tensors || !path)
        status = fvlm_fail_memory(error);
    for (size_t i = 0; i < count && !status; i++) {
        tensors[i] = *fvlm_tensor_table_at(table, i);
        fvlm_matrix blocks;
        if (fvlm_block_matrix(&tensors[i], &blocks)) {
            tensors[i].type = FVLM_F16;
            tensors[i].bytes = blocks.rows * blocks.cols * fvlm_dtype_bytes(FVLM_F16);
        }
    }
    if (!status)
        status = fvlm_safetensors_begin(path, "pt", tensors, count, &writer, error);
    for (size_t i = 0; i < count && !status; i++) {
        const fvlm_tensor *tensor = &tensors[i], *stored = fvlm_tensor_table_at(table, i);
        fvlm_matrix blocks;
        char name[FVLM_MAX_NAME];
        bool renamed = own && fvlm_rename_fast_vlm(tensor->name, name, sizeof name);
        const float *values = replace(user, renamed ? name : tensor->name, stored);
        if (values)
            status =
                write_converted(writer, values, tensor->bytes / fvlm_dtype_bytes(tensor->type), tensor->type, error);
        else if (fvlm_block_matrix(stored, &blocks))
            status = write_blocks(writer, &blocks, tensor->type, error);
        else
            status = fvlm_writer_write(writer, tensor->data, tensor->bytes, error);
    }
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    free(tensors);
    free(path);
    fvlm_tensor_table_destroy(&own);
    return status;
}
