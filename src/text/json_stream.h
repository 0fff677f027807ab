/* A strict JSON reader that hands out one value after the other and keeps nothing.
 *
 * A tokenizer.json holds some 300 000 strings that are looked at once. Building a tree of them (jansson: 250 ms and
 * 60 MB for Qwen2's) would be most of the time to the first token, so the large arrays are read as a stream; values of
 * a few lines are cut out with fvlm_json_skip and given to jansson.
 *
 * Errors are sticky: after the first, `status` is set, every call returns false, and the error names the file and the
 * byte. So a loop over members or elements is checked once, behind it. */
#ifndef FVLM_TEXT_JSON_STREAM_H
#define FVLM_TEXT_JSON_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text_buffer.h"

typedef struct fvlm_json_stream {
    const char *start, *at, *end;
    const char *name; /* of the file, for errors */
    bool fresh;       /* just behind an opening bracket: no comma is due */
    int depth;
    fvlm_text_buffer unescaped; /* the last string, when it had escapes */
    fvlm_status status;
    fvlm_error *error; /* may be NULL */
} fvlm_json_stream;

/* Begin to read data [bytes], which must outlive the stream. */
void fvlm_json_open(fvlm_json_stream *stream, const char *data, size_t bytes, const char *name, fvlm_error *error);
/* Check that nothing but white space is left (unless an error came first), free; returns the status. */
fvlm_status fvlm_json_close(fvlm_json_stream *stream);

/* Enter an object; then for every member its key, until false. The member's value must be read or skipped. */
bool fvlm_json_object(fvlm_json_stream *stream);
bool fvlm_json_member(fvlm_json_stream *stream, const char **key, size_t *bytes);
/* Enter an array; then true for every element, which must be read or skipped. */
bool fvlm_json_array(fvlm_json_stream *stream);
bool fvlm_json_element(fvlm_json_stream *stream);

/* A string, as UTF-8 without NUL at the end; valid until the next string or key is read. */
bool fvlm_json_string(fvlm_json_stream *stream, const char **text, size_t *bytes);
/* An integer in [low, high]. */
bool fvlm_json_integer(fvlm_json_stream *stream, int32_t low, int32_t high, int32_t *value);
/* Any value, checked for syntax; *text [*bytes] is where it stands. */
bool fvlm_json_skip(fvlm_json_stream *stream, const char **text, size_t *bytes);
/* The first character of the value that comes next ('"', '[', '{', ...), or '\0'. */
char fvlm_json_peek(fvlm_json_stream *stream);

/* Refuse the value just read: an error at the present byte. Always returns false. */
bool fvlm_json_refuse(fvlm_json_stream *stream, const char *reason);

#endif
