/* A model's small files, by name. */
#include "base/bundle.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const fvlm_bundle_entry *find(const fvlm_bundle *bundle, const char *name)
{
    for (size_t i = 0; i < bundle->count; i++)
        if (strcmp(bundle->entries[i].name, name) == 0)
            return &bundle->entries[i];
    return NULL;
}

bool fvlm_bundle_has(const fvlm_bundle *bundle, const char *name)
{
    if (bundle->entries)
        return find(bundle, name) != NULL;
    char *path = fvlm_path_join(bundle->path, name);
    bool found = path && fvlm_file_exists(path);
    free(path);
    return found;
}

fvlm_status fvlm_bundle_open(const fvlm_bundle *bundle, const char *name, size_t limit, fvlm_bundle_file *file,
                             fvlm_error *error)
{
    *file = (fvlm_bundle_file){.path = fvlm_path_join(bundle->path, name)};
    fvlm_status status = FVLM_OK;
    if (!file->path) {
        status = fvlm_fail_memory(error);
    } else if (bundle->entries) {
        const fvlm_bundle_entry *entry = find(bundle, name);
        if (entry) {
            file->data = entry->data;
            file->size = entry->size;
        } else {
            status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s holds no %s", bundle->path, name);
        }
    } else {
        status = fvlm_mapping_open(file->path, &file->mapping, error);
        file->data = (const char *)file->mapping.data;
        file->size = file->mapping.size;
    }
    if (!status && file->size > limit)
        status = fvlm_fail(error, FVLM_ERROR_LIMIT, "%s is larger than %zu bytes", file->path, limit);
    if (status)
        fvlm_bundle_file_close(file);
    return status;
}

void fvlm_bundle_file_close(fvlm_bundle_file *file)
{
    fvlm_mapping_close(&file->mapping);
    free(file->path);
    *file = (fvlm_bundle_file){0};
}

fvlm_status fvlm_bundle_copy(const fvlm_bundle *bundle, const char *name, const char *folder, fvlm_error *error)
{
    fvlm_bundle_file file;
    if (!fvlm_bundle_has(bundle, name))
        return FVLM_OK;
    fvlm_status status = fvlm_bundle_open(bundle, name, SIZE_MAX, &file, error);
    if (status)
        return status;
    status = fvlm_file_write(folder, name, file.data, file.size, error);
    fvlm_bundle_file_close(&file);
    return status;
}
