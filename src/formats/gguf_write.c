/* Writing GGUF: the header grows in memory, in two parts (values, tensors), and goes to the file before the first data.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text_buffer.h"
#include "formats/gguf.h"

#define ALIGNMENT 32 /* the format's default; a multiple of every element's size */
#define VERSION 3

struct fvlm_gguf_writer {
    fvlm_writer *file;
    char *path;
    fvlm_text_buffer values, tensors;
    uint64_t value_count, tensor_count;
    size_t *sizes; /* [tensor_count] of capacity: bytes of each tensor's data */
    size_t capacity;
    uint64_t offset;      /* where the next announced tensor's data will start */
    size_t current, done; /* the tensor whose data is due, and how much of it is written */
    bool begun, out_of_memory;
    const char *misuse; /* NULL, or a name that the format cannot hold */
};

fvlm_status fvlm_gguf_writer_open(const char *path, fvlm_gguf_writer **writer, fvlm_error *error)
{
    *writer = fvlm_calloc(1, sizeof **writer);
    if (!*writer)
        return fvlm_fail_memory(error);
    (*writer)->path = fvlm_strdup(path);
    fvlm_status status = (*writer)->path ? fvlm_writer_open(path, &(*writer)->file, error) : fvlm_fail_memory(error);
    if (status)
        fvlm_gguf_writer_abort(writer);
    return status;
}

static void append_number(fvlm_text_buffer *buffer, uint64_t value, size_t bytes)
{
    char little[8];
    for (size_t i = 0; i < bytes; i++)
        little[i] = (char)(value >> 8 * i);
    fvlm_text_append(buffer, little, bytes);
}

static void append_string(fvlm_text_buffer *buffer, const char *text, size_t bytes)
{
    append_number(buffer, bytes, 8);
    fvlm_text_append(buffer, text, bytes);
}

static void begin_value(fvlm_gguf_writer *writer, const char *key, fvlm_gguf_type type)
{
    writer->value_count++;
    append_string(&writer->values, key, strlen(key));
    append_number(&writer->values, type, 4);
}

void fvlm_gguf_put_u32(fvlm_gguf_writer *writer, const char *key, uint32_t value)
{
    begin_value(writer, key, FVLM_GGUF_U32);
    append_number(&writer->values, value, 4);
}

void fvlm_gguf_put_f32(fvlm_gguf_writer *writer, const char *key, float value)
{
    begin_value(writer, key, FVLM_GGUF_F32);
    fvlm_gguf_item_f32(writer, value);
}

void fvlm_gguf_put_bool(fvlm_gguf_writer *writer, const char *key, bool value)
{
    begin_value(writer, key, FVLM_GGUF_BOOL);
    append_number(&writer->values, value, 1);
}

void fvlm_gguf_put_string(fvlm_gguf_writer *writer, const char *key, const char *text, size_t bytes)
{
    begin_value(writer, key, FVLM_GGUF_STRING);
    append_string(&writer->values, text, bytes);
}

void fvlm_gguf_put_array(fvlm_gguf_writer *writer, const char *key, fvlm_gguf_type type, uint64_t count)
{
    begin_value(writer, key, FVLM_GGUF_ARRAY);
    append_number(&writer->values, type, 4);
    append_number(&writer->values, count, 8);
}

void fvlm_gguf_item_string(fvlm_gguf_writer *writer, const char *text, size_t bytes)
{
    append_string(&writer->values, text, bytes);
}

void fvlm_gguf_item_i32(fvlm_gguf_writer *writer, int32_t value)
{
    append_number(&writer->values, (uint32_t)value, 4);
}

