/* The tokenizer's parts: merging, added tokens, normalisation, splitting, decoding, streaming, and what it refuses.
 * Tokenizers are written here as tokenizer.json texts: the 256 bytes in the order of the byte alphabet are ids 0 to
 * 255, what each test adds comes behind them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "text/normalize.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

#define QWEN2_SPLIT                                                                                                    \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"         \
    "\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"       \
    "\"behavior\":\"Isolated\",\"invert\":false}"

/* The parts of a tokenizer.json that differ between tests; NULL is left out or empty. */
struct recipe {
    const char *const *tokens; /* behind the bytes, NULL-terminated; spelled in the byte alphabet */
    const char *merges;        /* inside the brackets */
    const char *added;         /* inside the brackets */
    const char *normalizer, *split;
    const char *option; /* more members of the model, each with a comma behind */
    bool merges_first;
};

static void append_quoted(fvlm_text_buffer *json, const char *text, size_t bytes)
{
    fvlm_text_append_string(json, "\"");
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '"' || text[i] == '\\')
            fvlm_text_append_string(json, "\\");
        fvlm_text_append(json, text + i, 1);
    }
    fvlm_text_append_string(json, "\"");
}

static void append_vocabulary(fvlm_text_buffer *json, const char *const *tokens)
{
    fvlm_text_append_string(json, "\"vocab\":{");
    for (int byte = 0; byte < 256; byte++) {
        fvlm_text_buffer character = {0};
        fvlm_alphabet_append_character(&character, (unsigned char)byte);
        append_quoted(json, character.data, character.length);
        fvlm_text_format(json, ":%d%s", byte, byte < 255 ? "," : "");
        fvlm_text_clear(&character);
    }
    for (int i = 0; tokens && tokens[i]; i++) {
        fvlm_text_append_string(json, ",");
        append_quoted(json, tokens[i], strlen(tokens[i]));
        fvlm_text_format(json, ":%d", 256 + i);
    }
    fvlm_text_append_string(json, "}");
}

static char *write_json(const struct recipe *recipe)
{
    fvlm_text_buffer json = {0};
    fvlm_text_format(&json, "{\"version\":\"1.0\",\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,",
                     recipe->added ? recipe->added : "", recipe->normalizer ? recipe->normalizer : "null",
                     recipe->split ? recipe->split : "null");
    fvlm_text_format(&json, "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",%s",
                     recipe->option ? recipe->option : "");
    const char *merges = recipe->merges ? recipe->merges : "";
    if (recipe->merges_first)
        fvlm_text_format(&json, "\"merges\":[%s],", merges);
    append_vocabulary(&json, recipe->tokens);
    if (!recipe->merges_first)
        fvlm_text_format(&json, ",\"merges\":[%s]", merges);
    fvlm_text_append_string(&json, "}}");
    return fvlm_text_take(&json);
}

static fvlm_tokenizer *make(const struct recipe *recipe)
{
    char *json = write_json(recipe);
    fvlm_tokenizer *tokenizer;
    fvlm_error error = {0};
    if (fvlm_tokenizer_parse(json, strlen(json), "test.json", &tokenizer, &error))
        fail_msg("%s", error.message);
    free(json);
    return tokenizer;
}

/* The ids of a text, against those listed, -1 at the end. */
static void check_bytes(const fvlm_tokenizer *tokenizer, const char *text, size_t bytes, const int32_t *expected)
{
    int32_t *ids;
    size_t count, wanted = 0;
    assert_int_equal(fvlm_tokenizer_encode(tokenizer, text, bytes, &ids, &count, NULL), FVLM_OK);
    while (expected[wanted] >= 0)
        wanted++;
    assert_int_equal(count, wanted);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ids[i], expected[i]);
    fvlm_free(ids);
}

static void check(const fvlm_tokenizer *tokenizer, const char *text, const int32_t *expected)
{
    check_bytes(tokenizer, text, strlen(text), expected);
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})
#define NONE ((const int32_t[]){-1})

/* ---- merging ---- */

static const char *const merge_tokens[] = {"ab", "bc", "abc",
                                           "\xc4\xa0"
                                           "a",
                                           NULL}; /* 256.. */

