/* A prompt as positions: its text is cut at each `<image>`, every piece tokenised on its own, and a picture's tokens
 * stand between the pieces. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "model/internal.h"

#define IMAGE_MARK "<image>"

static size_t count_marks(const char *text)
{
    size_t count = 0;
    for (const char *mark = text; (mark = strstr(mark, IMAGE_MARK)); mark += strlen(IMAGE_MARK))
        count++;
    return count;
}

/* Make room for `more` positions behind prompt->count. */
static fvlm_status reserve(fvlm_prompt *prompt, size_t more, fvlm_error *error)
{
    size_t count, bytes;
    if (!fvlm_size_add(prompt->count, more, &count) ||
        !fvlm_size_multiply(count ? count : 1, sizeof *prompt->positions, &bytes))
        return fvlm_fail_memory(error);
    fvlm_position *positions = realloc(prompt->positions, bytes);
    if (!positions)
        return fvlm_fail_memory(error);
    prompt->positions = positions;
    return FVLM_OK;
}

static fvlm_status add_text(const fvlm_engine *engine, const char *text, size_t bytes, fvlm_prompt *prompt,
                            fvlm_error *error)
{
    int32_t *ids;
    size_t count;
    fvlm_status status = fvlm_tokenizer_encode(engine->tokenizer, text, bytes, &ids, &count, error);
    if (status)
        return status;
    status = reserve(prompt, count, error);
    for (size_t i = 0; i < count && !status; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= engine->config.decoder.vocabulary)
            status = fvlm_fail(error, FVLM_ERROR_FORMAT,
                               "token %d of the prompt is outside the model's vocabulary of %zu: the tokenizer "
                               "belongs to another model",
                               (int)ids[i], engine->config.decoder.vocabulary);
        else
            prompt->positions[prompt->count++] = (fvlm_position){.token = ids[i]};
    }
    fvlm_free(ids);
    return status;
}

static fvlm_status add_picture(const fvlm_picture *picture, fvlm_prompt *prompt, fvlm_error *error)
{
    fvlm_status status = reserve(prompt, picture->count, error);
    for (size_t i = 0; i < picture->count && !status; i++)
        prompt->positions[prompt->count++] =
            (fvlm_position){.token = -1, .offset = (uint32_t)i, .picture = picture->key};
    prompt->image_tokens += picture->count;
    return status;
}

fvlm_status fvlm_prompt_prepare(fvlm_engine *engine, const char *text, const fvlm_image *const *images,
                                size_t image_count, fvlm_prompt *prompt, fvlm_error *error)
{
    *prompt = (fvlm_prompt){0};
    size_t marks = count_marks(text);
    if (marks != image_count)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                         "the prompt has %zu %s and %zu picture%s given: they must be as many", marks, IMAGE_MARK,
                         image_count, image_count == 1 ? " was" : "s were");
    prompt->pictures = fvlm_calloc(image_count, sizeof *prompt->pictures);
    if (!prompt->pictures)
        return fvlm_fail_memory(error);
    fvlm_status status = FVLM_OK;
    const char *rest = text;
    for (size_t i = 0; i <= image_count && !status; i++) {
        const char *mark = i < image_count ? strstr(rest, IMAGE_MARK) : rest + strlen(rest);
        status = add_text(engine, rest, (size_t)(mark - rest), prompt, error);
        if (status || i == image_count)
            break;
        status = fvlm_picture_prepare(engine, images[i], &prompt->pictures[i], error);
        if (status)
            break;
        prompt->picture_count++;
        status = add_picture(&prompt->pictures[i], prompt, error);
        rest = mark + strlen(IMAGE_MARK);
    }
    if (!status && prompt->count == 0)
        status = fvlm_fail(error, FVLM_ERROR_ARGUMENT, "the prompt is empty");
    if (!status && prompt->count > engine->context)
        status = fvlm_fail(error, FVLM_ERROR_LIMIT,
                           "the prompt takes %zu positions (%zu of pictures) and the context has %zu: shorten it, or "
                           "raise --ctx",
                           prompt->count, prompt->image_tokens, engine->context);
    if (status)
        fvlm_prompt_clear(prompt);
    return status;
}

void fvlm_prompt_clear(fvlm_prompt *prompt)
{
    for (size_t i = 0; i < prompt->picture_count; i++)
        fvlm_picture_clear(&prompt->pictures[i]);
    free(prompt->pictures);
    free(prompt->positions);
    *prompt = (fvlm_prompt){0};
}

static fvlm_picture *find_picture(const fvlm_prompt *prompt, uint64_t key)
{
    for (size_t i = 0; i < prompt->picture_count; i++)
        if (prompt->pictures[i].key == key)
            return &prompt->pictures[i];
    return NULL;
}

fvlm_status fvlm_prompt_encode(fvlm_engine *engine, const fvlm_prompt *prompt, size_t from, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    for (size_t i = from; i < prompt->count && !status; i++) {
        if (prompt->positions[i].token >= 0)
            continue;
        fvlm_picture *picture = find_picture(prompt, prompt->positions[i].picture);
        if (!picture->embeddings)
            status = fvlm_picture_encode(engine, picture, NULL, NULL, error);
        i += picture->count - 1 - prompt->positions[i].offset;
    }
    return status;
}

void fvlm_prompt_embed(const fvlm_engine *engine, const fvlm_prompt *prompt, size_t index, float *x)
{
    const fvlm_position *position = &prompt->positions[index];
    size_t hidden = engine->config.decoder.hidden;
    if (position->token >= 0)
        fvlm_decoder_embed(engine->decoder, position->token, x);
    else
        memcpy(x, find_picture(prompt, position->picture)->embeddings + position->offset * hidden, hidden * sizeof *x);
}
