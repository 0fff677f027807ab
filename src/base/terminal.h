/* What the terminal in front of the user is like. */
#ifndef FVLM_BASE_TERMINAL_H
#define FVLM_BASE_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

/* The size of standard output's terminal in characters; false where it is none, or does not say. */
bool fvlm_terminal_size(int *columns, int *rows);

/* Send `query`, escape sequences that the terminal answers, and gather what comes back until a control sequence (ESC [)
 * that ends in `last`, for at most `milliseconds`. reply [size] is NUL-terminated. False where there is no terminal
 * that this process may ask, or the answer does not come. Signals wait until then; with other threads running they
 * would come to those, so ask before there are any. */
bool fvlm_terminal_ask(const char *query, char last, unsigned milliseconds, char *reply, size_t size);

#endif
