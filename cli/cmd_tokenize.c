/* fastvlm tokenize: token ids of a text, by the tokenizer of a checkpoint. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "command.h"
#include "fastvlm/text.h"
#include "jsonl.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

enum { MAX_TEXT_BYTES = 256 << 20 };

static char *text_option;
static int as_json, as_lines;

/* Of the model's options only --model matters here. */
static const struct poptOption table[] = {
    {"model", 'm', POPT_ARG_STRING, &cli_model.model, 0,
     "Folder with a tokenizer, a GGUF file, or a name that `fastvlm models` lists (default: nano, the built-in model)",
     "MODEL"},
    {"model-path", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &cli_model.model, 0, NULL, NULL},
    {"text", '\0', POPT_ARG_STRING, &text_option, 0, "The text (default: all of standard input)", "TEXT"},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object: ids, decoded, decoded_skip_special", NULL},
    {"jsonl", '\0', POPT_ARG_NONE, &as_lines, 0, "Read {\"text\": ...} lines, print an object for each", NULL},
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {.command = "tokenize",
                                .arguments = "[TEXT] [OPTION...]",
                                .about = "print the token ids of a text",
                                .example = "  fastvlm tokenize --model ./checkpoint \"Hello, world!\"\n"
                                           "  fastvlm tokenize --model ./checkpoint --jsonl < texts.jsonl"};

/* The tokenizer alone, without the weights. */
static fvlm_status open_tokenizer(fvlm_tokenizer **tokenizer, fvlm_error *error)
{
    char *path = NULL;
    *tokenizer = NULL;
    fvlm_status status = cli_model_path(cli_model.model, &path, error);
    if (status == FVLM_OK)
        status = fvlm_tokenizer_open(path, tokenizer, error);
    free(path);
    return status;
}

static json_t *tokenize_json(const fvlm_tokenizer *tokenizer, const char *text, size_t bytes, fvlm_error *error)
{
    int32_t *ids = NULL;
    size_t count = 0, decoded_bytes, plain_bytes;
    char *decoded = NULL, *plain = NULL;
    json_t *reply = NULL;
    fvlm_status status = fvlm_tokenizer_encode(tokenizer, text, bytes, &ids, &count, error);
    if (status == FVLM_OK)
        status = fvlm_tokenizer_decode(tokenizer, ids, count, false, &decoded, &decoded_bytes, error);
    if (status == FVLM_OK)
        status = fvlm_tokenizer_decode(tokenizer, ids, count, true, &plain, &plain_bytes, error);
    if (status == FVLM_OK) {
        reply =
            json_pack("{so so so}", "ids", cli_json_tokens(ids, count), "decoded", json_stringn(decoded, decoded_bytes),
                      "decoded_skip_special", json_stringn(plain, plain_bytes));
        if (!reply)
            fvlm_fail_memory(error);
    }
    fvlm_free(ids);
    fvlm_free(decoded);
    fvlm_free(plain);
    return reply;
}

static json_t *answer_line(const json_t *request, void *user, fvlm_error *error)
{
    const json_t *text = json_object_get(request, "text");
    if (!json_is_string(text)) {
        fvlm_fail(error, FVLM_ERROR_FORMAT, "\"text\" is missing or not a string");
        return NULL;
    }
    return tokenize_json(user, json_string_value(text), json_string_length(text), error);
}

static fvlm_status print_ids(const fvlm_tokenizer *tokenizer, const char *text, size_t bytes, fvlm_error *error)
{
    int32_t *ids;
    size_t count;
    fvlm_status status = fvlm_tokenizer_encode(tokenizer, text, bytes, &ids, &count, error);
    if (status)
        return status;
    for (size_t i = 0; i < count; i++)
        cli_print(i ? " %d" : "%d", (int)ids[i]);
    cli_print("\n");
    fvlm_free(ids);
    return FVLM_OK;
}

int cmd_tokenize(int argc, const char **argv)
{
    int code;
    const char *const *arguments;
    if (!cli_parse(&usage, table, argc, argv, &arguments, &code))
        return code;
    const char *text = text_option ? text_option : arguments[0];
    if (arguments[0] && (text_option || arguments[1]))
        return cli_usage_error(&usage, "give one text (in quotes where it has spaces)");
    if (as_lines && text)
        return cli_usage_error(&usage, "--jsonl takes its texts from standard input, not from the command line");

    fvlm_error error;
    fvlm_tokenizer *tokenizer;
    if (open_tokenizer(&tokenizer, &error))
        return cli_fail(&error);
    char *input = NULL;
    size_t bytes = text ? strlen(text) : 0;
    fvlm_status status = FVLM_OK;
    code = CLI_DONE;
    if (as_lines) {
        code = cli_jsonl_run(answer_line, tokenizer);
    } else {
        if (!text) {
            status = fvlm_file_read("-", MAX_TEXT_BYTES, &input, &bytes, &error);
            text = input;
        }
        json_t *object = NULL;
        if (status == FVLM_OK && as_json && !(object = tokenize_json(tokenizer, text, bytes, &error)))
            status = error.code;
        else if (status == FVLM_OK && as_json)
            code = cli_print_json(object);
        else if (status == FVLM_OK)
            status = print_ids(tokenizer, text, bytes, &error);
    }
    if (status)
        code = cli_fail(&error);
    free(input);
    fvlm_tokenizer_close(&tokenizer);
    return code;
}
