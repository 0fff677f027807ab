/* The rows that samples put into the decoder, and running them through it a layer at a time. */
#ifndef FVLM_EXPORT_CALIBRATION_H
#define FVLM_EXPORT_CALIBRATION_H

#include "fastvlm/convert.h"
#include "model/internal.h"

typedef struct fvlm_calibration {
    fvlm_engine *engine;
    float *x;       /* [rows, hidden]: every sample's positions, one sample after the other, before the next layer */
    size_t *starts; /* [sample_count + 1] */
    size_t sample_count, rows;
    fvlm_kv_cache cache;
} fvlm_calibration;

/* A sample that errors are measured on, and not quantised by. */
static inline bool fvlm_calibration_held_out(const fvlm_calibration *calibration, size_t sample)
{
    return calibration->sample_count >= 4 && sample % 4 == 3;
}

/* Tell a caller; an error when it wants to stop. */
fvlm_status fvlm_stage(const fvlm_quantize_options *options, const char *stage, uint64_t done, uint64_t total,
                       fvlm_error *error);

/* The sample's prompt with its pictures, encoded. */
fvlm_status fvlm_calibration_prompt(fvlm_engine *engine, const fvlm_calibration_sample *sample, fvlm_prompt *prompt,
                                    fvlm_error *error);

/* Embed the samples. Clear it after an error too. */
fvlm_status fvlm_calibration_open(const fvlm_quantize_options *options, fvlm_engine *engine,
                                  fvlm_calibration *calibration, fvlm_error *error);
void fvlm_calibration_clear(fvlm_calibration *calibration);

/* A layer's linear inputs: gram[k][input] += x^T x [cols, cols], k 0 for the samples that count, 1 for those held out;
 * a NULL is not added to. */
typedef struct fvlm_grams {
    float *gram[2][FVLM_LINEAR_INPUTS];
    size_t cols[FVLM_LINEAR_INPUTS];
} fvlm_grams;

/* Run every sample through layer `layer`. grams may be NULL. False when out of memory. */
bool fvlm_calibration_layer(fvlm_calibration *calibration, size_t layer, const fvlm_grams *grams);

#endif
