/* A checkpoint's folder.
 *
 *     config.json and the tokenizer's files   as they were
 *     model.safetensors                       every tensor under its own name and in its own type
 *     optimizer.safetensors                   value/NAME, first/NAME, second/NAME of what is trained, float32
 *     trainer_state.json                      where the run stands, and what has to be the same to go on
 *
 * The values are there once more because the model's may have been rounded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/system.h"
#include "train/trainer_state.h"

#define MAX_COPIED ((size_t)64 << 20)
#define MAX_STATE ((size_t)1 << 20)

static const char *const copied_files[] = {
    "config.json",         "generation_config.json", "tokenizer.json",           "vocab.json",
    "merges.txt",          "added_tokens.json",      "tokenizer_config.json",    "special_tokens_map.json",
    "chat_template.jinja", "chat_template.json",     "preprocessor_config.json", "processor_config.json",
};

/* Write `bytes` of data as folder/name. */
static fvlm_status write_file(const char *folder, const char *name, const char *data, size_t bytes, fvlm_error *error)
{
    char *path = fvlm_path_join(folder, name);
    fvlm_writer *writer = NULL;
    fvlm_status status = path ? fvlm_writer_open(path, &writer, error) : fvlm_fail_memory(error);
    if (!status)
        status = fvlm_writer_write(writer, data, bytes, error);
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    free(path);
    return status;
}

static fvlm_status copy_files(const fvlm_bundle *from, const char *to, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; i < sizeof copied_files / sizeof *copied_files && !status; i++) {
        fvlm_bundle_file file;
        if (!fvlm_bundle_has(from, copied_files[i]))
            continue;
        status = fvlm_bundle_open(from, copied_files[i], MAX_COPIED, &file, error);
        if (!status) {
            status = write_file(to, copied_files[i], file.data, file.size, error);
            fvlm_bundle_file_close(&file);
        }
    }
    return status;
}

/* `count` values in another type, for free(). NULL when out of memory. */
static void *converted(const float *values, size_t count, fvlm_dtype type)
{
    if (type == FVLM_F64) {
        double *wide = fvlm_calloc(count, sizeof *wide);
        for (size_t i = 0; wide && i < count; i++)
            wide[i] = (double)values[i];
        return wide;
    }
    uint16_t *half = fvlm_calloc(count, sizeof *half);
    for (size_t i = 0; half && i < count; i++)
        half[i] = type == FVLM_BF16 ? fvlm_bf16_from_float(values[i]) : fvlm_f16_from_float(values[i]);
    return half;
}

/* Every tensor of the model as it came, with what was trained in its place. */
static fvlm_status write_model(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    const fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    fvlm_tensor_table *own = NULL;
    const fvlm_tensor_table *table = trainer->engine->source->table; /* has LLaVA's names; the files may have others */
    fvlm_status status = FVLM_OK;
    if (trainer->engine->config.fast_vlm) {
        const char *layout;
        status = fvlm_tensor_table_create(&own, error);
        if (!status)
            status = fvlm_checkpoint_read(own, trainer->engine->source->path, &layout, error);
        table = own;
    }
    size_t count = status ? 0 : fvlm_tensor_table_count(table), made = 0;
    fvlm_tensor *tensors = fvlm_calloc(count + 1, sizeof *tensors);
    void **copies = fvlm_calloc(count + 1, sizeof *copies);
    if (!status && (!tensors || !copies))
        status = fvlm_fail_memory(error);
    for (size_t i = 0; i < count && !status; i++) {
        char name[FVLM_MAX_NAME];
        tensors[i] = *fvlm_tensor_table_at(table, i);
        if (fvlm_dtype_bytes(tensors[i].type) == 0)
            status = fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                               "%s is stored as %s, which a checkpoint of safetensors cannot hold: start from a "
                               "model in a float type, or train adapters (--lora)",
                               tensors[i].name, fvlm_dtype_name(tensors[i].type));
        bool renamed = own && fvlm_rename_fast_vlm(tensors[i].name, name, sizeof name);
        const fvlm_parameter *parameter = fvlm_parameters_find(parameters, renamed ? name : tensors[i].name);
        if (!parameter || !parameter->first)
            continue;
        tensors[i].data = parameter->value;
        if (tensors[i].type == FVLM_F32)
            continue;
        copies[made] = converted(parameter->value, parameter->count, tensors[i].type);
        if (!copies[made])
            status = fvlm_fail_memory(error);
        tensors[i].data = copies[made++];
    }
    char *path = fvlm_path_join(folder, "model.safetensors");
    if (!status && !path)
        status = fvlm_fail_memory(error);
    if (!status)
        status = fvlm_safetensors_write(path, tensors, count, error);
    for (size_t i = 0; i < made; i++)
        free(copies[i]);
    free((void *)copies);
    free(tensors);
    free(path);
    fvlm_tensor_table_destroy(&own);
    return status;
}

/* The optimiser's state. */

static const char *const state_kinds[] = {"value", "first", "second"};
enum { STATE_KINDS = sizeof state_kinds / sizeof *state_kinds };

static float *state_of(const fvlm_parameter *parameter, int kind)
{
    return kind == 0 ? parameter->value : kind == 1 ? parameter->first : parameter->second;
}

