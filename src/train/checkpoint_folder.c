/* A checkpoint's folder: a model (model_folder.h), or LoRA's files (adapter.h), and the state of the run.
 *
 *     optimizer.safetensors   value/NAME, first/NAME, second/NAME of what is trained
 *     trainer_state.json      where the run stands, and what has to be the same to go on
 *
 * The values are there once more because the model's may have been rounded. Of several ranks each writes its shares, as
 * optimizer-00001-of-00004.safetensors; any number of ranks reads them. Where no rank has the whole of what is to be
 * saved, the first one puts it together from these files.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/system.h"
#include "train/adapter.h"
#include "train/blockwise.h"
#include "train/model_folder.h"
#include "train/trainer_state.h"

#define MAX_STATE ((size_t)1 << 20)
#define MAX_RANKS 65536

static bool is_first(const fvlm_trainer *trainer)
{
    return fvlm_trainer_rank(trainer) == 0;
}

/* The state of a parameter: arrays over its elements. */

struct array {
    const char *kind;
    void *data; /* [share / per] */
    fvlm_dtype type;
    size_t per; /* elements of the parameter for one of the array */
};
enum { MAX_ARRAYS = 6 };
#define VALUE "value"
#define AVERAGE "average"

static size_t arrays_of(const fvlm_parameter *parameter, struct array arrays[MAX_ARRAYS])
{
    size_t count = 0;
    if (!parameter->own)
        return 0;
    arrays[count++] = (struct array){VALUE, parameter->own_value, FVLM_F32, 1};
    if (!parameter->trained) /* running statistics */
        return count;
    static const char *const moments[] = {"first", "second"}, *const scales[] = {"first_scale", "second_scale"};
    for (int i = 0; i < 2; i++) {
        if (parameter->codes[i]) {
            arrays[count++] = (struct array){moments[i], parameter->codes[i], FVLM_U8, 1};
            arrays[count++] = (struct array){scales[i], parameter->scales[i], FVLM_F32, FVLM_BLOCK};
        } else {
            arrays[count++] = (struct array){moments[i], i ? parameter->second : parameter->first, FVLM_F32, 1};
        }
    }
    if (parameter->average)
        arrays[count++] = (struct array){AVERAGE, parameter->average, FVLM_F32, 1};
    return count;
}

static size_t array_length(const struct array *array, size_t share)
{
    return (share + array->per - 1) / array->per;
}

/* The files of `ranks` ranks. */

static char *state_path(const char *folder, int ranks, int rank)
{
    char name[64];
    snprintf(name, sizeof name, "optimizer-%05d-of-%05d.safetensors", rank + 1, ranks);
    return fvlm_path_join(folder, ranks == 1 ? "optimizer.safetensors" : name);
}

