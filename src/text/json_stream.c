/* Recursive descent over a byte range. Strings without escapes are handed out where they stand; those with escapes
 * are written out in `unescaped`. Follows RFC 8259, UTF-8 checked, nesting limited. */
#include "text/json_stream.h"

#include <string.h>

#include "text/utf8.h"

#define MAX_DEPTH 64

void fvlm_json_open(fvlm_json_stream *stream, const char *data, size_t bytes, const char *name, fvlm_error *error)
{
    if (!data)
        data = "";
    *stream = (fvlm_json_stream){.start = data, .at = data, .end = data + bytes, .name = name, .error = error};
}

bool fvlm_json_refuse(fvlm_json_stream *stream, const char *reason)
{
    if (!stream->status)
        stream->status = fvlm_fail(stream->error, FVLM_ERROR_FORMAT, "%s: %s at byte %zu", stream->name, reason,
                                   (size_t)(stream->at - stream->start));
    return false;
}

static void skip_space(fvlm_json_stream *stream)
{
    while (stream->at < stream->end &&
           (*stream->at == ' ' || *stream->at == '\n' || *stream->at == '\r' || *stream->at == '\t'))
        stream->at++;
}

char fvlm_json_peek(fvlm_json_stream *stream)
{
    if (stream->status)
        return '\0';
    skip_space(stream);
    return stream->at < stream->end ? *stream->at : '\0';
}

fvlm_status fvlm_json_close(fvlm_json_stream *stream)
{
    if (!stream->status) {
        skip_space(stream);
        if (stream->at != stream->end)
            fvlm_json_refuse(stream, "something follows the JSON value");
    }
    fvlm_text_clear(&stream->unescaped);
    return stream->status;
}

static bool expect(fvlm_json_stream *stream, char wanted, const char *reason)
{
    if (stream->status)
        return false;
    if (fvlm_json_peek(stream) != wanted)
        return fvlm_json_refuse(stream, reason);
    stream->at++;
    return true;
}

static bool enter(fvlm_json_stream *stream, char bracket, const char *reason)
{
    if (!expect(stream, bracket, reason))
        return false;
    if (++stream->depth > MAX_DEPTH)
        return fvlm_json_refuse(stream, "nesting is too deep");
    stream->fresh = true;
    return true;
}

/* Behind a bracket or a value: true when another one follows, false when `closing` does or on an error. */
static bool go_on(fvlm_json_stream *stream, char closing)
{
    char next = fvlm_json_peek(stream);
    if (stream->status)
        return false;
    if (next == closing) {
        stream->at++;
        stream->depth--;
        stream->fresh = false;
        return false;
    }
    if (!stream->fresh)
        expect(stream, ',', closing == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
    stream->fresh = false;
    return !stream->status;
}

bool fvlm_json_object(fvlm_json_stream *stream)
{
    return enter(stream, '{', "expected an object");
}

bool fvlm_json_array(fvlm_json_stream *stream)
{
    return enter(stream, '[', "expected an array");
}

bool fvlm_json_element(fvlm_json_stream *stream)
{
    return go_on(stream, ']');
}

bool fvlm_json_member(fvlm_json_stream *stream, const char **key, size_t *bytes)
{
    return go_on(stream, '}') && fvlm_json_string(stream, key, bytes) && expect(stream, ':', "expected ':'");
}

static bool hex4(fvlm_json_stream *stream, int32_t *value)
{
    if (stream->end - stream->at < 4)
        return fvlm_json_refuse(stream, "bad \\u escape");
    int32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = stream->at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return fvlm_json_refuse(stream, "bad \\u escape");
        v = v << 4 | digit;
    }
    stream->at += 4;
    *value = v;
    return true;
}