static fvlm_status write_optimizer(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    const fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    fvlm_tensor *tensors = fvlm_calloc(STATE_KINDS * parameters->count + 1, sizeof *tensors);
    fvlm_arena *names = fvlm_arena_create();
    char *path = fvlm_path_join(folder, "optimizer.safetensors");
    fvlm_status status = tensors && names && path ? FVLM_OK : fvlm_fail_memory(error);
    size_t count = 0;
    for (size_t i = 0; i < parameters->count && !status; i++) {
        const fvlm_parameter *parameter = parameters->items[i];
        /* Running statistics have a value of their own but no gradient, and so no moments. */
        for (int kind = 0; parameter->first && kind < (parameter->gradient ? STATE_KINDS : 1) && !status; kind++) {
            char name[FVLM_MAX_NAME + 16];
            snprintf(name, sizeof name, "%s/%s", state_kinds[kind], parameter->name);
            tensors[count] = fvlm_parameter_tensor(parameter, state_of(parameter, kind));
            tensors[count].name = fvlm_arena_strdup(names, name);
            if (!tensors[count++].name)
                status = fvlm_fail_memory(error);
        }
    }
    if (!status)
        status = fvlm_safetensors_write(path, tensors, count, error);
    free(path);
    free(tensors);
    fvlm_arena_destroy(&names);
    return status;
}

/* What the rest of a run depends on. */
static json_t *fingerprint(const fvlm_trainer *trainer)
{
    const fvlm_train_options *o = &trainer->options;
    return json_pack("{sI sI si si sI}", "steps", (json_int_t)trainer->steps, "samples",
                     (json_int_t)fvlm_dataset_count(trainer->dataset), "batch_size", o->batch_size,
                     "gradient_accumulation_steps", o->accumulation, "seed", (json_int_t)o->seed);
}

static fvlm_status write_state(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    json_t *root = json_pack("{sI si so}", "step", (json_int_t)trainer->step, "skipped", trainer->skipped, "run",
                             fingerprint(trainer));
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    fvlm_status status =
        text ? write_file(folder, "trainer_state.json", text, strlen(text), error) : fvlm_fail_memory(error);
    free(text);
    return status;
}

fvlm_status fvlm_trainer_write(fvlm_trainer *trainer, const char *folder, bool state, fvlm_error *error)
{
    fvlm_status status = fvlm_folder_create(folder, error);
    if (!status)
        status = copy_files(&trainer->engine->source->files, folder, error);
    if (!status)
        status = write_model(trainer, folder, error);
    if (!status && state)
        status = write_optimizer(trainer, folder, error);
    return !status && state ? write_state(trainer, folder, error) : status;
}

/* Reading it back. */

static fvlm_status read_state(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    char *path = fvlm_path_join(folder, "trainer_state.json");
    json_t *root = NULL, *run = fingerprint(trainer);
    fvlm_status status = path && run ? fvlm_json_read(path, MAX_STATE, &root, error) : fvlm_fail_memory(error);
    const char *key;
    json_t *own;
    json_object_foreach(run, key, own)
    {
        const json_t *theirs = json_object_get(json_object_get(root, "run"), key);
        if (!status && !json_equal(own, theirs))
            status = fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                               "%s is of another run: %s was %lld and is %lld now; go on with what it was, or start "
                               "anew in another --output",
                               path, key, (long long)json_integer_value(theirs), (long long)json_integer_value(own));
    }
    json_int_t step = json_integer_value(json_object_get(root, "step"));
    json_int_t skipped = json_integer_value(json_object_get(root, "skipped"));
    if (!status && (step < 0 || (uint64_t)step > trainer->steps || skipped < 0 || skipped > INT32_MAX))
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: its step or count of skipped samples makes no sense", path);
    if (!status) {
        trainer->step = (uint64_t)step;
        trainer->skipped = (int)skipped;
    }
    json_decref(root);
    json_decref(run);
    free(path);
    return status;
}

static fvlm_status read_optimizer(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    const fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    char *path = fvlm_path_join(folder, "optimizer.safetensors");
    fvlm_tensor_table *table = NULL;
    fvlm_status status = path ? fvlm_tensor_table_create(&table, error) : fvlm_fail_memory(error);
    if (!status)
        status = fvlm_safetensors_read(table, path, error);
    for (size_t i = 0; i < parameters->count && !status; i++) {
        const fvlm_parameter *parameter = parameters->items[i];
        for (int kind = 0; parameter->first && kind < (parameter->gradient ? STATE_KINDS : 1) && !status; kind++) {
            char name[FVLM_MAX_NAME + 16];
            snprintf(name, sizeof name, "%s/%s", state_kinds[kind], parameter->name);
            const fvlm_tensor *tensor = fvlm_tensor_table_find(table, name);
            if (!tensor || tensor->type != FVLM_F32 || tensor->bytes != parameter->count * sizeof(float))
                status = fvlm_fail(error, FVLM_ERROR_FORMAT,
                                   "%s does not fit: %s is missing or of another size; the run trained other parts",
                                   path, name);
            else
                memcpy(state_of(parameter, kind), tensor->data, tensor->bytes);
        }
    }
    fvlm_tensor_table_destroy(&table);
    free(path);
    return status;
}

fvlm_status fvlm_trainer_read(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    fvlm_status status = read_optimizer(trainer, folder, error);
    return status ? status : read_state(trainer, folder, error);
}
