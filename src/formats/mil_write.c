/* The builder of Core ML packages: messages in an arena, weights in a file that grows.
 *
 *   PACKAGE/Manifest.json, PACKAGE/Data/com.apple.CoreML/{model.mlmodel, weights/weight.bin}
 *
 * weight.bin is as mil.c reads it: a header of 64 bytes, then a record of 64 bytes and the data of each weight, all at
 * multiples of 64. Every parameter is a `const` operation of its own, as coremltools writes them.
 */
#include "formats/mil_write.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/system.h"
#include "formats/coreml.pb-c.h"

#define BLOB_ALIGN 64
#define BLOB_VERSION 2
#define BLOB_SENTINEL 0xDEADBEEFu
#define BLOB_FILE "@model_path/weights/weight.bin"
#define FORMAT_VERSION 7 /* of the model file: iOS 16 */
#define OPSET "CoreML6"  /* its operations */
#define ARRAY_FLOAT32 65568
#define INT8_LIMIT 127.0f

struct fvlm_mil_builder {
    char *package;
    int type;
    fvlm_arena *arena;
    Fvlm__Mil__Operation **operations; /* [count] of capacity */
    size_t count, capacity;
    Fvlm__Mil__NamedValueType *input;

    Fvlm__Mil__Operation *current; /* between begin and end; its name is in current_name */
    const char *current_name;
    size_t current_capacity; /* of its inputs */

    fvlm_writer *weights;
    uint64_t offset; /* bytes of weight.bin so far */
    uint32_t blobs;
    /* The weight whose rows come: */
    size_t rows, cols, row;
    bool int8;
    float *scales;   /* [rows] */
    uint8_t *packed; /* a row as it is written */

    fvlm_status status;
    fvlm_error *error;
};

/* Memory. */

static void *take(fvlm_mil_builder *builder, size_t count, size_t size)
{
    void *memory = builder->status ? NULL : fvlm_arena_alloc(builder->arena, count ? count : 1, size);
    if (!memory && !builder->status)
        builder->status = fvlm_fail_memory(builder->error);
    return memory;
}

static char *take_text(fvlm_mil_builder *builder, const char *format, ...) FVLM_PRINTF(2, 3);

static char *take_text(fvlm_mil_builder *builder, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char *copy = take(builder, strlen(text) + 1, 1);
    return copy ? strcpy(copy, text) : NULL;
}

/* A message of the arena, initialised; NULL after an error. */
#define TAKE(builder, Type, INIT) ((Type *)take_message(builder, &(const Type)INIT, sizeof(Type)))

static void *take_message(fvlm_mil_builder *builder, const void *initial, size_t bytes)
{
    void *message = take(builder, 1, bytes);
    return message ? memcpy(message, initial, bytes) : NULL;
}

/* Types and values. After an error they return NULL or something unfinished, which nobody looks at. */

static Fvlm__Mil__ValueType *make_type(fvlm_mil_builder *builder, int type, int rank, const int64_t *shape)
{
    Fvlm__Mil__ValueType *value = TAKE(builder, Fvlm__Mil__ValueType, FVLM__MIL__VALUE_TYPE__INIT);
    Fvlm__Mil__TensorType *tensor = TAKE(builder, Fvlm__Mil__TensorType, FVLM__MIL__TENSOR_TYPE__INIT);
    Fvlm__Mil__Dimension **dimensions = take(builder, (size_t)rank, sizeof *dimensions);
    if (builder->status)
        return NULL;
    tensor->data_type = type;
    tensor->rank = rank;
    tensor->n_dimensions = (size_t)rank;
    tensor->dimensions = dimensions;
    for (int i = 0; i < rank; i++) {
        dimensions[i] = TAKE(builder, Fvlm__Mil__Dimension, FVLM__MIL__DIMENSION__INIT);
        Fvlm__Mil__Dimension__ConstantDimension *constant =
            TAKE(builder, Fvlm__Mil__Dimension__ConstantDimension, FVLM__MIL__DIMENSION__CONSTANT_DIMENSION__INIT);
        Fvlm__Mil__Dimension__UnknownDimension *unknown =
            TAKE(builder, Fvlm__Mil__Dimension__UnknownDimension, FVLM__MIL__DIMENSION__UNKNOWN_DIMENSION__INIT);
        if (builder->status)
            return NULL;
        if (shape[i] == FVLM_MIL_ANY) {
            dimensions[i]->unknown = unknown;
        } else {
            constant->size = (uint64_t)shape[i];
            dimensions[i]->constant = constant;
        }
    }
    value->tensor_type = tensor;
    return value;
}

