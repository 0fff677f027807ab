/* Zip entries by libzip, without copies.
 *
 * libzip reads the mapped file through a source of ours that notes where the last read began. An entry that is stored
 * uncompressed is opened and its first bytes are read: where libzip read them from is where the entry lies in the
 * mapping. Compressed entries are unpacked into the table's memory, within a budget that the file's size gives.
 */
#include "formats/torch_zip.h"

#include <stdlib.h>
#include <string.h>

#include <zip.h>

#include "base/checked.h"
#include "base/memory.h"

#define MAX_ENTRIES 100000
#define SPARE_BYTES ((size_t)4 << 20)
#define PROBE_BYTES 16

struct fvlm_archive {
    fvlm_tensor_table *table;
    const char *path;
    const uint8_t *data; /* [size] */
    zip_uint64_t size, position, last_read;
    zip_error_t problem;
    zip_t *zip;
    size_t budget; /* bytes that may still be unpacked or copied */
};

/* What libzip asks of a source, on the mapped bytes. */
static zip_int64_t source_call(void *user, void *data, zip_uint64_t length, zip_source_cmd_t command)
{
    fvlm_archive *archive = user;
    switch (command) {
    case ZIP_SOURCE_OPEN:
        archive->position = 0;
        return 0;
    case ZIP_SOURCE_READ:
        if (length > archive->size - archive->position)
            length = archive->size - archive->position;
        if (length)
            memcpy(data, archive->data + archive->position, length);
        archive->last_read = archive->position;
        archive->position += length;
        return (zip_int64_t)length;
    case ZIP_SOURCE_SEEK: {
        zip_int64_t position =
            zip_source_seek_compute_offset(archive->position, archive->size, data, length, &archive->problem);
        if (position < 0)
            return -1;
        archive->position = (zip_uint64_t)position;
        return 0;
    }
    case ZIP_SOURCE_TELL:
        return (zip_int64_t)archive->position;
    case ZIP_SOURCE_STAT: {
        zip_stat_t *stat = ZIP_SOURCE_GET_ARGS(zip_stat_t, data, length, &archive->problem);
        if (!stat)
            return -1;
        zip_stat_init(stat);
        stat->size = archive->size;
        stat->valid |= ZIP_STAT_SIZE;
        return sizeof *stat;
    }
    case ZIP_SOURCE_ERROR:
        return zip_error_to_data(&archive->problem, data, length);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE:
        return 0;
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE, ZIP_SOURCE_STAT,
                                              ZIP_SOURCE_ERROR, ZIP_SOURCE_FREE, ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL,
                                              ZIP_SOURCE_SUPPORTS, -1);
    default:
        zip_error_set(&archive->problem, ZIP_ER_OPNOTSUPP, 0);
        return -1;
    }
}

fvlm_status fvlm_archive_open(fvlm_tensor_table *table, const uint8_t *data, size_t size, const char *path,
                              fvlm_archive **archive, fvlm_error *error)
{
    *archive = NULL;
    fvlm_archive *made = fvlm_calloc(1, sizeof *made);
    if (!made)
        return fvlm_fail_memory(error);
    made->table = table;
    made->path = path;
    made->data = data;
    made->size = size;
    made->budget = size > (SIZE_MAX - SPARE_BYTES) / 2 ? SIZE_MAX : 2 * size + SPARE_BYTES;
    zip_error_init(&made->problem);

    fvlm_status status = FVLM_OK;
    zip_error_t problem;
    zip_error_init(&problem);
    zip_source_t *source = zip_source_function_create(source_call, made, &problem);
    if (source)
        made->zip = zip_open_from_source(source, ZIP_RDONLY, &problem);
    if (!made->zip) {
        if (source)
            zip_source_free(source);
        status =
            fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: not a whole zip file: %s", path, zip_error_strerror(&problem));
    } else if (zip_get_num_entries(made->zip, 0) > MAX_ENTRIES) {
        status = fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: more than %d files in the zip", path, MAX_ENTRIES);
    }
    zip_error_fini(&problem);
    if (status)
        fvlm_archive_close(&made);
    *archive = made;
    return status;
}

