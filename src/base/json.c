/* JSON text to a jansson tree.
 *
 * A tree takes many times the memory of its text ("[[],[],[]" is 3 bytes an array of 150), so what it would take is
 * estimated from the text first and refused beyond twice the text and 64 MB.
 */
#include "base/json.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/file.h"

/* Bytes that jansson 2.14 takes on a 64-bit system, measured: a container, a member's key, any value. */
#define ARRAY_BYTES 144
#define OBJECT_BYTES 288
#define MEMBER_BYTES 128
#define VALUE_BYTES 80
#define SPARE_BYTES ((uint64_t)64 << 20)

static uint64_t estimate_tree(const char *data, size_t size)
{
    uint64_t bytes = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        if (quoted) {
            if (data[i] == '\\')
                i++;
            else if (data[i] == '"')
                quoted = false;
            continue;
        }
        switch (data[i]) {
        case '"':
            quoted = true;
            break;
        case '[':
            bytes += ARRAY_BYTES + VALUE_BYTES;
            break;
        case '{':
            bytes += OBJECT_BYTES + VALUE_BYTES;
            break;
        case ':':
            bytes += MEMBER_BYTES;
            break;
        case ',':
            bytes += VALUE_BYTES;
            break;
        }
    }
    return bytes;
}

fvlm_status fvlm_json_parse(const char *data, size_t size, const char *name, json_t **root, fvlm_error *error)
{
    *root = NULL;
    if (estimate_tree(data, size) > 2 * (uint64_t)size + SPARE_BYTES)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: the JSON has too many values for its size", name);
    json_error_t problem;
    *root = json_loadb(data, size, JSON_REJECT_DUPLICATES, &problem);
    if (!*root)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: not valid JSON, line %d column %d: %s", name, problem.line,
                         problem.column, problem.text);
    return FVLM_OK;
}

static fvlm_status parse_object(const char *data, size_t size, const char *name, json_t **root, fvlm_error *error)
{
    fvlm_status status = fvlm_json_parse(data, size, name, root, error);
    if (!status && !json_is_object(*root)) {
        json_decref(*root);
        *root = NULL;
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: not a JSON object", name);
    }
    return status;
}

fvlm_status fvlm_json_read(const char *path, size_t limit, json_t **root, fvlm_error *error)
{
    *root = NULL;
    char *data;
    size_t size;
    fvlm_status status = fvlm_file_read(path, limit, &data, &size, error);
    if (status)
        return status;
    status = parse_object(data, size, path, root, error);
    free(data);
    return status;
}

fvlm_status fvlm_json_read_bundle(const fvlm_bundle *bundle, const char *name, size_t limit, json_t **root,
                                  fvlm_error *error)
{
    *root = NULL;
    fvlm_bundle_file file;
    fvlm_status status = fvlm_bundle_open(bundle, name, limit, &file, error);
    if (status)
        return status;
    status = parse_object(file.data, file.size, file.path, root, error);
    fvlm_bundle_file_close(&file);
    return status;
}
