/* Names of tensors in GGUF files: llama.cpp's for the language model, short ones for tower and projector, since ggml
 * holds names of at most 63 bytes. */
#ifndef FVLM_MODEL_GGUF_NAMES_H
#define FVLM_MODEL_GGUF_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#define FVLM_GGUF_MAX_NAME 63

/* From GGUF to LLaVA's names and back: for fvlm_tensor_table_rename. False: the name stays as it is. */
bool fvlm_rename_gguf(const char *from, char *to, size_t to_size);
bool fvlm_rename_to_gguf(const char *from, char *to, size_t to_size);

#endif
