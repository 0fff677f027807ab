/* Core ML packages: a folder with Manifest.json, which names the model file in Data/, and beside that model
 * weights/weight.bin. The vision tower of Apple's exports is read out of the model's program (formats/mil.h,
 * formats/tower_names.h).
 */
#include "formats/tensor_table.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/mil.h"
#include "formats/tower_names.h"

#define MANIFEST_LIMIT ((size_t)1 << 20)

/* A relative path that stays below its folder. */
static bool stays_inside(const char *path)
{
    if (path[0] == '\0' || path[0] == '/' || strpbrk(path, "\\:"))
        return false;
    for (const char *part = path; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
    }
    return true;
}

/* *model is the path of the package's model file, to be freed with free(). */
static fvlm_status find_model(const char *package, char **model, fvlm_error *error)
{
    *model = NULL;
    char *manifest = fvlm_path_join(package, "Manifest.json"), *data = fvlm_path_join(package, "Data");
    json_t *root = NULL;
    fvlm_status status =
        manifest && data ? fvlm_json_read(manifest, MANIFEST_LIMIT, &root, error) : fvlm_fail_memory(error);
    const char *id = json_string_value(json_object_get(root, "rootModelIdentifier"));
    const json_t *item = id ? json_object_get(json_object_get(root, "itemInfoEntries"), id) : NULL;
    const char *path = json_string_value(json_object_get(item, "path"));
    if (!status && !path)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s does not say which file is the model", manifest);
    else if (!status && !stays_inside(path))
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: '%s' is not a path inside the package", manifest, path);
    if (!status) {
        *model = fvlm_path_join(data, path);
        if (!*model)
            status = fvlm_fail_memory(error);
    }
    json_decref(root);
    free(manifest);
    free(data);
    return status;
}

/* weights/weight.bin beside the model file; an empty mapping where there is none. */
static fvlm_status map_weights(const char *model, fvlm_mapping *weights, fvlm_error *error)
{
    *weights = (fvlm_mapping){0};
    char *folder = fvlm_strdup(model), *path = NULL;
    if (folder) {
        *strrchr(folder, '/') = '\0';
        path = fvlm_path_join(folder, "weights/weight.bin");
    }
    fvlm_status status = FVLM_OK;
    if (!path)
        status = fvlm_fail_memory(error);
    else if (fvlm_file_exists(path))
        status = fvlm_mapping_open(path, weights, error);
    free(path);
    free(folder);
    return status;
}

fvlm_status fvlm_mlpackage_parse(fvlm_tensor_table *table, const uint8_t *model, size_t model_size,
                                 const uint8_t *weights, size_t weights_size, const char *path, fvlm_error *error)
{
    fvlm_mil *mil;
    fvlm_status status = fvlm_mil_open(table, model, model_size, weights, weights_size, path, &mil, error);
    if (!status)
        status = fvlm_tower_names(table, mil, path, error);
    fvlm_mil_close(&mil);
    return status;
}

fvlm_status fvlm_mlpackage_read(fvlm_tensor_table *table, const char *path, fvlm_error *error)
{
    char *model_path;
    fvlm_mapping model = {0}, weights = {0};
    const uint8_t *data = NULL;
    size_t size = 0;
    fvlm_status status = find_model(path, &model_path, error);
    if (!status)
        status = fvlm_mapping_open(model_path, &model, error);
    if (!status)
        status = map_weights(model_path, &weights, error);
    if (!status) {
        data = weights.data;
        size = weights.size;
        status = fvlm_tensor_table_own(table, &weights, error);
    }
    if (!status)
        status = fvlm_mlpackage_parse(table, model.data, model.size, data, size, path, error);
    fvlm_mapping_close(&model);
    free(model_path);
    return status;
}

fvlm_status fvlm_mlpackage_metadata(const char *path, json_t **metadata, fvlm_error *error)
{
    char *model_path;
    fvlm_mapping model = {0};
    fvlm_mil *mil = NULL;
    fvlm_tensor_table *table = NULL;
    fvlm_status status = find_model(path, &model_path, error);
    if (!status)
        status = fvlm_mapping_open(model_path, &model, error);
    if (!status)
        status = fvlm_tensor_table_create(&table, error);
    if (!status)
        status = fvlm_mil_open(table, model.data, model.size, NULL, 0, path, &mil, error);
    if (!status && !(*metadata = fvlm_mil_metadata(mil)))
        status = fvlm_fail_memory(error);
    fvlm_mil_close(&mil);
    fvlm_tensor_table_destroy(&table);
    fvlm_mapping_close(&model);
    free(model_path);
    return status;
}
