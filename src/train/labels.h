/* Classes of pictures, as data sets may give them beside a conversation:
 *
 *     {"image": "a.jpg", "labels": {"shape": 3, "colour": 0}, "conversations": [...]}
 *
 * Each name is a question with numbered answers. A tower learns all of them at once through a linear classifier over
 * the features of a whole picture, which is thrown away afterwards. What a sample does not name is not known of it.
 */
#ifndef FVLM_TRAIN_LABELS_H
#define FVLM_TRAIN_LABELS_H

#include "train/sample_files.h"

typedef struct fvlm_label_set {
    char **names;  /* [count], in byte order */
    size_t *first; /* [count + 1]: where each name's classes begin among all of them */
    size_t count;
} fvlm_label_set;

/* Go over all samples: the names, and of each as many classes as its largest number says. A sample that cannot be
 * parsed is passed by; training names it. The caller clears *set. */
fvlm_status fvlm_label_set_read(const fvlm_dataset *dataset, fvlm_label_set *set, fvlm_error *error);
void fvlm_label_set_clear(fvlm_label_set *set);

/* Classifier outputs. */
static inline size_t fvlm_label_outputs(const fvlm_label_set *set)
{
    return set->count ? set->first[set->count] : 0;
}

/* classes[set->count]: what the sample says of each name, or -1. */
fvlm_status fvlm_labels_read(const fvlm_label_set *set, const json_t *sample, int32_t *classes, fvlm_error *error);

/* The summed cross-entropy of logits [outputs] against classes [set->count], and how many of those are known. The
 * logits become their gradient. */
double fvlm_labels_loss(const fvlm_label_set *set, float *logits, const int32_t *classes, size_t *known);

#endif