void fvlm_archive_close(fvlm_archive **archive)
{
    fvlm_archive *old = *archive;
    if (!old)
        return;
    if (old->zip)
        zip_discard(old->zip);
    zip_error_fini(&old->problem);
    free(old);
    *archive = NULL;
}

const char *fvlm_archive_find(const fvlm_archive *archive, const char *suffix)
{
    size_t tail = strlen(suffix);
    zip_int64_t count = zip_get_num_entries(archive->zip, 0);
    for (zip_int64_t i = 0; i < count; i++) {
        const char *name = zip_get_name(archive->zip, (zip_uint64_t)i, 0);
        size_t length = name ? strlen(name) : 0;
        if (length >= tail && strcmp(name + length - tail, suffix) == 0)
            return name;
    }
    return NULL;
}

fvlm_status fvlm_archive_alloc(fvlm_archive *archive, size_t bytes, void **memory, fvlm_error *error)
{
    *memory = NULL;
    if (bytes > archive->budget)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: its contents unpack to more than twice the file", archive->path);
    *memory = fvlm_tensor_table_alloc(archive->table, bytes);
    if (!*memory)
        return fvlm_fail_memory(error);
    archive->budget -= bytes;
    return FVLM_OK;
}

/* Where a stored entry of `size` bytes lies in the mapping, or NULL where that cannot be told. */
static const uint8_t *locate(fvlm_archive *archive, zip_uint64_t index, size_t size)
{
    uint8_t probe[PROBE_BYTES];
    size_t bytes = size < sizeof probe ? size : sizeof probe;
    zip_file_t *file = zip_fopen_index(archive->zip, index, ZIP_FL_COMPRESSED);
    if (!file)
        return NULL;
    zip_int64_t got = zip_fread(file, probe, bytes);
    zip_fclose(file);
    if (got != (zip_int64_t)bytes || !fvlm_range_fits(archive->last_read, size, archive->size))
        return NULL;
    const uint8_t *found = archive->data + archive->last_read;
    return memcmp(found, probe, bytes) == 0 ? found : NULL;
}

/* Read, unpack and check the CRC. */
static fvlm_status unpack(fvlm_archive *archive, zip_uint64_t index, const char *name, size_t size, void **memory,
                          fvlm_error *error)
{
    fvlm_status status = fvlm_archive_alloc(archive, size, memory, error);
    if (status)
        return status;
    zip_file_t *file = zip_fopen_index(archive->zip, index, 0);
    /* One byte more than there is makes libzip reach the end, where it compares the CRC. */
    uint8_t extra;
    if (!file || zip_fread(file, *memory, size) != (zip_int64_t)size || zip_fread(file, &extra, 1) != 0)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: '%s' in the zip is damaged or of a kind that is not read",
                           archive->path, name);
    if (file)
        zip_fclose(file);
    return status;
}

fvlm_status fvlm_archive_entry(fvlm_archive *archive, const char *name, const uint8_t **data, size_t *size,
                               fvlm_error *error)
{
    *data = NULL;
    *size = 0;
    zip_int64_t index = zip_name_locate(archive->zip, name, 0);
    if (index < 0)
        return FVLM_OK;
    const zip_uint64_t needed = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    zip_stat_t stat;
    if (zip_stat_index(archive->zip, (zip_uint64_t)index, 0, &stat) != 0 || (stat.valid & needed) != needed ||
        stat.size > SIZE_MAX)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: '%s' in the zip has no size", archive->path, name);

    *size = (size_t)stat.size;
    bool plain = !(stat.valid & ZIP_STAT_ENCRYPTION_METHOD) || stat.encryption_method == ZIP_EM_NONE;
    if (plain && stat.comp_method == ZIP_CM_STORE && stat.comp_size == stat.size)
        *data = locate(archive, (zip_uint64_t)index, *size);
    if (*data)
        return FVLM_OK;
    void *memory;
    fvlm_status status = unpack(archive, (zip_uint64_t)index, name, *size, &memory, error);
    *data = memory;
    return status;
}
