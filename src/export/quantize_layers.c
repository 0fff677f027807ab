/* One layer after the other: its inputs' gram matrices, the matrices rounded by them, a file with the results.
 *
 * A file says what it was made of: a hash of the rows that went into the layer, of its weights and of their types. The
 * rows are those of the model as it was, so that layers do not depend on how others were rounded.
 */
#include "export/quantize_layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "export/gptq.h"
#include "export/inverse_factor.h"

#define DAMPING 0.01 /* of the mean of the diagonal, as in the paper */
#define FINGERPRINT "fastvlm.fingerprint"

static const struct {
    const char *name;
    fvlm_linear_input input;
} matrices[] = {
    {"self_attn.q_proj", FVLM_INPUT_ATTENTION}, {"self_attn.k_proj", FVLM_INPUT_ATTENTION},
    {"self_attn.v_proj", FVLM_INPUT_ATTENTION}, {"self_attn.o_proj", FVLM_INPUT_OUTPUT},
    {"mlp.gate_proj", FVLM_INPUT_FFN},          {"mlp.up_proj", FVLM_INPUT_FFN},
    {"mlp.down_proj", FVLM_INPUT_DOWN},
};
enum { MATRICES = sizeof matrices / sizeof *matrices };

/* Keys of a file's errors, in the order of fvlm_layer_error's numbers. */
static const char *const error_keys[4] = {"fastvlm.error.nearest", "fastvlm.error.nearest.held_out",
                                          "fastvlm.error.chosen", "fastvlm.error.chosen.held_out"};

struct layer {
    size_t index;
    fvlm_planned *tensors[MATRICES]; /* NULL: is not to be rounded */
    uint8_t *blocks[MATRICES];       /* what they become */
    uint64_t fingerprint;
    fvlm_layer_error error;
};

static void find_tensors(fvlm_plan *plan, struct layer *layer)
{
    size_t bytes;
    for (size_t m = 0; m < MATRICES; m++) {
        char name[FVLM_MAX_NAME];
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer->index, matrices[m].name);
        layer->tensors[m] = NULL;
        for (size_t i = 0; i < plan->count; i++) {
            fvlm_planned *tensor = &plan->tensors[i];
            if (fvlm_dtype_block(tensor->type, &bytes) && tensor->type != tensor->source.type &&
                strcmp(tensor->name, name) == 0)
                layer->tensors[m] = tensor;
        }
    }
}

/* FNV-1a by words of 8 bytes. */
static uint64_t hash(uint64_t seed, const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, (const uint8_t *)data + at, bytes - at < 8 ? bytes - at : 8);
        seed = (seed ^ word) * UINT64_C(1099511628211);
        seed ^= seed >> 32;
    }
    return seed;
}

static uint64_t fingerprint(const fvlm_quantize_options *options, const fvlm_calibration *calibration,
                            const struct layer *layer)
{
    const fvlm_engine *engine = calibration->engine;
    uint64_t value = UINT64_C(14695981039346656037);
    value = hash(value, &options->method, sizeof options->method);
    value = hash(value, calibration->starts, (calibration->sample_count + 1) * sizeof *calibration->starts);
    value = hash(value, calibration->x, calibration->rows * engine->config.decoder.hidden * sizeof(float));
    for (size_t m = 0; m < MATRICES; m++) {
        const fvlm_planned *tensor = layer->tensors[m];
        const fvlm_tensor *stored = tensor ? fvlm_tensor_table_find(engine->source->table, tensor->name) : NULL;
        value = hash(value, tensor ? &tensor->type : &(fvlm_dtype){FVLM_F32}, sizeof(fvlm_dtype));
        if (stored)
            value = hash(value, stored->data, stored->bytes);
    }
    return value;
}

/* Memory for a layer: gram matrices, and what the roundings need. */
struct workspace {
    fvlm_grams grams;
    float *h, *l, *values;
};

static void workspace_free(struct workspace *work)
{
    for (int i = 0; i < FVLM_LINEAR_INPUTS; i++) {
        fvlm_aligned_free(work->grams.gram[0][i]);
        fvlm_aligned_free(work->grams.gram[1][i]);
    }
    fvlm_aligned_free(work->h);
    fvlm_aligned_free(work->l);
    fvlm_aligned_free(work->values);
}

