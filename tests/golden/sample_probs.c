/* Writes the distribution a sampler draws from, for test_golden.py: sample_probs TEMPERATURE TOP_P TOP_K MIN_P PENALTY.
 * stdin: int32 vocabulary, int32 count, int32 history [count], float32 logits [vocabulary]; stdout: float32
 * [vocabulary]. */
#include <stdio.h>
#include <stdlib.h>

#include "text/sampler.h"

#define MOST 1000000 /* tokens in a vocabulary or history */

static int fail(const char *why)
{
    fprintf(stderr, "sample_probs: %s\n", why);
    return 1;
}

static int write_probabilities(const fvlm_sampling *sampling, const float *logits, size_t vocabulary,
                               const int32_t *history, size_t count)
{
    fvlm_error error;
    fvlm_sampler *sampler = NULL;
    if (fvlm_sampler_create(sampling, vocabulary, &sampler, &error))
        return fail(error.message);
    const float *probabilities = fvlm_sampler_probabilities(sampler, logits, history, count);
    size_t written = fwrite(probabilities, sizeof *probabilities, vocabulary, stdout);
    fvlm_sampler_destroy(&sampler);
    return written == vocabulary && fflush(stdout) == 0 ? 0 : fail("stdout is full");
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return fail("usage: sample_probs TEMPERATURE TOP_P TOP_K MIN_P PENALTY");
    fvlm_sampling sampling = {.temperature = strtof(argv[1], NULL),
                              .top_p = strtof(argv[2], NULL),
                              .top_k = atoi(argv[3]),
                              .min_p = strtof(argv[4], NULL),
                              .repetition_penalty = strtof(argv[5], NULL)};
    int32_t sizes[2];
    if (fread(sizes, sizeof *sizes, 2, stdin) != 2 || sizes[0] <= 0 || sizes[0] > MOST || sizes[1] < 0 ||
        sizes[1] > MOST)
        return fail("no sizes on stdin");
    size_t vocabulary = (size_t)sizes[0], count = (size_t)sizes[1];
    int32_t *history = malloc((count + 1) * sizeof *history);
    float *logits = malloc(vocabulary * sizeof *logits);
    int code = 1;
    if (!history || !logits)
        fail("out of memory");
    else if (fread(history, sizeof *history, count, stdin) != count ||
             fread(logits, sizeof *logits, vocabulary, stdin) != vocabulary)
        fail("stdin ends early");
    else
        code = write_probabilities(&sampling, logits, vocabulary, history, count);
    free(history);
    free(logits);
    return code;
}
