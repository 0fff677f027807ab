/* Fuzz target: a checkpoint's config files. The input is config.json; behind a NUL byte may follow, each behind
 * another NUL, generation_config.json, preprocessor_config.json and tokenizer_config.json. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"config.json", "generation_config.json", "preprocessor_config.json",
                                    "tokenizer_config.json"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *folder = "fuzz_config.tmp";
    mkdir(folder, 0777);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        const uint8_t *end = size ? memchr(data, 0, size) : NULL;
        size_t length = end ? (size_t)(end - data) : size;
        remove(path);
        if (size == 0)
            continue;
        FILE *file = fopen(path, "wb");
        if (!file)
            abort();
        fwrite(data, 1, length, file);
        fclose(file);
        size -= end ? length + 1 : length;
        data += end ? length + 1 : length;
    }
    fvlm_config config;
    fvlm_error error;
    fvlm_config_read(&(fvlm_bundle){.path = folder}, &config, &error);
    return 0;
}
