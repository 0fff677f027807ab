/* A word starts as one token a byte; as long as two neighbours have a merge, the pair of the lowest rank (the leftmost
 * of equals) becomes one token. Words are short: up to SHORT_WORD bytes the next pair is found by looking at all.
 * Longer ones (a megabyte without a space is one word) keep their pairs in a heap and their tokens in a linked list.
 *
 * The heap holds rank << 32 | position. A pair whose neighbours changed stays in it until it comes up; `rank` at its
 * position then tells that it is no longer so. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define NO_RANK INT32_MAX
#define SHORT_WORD 64
#define FIRST_SLOTS 1024

static size_t home_of(uint64_t pair, size_t slot_count)
{
    pair *= UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(pair >> 32) & (slot_count - 1);
}

static fvlm_merge *slot_of(const fvlm_merges *merges, uint64_t pair)
{
    size_t slot = home_of(pair, merges->slot_count);
    while (merges->slots[slot].pair != pair && merges->slots[slot].pair != FVLM_NO_PAIR)
        slot = (slot + 1) & (merges->slot_count - 1);
    return &merges->slots[slot];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static bool grow(fvlm_merges *merges)
{
    fvlm_merges larger = *merges;
    larger.slot_count = merges->slot_count ? merges->slot_count * 2 : FIRST_SLOTS;
    larger.slots = malloc(larger.slot_count * sizeof *larger.slots);
    if (!larger.slots)
        return false;
    for (size_t i = 0; i < larger.slot_count; i++)
        larger.slots[i].pair = FVLM_NO_PAIR;
    for (size_t i = 0; i < merges->slot_count; i++)
        if (merges->slots[i].pair != FVLM_NO_PAIR)
            *slot_of(&larger, merges->slots[i].pair) = merges->slots[i];
    free(merges->slots);
    *merges = larger;
    return true;
}

fvlm_status fvlm_merges_begin(fvlm_merges *merges, const fvlm_vocabulary *vocabulary, fvlm_error *error)
{
    *merges = (fvlm_merges){0};
    if (!grow(merges))
        return fvlm_fail_memory(error);
    fvlm_text_buffer character = {0};
    for (int byte = 0; byte < 256; byte++) {
        character.length = 0;
        fvlm_alphabet_append_character(&character, (unsigned char)byte);
        if (!character.failed)
            merges->byte_token[byte] = fvlm_vocabulary_find(vocabulary, character.data, character.length);
    }
    bool failed = character.failed;
    fvlm_text_clear(&character);
    return failed ? fvlm_fail_memory(error) : FVLM_OK;
}

void fvlm_merges_clear(fvlm_merges *merges)
{
    free(merges->slots);
    *merges = (fvlm_merges){0};
}

static fvlm_status unknown_token(const char *name, const char *token, size_t bytes, fvlm_error *error)
{
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: merge of or into \"%.*s\", which is not in the vocabulary", name,
                     bytes < 60 ? (int)bytes : 60, token);
}

/* Vocabularies list what merges make in the order of the merges: look behind the last one before searching. */
static int32_t find_result(const fvlm_merges *merges, const fvlm_vocabulary *vocabulary, const char *token,
                           size_t bytes)
{
    size_t next_bytes;
    const char *next = fvlm_vocabulary_token(vocabulary, merges->last_id + 1, &next_bytes);
    if (next && next_bytes == bytes && memcmp(next, token, bytes) == 0)
        return merges->last_id + 1;
    return fvlm_vocabulary_find(vocabulary, token, bytes);
}

fvlm_status fvlm_merges_add(fvlm_merges *merges, const fvlm_vocabulary *vocabulary, const char *left, size_t left_bytes,
                            const char *right, size_t right_bytes, const char *name, fvlm_error *error)
{
    if (merges->next_rank == NO_RANK)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: more than %d merges", name, NO_RANK);
    if (merges->used * 2 >= merges->slot_count && !grow(merges))
        return fvlm_fail_memory(error);
    int32_t a = fvlm_vocabulary_find(vocabulary, left, left_bytes);
    if (a < 0)
        return unknown_token(name, left, left_bytes, error);
    int32_t b = fvlm_vocabulary_find(vocabulary, right, right_bytes);
    if (b < 0)
        return unknown_token(name, right, right_bytes, error);

    char joined[256], *block = NULL, *both = joined;
    size_t bytes = left_bytes + right_bytes; /* both are parts of one file in memory: no overflow */
    if (bytes > sizeof joined && !(both = block = malloc(bytes)))
        return fvlm_fail_memory(error);
    memcpy(both, left, left_bytes);
    memcpy(both + left_bytes, right, right_bytes);
    int32_t id = find_result(merges, vocabulary, both, bytes);
    fvlm_status status = id < 0 ? unknown_token(name, both, bytes, error) : FVLM_OK;
    free(block);
    if (status)
        return status;

    fvlm_merge *slot = slot_of(merges, pair_of(a, b));
    if (slot->pair == FVLM_NO_PAIR)
        merges->used++;
    merges->last_id = id;
    *slot = (fvlm_merge){pair_of(a, b), merges->next_rank++, id}; /* of two that are equal the later one counts */
    return FVLM_OK;
}

static int32_t rank_of(const fvlm_merges *merges, int32_t left, int32_t right)
{
    const fvlm_merge *slot = slot_of(merges, pair_of(left, right));
    return slot->pair == FVLM_NO_PAIR ? NO_RANK : slot->rank;
}

bool fvlm_ids_append(fvlm_ids *ids, int32_t id)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : 64, bytes;
        int32_t *data = fvlm_size_multiply(capacity, sizeof *data, &bytes) ? realloc(ids->data, bytes) : NULL;
        if (!data)
            return false;
        ids->data = data;
        ids->capacity = capacity;
    }
    ids->data[ids->count++] = id;
    return true;
}

