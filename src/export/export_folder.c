/* Making an export's folder beside its place. */
#include "export/export_folder.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "model/source.h"

/* What an export's folder and a package have in them besides the small files. */
static const char *const other_names[] = {"model.safetensors", "fastvithd.mlpackage", "Manifest.json", "Data", NULL};

static bool is_one_of(const char *name, const char *const *names)
{
    for (; *names; names++) {
        size_t length = strlen(*names);
        if (strncmp(name, *names, length) == 0 && (name[length] == '\0' || strcmp(name + length, ".part") == 0))
            return true;
    }
    return false;
}

struct contents {
    size_t known, strange;
};

static fvlm_status count_entry(const char *path, bool is_folder, void *user, fvlm_error *error)
{
    struct contents *contents = user;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    (void)is_folder;
    (void)error;
    if (is_one_of(name, other_names) || is_one_of(name, fvlm_small_files))
        contents->known++;
    else
        contents->strange++;
    return FVLM_OK;
}

/* Only what an export has made, whole or in part, or an empty folder may go. */
static fvlm_status check_folder(const char *path, const char *mark, const char *model, fvlm_error *error)
{
    struct contents contents = {0};
    if (fvlm_file_exists(path))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s is a file: name a folder for the export", path);
    if (!fvlm_folder_exists(path))
        return FVLM_OK;
    if (fvlm_path_within(model, path))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s is the model itself, or holds it: export to another folder",
                         path);
    fvlm_status status = fvlm_folder_each(path, count_entry, &contents, error);
    char *name = mark ? fvlm_path_join(path, mark) : NULL;
    if (!status && mark && !name)
        status = fvlm_fail_memory(error);
    if (!status && (contents.strange > 0 || (name && contents.known > 0 && !fvlm_file_exists(name))))
        status = fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                           "%s is a folder with other files than an export's: name a new one, or remove it", path);
    free(name);
    return status;
}

fvlm_status fvlm_export_folder_open(const char *path, const char *mark, const char *model, fvlm_export_folder *folder,
                                    fvlm_error *error)
{
    *folder = (fvlm_export_folder){0};
    size_t length = path ? strlen(path) : 0;
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length == 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no folder given to export to");
    folder->path = fvlm_calloc(length + 1, 1);
    folder->aside = fvlm_calloc(length + sizeof ".part", 1);
    if (!folder->path || !folder->aside)
        return fvlm_fail_memory(error);
    memcpy(folder->path, path, length);
    memcpy(folder->aside, path, length);
    memcpy(folder->aside + length, ".part", sizeof ".part");
    fvlm_status status = check_folder(folder->path, mark, model, error);
    if (!status) /* which a run that was killed has left */
        status = check_folder(folder->aside, NULL, model, error);
    if (!status)
        status = fvlm_folder_remove(folder->aside, error);
    if (!status)
        status = fvlm_folder_create(folder->aside, error);
    if (status) {
        /* What is aside is not ours. */
        free(folder->aside);
        folder->aside = NULL;
    }
    return status;
}

fvlm_status fvlm_export_folder_commit(fvlm_export_folder *folder, fvlm_error *error)
{
    return fvlm_folder_replace(folder->aside, folder->path, error);
}

void fvlm_export_folder_close(fvlm_export_folder *folder)
{
    if (folder->aside)
        fvlm_folder_remove(folder->aside, NULL);
    free(folder->aside);
    free(folder->path);
    *folder = (fvlm_export_folder){0};
}

static int write_piece(const char *piece, size_t bytes, void *writer)
{
    return fvlm_writer_write(writer, piece, bytes, NULL) ? -1 : 0;
}

fvlm_status fvlm_export_put_json(const fvlm_export_folder *folder, const char *name, json_t *object, fvlm_error *error)
{
    char *path = fvlm_path_join(folder->aside, name);
    fvlm_writer *writer = NULL;
    fvlm_status status = path && object ? fvlm_writer_open(path, &writer, error) : fvlm_fail_memory(error);
    if (!status && json_dump_callback(object, write_piece, writer, JSON_INDENT(2) | JSON_REAL_PRECISION(15)))
        status = fvlm_fail(error, FVLM_ERROR_IO, "cannot write %s: the disk may be full", path);
    if (!status)
        status = fvlm_writer_write(writer, "\n", 1, error);
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    json_decref(object);
    free(path);
    return status;
}
