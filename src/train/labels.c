/* The names and classes of a data set's pictures and places, and the losses of classifiers for all of them. */
#include "train/labels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define MAX_CLASSES 65536
#define MAX_NAMES 4096

static bool is_class(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) < MAX_CLASSES;
}

/* Note in `most` the largest class of each name. */
static bool note_classes(json_t *classes, json_t *most)
{
    const char *name;
    json_t *value;
    json_object_foreach(classes, name, value)
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

static fvlm_status fill_names(fvlm_class_names *names, json_t *most, fvlm_error *error)
{
    size_t count = json_object_size(most);
    if (count > MAX_NAMES)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "the data has %zu names of labels, where %d are possible", count,
                         MAX_NAMES);
    names->names = fvlm_calloc(count + 1, sizeof *names->names);
    names->first = fvlm_calloc(count + 1, sizeof *names->first);
    if (!names->names || !names->first)
        return fvlm_fail_memory(error);
    const char *name;
    json_t *value;
    json_object_foreach(most, name, value)
    {
        if (!(names->names[names->count] = fvlm_strdup(name)))
            return fvlm_fail_memory(error);
        names->count++;
    }
    qsort((void *)names->names, count, sizeof *names->names, compare_names);
    for (size_t i = 0; i < count; i++)
        names->first[i + 1] = names->first[i] + (size_t)json_integer_value(json_object_get(most, names->names[i])) + 1;
    return FVLM_OK;
}

static void clear_names(fvlm_class_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->names[i]);
    free((void *)names->names);
    free(names->first);
}

fvlm_status fvlm_label_set_read(const fvlm_dataset *dataset, fvlm_label_set *set, fvlm_error *error)
{
    *set = (fvlm_label_set){0};
    json_t *labels = json_object(), *marks = json_object();
    fvlm_status status = labels && marks ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0, count = fvlm_dataset_count(dataset); i < count && !status; i++) {
        json_t *sample, *mark;
        size_t place;
        fvlm_error inner;
        if (fvlm_dataset_parse(dataset, i, &sample, &inner))
            continue;
        bool noted = note_classes(json_object_get(sample, "labels"), labels);
        json_array_foreach(json_object_get(sample, "marks"), place, mark) noted = noted && note_classes(mark, marks);
        if (!noted)
            status = fvlm_fail_memory(error);
        json_decref(sample);
    }
    if (!status && json_object_size(labels) + json_object_size(marks) == 0)
        status =
            fvlm_fail(error, FVLM_ERROR_FORMAT,
                      "no sample of the data has \"labels\" or \"marks\" with classes, which are whole numbers from "
                      "0 to %d",
                      MAX_CLASSES - 1);
    if (!status)
        status = fill_names(&set->labels, labels, error);
    if (!status)
        status = fill_names(&set->marks, marks, error);
    json_decref(labels);
    json_decref(marks);
    if (status)
        fvlm_label_set_clear(set);
    return status;
}

void fvlm_label_set_clear(fvlm_label_set *set)
{
    clear_names(&set->labels);
    clear_names(&set->marks);
    *set = (fvlm_label_set){0};
}

/* Of each name what the object says, or -1. */
static fvlm_status read_classes(const fvlm_class_names *names, const json_t *object, int32_t *classes,
                                fvlm_error *error)
{
    for (size_t i = 0; i < names->count; i++) {
        const json_t *value = json_object_get(object, names->names[i]);
        if (value && !is_class(value))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "the label '%s' is not a whole number from 0 to %d",
                             names->names[i], MAX_CLASSES - 1);
        classes[i] = value ? (int32_t)json_integer_value(value) : -1;
        if (classes[i] >= (int64_t)(names->first[i + 1] - names->first[i]))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "the label '%s' is %d, which the training data never has",
                             names->names[i], (int)classes[i]);
    }
    return FVLM_OK;
}

/* The cell of a mark's place; grid * grid where the tower does not get it. */
static fvlm_status find_cell(const json_t *mark, const fvlm_framing *framing, size_t grid, size_t *cell,
                             fvlm_error *error)
{
    size_t at[2];
    bool inside = true;
    const json_t *place = json_object_get(mark, "at");
    for (size_t i = 0; i < 2; i++) {
        const json_t *value = json_array_get(place, i);
        double part = json_number_value(value);
        if (!json_is_number(value) || !(part >= 0 && part < 1))
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "a mark's \"at\" is not [x, y], both from 0 to below 1");
        part = framing->scale[i] * part + framing->offset[i];
        inside = inside && part >= 0 && part < 1;
        at[i] = inside ? (size_t)(part * (double)grid) : 0;
    }
    *cell = inside ? at[1] * grid + at[0] : grid * grid;
    return FVLM_OK;
}

