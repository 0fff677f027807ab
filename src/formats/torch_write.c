/* Writing what torch.load reads: a zip archive, nothing compressed, of a pickled dictionary and a file for each tensor.
 *
 * The pickle is protocol 2 and says for each tensor
 *     name: torch._utils._rebuild_tensor_v2(storage (by number), 0, shape, strides, False, OrderedDict())
 * libzip puts the archive together in memory, and the writer puts it in place when it is whole.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zip.h>

#include "base/memory.h"
#include "base/text_buffer.h"
#include "formats/tensor_table.h"

#define FOLDER "archive"
#define COPY_BYTES ((size_t)1 << 20)

static void put_byte(fvlm_text_buffer *pickle, unsigned byte)
{
    char c = (char)byte;
    fvlm_text_append(pickle, &c, 1);
}

static void put_u32(fvlm_text_buffer *pickle, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        put_byte(pickle, value >> 8 * i & 255);
}

static void put_text(fvlm_text_buffer *pickle, const char *text)
{
    put_byte(pickle, 'X'); /* BINUNICODE */
    put_u32(pickle, (uint32_t)strlen(text));
    fvlm_text_append_string(pickle, text);
}

static void put_integer(fvlm_text_buffer *pickle, uint64_t value)
{
    if (value <= INT32_MAX) {
        put_byte(pickle, 'J'); /* BININT */
        put_u32(pickle, (uint32_t)value);
        return;
    }
    put_byte(pickle, 0x8a); /* LONG1, signed: 9 bytes hold any size */
    put_byte(pickle, 9);
    put_u32(pickle, (uint32_t)value);
    put_u32(pickle, (uint32_t)(value >> 32));
    put_byte(pickle, 0);
}

static const char *storage_name(fvlm_dtype type)
{
    return type == FVLM_F16 ? "HalfStorage" : type == FVLM_BF16 ? "BFloat16Storage" : "FloatStorage";
}

static void put_tensor(fvlm_text_buffer *pickle, const fvlm_tensor *tensor, size_t index)
{
    char number[24];
    snprintf(number, sizeof number, "%zu", index);
    put_text(pickle, tensor->name);
    fvlm_text_append_string(pickle, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(pickle, "storage");
    fvlm_text_format(pickle, "ctorch\n%s\n", storage_name(tensor->type));
    put_text(pickle, number);
    put_text(pickle, "cpu");
    put_integer(pickle, tensor->bytes / fvlm_dtype_bytes(tensor->type));
    fvlm_text_append_string(pickle, "tQ"); /* BINPERSID */
    put_integer(pickle, 0);
    put_byte(pickle, '(');
    for (int i = 0; i < tensor->rank; i++)
        put_integer(pickle, tensor->shape[i]);
    fvlm_text_append_string(pickle, "t(");
    for (int i = 0; i < tensor->rank; i++) {
        uint64_t stride = 1;
        for (int j = i + 1; j < tensor->rank; j++)
            stride *= tensor->shape[j];
        put_integer(pickle, stride);
    }
    fvlm_text_append_string(pickle, "t\x89"
                                    "ccollections\nOrderedDict\n)RtR");
}

static fvlm_status make_pickle(fvlm_text_buffer *pickle, const fvlm_tensor *tensors, size_t count, fvlm_error *error)
{
    fvlm_text_append_string(pickle, "\x80\x02}(");
    for (size_t i = 0; i < count; i++)
        put_tensor(pickle, &tensors[i], i);
    fvlm_text_append_string(pickle, "u.");
    return pickle->failed ? fvlm_fail_memory(error) : FVLM_OK;
}

static bool add_entry(zip_t *zip, const char *name, const void *data, size_t bytes)
{
    zip_source_t *source = zip_source_buffer(zip, data, bytes, 0);
    if (!source)
        return false;
    zip_int64_t index = zip_file_add(zip, name, source, 0);
    if (index < 0) {
        zip_source_free(source);
        return false;
    }
    return zip_set_file_compression(zip, (zip_uint64_t)index, ZIP_CM_STORE, 0) == 0;
}

/* The finished archive into the file. */
static fvlm_status copy_archive(zip_source_t *archive, const char *path, fvlm_error *error)
{
    char *block = malloc(COPY_BYTES);
    fvlm_writer *writer = NULL;
    fvlm_status status = block ? fvlm_writer_open(path, &writer, error) : fvlm_fail_memory(error);
    if (!status && zip_source_open(archive) != 0)
        status = fvlm_fail_memory(error);
    for (zip_int64_t got = 1; !status && got > 0;) {
        got = zip_source_read(archive, block, COPY_BYTES);
        status = got < 0 ? fvlm_fail_memory(error) : fvlm_writer_write(writer, block, (size_t)got, error);
    }
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    free(block);
    return status;
}

fvlm_status fvlm_torch_write(const char *path, const fvlm_tensor *tensors, size_t count, fvlm_error *error)
{
    static const char version[] = "3\n";
    fvlm_text_buffer pickle = {0};
    fvlm_status status = make_pickle(&pickle, tensors, count, error);
    zip_source_t *archive = status ? NULL : zip_source_buffer_create(NULL, 0, 0, NULL);
    zip_t *zip = archive ? zip_open_from_source(archive, ZIP_TRUNCATE, NULL) : NULL;
    bool made = zip && add_entry(zip, FOLDER "/data.pkl", pickle.data, pickle.length);
    for (size_t i = 0; i < count && made; i++) {
        char name[40];
        snprintf(name, sizeof name, FOLDER "/data/%zu", i);
        made = add_entry(zip, name, tensors[i].data, tensors[i].bytes);
    }
    made = made && add_entry(zip, FOLDER "/version", version, strlen(version));
    if (zip)
        zip_source_keep(archive);
    if (made)
        made = zip_close(zip) == 0;
    else if (zip)
        zip_discard(zip);
    if (!status)
        status = made ? copy_archive(archive, path, error)
                      : fvlm_fail(error, FVLM_ERROR_MEMORY, "%s: cannot be put together", path);
    if (archive)
        zip_source_free(archive);
    fvlm_text_clear(&pickle);
    return status;
}
