/* Zip archives by libzip, entry by entry; nothing an archive says is believed before it is checked. */
#include "unzip.h"

#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "output.h"

enum { MAX_ENTRIES = 10000, BLOCK_BYTES = 1 << 20 };

/* A relative path of plain components. */
static bool name_is_safe(const char *name)
{
    if (!*name || *name == '/' || strchr(name, '\\') || strchr(name, ':'))
        return false;
    for (const char *part = name; *part;) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.') || (length == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        part += length;
        if (*part == '/')
            part++;
    }
    return true;
}

static bool is_left_out(const char *name)
{
    const char *last = strrchr(name, '/');
    return strncmp(name, "__MACOSX/", 9) == 0 || strcmp(last ? last + 1 : name, ".DS_Store") == 0;
}

/* Anything but a file or a folder: the Unix mode says so. */
static bool is_special(zip_t *zip, zip_uint64_t index)
{
    zip_uint8_t system;
    zip_uint32_t attributes;
    if (zip_file_get_external_attributes(zip, index, 0, &system, &attributes) != 0 || system != ZIP_OPSYS_UNIX)
        return false;
    zip_uint32_t kind = attributes >> 16 & 0170000;
    return kind != 0 && kind != 0100000 && kind != 0040000;
}

/* Check all entries before anything is written; *total is the size of the contents. */
static fvlm_status check_entries(zip_t *zip, const char *archive, uint64_t *total, fvlm_error *error)
{
    zip_int64_t count = zip_get_num_entries(zip, 0);
    uint64_t archive_bytes = 0;
    fvlm_file_size(archive, &archive_bytes);
    if (count > MAX_ENTRIES)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s has %lld entries, more than %d", archive, (long long)count,
                         MAX_ENTRIES);
    uint64_t limit = 16 * archive_bytes + (64u << 20);
    for (zip_int64_t i = 0; i < count; i++) {
        zip_stat_t entry;
        if (zip_stat_index(zip, (zip_uint64_t)i, 0, &entry) != 0 || !(entry.valid & ZIP_STAT_NAME) ||
            !(entry.valid & ZIP_STAT_SIZE))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: entry %lld cannot be read", archive, (long long)i);
        if (!name_is_safe(entry.name))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: the entry name '%s' leads out of the folder", archive,
                             entry.name);
        if (is_special(zip, (zip_uint64_t)i))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: '%s' is a link or device", archive, entry.name);
        if ((entry.valid & ZIP_STAT_ENCRYPTION_METHOD) && entry.encryption_method != ZIP_EM_NONE)
            return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: '%s' is encrypted", archive, entry.name);
        if (entry.size > limit || *total > limit - entry.size)
            return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s would unpack to more than %llu MB", archive,
                             (unsigned long long)(limit >> 20));
        *total += entry.size;
    }
    return FVLM_OK;
}

/* Copy the entry's contents into `writer`; *done counts bytes over all entries. */
static fvlm_status copy_entry(zip_t *zip, const zip_stat_t *entry, const char *archive, fvlm_writer *writer,
                              uint8_t *block, cli_progress *progress, uint64_t *done, fvlm_error *error)
{
    zip_file_t *file = zip_fopen_index(zip, entry->index, 0);
    if (!file)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: cannot unpack '%s': %s", archive, entry->name,
                         zip_strerror(zip));
    fvlm_status status = FVLM_OK;
    uint64_t size = 0;
    for (zip_int64_t bytes = 1; status == FVLM_OK && bytes > 0;) {
        bytes = zip_fread(file, block, BLOCK_BYTES); /* at the end it checks the CRC */
        if (bytes < 0)
            status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: '%s' is damaged: %s", archive, entry->name,
                               zip_file_strerror(file));
        else if ((size += (uint64_t)bytes) > entry->size || (bytes == 0 && size < entry->size))
            status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: '%s' has not the size that the archive says", archive,
                               entry->name);
        else
            status = fvlm_writer_write(writer, block, (size_t)bytes, error);
        if (cli_interrupted())
            status = fvlm_fail(error, FVLM_ERROR_IO, "interrupted while unpacking %s", archive);
        if (bytes > 0)
            cli_progress_update(progress, *done += (uint64_t)bytes);
    }
    zip_fclose(file);
    return status;
}

static fvlm_status unpack_file(zip_t *zip, const zip_stat_t *entry, const char *archive, const char *path,
                               uint8_t *block, cli_progress *progress, uint64_t *done, fvlm_error *error)
{
    if (fvlm_file_exists(path) || fvlm_folder_exists(path))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s has two entries named '%s'", archive, entry->name);
    fvlm_writer *writer = NULL;
    fvlm_status status = fvlm_writer_open(path, &writer, error);
    if (status == FVLM_OK)
        status = copy_entry(zip, entry, archive, writer, block, progress, done, error);
    if (status == FVLM_OK)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    return status;
}

static fvlm_status unpack_entry(zip_t *zip, zip_uint64_t index, const char *archive, const char *folder, uint8_t *block,
                                cli_progress *progress, uint64_t *done, fvlm_error *error)
{
    zip_stat_t entry;
    if (zip_stat_index(zip, index, 0, &entry) != 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: entry %llu cannot be read", archive, (unsigned long long)index);
    if (is_left_out(entry.name))
        return FVLM_OK;
    char *path = fvlm_path_join(folder, entry.name), *parent = path ? fvlm_strdup(path) : NULL;
    fvlm_status status = FVLM_OK;
    size_t length = strlen(entry.name);
    if (!parent) {
        status = fvlm_fail_memory(error);
    } else if (entry.name[length - 1] == '/') {
        status = fvlm_folder_create(path, error);
    } else {
        *strrchr(parent, '/') = '\0';
        status = fvlm_folder_create(parent, error);
        if (status == FVLM_OK)
            status = unpack_file(zip, &entry, archive, path, block, progress, done, error);
    }
    free(path);
    free(parent);
    return status;
}

fvlm_status cli_unzip(const char *archive, const char *folder, bool quiet, fvlm_error *error)
{
    int code;
    zip_t *zip = zip_open(archive, ZIP_RDONLY | ZIP_CHECKCONS, &code);
    if (!zip) {
        zip_error_t why;
        zip_error_init_with_code(&why, code);
        fvlm_fail(error, FVLM_ERROR_FORMAT, "%s is not a whole zip archive: %s", archive, zip_error_strerror(&why));
        zip_error_fini(&why);
        return FVLM_ERROR_FORMAT;
    }
    uint64_t total = 0, done = 0;
    uint8_t *block = malloc(BLOCK_BYTES);
    fvlm_status status = block ? check_entries(zip, archive, &total, error) : fvlm_fail_memory(error);
    if (status == FVLM_OK)
        status = fvlm_folder_create(folder, error);
    if (status == FVLM_OK) {
        cli_progress progress;
        cli_progress_start(&progress, "unpacking", NULL, 0, total, quiet);
        zip_uint64_t count = (zip_uint64_t)zip_get_num_entries(zip, 0);
        for (zip_uint64_t i = 0; status == FVLM_OK && i < count; i++)
            status = unpack_entry(zip, i, archive, folder, block, &progress, &done, error);
        cli_progress_finish(&progress, done);
    }
    free(block);
    zip_discard(zip);
    return status;
}
