/* Writing an answer: pick a token, give out its text, run it through the decoder, until something ends it. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text_buffer.h"
#include "model/internal.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

#define DEFAULT_MAX_TOKENS 256 /* the published predict.py's max_new_tokens */

void fvlm_answer_clear(fvlm_answer *answer)
{
    free(answer->text);
    free(answer->tokens);
    *answer = (fvlm_answer){0};
}

fvlm_status fvlm_answer_decode(const fvlm_session *session, fvlm_answer *answer, fvlm_error *error)
{
    return fvlm_tokenizer_decode(session->engine->tokenizer, answer->tokens, answer->token_count, true, &answer->text,
                                 NULL, error);
}

/* The answer's text as it grows. Text that may be the beginning of a stop string is held back. */
struct stream {
    fvlm_text_buffer text;
    size_t given; /* bytes that were given out */
    const fvlm_generation *generation;
    fvlm_text_fn on_text;
    void *user;
    bool stopped; /* a stop string came, or the callback said so */
    fvlm_finish finish;
};

static void give_out(struct stream *stream, size_t until)
{
    size_t bytes = until - stream->given;
    if (bytes == 0 || stream->stopped)
        return;
    if (stream->on_text && !stream->on_text(stream->user, stream->text.data + stream->given, bytes)) {
        stream->stopped = true;
        stream->finish = FVLM_FINISH_CALLBACK;
    }
    stream->given = until;
}

/* Where the first stop string begins at or after `from`; the text's length where there is none. */
static size_t find_stop(const struct stream *stream, size_t from, bool *found)
{
    size_t first = stream->text.length;
    *found = false;
    for (size_t i = 0; i < stream->generation->stop_count; i++) {
        const char *stop = stream->generation->stop[i];
        const char *at = stop[0] ? strstr(stream->text.data + from, stop) : NULL;
        if (at && (size_t)(at - stream->text.data) <= first) {
            first = (size_t)(at - stream->text.data);
            *found = true;
        }
    }
    return first;
}

/* Bytes at the end of the text that a stop string begins with. */
static size_t held_back(const struct stream *stream)
{
    const char *text = stream->text.data;
    size_t length = stream->text.length, most = 0;
    for (size_t i = 0; i < stream->generation->stop_count; i++) {
        const char *stop = stream->generation->stop[i];
        size_t bytes = strlen(stop);
        for (size_t n = bytes < length - stream->given ? bytes : length - stream->given; n > most; n--)
            if (memcmp(text + length - n, stop, n) == 0)
                most = n;
    }
    return most;
}

static fvlm_status stream_add(struct stream *stream, const char *text, size_t bytes, fvlm_error *error)
{
    fvlm_text_append(&stream->text, text, bytes);
    if (stream->text.failed)
        return fvlm_fail_memory(error);
    bool found;
    size_t end = find_stop(stream, stream->given, &found);
    if (found) {
        give_out(stream, end);
        stream->text.length = end;
        stream->text.data[end] = '\0';
        if (!stream->stopped)
            stream->finish = FVLM_FINISH_STOP;
        stream->stopped = true;
    } else {
        give_out(stream, stream->text.length - held_back(stream));
    }
    return FVLM_OK;
}

/* Run one token through the decoder. */
static void advance(fvlm_session *session, int32_t token)
{
    fvlm_engine *engine = session->engine;
    float *x = engine->workspace, *workspace = x + engine->config.decoder.hidden;
    int32_t position = (int32_t)session->used;
    fvlm_rows rows = {.count = 1, .positions = &position, .first_slot = session->used};
    fvlm_pool_acquire(engine->pool);
    fvlm_decoder_embed(engine->decoder, token, x);
    fvlm_decoder_forward(engine->decoder, engine->pool, &session->cache, &rows, x, workspace);
    fvlm_decoder_logits(engine->decoder, engine->pool, x, 1, session->logits, workspace);
    fvlm_pool_release(engine->pool);
    fvlm_session_hold(session, session->used++, (fvlm_position){.token = token});
}

