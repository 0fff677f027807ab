/* FastViTHD: the vision tower, channels last.
 *
 * x [S,S,3] bytes -> stem /4 -> five stages (rep-mixer or attention blocks), each but the first entered through a
 * downsampling by 2 -> conv_exp -> features [(S/64)^2, 2 * width of the last stage]. Formulas: docs/model.md.
 */
#ifndef FVLM_MODEL_VISION_H
#define FVLM_MODEL_VISION_H

#include "base/pool.h"
#include "fastvlm/engine.h"
#include "model/config.h"
#include "model/weights.h"

typedef struct fvlm_vision fvlm_vision; /* lives in the loader's arena, immutable after load */

/* `precision` is that of the linear layers; everything between them is float32. NULL and loader->status on failure. */
fvlm_vision *fvlm_vision_load(fvlm_loader *loader, const fvlm_vision_config *config, fvlm_precision precision);

/* The fastest precision on this machine that keeps the published model's features: the least cosine of a token's
 * feature with the exact one at least 0.995 in int8, 0.9995 in bf16. */
fvlm_precision fvlm_vision_fastest(void);

/* Channels of a feature. */
size_t fvlm_vision_width(const fvlm_vision *vision);

/* Floats of workspace that a forward pass at `resolution` needs; 0 when that overflows. */
size_t fvlm_vision_workspace(const fvlm_vision *vision, size_t resolution);

/* Sees each stage's output x [height, width, channels]; `name` is "stem" or "network.N". */
typedef void (*fvlm_stage_fn)(void *user, const char *name, const float *x, size_t height, size_t width,
                              size_t channels);

/* features [(resolution / 64)^2, fvlm_vision_width], row major over the picture, from pixels
 * [resolution, resolution, 3]. on_stage may be NULL. */
void fvlm_vision_forward(const fvlm_vision *vision, fvlm_pool *pool, const uint8_t *pixels, size_t resolution,
                         float *workspace, float *features, fvlm_stage_fn on_stage, void *user);

#endif
