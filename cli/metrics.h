/* How good an answer is beside references, as the tasks score it. */
#ifndef FVLM_CLI_METRICS_H
#define FVLM_CLI_METRICS_H

#include <stdbool.h>
#include <stddef.h>

/* Whether it is one of references [count], but for blanks around it. */
bool cli_exact_match(const char *answer, const char *const *references, size_t count);

/* Average normalised Levenshtein similarity of one answer (Biten et al., arXiv 1905.13648): 1 - edits / length of the
 * longer, over characters, without case and surplus blanks, of the reference it is nearest to; 0 below one half.
 * Negative when out of memory. */
double cli_anls(const char *answer, const char *const *references, size_t count);

/* VQA's accuracy (Antol et al., arXiv 1505.00468): with the answers of several people, the mean over leaving each out
 * of min(1, equal answers / 3); with one, whether they are equal. Compared are words without case, articles and
 * punctuation, numbers as digits. Negative when out of memory. */
double cli_vqa_accuracy(const char *answer, const char *const *references, size_t count);

#endif
