/* Patterns run on PCRE2 with its JIT, each match tried at the place where the last one ended. They are written for
 * Oniguruma, from which PCRE2 10.42 differs in two ways that matter, so that they are translated:
 *
 *     \s, \S         PCRE2's in Unicode mode also take U+180E; the property White_Space is what is meant
 *     \p{L}, \p{N}   PCRE2 10.42 knows Unicode 14; what 15 and 16 added is named beside them
 *
 * PCRE2_ANCHORED is given when compiling: given when matching it would lose the JIT. */
#include "text/splitter.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

/* Letters and numbers that Unicode 15.0 to 16.0 added, as members of a character class. */
static const char new_letters[] =
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}"
    "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}"
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
static const char new_numbers[] = "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
                                  "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
                                  "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

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

/* Append the escape at pattern[at], a backslash, as PCRE2 is to see it; returns its length. */
static size_t translate_escape(fvlm_text_buffer *out, const char *pattern, size_t bytes, size_t at, bool in_class)
{
    static const char letters[] = "\\p{L}", numbers[] = "\\p{N}";
    const char *escape = pattern + at;
    size_t left = bytes - at;
    bool letter = left >= sizeof letters - 1 && memcmp(escape, letters, sizeof letters - 1) == 0;
    bool number = left >= sizeof numbers - 1 && memcmp(escape, numbers, sizeof numbers - 1) == 0;
    if (letter || number) {
        fvlm_text_append_string(out, in_class ? "" : "[");
        fvlm_text_append_string(out, letter ? letters : numbers);
        fvlm_text_append_string(out, letter ? new_letters : new_numbers);
        fvlm_text_append_string(out, in_class ? "" : "]");
        return sizeof letters - 1;
    }
    size_t length = left < 2 ? left : 2;
    if (length == 2 && escape[1] == 's')
        fvlm_text_append_string(out, "\\p{White_Space}");
    else if (length == 2 && escape[1] == 'S')
        fvlm_text_append_string(out, "\\P{White_Space}");
    else
        fvlm_text_append(out, escape, length);
    return length;
}

/* False when the pattern has a character class that the two libraries read differently: one inside another, an
 * intersection, an empty one. */
static bool translate(fvlm_text_buffer *out, const char *pattern, size_t bytes)
{
    bool in_class = false;
    for (size_t i = 0; i < bytes;) {
        if (pattern[i] == '\\') {
            i += translate_escape(out, pattern, bytes, i, in_class);
            continue;
        }
        char next = i + 1 < bytes ? pattern[i + 1] : '\0';
        if (in_class && (pattern[i] == '[' || (pattern[i] == '&' && next == '&')))
            return false;
        if (pattern[i] == '[') {
            if (next == ']' || (next == '^' && i + 2 < bytes && pattern[i + 2] == ']'))
                return false;
            in_class = true;
        } else if (pattern[i] == ']') {
            in_class = false;
        }
        fvlm_text_append(out, pattern + i++, 1);
    }
    return true;
}

static fvlm_status cannot_use(const char *name, const char *pattern, size_t bytes, const char *reason,
                              fvlm_error *error)
{
    return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: cannot use the split pattern \"%.*s\": %s", name,
                     bytes < 200 ? (int)bytes : 200, pattern, reason);
}

/* Compile `translated` as the splitter's next pattern; `pattern` is how the file spells it. */
static fvlm_status compile(fvlm_splitter *splitter, const fvlm_text_buffer *translated, bool literal, const char *name,
                           const char *pattern, size_t bytes, fvlm_error *error)
{
    uint32_t options = PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK;
    options |= literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    int problem;
    PCRE2_SIZE at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)translated->data, translated->length, options, &problem, &at, NULL);
    if (!code) {
        PCRE2_UCHAR reason[128] = "";
        pcre2_get_error_message(problem, reason, sizeof reason);
        return cannot_use(name, pattern, bytes, (const char *)reason, error);
    }
    /* Where there is no JIT the interpreter does the same, slower. */
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    splitter->patterns[splitter->count++] = code;
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
    fvlm_status status = FVLM_OK;
    if (literal)
        fvlm_text_append(&translated, pattern, bytes);
    else if (!translate(&translated, pattern, bytes))
        status = cannot_use(name, pattern, bytes, "a character class in it is not supported", error);
    fvlm_text_append(&translated, "", 0);
    if (!status && translated.failed)
        status = fvlm_fail_memory(error);
    if (!status)
        status = compile(splitter, &translated, literal, name, pattern, bytes, error);
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
