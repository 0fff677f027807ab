/* Prompt templates as data: every published one and every user's is the same few strings. */
#ifndef FVLM_TEXT_TEMPLATE_H
#define FVLM_TEXT_TEMPLATE_H

#include <stdbool.h>

#include "base/error.h"
#include "fastvlm/text.h"

/* What is written around a turn's text. */
typedef struct fvlm_template_role {
    const char *prefix, *suffix;
    const char *open; /* instead of everything, for a turn without text: the answer that is to be written */
} fvlm_template_role;

/* Which of the two roles' strings a turn gets. The published code looks at its place in the conversation (even: user,
 * odd: assistant) in some styles; it differs from the turn's own role only when turns do not alternate. */
typedef enum fvlm_template_order {
    FVLM_TEMPLATE_BY_ROLE,
    FVLM_TEMPLATE_SUFFIX_BY_PLACE,
    FVLM_TEMPLATE_ALL_BY_PLACE
} fvlm_template_order;

typedef struct fvlm_template {
    const char *system_prefix, *system, *system_suffix;
    bool keep_empty_system;    /* write prefix and suffix around an empty system text */
    bool system_in_first_turn; /* between the first turn's prefix and its text, not before it */
    bool user_first;           /* the first turn must be the user's, with text */
    fvlm_template_role user, assistant;
    const char *first_prefix; /* of the first turn, instead of its role's; NULL: no difference */
    fvlm_template_order order;
    const fvlm_turn *turns; /* [turn_count], an example conversation in front of the caller's */
    size_t turn_count;
    const char *const *stops; /* [stop_count], texts that end an answer */
    size_t stop_count;
} fvlm_template;

/* A published template, static, or NULL when there is none of this name. */
const fvlm_template *fvlm_template_find(const char *name);

/* A user's template; the strings belong to the file. */
typedef struct fvlm_template_file fvlm_template_file;
fvlm_status fvlm_template_file_open(const char *path, fvlm_template_file **file, fvlm_error *error);
/* The same from memory; `name` is for errors. */
fvlm_status fvlm_template_file_parse(const char *json, size_t bytes, const char *name, fvlm_template_file **file,
                                     fvlm_error *error);
void fvlm_template_file_close(fvlm_template_file **file);
const fvlm_template *fvlm_template_file_template(const fvlm_template_file *file);

/* fvlm_template_render with the template itself. */
fvlm_status fvlm_template_fill(const fvlm_template *made, const char *system, const fvlm_turn *turns, size_t count,
                               char **prompt, fvlm_error *error);

#endif
