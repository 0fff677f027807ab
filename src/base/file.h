/* Files: mapping, reading, writing aside and renaming. The only room that knows POSIX (or Windows) file calls. */
#ifndef FVLM_BASE_FILE_H
#define FVLM_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A whole file mapped read-only and shared between processes, or a file in memory as it lies there. */
typedef struct fvlm_mapping {
    const uint8_t *data; /* [size]; NULL for an empty file */
    size_t size;
    bool in_memory;
} fvlm_mapping;

/* From now on the file `path` is data [size], for mapping it and for asking whether it exists; data NULL: no more. Both
 * stay the caller's, and have to stay as they are. Not while other threads use files. */
fvlm_status fvlm_file_in_memory(const char *path, const void *data, size_t size, fvlm_error *error);

fvlm_status fvlm_mapping_open(const char *path, fvlm_mapping *mapping, fvlm_error *error);
void fvlm_mapping_close(fvlm_mapping *mapping);
/* Tell the system that `bytes` of a mapping are no longer needed in memory; they are read again when they are. */
void fvlm_mapping_release(const void *data, size_t bytes);

/* Read a whole file ("-": standard input) of at most `limit` bytes. *data is NUL-terminated behind its *size bytes;
 * free with free(). */
fvlm_status fvlm_file_read(const char *path, size_t limit, char **data, size_t *size, fvlm_error *error);

bool fvlm_file_exists(const char *path); /* a regular file, or one in memory */
bool fvlm_folder_exists(const char *path);
/* The entry of a folder whose name ends in `suffix`, the first in byte order where there are several; NULL where there
 * is none. Free *name with free(). */
fvlm_status fvlm_folder_find(const char *folder, const char *suffix, char **name, fvlm_error *error);

/* "folder/name", or NULL when out of memory; free with free(). */
char *fvlm_path_join(const char *folder, const char *name);

/* A file written aside as PATH.part and put in place by commit, so that a reader or a crash never sees half of it. */
typedef struct fvlm_writer fvlm_writer;
/* PATH.part, or NULL when out of memory; free with free(). What was there is overwritten. */
char *fvlm_writer_aside(const char *path);
/* Fails where a file cannot be put at `path`, which a folder or a device has: to be told before long work. */
fvlm_status fvlm_writer_check(const char *path, fvlm_error *error);
/* Checks `path` too. */
fvlm_status fvlm_writer_open(const char *path, fvlm_writer **writer, fvlm_error *error);
fvlm_status fvlm_writer_write(fvlm_writer *writer, const void *data, size_t bytes, fvlm_error *error);
/* Write over bytes that were written before; what follows goes on at the end. */
fvlm_status fvlm_writer_patch(fvlm_writer *writer, long offset, const void *data, size_t bytes, fvlm_error *error);
/* Flush to the disk, rename, free. On failure the old file stays as it was. */
fvlm_status fvlm_writer_commit(fvlm_writer **writer, fvlm_error *error);
/* Remove what was written aside, free. NULL is fine. */
void fvlm_writer_abort(fvlm_writer **writer);
/* The whole file folder/name in one go. */
fvlm_status fvlm_file_write(const char *folder, const char *name, const void *data, size_t bytes, fvlm_error *error);

/* Milliseconds of a monotonic clock. */
double fvlm_clock_ms(void);
/* Peak resident memory of this process, bytes; 0 where the system does not tell. */
uint64_t fvlm_peak_memory(void);

#endif
