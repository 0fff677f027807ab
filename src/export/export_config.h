/* The small files of an export: configs, processor, tokenizer. */
#ifndef FVLM_EXPORT_EXPORT_CONFIG_H
#define FVLM_EXPORT_EXPORT_CONFIG_H

#include "export/export_folder.h"
#include "export/export_source.h"

/* config.json of each family; NULL when out of memory, the caller's to release. `dtype`: PyTorch's name of the weights'
 * type ("float16"). */
json_t *fvlm_export_llava_config(const fvlm_export_source *source, const char *dtype);
json_t *fvlm_export_fast_vlm_config(const fvlm_export_source *source, const char *dtype);

/* generation_config.json, preprocessor_config.json and processor_config.json, for transformers and mlx-vlm. */
fvlm_status fvlm_export_put_processor(const fvlm_export_source *source, const fvlm_export_folder *folder,
                                      fvlm_error *error);
/* The tokenizer's files, to which `<image>` is added where it is missing, and a chat template where there is none. */
fvlm_status fvlm_export_put_tokenizer(const fvlm_export_source *source, const fvlm_export_folder *folder,
                                      fvlm_error *error);

#endif
