/* Entries of a zip file in memory, in place where they are stored uncompressed. */
#ifndef FVLM_FORMATS_TORCH_ZIP_H
#define FVLM_FORMATS_TORCH_ZIP_H

#include "formats/tensor_table.h"

typedef struct fvlm_archive fvlm_archive;

/* `data` [size] must outlive the archive, and `table` too: what has to be unpacked or copied lives there. */
fvlm_status fvlm_archive_open(fvlm_tensor_table *table, const uint8_t *data, size_t size, const char *path,
                              fvlm_archive **archive, fvlm_error *error);
void fvlm_archive_close(fvlm_archive **archive);

/* The name of the first entry that ends in `suffix`, or NULL. */
const char *fvlm_archive_find(const fvlm_archive *archive, const char *suffix);

/* The bytes of the entry `name`; *data is NULL where there is none. They live as long as the archive's own data and
 * the table. */
fvlm_status fvlm_archive_entry(fvlm_archive *archive, const char *name, const uint8_t **data, size_t *size,
                               fvlm_error *error);

/* Memory of the table for something made from the archive, within the same budget as unpacked entries: in all, twice
 * the file and 4 MB. */
fvlm_status fvlm_archive_alloc(fvlm_archive *archive, size_t bytes, void **memory, fvlm_error *error);

#endif
