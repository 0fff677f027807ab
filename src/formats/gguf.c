/* Reading GGUF.
 *
 * A cursor walks the header once: values (kept as views of the mapped file), then tensors, then the ranges of their
 * data are held against the file and against each other. Counts come from the file, so each is held against the bytes
 * that are left before anything is allocated for it.
 */
#include "formats/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"

#define MAX_VALUES ((uint64_t)1 << 16)
#define MAX_TENSORS ((uint64_t)1 << 16)
#define MAX_NAME 4096
#define MIN_VALUE_BYTES 13  /* an empty key, a type, one byte */
#define MIN_TENSOR_BYTES 24 /* an empty name, rank 0, type, offset */
#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT ((uint64_t)1 << 20)

/* By the file's number; elements and bytes of a block. Those that no kernel reads are here to be listed. */
static const fvlm_gguf_tensor_type tensor_types[] = {
    [0] = {"F32", 1, 4, true, FVLM_F32},        [1] = {"F16", 1, 2, true, FVLM_F16},
    [2] = {"Q4_0", 32, 18, true, FVLM_Q4_0},    [3] = {"Q4_1", 32, 20, false, 0},
    [6] = {"Q5_0", 32, 22, false, 0},           [7] = {"Q5_1", 32, 24, false, 0},
    [8] = {"Q8_0", 32, 34, true, FVLM_Q8_0},    [9] = {"Q8_1", 32, 36, false, 0},
    [10] = {"Q2_K", 256, 84, false, 0},         [11] = {"Q3_K", 256, 110, false, 0},
    [12] = {"Q4_K", 256, 144, true, FVLM_Q4_K}, [13] = {"Q5_K", 256, 176, false, 0},
    [14] = {"Q6_K", 256, 210, false, 0},        [15] = {"Q8_K", 256, 292, false, 0},
    [16] = {"IQ2_XXS", 256, 66, false, 0},      [17] = {"IQ2_XS", 256, 74, false, 0},
    [18] = {"IQ3_XXS", 256, 98, false, 0},      [19] = {"IQ1_S", 256, 50, false, 0},
    [20] = {"IQ4_NL", 32, 18, false, 0},        [21] = {"IQ3_S", 256, 110, false, 0},
    [22] = {"IQ2_S", 256, 82, false, 0},        [23] = {"IQ4_XS", 256, 136, false, 0},
    [24] = {"I8", 1, 1, true, FVLM_I8},         [25] = {"I16", 1, 2, true, FVLM_I16},
    [26] = {"I32", 1, 4, true, FVLM_I32},       [27] = {"I64", 1, 8, true, FVLM_I64},
    [28] = {"F64", 1, 8, true, FVLM_F64},       [29] = {"IQ1_M", 256, 56, false, 0},
    [30] = {"BF16", 1, 2, true, FVLM_BF16}};
#define TENSOR_TYPES (sizeof tensor_types / sizeof *tensor_types)

static const struct {
    const char *name;
    size_t bytes; /* of one; 0: varies */
} value_types[] = {[FVLM_GGUF_U8] = {"u8", 1},       [FVLM_GGUF_I8] = {"i8", 1},     [FVLM_GGUF_U16] = {"u16", 2},
                   [FVLM_GGUF_I16] = {"i16", 2},     [FVLM_GGUF_U32] = {"u32", 4},   [FVLM_GGUF_I32] = {"i32", 4},
                   [FVLM_GGUF_F32] = {"f32", 4},     [FVLM_GGUF_BOOL] = {"bool", 1}, [FVLM_GGUF_STRING] = {"string", 0},
                   [FVLM_GGUF_ARRAY] = {"array", 0}, [FVLM_GGUF_U64] = {"u64", 8},   [FVLM_GGUF_I64] = {"i64", 8},
                   [FVLM_GGUF_F64] = {"f64", 8}};
#define VALUE_TYPES (sizeof value_types / sizeof *value_types)

const char *fvlm_gguf_type_name(fvlm_gguf_type type)
{
    return value_types[type].name;
}

