/* Looking into model files: the readers' tables and metadata, copied into one plain list. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bundle.h"
#include "base/json.h"
#include "base/text_buffer.h"
#include "fastvlm/convert.h"
#include "formats/gguf.h"
#include "formats/tensor_table.h"

#define CONFIG_LIMIT ((size_t)16 << 20)
#define SHOWN_ITEMS 8   /* of an array */
#define SHOWN_BYTES 200 /* of a string */

struct inspector {
    fvlm_inspection *inspection;
    fvlm_file_tensor *tensors;
    fvlm_file_value *values;
    fvlm_error *error;
};

static fvlm_status allocate(struct inspector *inspector, size_t tensors, size_t values)
{
    fvlm_inspection *inspection = inspector->inspection;
    inspection->tensors = inspector->tensors =
        fvlm_arena_alloc(inspection->arena, tensors + 1, sizeof *inspector->tensors);
    inspection->values = inspector->values = fvlm_arena_alloc(inspection->arena, values + 1, sizeof *inspector->values);
    return inspection->tensors && inspection->values ? FVLM_OK : fvlm_fail_memory(inspector->error);
}

static fvlm_status add_tensor(struct inspector *inspector, const char *name, const char *type, int rank,
                              const size_t *shape, size_t bytes)
{
    fvlm_inspection *inspection = inspector->inspection;
    fvlm_file_tensor *tensor = &inspector->tensors[inspection->tensor_count++];
    *tensor = (fvlm_file_tensor){.name = fvlm_arena_strdup(inspection->arena, name),
                                 .type = fvlm_arena_strdup(inspection->arena, type),
                                 .rank = rank,
                                 .bytes = bytes};
    uint64_t elements = 1;
    for (int i = 0; i < rank; i++) {
        tensor->shape[i] = shape[i];
        elements *= shape[i]; /* the readers have checked that this fits */
    }
    inspection->elements += elements;
    inspection->bytes += bytes;
    return tensor->name && tensor->type ? FVLM_OK : fvlm_fail_memory(inspector->error);
}

/* `json` is freed; NULL: out of memory while it was made. */
static fvlm_status add_value(struct inspector *inspector, const char *key, const char *type, char *json)
{
    fvlm_inspection *inspection = inspector->inspection;
    fvlm_file_value *value = &inspector->values[inspection->value_count++];
    *value = (fvlm_file_value){fvlm_arena_strdup(inspection->arena, key), fvlm_arena_strdup(inspection->arena, type),
                               json ? fvlm_arena_strdup(inspection->arena, json) : NULL};
    free(json);
    return value->key && value->type && value->json ? FVLM_OK : fvlm_fail_memory(inspector->error);
}

/* A text as JSON, its beginning and its length when it is long. Bytes that are not UTF-8 become '?'. */
static json_t *text_json(const char *text, size_t bytes)
{
    fvlm_text_buffer shown = {0};
    size_t count = bytes < SHOWN_BYTES ? bytes : SHOWN_BYTES;
    while (count < bytes && count > 0 && ((unsigned char)text[count] & 0xc0) == 0x80)
        count--; /* not in the middle of a character */
    fvlm_text_append(&shown, text, count);
    if (count < bytes)
        fvlm_text_format(&shown, "... (%zu bytes)", bytes);
    json_t *json = json_stringn(shown.data ? shown.data : "", shown.length);
    for (size_t i = 0; !json && !shown.failed && i < shown.length; i++)
        if ((unsigned char)shown.data[i] >= 0x80)
            shown.data[i] = '?';
    if (!json && !shown.failed)
        json = json_stringn(shown.data, shown.length);
    fvlm_text_clear(&shown);
    return json;
}

static json_t *item_json(const fvlm_gguf_value *value, uint64_t index, size_t *at)
{
    if (value->type == FVLM_GGUF_STRING) {
        const char *text;
        size_t bytes;
        fvlm_gguf_string(value, at, &text, &bytes);
        return text_json(text, bytes);
    }
    double number = fvlm_gguf_number(value, index);
    if (value->type == FVLM_GGUF_BOOL)
        return json_boolean(number != 0);
    if (value->type == FVLM_GGUF_F32 || value->type == FVLM_GGUF_F64) {
        json_t *real = json_real(number);
        return real ? real : json_null(); /* JSON has no infinities */
    }
    return json_integer((json_int_t)number);
}

static fvlm_status add_gguf_value(struct inspector *inspector, const fvlm_gguf_value *value)
{
    size_t at = 0;
    char type[64];
    snprintf(type, sizeof type, "%s%s", value->array ? "array of " : "", fvlm_gguf_type_name(value->type));
    json_t *json;
    if (value->array) {
        json_t *items = json_array();
        for (uint64_t i = 0; i < value->count && i < SHOWN_ITEMS; i++)
            json_array_append_new(items, item_json(value, i, &at));
        json = json_pack("{sI so}", "count", (json_int_t)value->count, "first", items);
    } else {
        json = item_json(value, 0, &at);
    }
    char *text = json ? json_dumps(json, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(json);
    return add_value(inspector, value->key, type, text);
}

static fvlm_status inspect_gguf(struct inspector *inspector, const char *path)
{
    fvlm_gguf *gguf;
    fvlm_status status = fvlm_gguf_open(path, &gguf, inspector->error);
    if (status)
        return status;
    inspector->inspection->format = "gguf";
    status = allocate(inspector, gguf->tensor_count, gguf->value_count);
    for (size_t i = 0; i < gguf->value_count && !status; i++)
        status = add_gguf_value(inspector, &gguf->values[i]);
    for (size_t i = 0; i < gguf->tensor_count && !status; i++) {
        const fvlm_gguf_tensor *tensor = &gguf->tensors[i];
        char unknown[32];
        snprintf(unknown, sizeof unknown, "type %u", tensor->type_id);
        status = add_tensor(inspector, tensor->name, tensor->type.name ? tensor->type.name : unknown, tensor->rank,
                            tensor->shape, tensor->bytes);
    }
    fvlm_gguf_close(&gguf);
    return status;
}

/* The tensors of a table, and the members of a JSON object (may be NULL) as metadata. */
static fvlm_status add_table(struct inspector *inspector, const fvlm_tensor_table *table, const json_t *metadata)
{
    size_t count = fvlm_tensor_table_count(table);
    fvlm_status status = allocate(inspector, count, json_object_size(metadata));
    const char *key;
    json_t *value;
    if (!status) {
        json_object_foreach((json_t *)metadata, key, value)
        {
            char *text =
                json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_COMPACT | JSON_REAL_PRECISION(15));
            status = add_value(inspector, key, "json", text);
            if (status)
                break;
        }
    }
    for (size_t i = 0; i < count && !status; i++) {
        const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
        status = add_tensor(inspector, tensor->name, fvlm_dtype_name(tensor->type), tensor->rank, tensor->shape,
                            tensor->bytes);
    }
    return status;
}

