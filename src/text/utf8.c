/* Decoding follows table 3-7 of the Unicode standard (well-formed byte sequences): the second byte's range depends on
 * the first, which rules out overlong forms, surrogates and what lies beyond U+10FFFF as early as possible. */
#include "text/utf8.h"

#include <string.h>

#include <utf8proc.h>

#define REPLACEMENT "\xef\xbf\xbd"

size_t fvlm_utf8_next(const char *text, size_t bytes, int32_t *character)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned first = s[0];
    if (first < 0x80) {
        *character = (int32_t)first;
        return 1;
    }
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4) {
        *character = FVLM_UTF8_ILL_FORMED;
        return 1;
    }
    unsigned low = 0x80, high = 0xbf;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;

    int32_t value = (int32_t)(first & (0x7fu >> length));
    for (size_t i = 1; i < length; i++) {
        if (i == bytes) {
            *character = FVLM_UTF8_INCOMPLETE;
            return i;
        }
        if (s[i] < low || s[i] > high) {
            *character = FVLM_UTF8_ILL_FORMED;
            return i;
        }
        value = value << 6 | (s[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    *character = value;
    return length;
}

void fvlm_utf8_append(fvlm_text_buffer *buffer, int32_t character)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t length = utf8proc_encode_char(character, bytes);
    fvlm_text_append(buffer, (const char *)bytes, (size_t)length);
}

/* Length of the ASCII run at the start of text, in whole words of 8 bytes at first. */
static size_t ascii_run(const char *text, size_t bytes)
{
    size_t i = 0;
    for (uint64_t word; i + sizeof word <= bytes; i += sizeof word) {
        memcpy(&word, text + i, sizeof word);
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    while (i < bytes && (unsigned char)text[i] < 0x80)
        i++;
    return i;
}

bool fvlm_utf8_valid(const char *text, size_t bytes)
{
    for (size_t i = ascii_run(text, bytes); i < bytes; i += ascii_run(text + i, bytes - i)) {
        int32_t character;
        i += fvlm_utf8_next(text + i, bytes - i, &character);
        if (character < 0)
            return false;
    }
    return true;
}

size_t fvlm_utf8_append_replaced(fvlm_text_buffer *buffer, const char *text, size_t bytes, bool final)
{
    size_t done = 0, i = 0;
    if (bytes == 0)
        return 0;
    while (i < bytes) {
        i += ascii_run(text + i, bytes - i);
        if (i == bytes)
            break;
        int32_t character;
        size_t length = fvlm_utf8_next(text + i, bytes - i, &character);
        if (character >= 0) {
            i += length;
            continue;
        }
        fvlm_text_append(buffer, text + done, i - done);
        done = i;
        if (character == FVLM_UTF8_INCOMPLETE && !final)
            return done;
        fvlm_text_append(buffer, REPLACEMENT, sizeof REPLACEMENT - 1);
        i += length;
        done = i;
    }
    fvlm_text_append(buffer, text + done, i - done);
    return i;
}

bool fvlm_utf8_is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool fvlm_utf8_is_word(int32_t character)
{
    if (character == 0x200c || character == 0x200d) /* Join_Control */
        return true;
    switch (utf8proc_category(character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}