fvlm_status fvlm_classes_read(const fvlm_label_set *set, const json_t *sample, const fvlm_framing *framing, size_t grid,
                              fvlm_classes *classes, fvlm_error *error)
{
    const json_t *labels = json_object_get(sample, "labels"), *marks = json_object_get(sample, "marks"), *mark;
    size_t numbers = grid * grid * set->marks.count;
    *classes = (fvlm_classes){0};
    if ((labels && !json_is_object(labels)) || (marks && !json_is_array(marks)))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "its \"labels\" are no object, or its \"marks\" no list");
    if (json_object_size(labels) + json_array_size(marks) == 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "it has no \"labels\" and no \"marks\"");
    classes->labels = fvlm_calloc(set->labels.count + 1, sizeof *classes->labels);
    classes->cells = fvlm_calloc(numbers + 1, sizeof *classes->cells);
    fvlm_status status = classes->labels && classes->cells ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t k = 0; k < numbers && !marks && !status; k++)
        classes->cells[k] = -1;
    if (!status)
        status = read_classes(&set->labels, labels, classes->labels, error);
    size_t i, cell = 0;
    json_array_foreach(marks, i, mark)
    {
        if (!status)
            status = find_cell(mark, framing, grid, &cell, error);
        if (!status && cell < grid * grid)
            status = read_classes(&set->marks, mark, classes->cells + cell * set->marks.count, error);
    }
    if (status)
        fvlm_classes_clear(classes);
    return status;
}

void fvlm_classes_clear(fvlm_classes *classes)
{
    free(classes->labels);
    free(classes->cells);
    *classes = (fvlm_classes){0};
}

/* Cross-entropy of one name's logits, times the weight; they become its gradient. */
static double class_loss(float *logits, size_t count, size_t class, float weight)
{
    float largest = logits[0];
    for (size_t i = 1; i < count; i++)
        largest = fmaxf(largest, logits[i]);
    float sum = 0, loss = largest - logits[class];
    for (size_t i = 0; i < count; i++)
        sum += logits[i] = expf(logits[i] - largest);
    for (size_t i = 0; i < count; i++)
        logits[i] *= weight / sum;
    logits[class] -= weight;
    return (double)(weight * (loss + logf(sum)));
}

double fvlm_labels_loss(const fvlm_class_names *names, float *logits, const int32_t *classes, size_t *known)
{
    double loss = 0;
    *known = 0;
    for (size_t i = 0; i < names->count; i++) {
        float *own = logits + names->first[i];
        size_t count = names->first[i + 1] - names->first[i];
        if (classes[i] < 0) {
            memset(own, 0, count * sizeof *own);
        } else {
            loss += class_loss(own, count, (size_t)classes[i], 1);
            ++*known;
        }
    }
    return loss;
}

double fvlm_marks_loss(const fvlm_class_names *names, size_t grid, size_t side, float *logits, const int32_t *cells,
                       size_t *known)
{
    size_t outputs = fvlm_class_outputs(names), square = grid / side;
    double loss = 0;
    *known = 0;
    for (size_t i = 0; i < names->count; i++) {
        size_t empty = 0, marked = 0;
        for (size_t cell = 0; cell < grid * grid; cell++) {
            empty += cells[cell * names->count + i] == 0;
            marked += cells[cell * names->count + i] > 0;
        }
        size_t together = empty == 0 ? 0 : marked > 0 ? marked : 1;
        *known += marked + together;
        for (size_t cell = 0; cell < grid * grid; cell++) {
            size_t y = cell / grid, x = cell % grid, count = names->first[i + 1] - names->first[i];
            size_t place = (y / square * side + x / square) * square * square + y % square * square + x % square;
            float *own = logits + place * outputs + names->first[i];
            int32_t class = cells[cell * names->count + i];
            if (class < 0)
                memset(own, 0, count * sizeof *own);
            else
                loss += class_loss(own, count, (size_t) class, class > 0 ? 1 : (float)together / (float)empty);
        }
    }
    return loss;
}
