/* The table of named tensors: an array in the order of addition, a hash index over the names, and what the tensors'
 * data lives in (mappings of files, an arena for names and converted data).
 */
#include "formats/tensor_table.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"

/* The largest published checkpoint has 900 tensors. The bound keeps a hostile file's collisions cheap. */
#define MAX_TENSORS ((size_t)1 << 16)
#define MAX_NAME_BYTES 4096

struct slot {
    uint32_t hash;
    uint32_t place; /* index of the tensor + 1; 0: empty */
};

struct fvlm_tensor_table {
    fvlm_tensor *tensors; /* [count] */
    size_t count, capacity;
    struct slot *slots; /* [slot_count], a power of two, at most half full; linear probing */
    size_t slot_count;
    fvlm_mapping *mappings; /* [mapping_count] */
    size_t mapping_count;
    fvlm_arena *arena;
};

/* FNV-1a. */
static uint32_t hash_name(const char *name)
{
    uint32_t hash = 2166136261u;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        hash = (hash ^ *c) * 16777619u;
    return hash;
}

fvlm_status fvlm_tensor_table_create(fvlm_tensor_table **table, fvlm_error *error)
{
    *table = NULL;
    fvlm_tensor_table *made = fvlm_calloc(1, sizeof *made);
    if (!made)
        return fvlm_fail_memory(error);
    made->arena = fvlm_arena_create();
    if (!made->arena) {
        free(made);
        return fvlm_fail_memory(error);
    }
    *table = made;
    return FVLM_OK;
}

void fvlm_tensor_table_destroy(fvlm_tensor_table **table)
{
    fvlm_tensor_table *old = *table;
    if (!old)
        return;
    for (size_t i = 0; i < old->mapping_count; i++)
        fvlm_mapping_close(&old->mappings[i]);
    free(old->mappings);
    free(old->slots);
    free(old->tensors);
    fvlm_arena_destroy(&old->arena);
    free(old);
    *table = NULL;
}

size_t fvlm_tensor_table_count(const fvlm_tensor_table *table)
{
    return table->count;
}

const fvlm_tensor *fvlm_tensor_table_at(const fvlm_tensor_table *table, size_t index)
{
    return &table->tensors[index];
}

/* The slot that holds `name`, or the empty one where it would go. */
static struct slot *find_slot(const fvlm_tensor_table *table, const char *name, uint32_t hash)
{
    for (size_t i = hash & (table->slot_count - 1);; i = (i + 1) & (table->slot_count - 1)) {
        struct slot *slot = &table->slots[i];
        if (!slot->place || (slot->hash == hash && strcmp(table->tensors[slot->place - 1].name, name) == 0))
            return slot;
    }
}

const fvlm_tensor *fvlm_tensor_table_find(const fvlm_tensor_table *table, const char *name)
{
    if (!table->count)
        return NULL;
    const struct slot *slot = find_slot(table, name, hash_name(name));
    return slot->place ? &table->tensors[slot->place - 1] : NULL;
}

void fvlm_tensor_table_replace(fvlm_tensor_table *table, size_t index, const fvlm_tensor *tensor)
{
    const char *name = table->tensors[index].name;
    table->tensors[index] = *tensor;
    table->tensors[index].name = name;
}

void fvlm_tensor_table_forget(const fvlm_tensor_table *table, const void *data, size_t bytes)
{
    const uint8_t *first = data;
    for (size_t i = 0; i < table->mapping_count; i++) {
        const fvlm_mapping *mapping = &table->mappings[i];
        /* What lies elsewhere was unpacked, and is nowhere else. */
        if (mapping->size == 0 || first < mapping->data || first >= mapping->data + mapping->size)
            continue;
        size_t left = (size_t)(mapping->data + mapping->size - first);
        fvlm_mapping_release(data, bytes < left ? bytes : left);
    }
}

/* Index the tensors anew in `slot_count` slots. False when out of memory; *duplicate is the index of a tensor whose
 * name an earlier one has, or SIZE_MAX. */