/* One escape, `at` behind the backslash. */
static bool unescape(fvlm_json_stream *stream)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = stream->at < stream->end ? *stream->at : '\0';
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        stream->at++;
        fvlm_text_append(&stream->unescaped, &to[simple - from], 1);
        return true;
    }
    if (c != 'u')
        return fvlm_json_refuse(stream, "bad escape");
    stream->at++;
    int32_t value, low;
    if (!hex4(stream, &value))
        return false;
    if (value >= 0xd800 && value < 0xe000) {
        if (value >= 0xdc00 || stream->end - stream->at < 6 || stream->at[0] != '\\' || stream->at[1] != 'u')
            return fvlm_json_refuse(stream, "half of a surrogate pair");
        stream->at += 2;
        if (!hex4(stream, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return fvlm_json_refuse(stream, "half of a surrogate pair");
        value = 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
    }
    fvlm_utf8_append(&stream->unescaped, value);
    return true;
}

bool fvlm_json_string(fvlm_json_stream *stream, const char **text, size_t *bytes)
{
    if (!expect(stream, '"', "expected a string"))
        return false;
    bool escaped = false;
    stream->unescaped.length = 0;
    const char *run = stream->at; /* what is not yet in `unescaped` */
    for (;;) {
        while (stream->at < stream->end && (unsigned char)*stream->at >= 0x20 && (unsigned char)*stream->at < 0x80 &&
               *stream->at != '"' && *stream->at != '\\')
            stream->at++;
        if (stream->at == stream->end)
            return fvlm_json_refuse(stream, "unfinished string");
        char c = *stream->at;
        if (c == '"')
            break;
        if (c == '\\') {
            escaped = true;
            fvlm_text_append(&stream->unescaped, run, (size_t)(stream->at - run));
            stream->at++;
            if (!unescape(stream))
                return false;
            run = stream->at;
        } else if ((unsigned char)c >= 0x80) {
            int32_t character;
            size_t length = fvlm_utf8_next(stream->at, (size_t)(stream->end - stream->at), &character);
            if (character < 0)
                return fvlm_json_refuse(stream, "bad UTF-8");
            stream->at += length;
        } else {
            return fvlm_json_refuse(stream, "control character in a string");
        }
    }
    *text = run;
    *bytes = (size_t)(stream->at - run);
    stream->at++;
    if (escaped) {
        fvlm_text_append(&stream->unescaped, run, *bytes);
        if (stream->unescaped.failed) {
            stream->status = fvlm_fail_memory(stream->error);
            return false;
        }
        *text = stream->unescaped.data;
        *bytes = stream->unescaped.length;
    }
    return true;
}

static bool is_digit(const fvlm_json_stream *stream)
{
    return stream->at < stream->end && *stream->at >= '0' && *stream->at <= '9';
}

bool fvlm_json_integer(fvlm_json_stream *stream, int32_t low, int32_t high, int32_t *value)
{
    bool negative = fvlm_json_peek(stream) == '-';
    if (stream->status)
        return false;
    if (negative)
        stream->at++;
    if (!is_digit(stream))
        return fvlm_json_refuse(stream, "expected an integer");
    bool zero = *stream->at == '0';
    int64_t v = 0;
    for (int digits = 0; is_digit(stream); stream->at++) {
        if (++digits > 10 || (zero && digits > 1))
            return fvlm_json_refuse(stream, "integer out of range");
        v = v * 10 + (*stream->at - '0');
    }
    if (stream->at < stream->end && (*stream->at == '.' || *stream->at == 'e' || *stream->at == 'E'))
        return fvlm_json_refuse(stream, "expected an integer");
    if (negative)
        v = -v;
    if (v < low || v > high)
        return fvlm_json_refuse(stream, "integer out of range");
    *value = (int32_t)v;
    return true;
}

static bool skip_digits(fvlm_json_stream *stream)
{
    if (!is_digit(stream))
        return fvlm_json_refuse(stream, "bad number");
    while (is_digit(stream))
        stream->at++;
    return true;
}

static bool skip_number(fvlm_json_stream *stream)
{
    if (*stream->at == '-')
        stream->at++;
    bool zero = stream->at < stream->end && *stream->at == '0';
    const char *first = stream->at;
    if (!skip_digits(stream))
        return false;
    if (zero && stream->at - first > 1)
        return fvlm_json_refuse(stream, "bad number");
    if (stream->at < stream->end && *stream->at == '.') {
        stream->at++;
        if (!skip_digits(stream))
            return false;
    }
    if (stream->at < stream->end && (*stream->at == 'e' || *stream->at == 'E')) {
        stream->at++;
        if (stream->at < stream->end && (*stream->at == '+' || *stream->at == '-'))
            stream->at++;
        return skip_digits(stream);
    }
    return true;
}

static bool skip_word(fvlm_json_stream *stream, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(stream->end - stream->at) < length || memcmp(stream->at, word, length) != 0)
        return fvlm_json_refuse(stream, "expected a value");
    stream->at += length;
    return true;
}

bool fvlm_json_skip(fvlm_json_stream *stream, const char **text, size_t *bytes)
{
    char kind = fvlm_json_peek(stream);
    const char *start = stream->at, *inner;
    size_t inner_bytes;
    bool ok = !stream->status;
    switch (kind) {
    case '{':
        ok = fvlm_json_object(stream);
        while (fvlm_json_member(stream, &inner, &inner_bytes))
            fvlm_json_skip(stream, &inner, &inner_bytes);
        break;
    case '[':
        ok = fvlm_json_array(stream);
        while (fvlm_json_element(stream))
            fvlm_json_skip(stream, &inner, &inner_bytes);
        break;
    case '"':
        ok = fvlm_json_string(stream, &inner, &inner_bytes);
        break;
    case 't':
        ok = skip_word(stream, "true");
        break;
    case 'f':
        ok = skip_word(stream, "false");
        break;
    case 'n':
        ok = skip_word(stream, "null");
        break;
    case '\0':
        ok = fvlm_json_refuse(stream, "the file ends too early");
        break;
    default:
        ok = ok && skip_number(stream);
    }
    *text = start;
    *bytes = (size_t)(stream->at - start);
    return ok && !stream->status;
}