static void test_merges_go_by_rank_and_place(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer =
        make(&(struct recipe){.tokens = merge_tokens, .merges = "\"b c\",\"a b\",\"ab c\",\"\xc4\xa0 a\""});
    check(tokenizer, "", NONE);
    check(tokenizer, "abc", IDS('a', 257)); /* b c ranks before a b, and "a bc" is no merge */
    check(tokenizer, "ab", IDS(256));
    check(tokenizer, "abab c", IDS(256, 256, ' ', 'c'));
    check(tokenizer, " a", IDS(259));
    fvlm_tokenizer_close(&tokenizer);
    assert_null(tokenizer);
}

static void test_merges_in_both_spellings(void **state)
{
    (void)state;
    static const char *const spellings[] = {"\"a b\",\"ab c\"", "[\"a\",\"b\"],[\"ab\",\"c\"]",
                                            "\"a b\",[\"ab\",\"c\"]", "[\"\\u0061\",\"\\u0062\"],\"ab \\u0063\""};
    for (size_t i = 0; i < 8; i++) {
        fvlm_tokenizer *tokenizer =
            make(&(struct recipe){.tokens = merge_tokens, .merges = spellings[i % 4], .merges_first = i >= 4});
        check(tokenizer, "xabc", IDS('x', 258));
        fvlm_tokenizer_close(&tokenizer);
    }
}

static void test_ignore_merges_takes_whole_words(void **state)
{
    (void)state;
    const struct recipe recipe = {.tokens = merge_tokens, .split = QWEN2_SPLIT, .option = "\"ignore_merges\":true,"};
    fvlm_tokenizer *tokenizer = make(&recipe);
    check(tokenizer, "abc ab a", IDS(258, ' ', 'a', 'b', 259));
    fvlm_tokenizer_close(&tokenizer);
}

/* What merging means, without any cleverness: the lowest rank, the leftmost of equals, until there is none. */
static size_t merge_naively(const fvlm_tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids)
{
    size_t count = bytes;
    for (size_t i = 0; i < bytes; i++)
        ids[i] = tokenizer->merges.byte_token[(unsigned char)text[i]];
    for (;;) {
        const fvlm_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++)
            for (size_t k = 0; k < tokenizer->merges.slot_count; k++) {
                const fvlm_merge *merge = &tokenizer->merges.slots[k];
                if (merge->pair == ((uint64_t)ids[i] << 32 | (uint64_t)ids[i + 1]) &&
                    (!best || merge->rank < best->rank)) {
                    best = merge;
                    at = i;
                }
            }
        if (!best)
            return count;
        ids[at] = best->id;
        memmove(ids + at + 1, ids + at + 2, (count - at - 2) * sizeof *ids);
        count--;
    }
}

/* Short words and long ones go different ways; both must do what the definition says. */
static void test_merging_is_as_defined(void **state)
{
    (void)state;
    static const char *const tokens[] = {"aa", "ab", "ba", "aab", "abab", "bb", "aaaa", "bbaa", "abb", NULL};
    static const char merges[] = "\"b a\",\"a a\",\"a b\",\"a ab\",\"ab ab\",\"b b\",\"aa aa\",\"bb aa\",\"ab b\"";
    fvlm_tokenizer *tokenizer = make(&(struct recipe){.tokens = tokens, .merges = merges});
    uint32_t random = 1;
    char text[150];
    int32_t expected[sizeof text];
    for (int round = 0; round < 60; round++) {
        size_t bytes = round < 30 ? (size_t)round + 50 : (size_t)(round * 2 + 20);
        for (size_t i = 0; i < bytes; i++) {
            random = random * 1664525u + 1013904223u;
            text[i] = random >> 30 ? 'a' : 'b';
        }
        size_t wanted = merge_naively(tokenizer, text, bytes, expected), count;
        int32_t *ids;
        assert_int_equal(fvlm_tokenizer_encode(tokenizer, text, bytes, &ids, &count, NULL), FVLM_OK);
        assert_int_equal(count, wanted);
        assert_memory_equal(ids, expected, wanted * sizeof *ids);
        fvlm_free(ids);
    }
    fvlm_tokenizer_close(&tokenizer);
}

/* A megabyte that is one word, or one run of marks in the wrong order: anything quadratic would run into the test's
 * time limit. */
