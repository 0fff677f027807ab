/* What the program prints. Results go to standard output, and a write that fails there makes the exit code 1; errors,
 * notices and progress go to standard error. */
#ifndef FVLM_CLI_OUTPUT_H
#define FVLM_CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* One line "fastvlm: ..." on standard error. */
void cli_error(const char *format, ...) FVLM_PRINTF(1, 2);
/* Print a failed call's error; the exit code that goes with it. */
int cli_fail(const fvlm_error *error);

void cli_print(const char *format, ...) FVLM_PRINTF(1, 2);
/* Write and flush, so that a reader sees text as it comes. False once standard output failed. */
bool cli_write(const char *text, size_t bytes);
/* Print `object` on one line and release it; a NULL object (out of memory while it was built) is an error. Returns the
 * exit code. */
int cli_print_json(json_t *object);
/* Text as a JSON string; bytes that are not UTF-8 (file names) become U+FFFD. */
json_t *cli_json_text(const char *text);
json_t *cli_json_tokens(const int32_t *tokens, size_t count);
/* Milliseconds, rates: three decimals. */
json_t *cli_json_number(double value);
/* Flush standard output; false, with the error printed, when something did not reach it. */
bool cli_close_output(void);

/* Print no results and no errors from here on: another process of the same run does. */
void cli_silence(void);

/* While caught, an interrupt (Ctrl-C) sets a flag; a second one ends the process. */
void cli_interrupt_catch(void);
/* The same for the request to end (SIGTERM), which clusters send before they kill. */
void cli_terminate_catch(void);
/* SIGUSR1 too: what batch systems send a while before they end a job, and mpirun passes on. */
void cli_warning_catch(void);
bool cli_interrupted(void);
/* Back to the system's way. */
void cli_interrupt_release(void);
/* End the process as the interrupt would have, after everything was put in order. */
void cli_interrupt_exit(void);

/* Progress on standard error: one line drawn over and over on a terminal, else a line now and then. Counts are bytes or
 * items. */
typedef struct cli_progress {
    const char *title, *unit; /* unit NULL: bytes */
    uint64_t total;           /* 0: not known */
    uint64_t first;           /* what was there before the start; it does not count for the rate */
    double started_ms, drawn_ms;
    bool terminal, quiet, drawn;
} cli_progress;

void cli_progress_start(cli_progress *progress, const char *title, const char *unit, uint64_t first, uint64_t total,
                        bool quiet);
void cli_progress_update(cli_progress *progress, uint64_t done);
/* The last state, and the end of the line. */
void cli_progress_finish(cli_progress *progress, uint64_t done);

/* "1.5 GB" */
void cli_format_bytes(uint64_t bytes, char *text, size_t size);

#endif
