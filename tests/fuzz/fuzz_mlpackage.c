/* The reader of Core ML packages on arbitrary bytes: 4 bytes little-endian length of the model, the model, the weights.
 * Reads every byte that it hands out, and what the model says of itself. */
#include <stdint.h>
#include <stdlib.h>

#include "formats/mil.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    size_t model = data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16 | (size_t)data[3] << 24;
    data += 4;
    size -= 4;
    model = model < size ? model : size;
    fvlm_tensor_table *table;
    fvlm_error error;
    if (fvlm_tensor_table_create(&table, &error))
        return 0;
    unsigned sum = 0;
    if (!fvlm_mlpackage_parse(table, data, model, data + model, size - model, "fuzz", &error))
        for (size_t i = 0; i < fvlm_tensor_table_count(table); i++) {
            const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
            for (size_t k = 0; k < tensor->bytes; k++)
                sum += ((const uint8_t *)tensor->data)[k];
        }
    fvlm_mil *mil;
    if (!fvlm_mil_open(table, data, model, data + model, size - model, "fuzz", &mil, &error)) {
        json_decref(fvlm_mil_metadata(mil));
        fvlm_mil_close(&mil);
    }
    fvlm_tensor_table_destroy(&table);
    volatile unsigned sink = sum;
    (void)sink;
    return 0;
}