static void test_long_words_take_linear_time(void **state)
{
    (void)state;
    static const char *const tokens[] = {"aa", "aaaa", "\xc4\xa0\xc4\xa0", NULL};
    fvlm_tokenizer *tokenizer = make(&(struct recipe){.tokens = tokens,
                                                      .merges = "\"a a\",\"aa aa\",\"\xc4\xa0 \xc4\xa0\"",
                                                      .normalizer = "{\"type\":\"NFC\"}",
                                                      .split = QWEN2_SPLIT});
    const size_t size = (size_t)1 << 20;
    char *text = malloc(size);
    static const struct {
        const char *first, *second;
        size_t count;
    } cases[] = {{"a", "a", 1 << 18}, {" ", " ", 1 << 19}, {"\xcc\x81", "\xcc\x96", 1 << 20}, {"1", "\n", 1 << 20}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        size_t bytes = strlen(cases[k].first), count;
        for (size_t i = 0; i < size; i += bytes)
            memcpy(text + i, i < size / 2 ? cases[k].first : cases[k].second, bytes);
        int32_t *ids;
        assert_int_equal(fvlm_tokenizer_encode(tokenizer, text, size, &ids, &count, NULL), FVLM_OK);
        assert_int_equal(count, cases[k].count);
        fvlm_free(ids);
    }
    free(text);
    fvlm_tokenizer_close(&tokenizer);
}

/* ---- added tokens ---- */

#define ADDED(id, content, flags) "{\"id\":" #id ",\"content\":\"" content "\"" flags "}"

static void test_added_tokens_come_first(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer =
        make(&(struct recipe){.tokens = merge_tokens,
                              .merges = "\"a b\"",
                              .added = ADDED(300, "<a>", ",\"special\":true") "," ADDED(
                                  301, "<a><b", ",\"normalized\":false") "," ADDED(302, "<", ",\"normalized\":false")});
    check(tokenizer, "<a>ab<a>", IDS(300, 256, 300));
    check(tokenizer, "<a><b>", IDS(301, '>')); /* the longest of those that start first */
    check(tokenizer, "<<a><c", IDS(302, 300, 302, 'c'));
    check(tokenizer, "a<a", IDS('a', 302, 'a'));
    assert_int_equal(fvlm_tokenizer_special(tokenizer, "<a>"), 300);
    assert_int_equal(fvlm_tokenizer_special(tokenizer, "<c>"), -1);
    fvlm_tokenizer_close(&tokenizer);
}

static void test_added_token_flags(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer = make(&(struct recipe){
        .normalizer = "{\"type\":\"NFC\"}",
        .added = ADDED(300, "<l>", ",\"lstrip\":true,\"special\":true") "," ADDED(
            301, "<r>",
            ",\"rstrip\":true,\"special\":true") "," ADDED(302, "w",
                                                           ",\"single_word\":true") "," ADDED(303, "e\xcc\x81",
                                                                                              ",\"normalized\":"
                                                                                              "true") "," ADDED(304,
                                                                                                                "o"
                                                                                                                "\xcc"
                                                                                                                "\x81",
                                                                                                                ","
                                                                                                                "\""
                                                                                                                "no"
                                                                                                                "rm"
                                                                                                                "al"
                                                                                                                "iz"
                                                                                                                "ed"
                                                                                                                "\""
                                                                                                                ":f"
                                                                                                                "al"
                                                                                                                "s"
                                                                                                                "e")});
    check(tokenizer, "a \xe3\x80\x80<l> b", IDS('a', 300, ' ', 'b'));
    check(tokenizer, "a <r> \n b", IDS('a', ' ', 301, 'b'));
    check(tokenizer, "<r>  <l>", IDS(301, 300)); /* the space is taken once */
    check(tokenizer, "w aw w1 w\xe2\x80\x8d -w",
          IDS(302, ' ', 'a', 'w', ' ', 'w', '1', ' ', 'w', 0xe2, 0x80, 0x8d, ' ', '-', 302));
    check(tokenizer, "\xc3\xa9 e\xcc\x81", IDS(303, ' ', 303));        /* compared after NFC */
    check(tokenizer, "\xc3\xb3 o\xcc\x81", IDS(0xc3, 0xb3, ' ', 304)); /* compared before it */
    fvlm_tokenizer_close(&tokenizer);
}

