/* Writing a Core ML package: a program is built operation by operation, its weights go to weight.bin as they come.
 *
 * The builder keeps the first error; later calls do nothing, so that a program is built in one go and checked once.
 * Names are the caller's, unique, of letters, digits and underscores; they are copied.
 */
#ifndef FVLM_FORMATS_MIL_WRITE_H
#define FVLM_FORMATS_MIL_WRITE_H

#include "formats/mil_constant.h"

typedef struct fvlm_mil_builder fvlm_mil_builder;

/* A value that the program computes. Sizes that are only known when it runs are FVLM_MIL_ANY. */
#define FVLM_MIL_ANY (-1)
typedef struct fvlm_mil_value {
    const char *name; /* the builder's */
    int type;         /* FVLM_MIL_* */
    int rank;
    int64_t shape[FVLM_MAX_RANK];
} fvlm_mil_value;

/* `package`: folder to make. `type`: FVLM_MIL_FLOAT32 or FVLM_MIL_FLOAT16, of weights and arithmetic. Errors
 * of all calls go to `error`. */
fvlm_status fvlm_mil_builder_open(const char *package, int type, fvlm_mil_builder **builder, fvlm_error *error);
/* Free; a package that was not finished stays as it is, unusable, for the caller to remove. */
void fvlm_mil_builder_close(fvlm_mil_builder **builder);
fvlm_status fvlm_mil_builder_status(const fvlm_mil_builder *builder);

/* The program's input, float32. */
fvlm_mil_value fvlm_mil_add_input(fvlm_mil_builder *builder, const char *name, int rank, const int64_t *shape);

/* Start an operation: its result has the name `name`. Then its parameters, then fvlm_mil_end. */
void fvlm_mil_begin(fvlm_mil_builder *builder, const char *type, const char *name);
void fvlm_mil_set(fvlm_mil_builder *builder, const char *parameter, fvlm_mil_value value);
void fvlm_mil_set_integers(fvlm_mil_builder *builder, const char *parameter, size_t count, const int32_t *values);
void fvlm_mil_set_integer(fvlm_mil_builder *builder, const char *parameter, int32_t value);
void fvlm_mil_set_boolean(fvlm_mil_builder *builder, const char *parameter, bool value);
void fvlm_mil_set_text(fvlm_mil_builder *builder, const char *parameter, const char *value);
void fvlm_mil_set_number(fvlm_mil_builder *builder, const char *parameter, float value); /* of the builder's type */
/* The result, of the builder's type unless said otherwise. */
fvlm_mil_value fvlm_mil_end(fvlm_mil_builder *builder, int rank, const int64_t *shape);
fvlm_mil_value fvlm_mil_end_type(fvlm_mil_builder *builder, int type, int rank, const int64_t *shape);
/* Of an operation with `count` results of one shape, called NAME_0, NAME_1, ... */
void fvlm_mil_end_many(fvlm_mil_builder *builder, size_t count, int rank, const int64_t *shape, fvlm_mil_value *values);

/* A weight: its values are given row by row with fvlm_mil_weight_row, shape[0] rows of the product of the rest. `int8`:
 * 8 bits with a scale for each row, which the program unpacks. */
fvlm_mil_value fvlm_mil_begin_weight(fvlm_mil_builder *builder, const char *name, int rank, const int64_t *shape,
                                     bool int8);
void fvlm_mil_weight_row(fvlm_mil_builder *builder, const float *values);

/* What the package says about itself. */
typedef struct fvlm_mil_about {
    const char *description, *author, *version;
    const int64_t (
        *shapes)[4]; /* [shape_count] of the input; more than one: it is flexible, the first is the default */
    size_t shape_count;
} fvlm_mil_about;

/* Write the program, whose result is `output`, and the manifest. */
fvlm_status fvlm_mil_builder_finish(fvlm_mil_builder *builder, fvlm_mil_value output, const fvlm_mil_about *about);

#endif