static Fvlm__Mil__NamedValueType *make_named(fvlm_mil_builder *builder, const char *name, int type, int rank,
                                             const int64_t *shape)
{
    Fvlm__Mil__NamedValueType *named = TAKE(builder, Fvlm__Mil__NamedValueType, FVLM__MIL__NAMED_VALUE_TYPE__INIT);
    Fvlm__Mil__ValueType *value = make_type(builder, type, rank, shape);
    if (builder->status)
        return NULL;
    named->name = (char *)name;
    named->type = value;
    return named;
}

/* A value of rank 0 where count is 0, else a vector. `values` are int32, float, or a text, as the type says; of the
 * other types they are the bytes. */
static Fvlm__Mil__Value *make_immediate(fvlm_mil_builder *builder, int type, size_t count, const void *values)
{
    int64_t shape = (int64_t)count;
    size_t length = count ? count : 1, bytes = 0;
    Fvlm__Mil__Value *value = TAKE(builder, Fvlm__Mil__Value, FVLM__MIL__VALUE__INIT);
    Fvlm__Mil__Value__ImmediateValue *immediate =
        TAKE(builder, Fvlm__Mil__Value__ImmediateValue, FVLM__MIL__VALUE__IMMEDIATE_VALUE__INIT);
    Fvlm__Mil__TensorValue *tensor = TAKE(builder, Fvlm__Mil__TensorValue, FVLM__MIL__TENSOR_VALUE__INIT);
    Fvlm__Mil__ValueType *kind = make_type(builder, type, count ? 1 : 0, &shape);
    if (builder->status)
        return NULL;
    if (type == FVLM_MIL_STRING) {
        tensor->strings = TAKE(builder, Fvlm__Mil__TensorValue__Strings, FVLM__MIL__TENSOR_VALUE__STRINGS__INIT);
        char **texts = take(builder, 1, sizeof *texts), *text = take_text(builder, "%s", (const char *)values);
        if (builder->status)
            return NULL;
        texts[0] = text;
        tensor->strings->n_values = 1;
        tensor->strings->values = texts;
    } else {
        bool narrow = type == FVLM_MIL_FLOAT16 || type == FVLM_MIL_INT8;
        size_t element = type == FVLM_MIL_INT8 ? 1 : type == FVLM_MIL_FLOAT16 ? 2 : 4;
        bytes = length * element;
        void *copy = take(builder, length, element);
        if (builder->status)
            return NULL;
        memcpy(copy, values, bytes);
        if (narrow) {
            tensor->bytes = TAKE(builder, Fvlm__Mil__TensorValue__Bytes, FVLM__MIL__TENSOR_VALUE__BYTES__INIT);
            if (tensor->bytes)
                tensor->bytes->values = (ProtobufCBinaryData){bytes, copy};
        } else if (type == FVLM_MIL_FLOAT32) {
            tensor->floats = TAKE(builder, Fvlm__Mil__TensorValue__Floats, FVLM__MIL__TENSOR_VALUE__FLOATS__INIT);
            if (tensor->floats) {
                tensor->floats->n_values = length;
                tensor->floats->values = copy;
            }
        } else if (type == FVLM_MIL_BOOL) {
            tensor->bools = TAKE(builder, Fvlm__Mil__TensorValue__Bools, FVLM__MIL__TENSOR_VALUE__BOOLS__INIT);
            if (tensor->bools) {
                tensor->bools->n_values = length;
                tensor->bools->values = copy;
            }
        } else {
            tensor->ints = TAKE(builder, Fvlm__Mil__TensorValue__Ints, FVLM__MIL__TENSOR_VALUE__INTS__INIT);
            if (tensor->ints) {
                tensor->ints->n_values = length;
                tensor->ints->values = copy;
            }
        }
    }
    immediate->tensor = tensor;
    value->type = kind;
    value->immediate_value = immediate;
    return value;
}