/* tokens [count <= SHORT_WORD] become fewer in place; returns how many. */
static size_t merge_short(const fvlm_merges *merges, int32_t *tokens, size_t count)
{
    int32_t rank[SHORT_WORD]; /* of the pair (i, i + 1) */
    for (size_t i = 0; i + 1 < count; i++)
        rank[i] = rank_of(merges, tokens[i], tokens[i + 1]);
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        tokens[best] = slot_of(merges, pair_of(tokens[best], tokens[best + 1]))->id;
        count--;
        memmove(tokens + best + 1, tokens + best + 2, (count - best - 1) * sizeof *tokens);
        memmove(rank + best, rank + best + 1, (count - best) * sizeof *rank);
        if (best > 0)
            rank[best - 1] = rank_of(merges, tokens[best - 1], tokens[best]);
        if (best + 1 < count)
            rank[best] = rank_of(merges, tokens[best], tokens[best + 1]);
    }
    return count;
}

struct heap {
    uint64_t *entries; /* smallest first; each entry's children are at 2i + 1 and 2i + 2 */
    size_t count;
};

static void sift_down(struct heap *heap, size_t i)
{
    uint64_t entry = heap->entries[i];
    for (size_t child; (child = 2 * i + 1) < heap->count; i = child) {
        if (child + 1 < heap->count && heap->entries[child + 1] < heap->entries[child])
            child++;
        if (entry <= heap->entries[child])
            break;
        heap->entries[i] = heap->entries[child];
    }
    heap->entries[i] = entry;
}

static void push(struct heap *heap, uint64_t entry)
{
    size_t i = heap->count++;
    for (size_t parent; i > 0 && heap->entries[parent = (i - 1) / 2] > entry; i = parent)
        heap->entries[i] = heap->entries[parent];
    heap->entries[i] = entry;
}

static uint64_t pop(struct heap *heap)
{
    uint64_t top = heap->entries[0];
    heap->entries[0] = heap->entries[--heap->count];
    if (heap->count)
        sift_down(heap, 0);
    return top;
}

/* What merge_long needs for each token; a merge takes one entry off the heap and adds at most two. */
#define LONG_BYTES (2 * sizeof(uint64_t) + 4 * sizeof(int32_t))

static size_t merge_long(const fvlm_merges *merges, int32_t *tokens, size_t count, char *memory)
{
    struct heap heap = {(uint64_t *)(void *)memory, 0};
    int32_t *next = (int32_t *)(void *)(memory + 2 * count * sizeof(uint64_t));
    int32_t *previous = next + count, *rank = previous + count;
    int32_t end = (int32_t)count;
    for (int32_t i = 0; i < end; i++) {
        next[i] = i + 1;
        previous[i] = i - 1;
        rank[i] = i + 1 < end ? rank_of(merges, tokens[i], tokens[i + 1]) : NO_RANK;
        if (rank[i] != NO_RANK)
            heap.entries[heap.count++] = (uint64_t)rank[i] << 32 | (uint32_t)i;
    }
    for (size_t i = heap.count / 2; i-- > 0;)
        sift_down(&heap, i);

    while (heap.count) {
        uint64_t entry = pop(&heap);
        int32_t at = (int32_t)(uint32_t)entry;
        if (rank[at] != (int32_t)(entry >> 32))
            continue;
        int32_t right = next[at];
        tokens[at] = slot_of(merges, pair_of(tokens[at], tokens[right]))->id;
        rank[right] = NO_RANK;
        next[at] = next[right];
        if (next[at] < end)
            previous[next[at]] = at;

        int32_t before = previous[at];
        if (before >= 0) {
            rank[before] = rank_of(merges, tokens[before], tokens[at]);
            if (rank[before] != NO_RANK)
                push(&heap, (uint64_t)rank[before] << 32 | (uint32_t)before);
        }
        rank[at] = next[at] < end ? rank_of(merges, tokens[at], tokens[next[at]]) : NO_RANK;
        if (rank[at] != NO_RANK)
            push(&heap, (uint64_t)rank[at] << 32 | (uint32_t)at);
    }
    size_t left = 0;
    for (int32_t i = 0; i < end; i = next[i])
        tokens[left++] = tokens[i];
    return left;
}

static bool reserve(fvlm_bpe_workspace *workspace, size_t count)
{
    size_t bytes;
    if (count > INT32_MAX || !fvlm_size_multiply(count, LONG_BYTES, &bytes))
        return false;
    if (bytes <= workspace->bytes)
        return true;
    fvlm_bpe_clear(workspace);
    workspace->memory = malloc(bytes);
    workspace->bytes = workspace->memory ? bytes : 0;
    return workspace->memory != NULL;
}

void fvlm_bpe_clear(fvlm_bpe_workspace *workspace)
{
    free(workspace->memory);
    *workspace = (fvlm_bpe_workspace){0};
}

bool fvlm_bpe_encode(const fvlm_merges *merges, const char *word, size_t bytes, fvlm_bpe_workspace *workspace,
                     fvlm_ids *ids)
{
    size_t first = ids->count;
    for (size_t i = 0; i < bytes; i++) {
        int32_t token = merges->byte_token[(unsigned char)word[i]];
        if (token >= 0 && !fvlm_ids_append(ids, token))
            return false;
    }
    size_t count = ids->count - first;
    if (count <= SHORT_WORD) {
        ids->count = first + merge_short(merges, ids->data + first, count);
        return true;
    }
    if (!reserve(workspace, count))
        return false;
    ids->count = first + merge_long(merges, ids->data + first, count, workspace->memory);
    return true;
}