void fvlm_gguf_item_f32(fvlm_gguf_writer *writer, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    append_number(&writer->values, bits, 4);
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void fvlm_gguf_put_tensor(fvlm_gguf_writer *writer, const char *name, fvlm_dtype type, int rank, const size_t *shape)
{
    uint32_t id;
    size_t bytes;
    if (!fvlm_gguf_dtype(type, &id) || !fvlm_dtype_size(type, rank, shape, &bytes)) {
        writer->misuse = fvlm_dtype_name(type);
        return;
    }
    if (writer->tensor_count == writer->capacity) {
        size_t capacity = writer->capacity ? 2 * writer->capacity : 256;
        size_t *sizes = realloc(writer->sizes, capacity * sizeof *sizes);
        if (!sizes) {
            writer->out_of_memory = true;
            return;
        }
        writer->sizes = sizes;
        writer->capacity = capacity;
    }
    append_string(&writer->tensors, name, strlen(name));
    append_number(&writer->tensors, (uint64_t)rank, 4);
    for (int i = rank; i-- > 0;)
        append_number(&writer->tensors, shape[i], 8);
    append_number(&writer->tensors, id, 4);
    append_number(&writer->tensors, writer->offset, 8);
    writer->sizes[writer->tensor_count++] = bytes;
    writer->offset = aligned(writer->offset + bytes);
}

static fvlm_status write_padding(fvlm_gguf_writer *writer, uint64_t bytes, fvlm_error *error)
{
    static const char zeros[ALIGNMENT];
    return fvlm_writer_write(writer->file, zeros, (size_t)(aligned(bytes) - bytes), error);
}

static fvlm_status write_header(fvlm_gguf_writer *writer, fvlm_error *error)
{
    writer->begun = true;
    if (writer->misuse)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: GGUF has no tensors of type %s", writer->path,
                         writer->misuse);
    fvlm_text_buffer start = {0};
    fvlm_text_append(&start, "GGUF", 4);
    append_number(&start, VERSION, 4);
    append_number(&start, writer->tensor_count, 8);
    append_number(&start, writer->value_count, 8);
    fvlm_status status = FVLM_OK;
    if (start.failed || writer->values.failed || writer->tensors.failed || writer->out_of_memory)
        status = fvlm_fail_memory(error);
    if (!status)
        status = fvlm_writer_write(writer->file, start.data, start.length, error);
    if (!status)
        status = fvlm_writer_write(writer->file, writer->values.data, writer->values.length, error);
    if (!status)
        status = fvlm_writer_write(writer->file, writer->tensors.data, writer->tensors.length, error);
    if (!status)
        status = write_padding(writer, start.length + writer->values.length + writer->tensors.length, error);
    fvlm_text_clear(&start);
    return status;
}

/* Past tensors that are whole, and their padding. */
static fvlm_status advance(fvlm_gguf_writer *writer, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    while (!status && writer->current < writer->tensor_count && writer->done == writer->sizes[writer->current]) {
        status = write_padding(writer, writer->done, error);
        writer->current++;
        writer->done = 0;
    }
    return status;
}

fvlm_status fvlm_gguf_write(fvlm_gguf_writer *writer, const void *data, size_t bytes, fvlm_error *error)
{
    fvlm_status status = writer->begun ? FVLM_OK : write_header(writer, error);
    if (!status)
        status = advance(writer, error);
    if (!status && (writer->current == writer->tensor_count || bytes > writer->sizes[writer->current] - writer->done))
        status = fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s: more data than its tensors have", writer->path);
    if (!status)
        status = fvlm_writer_write(writer->file, data, bytes, error);
    writer->done += bytes;
    return status;
}

fvlm_status fvlm_gguf_writer_commit(fvlm_gguf_writer **writer, fvlm_error *error)
{
    fvlm_gguf_writer *made = *writer;
    fvlm_status status = made->begun ? FVLM_OK : write_header(made, error);
    if (!status)
        status = advance(made, error);
    if (!status && made->current < made->tensor_count)
        status = fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s: less data than its tensors have", made->path);
    if (!status)
        status = fvlm_writer_commit(&made->file, error);
    fvlm_gguf_writer_abort(writer);
    return status;
}

void fvlm_gguf_writer_abort(fvlm_gguf_writer **writer)
{
    fvlm_gguf_writer *old = *writer;
    if (!old)
        return;
    fvlm_writer_abort(&old->file);
    fvlm_text_clear(&old->values);
    fvlm_text_clear(&old->tensors);
    free(old->sizes);
    free(old->path);
    free(old);
    *writer = NULL;
}
