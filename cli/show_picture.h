/* Pictures in the terminal, by whatever it can: the graphics protocols of kitty and iTerm2, sixels, or a character for
 * two pixels. */
#ifndef FVLM_CLI_SHOW_PICTURE_H
#define FVLM_CLI_SHOW_PICTURE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/text_buffer.h"
#include "fastvlm/image.h"
#include "options.h"

typedef enum cli_display {
    CLI_DISPLAY_NONE,
    CLI_DISPLAY_BLOCKS, /* upper half blocks in true colour: two pixels a character */
    CLI_DISPLAY_SIXEL,
    CLI_DISPLAY_ITERM2, /* OSC 1337 with a PNG file */
    CLI_DISPLAY_KITTY   /* APC G with a PNG file */
} cli_display;

extern char *cli_show; /* the option's value; NULL: not given */
#define CLI_SHOW_OPTION                                                                                                \
    {                                                                                                                  \
        "show", '\0', POPT_ARG_STRING, &cli_show, 0,                                                                   \
            "Draw pictures in the terminal: by auto, what it can, or by kitty, iterm2, sixel or blocks", "HOW"         \
    }

/* What --show asks for: with "auto" what standard output's terminal can, nothing where it is no terminal. False, with
 * the error printed, for a name that is none. */
bool cli_show_get(const cli_usage *usage, cli_display *display);
/* What a terminal that answers so can; `reply` is to the questions of cli_show_get. */
cli_display cli_display_of_reply(const char *reply);

/* Draw on standard output, at most 24 lines high. */
fvlm_status cli_show_picture(const fvlm_image *image, cli_display display, fvlm_error *error);
/* What that writes for a terminal of `columns` x `rows` characters, appended to `text`. */
fvlm_status cli_picture_text(const fvlm_image *image, cli_display display, size_t columns, size_t rows,
                             fvlm_text_buffer *text, fvlm_error *error);

#endif
