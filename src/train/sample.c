/* From a conversation to rows: prompt, pieces of it that are supervised or not, tokens, pictures. */
#include "train/sample.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/text_buffer.h"
#include "model/image_tokens.h"

#define IMAGE_MARK "<image>"
#define NOT_SUPERVISED (-100)

/* Rows. */

struct maker {
    const fvlm_engine *engine;
    fvlm_pool *pool;
    const fvlm_conversation *conversation;
    const fvlm_sample_options *options;
    fvlm_sample *sample;
    size_t capacity, shown; /* rows; pictures so far */
    fvlm_error *error;
};

static fvlm_status add_rows(struct maker *maker, const int32_t *tokens, size_t count, bool supervised)
{
    fvlm_sample *sample = maker->sample;
    size_t total;
    if (!fvlm_size_add(sample->count, count, &total))
        return fvlm_fail_memory(maker->error);
    if (total > maker->capacity) {
        size_t capacity = total + total / 2, bytes;
        if (!fvlm_size_multiply(capacity, sizeof *tokens, &bytes))
            return fvlm_fail_memory(maker->error);
        int32_t *grown = realloc(sample->tokens, bytes);
        if (grown)
            sample->tokens = grown;
        int32_t *labels = grown ? realloc(sample->labels, bytes) : NULL;
        if (!labels)
            return fvlm_fail_memory(maker->error);
        sample->labels = labels;
        maker->capacity = capacity;
    }
    for (size_t i = 0; i < count; i++) {
        int32_t token = tokens ? tokens[i] : FVLM_ROW_PICTURE;
        if (tokens && (token < 0 || (size_t)token >= maker->engine->config.decoder.vocabulary))
            return fvlm_fail(maker->error, FVLM_ERROR_FORMAT, "token %d is outside the model's vocabulary", (int)token);
        sample->tokens[sample->count] = token;
        sample->labels[sample->count++] = supervised ? token : NOT_SUPERVISED;
    }
    return FVLM_OK;
}

/* Where the picture `name` is: in the first folder that has it, else as if in the last. NULL when out of memory. */
static char *find_picture(const fvlm_sample_options *options, const char *name)
{
    for (size_t i = 0; name[0] != '/' && i < options->folder_count; i++) {
        char *path = fvlm_path_join(options->folders[i], name);
        if (!path || i + 1 == options->folder_count || fvlm_file_exists(path))
            return path;
        free(path);
    }
    return fvlm_strdup(name);
}

static fvlm_status add_picture(struct maker *maker)
{
    fvlm_sample *sample = maker->sample;
    const fvlm_config *config = &maker->engine->config;
    if (maker->options->measuring && config->image_mode != FVLM_IMAGE_ANYRES)
        return add_rows(maker, NULL, fvlm_engine_tile_tokens(maker->engine), false);
    char *path = find_picture(maker->options, maker->conversation->images[maker->shown++]);
    if (!path)
        return fvlm_fail_memory(maker->error);
    fvlm_preprocessing preprocessing = {.mode = config->image_mode,
                                        .size = config->vision.resolution,
                                        .pinpoints = config->pinpoints,
                                        .pinpoint_count = config->pinpoint_count};
    fvlm_picture *picture = &sample->pictures[sample->picture_count];
    fvlm_image *image = NULL;
    fvlm_status status = fvlm_image_open(path, &image, maker->error);
    free(path);
    if (!status)
        status = fvlm_preprocess(maker->pool, image, &preprocessing, &picture->tiles, maker->error);
    fvlm_image_free(&image);
    if (status)
        return status;
    sample->picture_count++;
    status = fvlm_image_token_index(config, &picture->tiles, fvlm_engine_side(maker->engine), &picture->index,
                                    &picture->count, maker->error);
    return status ? status : add_rows(maker, NULL, picture->count, false);
}

/* A piece of the prompt, cut at its pictures. */
static fvlm_status add_piece(struct maker *maker, const char *text, size_t bytes, bool supervised)
{
    for (const char *end = text + bytes;;) {
        const char *mark = supervised ? NULL : strstr(text, IMAGE_MARK);
        bool picture = mark && mark < end;
        size_t length = (size_t)((picture ? mark : end) - text), count;
        int32_t *ids;
        fvlm_status status = fvlm_tokenizer_encode(maker->engine->tokenizer, text, length, &ids, &count, maker->error);
        if (status)
            return status;
        status = add_rows(maker, ids, count, supervised);
        fvlm_free(ids);
        if (!status && picture)
            status = add_picture(maker);
        if (status || !picture)
            return status;
        text = mark + strlen(IMAGE_MARK);
    }
}