static fvlm_status workspace_allocate(const fvlm_calibration *calibration, struct workspace *work, fvlm_error *error)
{
    const fvlm_decoder_config *config = &calibration->engine->config.decoder;
    size_t query = config->heads * config->head_dim, most = 0;
    bool held_out = calibration->sample_count >= 4, fine = true;
    *work = (struct workspace){.grams.cols = {config->hidden, query, config->hidden, config->ffn}};
    for (int i = 0; i < FVLM_LINEAR_INPUTS; i++) {
        size_t cols = work->grams.cols[i];
        most = cols > most ? cols : most;
        work->grams.gram[0][i] = fvlm_aligned_alloc(cols * cols * sizeof(float));
        if (held_out)
            work->grams.gram[1][i] = fvlm_aligned_alloc(cols * cols * sizeof(float));
        fine = fine && work->grams.gram[0][i] && (!held_out || work->grams.gram[1][i]);
    }
    size_t wide = config->ffn > query ? config->ffn : query;
    work->h = fvlm_aligned_alloc(most * most * sizeof(float));
    work->l = fvlm_aligned_alloc(most * most * sizeof(float));
    work->values = fvlm_aligned_alloc(2 * wide * config->hidden * sizeof(float));
    if (fine && work->h && work->l && work->values)
        return FVLM_OK;
    workspace_free(work);
    return fvlm_fail(error, FVLM_ERROR_MEMORY,
                     "no memory for the %zu x %zu inputs of a layer: quantize a smaller model, "
                     "or with --method rtn and without calibration",
                     most, most);
}

/* Round one matrix, and add its relative squared errors to `sums` (nearest, chosen; each on both kinds of samples). */
static bool round_matrix(const fvlm_quantize_options *options, fvlm_pool *pool, struct workspace *work,
                         struct layer *layer, size_t m, double sums[4])
{
    const fvlm_planned *tensor = layer->tensors[m];
    const fvlm_matrix *w = &tensor->source;
    fvlm_linear_input input = matrices[m].input;
    uint8_t *nearest = malloc(tensor->bytes), *better = malloc(tensor->bytes);
    layer->blocks[m] = nearest;
    if (!nearest || !better) {
        free(better);
        return false;
    }
    bool gptq = options->method == FVLM_QUANTIZE_GPTQ;
    fvlm_round_to_nearest(pool, w, tensor->type, work->values, nearest);
    if (gptq && !fvlm_gptq(pool, w, work->l, tensor->type, work->values, better)) {
        free(better);
        return false;
    }
    double errors[4] = {0};
    for (int kind = 0; kind < 2; kind++) {
        const float *gram = work->grams.gram[kind][input];
        if (!gram)
            continue;
        fvlm_matrix rounded = {.type = tensor->type, .rows = w->rows, .cols = w->cols, .data = nearest};
        double whole = fvlm_output_energy(pool, w, NULL, gram, work->values);
        errors[kind] = fvlm_output_energy(pool, w, &rounded, gram, work->values) / (whole > 0 ? whole : 1);
        rounded.data = better;
        errors[2 + kind] =
            gptq ? fvlm_output_energy(pool, w, &rounded, gram, work->values) / (whole > 0 ? whole : 1) : errors[kind];
    }
    if (gptq && errors[2] < errors[0]) {
        layer->blocks[m] = better;
        free(nearest);
    } else { /* the samples said too little */
        free(better);
        errors[2] = errors[0];
        errors[3] = errors[1];
    }
    for (int i = 0; i < 4; i++)
        sums[i] += errors[i];
    return true;
}

