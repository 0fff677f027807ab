/* Writing a planned conversion to GGUF files. */
#ifndef FVLM_EXPORT_CONVERT_GGUF_H
#define FVLM_EXPORT_CONVERT_GGUF_H

#include "export/convert_plan.h"

/* What goes along with every piece of data that a conversion writes. */
typedef struct fvlm_conversion {
    const fvlm_source *source;
    fvlm_plan *plan;
    fvlm_pool *pool;
    const fvlm_convert_options *options;
    uint64_t done; /* bytes of weights written */
} fvlm_conversion;

/* Count `bytes` more and tell the caller; an error when it wants to stop. */
fvlm_status fvlm_conversion_advance(fvlm_conversion *conversion, size_t bytes, fvlm_error *error);

/* Fails where a file cannot be put where the options want it, or the model itself would be written over: to be told
 * before long work. */
fvlm_status fvlm_convert_check_output(const fvlm_source *source, const fvlm_convert_options *options,
                                      fvlm_error *error);

/* One file, or the pair; the plan then has the types of the pair. */
fvlm_status fvlm_convert_to_gguf(fvlm_conversion *conversion, fvlm_error *error);

#endif
