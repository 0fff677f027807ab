/* Finding the samples of a file, and putting them in order. */
#include "train/sample_files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "train/random.h"

#define WINDOW_BATCHES 50  /* samples of so many batches are sorted by length together, as transformers does */
#define PICTURE_LENGTH 256 /* what a picture counts beside text: tokens of the published size */

struct file {
    char *path;
    fvlm_mapping mapping;
    size_t first, count;           /* of its samples in the set's */
    size_t first_unit, unit_count; /* of its packs, or samples */
    double weight;
    size_t taken; /* units in an epoch */
};

struct span {
    size_t offset, bytes;
};

struct fvlm_dataset {
    struct file *files;
    size_t file_count;
    struct span *spans; /* [count] */
    size_t count, capacity;
    size_t *members; /* [count]: the samples, pack by pack, or in order */
    size_t *starts;  /* [unit_count + 1]: of a pack in `members`; NULL: a unit is a sample */
    size_t unit_count, largest;
    uint32_t
        *lengths; /* [count]: about as many tokens as a sample has, times 2, plus 1 with pictures; made when asked */
};

/* Finding samples. */

static fvlm_status add_span(fvlm_dataset *set, size_t offset, size_t bytes, fvlm_error *error)
{
    if (set->count == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 1024, total;
        struct span *spans = fvlm_size_multiply(capacity, sizeof *spans, &total) ? realloc(set->spans, total) : NULL;
        if (!spans)
            return fvlm_fail_memory(error);
        set->spans = spans;
        set->capacity = capacity;
    }
    set->spans[set->count++] = (struct span){offset, bytes};
    return FVLM_OK;
}

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static fvlm_status find_lines(fvlm_dataset *set, const uint8_t *data, size_t size, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    for (size_t start = 0, end; start < size && !status; start = end + 1) {
        const uint8_t *newline = memchr(data + start, '\n', size - start);
        end = newline ? (size_t)(newline - data) : size;
        size_t first = start;
        while (first < end && is_blank(data[first]))
            first++;
        if (first < end)
            status = add_span(set, first, end - first, error);
    }
    return status;
}

/* Elements of the list whose '[' is at data[start]: what lies between commas outside of any string and bracket. */
static fvlm_status find_elements(fvlm_dataset *set, const char *path, const uint8_t *data, size_t size, size_t start,
                                 fvlm_error *error)
{
    size_t depth = 0, first = start + 1;
    bool quoted = false, something = false;
    for (size_t i = start + 1; i < size; i++) {
        uint8_t c = data[i];
        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
            continue;
        }
        bool end = depth == 0 && c == ']';
        if (end || (depth == 0 && c == ',')) {
            fvlm_status status = something || !end ? add_span(set, first, i - first, error) : FVLM_OK;
            if (status || end)
                return status;
            first = i + 1;
            something = false;
            continue;
        }
        quoted = c == '"';
        depth += c == '{' || c == '[';
        if ((c == '}' || c == ']') && depth > 0)
            depth--;
        something |= !is_blank(c);
    }
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: the list of samples does not end: the file is cut off", path);
}

static void take_units(struct file *file, size_t first, size_t count)
{
    file->first_unit = first;
    file->unit_count = count;
    file->taken = (size_t)llround(file->weight * (double)count);
    file->taken += file->taken == 0;
}

static fvlm_status open_file(fvlm_dataset *set, const char *path, double weight, struct file *file, fvlm_error *error)
{
    if (!(weight > 0) || weight > 1e6)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "the weight %g of %s is not a positive number", weight, path);
    file->path = fvlm_strdup(path);
    if (!file->path)
        return fvlm_fail_memory(error);
    fvlm_status status = fvlm_mapping_open(path, &file->mapping, error);
    if (status)
        return status;
    const uint8_t *data = file->mapping.data;
    size_t size = file->mapping.size, start = 0;
    while (start < size && is_blank(data[start]))
        start++;
    file->first = set->count;
    status = start < size && data[start] == '[' ? find_elements(set, path, data, size, start, error)
                                                : find_lines(set, data, size, error);
    if (status)
        return status;
    file->count = set->count - file->first;
    if (file->count == 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s has no samples", path);
    file->weight = weight;
    take_units(file, file->first, file->count);
    return FVLM_OK;
}

fvlm_status fvlm_dataset_open(const char *const *paths, const double *weights, size_t count, fvlm_dataset **out,
                              fvlm_error *error)
{
    fvlm_dataset *set = *out = fvlm_calloc(1, sizeof *set);
    if (!set)
        return fvlm_fail_memory(error);
    set->files = fvlm_calloc(count, sizeof *set->files);
    fvlm_status status = set->files ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0; i < count && !status; i++) {
        set->file_count++;
        status = open_file(set, paths[i], weights ? weights[i] : 1, &set->files[i], error);
    }
    if (!status && !(set->members = fvlm_calloc(set->count, sizeof *set->members)))
        status = fvlm_fail_memory(error);
    for (size_t i = 0; i < set->count && !status; i++)
        set->members[i] = i;
    set->unit_count = set->count;
    set->largest = 1;
    if (status)
        fvlm_dataset_close(out);
    return status;
}

