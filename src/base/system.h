/* What else of the operating system the program needs: folders, the terminal, waiting. */
#ifndef FVLM_BASE_SYSTEM_H
#define FVLM_BASE_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* Make `path` and the folders above it that are missing. One that is there already is fine. */
fvlm_status fvlm_folder_create(const char *path, fvlm_error *error);
/* Remove `path` and everything below it; links are removed, not followed, `path` too. A folder that is not there is
 * fine. */
fvlm_status fvlm_folder_remove(const char *path, fvlm_error *error);
/* The one folder in `path` when it holds nothing else, joined with it; *child is NULL otherwise. Free with free(). */
fvlm_status fvlm_folder_only_child(const char *path, char **child, fvlm_error *error);
/* Names of the files in a folder, in byte order. *names [*count] and what is in it are freed with free(). */
fvlm_status fvlm_folder_list(const char *folder, char ***names, size_t *count, fvlm_error *error);
/* Call `visit` for each entry of a folder, in no order, until one call fails. `is_folder` is false for links. */
typedef fvlm_status (*fvlm_entry_fn)(const char *path, bool is_folder, void *user, fvlm_error *error);
fvlm_status fvlm_folder_each(const char *folder, fvlm_entry_fn visit, void *user, fvlm_error *error);
/* Visit the number N of every folder in `path` that is called `prefix` and N. */
typedef void (*fvlm_number_fn)(void *user, long long number);
fvlm_status fvlm_folder_numbers(const char *path, const char *prefix, fvlm_number_fn visit, void *user,
                                fvlm_error *error);
/* Give a file or folder another name on the same file system; an existing file is replaced. */
fvlm_status fvlm_path_rename(const char *from, const char *to, fvlm_error *error);
/* Flush the folder `aside` to the disk and give it the name `path`, whose folder, if there is one, goes. Where the
 * system can swap two names, `path` is at every moment the old folder or the new one; elsewhere the old one is
 * PATH.old for an instant. After an error `path` is what it was. */
fvlm_status fvlm_folder_replace(const char *aside, const char *path, fvlm_error *error);
/* True where both paths lead to the same file or folder. */
bool fvlm_path_same(const char *a, const char *b);
/* True where `path` leads to the folder or to something below it. */
bool fvlm_path_within(const char *path, const char *folder);
/* Bytes of a regular file; false where there is none. */
bool fvlm_file_size(const char *path, uint64_t *bytes);

/* True when `stream` is a terminal that somebody looks at. */
bool fvlm_is_terminal(FILE *stream);
void fvlm_sleep_ms(unsigned milliseconds);

/* Let a broken pipe and a file size limit come back as write errors instead of ending the process. */
void fvlm_ignore_write_signals(void);

#endif