bool fvlm_gguf_dtype(fvlm_dtype type, uint32_t *id)
{
    for (uint32_t i = 0; i < TENSOR_TYPES; i++)
        if (tensor_types[i].supported && tensor_types[i].dtype == type) {
            *id = i;
            return true;
        }
    return false;
}

struct reader {
    fvlm_gguf *gguf;
    const uint8_t *data; /* [size] */
    size_t size, at;
    fvlm_status status; /* the first error; nothing is read after it */
    fvlm_error *error;
};

static void fail(struct reader *reader, fvlm_status code, const char *what)
{
    if (!reader->status)
        reader->status = fvlm_fail(reader->error, code, "%s: %s (byte %zu)", reader->gguf->path, what, reader->at);
}

/* The next `bytes` bytes, or NULL. */
static const uint8_t *take(struct reader *reader, uint64_t bytes)
{
    if (reader->status)
        return NULL;
    if (!fvlm_range_fits(reader->at, bytes, reader->size)) {
        fail(reader, FVLM_ERROR_FORMAT, "the file ends within its header: it is cut short, or the header lies");
        return NULL;
    }
    const uint8_t *place = reader->data + reader->at;
    reader->at += (size_t)bytes;
    return place;
}

static uint64_t load_number(const uint8_t *data, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;)
        value = value << 8 | data[i];
    return value;
}

static uint64_t take_number(struct reader *reader, size_t bytes)
{
    const uint8_t *data = take(reader, bytes);
    return data ? load_number(data, bytes) : 0;
}

/* A name as a string of its own; NULL on an error. */
static const char *take_name(struct reader *reader, const char *what)
{
    uint64_t length = take_number(reader, 8);
    if (!reader->status && length > MAX_NAME)
        fail(reader, FVLM_ERROR_LIMIT, what);
    const uint8_t *text = take(reader, length);
    if (!text)
        return NULL;
    if (memchr(text, '\0', (size_t)length)) {
        fail(reader, FVLM_ERROR_FORMAT, what);
        return NULL;
    }
    char *name = fvlm_arena_alloc(reader->gguf->arena, (size_t)length + 1, 1);
    if (!name) {
        reader->status = fvlm_fail_memory(reader->error);
        return NULL;
    }
    return memcpy(name, text, (size_t)length);
}

static void read_value(struct reader *reader, fvlm_gguf_value *value)
{
    value->key = take_name(reader, "a key is too long or holds a NUL");
    uint64_t type = take_number(reader, 4);
    value->array = type == FVLM_GGUF_ARRAY;
    value->count = 1;
    if (value->array) {
        type = take_number(reader, 4);
        value->count = take_number(reader, 8);
    }
    if (!reader->status && (type >= VALUE_TYPES || type == FVLM_GGUF_ARRAY))
        fail(reader, FVLM_ERROR_UNSUPPORTED, "a value of an unknown type, or an array of arrays");
    if (reader->status)
        return;
    value->type = (fvlm_gguf_type)type;
    size_t start = reader->at, bytes = 0;
    if (type == FVLM_GGUF_STRING) {
        for (uint64_t i = 0; i < value->count && !reader->status; i++)
            take(reader, take_number(reader, 8));
    } else if (value->count > SIZE_MAX || !fvlm_size_multiply(value_types[type].bytes, (size_t)value->count, &bytes)) {
        fail(reader, FVLM_ERROR_FORMAT, "an array's size overflows");
    } else {
        take(reader, bytes);
    }
    value->data = reader->data + start;
    value->bytes = reader->at - start;
}

