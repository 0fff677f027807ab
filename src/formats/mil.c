/* Core ML programs: protobuf -> operations in order, each with the operations that make its inputs; constants on
 * demand.
 *
 * A constant is a `const` operation's value (immediate, or at an offset of weights/weight.bin), a value written right
 * into an argument, or what a constexpr_* operation unpacks from other constants.
 *
 * weight.bin (version 2): u32 blobs, u32 version, padding to 64 bytes; at the offset that the program names, a record
 * of u32 0xDEADBEEF, u32 type, u64 bytes, u64 offset of the data. All little-endian.
 */
#include "formats/mil.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/coreml.pb-c.h"
#include "formats/mil_constant.h"

#define SPARE_BYTES ((size_t)32 << 20)
#define MAX_CONSTANT_DEPTH 4 /* constants unpacked from unpacked constants */
#define BLOB_SENTINEL 0xDEADBEEFu
#define BLOB_RECORD_BYTES 64
#define BLOB_FILE "@model_path/weights/weight.bin"

struct operation {
    const Fvlm__Mil__Operation *message;
    const char *name;
    size_t *operands; /* [operand_count]: producers, or FVLM_MIL_INPUT */
    size_t operand_count;
};

struct name {
    const char *name;
    size_t op;
};

struct fvlm_mil {
    fvlm_tensor_table *table;
    const char *path;
    const uint8_t *weights; /* [weights_size] */
    size_t weights_size;
    Fvlm__Mil__Model *model;
    ProtobufCAllocator allocator;
    size_t parse_budget;          /* bytes that protobuf-c may still allocate */
    size_t budget;                /* bytes of constants that may still be copied or unpacked */
    struct operation *operations; /* [count] */
    size_t count;
    struct name *names; /* [name_count] of values, sorted */
    size_t name_count;
    fvlm_arena *arena; /* operands */
};

static void *budget_alloc(void *data, size_t size)
{
    fvlm_mil *mil = data;
    if (size > mil->parse_budget)
        return NULL;
    mil->parse_budget -= size;
    return malloc(size ? size : 1);
}

static void budget_free(void *data, void *memory)
{
    (void)data;
    free(memory);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct name *)a)->name, ((const struct name *)b)->name);
}

/* The operation that makes the value `name`, or FVLM_MIL_INPUT where none does. */
static size_t find_producer(const fvlm_mil *mil, const char *name)
{
    struct name key = {.name = name};
    const struct name *found =
        mil->name_count ? bsearch(&key, mil->names, mil->name_count, sizeof key, compare_names) : NULL;
    return found ? found->op : FVLM_MIL_INPUT;
}

static bool is_constant_type(const char *type)
{
    return strcmp(type, "const") == 0 || strncmp(type, "constexpr_", 10) == 0;
}

/* True where the binding's value is known without running the program. */
static bool is_constant_binding(const fvlm_mil *mil, const Fvlm__Mil__Argument__Binding *binding)
{
    if (binding->value)
        return true;
    size_t producer = find_producer(mil, binding->name);
    return producer != FVLM_MIL_INPUT && is_constant_type(mil->operations[producer].message->type);
}

static const Fvlm__Mil__Argument__Binding *find_binding(const Fvlm__Mil__Operation *message, const char *parameter)
{
    for (size_t i = 0; i < message->n_inputs; i++) {
        const Fvlm__Mil__Operation__InputsEntry *entry = message->inputs[i];
        if (strcmp(entry->key, parameter) == 0)
            return entry->value && entry->value->n_arguments > 0 ? entry->value->arguments[0] : NULL;
    }
    return NULL;
}

static const Fvlm__Mil__Value *find_attribute(const Fvlm__Mil__Operation *message, const char *key)
{
    for (size_t i = 0; i < message->n_attributes; i++)
        if (strcmp(message->attributes[i]->key, key) == 0)
            return message->attributes[i]->value;
    return NULL;
}

/* The block to run: of `main`, or of the only function. */
static const Fvlm__Mil__Block *find_block(const Fvlm__Mil__Model *model)
{
    const Fvlm__Mil__Program *program = model->ml_program;
    const Fvlm__Mil__Function *function = NULL;
    for (size_t i = 0; program && i < program->n_functions; i++)
        if (!function || strcmp(program->functions[i]->key, "main") == 0)
            function = program->functions[i]->value;
    const Fvlm__Mil__Block *block = NULL;
    for (size_t i = 0; function && i < function->n_block_specializations; i++)
        if (!block || strcmp(function->block_specializations[i]->key, function->opset) == 0)
            block = function->block_specializations[i]->value;
    return block;
}

