/* Unpacking a downloaded archive, which may be hostile. */
#ifndef FVLM_CLI_UNZIP_H
#define FVLM_CLI_UNZIP_H

#include <stdbool.h>

#include "base/error.h"

/* Unpack the zip `archive` into `folder`, which is made. Refused are names that lead out of the folder, links and
 * devices, encrypted entries, two entries of one name, more than 10000 entries, and contents of more than 16 times the
 * archive's size plus 64 MB. What macOS adds (__MACOSX, .DS_Store) is left out. A failed call leaves a part. */
fvlm_status cli_unzip(const char *archive, const char *folder, bool quiet, fvlm_error *error);

#endif