/* Write this rank's shares; with `kind` only arrays of this kind. */
static fvlm_status write_shares(fvlm_trainer *trainer, const char *folder, const char *kind, fvlm_error *error)
{
    const fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    int ranks = fvlm_trainer_ranks(trainer);
    fvlm_tensor *tensors = fvlm_calloc(MAX_ARRAYS * parameters->count + 1, sizeof *tensors);
    fvlm_arena *names = fvlm_arena_create();
    char *path = state_path(folder, ranks, fvlm_trainer_rank(trainer));
    fvlm_status status = tensors && names && path ? FVLM_OK : fvlm_fail_memory(error);
    size_t count = 0;
    for (size_t i = 0; i < parameters->count && !status; i++) {
        const fvlm_parameter *parameter = parameters->items[i];
        struct array arrays[MAX_ARRAYS];
        size_t own = arrays_of(parameter, arrays);
        for (size_t a = 0; a < own && !status; a++) {
            char name[FVLM_MAX_NAME + 32];
            if ((kind && parameter->trained && strcmp(kind, arrays[a].kind) != 0) ||
                (!parameter->trained && !is_first(trainer)))
                continue;
            fvlm_tensor *tensor = &tensors[count++];
            *tensor = fvlm_parameter_tensor(parameter, arrays[a].data);
            if (ranks > 1 || arrays[a].per > 1) {
                tensor->rank = 1;
                tensor->shape[0] = array_length(&arrays[a], parameter->share);
            }
            tensor->type = arrays[a].type;
            tensor->bytes = array_length(&arrays[a], parameter->share) * fvlm_dtype_bytes(arrays[a].type);
            snprintf(name, sizeof name, "%s/%s", arrays[a].kind, parameter->name);
            if (!(tensor->name = fvlm_arena_strdup(names, name)))
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

/* The files of a run, opened. */
struct share_files {
    fvlm_tensor_table **tables; /* [count] */
    int count;
    const char *folder;
    /* For values of whole parameters: */
    const fvlm_parameters *parameters;
    const char *kind;
    fvlm_arena *arena; /* keeps all of them; NULL: `scratch` holds one */
    float *scratch;
    fvlm_status status;
    fvlm_error *error;
};

static void close_files(struct share_files *files)
{
    for (int i = 0; files->tables && i < files->count; i++)
        fvlm_tensor_table_destroy(&files->tables[i]);
    free((void *)files->tables);
    fvlm_arena_destroy(&files->arena);
    fvlm_aligned_free(files->scratch);
}

static fvlm_status open_files(const char *folder, int ranks, struct share_files *files, fvlm_error *error)
{
    *files = (struct share_files){.count = ranks, .folder = folder, .error = error};
    files->tables = fvlm_calloc((size_t)ranks, sizeof *files->tables);
    fvlm_status status = files->tables ? FVLM_OK : fvlm_fail_memory(error);
    for (int i = 0; i < ranks && !status; i++) {
        char *path = state_path(folder, ranks, i);
        status = path ? fvlm_tensor_table_create(&files->tables[i], error) : fvlm_fail_memory(error);
        if (!status)
            status = fvlm_safetensors_read(files->tables[i], path, error);
        free(path);
    }
    return status;
}

/* Elements start .. start + share of an array of the parameter's, whichever files they are in. */
static fvlm_status read_range(const struct share_files *files, const fvlm_parameter *parameter,
                              const struct array *array, size_t start, size_t share, fvlm_error *error)
{
    size_t bytes = fvlm_dtype_bytes(array->type);
    char name[FVLM_MAX_NAME + 32];
    snprintf(name, sizeof name, "%s/%s", array->kind, parameter->name);
    for (int i = 0; i < (parameter->trained ? files->count : 1); i++) {
        size_t first = 0, held = parameter->count;
        if (parameter->trained)
            held = fvlm_share(parameter->count, files->count, i, &first);
        const fvlm_tensor *tensor = fvlm_tensor_table_find(files->tables[i], name);
        if (!tensor || tensor->type != array->type || tensor->bytes != array_length(array, held) * bytes)
            return fvlm_fail(error, FVLM_ERROR_FORMAT,
                             "%s does not fit: %s is missing or of another size; the run trained other parts, or had "
                             "another optimiser",
                             files->folder, name);
        size_t from = start > first ? start : first;
        size_t to = start + share < first + held ? start + share : first + held;
        if (from < to)
            memcpy((char *)array->data + (from - start) / array->per * bytes,
                   (const char *)tensor->data + (from - first) / array->per * bytes,
                   (to - from + array->per - 1) / array->per * bytes);
        fvlm_tensor_table_forget(files->tables[i], tensor->data, tensor->bytes);
    }
    return FVLM_OK;
}

/* All values of a parameter, put together from the files. */
static const float *assembled(struct share_files *files, const fvlm_parameter *parameter)
{
    float *to = files->arena ? fvlm_arena_alloc(files->arena, parameter->count, sizeof *to) : files->scratch;
    if (!to) {
        files->status = fvlm_fail_memory(files->error);
        return NULL;
    }
    struct array array = {parameter->trained ? files->kind : VALUE, to, FVLM_F32, 1};
    files->status = read_range(files, parameter, &array, 0, parameter->count, files->error);
    return files->status ? NULL : to;
}

/* Saving. */

/* What a model is saved with: moving averages where there are some. */
static const char *saved_kind(const fvlm_trainer *trainer)
{
    return trainer->options.average > 0 ? AVERAGE : VALUE;
}

/* It is in memory as a whole: no need for the shares' files. */
static bool is_whole(const fvlm_trainer *trainer)
{
    return fvlm_trainer_ranks(trainer) == 1 || (trainer->options.zero < 3 && !(trainer->options.average > 0));
}

static const float *adapter_values(void *user, const fvlm_parameter *parameter)
{
    struct share_files *files = user;
    return files->tables ? assembled(files, parameter) : parameter->average ? parameter->average : parameter->value;
}

/* What was trained in the place of the tensor `name`. */
static const float *model_values(void *user, const char *name, const fvlm_tensor *stored)
{
    (void)stored;
    struct share_files *files = user;
    const fvlm_parameter *parameter = fvlm_parameters_find(files->parameters, name);
    return parameter && parameter->own ? adapter_values(user, parameter) : NULL;
}

/* Write the model, from the shares' files in `shares` where it is not NULL. */
static fvlm_status write_model(fvlm_trainer *trainer, const char *folder, const char *shares, fvlm_error *error)
{
    const fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    bool lora = trainer->options.lora_rank > 0;
    struct share_files files = {.error = error};
    fvlm_status status = shares ? open_files(shares, fvlm_trainer_ranks(trainer), &files, error) : FVLM_OK;
    files.parameters = parameters;
    files.kind = saved_kind(trainer);
    size_t most = 1;
    for (size_t i = 0; i < parameters->count; i++)
        most = parameters->items[i]->own && parameters->items[i]->count > most ? parameters->items[i]->count : most;
    if (!status && shares && lora)
        status = (files.arena = fvlm_arena_create()) ? FVLM_OK : fvlm_fail_memory(error);
    else if (!status && shares)
        status = (files.scratch = fvlm_aligned_alloc(most * sizeof(float))) ? FVLM_OK : fvlm_fail_memory(error);
    if (!status && lora)
        status = fvlm_adapter_write(trainer->engine->source, parameters, adapter_values, &files,
                                    trainer->options.lora_alpha, folder, error);
    else if (!status)
        status = fvlm_model_folder_write(trainer->engine->source, model_values, &files, folder, error);
    if (!status)
        status = files.status;
    close_files(&files);
    return status;
}

/* What the rest of a run depends on. */
static json_t *fingerprint(const fvlm_trainer *trainer)
{
    const fvlm_train_options *o = &trainer->options;
    return json_pack("{sI sI si sI sI}", "steps", (json_int_t)trainer->steps, "samples",
                     (json_int_t)fvlm_dataset_unit_count(trainer->dataset), "batch_size", o->batch_size,
                     "samples_of_a_step", (json_int_t)fvlm_trainer_step_samples(trainer), "seed", (json_int_t)o->seed);
}

static fvlm_status write_state(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    /* JSON has no infinity: what was not evaluated has no best. */
    json_t *best = isfinite(trainer->best) ? json_real(trainer->best) : json_null();
    json_t *root =
        json_pack("{sI si so si si so}", "step", (json_int_t)trainer->step, "skipped", trainer->skipped, "best", best,
                  "waited", trainer->waited, "ranks", fvlm_trainer_ranks(trainer), "run", fingerprint(trainer));
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(root);
    fvlm_status status =
        text ? fvlm_file_write(folder, "trainer_state.json", text, strlen(text), error) : fvlm_fail_memory(error);
    free(text);
    return status;
}

fvlm_status fvlm_trainer_write(fvlm_trainer *trainer, const char *folder, bool state, fvlm_error *error)
{
    char *aside = fvlm_path_join(folder, "shares.part");
    const char *shares = state ? folder : is_whole(trainer) ? NULL : aside;
    fvlm_status status = aside ? fvlm_folder_create(state ? folder : aside, error) : fvlm_fail_memory(error);
    status = fvlm_trainer_agree(trainer, status, error);
    if (!status && shares)
        status = fvlm_trainer_agree(trainer, write_shares(trainer, shares, state ? NULL : saved_kind(trainer), error),
                                    error);
    if (!status && is_first(trainer)) {
        status = write_model(trainer, folder, is_whole(trainer) ? NULL : shares, error);
        if (!status && state)
            status = write_state(trainer, folder, error);
    }
    status = fvlm_trainer_agree(trainer, status, error);
    if (!state && aside && is_first(trainer)) {
        fvlm_error ignored;
        fvlm_folder_remove(aside, &ignored);
    }
    free(aside);
    return status;
}

/* Reading it back. */

static fvlm_status read_state(fvlm_trainer *trainer, const char *folder, int *ranks, fvlm_error *error)
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
    json_int_t wrote = json_integer_value(json_object_get(root, "ranks"));
    if (!status && (step < 0 || (uint64_t)step > trainer->steps || skipped < 0 || skipped > INT32_MAX || wrote < 1 ||
                    wrote > MAX_RANKS))
        status =
            fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: its step, ranks or count of skipped samples makes no sense", path);
    if (!status) {
        trainer->step = (uint64_t)step;
        trainer->skipped = (int)skipped;
        const json_t *best = json_object_get(root, "best");
        trainer->best = json_is_number(best) ? json_number_value(best) : INFINITY;
        trainer->waited = (int)json_integer_value(json_object_get(root, "waited"));
        *ranks = (int)wrote;
    }
    json_decref(root);
    json_decref(run);
    free(path);
    return status;
}

static fvlm_status read_shares(fvlm_trainer *trainer, const char *folder, int ranks, fvlm_error *error)
{
    const fvlm_parameters *parameters = fvlm_network_parameters(trainer->network);
    struct share_files files;
    fvlm_status status = open_files(folder, ranks, &files, error);
    for (size_t i = 0; i < parameters->count && !status; i++) {
        const fvlm_parameter *parameter = parameters->items[i];
        struct array arrays[MAX_ARRAYS];
        size_t count = arrays_of(parameter, arrays);
        for (size_t a = 0; a < count && !status; a++)
            status = read_range(&files, parameter, &arrays[a], parameter->start, parameter->share, error);
    }
    close_files(&files);
    return status;
}

fvlm_status fvlm_trainer_read(fvlm_trainer *trainer, const char *folder, fvlm_error *error)
{
    int ranks = 1;
    fvlm_status status = read_state(trainer, folder, &ranks, error);
    if (!status)
        status = read_shares(trainer, folder, ranks, error);
    status = fvlm_trainer_agree(trainer, status, error);
    if (!status)
        fvlm_shards_renew(fvlm_network_parameters(trainer->network));
    return status;
}