static fvlm_status index_names(fvlm_mil *mil, fvlm_error *error)
{
    size_t total = 0;
    for (size_t i = 0; i < mil->count; i++)
        total += mil->operations[i].message->n_outputs;
    mil->names = fvlm_calloc(total, sizeof *mil->names);
    if (!mil->names)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < mil->count; i++) {
        const Fvlm__Mil__Operation *message = mil->operations[i].message;
        for (size_t k = 0; k < message->n_outputs; k++)
            mil->names[mil->name_count++] = (struct name){message->outputs[k]->name, i};
    }
    qsort(mil->names, mil->name_count, sizeof *mil->names, compare_names);
    for (size_t i = 1; i < mil->name_count; i++)
        if (strcmp(mil->names[i - 1].name, mil->names[i].name) == 0)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: two values of the program are called '%s'", mil->path,
                             mil->names[i].name);
    return FVLM_OK;
}

/* The computed inputs of an operation, each made by an earlier one. */
static fvlm_status find_operands(fvlm_mil *mil, size_t op, fvlm_error *error)
{
    struct operation *operation = &mil->operations[op];
    const Fvlm__Mil__Operation *message = operation->message;
    size_t most = 0;
    for (size_t i = 0; i < message->n_inputs; i++)
        most += message->inputs[i]->value ? message->inputs[i]->value->n_arguments : 0;
    if (most == 0)
        return FVLM_OK;
    operation->operands = fvlm_arena_alloc(mil->arena, most, sizeof *operation->operands);
    if (!operation->operands)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < message->n_inputs; i++) {
        const Fvlm__Mil__Argument *argument = message->inputs[i]->value;
        for (size_t k = 0; argument && k < argument->n_arguments; k++) {
            if (is_constant_binding(mil, argument->arguments[k]))
                continue;
            size_t producer = find_producer(mil, argument->arguments[k]->name);
            if (producer != FVLM_MIL_INPUT && producer >= op)
                return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: operation '%s' uses a value before it is made",
                                 mil->path, operation->name);
            operation->operands[operation->operand_count++] = producer;
        }
    }
    return FVLM_OK;
}

static fvlm_status index_operations(fvlm_mil *mil, const Fvlm__Mil__Block *block, fvlm_error *error)
{
    mil->arena = fvlm_arena_create();
    mil->operations = fvlm_calloc(block->n_operations, sizeof *mil->operations);
    if (!mil->arena || !mil->operations)
        return fvlm_fail_memory(error);
    mil->count = block->n_operations;
    for (size_t i = 0; i < mil->count; i++) {
        const Fvlm__Mil__Operation *message = block->operations[i];
        mil->operations[i].message = message;
        mil->operations[i].name = message->n_outputs > 0 ? message->outputs[0]->name : "";
    }
    fvlm_status status = index_names(mil, error);
    for (size_t i = 0; !status && i < mil->count; i++)
        status = find_operands(mil, i, error);
    return status;
}

static size_t budget_of(size_t bytes, size_t times)
{
    return bytes > (SIZE_MAX - SPARE_BYTES) / times ? SIZE_MAX : times * bytes + SPARE_BYTES;
}

fvlm_status fvlm_mil_open(fvlm_tensor_table *table, const uint8_t *model, size_t model_size, const uint8_t *weights,
                          size_t weights_size, const char *path, fvlm_mil **mil, fvlm_error *error)
{
    *mil = NULL;
    fvlm_mil *made = fvlm_calloc(1, sizeof *made);
    if (!made)
        return fvlm_fail_memory(error);
    made->table = table;
    made->path = path;
    made->weights = weights;
    made->weights_size = weights ? weights_size : 0;
    made->parse_budget = budget_of(model_size, 2);
    /* 4-bit weights become four times as large in fp16. */
    made->budget = budget_of(made->weights_size, 4);
    made->allocator = (ProtobufCAllocator){budget_alloc, budget_free, made};
    made->model = fvlm__mil__model__unpack(&made->allocator, model_size, model);

    fvlm_status status = FVLM_OK;
    const Fvlm__Mil__Block *block = made->model ? find_block(made->model) : NULL;
    if (!made->model)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: not a Core ML model, or it is damaged", path);
    else if (!made->model->ml_program)
        status = fvlm_fail(error, FVLM_ERROR_UNSUPPORTED,
                           "%s: a Core ML model of another kind than ML Program: convert it to mlprogram", path);
    else if (!block || block->n_operations == 0)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: its program is empty", path);
    else
        status = index_operations(made, block, error);
    if (status)
        fvlm_mil_close(&made);
    *mil = made;
    return status;
}