/* `offsets` [tensor_count]: where the file says that each tensor starts; its range is checked later. */
static void read_tensor(struct reader *reader, fvlm_gguf_tensor *tensor, uint64_t *offset)
{
    tensor->name = take_name(reader, "a tensor's name is too long or holds a NUL");
    uint64_t rank = take_number(reader, 4);
    if (!reader->status && rank > FVLM_MAX_RANK)
        fail(reader, FVLM_ERROR_UNSUPPORTED, "a tensor of more than 8 dimensions");
    size_t elements = 1;
    for (uint64_t i = 0; i < rank && !reader->status; i++) {
        uint64_t length = take_number(reader, 8);
        if (length > SIZE_MAX || !fvlm_size_multiply(elements, (size_t)length, &elements))
            fail(reader, FVLM_ERROR_FORMAT, "a tensor's shape overflows");
        tensor->shape[rank - 1 - i] = (size_t)length;
    }
    tensor->rank = (int)rank;
    tensor->type_id = (uint32_t)take_number(reader, 4);
    *offset = take_number(reader, 8);
    if (reader->status || tensor->type_id >= TENSOR_TYPES || !tensor_types[tensor->type_id].name)
        return;
    tensor->type = tensor_types[tensor->type_id];
    size_t row = rank ? tensor->shape[rank - 1] : 1;
    if (row % tensor->type.block != 0)
        fail(reader, FVLM_ERROR_FORMAT, "a tensor's rows are not a multiple of its type's block");
    else if (!fvlm_size_multiply(elements / tensor->type.block, tensor->type.block_bytes, &tensor->bytes))
        fail(reader, FVLM_ERROR_FORMAT, "a tensor's shape overflows");
}

/* Ranges of data, to be sorted. */
struct range {
    uint64_t begin, end;
    const char *name;
};

static int compare_ranges(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static void place_tensors(struct reader *reader, const uint64_t *offsets)
{
    fvlm_gguf *gguf = reader->gguf;
    size_t start;
    if (!fvlm_size_add(reader->at, gguf->alignment - 1, &start)) {
        fail(reader, FVLM_ERROR_FORMAT, "the header's size overflows");
        return;
    }
    start -= start % gguf->alignment;
    uint64_t size = start < reader->size ? reader->size - start : 0;
    struct range *ranges = fvlm_calloc(gguf->tensor_count + 1, sizeof *ranges);
    if (!ranges)
        reader->status = fvlm_fail_memory(reader->error);
    for (size_t i = 0; i < gguf->tensor_count && !reader->status; i++) {
        fvlm_gguf_tensor *tensor = &gguf->tensors[i];
        if (offsets[i] % gguf->alignment != 0)
            reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT,
                                       "%s: tensor '%s' starts at byte %llu of the data, not a multiple of %zu",
                                       gguf->path, tensor->name, (unsigned long long)offsets[i], gguf->alignment);
        else if (!fvlm_range_fits(offsets[i], tensor->bytes, size))
            reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT,
                                       "%s: tensor '%s' takes bytes %llu to %llu of the data, but the file has %llu: "
                                       "it is cut short or its header lies",
                                       gguf->path, tensor->name, (unsigned long long)offsets[i],
                                       (unsigned long long)(offsets[i] + tensor->bytes), (unsigned long long)size);
        else
            tensor->data = reader->data + (tensor->bytes ? start + (size_t)offsets[i] : 0);
        ranges[i] = (struct range){offsets[i], offsets[i] + tensor->bytes, tensor->name};
    }
    if (ranges)
        qsort(ranges, gguf->tensor_count, sizeof *ranges, compare_ranges);
    for (size_t i = 1; i < gguf->tensor_count && !reader->status; i++)
        if (ranges[i].begin < ranges[i - 1].end)
            reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: tensors '%s' and '%s' overlap",
                                       gguf->path, ranges[i - 1].name, ranges[i].name);
    free(ranges);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorts names [count]. */
static void check_unique(struct reader *reader, const char **names, size_t count, const char *what)
{
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 1; i < count && !reader->status; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            reader->status = fvlm_fail(reader->error, FVLM_ERROR_FORMAT, "%s: %s '%s' occurs twice", reader->gguf->path,
                                       what, names[i]);
}

static void check_names(struct reader *reader)
{
    fvlm_gguf *gguf = reader->gguf;
    const char **names = fvlm_calloc(gguf->value_count + gguf->tensor_count + 1, sizeof *names);
    if (!names) {
        reader->status = fvlm_fail_memory(reader->error);
        return;
    }
    const char **tensor_names = names + gguf->value_count;
    for (size_t i = 0; i < gguf->value_count; i++)
        names[i] = gguf->values[i].key;
    for (size_t i = 0; i < gguf->tensor_count; i++)
        tensor_names[i] = gguf->tensors[i].name;
    check_unique(reader, names, gguf->value_count, "key");
    check_unique(reader, tensor_names, gguf->tensor_count, "tensor");
    free(names);
}

