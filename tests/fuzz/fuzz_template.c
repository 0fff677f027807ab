/* A user's template file: reading it and making a prompt with it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const fvlm_turn turns[] = {{"user", "Hi"}, {"assistant", "Yes?"}, {"user", ""}, {"assistant", NULL}};
    fvlm_template_file *file;
    fvlm_error error = {0};
    fvlm_status status = fvlm_template_file_parse((const char *)data, size, "input", &file, &error);
    if ((status == FVLM_OK) != (file != NULL) || (status && error.code != status))
        abort();
    if (status)
        return 0;
    char *prompt;
    if (!fvlm_template_fill(fvlm_template_file_template(file), NULL, turns, 4, &prompt, &error)) {
        if (!strstr(prompt, "Hi"))
            abort();
        fvlm_free(prompt);
    }
    fvlm_template_file_close(&file);
    return 0;
}