/* ---- normalising and splitting ---- */

static void check_nfc(const char *text, const char *expected)
{
    fvlm_text_buffer buffer = {0};
    assert_int_equal(fvlm_normalize_nfc(&buffer, text, strlen(text), NULL), FVLM_OK);
    assert_string_equal(buffer.data, expected);
    fvlm_text_clear(&buffer);
}

static void test_nfc(void **state)
{
    (void)state;
    check_nfc("plain \xc3\xa9", "plain \xc3\xa9");
    check_nfc("e\xcc\x81", "\xc3\xa9");
    check_nfc("e\xcc\x81\xcc\xa3", "\xe1\xba\xb9\xcc\x81"); /* the dot below sorts first and composes */
    check_nfc("a\xcc\x81\xcc\x96\xcc\x81\xcc\x96", "\xc3\xa1\xcc\x96\xcc\x96\xcc\x81"); /* stable among equals */
    check_nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81");                  /* Hangul */
    check_nfc("\xe2\x84\xa6\xf0\x9f\x98\x80", "\xce\xa9\xf0\x9f\x98\x80");              /* Ohm becomes Omega */
    check_nfc("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc");                              /* excluded from composition */
}

/* Words cannot merge across a split: tokens of two characters show where it is. */
static void test_split_pattern(void **state)
{
    (void)state;
    static const char *const tokens[] = {"ab", "1a",
                                         "\xc4\xa0"
                                         "a",
                                         "!!", NULL};
    static const char merges[] = "\"a b\",\"1 a\",\"\xc4\xa0 a\",\"! !\"";
    fvlm_tokenizer *tokenizer = make(&(struct recipe){.tokens = tokens, .merges = merges, .split = QWEN2_SPLIT});
    check(tokenizer, "ab1a", IDS(256, '1', 'a'));
    check(tokenizer, "  a!!", IDS(' ', 258, 259));
    check(tokenizer,
          "\xe1\xa0\x8e"
          "ab",
          IDS(0xe1, 0xa0, 0x8e, 256));                              /* U+180E is no white space */
    check(tokenizer, "\xe2\x80\xa8 a", IDS(0xe2, 0x80, 0xa8, 258)); /* U+2028 is */
    fvlm_tokenizer_close(&tokenizer);

    tokenizer = make(&(struct recipe){
        .tokens = tokens,
        .merges = merges,
        .split = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"String\":\"b1\"},"
                 "\"behavior\":\"Isolated\"},{\"type\":\"Split\",\"pattern\":{\"Regex\":\"!\"},\"behavior\":"
                 "\"Isolated\"},{\"type\":\"ByteLevel\",\"use_regex\":false}]}"});
    check(tokenizer, "ab1a!!", IDS('a', 'b', '1', 'a', '!', '!')); /* what no match covers is a word too */
    check(tokenizer, "1ab", IDS('1', 256));
    fvlm_tokenizer_close(&tokenizer);
}

/* U+31350 is a letter and U+1E4F0 a digit since Unicode 15, whichever PCRE2 knows: they are one word with what
 * follows, so that their last byte merges with it. */
static void test_split_pattern_knows_new_letters(void **state)
{
    (void)state;
    static const char *const tokens[] = {"\xc4\xb2"
                                         "a",
                                         "\xc2\xb0"
                                         "1",
                                         NULL}; /* 90 61 and b0 31 */
    fvlm_tokenizer *tokenizer = make(&(struct recipe){
        .tokens = tokens,
        .merges = "\"\xc4\xb2 a\",\"\xc2\xb0 1\"",
        .split = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{L}+|[x\\\\p{N}]+\"},\"behavior\":\"Isolated\"}"});
    check(tokenizer,
          "\xf0\xb1\x8d\x90"
          "a",
          IDS(0xf0, 0xb1, 0x8d, 256));
    check(tokenizer,
          "\xf0\x9e\x93\xb0"
          "1",
          IDS(0xf0, 0x9e, 0x93, 257));
    fvlm_tokenizer_close(&tokenizer);
}

/* ---- bytes and text ---- */