static bool build_index(fvlm_tensor_table *table, size_t slot_count, size_t *duplicate)
{
    struct slot *slots = fvlm_calloc(slot_count, sizeof *slots);
    if (!slots)
        return false;
    free(table->slots);
    table->slots = slots;
    table->slot_count = slot_count;
    *duplicate = SIZE_MAX;
    for (size_t i = 0; i < table->count; i++) {
        uint32_t hash = hash_name(table->tensors[i].name);
        struct slot *slot = find_slot(table, table->tensors[i].name, hash);
        if (slot->place)
            *duplicate = i;
        else
            *slot = (struct slot){hash, (uint32_t)i + 1};
    }
    return true;
}

/* Room for one tensor more in the array and the index. */
static bool reserve(fvlm_tensor_table *table)
{
    if (table->count < table->capacity)
        return true;
    size_t capacity = table->capacity ? 2 * table->capacity : 64, duplicate;
    fvlm_tensor *tensors = realloc(table->tensors, capacity * sizeof *tensors);
    if (!tensors)
        return false;
    table->tensors = tensors;
    if (!build_index(table, 2 * capacity, &duplicate))
        return false;
    table->capacity = capacity;
    return true;
}

fvlm_status fvlm_tensor_table_rename(fvlm_tensor_table *table, fvlm_rename_fn rename, fvlm_error *error)
{
    char name[MAX_NAME_BYTES + 1];
    for (size_t i = 0; i < table->count; i++) {
        if (!rename(table->tensors[i].name, name, sizeof name))
            continue;
        table->tensors[i].name = fvlm_arena_strdup(table->arena, name);
        if (!table->tensors[i].name)
            return fvlm_fail_memory(error);
    }
    size_t duplicate;
    if (!table->count)
        return FVLM_OK;
    if (!build_index(table, table->slot_count, &duplicate))
        return fvlm_fail_memory(error);
    if (duplicate != SIZE_MAX)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "two tensors of the checkpoint are both '%s'",
                         table->tensors[duplicate].name);
    return FVLM_OK;
}

fvlm_status fvlm_tensor_table_add(fvlm_tensor_table *table, const fvlm_tensor *tensor, const char *path,
                                  fvlm_error *error)
{
    if (table->count == MAX_TENSORS)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: more than %zu tensors", path, MAX_TENSORS);
    if (strlen(tensor->name) > MAX_NAME_BYTES)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: a tensor's name is longer than %d bytes", path, MAX_NAME_BYTES);
    if (!reserve(table))
        return fvlm_fail_memory(error);
    uint32_t hash = hash_name(tensor->name);
    struct slot *slot = find_slot(table, tensor->name, hash);
    if (slot->place)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: tensor '%s' occurs twice", path, tensor->name);
    const char *name = fvlm_arena_strdup(table->arena, tensor->name);
    if (!name)
        return fvlm_fail_memory(error);
    table->tensors[table->count] = *tensor;
    table->tensors[table->count].name = name;
    *slot = (struct slot){hash, (uint32_t)++table->count};
    return FVLM_OK;
}

fvlm_status fvlm_tensor_table_own(fvlm_tensor_table *table, fvlm_mapping *mapping, fvlm_error *error)
{
    fvlm_mapping *mappings = realloc(table->mappings, (table->mapping_count + 1) * sizeof *mappings);
    if (!mappings) {
        fvlm_mapping_close(mapping);
        return fvlm_fail_memory(error);
    }
    table->mappings = mappings;
    table->mappings[table->mapping_count++] = *mapping;
    *mapping = (fvlm_mapping){0};
    return FVLM_OK;
}

void *fvlm_tensor_table_alloc(fvlm_tensor_table *table, size_t bytes)
{
    return fvlm_arena_alloc(table->arena, bytes, 1);
}

bool fvlm_dtype_size(fvlm_dtype type, int rank, const size_t *shape, size_t *bytes)
{
    size_t block_bytes, block = fvlm_dtype_block(type, &block_bytes), product = 1;
    for (int i = 0; i < rank; i++)
        if (!fvlm_size_multiply(product, shape[i], &product))
            return false;
    if (!block)
        return fvlm_size_multiply(product, fvlm_dtype_bytes(type), bytes);
    return rank > 0 && shape[rank - 1] % block == 0 && fvlm_size_multiply(product / block, block_bytes, bytes);
}

bool fvlm_tensor_measure(fvlm_tensor *tensor)
{
    return fvlm_dtype_size(tensor->type, tensor->rank, tensor->shape, &tensor->bytes);
}
