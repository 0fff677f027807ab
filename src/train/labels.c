/* The names and classes of a data set's pictures, and the loss of a classifier for all of them. */
#include "train/labels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define MAX_CLASSES 65536
#define MAX_NAMES 4096

/* A sample's labels; NULL where it has none. */
static const json_t *labels_of(const json_t *sample)
{
    return json_object_get(sample, "labels");
}

static bool is_class(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) < MAX_CLASSES;
}

/* Note in `most` the largest class of each name. */
static bool note_labels(const json_t *sample, json_t *most)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)labels_of(sample), name, value)
    {
        json_int_t before = json_object_get(most, name) ? json_integer_value(json_object_get(most, name)) : -1;
        if (is_class(value) && json_integer_value(value) > before &&
            json_object_set_new(most, name, json_integer(json_integer_value(value))) != 0)
            return false;
    }
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static fvlm_status fill_set(fvlm_label_set *set, json_t *most, fvlm_error *error)
{
    size_t count = json_object_size(most);
    if (count == 0 || count > MAX_NAMES)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "the data names %zu labels of pictures, where 1 to %d are possible",
                         count, MAX_NAMES);
    set->names = fvlm_calloc(count, sizeof *set->names);
    set->first = fvlm_calloc(count + 1, sizeof *set->first);
    if (!set->names || !set->first)
        return fvlm_fail_memory(error);
    const char *name;
    json_t *value;
    json_object_foreach(most, name, value)
    {
        if (!(set->names[set->count] = fvlm_strdup(name)))
            return fvlm_fail_memory(error);
        set->count++;
    }
    qsort((void *)set->names, count, sizeof *set->names, compare_names);
    for (size_t i = 0; i < count; i++)
        set->first[i + 1] = set->first[i] + (size_t)json_integer_value(json_object_get(most, set->names[i])) + 1;
    return FVLM_OK;
}

fvlm_status fvlm_label_set_read(const fvlm_dataset *dataset, fvlm_label_set *set, fvlm_error *error)
{
    *set = (fvlm_label_set){0};
    json_t *most = json_object();
    fvlm_status status = most ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0, count = fvlm_dataset_count(dataset); i < count && !status; i++) {
        json_t *sample;
        fvlm_error inner;
        if (fvlm_dataset_parse(dataset, i, &sample, &inner))
            continue;
        if (!note_labels(sample, most))
            status = fvlm_fail_memory(error);
        json_decref(sample);
    }
    if (!status)
        status = fill_set(set, most, error);
    json_decref(most);
    if (status)
        fvlm_label_set_clear(set);
    return status;
}

void fvlm_label_set_clear(fvlm_label_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->names[i]);
    free((void *)set->names);
    free(set->first);
    *set = (fvlm_label_set){0};
}

fvlm_status fvlm_labels_read(const fvlm_label_set *set, const json_t *sample, int32_t *classes, fvlm_error *error)
{
    const json_t *labels = labels_of(sample);
    if (!json_is_object(labels) || json_object_size(labels) == 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "it has no \"labels\"");
    for (size_t i = 0; i < set->count; i++) {
        const json_t *value = json_object_get(labels, set->names[i]);
        if (value && !is_class(value))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "the label '%s' is not a whole number from 0 to %d",
                             set->names[i], MAX_CLASSES - 1);
        classes[i] = value ? (int32_t)json_integer_value(value) : -1;
        if (classes[i] >= (int64_t)(set->first[i + 1] - set->first[i]))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "the label '%s' is %d, which the training data never has",
                             set->names[i], (int)classes[i]);
    }
    return FVLM_OK;
}

/* Softmax of one name's logits; the gradient is that minus one at the class. */
static double class_loss(float *logits, size_t count, size_t class)
{
    float largest = logits[0];
    for (size_t i = 1; i < count; i++)
        largest = fmaxf(largest, logits[i]);
    double sum = 0, loss = largest - logits[class];
    for (size_t i = 0; i < count; i++)
        sum += logits[i] = expf(logits[i] - largest);
    for (size_t i = 0; i < count; i++)
        logits[i] = (float)(logits[i] / sum);
    logits[class] -= 1;
    return loss + log(sum);
}

double fvlm_labels_loss(const fvlm_label_set *set, float *logits, const int32_t *classes, size_t *known)
{
    double loss = 0;
    *known = 0;
    for (size_t i = 0; i < set->count; i++) {
        float *own = logits + set->first[i];
        size_t count = set->first[i + 1] - set->first[i];
        if (classes[i] < 0) {
            memset(own, 0, count * sizeof *own);
        } else {
            loss += class_loss(own, count, (size_t)classes[i]);
            ++*known;
        }
    }
    return loss;
}
