/* Reads lines of any length up to a limit, parses each and prints its answer. */
#include "jsonl.h"

#include <stdbool.h>
#include <stdio.h>

#include "base/text_buffer.h"
#include "command.h"
#include "output.h"

enum { LONGEST_LINE = 64 << 20 };

/* The next line without its newline; false at the end. A line over the limit is cut there, and *cut says so. */
static bool read_line(fvlm_text_buffer *line, bool *cut)
{
    line->length = 0;
    *cut = false;
    char block[4096];
    size_t used = 0;
    int c;
    while ((c = getc(stdin)) != EOF && c != '\n') {
        block[used++] = (char)c;
        if (used == sizeof block) {
            if (line->length > LONGEST_LINE)
                *cut = true;
            else
                fvlm_text_append(line, block, used);
            used = 0;
        }
    }
    fvlm_text_append(line, block, used);
    return c != EOF || line->length > 0;
}

static bool is_blank(const fvlm_text_buffer *line)
{
    for (size_t i = 0; i < line->length; i++)
        if (line->data[i] != ' ' && line->data[i] != '\t' && line->data[i] != '\r')
            return false;
    return true;
}

int cli_jsonl_run(cli_line_fn answer, void *user)
{
    fvlm_text_buffer line = {0};
    unsigned long number = 0, failures = 0;
    int code = CLI_DONE;
    bool cut;
    while (code == CLI_DONE && read_line(&line, &cut)) {
        number++;
        if (line.failed) {
            cli_error("out of memory at line %lu", number);
            code = CLI_FAILED;
            break;
        }
        if (is_blank(&line))
            continue;
        fvlm_error error;
        json_error_t where;
        json_t *request = NULL, *reply = NULL;
        if (cut)
            fvlm_fail(&error, FVLM_ERROR_LIMIT, "line %lu is longer than %d MB", number, LONGEST_LINE >> 20);
        else if (!(request = json_loadb(line.data, line.length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where)))
            fvlm_fail(&error, FVLM_ERROR_FORMAT, "line %lu is not JSON: %s", number, where.text);
        else if (!json_is_object(request))
            fvlm_fail(&error, FVLM_ERROR_FORMAT, "line %lu is not a JSON object", number);
        else
            reply = answer(request, user, &error);
        if (!reply) {
            if (failures++ == 0)
                cli_error("line %lu: %s", number, error.message);
            reply = json_pack("{so}", "error", cli_json_text(error.message));
        }
        json_decref(request);
        code = cli_print_json(reply);
    }
    fvlm_text_clear(&line);
    if (failures > 1)
        cli_error("%lu of %lu lines failed", failures, number);
    return failures ? CLI_FAILED : code;
}
