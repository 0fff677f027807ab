/* Opening a model from a folder, from one GGUF file, or from the pair of GGUF files that llama.cpp uses. */
#include "model/source.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fastvlm/engine.h"
#include "model/gguf_names.h"
#include "model/weights.h"
#include "text/tokenizer.h"

const char *const fvlm_small_files[] = {"config.json",
                                        "generation_config.json",
                                        "preprocessor_config.json",
                                        "processor_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "added_tokens.json",
                                        "special_tokens_map.json",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        NULL};

char *fvlm_gguf_projector_path(const char *path)
{
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    size_t folder = (size_t)(name - path), length = strlen(name) + 1, prefix = strlen(FVLM_GGUF_PROJECTOR);
    char *joined = malloc(folder + prefix + length);
    if (!joined)
        return NULL;
    memcpy(joined, path, folder);
    memcpy(joined + folder, FVLM_GGUF_PROJECTOR, prefix);
    memcpy(joined + folder + prefix, name, length);
    return joined;
}

/* The small files that the metadata holds. */
static fvlm_status find_files(const fvlm_gguf *gguf, fvlm_source *source, fvlm_error *error)
{
    size_t prefix = strlen(FVLM_GGUF_FILE_KEY), count = 0;
    source->entries = fvlm_calloc(gguf->value_count + 1, sizeof *source->entries);
    if (!source->entries)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < gguf->value_count; i++) {
        const fvlm_gguf_value *value = &gguf->values[i];
        if (strncmp(value->key, FVLM_GGUF_FILE_KEY, prefix) != 0 || value->type != FVLM_GGUF_STRING || value->array)
            continue;
        fvlm_bundle_entry *entry = &source->entries[count++];
        size_t at = 0;
        entry->name = value->key + prefix;
        fvlm_gguf_string(value, &at, &entry->data, &entry->size);
    }
    source->files = (fvlm_bundle){gguf->path, source->entries, count};
    return FVLM_OK;
}

static bool holds_files(const fvlm_gguf *gguf)
{
    return fvlm_gguf_find(gguf, FVLM_GGUF_FILE_KEY "config.json") != NULL;
}

/* The mmproj file beside a language model's, which holds everything else. */
static fvlm_status open_projector(const char *path, fvlm_source *source, fvlm_error *error)
{
    char *beside = fvlm_gguf_projector_path(path);
    fvlm_status status = FVLM_OK;
    if (!beside)
        status = fvlm_fail_memory(error);
    else if (!fvlm_file_exists(beside))
        status = fvlm_fail(error, FVLM_ERROR_IO, "%s holds a language model alone, and %s is missing: convert again",
                           path, beside);
    else
        status = fvlm_gguf_open(beside, &source->projector_gguf, error);
    if (!status && !holds_files(source->projector_gguf))
        status = fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s was not made by `fastvlm convert`", beside);
    free(beside);
    return status;
}

/* One file or a pair, without its tensors. */
static fvlm_status open_metadata(const char *path, fvlm_source *source, fvlm_error *error)
{
    fvlm_status status = fvlm_gguf_open(path, &source->gguf, error);
    if (!status && !holds_files(source->gguf))
        status = open_projector(path, source, error);
    if (!status)
        status = find_files(source->projector_gguf ? source->projector_gguf : source->gguf, source, error);
    return status;
}

/* The mmproj file alone holds the small files as well. */
static bool is_projector(const fvlm_gguf *gguf)
{
    const fvlm_gguf_value *type = fvlm_gguf_find(gguf, "general.type");
    const char *text;
    size_t at = 0, bytes;
    if (!type || type->type != FVLM_GGUF_STRING || type->array)
        return false;
    fvlm_gguf_string(type, &at, &text, &bytes);
    return bytes == strlen("mmproj") && memcmp(text, "mmproj", bytes) == 0;
}

static fvlm_status open_gguf(const char *path, fvlm_source *source, fvlm_error *error)
{
    source->layout = "gguf";
    fvlm_status status = open_metadata(path, source, error);
    if (!status && is_projector(source->gguf))
        status =
            fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                      "%s holds the vision tower and projector alone: name the language model's file beside it", path);
    if (!status)
        status = fvlm_tensor_table_create(&source->table, error);
    if (!status)
        status = fvlm_gguf_add_tensors(source->gguf, source->table, error);
    if (!status && source->projector_gguf)
        status = fvlm_gguf_add_tensors(source->projector_gguf, source->table, error);
    if (!status)
        status = fvlm_tensor_table_rename(source->table, fvlm_rename_gguf, error);
    return status ? status : fvlm_config_read(&source->files, &source->config, error);
}

static fvlm_status open_folder(const char *path, fvlm_source *source, fvlm_error *error)
{
    source->files.path = path;
    fvlm_status status = fvlm_config_read(&source->files, &source->config, error);
    return status ? status : fvlm_weights_open(path, &source->config, &source->table, &source->layout, error);
}

fvlm_status fvlm_source_open(const char *path, fvlm_source **out, fvlm_error *error)
{
    fvlm_source *source = *out = fvlm_calloc(1, sizeof *source);
    if (!source)
        return fvlm_fail_memory(error);
    fvlm_status status = FVLM_OK;
    if (!(source->path = fvlm_strdup(path)))
        status = fvlm_fail_memory(error);
    if (!status)
        status = fvlm_folder_exists(path) ? open_folder(source->path, source, error)
                                          : open_gguf(source->path, source, error);
    if (status)
        fvlm_source_close(out);
    return status;
}

void fvlm_source_close(fvlm_source **source)
{
    fvlm_source *old = *source;
    if (!old)
        return;
    fvlm_tensor_table_destroy(&old->table);
    fvlm_gguf_close(&old->gguf);
    fvlm_gguf_close(&old->projector_gguf);
    free(old->entries);
    free(old->path);
    free(old);
    *source = NULL;
}

void fvlm_source_forget(const fvlm_source *source, const void *data, size_t bytes)
{
    if (source->gguf) /* every tensor lies in it or in its pair */
        fvlm_mapping_release(data, bytes);
    else
        fvlm_tensor_table_forget(source->table, data, bytes);
}

fvlm_status fvlm_model_in_memory(const char *name, const void *data, size_t bytes, fvlm_error *error)
{
    if (!name || !name[0])
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "a model in memory needs a name");
    if ((uintptr_t)data % 8 != 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s: a model in memory has to be aligned to 8 bytes", name);
    return fvlm_file_in_memory(name, data, bytes, error);
}

/* The public function: a folder, or the metadata of a GGUF file. */
fvlm_status fvlm_tokenizer_open(const char *path, fvlm_tokenizer **tokenizer, fvlm_error *error)
{
    *tokenizer = NULL;
    if (!fvlm_gguf_is(path))
        return fvlm_tokenizer_read(&(fvlm_bundle){.path = path}, tokenizer, error);
    fvlm_source *source = fvlm_calloc(1, sizeof *source);
    fvlm_status status = source ? open_metadata(path, source, error) : fvlm_fail_memory(error);
    if (!status)
        status = fvlm_tokenizer_read(&source->files, tokenizer, error);
    fvlm_source_close(&source);
    return status;
}