void fvlm_mil_close(fvlm_mil **mil)
{
    fvlm_mil *old = *mil;
    if (!old)
        return;
    if (old->model)
        fvlm__mil__model__free_unpacked(old->model, &old->allocator);
    fvlm_arena_destroy(&old->arena);
    free(old->operations);
    free(old->names);
    free(old);
    *mil = NULL;
}

static json_t *shape_to_json(size_t rank, const int64_t *shape)
{
    json_t *numbers = json_array();
    for (size_t i = 0; i < rank; i++)
        json_array_append_new(numbers, json_integer(shape[i]));
    return numbers;
}

static json_t *features_to_json(size_t count, Fvlm__Mil__FeatureDescription *const *features)
{
    json_t *object = json_object();
    for (size_t i = 0; i < count; i++) {
        json_t *shapes = json_array();
        const Fvlm__Mil__ArrayFeatureType *type = features[i]->type ? features[i]->type->multi_array_type : NULL;
        const Fvlm__Mil__ArrayFeatureType__EnumeratedShapes *several = type ? type->enumerated_shapes : NULL;
        for (size_t k = 0; several && k < several->n_shapes; k++)
            json_array_append_new(shapes, shape_to_json(several->shapes[k]->n_shape, several->shapes[k]->shape));
        if (type && !several && type->n_shape)
            json_array_append_new(shapes, shape_to_json(type->n_shape, type->shape));
        json_object_set_new(object, features[i]->name, shapes);
    }
    return object;
}

static void set_text(json_t *object, const char *key, const char *text)
{
    if (text[0])
        json_object_set_new(object, key, json_string(text));
}

json_t *fvlm_mil_metadata(const fvlm_mil *mil)
{
    const Fvlm__Mil__ModelDescription *description = mil->model->description;
    const Fvlm__Mil__Metadata *metadata = description ? description->metadata : NULL;
    json_t *object = json_object();
    json_object_set_new(object, "specification_version", json_integer(mil->model->specification_version));
    if (metadata) {
        set_text(object, "description", metadata->short_description);
        set_text(object, "author", metadata->author);
        set_text(object, "version", metadata->version_string);
        for (size_t i = 0; i < metadata->n_user_defined; i++)
            set_text(object, metadata->user_defined[i]->key, metadata->user_defined[i]->value);
    }
    if (description) {
        json_object_set_new(object, "inputs", features_to_json(description->n_input, description->input));
        json_object_set_new(object, "outputs", features_to_json(description->n_output, description->output));
    }
    return object;
}

size_t fvlm_mil_count(const fvlm_mil *mil)
{
    return mil->count;
}

const char *fvlm_mil_type(const fvlm_mil *mil, size_t op)
{
    return mil->operations[op].message->type;
}

const char *fvlm_mil_name(const fvlm_mil *mil, size_t op)
{
    return mil->operations[op].name;
}

bool fvlm_mil_operand(const fvlm_mil *mil, size_t op, size_t i, size_t *producer)
{
    if (i >= mil->operations[op].operand_count)
        return false;
    *producer = mil->operations[op].operands[i];
    return true;
}

bool fvlm_mil_is_constant(const fvlm_mil *mil, size_t op, const char *parameter)
{
    const Fvlm__Mil__Argument__Binding *binding = find_binding(mil->operations[op].message, parameter);
    return binding && is_constant_binding(mil, binding);
}

fvlm_status fvlm_mil_alloc(fvlm_mil *mil, size_t bytes, void **memory, fvlm_error *error)
{
    *memory = NULL;
    if (bytes > mil->budget)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: its weights unpack to more than four times their file",
                         mil->path);
    *memory = fvlm_tensor_table_alloc(mil->table, bytes);
    if (!*memory)
        return fvlm_fail_memory(error);
    mil->budget -= bytes;
    return FVLM_OK;
}

