/* PyTorch checkpoints: a zip with a pickled dictionary (PREFIX/data.pkl) and a file for each storage (PREFIX/data/KEY).
 *
 * The pickle is run by a machine of our own (pickle_machine.h). The dictionary's tensors are then put into the table:
 * row-major ones point into the mapped file, others are copied into row-major order.
 */
#include "formats/tensor_table.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/pickle_machine.h"
#include "formats/torch_zip.h"

#define MAX_KEY_BYTES 64
#define MAX_NAME_BYTES 512
#define MAX_PREFIX_BYTES 512

struct loader {
    fvlm_tensor_table *table;
    fvlm_archive *archive;
    const char *path;
    const char *prefix; /* of the archive's entries, "model/" */
    fvlm_error *error;
};

static fvlm_status fail_tensor(const struct loader *loader, const char *name, const char *problem)
{
    return fvlm_fail(loader->error, FVLM_ERROR_FORMAT, "%s: tensor '%s': %s", loader->path, name, problem);
}

/* The storage's bytes. */
static fvlm_status find_storage(const struct loader *loader, const fvlm_pickle_node *storage, const char *name,
                                const uint8_t **data, size_t *size)
{
    char entry[MAX_PREFIX_BYTES + MAX_KEY_BYTES + 8];
    if (storage->length > MAX_KEY_BYTES || memchr(storage->text, '\0', storage->length))
        return fail_tensor(loader, name, "its storage has no proper name");
    snprintf(entry, sizeof entry, "%sdata/%.*s", loader->prefix, (int)storage->length, storage->text);
    fvlm_status status = fvlm_archive_entry(loader->archive, entry, data, size, loader->error);
    size_t bytes;
    if (status)
        return status;
    if (!*data)
        return fvlm_fail(loader->error, FVLM_ERROR_FORMAT, "%s: tensor '%s': '%s' is missing in the zip", loader->path,
                         name, entry);
    if (!fvlm_size_multiply((size_t)storage->number, fvlm_dtype_bytes(storage->type), &bytes) || bytes > *size)
        return fail_tensor(loader, name, "its storage is shorter than the pickle says");
    return FVLM_OK;
}

/* *last is the highest element of the storage that the tensor (which has elements) reaches; false on overflow. */
static bool last_element(const fvlm_tensor *tensor, const size_t *strides, size_t offset, size_t *last)
{
    *last = offset;
    for (int i = 0; i < tensor->rank; i++) {
        size_t step_bytes;
        if (!fvlm_size_multiply(tensor->shape[i] - 1, strides[i], &step_bytes) ||
            !fvlm_size_add(*last, step_bytes, last))
            return false;
    }
    return true;
}

static bool row_major(const fvlm_tensor *tensor, const size_t *strides)
{
    size_t expected = 1;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && strides[i] != expected)
            return false;
        expected *= tensor->shape[i];
    }
    return true;
}

/* Copy a tensor, which has elements, with any strides into row-major order. */
static void copy_strided(const fvlm_tensor *tensor, const size_t *strides, const uint8_t *from, uint8_t *to)
{
    size_t element = fvlm_dtype_bytes(tensor->type), index[FVLM_MAX_RANK] = {0}, place = 0;
    for (size_t done = 0; done < tensor->bytes; done += element) {
        memcpy(to + done, from + place * element, element);
        for (int i = tensor->rank - 1; i >= 0; i--) {
            place += strides[i];
            if (++index[i] < tensor->shape[i])
                break;
            place -= strides[i] * index[i];
            index[i] = 0;
        }
    }
}

static fvlm_status add_tensor(const struct loader *loader, const char *name, const fvlm_pickle_node *node)
{
    fvlm_tensor tensor = {.name = name, .type = node->type, .rank = (int)node->shape->length};
    size_t strides[FVLM_MAX_RANK], element = fvlm_dtype_bytes(node->type), last, size;
    for (int i = 0; i < tensor.rank; i++) {
        tensor.shape[i] = (size_t)node->shape->items[i]->number;
        strides[i] = (size_t)node->strides->items[i]->number;
    }
    if (!fvlm_tensor_measure(&tensor))
        return fail_tensor(loader, name, "its shape overflows");

    const uint8_t *data;
    fvlm_status status = find_storage(loader, node->storage, name, &data, &size);
    if (status)
        return status;
    if (tensor.bytes > 0) {
        if (!last_element(&tensor, strides, (size_t)node->number, &last) || last >= size / element)
            return fail_tensor(loader, name, "it reaches behind the end of its storage");
        data += (size_t)node->number * element;
        if (!row_major(&tensor, strides)) {
            void *copy;
            status = fvlm_archive_alloc(loader->archive, tensor.bytes, &copy, loader->error);
            if (status)
                return status;
            copy_strided(&tensor, strides, data, copy);
            data = copy;
        }
    }
    tensor.data = data;
    return fvlm_tensor_table_add(loader->table, &tensor, loader->path, loader->error);
}

static bool has_tensors(const fvlm_pickle_node *dict)
{
    for (size_t i = 0; i < dict->length; i++)
        if (dict->items[2 * i + 1]->kind == FVLM_PICKLE_TENSOR)
            return true;
    return false;
}

