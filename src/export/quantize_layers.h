/* Rounding the matrices of the decoder's layers by what goes into them. */
#ifndef FVLM_EXPORT_QUANTIZE_LAYERS_H
#define FVLM_EXPORT_QUANTIZE_LAYERS_H

#include "export/calibration.h"
#include "export/convert_plan.h"

/* The files of the layers that are done. */
typedef struct fvlm_layer_files {
    char *folder;      /* OUTPUT.work */
    fvlm_gguf **files; /* [count] */
    size_t count;
} fvlm_layer_files;

/* Quantise every layer, or take it from the folder where an earlier call left it; then let the plan's tensors be copied
 * from there. report's layers and `resumed` are filled. Clear `files` once the plan is written, and after an error. */
fvlm_status fvlm_quantize_layers(const fvlm_quantize_options *options, fvlm_calibration *calibration, fvlm_plan *plan,
                                 fvlm_layer_files *files, fvlm_quantize_report *report, fvlm_error *error);
/* `done`: remove the folder. */
void fvlm_layer_files_clear(fvlm_layer_files *files, bool done);

#endif
