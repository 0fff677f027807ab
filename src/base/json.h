/* Strict JSON with bounded memory, on top of jansson: duplicate keys, bad UTF-8, numbers that do not fit and a tree
 * that would take far more memory than its text are errors. */
#ifndef FVLM_BASE_JSON_H
#define FVLM_BASE_JSON_H

#include <stddef.h>

#include <jansson.h>

#include "base/bundle.h"
#include "base/error.h"

/* Parse `size` bytes. `name` (a path) opens the error messages. The caller owns *root: json_decref. */
fvlm_status fvlm_json_parse(const char *data, size_t size, const char *name, json_t **root, fvlm_error *error);

/* The file at `path`, of at most `limit` bytes, whose root must be an object. */
fvlm_status fvlm_json_read(const char *path, size_t limit, json_t **root, fvlm_error *error);
/* The same of a file of `bundle`. */
fvlm_status fvlm_json_read_bundle(const fvlm_bundle *bundle, const char *name, size_t limit, json_t **root,
                                  fvlm_error *error);

#endif
