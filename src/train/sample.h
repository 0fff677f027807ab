/* One sample of a data set, ready for training: its tokens, which of them are supervised, and its pictures' tiles. */
#ifndef FVLM_TRAIN_SAMPLE_H
#define FVLM_TRAIN_SAMPLE_H

#include "fastvlm/dataset.h"
#include "model/internal.h"
#include "train/labels.h"

/* Rows of a sample that are not text. */
#define FVLM_ROW_PICTURE (-1)

typedef struct fvlm_sample {
    int32_t *tokens; /* [count]; FVLM_ROW_PICTURE: a picture's, in order */
    int32_t *labels; /* [count]: the token that row's output should be, or -100 */
    size_t count, supervised;
    fvlm_picture *pictures; /* [picture_count]: tiles and index; embeddings NULL */
    size_t picture_count;
    fvlm_classes classes; /* where the options have a label set */
} fvlm_sample;

typedef struct fvlm_sample_options {
    const char *template_name, *system; /* as for fvlm_template_render; a name, not a file, is fastest */
    const char *const *folders;         /* [folder_count]: where relative names of pictures are looked for, in order */
    size_t folder_count;
    size_t longest;               /* rows */
    bool last;                    /* only the last answer is supervised */
    const fvlm_label_set *labels; /* read what the sample says of these, and want one picture of one tile; or NULL */
    bool wordless;                /* make no tokens: the classes are all that is learned */
    bool measuring; /* only the number of rows counts: pictures are opened only where that depends on their size */
} fvlm_sample_options;

/* Tokens, labels and pictures of a conversation. Supervised is each answer and what the template writes after it.
 * `pool` is for resizing. */
fvlm_status fvlm_sample_make(const fvlm_engine *engine, fvlm_pool *pool, const fvlm_conversation *conversation,
                             const fvlm_sample_options *options, fvlm_sample *sample, fvlm_error *error);
void fvlm_sample_clear(fvlm_sample *sample);

#endif
