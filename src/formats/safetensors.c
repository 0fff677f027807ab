/* safetensors: 8 bytes little-endian length N, N bytes of JSON, then the data that the JSON's offsets divide.
 *
 *   {"__metadata__": {text: text}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * The reader holds the file to the format's own rules: header at most 100 MB, no duplicate keys, every tensor's range
 * as long as its shape says, and the ranges cover the data exactly, without overlaps or holes. Tensors point into the
 * mapped file.
 */
#include "formats/tensor_table.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/checked.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text_buffer.h"

#define HEADER_LIMIT ((size_t)100 << 20)
#define DATA_ALIGN 64 /* where the writer starts the data, so that mapped vectors can be read aligned */

/* One entry's range of the data, and whose it is. */
struct range {
    uint64_t begin, end;
    const char *name;
};

struct reader {
    fvlm_tensor_table *table;
    const char *path;
    const uint8_t *data; /* [data_size], behind the header */
    uint64_t data_size;
    struct range *ranges; /* [range_count] */
    size_t range_count;
    fvlm_error *error;
};

static const fvlm_dtype file_types[] = {FVLM_F32, FVLM_F16, FVLM_BF16, FVLM_U8,  FVLM_I8,  FVLM_U32, FVLM_I32,
                                        FVLM_I64, FVLM_F64, FVLM_BOOL, FVLM_I16, FVLM_U16, FVLM_U64};
enum { FILE_TYPES = sizeof file_types / sizeof file_types[0] };

static bool find_type(const char *name, fvlm_dtype *type)
{
    for (int i = 0; i < FILE_TYPES; i++)
        if (strcmp(fvlm_dtype_name(file_types[i]), name) == 0) {
            *type = file_types[i];
            return true;
        }
    return false;
}

static uint64_t read_u64(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* The i-th number of a JSON array; false where it is not a whole number from 0 up. */
static bool array_size(const json_t *array, size_t i, uint64_t *value)
{
    const json_t *item = json_array_get(array, i);
    if (!json_is_integer(item) || json_integer_value(item) < 0)
        return false;
    *value = (uint64_t)json_integer_value(item);
    return true;
}

static fvlm_status fail_entry(const struct reader *reader, fvlm_status code, const char *name, const char *problem)
{
    return fvlm_fail(reader->error, code, "%s: tensor '%s': %s", reader->path, name, problem);
}

static fvlm_status read_entry(struct reader *reader, const char *name, const json_t *entry)
{
    fvlm_tensor tensor = {.name = name};
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    if (!type || !json_is_array(shape) || !json_is_array(offsets))
        return fail_entry(reader, FVLM_ERROR_FORMAT, name, "dtype, shape or data_offsets is missing");
    if (!find_type(type, &tensor.type))
        return fvlm_fail(reader->error, FVLM_ERROR_UNSUPPORTED,
                         "%s: tensor '%s' has the unknown dtype '%s': store it as F32, F16 or BF16", reader->path, name,
                         type);

    if (json_array_size(shape) > FVLM_MAX_RANK)
        return fail_entry(reader, FVLM_ERROR_UNSUPPORTED, name, "more than 8 dimensions");
    tensor.rank = (int)json_array_size(shape);
    for (int i = 0; i < tensor.rank; i++) {
        uint64_t length;
        if (!array_size(shape, (size_t)i, &length) || length > SIZE_MAX)
            return fail_entry(reader, FVLM_ERROR_FORMAT, name, "its shape is not an array of sizes");
        tensor.shape[i] = (size_t)length;
    }
    if (!fvlm_tensor_measure(&tensor))
        return fail_entry(reader, FVLM_ERROR_FORMAT, name, "its shape overflows");

    struct range range = {.name = name};
    if (json_array_size(offsets) != 2 || !array_size(offsets, 0, &range.begin) || !array_size(offsets, 1, &range.end) ||
        range.end < range.begin)
        return fail_entry(reader, FVLM_ERROR_FORMAT, name, "data_offsets is not [begin, end]");
    if (range.end > reader->data_size)
        return fvlm_fail(reader->error, FVLM_ERROR_FORMAT,
                         "%s: tensor '%s' ends at byte %llu of the data, but the file has %llu: the file is cut short "
                         "or its header lies",
                         reader->path, name, (unsigned long long)range.end, (unsigned long long)reader->data_size);
    if (range.end - range.begin != tensor.bytes)
        return fvlm_fail(reader->error, FVLM_ERROR_FORMAT,
                         "%s: tensor '%s' takes %zu bytes by its shape, but %llu by its data_offsets", reader->path,
                         name, tensor.bytes, (unsigned long long)(range.end - range.begin));

    tensor.data = reader->data + range.begin;
    reader->ranges[reader->range_count++] = range;
    return fvlm_tensor_table_add(reader->table, &tensor, reader->path, reader->error);
}

static int compare_ranges(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* The ranges must follow each other from the first byte of the data to its last. */
static fvlm_status check_cover(struct reader *reader)
{
    qsort(reader->ranges, reader->range_count, sizeof *reader->ranges, compare_ranges);
    uint64_t end = 0;
    for (size_t i = 0; i < reader->range_count; i++) {
        const struct range *range = &reader->ranges[i];
        if (range->begin < end)
            return fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: tensors '%s' and '%s' overlap", reader->path,
                             reader->ranges[i - 1].name, range->name);
        if (range->begin > end)
            break;
        end = range->end;
    }
    if (end != reader->data_size)
        return fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: from byte %llu on, the data belongs to no tensor",
                         reader->path, (unsigned long long)end);
    return FVLM_OK;
}

