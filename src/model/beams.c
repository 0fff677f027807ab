/* Beam search with the results of transformers' generate(num_beams=N, early_stopping=False).
 *
 * Beams share the prompt's slots of the KV cache and form a tree behind it: a node is one token in one slot, a beam is
 * the path from its last node to the root. Nothing is copied when beams fork; attention follows the path's slots.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "model/internal.h"
#include "text/sampler.h"

#define IMPOSSIBLE (-1e9f) /* what transformers gives to beams that must not be chosen */

/* A token of the tree. Its slot in the cache is the session's `used` + its index: every step but the last adds one
 * node for each running beam, in their order. */
struct node {
    int32_t token, parent; /* parent -1: the prompt */
};

struct beam {
    float score;  /* running: sum of log-probabilities; finished: that over length^penalty */
    int32_t node; /* the last one, or -1 */
    bool ended;   /* by an end-of-sequence token, which is not in the tree but counts in `length` */
    bool valid;   /* finished beams: there is one */
};

struct candidate {
    float score;
    int32_t token, beam;
};

struct search {
    fvlm_session *session;
    const fvlm_generation *generation;
    size_t beams, keep; /* keep: candidates of a step, enough to go on when some of them end */
    size_t vocabulary, max_tokens;
    struct node *nodes; /* [max_tokens * beams] */
    size_t node_count;
    struct beam running[FVLM_MAX_BEAMS];  /* [beams] */
    struct beam finished[FVLM_MAX_BEAMS]; /* [beams], best first */
    struct candidate *candidates;         /* [keep], best first */
    float *logits;                        /* [beams, vocabulary] */
    int32_t *tail;                        /* [beams, max_tokens]: the path's slots */
    fvlm_sampler *sampler;                /* applies the repetition penalty; NULL: there is none */
    int32_t *history;                     /* [used + max_tokens]: the prompt's tokens, then a beam's */
    bool improvable;                      /* a running beam may still beat a finished one */
};

static bool is_end(const struct search *search, int32_t token)
{
    return !search->generation->ignore_end && fvlm_engine_is_end(search->session->engine, token);
}

/* The path's nodes, first token first; its length. */
static size_t walk(const struct search *search, int32_t node, int32_t *path)
{
    size_t length = 0;
    for (int32_t at = node; at >= 0; at = search->nodes[at].parent)
        length++;
    size_t place = length;
    for (int32_t at = node; at >= 0; at = search->nodes[at].parent)
        path[--place] = at;
    return length;
}

static void to_log_probabilities(float *x, size_t count)
{
    float largest = -FLT_MAX;
    for (size_t i = 0; i < count; i++)
        largest = x[i] > largest ? x[i] : largest;
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += exp((double)x[i] - largest);
    float log_sum = (float)(largest + log(sum));
    for (size_t i = 0; i < count; i++)
        x[i] -= log_sum;
}

/* The log-probabilities after the repetition penalty over the prompt and the beam's own tokens. */
static const float *penalize(struct search *search, const struct beam *beam, const float *scores)
{
    const fvlm_session *session = search->session;
    if (!search->sampler)
        return scores;
    size_t length = walk(search, beam->node, search->history + session->used);
    for (size_t i = 0; i < length; i++)
        search->history[session->used + i] = search->nodes[search->history[session->used + i]].token;
    return fvlm_sampler_penalize(search->sampler, scores, search->history, session->used + length);
}

/* The `keep` best continuations of all beams, best first; of equals the lower beam and token. */
static size_t find_candidates(struct search *search)
{
    size_t count = 0;
    for (size_t b = 0; b < search->beams; b++) {
        float *logits = search->logits + b * search->vocabulary;
        if (b > 0 && search->node_count == 0)
            break; /* before the first token there is one beam */
        to_log_probabilities(logits, search->vocabulary);
        const float *scores = penalize(search, &search->running[b], logits);
        for (size_t token = 0; token < search->vocabulary; token++) {
            float score = search->running[b].score + scores[token];
            if (count == search->keep && !(score > search->candidates[count - 1].score))
                continue;
            size_t place = count < search->keep ? count++ : count - 1;
            for (; place > 0 && score > search->candidates[place - 1].score; place--)
                search->candidates[place] = search->candidates[place - 1];
            search->candidates[place] = (struct candidate){score, (int32_t)token, (int32_t)b};
        }
    }
    return count;
}