static void read_alignment(struct reader *reader)
{
    fvlm_gguf *gguf = reader->gguf;
    gguf->alignment = DEFAULT_ALIGNMENT;
    const fvlm_gguf_value *value = fvlm_gguf_find(gguf, "general.alignment");
    if (!value)
        return;
    uint64_t alignment = value->type == FVLM_GGUF_U32 && !value->array ? load_number(value->data, 4) : 0;
    if (alignment == 0 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        fail(reader, FVLM_ERROR_FORMAT, "general.alignment is not a u32 power of two up to 1 MB");
    else
        gguf->alignment = (size_t)alignment;
}

/* Two counts, checked against what is left of the file. */
static void read_counts(struct reader *reader)
{
    fvlm_gguf *gguf = reader->gguf;
    uint64_t tensors = take_number(reader, 8), values = take_number(reader, 8);
    uint64_t left = reader->size - reader->at;
    if (!reader->status && (tensors > MAX_TENSORS || values > MAX_VALUES || tensors > left / MIN_TENSOR_BYTES ||
                            values > left / MIN_VALUE_BYTES))
        fail(reader, FVLM_ERROR_FORMAT, "more tensors or values than the file has room for");
    if (reader->status)
        return;
    gguf->values = fvlm_arena_alloc(gguf->arena, (size_t)values + 1, sizeof *gguf->values);
    gguf->tensors = fvlm_arena_alloc(gguf->arena, (size_t)tensors + 1, sizeof *gguf->tensors);
    if (!gguf->values || !gguf->tensors) {
        reader->status = fvlm_fail_memory(reader->error);
        return;
    }
    gguf->value_count = (size_t)values;
    gguf->tensor_count = (size_t)tensors;
}

static void read_header(struct reader *reader)
{
    fvlm_gguf *gguf = reader->gguf;
    const uint8_t *magic = take(reader, 4);
    if (magic && memcmp(magic, "GGUF", 4) != 0)
        fail(reader, FVLM_ERROR_FORMAT, "not a GGUF file: a model is one, or the folder of a checkpoint");
    uint32_t version = (uint32_t)take_number(reader, 4);
    gguf->version = version;
    if (!reader->status && (version & 0xffff) == 0)
        fail(reader, FVLM_ERROR_UNSUPPORTED, "a GGUF file for big-endian machines: convert it anew");
    else if (!reader->status && version != 2 && version != 3)
        fail(reader, FVLM_ERROR_UNSUPPORTED, "this version of GGUF is not supported, only 2 and 3: convert it anew");
    read_counts(reader);
    for (size_t i = 0; i < gguf->value_count && !reader->status; i++)
        read_value(reader, &gguf->values[i]);
    if (!reader->status)
        read_alignment(reader);
    uint64_t *offsets = fvlm_calloc(gguf->tensor_count + 1, sizeof *offsets);
    if (!offsets && !reader->status)
        reader->status = fvlm_fail_memory(reader->error);
    for (size_t i = 0; i < gguf->tensor_count && !reader->status; i++)
        read_tensor(reader, &gguf->tensors[i], &offsets[i]);
    if (!reader->status)
        check_names(reader);
    if (!reader->status)
        place_tensors(reader, offsets);
    free(offsets);
}

static fvlm_status create(const char *path, fvlm_gguf **gguf, fvlm_error *error)
{
    *gguf = fvlm_calloc(1, sizeof **gguf);
    if (!*gguf)
        return fvlm_fail_memory(error);
    (*gguf)->arena = fvlm_arena_create();
    (*gguf)->path = (*gguf)->arena ? fvlm_arena_strdup((*gguf)->arena, path) : NULL;
    if (!(*gguf)->path) {
        fvlm_gguf_close(gguf);
        return fvlm_fail_memory(error);
    }
    return FVLM_OK;
}

static fvlm_status parse(const uint8_t *data, size_t size, fvlm_gguf **gguf, fvlm_error *error)
{
    struct reader reader = {.gguf = *gguf, .data = data, .size = size, .error = error};
    read_header(&reader);
    if (reader.status)
        fvlm_gguf_close(gguf);
    return reader.status;
}

fvlm_status fvlm_gguf_parse(const uint8_t *data, size_t size, const char *path, fvlm_gguf **gguf, fvlm_error *error)
{
    fvlm_status status = create(path, gguf, error);
    return status ? status : parse(data, size, gguf, error);
}

fvlm_status fvlm_gguf_open(const char *path, fvlm_gguf **gguf, fvlm_error *error)
{
    fvlm_status status = create(path, gguf, error);
    if (status)
        return status;
    status = fvlm_mapping_open(path, &(*gguf)->mapping, error);
    if (status) {
        fvlm_gguf_close(gguf);
        return status;
    }
    return parse((*gguf)->mapping.data, (*gguf)->mapping.size, gguf, error);
}

void fvlm_gguf_close(fvlm_gguf **gguf)
{
    fvlm_gguf *old = *gguf;
    if (!old)
        return;
    fvlm_mapping_close(&old->mapping);
    fvlm_arena_destroy(&old->arena);
    free(old);
    *gguf = NULL;
}

const fvlm_gguf_value *fvlm_gguf_find(const fvlm_gguf *gguf, const char *key)
{
    for (size_t i = 0; i < gguf->value_count; i++)
        if (strcmp(gguf->values[i].key, key) == 0)
            return &gguf->values[i];
    return NULL;
}

void fvlm_gguf_string(const fvlm_gguf_value *value, size_t *at, const char **text, size_t *bytes)
{
    *bytes = (size_t)load_number(value->data + *at, 8);
    *text = (const char *)value->data + *at + 8;
    *at += 8 + *bytes;
}

double fvlm_gguf_number(const fvlm_gguf_value *value, uint64_t index)
{
    size_t bytes = value_types[value->type].bytes;
    uint64_t bits = load_number(value->data + index * bytes, bytes);
    float single;
    double number;
    switch (value->type) {
    case FVLM_GGUF_I8:
        return (int8_t)bits;
    case FVLM_GGUF_I16:
        return (int16_t)bits;
    case FVLM_GGUF_I32:
        return (int32_t)bits;
    case FVLM_GGUF_I64:
        return (double)(int64_t)bits;
    case FVLM_GGUF_F32: {
        uint32_t low = (uint32_t)bits;
        memcpy(&single, &low, sizeof single);
        return single;
    }
    case FVLM_GGUF_F64:
        memcpy(&number, &bits, sizeof number);
        return number;
    default:
        return (double)bits;
    }
}

fvlm_status fvlm_gguf_add_tensors(const fvlm_gguf *gguf, fvlm_tensor_table *table, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; i < gguf->tensor_count && !status; i++) {
        const fvlm_gguf_tensor *from = &gguf->tensors[i];
        if (!from->type.supported)
            return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                             "%s: tensor '%s' has type %s (%u), which is not supported: convert the model anew",
                             gguf->path, from->name, from->type.name ? from->type.name : "unknown", from->type_id);
        fvlm_tensor tensor = {
            .name = from->name, .type = from->type.dtype, .rank = from->rank, .bytes = from->bytes, .data = from->data};
        memcpy(tensor.shape, from->shape, sizeof tensor.shape);
        status = fvlm_tensor_table_add(table, &tensor, gguf->path, error);
    }
    return status;
}

bool fvlm_gguf_is(const char *path)
{
    fvlm_mapping mapping;
    if (!fvlm_file_exists(path) || fvlm_mapping_open(path, &mapping, NULL))
        return false;
    bool is = mapping.size >= 4 && memcmp(mapping.data, "GGUF", 4) == 0;
    fvlm_mapping_close(&mapping);
    return is;
}
