/* Sessions: the KV cache, what it holds, and prefilling what it does not. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/internal.h"

fvlm_status fvlm_session_open(fvlm_engine *engine, fvlm_session **out, fvlm_error *error)
{
    *out = NULL;
    fvlm_session *session = fvlm_calloc(1, sizeof *session);
    if (!session)
        return fvlm_fail_memory(error);
    session->engine = engine;
    session->held = fvlm_calloc(engine->context, sizeof *session->held);
    session->history = fvlm_calloc(engine->context, sizeof *session->history);
    session->logits = fvlm_aligned_alloc(engine->config.decoder.vocabulary * sizeof *session->logits);
    fvlm_status status = session->held && session->history && session->logits ? FVLM_OK : fvlm_fail_memory(error);
    if (!status)
        status = fvlm_kv_cache_create(engine->decoder, engine->context, engine->kv_type, &session->cache, error);
    if (status)
        fvlm_session_close(&session);
    *out = session;
    return status;
}

void fvlm_session_close(fvlm_session **session)
{
    if (!*session)
        return;
    fvlm_kv_cache_destroy(&(*session)->cache);
    fvlm_aligned_free((*session)->logits);
    free((*session)->held);
    free((*session)->history);
    free(*session);
    *session = NULL;
}

const float *fvlm_session_logits(const fvlm_session *session)
{
    return session->used > 0 ? session->logits : NULL;
}

static bool same_position(const fvlm_position *a, const fvlm_position *b)
{
    return a->token == b->token && a->offset == b->offset && a->picture == b->picture;
}

/* How many of the prompt's positions the cache holds already. The last one is always run: its logits are wanted. */
static size_t common_prefix(const fvlm_session *session, const fvlm_prompt *prompt)
{
    size_t most = session->used < prompt->count - 1 ? session->used : prompt->count - 1, common = 0;
    while (common < most && same_position(&session->held[common], &prompt->positions[common]))
        common++;
    return common;
}

void fvlm_session_run(fvlm_session *session, const fvlm_prompt *prompt, size_t from, fvlm_rows_fn on_rows, void *user)
{
    fvlm_engine *engine = session->engine;
    size_t hidden = engine->config.decoder.hidden;
    float *x = engine->workspace, *workspace = x + FVLM_DECODER_ROWS * hidden; /* x [FVLM_DECODER_ROWS, hidden] */
    int32_t positions[FVLM_DECODER_ROWS];
    for (size_t start = from; start < prompt->count; start += FVLM_DECODER_ROWS) {
        size_t rest = prompt->count - start, count = rest < FVLM_DECODER_ROWS ? rest : FVLM_DECODER_ROWS;
        for (size_t i = 0; i < count; i++) {
            positions[i] = (int32_t)(start + i);
            fvlm_prompt_embed(engine, prompt, start + i, x + i * hidden);
        }
        /* Of the last layer's outputs only the last row's become logits. */
        size_t unread = on_rows ? 0 : count == rest ? count - 1 : count;
        fvlm_rows rows = {.count = count, .positions = positions, .first_slot = start, .unread = unread};
        fvlm_decoder_forward(engine->decoder, engine->pool, &session->cache, &rows, x, workspace);
        if (on_rows)
            on_rows(user, start, count, x);
        if (count == rest)
            fvlm_decoder_logits(engine->decoder, engine->pool, x + (count - 1) * hidden, 1, session->logits, workspace);
    }
    for (size_t i = from; i < prompt->count; i++)
        fvlm_session_hold(session, i, prompt->positions[i]);
    session->used = prompt->count;
}

fvlm_status fvlm_session_prefill(fvlm_session *session, const char *prompt_text, const fvlm_image *const *images,
                                 size_t image_count, fvlm_prefill_stats *stats, fvlm_error *error)
{
    fvlm_prompt prompt;
    double start = fvlm_clock_ms();
    fvlm_status status = fvlm_prompt_prepare(session->engine, prompt_text, images, image_count, &prompt, error);
    if (status)
        return status;
    size_t common = common_prefix(session, &prompt);
    fvlm_pool_acquire(session->engine->pool);
    status = fvlm_prompt_encode(session->engine, &prompt, common, error);
    double encoded = fvlm_clock_ms();
    if (!status)
        fvlm_session_run(session, &prompt, common, NULL, NULL);
    fvlm_pool_release(session->engine->pool);
    if (!status && stats)
        *stats = (fvlm_prefill_stats){.prompt_tokens = (int)prompt.count,
                                      .image_tokens = (int)prompt.image_tokens,
                                      .reused_tokens = (int)common,
                                      .encode_ms = encoded - start,
                                      .prefill_ms = fvlm_clock_ms() - encoded};
    fvlm_prompt_clear(&prompt);
    return status;
}
