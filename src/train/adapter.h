/* LoRA's files as PEFT and LLaVA have them:
 *
 *     adapter_config.json, adapter_model.safetensors   base_model.model.MODULE.lora_A.weight and lora_B
 *     non_lora_trainables.bin                          base_model.model.NAME of what else was trained: the projector
 */
#ifndef FVLM_TRAIN_ADAPTER_H
#define FVLM_TRAIN_ADAPTER_H

#include "model/source.h"
#include "train/parameters.h"

/* All values of a parameter, float32, valid until the adapter is written; NULL: out of memory. */
typedef const float *(*fvlm_values_fn)(void *user, const fvlm_parameter *parameter);

/* Write an adapter for the model `source` into `folder`, which is there. The values are float32. */
fvlm_status fvlm_adapter_write(const fvlm_source *source, const fvlm_parameters *parameters, fvlm_values_fn values,
                               void *user, double alpha, const char *folder, fvlm_error *error);

#endif
