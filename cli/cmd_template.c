/* fastvlm template: the prompt that a chat template makes of a conversation. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "command.h"
#include "fastvlm/text.h"
#include "jsonl.h"
#include "options.h"
#include "output.h"

static char *prompt_text;
static int as_json, as_lines, list_names;

static const struct poptOption table[] = {
    {"prompt", 'p', POPT_ARG_STRING, &prompt_text, 0, "The user's words", "TEXT"},
    {"list", '\0', POPT_ARG_NONE, &list_names, 0, "Print the names of the built-in templates", NULL},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object: prompt", NULL},
    {"jsonl", '\0', POPT_ARG_NONE, &as_lines, 0,
     "Read {\"template\": ..., \"turns\": [[\"u\", ...], [\"a\", null]]} lines, print {\"prompt\": ...} for each",
     NULL},
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {.command = "template",
                                .arguments = "--prompt TEXT [OPTION...]",
                                .about = "print the prompt that a chat template makes, followed by a newline",
                                .example = "  fastvlm template --template qwen_2 --prompt \"What is this?\"\n"
                                           "  fastvlm template --jsonl < conversations.jsonl"};

/* "user", "assistant", or NULL for a role nobody knows. */
static const char *role_name(const char *role)
{
    static const char *const user[] = {"u", "user", "human"}, *const assistant[] = {"a", "assistant", "gpt"};
    for (size_t i = 0; role && i < 3; i++) {
        if (strcmp(role, user[i]) == 0)
            return "user";
        if (strcmp(role, assistant[i]) == 0)
            return "assistant";
    }
    return NULL;
}

static fvlm_status read_turn(const json_t *item, size_t index, fvlm_turn *turn, fvlm_error *error)
{
    const json_t *text = json_array_get(item, 1);
    turn->role = role_name(json_string_value(json_array_get(item, 0)));
    turn->text = json_string_value(text);
    if (json_array_size(item) != 2 || !turn->role || (!turn->text && !json_is_null(text)))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "turn %zu is not [\"u\" or \"a\", text or null]", index + 1);
    if (turn->text && strlen(turn->text) != json_string_length(text))
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "turn %zu has a NUL character", index + 1);
    return FVLM_OK;
}

static json_t *answer_line(const json_t *request, void *unused, fvlm_error *error)
{
    (void)unused;
    const json_t *name = json_object_get(request, "template"), *system = json_object_get(request, "system");
    const json_t *list = json_object_get(request, "turns");
    size_t count = json_array_size(list);
    if (count == 0 || (name && !json_is_string(name) && !json_is_null(name)) ||
        (system && !json_is_string(system) && !json_is_null(system))) {
        fvlm_fail(error, FVLM_ERROR_FORMAT,
                  "need \"turns\", a list of [role, text], and \"template\" and \"system\", texts, where present");
        return NULL;
    }
    fvlm_turn *turns = fvlm_calloc(count, sizeof *turns);
    fvlm_status status = turns ? FVLM_OK : fvlm_fail_memory(error);
    for (size_t i = 0; status == FVLM_OK && i < count; i++)
        status = read_turn(json_array_get(list, i), i, &turns[i], error);
    char *prompt = NULL;
    json_t *reply = NULL;
    if (status == FVLM_OK)
        status = fvlm_template_render(name && json_is_string(name) ? json_string_value(name) : cli_prompt.template_name,
                                      system && json_is_string(system) ? json_string_value(system) : cli_prompt.system,
                                      turns, count, &prompt, error);
    if (status == FVLM_OK && !(reply = json_pack("{so}", "prompt", cli_json_text(prompt))))
        fvlm_fail_memory(error);
    fvlm_free(prompt);
    free(turns);
    return reply;
}

static int print_names(void)
{
    size_t count;
    const char *const *names = fvlm_template_names(&count);
    json_t *list = as_json ? json_array() : NULL;
    for (size_t i = 0; i < count; i++) {
        if (as_json)
            json_array_append_new(list, json_string(names[i]));
        else
            cli_print("%s\n", names[i]);
    }
    return as_json ? cli_print_json(json_pack("{so}", "templates", list)) : CLI_DONE;
}

int cmd_template(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (list_names)
        return print_names();
    if (as_lines)
        return cli_jsonl_run(answer_line, NULL);
    if (!prompt_text)
        return cli_usage_error(&usage, "--prompt is missing");

    fvlm_error error;
    char *prompt;
    const fvlm_turn turns[] = {{"user", prompt_text}, {"assistant", NULL}};
    if (fvlm_template_render(cli_prompt.template_name, cli_prompt.system, turns, 2, &prompt, &error))
        return cli_fail(&error);
    code = CLI_DONE;
    if (as_json)
        code = cli_print_json(json_pack("{so}", "prompt", cli_json_text(prompt)));
    else
        cli_print("%s\n", prompt);
    fvlm_free(prompt);
    return code;
}