static void test_ill_formed_text_is_replaced(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer = make(&(struct recipe){.added = ADDED(300, "<a>", ",\"special\":true")});
    check(tokenizer, "a\xff<a>", IDS('a', 0xef, 0xbf, 0xbd, 300));
    check_bytes(tokenizer, "\xe4\xb8", 2, IDS(0xef, 0xbf, 0xbd));
    check_bytes(tokenizer, "a\0b", 3, IDS('a', 0, 'b'));
    fvlm_tokenizer_close(&tokenizer);
}

/* Expected values are Python's bytes.decode("utf-8", errors="replace"). */
static void test_replacement_takes_maximal_subparts(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"a\xc3\xa9z", "a\xc3\xa9z"},
        {"\x80\xbf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x82"
         "a",
         "\xef\xbf\xbd"
         "a"},
        {"\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98"
         "b",
         "\xef\xbf\xbd"
         "b"},
        {"\xf0\x8f\xbf\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x8f\xbf\xbf\xf5", "\xf4\x8f\xbf\xbf\xef\xbf\xbd"},
        {"\xe4\xb8\xe4\xb8\xad\xf0\x9f", "\xef\xbf\xbd\xe4\xb8\xad\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fvlm_text_buffer text = {0};
        size_t bytes = strlen(cases[i].bytes);
        assert_int_equal(fvlm_utf8_append_replaced(&text, cases[i].bytes, bytes, true), bytes);
        assert_string_equal(text.data, cases[i].text);
        assert_int_equal(fvlm_utf8_valid(cases[i].bytes, bytes), strcmp(cases[i].bytes, cases[i].text) == 0);
        fvlm_text_clear(&text);
    }
}

static void test_decode(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer = make(&(struct recipe){
        .tokens = merge_tokens,
        .added = ADDED(300, "<a>", ",\"special\":true") "," ADDED(301, "<b>", "") "," ADDED(302, "\xe4\xbd\xa0", "")});
    char *text;
    size_t bytes;
    const int32_t ids[] = {300, 259, 301, 0xe4, 0xb8, 300, 0xad, 302, 299, -5, 1 << 30, 0, 0xe4};
    assert_int_equal(fvlm_tokenizer_decode(tokenizer, ids, 13, false, &text, NULL, NULL), FVLM_OK);
    assert_string_equal(text, "<a> a<b>\xef\xbf\xbd<a>\xef\xbf\xbd\xe4\xbd\xa0"); /* and a NUL behind */
    fvlm_free(text);
    assert_int_equal(fvlm_tokenizer_decode(tokenizer, ids, 13, true, &text, &bytes, NULL), FVLM_OK);
    static const char expected[] = " a<b>\xe4\xb8\xad\xe4\xbd\xa0\0\xef\xbf\xbd"; /* special ones leave no gap */
    assert_int_equal(bytes, sizeof expected - 1);
    assert_memory_equal(text, expected, sizeof expected);
    fvlm_free(text);
    assert_int_equal(fvlm_tokenizer_decode(tokenizer, NULL, 0, true, &text, &bytes, NULL), FVLM_OK);
    assert_string_equal(text, "");
    fvlm_free(text);
    fvlm_tokenizer_close(&tokenizer);
}

static void test_stream_holds_back_unfinished_characters(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer = make(&(struct recipe){.added = ADDED(300, "<a>", ",\"special\":true")});
    static const struct {
        int32_t token; /* -1: the end */
        const char *text;
    } steps[] = {{'a', "a"},
                 {0xe4, ""},
                 {0xb8, ""},
                 {0xad, "\xe4\xb8\xad"},
                 {0xf0, ""},
                 {300, ""},
                 {0x9f, ""},
                 {'b', "\xef\xbf\xbd"
                       "b"},
                 {0xff, "\xef\xbf\xbd"},
                 {0xc3, ""},
                 {-1, "\xef\xbf\xbd"},
                 {-1, ""}};
    fvlm_detokenizer *detokenizer;
    assert_int_equal(fvlm_detokenizer_create(tokenizer, &detokenizer, NULL), FVLM_OK);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const char *text;
        size_t bytes;
        if (steps[i].token < 0)
            assert_int_equal(fvlm_detokenizer_finish(detokenizer, &text, &bytes, NULL), FVLM_OK);
        else
            assert_int_equal(fvlm_detokenizer_add(detokenizer, steps[i].token, &text, &bytes, NULL), FVLM_OK);
        assert_int_equal(bytes, strlen(steps[i].text));
        assert_string_equal(text, steps[i].text);
    }
    fvlm_detokenizer_destroy(&detokenizer);
    assert_null(detokenizer);
    fvlm_tokenizer_close(&tokenizer);
}