/* Put a finished beam in its place among the best. */
static void finish_beam(struct search *search, struct beam beam)
{
    size_t place = search->beams;
    while (place > 0 && (!search->finished[place - 1].valid || beam.score > search->finished[place - 1].score))
        place--;
    if (place == search->beams)
        return;
    memmove(&search->finished[place + 1], &search->finished[place],
            (search->beams - place - 1) * sizeof *search->finished);
    search->finished[place] = beam;
}

static float finished_score(const struct search *search, float sum, size_t length)
{
    return (float)(sum / pow((double)length, search->generation->length_penalty));
}

/* Share the candidates out among running and finished beams; `length` counts the tokens with the new one. False when
 * the search is over. */
static bool choose(struct search *search, size_t count, size_t length)
{
    bool last = length == search->max_tokens, all_ended = true;
    size_t running = 0;
    struct beam next[FVLM_MAX_BEAMS];
    for (size_t i = 0; i < count; i++) {
        const struct candidate *candidate = &search->candidates[i];
        int32_t parent = search->running[candidate->beam].node;
        bool ended = is_end(search, candidate->token);
        all_ended = all_ended && (ended || last);
        /* Only the best `beams` candidates may finish. */
        bool finishes = (ended || last) && i < search->beams && search->improvable;
        bool goes_on = !ended && !last && running < search->beams;
        if (!finishes && !goes_on)
            continue;
        int32_t node = parent;
        if (!ended) {
            node = (int32_t)search->node_count++;
            search->nodes[node] = (struct node){candidate->token, parent};
        }
        if (finishes)
            finish_beam(search, (struct beam){.score = finished_score(search, candidate->score, length),
                                              .node = node,
                                              .ended = ended,
                                              .valid = true});
        else
            next[running++] = (struct beam){.score = candidate->score, .node = node};
    }
    for (size_t b = 0; b < search->beams; b++)
        search->running[b] = b < running ? next[b] : (struct beam){.score = IMPOSSIBLE, .node = -1};

    /* transformers' early-stop heuristic: can the best running beam still beat the worst finished one? */
    const struct beam *worst = &search->finished[search->beams - 1];
    float best_possible = finished_score(search, search->running[0].score, length);
    search->improvable = search->improvable && (!worst->valid || best_possible > worst->score);
    return !last && !all_ended && running > 0 && search->improvable;
}

/* The new tokens of all running beams through the decoder, in one batch. */
static void advance(struct search *search, size_t length)
{
    fvlm_session *session = search->session;
    fvlm_engine *engine = session->engine;
    size_t hidden = engine->config.decoder.hidden;
    float *x = engine->workspace, *workspace = x + search->beams * hidden;
    int32_t positions[FVLM_MAX_BEAMS];
    fvlm_pool_acquire(engine->pool);
    for (size_t b = 0; b < search->beams; b++) {
        int32_t *path = search->tail + b * search->max_tokens;
        walk(search, search->running[b].node, path);
        for (size_t i = 0; i < length; i++)
            path[i] += (int32_t)session->used;
        positions[b] = (int32_t)(session->used + length - 1);
        fvlm_decoder_embed(engine->decoder, search->nodes[search->running[b].node].token, x + b * hidden);
    }
    fvlm_rows rows = {.count = search->beams,
                      .positions = positions,
                      .first_slot = session->used + search->node_count - search->beams,
                      .prefix = session->used,
                      .tail = search->tail,
                      .tail_count = length,
                      .tail_stride = search->max_tokens};
    fvlm_decoder_forward(engine->decoder, engine->pool, &session->cache, &rows, x, workspace);
    fvlm_decoder_logits(engine->decoder, engine->pool, x, search->beams, search->logits, workspace);
    fvlm_pool_release(engine->pool);
}

