/* inspect: whatever the format, it lists a file or gives an error. The first byte says what the file is called. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "fastvlm/convert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = size && data[0] % 2 ? "fuzz_inspect.safetensors" : "fuzz_inspect.tmp";
    FILE *file = fopen(path, "wb");
    if (!file)
        return 0;
    if (size > 1)
        fwrite(data + 1, 1, size - 1, file);
    fclose(file);
    fvlm_inspection *inspection;
    fvlm_error error;
    if (!fvlm_inspect(path, &inspection, &error))
        fvlm_inspection_free(&inspection);
    remove(path);
    return 0;
}
