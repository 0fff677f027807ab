/* Unicode normalisation form C. */
#ifndef FVLM_TEXT_NORMALIZE_H
#define FVLM_TEXT_NORMALIZE_H

#include "base/error.h"
#include "base/text_buffer.h"

/* Append the NFC of well-formed UTF-8. Linear in its length, whatever the text. */
fvlm_status fvlm_normalize_nfc(fvlm_text_buffer *buffer, const char *text, size_t bytes, fvlm_error *error);

/* True when text [bytes] is NFC for a simple reason (no character from U+0300 on), so that no work is needed. */
bool fvlm_normalize_is_plain(const char *text, size_t bytes);

#endif
