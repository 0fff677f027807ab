/* A vision tower's weights out of a Core ML program, under the names of LLaVA checkpoints. */
#ifndef FVLM_FORMATS_TOWER_NAMES_H
#define FVLM_FORMATS_TOWER_NAMES_H

#include "formats/mil.h"

/* Add every weight of the tower to `table`. A program that is not a FastViTHD tower is an error that names the first
 * operation that does not fit. */
fvlm_status fvlm_tower_names(fvlm_tensor_table *table, fvlm_mil *mil, const char *path, fvlm_error *error);

#endif
