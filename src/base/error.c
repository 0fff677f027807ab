/* fvlm_fail: one place that formats errors. Messages are cut to the buffer at a UTF-8 boundary. */
#include "base/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void make_printable(char *text)
{
    size_t length = strlen(text);
    /* A cut in the middle of a character leaves a lead byte without its continuation bytes: drop it. */
    size_t lead = length;
    while (lead > 0 && ((unsigned char)text[lead - 1] & 0xc0) == 0x80)
        lead--;
    if (lead > 0 && (unsigned char)text[lead - 1] >= 0xc0) {
        unsigned char c = (unsigned char)text[lead - 1];
        size_t need = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        if (length - (lead - 1) < need)
            text[lead - 1] = '\0';
    }
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

fvlm_status fvlm_fail(fvlm_error *error, fvlm_status code, const char *format, ...)
{
    assert(format);
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
        make_printable(error->message);
        error->code = code;
    }
    return code;
}

fvlm_status fvlm_fail_memory(fvlm_error *error)
{
    return fvlm_fail(error, FVLM_ERROR_MEMORY, "out of memory");
}
