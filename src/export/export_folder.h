/* The folder of an export: filled aside as PATH.part, put in place when it is whole. */
#ifndef FVLM_EXPORT_EXPORT_FOLDER_H
#define FVLM_EXPORT_EXPORT_FOLDER_H

#include <jansson.h>

#include "base/bundle.h"

typedef struct fvlm_export_folder {
    char *path, *aside;
} fvlm_export_folder;

/* An empty folder aside. What stands at `path` has to be an earlier export or an empty folder: the file `mark` is in
 * it, and nothing that exports do not write. It must not be `model` nor hold it. */
fvlm_status fvlm_export_folder_open(const char *path, const char *mark, const char *model, fvlm_export_folder *folder,
                                    fvlm_error *error);
/* Flush, and take the place of what is at `path`. */
fvlm_status fvlm_export_folder_commit(fvlm_export_folder *folder, fvlm_error *error);
/* Remove what is aside, free. After a commit it only frees. */
void fvlm_export_folder_close(fvlm_export_folder *folder);

/* A file of the folder: a JSON object (taken over; NULL: out of memory). */
fvlm_status fvlm_export_put_json(const fvlm_export_folder *folder, const char *name, json_t *object, fvlm_error *error);

#endif