/* Operations. */

static Fvlm__Mil__Operation *make_operation(fvlm_mil_builder *builder, const char *type, const char *name,
                                            size_t attributes)
{
    Fvlm__Mil__Operation *operation = TAKE(builder, Fvlm__Mil__Operation, FVLM__MIL__OPERATION__INIT);
    Fvlm__Mil__Operation__AttributesEntry **entries = take(builder, attributes + 1, sizeof *entries);
    char *text = take_text(builder, "%s", type);
    if (builder->status)
        return NULL;
    operation->type = text;
    operation->attributes = entries;
    return operation->attributes && name ? operation : NULL;
}

static void add_attribute(fvlm_mil_builder *builder, Fvlm__Mil__Operation *operation, const char *key,
                          Fvlm__Mil__Value *value)
{
    Fvlm__Mil__Operation__AttributesEntry *entry =
        TAKE(builder, Fvlm__Mil__Operation__AttributesEntry, FVLM__MIL__OPERATION__ATTRIBUTES_ENTRY__INIT);
    char *text = take_text(builder, "%s", key);
    if (builder->status)
        return;
    entry->key = text;
    entry->value = value;
    operation->attributes[operation->n_attributes++] = entry;
}

/* Append the operation with its results. */
static void append(fvlm_mil_builder *builder, Fvlm__Mil__Operation *operation, const char *name,
                   Fvlm__Mil__NamedValueType **outputs, size_t count)
{
    if (builder->status)
        return;
    add_attribute(builder, operation, "name", make_immediate(builder, FVLM_MIL_STRING, 0, name));
    if (builder->count == builder->capacity) {
        size_t capacity = builder->capacity ? 2 * builder->capacity : 1024;
        Fvlm__Mil__Operation **grown = realloc(builder->operations, capacity * sizeof *grown);
        if (!grown) {
            builder->status = fvlm_fail_memory(builder->error);
            return;
        }
        builder->operations = grown;
        builder->capacity = capacity;
    }
    operation->n_outputs = count;
    operation->outputs = outputs;
    builder->operations[builder->count++] = operation;
}

static void append_one(fvlm_mil_builder *builder, Fvlm__Mil__Operation *operation, const fvlm_mil_value *result)
{
    Fvlm__Mil__NamedValueType **outputs = take(builder, 1, sizeof *outputs);
    if (builder->status)
        return;
    outputs[0] = make_named(builder, result->name, result->type, result->rank, result->shape);
    append(builder, operation, result->name, outputs, 1);
}

void fvlm_mil_begin(fvlm_mil_builder *builder, const char *type, const char *name)
{
    builder->current_name = take_text(builder, "%s", name);
    builder->current = make_operation(builder, type, builder->current_name, 1);
    builder->current_capacity = 12; /* conv has 7 */
    Fvlm__Mil__Operation__InputsEntry **inputs = take(builder, builder->current_capacity, sizeof *inputs);
    if (!builder->status)
        builder->current->inputs = inputs;
}