/* What a constant is read for: messages name the operation. */
struct reading {
    fvlm_mil *mil;
    const char *name;
    int depth;
    fvlm_error *error;
};

static fvlm_status fail(const struct reading *reading, fvlm_status code, const char *problem)
{
    return fvlm_fail(reading->error, code, "%s: constant of operation '%s': %s", reading->mil->path, reading->name,
                     problem);
}

static fvlm_status take_memory(const struct reading *reading, size_t bytes, void **memory)
{
    return fvlm_mil_alloc(reading->mil, bytes, memory, reading->error);
}

static fvlm_status read_shape(const struct reading *reading, const Fvlm__Mil__Value *value, fvlm_mil_constant *constant)
{
    const Fvlm__Mil__TensorType *type = value->type ? value->type->tensor_type : NULL;
    if (!type)
        return fail(reading, FVLM_ERROR_FORMAT, "it is not a tensor");
    if (type->n_dimensions > FVLM_MAX_RANK)
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "more than 8 dimensions");
    *constant = (fvlm_mil_constant){.type = type->data_type, .rank = (int)type->n_dimensions, .count = 1};
    for (size_t i = 0; i < type->n_dimensions; i++) {
        const Fvlm__Mil__Dimension__ConstantDimension *dimension = type->dimensions[i]->constant;
        if (!dimension || dimension->size > SIZE_MAX ||
            !fvlm_size_multiply(constant->count, (size_t)dimension->size, &constant->count))
            return fail(reading, FVLM_ERROR_FORMAT, "its shape is unknown or overflows");
        constant->shape[i] = (size_t)dimension->size;
    }
    return FVLM_OK;
}

static uint64_t little_endian(const uint8_t *bytes, int count)
{
    uint64_t value = 0;
    for (int i = count - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* Data in weight.bin: it stays there. */
static fvlm_status read_blob(const struct reading *reading, const Fvlm__Mil__Value__BlobFileValue *blob,
                             fvlm_mil_constant *constant)
{
    const fvlm_mil *mil = reading->mil;
    size_t needed;
    if (strcmp(blob->file_name, BLOB_FILE) != 0)
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "it lies in another file than weights/weight.bin");
    if (!mil->weights)
        return fail(reading, FVLM_ERROR_IO, "the package's weights/weight.bin is missing or empty");
    if (!fvlm_mil_bytes(constant->type, constant->count, &needed))
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "its type is not one that is read, or its shape overflows");
    if (!fvlm_range_fits(blob->offset, BLOB_RECORD_BYTES, mil->weights_size))
        return fail(reading, FVLM_ERROR_FORMAT, "it lies behind the end of weight.bin: the file is cut short");
    const uint8_t *record = mil->weights + blob->offset;
    uint64_t bytes = little_endian(record + 8, 8), offset = little_endian(record + 16, 8);
    if (little_endian(record, 4) != BLOB_SENTINEL)
        return fail(reading, FVLM_ERROR_FORMAT, "there is no record of it at its offset in weight.bin");
    if (bytes < needed)
        return fail(reading, FVLM_ERROR_FORMAT, "its record in weight.bin is shorter than its shape says");
    if (!fvlm_range_fits(offset, bytes, mil->weights_size))
        return fail(reading, FVLM_ERROR_FORMAT, "its data end behind the end of weight.bin: the file is cut short");
    constant->data = mil->weights + offset;
    return FVLM_OK;
}

/* Values in the program itself, copied since they go with it. How they are written tells their type: protobuf keeps
 * booleans and narrow integers as int. */