static fvlm_status allocate(struct search *search, fvlm_error *error)
{
    size_t tree, logits;
    if (!fvlm_size_multiply(search->beams, search->max_tokens, &tree) ||
        !fvlm_size_multiply(search->beams, search->vocabulary, &logits) ||
        !fvlm_size_multiply(logits, sizeof *search->logits, &logits))
        return fvlm_fail_memory(error);
    search->nodes = fvlm_calloc(tree, sizeof *search->nodes);
    search->tail = fvlm_calloc(tree, sizeof *search->tail);
    search->candidates = fvlm_calloc(search->keep, sizeof *search->candidates);
    search->logits = fvlm_aligned_alloc(logits);
    search->history = fvlm_calloc(search->session->used + search->max_tokens, sizeof *search->history);
    return search->nodes && search->tail && search->candidates && search->logits && search->history
               ? FVLM_OK
               : fvlm_fail_memory(error);
}

static void release(struct search *search)
{
    free(search->nodes);
    free(search->tail);
    free(search->candidates);
    free(search->history);
    fvlm_aligned_free(search->logits);
    fvlm_sampler_destroy(&search->sampler);
}

/* answers [beams] from the finished beams; where fewer finished, the rest stay empty. */
static fvlm_status collect(const struct search *search, fvlm_answer *answers, fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    for (size_t b = 0; b < search->beams && !status; b++) {
        const struct beam *beam = &search->finished[b];
        answers[b].tokens = fvlm_calloc(search->max_tokens, sizeof *answers[b].tokens);
        if (!answers[b].tokens)
            return fvlm_fail_memory(error);
        if (beam->valid) {
            answers[b].token_count = walk(search, beam->node, answers[b].tokens);
            for (size_t i = 0; i < answers[b].token_count; i++)
                answers[b].tokens[i] = search->nodes[answers[b].tokens[i]].token;
        }
        answers[b].finish = beam->ended ? FVLM_FINISH_STOP : FVLM_FINISH_LENGTH;
        answers[b].score = beam->score;
        status = fvlm_answer_decode(search->session, &answers[b], error);
    }
    return status;
}

fvlm_status fvlm_session_beams(fvlm_session *session, const fvlm_generation *generation, fvlm_answer *answers,
                               fvlm_error *error)
{
    const fvlm_config *config = &session->engine->config;
    size_t beams = (size_t)generation->beams, ends = generation->ignore_end ? 0 : config->end_token_count;
    size_t room = (session->engine->context - session->used) / beams + 1;
    struct search search = {.session = session,
                            .generation = generation,
                            .beams = beams,
                            .keep = beams * (ends > 0 ? 1 + ends : 2),
                            .vocabulary = config->decoder.vocabulary,
                            .max_tokens = (size_t)generation->max_tokens < room ? (size_t)generation->max_tokens : room,
                            .improvable = true};
    if (search.keep > search.vocabulary)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%zu beams are too many for a vocabulary of %zu", beams,
                         search.vocabulary);
    for (size_t b = 0; b < beams; b++) {
        search.running[b] = (struct beam){.score = b == 0 ? 0 : IMPOSSIBLE, .node = -1};
        answers[b] = (fvlm_answer){0};
    }
    fvlm_status status = allocate(&search, error);
    double start = fvlm_clock_ms(), first = start;
    float penalty = generation->sampling.repetition_penalty;
    if (!status && penalty != 0 && penalty != 1)
        status = fvlm_sampler_create(&generation->sampling, search.vocabulary, &search.sampler, error);
    if (!status) {
        memcpy(search.history, session->history, session->used * sizeof *search.history);
        memcpy(search.logits, session->logits, search.vocabulary * sizeof *search.logits);
        for (size_t length = 1; choose(&search, find_candidates(&search), length); length++) {
            if (length == 1)
                first = fvlm_clock_ms();
            advance(&search, length);
        }
        status = collect(&search, answers, error);
    }
    for (size_t b = 0; b < beams; b++) {
        if (status)
            fvlm_answer_clear(&answers[b]);
        answers[b].first_ms = first - start;
        answers[b].decode_ms = fvlm_clock_ms() - first;
    }
    release(&search);
    return status;
}
