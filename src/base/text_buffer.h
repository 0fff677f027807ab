/* A growing byte string. After a failed append, `failed` stays set and further appends do nothing, so that a sequence
 * of appends is checked once at its end. */
#ifndef FVLM_BASE_TEXT_BUFFER_H
#define FVLM_BASE_TEXT_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

typedef struct fvlm_text_buffer {
    char *data; /* NUL-terminated once anything was appended; may hold NULs itself */
    size_t length, capacity;
    bool failed;
} fvlm_text_buffer;

void fvlm_text_append(fvlm_text_buffer *buffer, const char *data, size_t bytes);
void fvlm_text_append_string(fvlm_text_buffer *buffer, const char *text);
void fvlm_text_format(fvlm_text_buffer *buffer, const char *format, ...) FVLM_PRINTF(2, 3);
/* Hand over the string (never NULL unless an append failed; free with free()); the buffer is empty afterwards. */
char *fvlm_text_take(fvlm_text_buffer *buffer);
void fvlm_text_clear(fvlm_text_buffer *buffer);

#endif