static fvlm_status read_immediate(const struct reading *reading, const Fvlm__Mil__TensorValue *value,
                                  fvlm_mil_constant *constant)
{
    const void *from = NULL;
    size_t count = 0, bytes;
    if (value->floats) {
        constant->type = FVLM_MIL_FLOAT32;
        from = value->floats->values;
        count = value->floats->n_values;
    } else if (value->ints) {
        constant->type = FVLM_MIL_INT32;
        from = value->ints->values;
        count = value->ints->n_values;
    } else if (value->bools) {
        constant->type = FVLM_MIL_INT32;
        from = value->bools->values;
        count = value->bools->n_values;
    } else if (value->bytes) {
        from = value->bytes->values.data;
        count = constant->count;
    }
    if (!fvlm_mil_bytes(constant->type, constant->count, &bytes))
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "its type is not one that is read, or its shape overflows");
    if (count != constant->count || (value->bytes && value->bytes->values.len < bytes) || (bytes > 0 && !from))
        return fail(reading, FVLM_ERROR_FORMAT, "it has not as many values as its shape says");
    void *memory;
    fvlm_status status = take_memory(reading, bytes, &memory);
    if (!status && bytes)
        memcpy(memory, from, bytes);
    constant->data = memory;
    return status;
}

static fvlm_status read_value(const struct reading *reading, const Fvlm__Mil__Value *value, fvlm_mil_constant *constant)
{
    fvlm_status status = read_shape(reading, value, constant);
    if (status)
        return status;
    if (value->blob_file_value)
        return read_blob(reading, value->blob_file_value, constant);
    if (value->immediate_value && value->immediate_value->tensor)
        return read_immediate(reading, value->immediate_value->tensor, constant);
    return fail(reading, FVLM_ERROR_UNSUPPORTED, "its value is of a kind that is not read");
}

static fvlm_status read_operation(const struct reading *reading, const Fvlm__Mil__Operation *message,
                                  fvlm_mil_constant *constant);

/* A parameter of an operation: written as an attribute (programs up to iOS 17 do so for constexpr) or as an argument.
 * *found is false where it is not given. */
static fvlm_status read_parameter(const struct reading *reading, const Fvlm__Mil__Operation *message, const char *name,
                                  fvlm_mil_constant *constant, bool *found)
{
    const Fvlm__Mil__Argument__Binding *binding = find_binding(message, name);
    const Fvlm__Mil__Value *value = binding ? binding->value : find_attribute(message, name);
    *found = binding || value;
    if (value)
        return read_value(reading, value, constant);
    if (!binding)
        return FVLM_OK;
    size_t producer = find_producer(reading->mil, binding->name);
    if (producer == FVLM_MIL_INPUT || !is_constant_type(reading->mil->operations[producer].message->type))
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "it is computed by the program");
    return read_operation(reading, reading->mil->operations[producer].message, constant);
}

/* The same for a parameter that must be there. */
static fvlm_status require_parameter(const struct reading *reading, const Fvlm__Mil__Operation *message,
                                     const char *name, fvlm_mil_constant *constant)
{
    bool found;
    fvlm_status status = read_parameter(reading, message, name, constant, &found);
    return status || found ? status : fail(reading, FVLM_ERROR_FORMAT, "a parameter of it is missing");
}

/* Give `scale` the rank of `data`: its values belong to `axis`, or the only one to everything. */
static bool spread_over_axis(fvlm_mil_constant *scale, const fvlm_mil_constant *data, int64_t axis)
{
    axis += axis < 0 ? data->rank : 0;
    if (axis < 0 || axis >= data->rank || (scale->count != 1 && scale->count != data->shape[axis]))
        return false;
    scale->rank = data->rank;
    for (int i = 0; i < data->rank; i++)
        scale->shape[i] = i == axis ? scale->count : 1;
    return true;
}

/* constexpr_affine_dequantize (a scale for each index of an axis) and constexpr_blockwise_shift_scale. */
static fvlm_status unpack_affine(const struct reading *reading, const Fvlm__Mil__Operation *message, bool blockwise,
                                 fvlm_mil_constant *constant)
{
    fvlm_mil_constant scale, offset, axis;
    bool has_offset;
    fvlm_status status = require_parameter(reading, message, blockwise ? "data" : "quantized_data", constant);
    if (!status)
        status = require_parameter(reading, message, "scale", &scale);
    if (!status)
        status = read_parameter(reading, message, blockwise ? "offset" : "zero_point", &offset, &has_offset);
    if (!status && !blockwise) {
        status = require_parameter(reading, message, "axis", &axis);
        if (!status && (axis.count != 1 || axis.type != FVLM_MIL_INT32 ||
                        !spread_over_axis(&scale, constant, fvlm_mil_integer(&axis, 0))))
            status = fail(reading, FVLM_ERROR_FORMAT, "its scales do not fit its shape");
    }
    if (status)
        return status;
    if (!fvlm_mil_check_affine(constant, &scale, has_offset ? &offset : NULL))
        return fail(reading, FVLM_ERROR_FORMAT, "its data, scales and offsets do not fit together");
    size_t bytes;
    void *memory;
    if (!fvlm_mil_bytes(scale.type, constant->count, &bytes))
        return fail(reading, FVLM_ERROR_FORMAT, "its shape overflows");
    status = take_memory(reading, bytes, &memory);
    if (status)
        return status;
    fvlm_mil_unpack_affine(constant, &scale, has_offset ? &offset : NULL, memory);
    constant->type = scale.type;
    constant->data = memory;
    return FVLM_OK;
}

