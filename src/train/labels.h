/* Classes of pictures, and of places in them, as data sets may give them beside a conversation:
 *
 *     {"image": "a.jpg", "labels": {"background": 3}, "marks": [{"at": [0.4, 0.7], "shape": 2, "colour": 1}], ...}
 *
 * Each name is a question with numbered answers. A label is of a whole picture; a picture without labels knows none.
 * A mark is of the place `at`, in units of the picture's sides from its top left corner; places are the cells of a
 * grid on what the tower gets of the picture, and a mark that is cut off there is left out. A cell without a mark has
 * class 0 of each name, "nothing", and what a mark does not name is not known there; of a picture without the list
 * nothing is known. A tower learns all of it through linear classifiers, which are thrown away afterwards.
 */
#ifndef FVLM_TRAIN_LABELS_H
#define FVLM_TRAIN_LABELS_H

#include "base/pool.h"
#include "image/preprocess.h"
#include "train/sample_files.h"

/* Of a token's side: cells have 16 pixels, as the places of the tower's middle stage. */
enum { FVLM_CELLS_PER_TOKEN = 4 };

typedef struct fvlm_class_names {
    char **names;  /* [count], in byte order */
    size_t *first; /* [count + 1]: where each name's classes begin among all of them */
    size_t count;
} fvlm_class_names;

typedef struct fvlm_label_set {
    fvlm_class_names labels, marks;
} fvlm_label_set;

/* What a sample says. */
typedef struct fvlm_classes {
    int32_t *labels; /* [labels.count]: -1 where not known */
    int32_t *cells;  /* [grid, grid, marks.count]: likewise */
} fvlm_classes;

/* Go over all samples: the names, and of each as many classes as its largest number says. A sample that cannot be
 * parsed is passed by; training names it. The caller clears *set. */
fvlm_status fvlm_label_set_read(const fvlm_dataset *dataset, fvlm_label_set *set, fvlm_error *error);
void fvlm_label_set_clear(fvlm_label_set *set);

/* Outputs of a classifier of these names. */
static inline size_t fvlm_class_outputs(const fvlm_class_names *names)
{
    return names->count ? names->first[names->count] : 0;
}

/* `framing`: where the picture is in what the tower gets, which `grid` x `grid` cells are on. *classes belongs to the
 * caller, who clears it; on failure it is empty. */
fvlm_status fvlm_classes_read(const fvlm_label_set *set, const json_t *sample, const fvlm_framing *framing, size_t grid,
                              fvlm_classes *classes, fvlm_error *error);
void fvlm_classes_clear(fvlm_classes *classes);

/* The summed cross-entropy of logits [outputs] against classes [names->count], and how many of those are known. The
 * logits become their gradient. */
double fvlm_labels_loss(const fvlm_class_names *names, float *logits, const int32_t *classes, size_t *known);

/* The same for the cells of a picture. logits [side, side, grid / side, grid / side, outputs]: each of side x side
 * places answers for its square of cells. Of each name, cells with nothing weigh together as much as those with
 * something (as one, where nothing is anywhere); `known` is the sum of the weights. */
double fvlm_marks_loss(const fvlm_class_names *names, size_t grid, size_t side, float *logits, const int32_t *cells,
                       size_t *known);

#endif