static fvlm_status round_layer(const fvlm_quantize_options *options, fvlm_calibration *calibration,
                               struct workspace *work, struct layer *layer, fvlm_error *error)
{
    fvlm_pool *pool = calibration->engine->pool;
    double sums[4] = {0};
    size_t count = 0;
    for (int input = 0; input < FVLM_LINEAR_INPUTS; input++)
        for (int kind = 0; kind < 2; kind++)
            if (work->grams.gram[kind][input])
                memset(work->grams.gram[kind][input], 0,
                       work->grams.cols[input] * work->grams.cols[input] * sizeof(float));
    bool fine = fvlm_calibration_layer(calibration, layer->index, &work->grams);
    fvlm_pool_acquire(pool);
    for (int input = 0; input < FVLM_LINEAR_INPUTS && fine; input++) {
        size_t cols = work->grams.cols[input];
        if (options->method == FVLM_QUANTIZE_GPTQ) {
            memcpy(work->h, work->grams.gram[0][input], cols * cols * sizeof(float));
            fine = fvlm_inverse_factor(pool, work->h, cols, DAMPING, work->l);
        }
        for (size_t m = 0; m < MATRICES && fine; m++)
            if (layer->tensors[m] && matrices[m].input == (fvlm_linear_input)input) {
                fine = round_matrix(options, pool, work, layer, m, sums);
                count++;
            }
    }
    fvlm_pool_release(pool);
    double *errors[4] = {&layer->error.nearest[0], &layer->error.nearest[1], &layer->error.chosen[0],
                         &layer->error.chosen[1]};
    for (int i = 0; i < 4; i++)
        *errors[i] = i % 2 == 0 || work->grams.gram[1][0] ? sqrt(sums[i] / (double)(count ? count : 1)) : NAN;
    return fine ? FVLM_OK : fvlm_fail_memory(error);
}

static fvlm_status write_layer(const struct layer *layer, const char *path, fvlm_error *error)
{
    fvlm_gguf_writer *writer;
    char text[32];
    fvlm_status status = fvlm_gguf_writer_open(path, &writer, error);
    if (status)
        return status;
    snprintf(text, sizeof text, "%016llx", (unsigned long long)layer->fingerprint);
    fvlm_gguf_put_string(writer, FINGERPRINT, text, strlen(text));
    const double errors[4] = {layer->error.nearest[0], layer->error.nearest[1], layer->error.chosen[0],
                              layer->error.chosen[1]};
    for (int i = 0; i < 4; i++)
        fvlm_gguf_put_f32(writer, error_keys[i], (float)errors[i]);
    for (size_t m = 0; m < MATRICES; m++)
        if (layer->tensors[m])
            fvlm_gguf_put_tensor(writer, layer->tensors[m]->name, layer->tensors[m]->type, 2, layer->tensors[m]->shape);
    for (size_t m = 0; m < MATRICES && !status; m++)
        if (layer->tensors[m])
            status = fvlm_gguf_write(writer, layer->blocks[m], layer->tensors[m]->bytes, error);
    if (!status)
        return fvlm_gguf_writer_commit(&writer, error);
    fvlm_gguf_writer_abort(&writer);
    return status;
}

static const fvlm_gguf_tensor *find_in(const fvlm_gguf *file, const char *name)
{
    for (size_t i = 0; i < file->tensor_count; i++)
        if (strcmp(file->tensors[i].name, name) == 0)
            return &file->tensors[i];
    return NULL;
}

/* Open a file that an earlier call has left, if it is this layer's: then its errors are taken over too. */
static bool open_layer(const char *path, struct layer *layer, fvlm_gguf **file)
{
    char text[32];
    if (!fvlm_file_exists(path) || fvlm_gguf_open(path, file, NULL))
        return false;
    snprintf(text, sizeof text, "%016llx", (unsigned long long)layer->fingerprint);
    const fvlm_gguf_value *found = fvlm_gguf_find(*file, FINGERPRINT);
    bool same = found && found->type == FVLM_GGUF_STRING && found->bytes == 8 + strlen(text) &&
                memcmp(found->data + 8, text, strlen(text)) == 0;
    double *errors[4] = {&layer->error.nearest[0], &layer->error.nearest[1], &layer->error.chosen[0],
                         &layer->error.chosen[1]};
    for (int i = 0; i < 4 && same; i++) {
        found = fvlm_gguf_find(*file, error_keys[i]);
        same = found && found->type == FVLM_GGUF_F32;
        *errors[i] = same ? fvlm_gguf_number(found, 0) : NAN;
    }
    for (size_t m = 0; m < MATRICES && same; m++) {
        const fvlm_gguf_tensor *tensor = layer->tensors[m] ? find_in(*file, layer->tensors[m]->name) : NULL;
        same =
            !layer->tensors[m] || (tensor && tensor->type.supported && tensor->type.dtype == layer->tensors[m]->type &&
                                   tensor->bytes == layer->tensors[m]->bytes);
    }
    if (!same)
        fvlm_gguf_close(file);
    return same;
}