/* The indices of an iOS 16 palette are packed bytes; their shape and their width come from other parameters. */
static fvlm_status shape_indices(const struct reading *reading, const fvlm_mil_constant *shape,
                                 const fvlm_mil_constant *lookup, fvlm_mil_constant *indices)
{
    static const int types[] = {FVLM_MIL_UINT1, FVLM_MIL_UINT2, 0, FVLM_MIL_UINT4, 0, FVLM_MIL_UINT6, 0,
                                FVLM_MIL_UINT8};
    size_t packed = indices->count, bytes;
    int type = 0;
    for (int bits = 1; bits <= 8; bits++)
        if (lookup->count == (size_t)1 << bits)
            type = types[bits - 1];
    if (type == 0 || shape->rank != 1 || shape->count > FVLM_MAX_RANK || indices->type != FVLM_MIL_UINT8 ||
        (shape->type != FVLM_MIL_UINT32 && shape->type != FVLM_MIL_INT32))
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "its palette is not of 2, 4, 16, 64 or 256 entries");
    indices->type = type;
    indices->rank = (int)shape->count;
    indices->count = 1;
    for (int i = 0; i < indices->rank; i++) {
        int64_t length = fvlm_mil_integer(shape, (size_t)i);
        if (length < 0 || !fvlm_size_multiply(indices->count, (size_t)length, &indices->count))
            return fail(reading, FVLM_ERROR_FORMAT, "its shape overflows");
        indices->shape[i] = (size_t)length;
    }
    if (!fvlm_mil_bytes(type, indices->count, &bytes) || bytes > packed)
        return fail(reading, FVLM_ERROR_FORMAT, "it has fewer indices than its shape says");
    return FVLM_OK;
}

/* constexpr_lut_to_dense: of iOS 16 (one palette) or iOS 18 (a palette for each block, [blocks..., entries, 1]). */
static fvlm_status unpack_lookup(const struct reading *reading, const Fvlm__Mil__Operation *message,
                                 fvlm_mil_constant *constant)
{
    fvlm_mil_constant lookup, shape;
    bool has_shape = false;
    fvlm_status status = require_parameter(reading, message, "indices", constant);
    if (!status)
        status = require_parameter(reading, message, "lut", &lookup);
    if (!status)
        status = read_parameter(reading, message, "shape", &shape, &has_shape);
    if (!status && has_shape) {
        status = shape_indices(reading, &shape, &lookup, constant);
        if (!status && constant->rank < FVLM_MAX_RANK) {
            lookup.rank = constant->rank + 1;
            for (int i = 0; i < constant->rank; i++)
                lookup.shape[i] = 1;
            lookup.shape[constant->rank] = lookup.count;
        }
    } else if (!status && lookup.rank == constant->rank + 2 && lookup.shape[lookup.rank - 1] == 1) {
        lookup.rank--;
    }
    if (status)
        return status;
    if (!fvlm_mil_check_lookup(constant, &lookup))
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "its indices and its palette do not fit together");
    size_t bytes;
    void *memory;
    if (!fvlm_mil_bytes(lookup.type, constant->count, &bytes))
        return fail(reading, FVLM_ERROR_FORMAT, "its shape overflows");
    status = take_memory(reading, bytes, &memory);
    if (status)
        return status;
    fvlm_mil_unpack_lookup(constant, &lookup, memory);
    constant->type = lookup.type;
    constant->data = memory;
    return FVLM_OK;
}

