/* Opening a model for export: config, tensors, tokenizer's ids; a trial load finds what is missing or misshapen. */
#include "export/export_source.h"

#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "model/decoder.h"
#include "model/projector.h"
#include "model/vision.h"
#include "text/tokenizer.h"

#define CONFIG_LIMIT ((size_t)16 << 20)

const char *fvlm_export_after(const char *name, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(name, prefix, length) == 0 ? name + length : NULL;
}

bool fvlm_export_ends_in(const char *name, const char *suffix)
{
    size_t length = strlen(name), tail = strlen(suffix);
    return length >= tail && strcmp(name + length - tail, suffix) == 0;
}

/* Layouts write a 1x1 convolution as a matrix or with ones behind it, and a vector with ones around it: give the
 * tower's tensors the shapes that LLaVA checkpoints have. */
static void shape_tower(fvlm_tensor_table *table)
{
    for (size_t i = 0; i < fvlm_tensor_table_count(table); i++) {
        fvlm_tensor tensor = *fvlm_tensor_table_at(table, i);
        const char *name = fvlm_export_after(tensor.name, FVLM_TOWER_PREFIX);
        if (!name || tensor.bytes == 0 || fvlm_dtype_bytes(tensor.type) == 0)
            continue;
        size_t count = tensor.bytes / fvlm_dtype_bytes(tensor.type);
        bool matrix =
            fvlm_export_ends_in(name, "token_mixer.qkv.weight") || fvlm_export_ends_in(name, "token_mixer.proj.weight");
        if (strstr(name, "layer_scale")) {
            tensor.rank = 3;
            tensor.shape[0] = count;
            tensor.shape[1] = tensor.shape[2] = 1;
        } else if (tensor.rank != 0 &&
                   (!fvlm_export_ends_in(name, ".weight") || strstr(name, ".bn.") || strstr(name, ".norm."))) {
            tensor.rank = 1;
            tensor.shape[0] = count;
        } else if (matrix && tensor.rank > 2) {
            tensor.rank = 2;
            tensor.shape[1] = count / tensor.shape[0];
        } else if (!matrix && tensor.rank == 2) {
            tensor.rank = 4;
            tensor.shape[2] = tensor.shape[3] = 1;
        }
        fvlm_tensor_table_replace(table, i, &tensor);
    }
}

/* Load the model as an engine does, where it lies, and forget it. */
static fvlm_status check_weights(const fvlm_export_source *source, fvlm_error *error)
{
    const fvlm_config *config = source->config;
    fvlm_arena *arena = fvlm_arena_create();
    if (!arena)
        return fvlm_fail_memory(error);
    fvlm_loader loader = {.table = source->table,
                          .arena = arena,
                          .pool = source->pool,
                          .quantized_bits = config->quantized_bits,
                          .quantized_group = config->quantized_group,
                          .in_place = true,
                          .error = error};
    fvlm_vision *vision = fvlm_vision_load(&loader, &config->vision, FVLM_PRECISION_FP32);
    if (vision)
        fvlm_projector_load(&loader, config, fvlm_vision_width(vision), config->decoder.hidden);
    fvlm_decoder_load(&loader, &config->decoder, 1, FVLM_F32);
    fvlm_arena_destroy(&arena);
    return loader.status;
}

/* A token for `<image>`: the embeddings have rows behind the tokenizer's last id. */
static fvlm_status find_image_token(fvlm_export_source *source, fvlm_error *error)
{
    fvlm_tokenizer *tokenizer;
    fvlm_status status = fvlm_tokenizer_read(&source->model->files, &tokenizer, error);
    if (status)
        return status;
    source->image_token = fvlm_tokenizer_special(tokenizer, "<image>");
    source->image_token_free = source->image_token < 0;
    if (source->image_token_free)
        source->image_token = fvlm_tokenizer_size(tokenizer);
    fvlm_tokenizer_close(&tokenizer);
    return FVLM_OK;
}

fvlm_status fvlm_export_source_open(const char *path, int threads, fvlm_export_source *source, fvlm_error *error)
{
    *source = (fvlm_export_source){0};
    if (!path || !path[0])
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no model given");
    fvlm_status status = fvlm_source_open(path, &source->model, error);
    if (status)
        return status;
    source->config = &source->model->config;
    source->table = source->model->table;
    source->own_head = fvlm_tensor_table_find(source->table, "lm_head.weight");
    shape_tower(source->table);
    status = fvlm_json_read_bundle(&source->model->files, "config.json", CONFIG_LIMIT, &source->json, error);
    if (!status)
        status = fvlm_pool_create(threads > 0 ? threads : fvlm_cpu_count(), &source->pool, error);
    if (!status)
        status = check_weights(source, error);
    return status ? status : find_image_token(source, error);
}

void fvlm_export_source_close(fvlm_export_source *source)
{
    json_decref(source->json);
    fvlm_source_close(&source->model);
    fvlm_pool_destroy(&source->pool);
    *source = (fvlm_export_source){0};
}

fvlm_status fvlm_export_find_matrix(const fvlm_source *source, fvlm_arena *arena, const fvlm_tensor *tensor,
                                    fvlm_matrix *matrix, fvlm_error *error)
{
    char scales[FVLM_MAX_NAME];
    *matrix = (fvlm_matrix){.type = tensor->type, .data = tensor->data, .rows = 1, .cols = 1};
    matrix->rows = tensor->rank > 0 ? tensor->shape[0] : 1;
    for (int i = 1; i < tensor->rank; i++)
        matrix->cols *= tensor->shape[i];
    size_t length = strlen(tensor->name), bits = source->config.quantized_bits;
    if (fvlm_export_ends_in(tensor->name, ".weight") && length < sizeof scales) {
        int stem = (int)(length - strlen(".weight"));
        snprintf(scales, sizeof scales, "%.*s.scales", stem, tensor->name);
        if (fvlm_tensor_table_find(source->table, scales)) {
            fvlm_loader loader = {.table = source->table,
                                  .arena = arena,
                                  .quantized_bits = bits,
                                  .quantized_group = source->config.quantized_group,
                                  .in_place = true,
                                  .error = error};
            *matrix = fvlm_load_matrix(&loader, matrix->rows, bits ? matrix->cols * 32 / bits : 0, "%.*s", stem,
                                       tensor->name);
            if (loader.status)
                return loader.status;
        }
    }
    if (matrix->cols > FVLM_EXPORT_MAX_ROW)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "tensor %s: rows of more than %zu values", tensor->name,
                         FVLM_EXPORT_MAX_ROW);
    return FVLM_OK;
}

fvlm_status fvlm_export_job_open(const fvlm_export_options *options, const char *mark, fvlm_export_job *job,
                                 fvlm_error *error)
{
    *job = (fvlm_export_job){0};
    fvlm_status status = fvlm_export_source_open(options->model, options->threads, &job->source, error);
    if (!status)
        status = fvlm_export_folder_open(options->output, mark, options->model, &job->folder, error);
    return status;
}

fvlm_status fvlm_export_job_end(fvlm_export_job *job, fvlm_status status, fvlm_error *error)
{
    if (!status)
        status = fvlm_export_folder_commit(&job->folder, error);
    fvlm_export_folder_close(&job->folder);
    fvlm_export_source_close(&job->source);
    return status;
}
