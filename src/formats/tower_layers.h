/* The layers of a vision tower's Core ML program: what has weights, and what tells the layers' roles apart. */
#ifndef FVLM_FORMATS_TOWER_LAYERS_H
#define FVLM_FORMATS_TOWER_LAYERS_H

#include "formats/mil.h"

typedef enum fvlm_layer_kind {
    FVLM_LAYER_CONV,       /* weight [out, in / groups, k, k], bias [out] or none */
    FVLM_LAYER_LINEAR,     /* weight [out, in], bias [out] or none */
    FVLM_LAYER_NORMALISE,  /* to mean 0 and variance 1 over channels; weight and bias [channels] or none */
    FVLM_LAYER_BATCH_NORM, /* weight, bias, mean, variance [channels] */
    FVLM_LAYER_SCALE,      /* times weight [channels] */
    FVLM_LAYER_SHIFT,      /* plus bias [channels] */
    FVLM_LAYER_GELU,
    FVLM_LAYER_RELU,
    FVLM_LAYER_SIGMOID,
    FVLM_LAYER_SOFTMAX,  /* attention */
    FVLM_LAYER_RESIDUAL, /* the sum of two computed values */
    FVLM_LAYER_GATE      /* the product of two computed values, one of them from a sigmoid */
} fvlm_layer_kind;

/* Layers are numbered from 1; 0 is the image. A tensor that a layer has not has data NULL. */
typedef struct fvlm_layer {
    fvlm_layer_kind kind;
    size_t op;    /* the operation, for messages */
    size_t after; /* the last layer that its input depends on */
    size_t other; /* RESIDUAL and GATE: the last layer that the other input depends on */
    fvlm_tensor weight, bias, mean, variance;
    size_t stride, groups; /* CONV */
    float epsilon;         /* NORMALISE, BATCH_NORM; 0 where it was not found */
    double factor;         /* the product of the constant numbers that its input was multiplied with since `after` */
    bool own_factor;       /* SOFTMAX: it divides by sqrt(head width) itself */
} fvlm_layer;

/* *layers is [*count], in the program's order; free with free(). An operation that is none of a FastViTHD tower's is an
 * error that names it. */
fvlm_status fvlm_tower_layers(fvlm_mil *mil, const char *path, fvlm_layer **layers, size_t *count, fvlm_error *error);

const char *fvlm_layer_kind_name(fvlm_layer_kind kind); /* "convolution"; static */

#endif
