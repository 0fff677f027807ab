/* Cutting text into the words that byte-pair merging does not cross, by the regular expressions of a tokenizer.json. */
#ifndef FVLM_TEXT_SPLITTER_H
#define FVLM_TEXT_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define FVLM_SPLITTER_PATTERNS 8

/* The pattern of Qwen2's tokenizer; interface data of those models. */
#define FVLM_QWEN2_PATTERN                                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"   \
    "|\\s+(?!\\S)|\\s+"

/* Compiled patterns; immutable once built. */
typedef struct fvlm_splitter fvlm_splitter;

fvlm_status fvlm_splitter_create(fvlm_splitter **splitter, fvlm_error *error);
void fvlm_splitter_destroy(fvlm_splitter **splitter);
/* Add a pattern, which cuts the pieces that those before leave: each match is a piece, and so is what lies between
 * two. `literal`: the pattern is plain text. `name` is the file's, for errors. At most FVLM_SPLITTER_PATTERNS. */
fvlm_status fvlm_splitter_add(fvlm_splitter *splitter, const char *pattern, size_t bytes, bool literal,
                              const char *name, fvlm_error *error);

/* What one caller needs to match. */
typedef struct fvlm_splitter_workspace fvlm_splitter_workspace;
fvlm_status fvlm_splitter_workspace_create(fvlm_splitter_workspace **workspace, fvlm_error *error);
void fvlm_splitter_workspace_destroy(fvlm_splitter_workspace **workspace);

/* Takes a piece; false stops, for want of memory. */
typedef bool (*fvlm_piece_fn)(void *user, const char *piece, size_t bytes);

/* Give the pieces of well-formed UTF-8 to `take`, in order; together they are the whole text. */
fvlm_status fvlm_splitter_run(const fvlm_splitter *splitter, fvlm_splitter_workspace *workspace, const char *text,
                              size_t bytes, fvlm_piece_fn take, void *user, fvlm_error *error);

#endif
