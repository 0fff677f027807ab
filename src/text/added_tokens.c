/* Matching walks the sorted keys as if they were a trie: the first byte gives a range of keys, each further byte of
 * the text narrows it by binary search, and the last key that was complete is the longest match. The rules (leftmost,
 * then longest; what a match that is no single word does) are those of the tokenizers library. */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/normalize.h"
#include "text/utf8.h"

/* Bounds the time of a search: a start costs at most this many steps. Published contents have some 30 bytes. */
#define MAX_CONTENT 512
#define MAX_TOKENS 16384

static fvlm_added_token *find_content(const fvlm_added_tokens *added, const char *content, size_t bytes)
{
    for (size_t i = 0; i < added->count; i++)
        if (added->tokens[i].bytes == bytes && memcmp(added->tokens[i].content, content, bytes) == 0)
            return &added->tokens[i];
    return NULL;
}

const fvlm_added_token *fvlm_added_by_content(const fvlm_added_tokens *added, const char *content, size_t bytes)
{
    return find_content(added, content, bytes);
}

fvlm_status fvlm_added_add(fvlm_added_tokens *added, const fvlm_added_token *token, const char *name, fvlm_error *error)
{
    if (token->bytes == 0)
        return FVLM_OK;
    if (token->bytes > MAX_CONTENT)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: an added token of %zu bytes (limit %d)", name, token->bytes,
                         MAX_CONTENT);
    fvlm_added_token *place = find_content(added, token->content, token->bytes);
    if (place) {
        char *content = place->content;
        *place = *token;
        place->content = content;
        return FVLM_OK;
    }
    if (added->count == MAX_TOKENS)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: more than %d added tokens", name, MAX_TOKENS);
    if (added->count == added->capacity) {
        size_t capacity = added->capacity ? added->capacity * 2 : 32;
        fvlm_added_token *larger = realloc(added->tokens, capacity * sizeof *larger);
        if (!larger)
            return fvlm_fail_memory(error);
        added->tokens = larger;
        added->capacity = capacity;
    }
    char *content = fvlm_calloc(token->bytes + 1, 1);
    if (!content)
        return fvlm_fail_memory(error);
    memcpy(content, token->content, token->bytes);
    added->tokens[added->count] = *token;
    added->tokens[added->count++].content = content;
    return FVLM_OK;
}

static int compare_ids(const void *a, const void *b)
{
    int32_t left = ((const fvlm_added_token *)a)->id, right = ((const fvlm_added_token *)b)->id;
    return (left > right) - (left < right);
}

static int compare_keys(const void *a, const void *b)
{
    const struct fvlm_added_key *left = a, *right = b;
    size_t shared = left->bytes < right->bytes ? left->bytes : right->bytes;
    int order = memcmp(left->text, right->text, shared);
    return order ? order : (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

/* Fill `set` with the tokens that are (not) normalised. */
static bool build_set(const fvlm_added_tokens *added, fvlm_added_set *set, bool normalized, bool nfc)
{
    set->keys = fvlm_calloc(added->count, sizeof *set->keys);
    if (!set->keys)
        return false;
    for (size_t i = 0; i < added->count; i++) {
        const fvlm_added_token *token = &added->tokens[i];
        if (token->normalized != normalized)
            continue;
        fvlm_text_buffer text = {0};
        if (normalized && nfc)
            fvlm_normalize_nfc(&text, token->content, token->bytes, NULL);
        else
            fvlm_text_append(&text, token->content, token->bytes);
        struct fvlm_added_key *key = &set->keys[set->count];
        *key = (struct fvlm_added_key){NULL, text.length, (int32_t)i};
        key->text = fvlm_text_take(&text);
        if (!key->text)
            return false;
        set->count++;
    }
    qsort(set->keys, set->count, sizeof *set->keys, compare_keys);
    for (size_t i = 0; i < set->count; i++)
        set->first[(unsigned char)set->keys[i].text[0] + 1]++;
    for (int byte = 0; byte < 256; byte++)
        set->first[byte + 1] += set->first[byte];
    return true;
}

fvlm_status fvlm_added_finish(fvlm_added_tokens *added, bool nfc, const char *name, fvlm_error *error)
{
    if (added->count)
        qsort(added->tokens, added->count, sizeof *added->tokens, compare_ids);
    for (size_t i = 1; i < added->count; i++)
        if (added->tokens[i].id == added->tokens[i - 1].id)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: id %d is given to two added tokens, \"%s\" and \"%s\"",
                             name, added->tokens[i].id, added->tokens[i - 1].content, added->tokens[i].content);
    if (!build_set(added, &added->raw, false, nfc) || !build_set(added, &added->normalized, true, nfc))
        return fvlm_fail_memory(error);
    return FVLM_OK;
}

static void clear_set(fvlm_added_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->keys[i].text);
    free(set->keys);
}

