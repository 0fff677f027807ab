/* GGUF files: the header, the metadata, and the tensors of an accepted one. */
#include <stddef.h>
#include <stdint.h>

#include "formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fvlm_gguf *gguf;
    fvlm_tensor_table *table;
    fvlm_error error;
    if (fvlm_gguf_parse(data, size, "fuzz", &gguf, &error))
        return 0;
    volatile uint8_t seen = 0;
    volatile double sum = 0;
    for (size_t i = 0; i < gguf->value_count; i++) {
        const fvlm_gguf_value *value = &gguf->values[i];
        size_t at = 0, bytes;
        const char *text;
        for (uint64_t j = 0; j < value->count; j++) {
            if (value->type != FVLM_GGUF_STRING) {
                sum += fvlm_gguf_number(value, j);
                continue;
            }
            fvlm_gguf_string(value, &at, &text, &bytes);
            for (size_t b = 0; b < bytes; b++)
                seen ^= (uint8_t)text[b];
        }
    }
    for (size_t i = 0; i < gguf->tensor_count; i++)
        for (size_t b = 0; b < gguf->tensors[i].bytes; b++)
            seen ^= gguf->tensors[i].data[b];
    if (!fvlm_tensor_table_create(&table, &error)) {
        fvlm_gguf_add_tensors(gguf, table, &error);
        fvlm_tensor_table_destroy(&table);
    }
    fvlm_gguf_close(&gguf);
    return 0;
}