static fvlm_status write_answer(fvlm_session *session, fvlm_sampler *sampler, fvlm_detokenizer *detokenizer,
                                struct stream *stream, size_t max_tokens, fvlm_answer *answer, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    double start = fvlm_clock_ms(), first = start;
    const char *text;
    size_t bytes;
    stream->finish = FVLM_FINISH_LENGTH;
    while (!status && !stream->stopped && answer->token_count < max_tokens) {
        int32_t token = fvlm_sampler_next(sampler, session->logits, session->history, session->used);
        if (answer->token_count == 0)
            first = fvlm_clock_ms();
        answer->decode_ms = fvlm_clock_ms() - first;
        if (!stream->generation->ignore_end && fvlm_engine_is_end(session->engine, token)) {
            stream->finish = FVLM_FINISH_STOP;
            break;
        }
        answer->tokens[answer->token_count++] = token;
        status = fvlm_detokenizer_add(detokenizer, token, &text, &bytes, error);
        if (!status)
            status = stream_add(stream, text, bytes, error);
        if (session->used == session->engine->context)
            break;
        if (!status && !stream->stopped && answer->token_count < max_tokens)
            advance(session, token);
    }
    if (!status && !stream->stopped)
        status = fvlm_detokenizer_finish(detokenizer, &text, &bytes, error);
    if (!status && !stream->stopped) {
        status = stream_add(stream, text, bytes, error);
        give_out(stream, stream->text.length); /* what was held back is no stop string after all */
    }
    answer->first_ms = first - start;
    answer->finish = stream->finish;
    return status;
}

static fvlm_status check_generation(const fvlm_session *session, const fvlm_generation *generation, fvlm_error *error)
{
    if (session->used == 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "there is no prompt to answer");
    if (generation->max_tokens < 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "max tokens %d: use 1 or more", generation->max_tokens);
    if (generation->beams < 0 || generation->beams > FVLM_MAX_BEAMS)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%d beams: use 1 to %d", generation->beams, FVLM_MAX_BEAMS);
    if (generation->beams > 1 && generation->sampling.temperature > 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "beam search takes no temperature: set it to 0");
    if (generation->beams > 1 && generation->stop_count > 0)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "beam search takes no stop strings");
    return FVLM_OK;
}

fvlm_status fvlm_session_generate(fvlm_session *session, const fvlm_generation *generation, fvlm_text_fn on_text,
                                  void *user, fvlm_answer *answers, fvlm_error *error)
{
    fvlm_status status = check_generation(session, generation, error);
    if (status)
        return status;
    fvlm_generation checked = *generation;
    if (checked.max_tokens == 0)
        checked.max_tokens = DEFAULT_MAX_TOKENS;
    if (checked.beams > 1)
        return fvlm_session_beams(session, &checked, answers, error);

    /* A context with n free positions takes n + 1 more tokens: the last one is not run. */
    size_t room = session->engine->context - session->used + 1;
    size_t max_tokens = (size_t)checked.max_tokens < room ? (size_t)checked.max_tokens : room;
    struct stream stream = {.generation = &checked, .on_text = on_text, .user = user};
    fvlm_sampler *sampler = NULL;
    fvlm_detokenizer *detokenizer = NULL;
    fvlm_answer *answer = &answers[0];
    *answer = (fvlm_answer){.tokens = fvlm_calloc(max_tokens, sizeof *answer->tokens)};
    status = answer->tokens ? FVLM_OK : fvlm_fail_memory(error);
    if (!status)
        status = fvlm_sampler_create(&checked.sampling, session->engine->config.decoder.vocabulary, &sampler, error);
    if (!status)
        status = fvlm_detokenizer_create(session->engine->tokenizer, &detokenizer, error);
    if (!status)
        status = write_answer(session, sampler, detokenizer, &stream, max_tokens, answer, error);
    if (!status) {
        answer->text = fvlm_text_take(&stream.text);
        if (!answer->text)
            status = fvlm_fail_memory(error);
    }
    fvlm_text_clear(&stream.text);
    fvlm_detokenizer_destroy(&detokenizer);
    fvlm_sampler_destroy(&sampler);
    if (status)
        fvlm_answer_clear(answer);
    return status;
}
