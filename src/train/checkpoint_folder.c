/* A checkpoint's folder: a model (model_folder.h), or LoRA's files (adapter.h), and the state of the run.
 *
 *     optimizer.safetensors   value/NAME, first/NAME, second/NAME of what is trained, float32
 *     trainer_state.json      where the run stands, and what has to be the same to go on
 *
 * The values are there once more because the model's may have been rounded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/system.h"
#include "train/adapter.h"
#include "train/model_folder.h"
#include "train/trainer_state.h"

#define MAX_STATE ((size_t)1 << 20)

/* What was trained in the place of the tensor `name`. */
static const float *trained_values(void *user, const char *name, const fvlm_tensor *stored)
{
    (void)stored;
    const fvlm_parameter *parameter = fvlm_parameters_find(user, name);
    return parameter && parameter->first ? parameter->value : NULL;
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
    fvlm_status status = text ? fvlm_folder_file_write(folder, "trainer_state.json", text, strlen(text), error)
                              : fvlm_fail_memory(error);
    free(text);
    return status;
}

fvlm_status fvlm_trainer_write(fvlm_trainer *trainer, const char *folder, bool state, fvlm_error *error)
{
    fvlm_status status = fvlm_folder_create(folder, error);
    if (!status && trainer->options.lora_rank > 0)
        status = fvlm_adapter_write(trainer->engine->source, fvlm_network_parameters(trainer->network),
                                    trainer->options.lora_alpha, folder, error);
    else if (!status)
        status = fvlm_model_folder_write(trainer->engine->source, trained_values,
                                         fvlm_network_parameters(trainer->network), folder, error);
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