/* The header's "__metadata__", of a file that the reader has accepted. */
static fvlm_status read_safetensors_header(const char *path, json_t **header, fvlm_error *error)
{
    fvlm_mapping mapping;
    fvlm_status status = fvlm_mapping_open(path, &mapping, error);
    if (status)
        return status;
    size_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | mapping.data[i];
    status = fvlm_json_parse((const char *)mapping.data + 8, length, path, header, error);
    fvlm_mapping_close(&mapping);
    return status;
}

/* Fails where a file begins like nothing that the readers know. */
static fvlm_status check_pickle(const char *path, fvlm_error *error)
{
    fvlm_mapping mapping;
    fvlm_status status = fvlm_mapping_open(path, &mapping, error);
    if (status)
        return status;
    bool known = mapping.size > 1 && (memcmp(mapping.data, "PK", 2) == 0 || mapping.data[0] == 0x80);
    fvlm_mapping_close(&mapping);
    return known ? FVLM_OK
                 : fvlm_fail(error, FVLM_ERROR_FORMAT,
                             "%s: not a GGUF, .safetensors or PyTorch file, an .mlpackage or a checkpoint's folder",
                             path);
}

static fvlm_status inspect_table(struct inspector *inspector, const char *path)
{
    static const struct {
        const char *format;
        fvlm_status (*read)(fvlm_tensor_table *, const char *, fvlm_error *);
    } readers[] = {
        {"safetensors", fvlm_safetensors_read}, {"pickle", fvlm_pickle_read}, {"mlpackage", fvlm_mlpackage_read}};
    enum { SAFETENSORS, PICKLE, MLPACKAGE, CHECKPOINT } kind;
    bool folder = fvlm_folder_exists(path);
    fvlm_bundle files = {.path = path};
    size_t length = strlen(path);
    if (folder)
        kind = fvlm_bundle_has(&files, "Manifest.json") ? MLPACKAGE : CHECKPOINT;
    else
        kind = length > 12 && strcmp(path + length - 12, ".safetensors") == 0 ? SAFETENSORS : PICKLE;
    fvlm_tensor_table *table;
    json_t *root = NULL;
    const char *layout;
    fvlm_status status = fvlm_tensor_table_create(&table, inspector->error);
    if (!status && kind == PICKLE)
        status = check_pickle(path, inspector->error);
    if (!status)
        status = kind == CHECKPOINT ? fvlm_checkpoint_read(table, path, &layout, inspector->error)
                                    : readers[kind].read(table, path, inspector->error);
    inspector->inspection->format = kind == CHECKPOINT ? "checkpoint" : readers[kind].format;
    if (!status && kind == SAFETENSORS)
        status = read_safetensors_header(path, &root, inspector->error);
    else if (!status && kind == MLPACKAGE)
        status = fvlm_mlpackage_metadata(path, &root, inspector->error);
    else if (!status && kind == CHECKPOINT && fvlm_bundle_has(&files, "config.json"))
        status = fvlm_json_read_bundle(&files, "config.json", CONFIG_LIMIT, &root, inspector->error);
    if (!status)
        status = add_table(inspector, table, kind == SAFETENSORS ? json_object_get(root, "__metadata__") : root);
    json_decref(root);
    fvlm_tensor_table_destroy(&table);
    return status;
}

fvlm_status fvlm_inspect(const char *path, fvlm_inspection **out, fvlm_error *error)
{
    fvlm_inspection *inspection = *out = fvlm_calloc(1, sizeof *inspection);
    if (!inspection)
        return fvlm_fail_memory(error);
    struct inspector inspector = {.inspection = inspection, .error = error};
    inspection->arena = fvlm_arena_create();
    fvlm_status status = inspection->arena ? FVLM_OK : fvlm_fail_memory(error);
    if (!status && !fvlm_folder_exists(path) && !fvlm_file_exists(path))
        status = fvlm_fail(error, FVLM_ERROR_IO, "there is no file or folder %s", path);
    if (!status)
        status = fvlm_gguf_is(path) ? inspect_gguf(&inspector, path) : inspect_table(&inspector, path);
    if (status)
        fvlm_inspection_free(out);
    return status;
}

void fvlm_inspection_free(fvlm_inspection **inspection)
{
    if (!*inspection)
        return;
    fvlm_arena_destroy(&(*inspection)->arena);
    free(*inspection);
    *inspection = NULL;
}
