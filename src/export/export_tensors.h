/* The tensors of a safetensors file that is going to be written: what each is called and made of. Values are converted
 * while they are written, a block of rows at a time, so that a model of any size takes little memory. */
#ifndef FVLM_EXPORT_EXPORT_TENSORS_H
#define FVLM_EXPORT_EXPORT_TENSORS_H

#include "export/export_source.h"
#include "fastvlm/export.h"

typedef enum fvlm_export_part { /* of what the source's values become */
                                FVLM_EXPORT_VALUES,
                                FVLM_EXPORT_WORDS, /* MLX's packed words */
                                FVLM_EXPORT_SCALES,
                                FVLM_EXPORT_BIASES
} fvlm_export_part;

typedef struct fvlm_export_tensor {
    fvlm_tensor written;  /* name, type and shape in the file; no data */
    fvlm_matrix source;   /* where the values are; data NULL: each is `fill` */
    size_t channels_last; /* over 1: a row [in, channels_last] of the source is written as [channels_last, in] */
    double fill;
    bool longer;           /* the source's first row follows once more behind its last */
    fvlm_export_part part; /* SCALES and BIASES follow right behind their WORDS */
    size_t bits, group;    /* of the quantised parts */
} fvlm_export_tensor;

typedef struct fvlm_export_list {
    const fvlm_export_source *source; /* outlives the list */
    fvlm_export_tensor *tensors;      /* [count] */
    size_t count, capacity;
    fvlm_arena *arena;  /* names */
    fvlm_status status; /* the first error of the functions below, which do nothing after one */
    fvlm_error *error;
} fvlm_export_list;

void fvlm_export_list_open(const fvlm_export_source *source, fvlm_error *error, fvlm_export_list *list);
void fvlm_export_list_close(fvlm_export_list *list);

/* The source's tensor `from` (for a quantised matrix, its name with ".weight") as `name`, in the same shape. DEFAULT
 * keeps the type; of a quantised matrix it takes the type of the scales, or fp16. Types that are no floats are kept. */
void fvlm_export_add(fvlm_export_list *list, const fvlm_tensor *from, const char *name, fvlm_export_type type);
/* The same with a row more, a copy of the first: a token that no answer takes, since of two that are as probable the
 * first one is chosen. */
void fvlm_export_add_longer(fvlm_export_list *list, const fvlm_tensor *from, const char *name, fvlm_export_type type);
/* A matrix as NAME.weight, NAME.scales and NAME.biases in MLX's affine groups with scales in fp16, after rounding to
 * fp16. A matrix that is quantised just so is copied; one whose rows are not whole groups is written in fp16. */
void fvlm_export_add_quantized(fvlm_export_list *list, const fvlm_tensor *from, const char *name, size_t bits,
                               size_t group);
/* A tensor whose every value is `fill`; F32, F16, BF16 or I64. */
void fvlm_export_add_constant(fvlm_export_list *list, const char *name, fvlm_dtype type, int rank, const size_t *shape,
                              double fill);

/* PyTorch's name of the type that the language model has in an export of `type`: "bfloat16"; static. */
const char *fvlm_export_dtype(const fvlm_export_source *source, fvlm_export_type type);

/* The bias of a convolution that batch norm was folded into, as a Core ML package has it: it becomes that of a batch
 * norm which changes nothing else, since checkpoints have no other place for it. `name`: "...conv.bias". */
void fvlm_export_add_unfolded(fvlm_export_list *list, const fvlm_tensor *bias, const char *name, fvlm_export_type type);

/* Write the list to model.safetensors in `folder`, with `format` as metadata. */
fvlm_status fvlm_export_list_write(const fvlm_export_list *list, const fvlm_export_folder *folder, const char *format,
                                   const fvlm_export_options *options, fvlm_error *error);

#endif