/* The prompt of the first `count` turns, the last of them without its text where `open`. */
static fvlm_status render(const struct maker *maker, size_t count, bool open, char **prompt)
{
    const fvlm_conversation *c = maker->conversation;
    const char *system = c->system ? c->system : maker->options->system, *kept = c->turns[count - 1].text;
    if (open)
        c->turns[count - 1].text = NULL;
    fvlm_status status =
        fvlm_template_render(maker->options->template_name, system, c->turns, count, prompt, maker->error);
    c->turns[count - 1].text = kept;
    return status;
}

/* What the model is given before an answer, and then the answer with what ends it: the prompts of longer and longer
 * conversations begin alike, and what one has more than the other is the next piece. */
static fvlm_status add_turns(struct maker *maker)
{
    size_t done = 0;
    for (size_t i = 1; i < maker->conversation->turn_count; i += 2) {
        char *asked = NULL, *answered = NULL;
        fvlm_status status = render(maker, i + 1, true, &asked);
        if (!status)
            status = render(maker, i + 1, false, &answered);
        if (!status) {
            size_t start = strlen(asked);
            if (start < done || strncmp(asked, answered, start) != 0)
                status = fvlm_fail(maker->error, FVLM_ERROR_UNSUPPORTED,
                                   "this template writes an answered question in another way than an open one, so "
                                   "that answers cannot be told from questions");
            if (!status)
                status = add_piece(maker, asked + done, start - done, false);
            if (!status) {
                bool supervised = !maker->options->last || i + 1 == maker->conversation->turn_count;
                status = add_piece(maker, answered + start, strlen(answered + start), supervised);
            }
            done = status ? 0 : strlen(answered);
        }
        fvlm_free(asked);
        fvlm_free(answered);
        if (status)
            return status;
    }
    return FVLM_OK;
}

/* What the sample says of the label set, of one picture in one tile. */
static fvlm_status add_classes(struct maker *maker)
{
    fvlm_sample *sample = maker->sample;
    const fvlm_label_set *set = maker->options->labels;
    if (maker->conversation->image_count != 1)
        return fvlm_fail(maker->error, FVLM_ERROR_FORMAT, "it has %zu pictures, where labels are of one",
                         maker->conversation->image_count);
    if (sample->pictures->tiles.count != 1)
        return fvlm_fail(maker->error, FVLM_ERROR_UNSUPPORTED,
                         "this model cuts pictures into tiles, of which labels know nothing");
    sample->supervised += set->labels.count + set->marks.count;
    const fvlm_tiles *tiles = &sample->pictures->tiles;
    fvlm_framing framing =
        fvlm_preprocess_framing(maker->engine->config.image_mode, tiles->width, tiles->height, tiles->size);
    return fvlm_classes_read(set, maker->conversation->source, &framing,
                             FVLM_CELLS_PER_TOKEN * fvlm_engine_side(maker->engine), &sample->classes, maker->error);
}

fvlm_status fvlm_sample_make(const fvlm_engine *engine, fvlm_pool *pool, const fvlm_conversation *conversation,
                             const fvlm_sample_options *options, fvlm_sample *sample, fvlm_error *error)
{
    *sample = (fvlm_sample){0};
    struct maker maker = {.engine = engine,
                          .pool = pool,
                          .conversation = conversation,
                          .options = options,
                          .sample = sample,
                          .error = error};
    sample->pictures = fvlm_calloc(conversation->image_count + 1, sizeof *sample->pictures);
    fvlm_status status = sample->pictures ? FVLM_OK : fvlm_fail_memory(error);
    if (!status && !options->wordless)
        status = add_turns(&maker);
    else if (!status && conversation->image_count > 0)
        status = add_picture(&maker);
    if (!status && options->labels && !options->measuring)
        status = add_classes(&maker);
    if (!status && sample->count > options->longest)
        status = fvlm_fail(error, FVLM_ERROR_LIMIT, "it has %zu tokens where %zu are the limit", sample->count,
                           options->longest);
    if (status) {
        fvlm_sample_clear(sample);
        return status;
    }
    /* Row i is to give what row i + 1 is. */
    for (size_t i = 0; i < sample->count; i++) {
        sample->labels[i] = i + 1 < sample->count ? sample->labels[i + 1] : NOT_SUPERVISED;
        sample->supervised += sample->labels[i] >= 0;
    }
    return FVLM_OK;
}

void fvlm_sample_clear(fvlm_sample *sample)
{
    for (size_t i = 0; i < sample->picture_count; i++)
        fvlm_picture_clear(&sample->pictures[i]);
    free(sample->pictures);
    free(sample->tokens);
    free(sample->labels);
    fvlm_classes_clear(&sample->classes);
    *sample = (fvlm_sample){0};
}