void fvlm_added_clear(fvlm_added_tokens *added)
{
    clear_set(&added->raw);
    clear_set(&added->normalized);
    for (size_t i = 0; i < added->count; i++)
        free(added->tokens[i].content);
    free(added->tokens);
    *added = (fvlm_added_tokens){0};
}

const fvlm_added_token *fvlm_added_by_id(const fvlm_added_tokens *added, int32_t id)
{
    if (!added->count)
        return NULL;
    fvlm_added_token wanted = {.id = id};
    return bsearch(&wanted, added->tokens, added->count, sizeof wanted, compare_ids);
}

/* The first key in [low, high) whose byte `depth` is at least `byte`; all of them agree in the bytes before. */
static size_t lower_bound(const fvlm_added_set *set, size_t low, size_t high, size_t depth, int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct fvlm_added_key *key = &set->keys[middle];
        int at = key->bytes > depth ? (unsigned char)key->text[depth] : -1; /* the shortest key sorts first */
        if (at < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest key that text begins with, or NULL. */
static const struct fvlm_added_key *longest_key(const fvlm_added_set *set, const char *text, size_t bytes)
{
    size_t low = set->first[(unsigned char)text[0]], high = set->first[(unsigned char)text[0] + 1];
    const struct fvlm_added_key *longest = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (set->keys[low].bytes == depth)
            longest = &set->keys[low++];
        if (depth == bytes)
            break;
        int byte = (unsigned char)text[depth];
        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1);
    }
    return longest;
}

/* The character that ends at `at`, or -1 at the start of the text; *start is where it begins. */
static int32_t character_before(const char *text, size_t at, size_t *start)
{
    if (at == 0)
        return -1;
    size_t begin = at - 1;
    while (begin > 0 && ((unsigned char)text[begin] & 0xc0) == 0x80)
        begin--;
    int32_t character;
    fvlm_utf8_next(text + begin, at - begin, &character);
    *start = begin;
    return character;
}

static bool stands_alone(const char *text, size_t bytes, size_t start, size_t end)
{
    size_t ignored;
    int32_t before = character_before(text, start, &ignored), after = -1;
    if (end < bytes)
        fvlm_utf8_next(text + end, bytes - end, &after);
    return (before < 0 || !fvlm_utf8_is_word(before)) && (after < 0 || !fvlm_utf8_is_word(after));
}

const fvlm_added_token *fvlm_added_find(const fvlm_added_tokens *added, const fvlm_added_set *set, const char *text,
                                        size_t bytes, size_t from, size_t *start, size_t *end)
{
    if (!set->count)
        return NULL;
    for (size_t at = from; at < bytes;) {
        const struct fvlm_added_key *key = longest_key(set, text + at, bytes - at);
        if (!key) {
            at++;
            continue;
        }
        const fvlm_added_token *token = &added->tokens[key->token];
        *start = at;
        *end = at + key->bytes;
        if (token->single_word && !stands_alone(text, bytes, *start, *end)) {
            at = *end;
            continue;
        }
        for (size_t before; token->lstrip && *start > from;) {
            if (!fvlm_utf8_is_space(character_before(text, *start, &before)))
                break;
            *start = before;
        }
        while (token->rstrip && *end < bytes) {
            int32_t after;
            size_t length = fvlm_utf8_next(text + *end, bytes - *end, &after);
            if (!fvlm_utf8_is_space(after))
                break;
            *end += length;
        }
        return token;
    }
    return NULL;
}