/* The dictionary of tensors: the root, or its "state_dict". */
static const fvlm_pickle_node *find_state(const fvlm_pickle_node *root)
{
    for (size_t i = 0; root->kind == FVLM_PICKLE_DICT && !has_tensors(root) && i < root->length; i++) {
        const fvlm_pickle_node *key = root->items[2 * i], *value = root->items[2 * i + 1];
        if (key->kind == FVLM_PICKLE_TEXT && key->length == 10 && memcmp(key->text, "state_dict", 10) == 0 &&
            value->kind == FVLM_PICKLE_DICT)
            return value;
    }
    return root;
}

/* Names are identifiers joined by dots; anything else would only confuse whoever reads the messages. */
static bool copy_name(const fvlm_pickle_node *key, char name[MAX_NAME_BYTES])
{
    if (key->kind != FVLM_PICKLE_TEXT || key->length >= MAX_NAME_BYTES)
        return false;
    for (size_t i = 0; i < key->length; i++)
        if (key->text[i] < 0x20 || key->text[i] > 0x7e)
            return false;
    memcpy(name, key->text, key->length);
    name[key->length] = '\0';
    return true;
}

static fvlm_status add_tensors(const struct loader *loader, const fvlm_pickle_node *root)
{
    const fvlm_pickle_node *state = find_state(root);
    if (state->kind != FVLM_PICKLE_DICT || !has_tensors(state))
        return fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED,
                         "%s: it does not hold a dictionary of tensors: save the model's state_dict", loader->path);
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; !status && i < state->length; i++) {
        char name[MAX_NAME_BYTES];
        const fvlm_pickle_node *value = state->items[2 * i + 1];
        if (value->kind != FVLM_PICKLE_TENSOR)
            continue;
        if (!copy_name(state->items[2 * i], name))
            status = fvlm_fail(loader->error, FVLM_ERROR_FORMAT, "%s: a tensor has no proper name", loader->path);
        else
            status = add_tensor(loader, name, value);
    }
    return status;
}

/* The prefix of the archive's entries, from the name of data.pkl; the entry `byteorder` beside it must not say big. */
static fvlm_status check_archive(const struct loader *loader, char prefix[MAX_PREFIX_BYTES], const uint8_t **code,
                                 size_t *size)
{
    const char *pickle = fvlm_archive_find(loader->archive, "/data.pkl");
    size_t length = pickle ? strlen(pickle) - strlen("data.pkl") : 0;
    if (length == 0 || length >= MAX_PREFIX_BYTES - sizeof "byteorder")
        return fvlm_fail(loader->error, FVLM_ERROR_FORMAT, "%s: a zip without data.pkl: not a PyTorch checkpoint",
                         loader->path);
    char name[MAX_PREFIX_BYTES];
    memcpy(name, pickle, length);
    strcpy(name + length, "byteorder");
    fvlm_status status = fvlm_archive_entry(loader->archive, name, code, size, loader->error);
    if (!status && *code && *size == 3 && memcmp(*code, "big", 3) == 0)
        status = fvlm_fail(loader->error, FVLM_ERROR_UNSUPPORTED,
                           "%s: saved on a big-endian machine: save it as safetensors", loader->path);
    if (!status)
        status = fvlm_archive_entry(loader->archive, pickle, code, size, loader->error);
    memcpy(prefix, pickle, length);
    prefix[length] = '\0';
    return status;
}

fvlm_status fvlm_pickle_parse(fvlm_tensor_table *table, const uint8_t *data, size_t size, const char *path,
                              fvlm_error *error)
{
    if (size < 4 || memcmp(data, "PK", 2) != 0) {
        bool old = size > 1 && data[0] == 0x80;
        return fvlm_fail(
            error, old ? FVLM_ERROR_UNSUPPORTED : FVLM_ERROR_FORMAT,
            old ? "%s: saved in PyTorch's format from before 1.6: load it there and save it again, best as "
                  "safetensors"
                : "%s: not a PyTorch checkpoint",
            path);
    }
    char prefix[MAX_PREFIX_BYTES];
    struct loader loader = {.table = table, .path = path, .prefix = prefix, .error = error};
    const uint8_t *code = NULL;
    const fvlm_pickle_node *root;
    fvlm_arena *arena = NULL;
    fvlm_status status = fvlm_archive_open(table, data, size, path, &loader.archive, error);
    if (!status)
        status = check_archive(&loader, prefix, &code, &size);
    if (!status && !(arena = fvlm_arena_create()))
        status = fvlm_fail_memory(error);
    if (!status)
        status = fvlm_pickle_run(code, size, path, arena, &root, error);
    if (!status)
        status = add_tensors(&loader, root);
    fvlm_arena_destroy(&arena);
    fvlm_archive_close(&loader.archive);
    return status;
}

fvlm_status fvlm_pickle_read(fvlm_tensor_table *table, const char *path, fvlm_error *error)
{
    fvlm_mapping mapping;
    fvlm_status status = fvlm_mapping_open(path, &mapping, error);
    if (status)
        return status;
    const uint8_t *data = mapping.data;
    size_t size = mapping.size;
    status = fvlm_tensor_table_own(table, &mapping, error);
    return status ? status : fvlm_pickle_parse(table, data, size, path, error);
}