void fvlm_mil_set(fvlm_mil_builder *builder, const char *parameter, fvlm_mil_value value)
{
    Fvlm__Mil__Operation__InputsEntry *entry =
        TAKE(builder, Fvlm__Mil__Operation__InputsEntry, FVLM__MIL__OPERATION__INPUTS_ENTRY__INIT);
    Fvlm__Mil__Argument *argument = TAKE(builder, Fvlm__Mil__Argument, FVLM__MIL__ARGUMENT__INIT);
    Fvlm__Mil__Argument__Binding *binding =
        TAKE(builder, Fvlm__Mil__Argument__Binding, FVLM__MIL__ARGUMENT__BINDING__INIT);
    Fvlm__Mil__Argument__Binding **bindings = take(builder, 1, sizeof *bindings);
    char *key = take_text(builder, "%s", parameter);
    if (builder->status)
        return;
    binding->name = (char *)value.name;
    bindings[0] = binding;
    argument->n_arguments = 1;
    argument->arguments = bindings;
    entry->key = key;
    entry->value = argument;
    if (builder->current->n_inputs < builder->current_capacity)
        builder->current->inputs[builder->current->n_inputs++] = entry;
}

/* A constant of the current operation's parameter. */
static void set_constant(fvlm_mil_builder *builder, const char *parameter, int type, size_t count, const void *values)
{
    fvlm_mil_value constant = {.type = type, .rank = count ? 1 : 0, .shape = {(int64_t)count}};
    constant.name = take_text(builder, "%s_%s", builder->current_name, parameter);
    Fvlm__Mil__Operation *operation = make_operation(builder, "const", constant.name, 2);
    if (builder->status)
        return;
    add_attribute(builder, operation, "val", make_immediate(builder, type, count, values));
    append_one(builder, operation, &constant);
    fvlm_mil_set(builder, parameter, constant);
}

void fvlm_mil_set_integers(fvlm_mil_builder *builder, const char *parameter, size_t count, const int32_t *values)
{
    set_constant(builder, parameter, FVLM_MIL_INT32, count, values);
}

void fvlm_mil_set_integer(fvlm_mil_builder *builder, const char *parameter, int32_t value)
{
    set_constant(builder, parameter, FVLM_MIL_INT32, 0, &value);
}

void fvlm_mil_set_boolean(fvlm_mil_builder *builder, const char *parameter, bool value)
{
    set_constant(builder, parameter, FVLM_MIL_BOOL, 0, &(protobuf_c_boolean){value});
}

void fvlm_mil_set_text(fvlm_mil_builder *builder, const char *parameter, const char *value)
{
    set_constant(builder, parameter, FVLM_MIL_STRING, 0, value);
}

void fvlm_mil_set_number(fvlm_mil_builder *builder, const char *parameter, float value)
{
    uint16_t half = fvlm_f16_from_float(value);
    set_constant(builder, parameter, builder->type, 0, builder->type == FVLM_MIL_FLOAT16 ? (void *)&half : &value);
}

static fvlm_mil_value make_value(const char *name, int type, int rank, const int64_t *shape)
{
    fvlm_mil_value value = {.name = name, .type = type, .rank = rank};
    memcpy(value.shape, shape, (size_t)rank * sizeof *shape);
    return value;
}

fvlm_mil_value fvlm_mil_end_type(fvlm_mil_builder *builder, int type, int rank, const int64_t *shape)
{
    fvlm_mil_value value = make_value(builder->current_name, type, rank, shape);
    if (!builder->status)
        append_one(builder, builder->current, &value);
    return value;
}

fvlm_mil_value fvlm_mil_end(fvlm_mil_builder *builder, int rank, const int64_t *shape)
{
    return fvlm_mil_end_type(builder, builder->type, rank, shape);
}

void fvlm_mil_end_many(fvlm_mil_builder *builder, size_t count, int rank, const int64_t *shape, fvlm_mil_value *values)
{
    Fvlm__Mil__NamedValueType **outputs = take(builder, count, sizeof *outputs);
    for (size_t i = 0; i < count; i++) {
        values[i] = make_value(take_text(builder, "%s_%zu", builder->current_name ? builder->current_name : "", i),
                               builder->type, rank, shape);
        if (!builder->status)
            outputs[i] = make_named(builder, values[i].name, builder->type, rank, shape);
    }
    append(builder, builder->current, builder->current_name, outputs, count);
}