/* For free(); NULL when out of memory. */
static char *layer_path(const fvlm_layer_files *files, size_t index)
{
    char name[32];
    snprintf(name, sizeof name, "layer-%03zu.gguf", index);
    return fvlm_path_join(files->folder, name);
}

static fvlm_status do_layer(const fvlm_quantize_options *options, fvlm_calibration *calibration, struct workspace *work,
                            struct layer *layer, fvlm_layer_files *files, size_t *resumed, fvlm_error *error)
{
    char *path = layer_path(files, layer->index);
    if (!path)
        return fvlm_fail_memory(error);
    fvlm_status status = FVLM_OK;
    fvlm_gguf **file = &files->files[layer->index];
    layer->fingerprint = fingerprint(options, calibration, layer);
    if (open_layer(path, layer, file)) {
        ++*resumed;
        if (!fvlm_calibration_layer(calibration, layer->index, NULL))
            status = fvlm_fail_memory(error);
    } else {
        status = round_layer(options, calibration, work, layer, error);
        if (!status)
            status = write_layer(layer, path, error);
        if (!status)
            status = fvlm_gguf_open(path, file, error);
    }
    for (size_t m = 0; m < MATRICES; m++) {
        free(layer->blocks[m]);
        layer->blocks[m] = NULL;
        if (!status && layer->tensors[m]) {
            layer->tensors[m]->source = (fvlm_matrix){.type = layer->tensors[m]->type,
                                                      .rows = layer->tensors[m]->source.rows,
                                                      .cols = layer->tensors[m]->source.cols,
                                                      .data = find_in(*file, layer->tensors[m]->name)->data};
        }
    }
    free(path);
    return status;
}

fvlm_status fvlm_quantize_layers(const fvlm_quantize_options *options, fvlm_calibration *calibration, fvlm_plan *plan,
                                 fvlm_layer_files *files, fvlm_quantize_report *report, fvlm_error *error)
{
    size_t count = calibration->engine->config.decoder.layers, length = strlen(options->convert.output);
    struct workspace work;
    *files = (fvlm_layer_files){.folder = fvlm_calloc(length + sizeof ".work", 1),
                                .files = fvlm_calloc(count, sizeof *files->files),
                                .count = count};
    report->layers = fvlm_calloc(count, sizeof *report->layers);
    report->layer_count = count;
    if (!files->folder || !files->files || !report->layers)
        return fvlm_fail_memory(error);
    memcpy(files->folder, options->convert.output, length);
    memcpy(files->folder + length, ".work", sizeof ".work");
    fvlm_status status = fvlm_folder_create(files->folder, error);
    if (!status)
        status = workspace_allocate(calibration, &work, error);
    if (status)
        return status;
    for (size_t i = 0; i < count && !status; i++) {
        struct layer layer = {.index = i};
        find_tensors(plan, &layer);
        status = fvlm_stage(options, "layers", i, count, error);
        if (!status)
            status = do_layer(options, calibration, &work, &layer, files, &report->resumed, error);
        report->layers[i] = layer.error;
    }
    workspace_free(&work);
    return status ? status : fvlm_stage(options, "layers", count, count, error);
}

void fvlm_layer_files_clear(fvlm_layer_files *files, bool done)
{
    char *other = NULL;
    for (size_t i = 0; files->files && i < files->count; i++) {
        fvlm_gguf_close(&files->files[i]);
        char *path = done ? layer_path(files, i) : NULL;
        if (path)
            remove(path);
        free(path);
    }
    /* What somebody else has put there stays. */
    if (done && files->folder && fvlm_folder_find(files->folder, "", &other, NULL) == FVLM_OK && !other)
        fvlm_folder_remove(files->folder, NULL);
    free(other);
    free(files->files);
    free(files->folder);
    *files = (fvlm_layer_files){0};
}
