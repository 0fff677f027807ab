/* A model as it lies on disk, in any layout: its config, its tensors under LLaVA's names, and its small files.
 *
 * What the engine loads from, and what conversions start from.
 */
#ifndef FVLM_MODEL_SOURCE_H
#define FVLM_MODEL_SOURCE_H

#include "base/bundle.h"
#include "formats/gguf.h"
#include "formats/tensor_table.h"
#include "model/config.h"

typedef struct fvlm_source {
    char *path;
    fvlm_config config;
    fvlm_tensor_table *table;
    fvlm_bundle files;
    const char *layout; /* "llava", "llava-bin", "fast_vlm", "mlx", "gguf"; static */

    fvlm_gguf *gguf, *projector_gguf; /* the file, and the mmproj beside it where the model is a pair */
    fvlm_bundle_entry *entries;
} fvlm_source;

/* `path`: the folder of a checkpoint, or a GGUF file that `fastvlm convert` made. The caller owns *source. */
fvlm_status fvlm_source_open(const char *path, fvlm_source **source, fvlm_error *error);
void fvlm_source_close(fvlm_source **source);

/* Tell the system that a tensor's bytes are no longer needed in memory; they are read again when they are. */
void fvlm_source_forget(const fvlm_source *source, const void *data, size_t bytes);

/* Names of the small files that a checkpoint may have beside its weights, config.json first; NULL behind the last. */
extern const char *const fvlm_small_files[];

/* Keys of the metadata that hold the model's small files: this and the file's name. */
#define FVLM_GGUF_FILE_KEY "fastvlm.file."
/* What the projector's file of a pair is called: this and the name of the language model's. */
#define FVLM_GGUF_PROJECTOR "mmproj-"
/* Free with free(); NULL when out of memory. */
char *fvlm_gguf_projector_path(const char *path);

#endif
