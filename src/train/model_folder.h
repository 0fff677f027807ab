/* Writing a model as it came, with some of its tensors changed. */
#ifndef FVLM_TRAIN_MODEL_FOLDER_H
#define FVLM_TRAIN_MODEL_FOLDER_H

#include "model/source.h"

/* float32 values for the tensor that LLaVA checkpoints call `name`, of the size of `stored`; NULL: as it is. They stay
 * valid until the next call. */
typedef const float *(*fvlm_replace_fn)(void *user, const char *name, const fvlm_tensor *stored);

/* A tensor of GGUF's blocks as the matrix of its rows; false for every other type. */
bool fvlm_block_matrix(const fvlm_tensor *tensor, fvlm_matrix *matrix);

/* Write config.json, the tokenizer's files and model.safetensors into `folder`, which is there: every tensor under its
 * own name and in its own type, but F16 for GGUF's blocks, which safetensors does not have. */
fvlm_status fvlm_model_folder_write(const fvlm_source *source, fvlm_replace_fn replace, void *user, const char *folder,
                                    fvlm_error *error);

/* The small files alone. */
fvlm_status fvlm_model_folder_copy(const fvlm_source *source, const char *folder, fvlm_error *error);

#endif
