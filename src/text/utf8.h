/* UTF-8 one character at a time, with the replacement rule that Python, Rust and the Unicode standard share. */
#ifndef FVLM_TEXT_UTF8_H
#define FVLM_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text_buffer.h"

enum {
    FVLM_UTF8_ILL_FORMED = -1, /* the bytes can never begin a character */
    FVLM_UTF8_INCOMPLETE = -2  /* more bytes could still make it one */
};

/* Read the character at text [bytes], bytes > 0. Returns how many bytes it takes, at least 1. Of ill-formed text that
 * is the "maximal subpart" (Unicode 3.9, U+FFFD substitution): what one U+FFFD stands for. *character is a code point
 * or one of the values above; incomplete takes all bytes that are left. */
size_t fvlm_utf8_next(const char *text, size_t bytes, int32_t *character);

/* Append a code point below 0x110000. */
void fvlm_utf8_append(fvlm_text_buffer *buffer, int32_t character);

/* True when text [bytes] is well-formed throughout. */
bool fvlm_utf8_valid(const char *text, size_t bytes);

/* Append text [bytes] with U+FFFD for every maximal subpart that is no character. An incomplete character at the end
 * is replaced too when `final`, and otherwise left. Returns how many bytes were used up. */
size_t fvlm_utf8_append_replaced(fvlm_text_buffer *buffer, const char *text, size_t bytes, bool final);

/* The Unicode properties White_Space, and \w as regular expressions have it (letters, marks, digits, connectors,
 * joiners). */
bool fvlm_utf8_is_space(int32_t character);
bool fvlm_utf8_is_word(int32_t character);

#endif
