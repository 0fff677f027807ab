/* Strings lie behind one another in one block, found by id through an array and by string through a hash table with
 * linear probing; a slot keeps the hash, so that most probes that miss never touch the string. */
#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "text/utf8.h"

#define FIRST_SLOTS 4096

/* FNV-1a with a final mix; tokens are a few bytes long. */
static uint32_t hash_of(const char *token, size_t bytes)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ (unsigned char)token[i]) * 16777619u;
    hash ^= hash >> 15;
    return hash * 0x2c1b3c6du;
}

void fvlm_vocabulary_clear(fvlm_vocabulary *vocabulary)
{
    fvlm_text_clear(&vocabulary->text);
    free(vocabulary->tokens);
    free(vocabulary->slots);
    *vocabulary = (fvlm_vocabulary){0};
}

/* Where the token is, or where it would go. The table is never full. */
static size_t slot_of(const fvlm_vocabulary *vocabulary, const char *token, size_t bytes, uint32_t hash)
{
    size_t mask = vocabulary->slot_count - 1, slot = hash & mask;
    for (;; slot = (slot + 1) & mask) {
        fvlm_vocabulary_slot entry = vocabulary->slots[slot];
        if (entry.id < 0)
            return slot;
        fvlm_token_text found = vocabulary->tokens[entry.id];
        if (entry.hash == hash && found.bytes == bytes &&
            memcmp(vocabulary->text.data + found.offset, token, bytes) == 0)
            return slot;
    }
}

static bool grow_slots(fvlm_vocabulary *vocabulary)
{
    size_t count = vocabulary->slot_count ? vocabulary->slot_count * 2 : FIRST_SLOTS;
    fvlm_vocabulary_slot *slots = malloc(count * sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < count; i++)
        slots[i].id = -1;
    for (size_t i = 0; i < vocabulary->slot_count; i++) {
        fvlm_vocabulary_slot entry = vocabulary->slots[i];
        if (entry.id < 0)
            continue;
        size_t slot = entry.hash & (count - 1);
        while (slots[slot].id >= 0)
            slot = (slot + 1) & (count - 1);
        slots[slot] = entry;
    }
    free(vocabulary->slots);
    vocabulary->slots = slots;
    vocabulary->slot_count = count;
    return true;
}

static bool grow_ids(fvlm_vocabulary *vocabulary, size_t needed)
{
    size_t capacity = vocabulary->id_capacity ? vocabulary->id_capacity : 1024;
    while (capacity < needed)
        capacity *= 2;
    fvlm_token_text *tokens = realloc(vocabulary->tokens, capacity * sizeof *tokens);
    if (!tokens)
        return false;
    memset(tokens + vocabulary->id_capacity, 0, (capacity - vocabulary->id_capacity) * sizeof *tokens);
    vocabulary->tokens = tokens;
    vocabulary->id_capacity = capacity;
    return true;
}

fvlm_status fvlm_vocabulary_add(fvlm_vocabulary *vocabulary, const char *token, size_t bytes, int32_t id,
                                const char *name, fvlm_error *error)
{
    int shown = bytes < 60 ? (int)bytes : 60;
    if (id < 0 || id >= FVLM_TOKEN_LIMIT)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: token id %d is not below %d", name, id, FVLM_TOKEN_LIMIT);
    if (bytes == 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: token %d is empty", name, id);
    size_t length;
    if (!fvlm_size_add(vocabulary->text.length, bytes, &length) || length > UINT32_MAX)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: the vocabulary is larger than 4 GB", name);
    if ((vocabulary->used * 2 >= vocabulary->slot_count && !grow_slots(vocabulary)) ||
        ((size_t)id >= vocabulary->id_capacity && !grow_ids(vocabulary, (size_t)id + 1)))
        return fvlm_fail_memory(error);

    uint32_t hash = hash_of(token, bytes);
    size_t slot = slot_of(vocabulary, token, bytes, hash);
    if (vocabulary->slots[slot].id >= 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: token \"%.*s\" is listed twice", name, shown, token);
    if (vocabulary->tokens[id].bytes)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: id %d is given to two tokens", name, id);

    fvlm_token_text text = {(uint32_t)vocabulary->text.length, (uint32_t)bytes};
    fvlm_text_append(&vocabulary->text, token, bytes);
    if (vocabulary->text.failed)
        return fvlm_fail_memory(error);
    vocabulary->tokens[id] = text;
    vocabulary->slots[slot] = (fvlm_vocabulary_slot){hash, id};
    vocabulary->used++;
    if ((size_t)id >= vocabulary->id_count)
        vocabulary->id_count = (size_t)id + 1;
    return FVLM_OK;
}

int32_t fvlm_vocabulary_find(const fvlm_vocabulary *vocabulary, const char *token, size_t bytes)
{
    if (!vocabulary->slot_count)
        return -1;
    return vocabulary->slots[slot_of(vocabulary, token, bytes, hash_of(token, bytes))].id;
}

const char *fvlm_vocabulary_token(const fvlm_vocabulary *vocabulary, int32_t id, size_t *bytes)
{
    if (id < 0 || (size_t)id >= vocabulary->id_count || !vocabulary->tokens[id].bytes)
        return NULL;
    *bytes = vocabulary->tokens[id].bytes;
    return vocabulary->text.data + vocabulary->tokens[id].offset;
}

/* The bytes that do not print are 0x00-0x20, 0x7f-0xa0 and 0xad, in this order from U+0100 on. */
void fvlm_alphabet_append_character(fvlm_text_buffer *buffer, unsigned char byte)
{
    int32_t character = byte;
    if (byte <= 0x20)
        character = 0x100 + byte;
    else if (byte >= 0x7f && byte <= 0xa0)
        character = 0x121 + (byte - 0x7f);
    else if (byte == 0xad)
        character = 0x143;
    fvlm_utf8_append(buffer, character);
}

/* The byte that a character of the alphabet stands for, or -1. */
static int byte_of(int32_t character)
{
    if (character >= 0x100 && character <= 0x120)
        return character - 0x100;
    if (character >= 0x121 && character <= 0x142)
        return character - 0x121 + 0x7f;
    if (character == 0x143)
        return 0xad;
    bool prints =
        (character > 0x20 && character < 0x7f) || (character > 0xa0 && character <= 0xff && character != 0xad);
    return prints ? character : -1;
}

void fvlm_alphabet_append_bytes(fvlm_text_buffer *buffer, const char *token, size_t bytes)
{
    size_t before = buffer->length;
    for (size_t i = 0; i < bytes;) {
        int32_t character;
        i += fvlm_utf8_next(token + i, bytes - i, &character);
        int byte = byte_of(character);
        if (byte < 0) {
            buffer->length = before;
            fvlm_text_append(buffer, token, bytes);
            return;
        }
        char c = (char)byte;
        fvlm_text_append(buffer, &c, 1);
    }
}