fvlm_mil_value fvlm_mil_add_input(fvlm_mil_builder *builder, const char *name, int rank, const int64_t *shape)
{
    fvlm_mil_value value = make_value(take_text(builder, "%s", name), FVLM_MIL_FLOAT32, rank, shape);
    builder->input = make_named(builder, value.name, value.type, rank, shape);
    return value;
}

/* Weights. */

static void put_u32(uint8_t *bytes, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
}

static void put_u64(uint8_t *bytes, uint64_t value)
{
    put_u32(bytes, (uint32_t)value);
    put_u32(bytes + 4, (uint32_t)(value >> 32));
}

static void write_weights(fvlm_mil_builder *builder, const void *data, size_t bytes)
{
    if (builder->status)
        return;
    builder->status = fvlm_writer_write(builder->weights, data, bytes, builder->error);
    builder->offset += bytes;
}

/* A record for `bytes` of data that follow; its own offset. */
static uint64_t write_record(fvlm_mil_builder *builder, int type, uint64_t bytes)
{
    uint8_t record[BLOB_ALIGN] = {0};
    size_t rest = (size_t)(builder->offset % BLOB_ALIGN);
    if (rest)
        write_weights(builder, record, BLOB_ALIGN - rest);
    uint64_t offset = builder->offset;
    put_u32(record, BLOB_SENTINEL);
    put_u32(record + 4, type == FVLM_MIL_FLOAT16 ? 1 : type == FVLM_MIL_FLOAT32 ? 2 : 4);
    put_u64(record + 8, bytes);
    put_u64(record + 16, offset + BLOB_ALIGN);
    write_weights(builder, record, sizeof record);
    builder->blobs++;
    return offset;
}

static Fvlm__Mil__Value *make_blob(fvlm_mil_builder *builder, int type, int rank, const int64_t *shape, uint64_t offset)
{
    Fvlm__Mil__Value *value = TAKE(builder, Fvlm__Mil__Value, FVLM__MIL__VALUE__INIT);
    Fvlm__Mil__Value__BlobFileValue *blob =
        TAKE(builder, Fvlm__Mil__Value__BlobFileValue, FVLM__MIL__VALUE__BLOB_FILE_VALUE__INIT);
    Fvlm__Mil__ValueType *kind = make_type(builder, type, rank, shape);
    if (builder->status)
        return NULL;
    blob->file_name = (char *)BLOB_FILE;
    blob->offset = offset;
    value->type = kind;
    value->blob_file_value = blob;
    return value;
}

fvlm_mil_value fvlm_mil_begin_weight(fvlm_mil_builder *builder, const char *name, int rank, const int64_t *shape,
                                     bool int8)
{
    fvlm_mil_value value = make_value(take_text(builder, "%s", name), builder->type, rank, shape);
    builder->rows = (size_t)shape[0];
    builder->cols = 1;
    for (int i = 1; i < rank; i++)
        builder->cols *= (size_t)shape[i];
    builder->row = 0;
    builder->int8 = int8;
    builder->packed = take(builder, builder->cols, sizeof(float));
    builder->scales = int8 ? take(builder, builder->rows, sizeof(float)) : NULL;
    int stored = int8 ? FVLM_MIL_INT8 : builder->type;
    size_t bytes;
    if (!builder->status && !fvlm_mil_bytes(stored, builder->rows * builder->cols, &bytes))
        builder->status = fvlm_fail_memory(builder->error);
    if (builder->status)
        return value;
    Fvlm__Mil__Value *blob = make_blob(builder, stored, rank, shape, write_record(builder, stored, bytes));
    builder->current_name = value.name;
    builder->current = make_operation(builder, int8 ? "constexpr_affine_dequantize" : "const", value.name, 5);
    if (builder->status)
        return value;
    add_attribute(builder, builder->current, int8 ? "quantized_data" : "val", blob);
    append_one(builder, builder->current, &value);
    return value;
}

