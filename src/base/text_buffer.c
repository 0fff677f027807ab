/* The growing byte string: doubles its capacity. */
#include "base/text_buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Make room for `bytes` more and the final NUL. */
static bool reserve(fvlm_text_buffer *buffer, size_t bytes)
{
    if (buffer->failed)
        return false;
    if (bytes < buffer->capacity - buffer->length)
        return true;
    size_t capacity = buffer->capacity ? buffer->capacity : 64;
    while (capacity - buffer->length <= bytes) {
        if (capacity > SIZE_MAX / 2) {
            buffer->failed = true;
            return false;
        }
        capacity *= 2;
    }
    char *data = realloc(buffer->data, capacity);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void fvlm_text_append(fvlm_text_buffer *buffer, const char *data, size_t bytes)
{
    if (!reserve(buffer, bytes))
        return;
    if (bytes)
        memcpy(buffer->data + buffer->length, data, bytes);
    buffer->length += bytes;
    buffer->data[buffer->length] = '\0';
}

void fvlm_text_append_string(fvlm_text_buffer *buffer, const char *text)
{
    fvlm_text_append(buffer, text, strlen(text));
}

void fvlm_text_format(fvlm_text_buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int bytes = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (bytes < 0 || !reserve(buffer, (size_t)bytes)) {
        buffer->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(buffer->data + buffer->length, (size_t)bytes + 1, format, arguments);
    va_end(arguments);
    buffer->length += (size_t)bytes;
}

char *fvlm_text_take(fvlm_text_buffer *buffer)
{
    fvlm_text_append(buffer, "", 0);
    char *data = NULL;
    if (!buffer->failed) {
        data = buffer->data;
        buffer->data = NULL;
    }
    fvlm_text_clear(buffer);
    return data;
}

void fvlm_text_clear(fvlm_text_buffer *buffer)
{
    free(buffer->data);
    *buffer = (fvlm_text_buffer){0};
}