/* ---- what is refused ---- */

static void refuse(const char *json, size_t bytes, fvlm_status status, const char *words)
{
    fvlm_tokenizer *tokenizer;
    fvlm_error error = {0};
    assert_int_equal(fvlm_tokenizer_parse(json, bytes, "bad.json", &tokenizer, &error), status);
    assert_null(tokenizer);
    assert_int_equal(error.code, status);
    if (!strstr(error.message, "bad.json") || !strstr(error.message, words))
        fail_msg("\"%s\" says nothing of \"%s\"", error.message, words);
}

static void refuse_recipe(const struct recipe *recipe, fvlm_status status, const char *words)
{
    char *json = write_json(recipe);
    refuse(json, strlen(json), status, words);
    free(json);
}

static const char *const repeated_token[] = {"x", NULL}, *const empty_token[] = {"", NULL};

static void test_unknown_components_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct recipe recipe;
        fvlm_status status;
        const char *words;
    } cases[] = {
        {{.normalizer = "{\"type\":\"Lowercase\"}"}, FVLM_ERROR_UNSUPPORTED, "Lowercase"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":7}"}, FVLM_ERROR_UNSUPPORTED, "Sequence"},
        {{.normalizer = "{}"}, FVLM_ERROR_UNSUPPORTED, "without a type"},
        {{.split = "{\"type\":\"Metaspace\"}"}, FVLM_ERROR_UNSUPPORTED, "Metaspace"},
        {{.split = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"}, FVLM_ERROR_UNSUPPORTED, "add_prefix_space"},
        {{.split = "{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":\"Removed\"}"},
         FVLM_ERROR_UNSUPPORTED,
         "behavior"},
        {{.split = "{\"type\":\"Split\",\"behavior\":\"Isolated\"}"}, FVLM_ERROR_FORMAT, "pattern"},
        {{.split = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}"},
         FVLM_ERROR_UNSUPPORTED,
         "\"(\""},
        {{.split = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a[b]]\"},\"behavior\":\"Isolated\"}"},
         FVLM_ERROR_UNSUPPORTED,
         "class"},
        {{.option = "\"dropout\":0.1,"}, FVLM_ERROR_UNSUPPORTED, "dropout"},
        {{.option = "\"byte_fallback\":true,"}, FVLM_ERROR_UNSUPPORTED, "byte_fallback"},
        {{.merges = "\"a b\""}, FVLM_ERROR_FORMAT, "\"ab\""},
        {{.merges = "\"ab\""}, FVLM_ERROR_FORMAT, "\"ab\""},
        {{.merges = "\"a b c\""}, FVLM_ERROR_FORMAT, "\"a b c\""},
        {{.merges = "[\"a\"]"}, FVLM_ERROR_FORMAT, "fewer"},
        {{.tokens = merge_tokens, .merges = "[\"a\",\"b\",\"c\"]"}, FVLM_ERROR_FORMAT, "more than two"},
        {{.merges = "7"}, FVLM_ERROR_FORMAT, "expected an array"},
        {{.tokens = repeated_token}, FVLM_ERROR_FORMAT, "listed twice"},
        {{.tokens = empty_token}, FVLM_ERROR_FORMAT, "empty"},
        {{.added = "7"}, FVLM_ERROR_FORMAT, "added token"},
        {{.added = ADDED(-1, "x", "")}, FVLM_ERROR_FORMAT, "out of range"},
        {{.added = ADDED(300, "x", "") "," ADDED(300, "y", "")}, FVLM_ERROR_FORMAT, "300"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse_recipe(&cases[i].recipe, cases[i].status, cases[i].words);
}

static void test_malformed_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"", "expected an object"},
        {"[]", "expected an object"},
        {"{}", "no \"model\""},
        {"{\"model\":{}}", "\"vocab\""},
        {"{\"model\":{\"vocab\":{},\"merges\":[]}}", "\"decoder\""},
        {"{\"model\":{\"vocab\":{\"a\":-1}}}", "out of range"},
        {"{\"model\":{\"vocab\":{\"a\":99999999999}}}", "out of range"},
        {"{\"model\":{\"vocab\":{\"a\":1.5}}}", "integer"},
        {"{\"model\":{\"vocab\":{\"a\":1,\"b\":1}}}", "id 1"},
        {"{\"model\":{\"vocab\":{\"a\":1,}}}", "expected a string"},
        {"{\"model\":{\"vocab\":{},\"vocab\":{}}}", "second vocabulary"},
        {"{\"decoder\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"}}", "twice"},
        {"{\"version\":\"\\ud800\"}", "surrogate"},
        {"{\"version\":\"\xff\"}", "UTF-8"},
        {"{\"version\":\"\n\"}", "control character"},
        {"{\"version\":\"\\x\"}", "escape"},
        {"{\"version\":01}", "number"},
        {"{\"version\":tru}", "value"},
        {"{\"version\":", "ends too early"},
        {"{\"version\":1} x", "byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse(cases[i].json, strlen(cases[i].json), FVLM_ERROR_FORMAT, cases[i].words);

    char deep[4096];
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"version\":", 11);
    refuse(deep, sizeof deep, FVLM_ERROR_FORMAT, "too deep");
}

