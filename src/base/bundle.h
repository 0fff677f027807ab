/* The small files of a model (config.json, tokenizer.json, ...): in a folder, or held within one large file. */
#ifndef FVLM_BASE_BUNDLE_H
#define FVLM_BASE_BUNDLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/file.h"

typedef struct fvlm_bundle_entry {
    const char *name; /* "config.json" */
    const char *data; /* [size], not NUL-terminated */
    size_t size;
} fvlm_bundle_entry;

/* A view: what it points to belongs to whoever made it. */
typedef struct fvlm_bundle {
    const char *path;                 /* of the folder, or of the file that holds the entries */
    const fvlm_bundle_entry *entries; /* [count]; NULL: the files are those of the folder `path` */
    size_t count;
} fvlm_bundle;

bool fvlm_bundle_has(const fvlm_bundle *bundle, const char *name);

/* One file while it is being read. */
typedef struct fvlm_bundle_file {
    char *path;       /* for messages: "FOLDER/config.json", or "model.gguf/config.json" */
    const char *data; /* [size], not NUL-terminated */
    size_t size;
    fvlm_mapping mapping;
} fvlm_bundle_file;

/* Open the file `name` of at most `limit` bytes; close it with fvlm_bundle_file_close. */
fvlm_status fvlm_bundle_open(const fvlm_bundle *bundle, const char *name, size_t limit, fvlm_bundle_file *file,
                             fvlm_error *error);
void fvlm_bundle_file_close(fvlm_bundle_file *file);

/* Write a copy of the file `name` into `folder`; none in the bundle is fine. */
fvlm_status fvlm_bundle_copy(const fvlm_bundle *bundle, const char *name, const char *folder, fvlm_error *error);

#endif
