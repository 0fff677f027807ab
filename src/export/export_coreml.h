/* The vision tower as a Core ML package. */
#ifndef FVLM_EXPORT_EXPORT_COREML_H
#define FVLM_EXPORT_EXPORT_COREML_H

#include "export/export_source.h"

/* Write the package `name` into `folder`, with one input size, the checkpoint's. `type`: FP32, or FP16 for every other,
 * of weights and arithmetic. */
fvlm_status fvlm_export_put_package(const fvlm_export_source *source, const fvlm_export_folder *folder,
                                    const char *name, fvlm_export_type type, fvlm_error *error);

#endif
