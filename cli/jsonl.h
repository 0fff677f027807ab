/* The line protocol of `tokenize --jsonl` and `template --jsonl`: a JSON object a line in, one a line out. */
#ifndef FVLM_CLI_JSONL_H
#define FVLM_CLI_JSONL_H

#include <jansson.h>

#include "base/error.h"

/* The answer to the object of one line, or NULL with the error filled. */
typedef json_t *(*cli_line_fn)(const json_t *request, void *user, fvlm_error *error);

/* Answer every line of standard input as it comes. A line that fails gives {"error": ...} in its place and makes the
 * exit code 1; empty lines are passed over. Returns the exit code. */
int cli_jsonl_run(cli_line_fn answer, void *user);

#endif