/* A scale that makes the largest value 127, in the type it is stored in; the values over it, rounded. */
static void pack_int8(fvlm_mil_builder *builder, const float *values)
{
    float most = 0;
    for (size_t i = 0; i < builder->cols; i++)
        most = fmaxf(most, fabsf(values[i]));
    float scale = most > 0 ? most / INT8_LIMIT : 1;
    if (builder->type == FVLM_MIL_FLOAT16)
        scale = fvlm_float_from_f16(fvlm_f16_from_float(scale));
    scale = scale > 0 ? scale : 1; /* too small for fp16: the weights become 0 */
    builder->scales[builder->row] = scale;
    for (size_t i = 0; i < builder->cols; i++) {
        float q = rintf(values[i] / scale);
        q = q > INT8_LIMIT ? INT8_LIMIT : q > -INT8_LIMIT ? q : -INT8_LIMIT; /* the last of a NaN too */
        builder->packed[i] = (uint8_t)(int8_t)q;
    }
}

static void finish_int8(fvlm_mil_builder *builder)
{
    int32_t axis = 0;
    int8_t zero = 0;
    uint16_t *halves = take(builder, builder->rows, sizeof *halves);
    if (builder->status)
        return;
    for (size_t i = 0; i < builder->rows; i++)
        halves[i] = fvlm_f16_from_float(builder->scales[i]);
    const void *scales = builder->type == FVLM_MIL_FLOAT16 ? (void *)halves : builder->scales;
    add_attribute(builder, builder->current, "scale", make_immediate(builder, builder->type, builder->rows, scales));
    add_attribute(builder, builder->current, "zero_point", make_immediate(builder, FVLM_MIL_INT8, 0, &zero));
    add_attribute(builder, builder->current, "axis", make_immediate(builder, FVLM_MIL_INT32, 0, &axis));
}

void fvlm_mil_weight_row(fvlm_mil_builder *builder, const float *values)
{
    if (builder->status)
        return;
    if (builder->int8) {
        pack_int8(builder, values);
        write_weights(builder, builder->packed, builder->cols);
    } else if (builder->type == FVLM_MIL_FLOAT16) {
        uint16_t *halves = (uint16_t *)(void *)builder->packed;
        for (size_t i = 0; i < builder->cols; i++)
            halves[i] = fvlm_f16_from_float(values[i]);
        write_weights(builder, halves, builder->cols * sizeof *halves);
    } else {
        write_weights(builder, values, builder->cols * sizeof *values);
    }
    if (++builder->row == builder->rows && builder->int8)
        finish_int8(builder);
}

/* The package. */

/* PACKAGE/`name`; lives in the arena. */
static const char *package_path(fvlm_mil_builder *builder, const char *name)
{
    char *path = take(builder, strlen(builder->package) + strlen(name) + 2, 1);
    return path ? strcat(strcat(strcpy(path, builder->package), "/"), name) : NULL;
}

fvlm_status fvlm_mil_builder_open(const char *package, int type, fvlm_mil_builder **out, fvlm_error *error)
{
    fvlm_mil_builder *builder = *out = fvlm_calloc(1, sizeof *builder);
    if (!builder)
        return fvlm_fail_memory(error);
    builder->type = type;
    builder->error = error;
    builder->arena = fvlm_arena_create();
    builder->package = fvlm_strdup(package);
    if (!builder->arena || !builder->package)
        builder->status = fvlm_fail_memory(error);
    const char *folder = builder->status ? NULL : package_path(builder, "Data/com.apple.CoreML/weights");
    if (!builder->status)
        builder->status = fvlm_folder_create(folder, error);
    const char *path = builder->status ? NULL : package_path(builder, "Data/com.apple.CoreML/weights/weight.bin");
    if (!builder->status)
        builder->status = fvlm_writer_open(path, &builder->weights, error);
    uint8_t header[BLOB_ALIGN] = {0};
    write_weights(builder, header, sizeof header);
    if (builder->status) {
        fvlm_status status = builder->status;
        fvlm_mil_builder_close(out);
        return status;
    }
    return FVLM_OK;
}

