/* A Core ML program (MIL): its operations in order, and the constants that they use.
 *
 * Operations are numbered from 0 in program order, in which every value is made before it is used.
 */
#ifndef FVLM_FORMATS_MIL_H
#define FVLM_FORMATS_MIL_H

#include "formats/tensor_table.h"

typedef struct fvlm_mil fvlm_mil;

/* Parse the model file's bytes. `weights` (may be NULL) are those of weights/weight.bin; both must outlive the program,
 * and `weights` the table as well, since constants point into it. `path` is for messages. */
fvlm_status fvlm_mil_open(fvlm_tensor_table *table, const uint8_t *model, size_t model_size, const uint8_t *weights,
                          size_t weights_size, const char *path, fvlm_mil **mil, fvlm_error *error);
void fvlm_mil_close(fvlm_mil **mil);

/* What the model says of itself: specification_version, description, author, version, what else is defined by name, and
 * the shapes that each of its inputs and outputs may have. Texts that are no UTF-8 are left out. The caller owns the
 * object: json_decref; NULL when out of memory. */
json_t *fvlm_mil_metadata(const fvlm_mil *mil);

size_t fvlm_mil_count(const fvlm_mil *mil);
const char *fvlm_mil_type(const fvlm_mil *mil, size_t op); /* "conv" */
const char *fvlm_mil_name(const fvlm_mil *mil, size_t op); /* of its first output; "" where it has none */

/* The operation that computes the i-th of the op's inputs that are computed at run time; FVLM_MIL_INPUT: the program's
 * own input. False behind the last. Inputs come in the file's order, which means nothing. */
#define FVLM_MIL_INPUT SIZE_MAX
bool fvlm_mil_operand(const fvlm_mil *mil, size_t op, size_t i, size_t *producer);

/* True where the parameter is given and constant. */
bool fvlm_mil_is_constant(const fvlm_mil *mil, size_t op, const char *parameter);

/* The constant that the parameter is bound to: type, shape, data (which live as long as the table); the name is NULL.
 * Compressed weights are unpacked to the type of their scales. It must be there and constant. */
fvlm_status fvlm_mil_tensor(fvlm_mil *mil, size_t op, const char *parameter, fvlm_tensor *tensor, fvlm_error *error);

/* The text of a constant parameter, or `fallback`. */
const char *fvlm_mil_text(const fvlm_mil *mil, size_t op, const char *parameter, const char *fallback);

/* numbers[count] of a constant integer parameter; `fallback` in each where it is not given. */
fvlm_status fvlm_mil_numbers(fvlm_mil *mil, size_t op, const char *parameter, size_t count, int64_t fallback,
                             int64_t *numbers, fvlm_error *error);

/* Memory of the table for something made from constants, within the budget of unpacked weights: four times
 * weight.bin and 32 MB. */
fvlm_status fvlm_mil_alloc(fvlm_mil *mil, size_t bytes, void **memory, fvlm_error *error);

#endif
