/* Learn a byte-level BPE vocabulary from conversations: train_vocabulary TOKENS FOLDER DATA.jsonl...
 *
 * Writes vocab.json, merges.txt, added_tokens.json and tokenizer_config.json into FOLDER, in the layout of Qwen2's
 * tokenizer: the 256 bytes, merges up to TOKENS tokens, the last three of which are the special ones. The text is what
 * the samples' turns say, and the chat template around them. Words that are hardly ever said are left out, so that what
 * is read in pictures is spelled and what is said about them is not. (Sennrich, Haddow, Birch 2016; ties go to the
 * lower ids.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "base/text_buffer.h"
#include "text/splitter.h"
#include "text/vocabulary.h"

enum { BYTES = 256, SPECIALS = 3, MOST_TOKENS = 4096, LONGEST_WORD = 32, MOST_WORDS = 1 << 20 };
static const char *const specials[SPECIALS] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
/* Of a conversation, beside its turns. */
static const char *const around[] = {"system\n", "You are a helpful assistant.", "\n", "user\n", "assistant\n"};
/* A word counts if it is said at least once in so many. */
static const uint64_t rarest = 10000;

typedef struct word {
    uint64_t count;
    int length, tokens[LONGEST_WORD];
} word;

typedef struct corpus {
    fvlm_vocabulary known; /* words as strings; an id is an index of `words` */
    word *words;           /* [MOST_WORDS] */
    uint64_t said;
    fvlm_error error;
} corpus;

static bool take_word(void *user, const char *piece, size_t bytes)
{
    corpus *c = user;
    if (bytes == 0 || bytes > LONGEST_WORD)
        return true;
    int32_t id = fvlm_vocabulary_find(&c->known, piece, bytes);
    if (id < 0) {
        id = (int32_t)c->known.id_count;
        if (id == MOST_WORDS || fvlm_vocabulary_add(&c->known, piece, bytes, id, "words", &c->error))
            return false;
        c->words[id].length = (int)bytes;
        for (size_t i = 0; i < bytes; i++)
            c->words[id].tokens[i] = (unsigned char)piece[i];
    }
    c->words[id].count++;
    c->said++;
    return true;
}

static fvlm_status read_sample(corpus *c, const json_t *sample, const fvlm_splitter *splitter,
                               fvlm_splitter_workspace *workspace)
{
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; i < sizeof around / sizeof *around && !status; i++)
        status = fvlm_splitter_run(splitter, workspace, around[i], strlen(around[i]), take_word, c, &c->error);
    size_t i;
    json_t *turn, *turns = json_object_get(sample, "conversations");
    json_array_foreach(turns, i, turn)
    {
        const char *text = json_string_value(json_object_get(turn, "value"));
        if (text && strncmp(text, "<image>", 7) == 0)
            text += 7;
        if (text && !status)
            status = fvlm_splitter_run(splitter, workspace, text, strlen(text), take_word, c, &c->error);
    }
    return status;
}

static fvlm_status read_data(corpus *c, const char *path, const fvlm_splitter *splitter,
                             fvlm_splitter_workspace *workspace)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return fvlm_fail(&c->error, FVLM_ERROR_IO, "cannot open %s", path);
    fvlm_status status = FVLM_OK;
    for (int next; !status && (next = getc(file)) != EOF;) {
        if (next == '\n')
            continue;
        ungetc(next, file);
        json_error_t error;
        json_t *sample = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error);
        status = sample ? read_sample(c, sample, splitter, workspace)
                        : fvlm_fail(&c->error, FVLM_ERROR_FORMAT, "%s: %s", path, error.text);
        json_decref(sample);
    }
    fclose(file);
    return status;
}

/* The pair of neighbours that is most often there, as left * tokens + right; 0: there is none. counts is
 * [tokens, tokens]. */
static size_t best_pair(const corpus *c, uint64_t *counts, size_t tokens)
{
    memset(counts, 0, tokens * tokens * sizeof *counts);
    for (size_t i = 0; i < c->known.id_count; i++)
        for (int j = 0; j + 1 < c->words[i].length; j++)
            counts[(size_t)c->words[i].tokens[j] * tokens + (size_t)c->words[i].tokens[j + 1]] += c->words[i].count;
    size_t best = 0;
    for (size_t pair = 1; pair < tokens * tokens; pair++)
        if (counts[pair] > counts[best])
            best = pair;
    return best;
}

static void merge(corpus *c, int left, int right, int merged)
{
    for (size_t i = 0; i < c->known.id_count; i++) {
        word *w = &c->words[i];
        int kept = 0;
        for (int j = 0; j < w->length; j++) {
            bool here = j + 1 < w->length && w->tokens[j] == left && w->tokens[j + 1] == right;
            w->tokens[kept++] = here ? merged : w->tokens[j];
            j += here;
        }
        w->length = kept;
    }
}

/* A token as files spell it, quoted for JSON. */
static void append_token(fvlm_text_buffer *json, const char *token, size_t bytes)
{
    json_t *string = json_stringn(token, bytes);
    char *text = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    fvlm_text_append_string(json, text ? text : "");
    json->failed |= !text;
    free(text);
    json_decref(string);
}