void fvlm_mil_builder_close(fvlm_mil_builder **builder)
{
    fvlm_mil_builder *old = *builder;
    if (!old)
        return;
    fvlm_writer_abort(&old->weights);
    fvlm_arena_destroy(&old->arena);
    free(old->operations);
    free(old->package);
    free(old);
    *builder = NULL;
}

fvlm_status fvlm_mil_builder_status(const fvlm_mil_builder *builder)
{
    return builder->status;
}

static void write_file(fvlm_mil_builder *builder, const char *name, const void *data, size_t bytes)
{
    if (!builder->status)
        builder->status = fvlm_file_write(builder->package, name, data, bytes, builder->error);
}

/* An array of the model's interface. Sizes that are only known when it runs are left out of a result. */
static Fvlm__Mil__FeatureDescription *make_feature(fvlm_mil_builder *builder, const char *name, int rank,
                                                   const int64_t *shape, const fvlm_mil_about *about)
{
    Fvlm__Mil__FeatureDescription *feature =
        TAKE(builder, Fvlm__Mil__FeatureDescription, FVLM__MIL__FEATURE_DESCRIPTION__INIT);
    Fvlm__Mil__FeatureType *type = TAKE(builder, Fvlm__Mil__FeatureType, FVLM__MIL__FEATURE_TYPE__INIT);
    Fvlm__Mil__ArrayFeatureType *array =
        TAKE(builder, Fvlm__Mil__ArrayFeatureType, FVLM__MIL__ARRAY_FEATURE_TYPE__INIT);
    int64_t *sizes = take(builder, (size_t)rank, sizeof *sizes);
    if (builder->status)
        return NULL;
    bool known = true;
    for (int i = 0; i < rank; i++) {
        sizes[i] = shape[i];
        known = known && shape[i] != FVLM_MIL_ANY;
    }
    array->data_type = ARRAY_FLOAT32;
    array->n_shape = known ? (size_t)rank : 0;
    array->shape = sizes;
    feature->name = (char *)name;
    feature->type = type;
    type->multi_array_type = array;
    if (!about || about->shape_count < 2)
        return feature;
    Fvlm__Mil__ArrayFeatureType__EnumeratedShapes *shapes = TAKE(
        builder, Fvlm__Mil__ArrayFeatureType__EnumeratedShapes, FVLM__MIL__ARRAY_FEATURE_TYPE__ENUMERATED_SHAPES__INIT);
    Fvlm__Mil__ArrayFeatureType__Shape **list = take(builder, about->shape_count, sizeof *list);
    for (size_t i = 0; i < about->shape_count && !builder->status; i++) {
        list[i] = TAKE(builder, Fvlm__Mil__ArrayFeatureType__Shape, FVLM__MIL__ARRAY_FEATURE_TYPE__SHAPE__INIT);
        if (list[i]) {
            list[i]->n_shape = 4;
            list[i]->shape = (int64_t *)about->shapes[i];
        }
    }
    if (builder->status)
        return NULL;
    shapes->n_shapes = about->shape_count;
    shapes->shapes = list;
    array->enumerated_shapes = shapes;
    return feature;
}

