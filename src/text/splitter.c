/* Patterns run on PCRE2 with its JIT, each match tried at the place where the last one ended. They are written for
 * Oniguruma; the difference that matters is white space: PCRE2's \s in Unicode mode also takes U+180E, so \s and \S
 * are replaced by the property White_Space, which is what Oniguruma's mean. PCRE2_ANCHORED is given when compiling:
 * given when matching it would lose the JIT. */
#include "text/splitter.h"

#include <stdint.h>
#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/memory.h"
#include "base/text_buffer.h"
#include "text/utf8.h"

#define MAX_PATTERN ((size_t)64 << 10) /* bytes */
/* Steps of one match. Qwen2's pattern takes two or three for each character; a hostile one ends here. */
#define MATCH_LIMIT 20000000u
#define HEAP_LIMIT_KB (64u << 10)
#define JIT_STACK_START ((size_t)32 << 10)
#define JIT_STACK_MAX ((size_t)8 << 20)

struct fvlm_splitter {
    pcre2_code *patterns[FVLM_SPLITTER_PATTERNS];
    size_t count;
};

struct fvlm_splitter_workspace {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

fvlm_status fvlm_splitter_create(fvlm_splitter **splitter, fvlm_error *error)
{
    *splitter = fvlm_calloc(1, sizeof **splitter);
    return *splitter ? FVLM_OK : fvlm_fail_memory(error);
}

void fvlm_splitter_destroy(fvlm_splitter **splitter)
{
    if (!*splitter)
        return;
    for (size_t i = 0; i < (*splitter)->count; i++)
        pcre2_code_free((*splitter)->patterns[i]);
    free(*splitter);
    *splitter = NULL;
}

static void translate(fvlm_text_buffer *out, const char *pattern, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (pattern[i] != '\\' || i + 1 == bytes) {
            fvlm_text_append(out, pattern + i, 1);
            continue;
        }
        char next = pattern[++i];
        if (next == 's')
            fvlm_text_append_string(out, "\\p{White_Space}");
        else if (next == 'S')
            fvlm_text_append_string(out, "\\P{White_Space}");
        else
            fvlm_text_append(out, pattern + i - 1, 2);
    }
}

static fvlm_status compile(const char *pattern, size_t bytes, bool literal, const char *name, pcre2_code **code,
                           fvlm_error *error)
{
    uint32_t options = PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK;
    options |= literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    int problem;
    PCRE2_SIZE at;
    *code = pcre2_compile((PCRE2_SPTR)pattern, bytes, options, &problem, &at, NULL);
    if (!*code) {
        PCRE2_UCHAR reason[128] = "";
        pcre2_get_error_message(problem, reason, sizeof reason);
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: cannot use the split pattern \"%.*s\": %s", name,
                         bytes < 200 ? (int)bytes : 200, pattern, (const char *)reason);
    }
    /* Where there is no JIT the interpreter does the same, slower. */
    (void)pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE);
    return FVLM_OK;
}

fvlm_status fvlm_splitter_add(fvlm_splitter *splitter, const char *pattern, size_t bytes, bool literal,
                              const char *name, fvlm_error *error)
{
    if (splitter->count == FVLM_SPLITTER_PATTERNS)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: more than %d split patterns", name, FVLM_SPLITTER_PATTERNS);
    if (bytes > MAX_PATTERN)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: a split pattern of %zu bytes", name, bytes);
    fvlm_text_buffer translated = {0};
    if (literal)
        fvlm_text_append(&translated, pattern, bytes);
    else
        translate(&translated, pattern, bytes);
    fvlm_text_append(&translated, "", 0);
    fvlm_status status = translated.failed ? fvlm_fail_memory(error)
                                           : compile(translated.data, translated.length, literal, name,
                                                     &splitter->patterns[splitter->count], error);
    if (!status)
        splitter->count++;
    fvlm_text_clear(&translated);
    return status;
}

