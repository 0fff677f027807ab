/* Downloading one large file over an unreliable connection. */
#ifndef FVLM_CLI_DOWNLOAD_H
#define FVLM_CLI_DOWNLOAD_H

#include <stdbool.h>

#include "base/error.h"

#define CLI_SHA256_HEX 65 /* characters of a SHA-256 in hexadecimal, with the NUL */

typedef struct cli_download {
    const char *url;
    const char *path;   /* appears when the file is complete; PATH.part and PATH.part.json are there before */
    const char *sha256; /* what the file has to be, lower-case hexadecimal, or NULL */
    int retries;        /* how often in a row to try again without having got a byte */
    bool quiet;
} cli_download;

/* Download, going on where an earlier call stopped when the server still has the same file. A dropped connection is
 * retried with growing pauses. sha256 [CLI_SHA256_HEX] is what arrived. An interrupt (cli_interrupt_catch) fails the
 * call and keeps what is there. */
fvlm_status cli_download_run(const cli_download *download, char *sha256, fvlm_error *error);

#endif