static void write_model(fvlm_mil_builder *builder, fvlm_mil_value output, const fvlm_mil_about *about)
{
    Fvlm__Mil__Block block = FVLM__MIL__BLOCK__INIT;
    Fvlm__Mil__Function function = FVLM__MIL__FUNCTION__INIT;
    Fvlm__Mil__Function__BlockSpecializationsEntry specialization =
        FVLM__MIL__FUNCTION__BLOCK_SPECIALIZATIONS_ENTRY__INIT;
    Fvlm__Mil__Program program = FVLM__MIL__PROGRAM__INIT;
    Fvlm__Mil__Program__FunctionsEntry entry = FVLM__MIL__PROGRAM__FUNCTIONS_ENTRY__INIT;
    Fvlm__Mil__ModelDescription description = FVLM__MIL__MODEL_DESCRIPTION__INIT;
    Fvlm__Mil__Metadata metadata = FVLM__MIL__METADATA__INIT;
    Fvlm__Mil__Model model = FVLM__MIL__MODEL__INIT;
    const char *input = builder->input ? builder->input->name : NULL;
    Fvlm__Mil__FeatureDescription *from = make_feature(builder, input, 4, about->shapes[0], about);
    Fvlm__Mil__FeatureDescription *to = make_feature(builder, output.name, output.rank, output.shape, NULL);
    if (builder->status)
        return;

    block.n_outputs = 1;
    block.outputs = (char *[]){(char *)output.name};
    block.n_operations = builder->count;
    block.operations = builder->operations;
    specialization.key = (char *)OPSET;
    specialization.value = &block;
    function.n_inputs = 1;
    function.inputs = &builder->input;
    function.opset = (char *)OPSET;
    function.n_block_specializations = 1;
    function.block_specializations = (Fvlm__Mil__Function__BlockSpecializationsEntry *[]){&specialization};
    entry.key = (char *)"main";
    entry.value = &function;
    program.version = 1;
    program.n_functions = 1;
    program.functions = (Fvlm__Mil__Program__FunctionsEntry *[]){&entry};
    metadata.short_description = (char *)about->description;
    metadata.author = (char *)about->author;
    metadata.version_string = (char *)about->version;
    description.n_input = description.n_output = 1;
    description.input = &from;
    description.output = &to;
    description.metadata = &metadata;
    model.specification_version = FORMAT_VERSION;
    model.description = &description;
    model.ml_program = &program;

    size_t bytes = fvlm__mil__model__get_packed_size(&model);
    uint8_t *packed = take(builder, bytes, 1);
    if (!packed)
        return;
    fvlm__mil__model__pack(&model, packed);
    write_file(builder, "Data/com.apple.CoreML/model.mlmodel", packed, bytes);
}

/* The identifiers only have to differ from each other. */
#define MODEL_ID "9d0e4c5a-6d0b-4b63-8c0a-0f6a3c1f7a01"
#define WEIGHTS_ID "9d0e4c5a-6d0b-4b63-8c0a-0f6a3c1f7a02"
static const char manifest[] = "{\n"
                               "    \"fileFormatVersion\": \"1.0.0\",\n"
                               "    \"itemInfoEntries\": {\n"
                               "        \"" MODEL_ID "\": {\n"
                               "            \"author\": \"com.apple.CoreML\",\n"
                               "            \"description\": \"CoreML Model Specification\",\n"
                               "            \"name\": \"model.mlmodel\",\n"
                               "            \"path\": \"com.apple.CoreML/model.mlmodel\"\n"
                               "        },\n"
                               "        \"" WEIGHTS_ID "\": {\n"
                               "            \"author\": \"com.apple.CoreML\",\n"
                               "            \"description\": \"CoreML Model Weights\",\n"
                               "            \"name\": \"weights\",\n"
                               "            \"path\": \"com.apple.CoreML/weights\"\n"
                               "        }\n"
                               "    },\n"
                               "    \"rootModelIdentifier\": \"" MODEL_ID "\"\n"
                               "}\n";

fvlm_status fvlm_mil_builder_finish(fvlm_mil_builder *builder, fvlm_mil_value output, const fvlm_mil_about *about)
{
    uint8_t header[8];
    put_u32(header, builder->blobs);
    put_u32(header + 4, BLOB_VERSION);
    if (!builder->status)
        builder->status = fvlm_writer_patch(builder->weights, 0, header, sizeof header, builder->error);
    if (!builder->status)
        builder->status = fvlm_writer_commit(&builder->weights, builder->error);
    if (!builder->status)
        write_model(builder, output, about);
    if (!builder->status)
        write_file(builder, "Manifest.json", manifest, sizeof manifest - 1);
    return builder->status;
}