/* Cut anywhere, a good file is an error that is reported as one. */
static void test_truncation_at_every_byte(void **state)
{
    (void)state;
    char *json = write_json(&(struct recipe){.tokens = merge_tokens,
                                             .merges = "\"a b\",[\"ab\",\"c\"]",
                                             .added = ADDED(300, "<a>", ",\"special\":true"),
                                             .normalizer = "{\"type\":\"NFC\"}",
                                             .split = QWEN2_SPLIT});
    size_t size = strlen(json);
    for (size_t bytes = 0; bytes < size; bytes++) {
        char *copy = malloc(bytes ? bytes : 1); /* exactly as long, for the sanitizer to watch over */
        memcpy(copy, json, bytes);
        fvlm_tokenizer *tokenizer;
        fvlm_error error = {0};
        assert_int_equal(fvlm_tokenizer_parse(copy, bytes, "cut.json", &tokenizer, &error), FVLM_ERROR_FORMAT);
        assert_non_null(strstr(error.message, "cut.json"));
        free(copy);
    }
    free(json);
}

/* A pattern that backtracks without end is stopped, and said to be at fault. */
static void test_hostile_pattern_is_stopped(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer = make(&(struct recipe){
        .split = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:(?:a+)+b|(?:a|aa)+c)\"},\"behavior\":\"Isolated\"}"});
    static const char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    int32_t *ids;
    size_t count;
    fvlm_error error;
    assert_int_equal(fvlm_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &count, &error), FVLM_ERROR_LIMIT);
    assert_null(ids);
    assert_non_null(strstr(error.message, "split pattern"));
    fvlm_tokenizer_close(&tokenizer);
}

static void test_missing_folder(void **state)
{
    (void)state;
    fvlm_tokenizer *tokenizer;
    fvlm_error error;
    assert_int_equal(fvlm_tokenizer_open("no such folder", &tokenizer, &error), FVLM_ERROR_IO);
    assert_null(tokenizer);
    assert_non_null(strstr(error.message, "no such folder"));
    assert_non_null(strstr(error.message, "tokenizer.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_go_by_rank_and_place),
        cmocka_unit_test(test_merges_in_both_spellings),
        cmocka_unit_test(test_ignore_merges_takes_whole_words),
        cmocka_unit_test(test_merging_is_as_defined),
        cmocka_unit_test(test_long_words_take_linear_time),
        cmocka_unit_test(test_added_tokens_come_first),
        cmocka_unit_test(test_added_token_flags),
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_split_pattern),
        cmocka_unit_test(test_split_pattern_knows_new_letters),
        cmocka_unit_test(test_ill_formed_text_is_replaced),
        cmocka_unit_test(test_replacement_takes_maximal_subparts),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_stream_holds_back_unfinished_characters),
        cmocka_unit_test(test_unknown_components_are_refused),
        cmocka_unit_test(test_malformed_files_are_refused),
        cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_hostile_pattern_is_stopped),
        cmocka_unit_test(test_missing_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