static fvlm_status read_operation(const struct reading *reading, const Fvlm__Mil__Operation *message,
                                  fvlm_mil_constant *constant)
{
    struct reading inner = *reading;
    if (++inner.depth > MAX_CONSTANT_DEPTH)
        return fail(reading, FVLM_ERROR_UNSUPPORTED, "it is packed too many times over");
    if (strcmp(message->type, "const") == 0)
        return require_parameter(&inner, message, "val", constant);
    if (strcmp(message->type, "constexpr_cast") == 0)
        return require_parameter(&inner, message, "source_val", constant);
    if (strcmp(message->type, "constexpr_affine_dequantize") == 0)
        return unpack_affine(&inner, message, false, constant);
    if (strcmp(message->type, "constexpr_blockwise_shift_scale") == 0)
        return unpack_affine(&inner, message, true, constant);
    if (strcmp(message->type, "constexpr_lut_to_dense") == 0)
        return unpack_lookup(&inner, message, constant);
    return fvlm_fail(reading->error, FVLM_ERROR_UNSUPPORTED,
                     "%s: weights of operation '%s' are compressed as %s, which is "
                     "not read: export the package with fp16, 8-bit linear or palettised weights",
                     reading->mil->path, reading->name, message->type);
}

static bool tensor_type(int type, fvlm_dtype *found)
{
    static const struct {
        int type;
        fvlm_dtype dtype;
    } types[] = {
        {FVLM_MIL_FLOAT16, FVLM_F16}, {FVLM_MIL_FLOAT32, FVLM_F32}, {FVLM_MIL_INT8, FVLM_I8},
        {FVLM_MIL_UINT8, FVLM_U8},    {FVLM_MIL_INT16, FVLM_I16},   {FVLM_MIL_UINT16, FVLM_U16},
        {FVLM_MIL_INT32, FVLM_I32},   {FVLM_MIL_UINT32, FVLM_U32},  {FVLM_MIL_BOOL, FVLM_BOOL},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].type == type) {
            *found = types[i].dtype;
            return true;
        }
    return false;
}

fvlm_status fvlm_mil_tensor(fvlm_mil *mil, size_t op, const char *parameter, fvlm_tensor *tensor, fvlm_error *error)
{
    struct reading reading = {.mil = mil, .name = mil->operations[op].name, .error = error};
    fvlm_mil_constant constant;
    fvlm_status status = require_parameter(&reading, mil->operations[op].message, parameter, &constant);
    if (status)
        return status;
    *tensor = (fvlm_tensor){.rank = constant.rank, .data = constant.data};
    memcpy(tensor->shape, constant.shape, sizeof tensor->shape);
    if (!tensor_type(constant.type, &tensor->type) || !fvlm_tensor_measure(tensor))
        return fail(&reading, FVLM_ERROR_UNSUPPORTED, "its type is not one that is read");
    return FVLM_OK;
}

const char *fvlm_mil_text(const fvlm_mil *mil, size_t op, const char *parameter, const char *fallback)
{
    const Fvlm__Mil__Argument__Binding *binding = find_binding(mil->operations[op].message, parameter);
    const Fvlm__Mil__Value *value = binding ? binding->value : NULL;
    if (binding && !value) {
        size_t producer = find_producer(mil, binding->name);
        value = producer == FVLM_MIL_INPUT ? NULL : find_attribute(mil->operations[producer].message, "val");
    }
    const Fvlm__Mil__TensorValue *tensor = value && value->immediate_value ? value->immediate_value->tensor : NULL;
    return tensor && tensor->strings && tensor->strings->n_values == 1 ? tensor->strings->values[0] : fallback;
}

fvlm_status fvlm_mil_numbers(fvlm_mil *mil, size_t op, const char *parameter, size_t count, int64_t fallback,
                             int64_t *numbers, fvlm_error *error)
{
    struct reading reading = {.mil = mil, .name = mil->operations[op].name, .error = error};
    fvlm_mil_constant constant;
    bool found;
    fvlm_status status = read_parameter(&reading, mil->operations[op].message, parameter, &constant, &found);
    if (status)
        return status;
    if (found && (constant.count != count || constant.type == FVLM_MIL_FLOAT16 || constant.type == FVLM_MIL_FLOAT32))
        return fail(&reading, FVLM_ERROR_UNSUPPORTED, "a parameter has not as many numbers as were expected");
    for (size_t i = 0; i < count; i++)
        numbers[i] = found ? fvlm_mil_integer(&constant, i) : fallback;
    return FVLM_OK;
}
