/* Which files of a checkpoint folder hold its weights.
 *
 * One safetensors file, or the shards that an index names, or the same as torch pickles; beside it the vision tower of
 * Apple's exports as an .mlpackage. A shard's name comes from a file that may be hostile: it must be a plain name.
 */
#include "formats/tensor_table.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/json.h"
#include "base/memory.h"

#define INDEX_LIMIT ((size_t)64 << 20)
#define MAX_SHARDS 1024

typedef fvlm_status (*read_fn)(fvlm_tensor_table *table, const char *path, fvlm_error *error);

struct layout {
    const char *name, *single, *index;
    read_fn read;
};

static const struct layout layouts[] = {
    {"safetensors", "model.safetensors", "model.safetensors.index.json", fvlm_safetensors_read},
    {"bin", "pytorch_model.bin", "pytorch_model.bin.index.json", fvlm_pickle_read},
};

static bool plain_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && !strpbrk(name, "/\\:");
}

static fvlm_status read_shard(fvlm_tensor_table *table, const struct layout *layout, const char *folder,
                              const char *shard, const char *index, fvlm_error *error)
{
    if (!plain_name(shard))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: '%s' is not the name of a file in the same folder", index,
                         shard);
    char *path = fvlm_path_join(folder, shard);
    if (!path)
        return fvlm_fail_memory(error);
    fvlm_status status;
    if (!fvlm_file_exists(path))
        status = fvlm_fail(error, FVLM_ERROR_IO, "%s is missing, %s needs it: download the checkpoint again", path,
                           layout->index);
    else
        status = layout->read(table, path, error);
    free(path);
    return status;
}

/* Every shard of the index once, then a check that each name it promises is there. */
static fvlm_status read_shards(fvlm_tensor_table *table, const struct layout *layout, const char *folder,
                               const char *index, fvlm_error *error)
{
    json_t *root = NULL, *seen = json_object();
    fvlm_status status = seen ? fvlm_json_read(index, INDEX_LIMIT, &root, error) : fvlm_fail_memory(error);
    const json_t *map = json_object_get(root, "weight_map");
    if (!status && json_object_size(map) == 0)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: weight_map is missing or empty", index);
    const char *name;
    json_t *value;
    if (!status) {
        json_object_foreach((json_t *)map, name, value)
        {
            const char *shard = json_string_value(value);
            if (shard && json_object_get(seen, shard))
                continue;
            if (!shard)
                status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: the file of '%s' is not a string", index, name);
            else if (json_object_size(seen) == MAX_SHARDS)
                status = fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: more than %d files", index, MAX_SHARDS);
            else if (json_object_set_new(seen, shard, json_true()))
                status = fvlm_fail_memory(error);
            else
                status = read_shard(table, layout, folder, shard, index, error);
            if (status)
                break;
        }
    }
    if (!status) {
        json_object_foreach((json_t *)map, name, value)
        {
            if (!fvlm_tensor_table_find(table, name)) {
                status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: tensor '%s' is not in %s", index, name,
                                   json_string_value(value));
                break;
            }
        }
    }
    json_decref(seen);
    json_decref(root);
    return status;
}

/* *found tells whether the folder has this layout. */
static fvlm_status read_layout(fvlm_tensor_table *table, const struct layout *layout, const char *folder, bool *found,
                               fvlm_error *error)
{
    *found = false;
    char *single = fvlm_path_join(folder, layout->single), *index = fvlm_path_join(folder, layout->index);
    fvlm_status status = FVLM_OK;
    if (!single || !index) {
        status = fvlm_fail_memory(error);
    } else if (fvlm_file_exists(single)) {
        *found = true;
        status = layout->read(table, single, error);
    } else if (fvlm_file_exists(index)) {
        *found = true;
        status = read_shards(table, layout, folder, index, error);
    }
    free(single);
    free(index);
    return status;
}

static bool has_vision_tower(const fvlm_tensor_table *table)
{
    for (size_t i = 0; i < fvlm_tensor_table_count(table); i++)
        if (strstr(fvlm_tensor_table_at(table, i)->name, "vision_tower."))
            return true;
    return false;
}

/* The first *.mlpackage of the folder, if there is one and the tower is still missing: Apple's export script leaves its
 * package beside a checkpoint that has the tower already. */
static fvlm_status read_package(fvlm_tensor_table *table, const char *folder, fvlm_error *error)
{
    char *name;
    if (has_vision_tower(table))
        return FVLM_OK;
    fvlm_status status = fvlm_folder_find(folder, ".mlpackage", &name, error);
    if (status || !name)
        return status;
    char *path = fvlm_path_join(folder, name);
    status = path ? fvlm_mlpackage_read(table, path, error) : fvlm_fail_memory(error);
    free(path);
    free(name);
    return status;
}

fvlm_status fvlm_checkpoint_read(fvlm_tensor_table *table, const char *folder, const char **layout, fvlm_error *error)
{
    *layout = NULL;
    if (!fvlm_folder_exists(folder))
        return fvlm_fail(error, FVLM_ERROR_IO, "%s is not a folder", folder);
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        bool found;
        fvlm_status status = read_layout(table, &layouts[i], folder, &found, error);
        if (status)
            return status;
        if (found) {
            *layout = layouts[i].name;
            return read_package(table, folder, error);
        }
    }
    return fvlm_fail(error, FVLM_ERROR_IO,
                     "%s has no weights: expected model.safetensors, pytorch_model.bin, or an index of their shards",
                     folder);
}
