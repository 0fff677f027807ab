/* Scores of answers. */
#include "metrics.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Text without blanks around it: *length of it from the returned place. */
static const char *trimmed(const char *text, size_t *length)
{
    while (isspace((unsigned char)*text))
        text++;
    *length = strlen(text);
    while (*length > 0 && isspace((unsigned char)text[*length - 1]))
        --*length;
    return text;
}

bool cli_exact_match(const char *answer, const char *const *references, size_t count)
{
    size_t length;
    answer = trimmed(answer, &length);
    for (size_t i = 0; i < count; i++) {
        size_t other;
        const char *reference = trimmed(references[i], &other);
        if (other == length && memcmp(answer, reference, length) == 0)
            return true;
    }
    return false;
}

/* Characters of a UTF-8 text in small letters (ASCII's), runs of blanks as one: *count of them, for free(). */
static uint32_t *characters(const char *text, size_t *count)
{
    size_t length;
    text = trimmed(text, &length);
    uint32_t *made = fvlm_calloc(length + 1, sizeof *made);
    *count = 0;
    for (size_t i = 0; made && i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x80 && c < 0xc0 && *count > 0) /* goes on */
            made[*count - 1] = made[*count - 1] << 6 | (c & 0x3f);
        else if (!isspace(c))
            made[(*count)++] = (uint32_t)tolower(c);
        else if (made[*count - 1] != ' ')
            made[(*count)++] = ' ';
    }
    return made;
}

static size_t least(size_t a, size_t b, size_t c)
{
    size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Edits that make a [m] of b [n], row by row; row [n + 1] is scratch. */
static size_t edits(const uint32_t *a, size_t m, const uint32_t *b, size_t n, size_t *row)
{
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; i < m; i++) {
        size_t corner = row[0]; /* of the row above, one to the left */
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t above = row[j + 1];
            row[j + 1] = least(above + 1, row[j] + 1, corner + (a[i] != b[j]));
            corner = above;
        }
    }
    return row[n];
}

double cli_anls(const char *answer, const char *const *references, size_t count)
{
    size_t m, n;
    uint32_t *a = characters(answer, &m);
    double best = a ? 0 : -1;
    for (size_t i = 0; i < count && best >= 0; i++) {
        uint32_t *b = characters(references[i], &n);
        size_t *row = b ? fvlm_calloc(n + 1, sizeof *row) : NULL, longer = m > n ? m : n;
        if (!row)
            best = -1;
        else if (longer == 0)
            best = 1;
        else {
            double similarity = 1 - (double)edits(a, m, b, n, row) / (double)longer;
            best = similarity >= 0.5 && similarity > best ? similarity : best;
        }
        free(row);
        free(b);
    }
    free(a);
    return best;
}

/* A word as VQA compares it, or NULL where it does not count. */
static const char *vqa_word(const char *word)
{
    static const char *const articles[] = {"a", "an", "the"};
    static const char *const numbers[] = {"zero", "one",   "two",   "three", "four", "five",
                                          "six",  "seven", "eight", "nine",  "ten"};
    static const char *const digits[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"};
    for (size_t i = 0; i < sizeof articles / sizeof *articles; i++)
        if (strcmp(word, articles[i]) == 0)
            return NULL;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(word, numbers[i]) == 0)
            return digits[i];
    return strcmp(word, "none") == 0 ? digits[0] : word;
}

/* Punctuation ends words, but for commas and periods in numbers, and apostrophes and other periods, which go: "don't"
 * is "dont", "U.S." is "us". */
static bool joins(const char *c, const char *text)
{
    bool in_number = c > text && isdigit((unsigned char)c[-1]) && isdigit((unsigned char)c[1]);
    return *c == '\'' || *c == '.' || (*c == ',' && in_number);
}

/* For free(). */
static char *vqa_text(const char *text)
{
    size_t length = strlen(text), used = 0, kept = 0;
    char *word = fvlm_calloc(length + 1, 1), *made = fvlm_calloc(2 * length + 2, 1);
    for (const char *c = text; word && made; c++) {
        unsigned char byte = (unsigned char)*c;
        bool decimal = byte == '.' && c > text && isdigit((unsigned char)c[-1]) && isdigit((unsigned char)c[1]);
        if (byte >= 0x80 || isalnum(byte) || decimal) {
            word[used++] = (char)tolower(byte);
        } else if (byte == '\0' || !joins(c, text)) {
            word[used] = '\0';
            const char *counts = used ? vqa_word(word) : NULL;
            used = 0;
            if (counts) {
                if (kept)
                    made[kept++] = ' ';
                memcpy(made + kept, counts, strlen(counts));
                kept += strlen(counts);
            }
        }
        if (byte == '\0')
            break;
    }
    if (!word) {
        free(made);
        made = NULL;
    }
    free(word);
    return made;
}

double cli_vqa_accuracy(const char *answer, const char *const *references, size_t count)
{
    char *own = vqa_text(answer);
    size_t equal = 0;
    bool failed = !own;
    for (size_t i = 0; i < count && !failed; i++) {
        char *other = vqa_text(references[i]);
        failed = !other;
        equal += other && strcmp(own, other) == 0;
        free(other);
    }
    free(own);
    if (failed)
        return -1;
    if (count <= 1)
        return (double)equal;
    /* Leaving out one of the equal ones leaves one fewer. */
    double with = equal >= 4  ? 1
                  : equal > 0 ? (double)(equal - 1) / 3
                              : 0,
           without = equal >= 3 ? 1 : (double)equal / 3;
    return ((double)equal * with + (double)(count - equal) * without) / (double)count;
}
