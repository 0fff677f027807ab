/* Of a data set (fastvlm/dataset.h): its samples as JSON, and the order in which an epoch takes them. */
#ifndef FVLM_TRAIN_SAMPLE_FILES_H
#define FVLM_TRAIN_SAMPLE_FILES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "fastvlm/dataset.h"

/* For messages: bytes that a sample's name takes at most. */
#define FVLM_DATASET_NAME 512

/* Put samples of a file together into packs of at most `longest` tokens, which are then what an epoch takes; one that
 * is longer is alone. lengths[fvlm_dataset_count] in tokens. They are put together in the order of the file, or with
 * `shuffle` in one that depends on the seed. */
fvlm_status fvlm_dataset_pack(fvlm_dataset *dataset, const size_t *lengths, size_t longest, bool shuffle, uint64_t seed,
                              fvlm_error *error);
/* What an epoch is made of, packs or else samples: how many there are, how many an epoch takes, which samples one has,
 * and how many at most. */
size_t fvlm_dataset_unit_count(const fvlm_dataset *dataset);
size_t fvlm_dataset_epoch_count(const fvlm_dataset *dataset);
size_t fvlm_dataset_unit(const fvlm_dataset *dataset, size_t unit, const size_t **samples);
size_t fvlm_dataset_largest_unit(const fvlm_dataset *dataset);

/* Parse sample `index`; the caller releases *object with json_decref. The error names file and place. */
fvlm_status fvlm_dataset_parse(const fvlm_dataset *dataset, size_t index, json_t **object, fvlm_error *error);
/* "FILE, sample 3": for messages. Samples count from 1. */
void fvlm_dataset_name(const fvlm_dataset *dataset, size_t index, char *name, size_t size);

typedef enum fvlm_grouping {
    FVLM_GROUP_NONE,
    FVLM_GROUP_LENGTH,  /* batches of samples of about the same length */
    FVLM_GROUP_MODALITY /* and either all with pictures or all without */
} fvlm_grouping;

/* The units of epoch `epoch`, in order: order[fvlm_dataset_epoch_count]. Depends on seed, epoch, grouping and batch
 * alone. `shuffle` false: as in the files. `batch` is for grouping, which packs do not have. */
fvlm_status fvlm_dataset_order(fvlm_dataset *dataset, uint64_t seed, uint64_t epoch, bool shuffle,
                               fvlm_grouping grouping, size_t batch, size_t *order, fvlm_error *error);

#endif