static fvlm_status write_text(const char *folder, const char *name, const fvlm_text_buffer *text, fvlm_error *error)
{
    return text->failed ? fvlm_fail_memory(error) : fvlm_file_write(folder, name, text->data, text->length, error);
}

/* Learn merges until there are `tokens` tokens, and write the files. */
static fvlm_status learn(corpus *c, size_t tokens, const char *folder)
{
    uint64_t *counts = fvlm_calloc(tokens * tokens, sizeof *counts);
    fvlm_text_buffer spelled[MOST_TOKENS] = {{0}}, vocabulary = {0}, merges = {0}, added = {0}, config = {0};
    fvlm_status status = counts ? FVLM_OK : fvlm_fail_memory(&c->error);
    size_t count = 0;
    for (; count < BYTES; count++)
        fvlm_alphabet_append_character(&spelled[count], (unsigned char)count);
    fvlm_text_append_string(&merges, "#version: 0.2\n");
    for (; !status && count + SPECIALS < tokens; count++) {
        size_t pair = best_pair(c, counts, tokens), first = pair / tokens, second = pair % tokens;
        if (counts[pair] == 0) {
            status =
                fvlm_fail(&c->error, FVLM_ERROR_FORMAT, "the data has words for %zu tokens only", count + SPECIALS);
            break;
        }
        const fvlm_text_buffer *left = &spelled[first], *right = &spelled[second];
        fvlm_text_append(&spelled[count], left->data, left->length);
        fvlm_text_append(&spelled[count], right->data, right->length);
        fvlm_text_format(&merges, "%s %s\n", left->data, right->data);
        merge(c, (int)first, (int)second, (int)count);
    }
    for (size_t i = 0; i < count; i++) {
        fvlm_text_append_string(&vocabulary, i ? ",\n" : "{");
        append_token(&vocabulary, spelled[i].data, spelled[i].length);
        fvlm_text_format(&vocabulary, ": %zu", i);
    }
    fvlm_text_append_string(&vocabulary, "}\n");
    for (size_t i = 0; i < SPECIALS; i++)
        fvlm_text_format(&added, "%s\"%s\": %zu", i ? ", " : "{", specials[i], count + i);
    fvlm_text_append_string(&added, "}\n");
    if (!status)
        status = fvlm_folder_create(folder, &c->error);
    if (!status)
        status = write_text(folder, "vocab.json", &vocabulary, &c->error);
    if (!status)
        status = write_text(folder, "merges.txt", &merges, &c->error);
    if (!status)
        status = write_text(folder, "added_tokens.json", &added, &c->error);
    fvlm_text_append_string(&config,
                            "{\n  \"tokenizer_class\": \"Qwen2Tokenizer\",\n  \"pad_token\": \"<|endoftext|>\",\n"
                            "  \"eos_token\": \"<|im_end|>\",\n  \"added_tokens_decoder\": {\n");
    for (size_t i = 0; i < SPECIALS; i++)
        fvlm_text_format(&config, "    \"%zu\": {\"content\": \"%s\", \"special\": true}%s\n", count + i, specials[i],
                         i + 1 < SPECIALS ? "," : "\n  }\n}");
    if (!status)
        status = write_text(folder, "tokenizer_config.json", &config, &c->error);
    for (size_t i = 0; i < MOST_TOKENS; i++)
        fvlm_text_clear(&spelled[i]);
    fvlm_text_clear(&vocabulary);
    fvlm_text_clear(&merges);
    fvlm_text_clear(&added);
    fvlm_text_clear(&config);
    free(counts);
    return status;
}

int main(int argc, char **argv)
{
    size_t tokens = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    if (argc < 4 || tokens < BYTES + SPECIALS || tokens > MOST_TOKENS) {
        fprintf(stderr, "usage: %s TOKENS FOLDER DATA.jsonl...; %d to %d tokens\n", argv[0], BYTES + SPECIALS,
                MOST_TOKENS);
        return 2;
    }
    corpus c = {.words = fvlm_calloc(MOST_WORDS, sizeof *c.words)};
    fvlm_splitter *splitter = NULL;
    fvlm_splitter_workspace *workspace = NULL;
    fvlm_status status = c.words ? fvlm_splitter_create(&splitter, &c.error) : fvlm_fail_memory(&c.error);
    if (!status)
        status = fvlm_splitter_add(splitter, FVLM_QWEN2_PATTERN, strlen(FVLM_QWEN2_PATTERN), false, "words", &c.error);
    if (!status)
        status = fvlm_splitter_workspace_create(&workspace, &c.error);
    for (int i = 3; i < argc && !status; i++)
        status = read_data(&c, argv[i], splitter, workspace);
    for (size_t i = 0; i < c.known.id_count; i++)
        if (c.words[i].count * rarest < c.said)
            c.words[i].length = 0;
    if (!status)
        status = learn(&c, tokens, argv[2]);
    if (status)
        fprintf(stderr, "train_vocabulary: %s\n", c.error.message);
    fvlm_splitter_workspace_destroy(&workspace);
    fvlm_splitter_destroy(&splitter);
    fvlm_vocabulary_clear(&c.known);
    free(c.words);
    return status != FVLM_OK;
}