void fvlm_dataset_close(fvlm_dataset **dataset)
{
    fvlm_dataset *old = *dataset;
    if (!old)
        return;
    for (size_t i = 0; i < old->file_count; i++) {
        fvlm_mapping_close(&old->files[i].mapping);
        free(old->files[i].path);
    }
    free(old->files);
    free(old->spans);
    free(old->members);
    free(old->starts);
    free(old->lengths);
    free(old);
    *dataset = NULL;
}

size_t fvlm_dataset_count(const fvlm_dataset *dataset)
{
    return dataset->count;
}

size_t fvlm_dataset_unit_count(const fvlm_dataset *dataset)
{
    return dataset->unit_count;
}

size_t fvlm_dataset_largest_unit(const fvlm_dataset *dataset)
{
    return dataset->largest;
}

size_t fvlm_dataset_unit(const fvlm_dataset *dataset, size_t unit, const size_t **samples)
{
    size_t start = dataset->starts ? dataset->starts[unit] : unit;
    *samples = dataset->members + start;
    return dataset->starts ? dataset->starts[unit + 1] - start : 1;
}

size_t fvlm_dataset_epoch_count(const fvlm_dataset *dataset)
{
    size_t count = 0;
    for (size_t i = 0; i < dataset->file_count; i++)
        count += dataset->files[i].taken;
    return count;
}

static const struct file *file_of(const fvlm_dataset *dataset, size_t index)
{
    size_t file = 0;
    while (index - dataset->files[file].first >= dataset->files[file].count)
        file++;
    return &dataset->files[file];
}

void fvlm_dataset_name(const fvlm_dataset *dataset, size_t index, char *name, size_t size)
{
    const struct file *file = file_of(dataset, index);
    snprintf(name, size, "%s, sample %zu", file->path, index - file->first + 1);
}

fvlm_status fvlm_dataset_parse(const fvlm_dataset *dataset, size_t index, json_t **object, fvlm_error *error)
{
    char name[512];
    const struct span *span = &dataset->spans[index];
    fvlm_dataset_name(dataset, index, name, sizeof name);
    return fvlm_json_parse((const char *)file_of(dataset, index)->mapping.data + span->offset, span->bytes, name,
                           object, error);
}

/* Order. */

/* items[count] in an order that depends on seed and stream alone (Fisher and Yates). */
static void shuffle_items(uint64_t seed, uint64_t stream, size_t count, size_t *items)
{
    for (size_t i = count; i > 1; i--) {
        size_t other = (size_t)(fvlm_random(seed, stream, i) % i), item = items[i - 1];
        items[i - 1] = items[other];
        items[other] = item;
    }
}

/* Each sample to the pack that is being filled, or where it does not fit to a new one. */
fvlm_status fvlm_dataset_pack(fvlm_dataset *set, const size_t *lengths, size_t longest, bool shuffle, uint64_t seed,
                              fvlm_error *error)
{
    set->starts = fvlm_calloc(set->count + 1, sizeof *set->starts);
    if (!set->starts)
        return fvlm_fail_memory(error);
    size_t units = 0;
    for (size_t f = 0; f < set->file_count; f++) {
        struct file *file = &set->files[f];
        size_t filled = 0, first = units, *members = set->members + file->first;
        if (shuffle)
            shuffle_items(seed, UINT64_MAX - f, file->count, members);
        for (size_t i = 0; i < file->count; i++) {
            size_t length = lengths[members[i]];
            if (i == 0 || length > longest || filled > longest - length) {
                set->starts[units++] = file->first + i;
                filled = 0;
            }
            filled += length;
        }
        take_units(file, first, units - first);
    }
    set->starts[units] = set->count;
    set->unit_count = units;
    for (size_t i = 0; i < units; i++)
        if (set->starts[i + 1] - set->starts[i] > set->largest)
            set->largest = set->starts[i + 1] - set->starts[i];
    return FVLM_OK;
}

static size_t text_bytes(const json_t *value)
{
    size_t bytes = json_is_string(value) ? json_string_length(value) : 0;
    for (size_t i = 0; i < json_array_size(value); i++)
        bytes += text_bytes(json_array_get(value, i));
    if (json_is_object(value)) {
        const char *key;
        const json_t *member;
        json_object_foreach((json_t *)(uintptr_t)value, key, member) bytes += text_bytes(member);
    }
    return bytes;
}