fvlm_status fvlm_safetensors_parse(fvlm_tensor_table *table, const uint8_t *data, size_t size, const char *path,
                                   fvlm_error *error)
{
    if (size < 8)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: too short for a safetensors file", path);
    uint64_t header = read_u64(data);
    if (header > HEADER_LIMIT)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: a header of %llu bytes; at most %zu are read: not safetensors?",
                         path, (unsigned long long)header, HEADER_LIMIT);
    if (!fvlm_range_fits(8, header, size))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: the header of %llu bytes is longer than the file", path,
                         (unsigned long long)header);

    struct reader reader = {.table = table, .path = path, .error = error};
    reader.data = data + 8 + header;
    reader.data_size = size - 8 - header;
    json_t *root;
    fvlm_status status = fvlm_json_parse((const char *)data + 8, (size_t)header, path, &root, error);
    if (status)
        return status;
    reader.ranges = fvlm_calloc(json_object_size(root), sizeof *reader.ranges);
    if (!json_is_object(root))
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: the header is not a JSON object", path);
    else if (!reader.ranges)
        status = fvlm_fail_memory(error);
    const char *name;
    json_t *entry;
    if (!status) {
        json_object_foreach(root, name, entry)
        {
            status = strcmp(name, "__metadata__") == 0 ? FVLM_OK : read_entry(&reader, name, entry);
            if (status)
                break;
        }
    }
    if (!status)
        status = check_cover(&reader);
    free(reader.ranges);
    json_decref(root);
    return status;
}

fvlm_status fvlm_safetensors_read(fvlm_tensor_table *table, const char *path, fvlm_error *error)
{
    fvlm_mapping mapping;
    fvlm_status status = fvlm_mapping_open(path, &mapping, error);
    if (status)
        return status;
    const uint8_t *data = mapping.data;
    size_t size = mapping.size;
    status = fvlm_tensor_table_own(table, &mapping, error);
    return status ? status : fvlm_safetensors_parse(table, data, size, path, error);
}

/* "text" with JSON's escapes. False where it is not valid UTF-8. */
static bool append_quoted(fvlm_text_buffer *buffer, const char *text)
{
    json_t *string = json_string(text);
    char *quoted = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    if (quoted)
        fvlm_text_append_string(buffer, quoted);
    free(quoted);
    json_decref(string);
    return quoted != NULL;
}

static fvlm_status make_header(fvlm_text_buffer *buffer, const char *path, const char *format,
                               const fvlm_tensor *tensors, size_t count, fvlm_error *error)
{
    uint64_t offset = 0;
    fvlm_text_format(buffer, "{\"__metadata__\":{\"format\":\"%s\"}", format);
    for (size_t i = 0; i < count; i++) {
        fvlm_text_append_string(buffer, ",");
        if (!append_quoted(buffer, tensors[i].name))
            return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s: a tensor's name is not UTF-8", path);
        fvlm_text_format(buffer, ":{\"dtype\":\"%s\",\"shape\":[", fvlm_dtype_name(tensors[i].type));
        for (int d = 0; d < tensors[i].rank; d++)
            fvlm_text_format(buffer, d ? ",%zu" : "%zu", tensors[i].shape[d]);
        fvlm_text_format(buffer, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
                         (unsigned long long)(offset + tensors[i].bytes));
        offset += tensors[i].bytes;
    }
    fvlm_text_append_string(buffer, "}");
    while (!buffer->failed && (8 + buffer->length) % DATA_ALIGN != 0)
        fvlm_text_append_string(buffer, " ");
    return buffer->failed ? fvlm_fail_memory(error) : FVLM_OK;
}

fvlm_status fvlm_safetensors_begin(const char *path, const char *format, const fvlm_tensor *tensors, size_t count,
                                   fvlm_writer **writer, fvlm_error *error)
{
    fvlm_text_buffer header = {0};
    *writer = NULL;
    fvlm_status status = make_header(&header, path, format, tensors, count, error);
    if (!status)
        status = fvlm_writer_open(path, writer, error);
    if (!status) {
        uint8_t length[8];
        for (int i = 0; i < 8; i++)
            length[i] = (uint8_t)((uint64_t)header.length >> 8 * i);
        status = fvlm_writer_write(*writer, length, sizeof length, error);
    }
    if (!status)
        status = fvlm_writer_write(*writer, header.data, header.length, error);
    if (status)
        fvlm_writer_abort(writer);
    fvlm_text_clear(&header);
    return status;
}

fvlm_status fvlm_safetensors_write(const char *path, const fvlm_tensor *tensors, size_t count, fvlm_error *error)
{
    fvlm_writer *writer;
    fvlm_status status = fvlm_safetensors_begin(path, "pt", tensors, count, &writer, error);
    for (size_t i = 0; !status && i < count; i++)
        status = fvlm_writer_write(writer, tensors[i].data, tensors[i].bytes, error);
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    return status;
}