fvlm_status fvlm_splitter_workspace_create(fvlm_splitter_workspace **workspace, fvlm_error *error)
{
    fvlm_splitter_workspace *made = fvlm_calloc(1, sizeof *made);
    *workspace = made;
    if (!made)
        return fvlm_fail_memory(error);
    made->match = pcre2_match_data_create(1, NULL);
    made->context = pcre2_match_context_create(NULL);
    made->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL); /* NULL where there is no JIT */
    if (!made->match || !made->context) {
        fvlm_splitter_workspace_destroy(workspace);
        return fvlm_fail_memory(error);
    }
    pcre2_set_match_limit(made->context, MATCH_LIMIT);
    pcre2_set_heap_limit(made->context, HEAP_LIMIT_KB);
    if (made->stack)
        pcre2_jit_stack_assign(made->context, NULL, made->stack);
    return FVLM_OK;
}

void fvlm_splitter_workspace_destroy(fvlm_splitter_workspace **workspace)
{
    if (!*workspace)
        return;
    pcre2_match_data_free((*workspace)->match);
    pcre2_match_context_free((*workspace)->context);
    pcre2_jit_stack_free((*workspace)->stack);
    free(*workspace);
    *workspace = NULL;
}

struct split {
    const fvlm_splitter *splitter;
    fvlm_splitter_workspace *workspace;
    fvlm_piece_fn take;
    void *user;
    fvlm_error *error;
};

static fvlm_status split_from(const struct split *split, size_t pattern, const char *text, size_t bytes);

/* The end of the match at `at`, or 0 when there is none (or an empty one, which cuts nothing). */
static fvlm_status match_at(const struct split *split, size_t pattern, const char *text, size_t bytes, size_t at,
                            size_t *end)
{
    fvlm_splitter_workspace *workspace = split->workspace;
    int found = pcre2_match(split->splitter->patterns[pattern], (PCRE2_SPTR)text, bytes, at, PCRE2_NO_UTF_CHECK,
                            workspace->match, workspace->context);
    *end = 0;
    if (found == PCRE2_ERROR_NOMATCH)
        return FVLM_OK;
    if (found == PCRE2_ERROR_NOMEMORY)
        return fvlm_fail_memory(split->error);
    if (found < 0)
        return fvlm_fail(split->error, FVLM_ERROR_LIMIT,
                         "the tokenizer's split pattern takes too many steps on this text (PCRE2 error %d)", found);
    size_t after = pcre2_get_ovector_pointer(workspace->match)[1];
    *end = after > at ? after : 0;
    return FVLM_OK;
}

static fvlm_status piece(const struct split *split, size_t pattern, const char *text, size_t bytes)
{
    return bytes ? split_from(split, pattern + 1, text, bytes) : FVLM_OK;
}

/* Cut by patterns [pattern, count); depth is at most FVLM_SPLITTER_PATTERNS. */
static fvlm_status split_from(const struct split *split, size_t pattern, const char *text, size_t bytes)
{
    if (pattern == split->splitter->count)
        return split->take(split->user, text, bytes) ? FVLM_OK : fvlm_fail_memory(split->error);
    size_t gap = 0; /* start of what no match has covered */
    for (size_t at = 0; at < bytes;) {
        size_t end;
        fvlm_status status = match_at(split, pattern, text, bytes, at, &end);
        if (status)
            return status;
        if (!end) {
            int32_t character;
            at += fvlm_utf8_next(text + at, bytes - at, &character);
            continue;
        }
        status = piece(split, pattern, text + gap, at - gap);
        if (!status)
            status = piece(split, pattern, text + at, end - at);
        if (status)
            return status;
        gap = at = end;
    }
    return piece(split, pattern, text + gap, bytes - gap);
}

fvlm_status fvlm_splitter_run(const fvlm_splitter *splitter, fvlm_splitter_workspace *workspace, const char *text,
                              size_t bytes, fvlm_piece_fn take, void *user, fvlm_error *error)
{
    struct split split = {splitter, workspace, take, user, error};
    return bytes ? split_from(&split, 0, text, bytes) : FVLM_OK;
}
