/* NFC by utf8proc's tables: decompose every character, put marks in canonical order, compose.
 *
 * utf8proc_map would do all three, but it orders marks by swapping neighbours, which takes minutes on a megabyte of
 * marks in the wrong order; here a run of marks that is out of order is put right by a counting sort on the 255
 * combining classes. */
#include "text/normalize.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/checked.h"
#include "text/utf8.h"

#define MAX_DECOMPOSITION 4 /* characters; Unicode's longest canonical one */

bool fvlm_normalize_is_plain(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] >= 0xcc) /* U+0300 is cc 80 */
            return false;
    return true;
}

static int class_of(utf8proc_int32_t character)
{
    return character < 0x300 ? 0 : utf8proc_get_property(character)->combining_class;
}

/* Stable counting sort of one run of marks by class; `sorted` is [count]. */
static void sort_run(utf8proc_int32_t *run, size_t count, utf8proc_int32_t *sorted)
{
    size_t place[257] = {0};
    for (size_t i = 0; i < count; i++)
        place[class_of(run[i]) + 1]++;
    for (int c = 1; c < 257; c++)
        place[c] += place[c - 1];
    for (size_t i = 0; i < count; i++)
        sorted[place[class_of(run[i])]++] = run[i];
    memcpy(run, sorted, count * sizeof *run);
}

/* Canonical order: between characters of class 0, marks ascend by class. */
static bool order_marks(utf8proc_int32_t *characters, size_t count)
{
    utf8proc_int32_t *sorted = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t start = i;
        bool ordered = true;
        for (int last = 0, now; i < count && (now = class_of(characters[i])) != 0; i++, last = now)
            ordered = ordered && last <= now;
        if (ordered)
            continue;
        if (!sorted && !(sorted = malloc(count * sizeof *sorted)))
            return false;
        sort_run(characters + start, i - start, sorted);
    }
    free(sorted);
    return true;
}

/* text [bytes] as decomposed characters [*count]; NULL when out of memory. */
static utf8proc_int32_t *decompose(const char *text, size_t bytes, size_t *count)
{
    size_t capacity = 0, used = 0;
    utf8proc_int32_t *characters = NULL;
    for (size_t i = 0; i < bytes;) {
        if (capacity - used < MAX_DECOMPOSITION) {
            size_t larger = capacity ? capacity * 2 : bytes + MAX_DECOMPOSITION, size;
            utf8proc_int32_t *grown =
                fvlm_size_multiply(larger, sizeof *grown, &size) ? realloc(characters, size) : NULL;
            if (!grown) {
                free(characters);
                return NULL;
            }
            characters = grown;
            capacity = larger;
        }
        int32_t character;
        i += fvlm_utf8_next(text + i, bytes - i, &character);
        int boundary = 0;
        utf8proc_ssize_t made = utf8proc_decompose_char(character, characters + used, MAX_DECOMPOSITION,
                                                        UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        used += (size_t)made;
    }
    *count = used;
    return characters;
}

fvlm_status fvlm_normalize_nfc(fvlm_text_buffer *buffer, const char *text, size_t bytes, fvlm_error *error)
{
    if (fvlm_normalize_is_plain(text, bytes)) {
        fvlm_text_append(buffer, text, bytes);
        return buffer->failed ? fvlm_fail_memory(error) : FVLM_OK;
    }
    size_t count;
    utf8proc_int32_t *characters = decompose(text, bytes, &count);
    if (!characters || !order_marks(characters, count)) {
        free(characters);
        return fvlm_fail_memory(error);
    }
    utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(characters, (utf8proc_ssize_t)count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < composed; i++)
        fvlm_utf8_append(buffer, characters[i]);
    free(characters);
    return buffer->failed ? fvlm_fail_memory(error) : FVLM_OK;
}