static fvlm_status measure(fvlm_dataset *set, fvlm_error *error)
{
    if (set->lengths)
        return FVLM_OK;
    set->lengths = fvlm_calloc(set->count, sizeof *set->lengths);
    if (!set->lengths)
        return fvlm_fail_memory(error);
    for (size_t i = 0; i < set->count; i++) {
        json_t *object;
        fvlm_error ignored; /* a broken sample is named when its turn comes */
        if (fvlm_dataset_parse(set, i, &object, &ignored))
            continue;
        const json_t *image = json_object_get(object, "image");
        image = image && !json_is_null(image) ? image : json_object_get(object, "images");
        size_t pictures = json_is_array(image) ? json_array_size(image) : json_is_string(image);
        size_t length = text_bytes(object) / 4 + pictures * PICTURE_LENGTH;
        set->lengths[i] = (uint32_t)(length > UINT32_MAX / 4 ? UINT32_MAX / 4 : length) * 2 + (pictures > 0);
        json_decref(object);
    }
    return FVLM_OK;
}

struct keyed {
    uint32_t length;
    size_t place, item;
};

/* Longest first; equal ones as they were. */
static int compare_keyed(const void *a, const void *b)
{
    const struct keyed *x = a, *y = b;
    if (x->length != y->length)
        return x->length < y->length ? 1 : -1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static void sort_window(const fvlm_dataset *set, size_t count, size_t *items, struct keyed *scratch)
{
    for (size_t i = 0; i < count; i++)
        scratch[i] = (struct keyed){set->lengths[items[i]] / 2, i, items[i]};
    qsort(scratch, count, sizeof *scratch, compare_keyed);
    for (size_t i = 0; i < count; i++)
        items[i] = scratch[i].item;
}

/* Sort the shuffled order by length in windows, and shuffle whole batches. The last batch, which may be smaller, stays
 * the last. */
static fvlm_status group(const fvlm_dataset *set, uint64_t seed, uint64_t epoch, bool modality, size_t batch,
                         size_t count, size_t *order, fvlm_error *error)
{
    size_t whole = count / batch, pictured = count;
    struct keyed *scratch = fvlm_calloc(count, sizeof *scratch);
    size_t *batches = fvlm_calloc(whole + 1, sizeof *batches), *grouped = fvlm_calloc(count, sizeof *grouped);
    if (!scratch || !batches || !grouped) {
        free(scratch);
        free(batches);
        free(grouped);
        return fvlm_fail_memory(error);
    }
    if (modality) { /* those with pictures to the front, in order */
        pictured = 0;
        size_t next = 0;
        for (unsigned with = 2; with-- > 0;) {
            for (size_t i = 0; i < count; i++)
                if ((set->lengths[order[i]] & 1) == with)
                    grouped[next++] = order[i];
            pictured = with ? next : pictured;
        }
        memcpy(order, grouped, count * sizeof *order);
    }
    for (size_t part = 0; part < 2; part++)
        for (size_t start = part ? pictured : 0, end = part ? count : pictured, n; start < end; start += n) {
            n = end - start < batch * WINDOW_BATCHES ? end - start : batch * WINDOW_BATCHES;
            sort_window(set, n, order + start, scratch);
        }
    for (size_t i = 0; i < whole; i++)
        batches[i] = i;
    shuffle_items(seed, 2 * epoch + 1, whole, batches);
    for (size_t i = 0; i < whole; i++)
        memcpy(grouped + i * batch, order + batches[i] * batch, batch * sizeof *order);
    memcpy(order, grouped, whole * batch * sizeof *order);
    free(scratch);
    free(batches);
    free(grouped);
    return FVLM_OK;
}

fvlm_status fvlm_dataset_order(fvlm_dataset *dataset, uint64_t seed, uint64_t epoch, bool shuffle,
                               fvlm_grouping grouping, size_t batch, size_t *order, fvlm_error *error)
{
    size_t count = 0;
    for (size_t f = 0; f < dataset->file_count; f++) {
        const struct file *file = &dataset->files[f];
        size_t whole = file->taken / file->unit_count, rest = file->taken % file->unit_count;
        for (size_t i = 0; i < whole * file->unit_count; i++)
            order[count++] = file->first_unit + i % file->unit_count;
        if (rest == 0)
            continue;
        /* The rest goes round: each epoch takes up where the last one stopped. */
        for (size_t i = 0; i < rest; i++)
            order[count++] = file->first_unit + (size_t)((epoch * rest + i) % file->unit_count);
    }
    if (shuffle)
        shuffle_items(seed, 2 * epoch, count, order);
    if (grouping == FVLM_GROUP_NONE)
        return FVLM_OK;
    fvlm_status status = measure(dataset, error);
    return status ? status : group(dataset, seed, epoch, grouping == FVLM_GROUP_MODALITY, batch, count, order, error);
}
