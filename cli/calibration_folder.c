/* Reading a folder of pictures and prompts. */
#include "calibration_folder.h"

#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "fastvlm/dataset.h"
#include "options.h"

#define PROMPTS "prompts.txt"
#define PROMPTS_LIMIT ((size_t)64 << 20)

/* Keep a text (or an array) until the calibration is cleared; NULL, also for a NULL, when out of memory. */
static void *keep(cli_calibration *calibration, void *text)
{
    if (!text || calibration->text_count < calibration->text_capacity)
        return text ? calibration->texts[calibration->text_count++] = text : NULL;
    size_t capacity = calibration->text_capacity ? 2 * calibration->text_capacity : 256;
    char **texts = realloc(calibration->texts, capacity * sizeof *texts);
    if (!texts) {
        free(text);
        return NULL;
    }
    calibration->texts = texts;
    calibration->text_capacity = capacity;
    return calibration->texts[calibration->text_count++] = text;
}

/* The next sample, with the paths of `names` [count] in `folder`. Its prompt and its answer are kept. */
static fvlm_status add(cli_calibration *calibration, const char *folder, char *prompt, const char *answer,
                       const char *const *names, size_t count, fvlm_error *error)
{
    fvlm_calibration_sample *samples =
        realloc(calibration->samples, (calibration->count + 1) * sizeof *calibration->samples);
    char *kept = keep(calibration, prompt), *reference = answer ? keep(calibration, fvlm_strdup(answer)) : NULL;
    const char **paths = keep(calibration, fvlm_calloc(count + 1, sizeof *paths));
    if (samples)
        calibration->samples = samples;
    bool fine = samples && kept && paths && (reference || !answer);
    for (size_t i = 0; i < count && fine; i++)
        fine = (paths[i] = keep(calibration, fvlm_path_join(folder, names[i])));
    if (!fine)
        return fvlm_fail_memory(error);
    samples[calibration->count++] = (fvlm_calibration_sample){kept, paths, count, reference};
    return FVLM_OK;
}

/* The first question of a data set's sample. */
static fvlm_status add_sample(cli_calibration *calibration, const char *folder, fvlm_conversation *sample,
                              fvlm_error *error)
{
    char *rendered, *prompt;
    size_t shown = cli_placeholders(sample->turns[0].text);
    const char *answer = sample->turns[1].text;
    sample->turns[1].text = NULL;
    fvlm_status status =
        fvlm_template_render(cli_prompt.template_name, sample->system ? sample->system : cli_prompt.system,
                             sample->turns, 2, &rendered, error);
    sample->turns[1].text = answer; /* which the prompt goes without */
    if (status)
        return status;
    prompt = fvlm_strdup(rendered);
    fvlm_free(rendered);
    return add(calibration, folder, prompt, answer, sample->images, shown, error);
}

static fvlm_status read_dataset(const char *folder, const char *name, size_t limit, cli_calibration *calibration,
                                fvlm_error *error)
{
    fvlm_dataset *dataset = NULL;
    char *path = fvlm_path_join(folder, name);
    const char *paths[] = {path};
    fvlm_status status = path ? fvlm_dataset_open(paths, NULL, 1, &dataset, error) : fvlm_fail_memory(error);
    size_t count = status ? 0 : fvlm_dataset_count(dataset);
    for (size_t i = 0; !status && i < count && (!limit || i < limit); i++) {
        fvlm_conversation sample;
        status = fvlm_dataset_read(dataset, i, &sample, error);
        if (!status) {
            status = add_sample(calibration, folder, &sample, error);
            fvlm_conversation_clear(&sample);
        }
    }
    fvlm_dataset_close(&dataset);
    free(path);
    return status;
}

/* Cut `text` into lines that are not blank; *lines [*count] point into it. */
static fvlm_status cut_lines(char *text, char ***lines, size_t *count, fvlm_error *error)
{
    size_t most = 1;
    for (const char *c = text; *c; c++)
        most += *c == '\n';
    *count = 0;
    *lines = fvlm_calloc(most, sizeof **lines);
    if (!*lines)
        return fvlm_fail_memory(error);
    for (char *line = text; line && *line;) {
        char *next = strchr(line, '\n');
        size_t length = strcspn(line, "\r\n");
        if (next)
            next++;
        line[length] = '\0';
        if (line[strspn(line, " \t")])
            (*lines)[(*count)++] = line;
        line = next;
    }
    return FVLM_OK;
}

static fvlm_status read_prompts(const char *folder, char **names, size_t name_count, size_t limit,
                                cli_calibration *calibration, fvlm_error *error)
{
    char *path = fvlm_path_join(folder, PROMPTS), *text = NULL, **lines = NULL;
    size_t bytes, line_count = 0, picture_count = 0;
    fvlm_status status = path ? fvlm_file_read(path, PROMPTS_LIMIT, &text, &bytes, error) : fvlm_fail_memory(error);
    if (!status)
        status = cut_lines(text, &lines, &line_count, error);
    for (size_t i = 0; i < name_count; i++) /* what is not prompts.txt or hidden is a picture */
        if (strcmp(names[i], PROMPTS) != 0 && names[i][0] != '.') {
            char *name = names[i];
            names[i] = names[picture_count];
            names[picture_count++] = name;
        }
    if (!status && (line_count == 0 || picture_count == 0))
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s has no %s", folder,
                           line_count ? "pictures" : "prompts in its " PROMPTS);
    size_t count = line_count > picture_count ? line_count : picture_count;
    for (size_t i = 0; i < count && (!limit || i < limit) && !status; i++) {
        const char *picture = names[i % picture_count];
        char *rendered;
        status = cli_question_prompt(lines[i % line_count], 1, &rendered, error);
        if (status)
            break;
        status = add(calibration, folder, fvlm_strdup(rendered), NULL, &picture, 1, error);
        fvlm_free(rendered);
    }
    free(lines);
    free(text);
    free(path);
    return status;
}

static bool ends_in(const char *name, const char *suffix)
{
    size_t length = strlen(name), tail = strlen(suffix);
    return length > tail && strcmp(name + length - tail, suffix) == 0;
}

fvlm_status cli_calibration_read(const char *folder, size_t limit, cli_calibration *calibration, fvlm_error *error)
{
    char **names;
    size_t count;
    const char *dataset = NULL;
    bool prompts = false;
    *calibration = (cli_calibration){0};
    fvlm_status status = fvlm_folder_list(folder, &names, &count, error);
    if (status)
        return status;
    for (size_t i = count; i-- > 0;) {
        if (ends_in(names[i], ".json") || ends_in(names[i], ".jsonl"))
            dataset = names[i];
        prompts = prompts || strcmp(names[i], PROMPTS) == 0;
    }
    if (dataset)
        status = read_dataset(folder, dataset, limit, calibration, error);
    else if (prompts)
        status = read_prompts(folder, names, count, limit, calibration, error);
    else
        status = fvlm_fail(error, FVLM_ERROR_IO,
                           "%s has neither a .json file of samples nor " PROMPTS " with a prompt a line", folder);
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
    if (!status && calibration->count == 0)
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s has no samples", folder);
    return status;
}

void cli_calibration_clear(cli_calibration *calibration)
{
    for (size_t i = 0; i < calibration->text_count; i++)
        free(calibration->texts[i]);
    free(calibration->texts);
    free(calibration->samples);
    *calibration = (cli_calibration){0};
}
