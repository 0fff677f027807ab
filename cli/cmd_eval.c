/* fastvlm eval: ask every question of a data set, and count the answers that are exactly the reference.
 *
 * A sample's later questions see the earlier ones with their reference answers, as in training. Blanks around an answer
 * do not count. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "base/file.h"
#include "base/memory.h"
#include "command.h"
#include "dataset.h"
#include "options.h"
#include "output.h"

static char *data_path, *image_folder, *predictions_path;
static int as_json, quiet;

static const struct poptOption table[] = {
    {"data", 'd', POPT_ARG_STRING, &data_path, 0, "Questions in LLaVA's format: a JSON list, or JSON lines", "FILE"},
    {"image-folder", '\0', POPT_ARG_STRING, &image_folder, 0, "Where the pictures are (default: this folder)", "DIR"},
    {"image_folder", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &image_folder, 0, NULL, NULL},
    {"predictions", '\0', POPT_ARG_STRING, &predictions_path, 0, "Write every answer there, a JSON object a line",
     "FILE"},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object instead of the table", NULL},
    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "No progress", NULL},
    CLI_MODEL_GROUP,
    CLI_GENERATION_GROUP,
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "eval",
    .arguments = "--data FILE [--image-folder DIR] [OPTION...]",
    .about = "score a model by exact match, with a table by kind of question",
    .example = "  fastvlm eval --model ./checkpoint --data questions.json --image-folder pictures --json"};

typedef struct tally {
    char *kind;
    size_t correct, total;
} tally;

typedef struct evaluation {
    fvlm_session *session;
    fvlm_generation generation;
    fvlm_writer *predictions; /* NULL: not asked for */
    tally *kinds;             /* [kind_count], in the order in which they came up */
    size_t kind_count;
    tally all;
    cli_progress progress;
} evaluation;

/* Text without blanks around it: *length of it from the returned place. */
static const char *trimmed(const char *text, size_t *length)
{
    while (isspace((unsigned char)*text))
        text++;
    *length = strlen(text);
    while (*length > 0 && isspace((unsigned char)text[*length - 1]))
        --*length;
    return text;
}

static bool matches(const char *answer, const char *reference)
{
    size_t a, b;
    answer = trimmed(answer, &a);
    reference = trimmed(reference, &b);
    return a == b && memcmp(answer, reference, a) == 0;
}

/* The kind of a question whose sample names none: its first word, in small letters. */
static char *first_word(const char *question)
{
    while (strncmp(question, "<image>\n", 8) == 0)
        question += 8;
    size_t length;
    question = trimmed(question, &length);
    size_t word = strcspn(question, " \t\r\n?.,:;!");
    char *kind = fvlm_calloc(word + 1, 1);
    for (size_t i = 0; kind && i < word; i++)
        kind[i] = (char)tolower((unsigned char)question[i]);
    return kind;
}

/* The tally of `kind`, which it takes over; NULL when out of memory. */
static tally *tally_of(evaluation *e, char *kind)
{
    for (size_t i = 0; kind && i < e->kind_count; i++) {
        if (strcmp(e->kinds[i].kind, kind) == 0) {
            free(kind);
            return &e->kinds[i];
        }
    }
    tally *kinds = kind ? realloc(e->kinds, (e->kind_count + 1) * sizeof *kinds) : NULL;
    if (!kinds) {
        free(kind);
        return NULL;
    }
    e->kinds = kinds;
    kinds[e->kind_count] = (tally){.kind = kind};
    return &kinds[e->kind_count++];
}

static fvlm_status write_prediction(evaluation *e, const cli_sample *sample, const char *kind, const char *question,
                                    const char *reference, const fvlm_answer *answer, bool correct, fvlm_error *error)
{
    json_t *object = json_pack("{so so so so so sb}", "id", cli_json_text(sample->id), "kind", cli_json_text(kind),
                               "question", cli_json_text(question), "reference", cli_json_text(reference), "answer",
                               cli_json_text(answer->text), "correct", correct);
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(object);
    if (!line)
        return fvlm_fail_memory(error);
    fvlm_status status = fvlm_writer_write(e->predictions, line, strlen(line), error);
    if (status == FVLM_OK)
        status = fvlm_writer_write(e->predictions, "\n", 1, error);
    free(line);
    return status;
}

/* Ask the question that is turn `at` (even) of the sample; the turns before it are the context. */
static fvlm_status ask(evaluation *e, const cli_sample *sample, const cli_images *images, size_t at, fvlm_error *error)
{
    const char *question = sample->turns[at].text, *reference = sample->turns[at + 1].text;
    size_t shown = 0;
    for (size_t i = 0; i <= at; i += 2)
        shown += cli_placeholders(sample->turns[i].text);
    sample->turns[at + 1].text = NULL;
    char *prompt;
    fvlm_answer *answers = NULL;
    size_t beams = (size_t)e->generation.beams;
    fvlm_status status =
        fvlm_template_render(cli_prompt.template_name, cli_prompt.system, sample->turns, at + 2, &prompt, error);
    sample->turns[at + 1].text = reference;
    if (status)
        return status;
    if (!(answers = fvlm_calloc(beams, sizeof *answers)))
        status = fvlm_fail_memory(error);
    if (status == FVLM_OK)
        status = fvlm_session_prefill(e->session, prompt, (const fvlm_image *const *)images->items, shown, NULL, error);
    if (status == FVLM_OK)
        status = fvlm_session_generate(e->session, &e->generation, NULL, NULL, answers, error);
    if (status == FVLM_OK) {
        bool correct = matches(answers[0].text, reference);
        tally *kind = tally_of(e, sample->kind ? fvlm_strdup(sample->kind) : first_word(question));
        if (!kind) {
            status = fvlm_fail_memory(error);
        } else {
            kind->total++;
            kind->correct += correct;
            e->all.total++;
            e->all.correct += correct;
            if (e->predictions)
                status = write_prediction(e, sample, kind->kind, question, reference, answers, correct, error);
        }
    }
    for (size_t i = 0; answers && i < beams; i++)
        fvlm_answer_clear(&answers[i]);
    free(answers);
    fvlm_free(prompt);
    return status;
}

static fvlm_status ask_sample(evaluation *e, const cli_sample *sample, fvlm_error *error)
{
    cli_images images = {0};
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; status == FVLM_OK && i < sample->image_count; i++) {
        char *path = fvlm_path_join(image_folder ? image_folder : "", sample->images[i]);
        status = path ? cli_images_add(&images, path, error) : fvlm_fail_memory(error);
        free(path);
    }
    for (size_t at = 0; status == FVLM_OK && at < sample->turn_count; at += 2) {
        status = ask(e, sample, &images, at, error);
        cli_progress_update(&e->progress, e->all.total);
    }
    cli_images_clear(&images);
    return status;
}

/* Read every sample, so that a fault in the data shows before hours of work; *questions is their number. */
static fvlm_status count_questions(const json_t *samples, uint64_t *questions, fvlm_error *error)
{
    *questions = 0;
    for (size_t i = 0; i < json_array_size(samples); i++) {
        cli_sample sample;
        fvlm_status status = cli_sample_read(samples, i, &sample, error);
        if (status)
            return status;
        *questions += sample.turn_count / 2;
        cli_sample_clear(&sample);
    }
    return FVLM_OK;
}

static fvlm_status run(evaluation *e, const json_t *samples, fvlm_error *error)
{
    uint64_t questions;
    fvlm_status status = count_questions(samples, &questions, error);
    cli_progress_start(&e->progress, "evaluating", "questions", 0, questions, quiet);
    for (size_t i = 0; status == FVLM_OK && i < json_array_size(samples); i++) {
        cli_sample sample;
        status = cli_sample_read(samples, i, &sample, error);
        if (status == FVLM_OK)
            status = ask_sample(e, &sample, error);
        cli_sample_clear(&sample);
    }
    if (status == FVLM_OK)
        cli_progress_finish(&e->progress, e->all.total);
    if (status == FVLM_OK && e->predictions)
        status = fvlm_writer_commit(&e->predictions, error);
    return status;
}

static double accuracy(const tally *t)
{
    return t->total ? (double)t->correct / (double)t->total : 0;
}

static json_t *tally_json(const tally *t)
{
    return json_pack("{sI sI sf}", "correct", (json_int_t)t->correct, "total", (json_int_t)t->total, "accuracy",
                     accuracy(t));
}

static int report(const evaluation *e, double seconds)
{
    if (as_json) {
        json_t *object = tally_json(&e->all), *kinds = json_object();
        for (size_t i = 0; i < e->kind_count; i++)
            json_object_set_new(kinds, e->kinds[i].kind, tally_json(&e->kinds[i]));
        json_object_set_new(object, "kinds", kinds);
        json_object_set_new(object, "seconds", cli_json_number(seconds));
        json_object_set_new(object, "model", cli_json_text(cli_model.model));
        return cli_print_json(object);
    }
    cli_print("%-32s %10s %10s %10s\n", "kind", "correct", "questions", "accuracy");
    for (size_t i = 0; i <= e->kind_count; i++) {
        const tally *t = i < e->kind_count ? &e->kinds[i] : &e->all;
        cli_print("%-32s %10zu %10zu %9.1f%%\n", i < e->kind_count ? t->kind : "all", t->correct, t->total,
                  100 * accuracy(t));
    }
    return CLI_DONE;
}

int cmd_eval(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (!data_path)
        return cli_usage_error(&usage, "--data is missing");

    fvlm_error error;
    fvlm_engine *engine = NULL;
    json_t *samples = NULL;
    evaluation e = {0};
    /* Scores are of greedy answers unless asked otherwise. */
    fvlm_status status = cli_generation_get(0, &e.generation, &error);
    if (status == FVLM_OK)
        status = cli_dataset_load(data_path, &samples, &error);
    if (status == FVLM_OK)
        status = cli_engine_open(&engine, &error);
    if (status == FVLM_OK)
        status = fvlm_session_open(engine, &e.session, &error);
    if (status == FVLM_OK && predictions_path)
        status = fvlm_writer_open(predictions_path, &e.predictions, &error);
    double start_ms = fvlm_clock_ms();
    if (status == FVLM_OK)
        status = run(&e, samples, &error);
    code = status ? cli_fail(&error) : report(&e, (fvlm_clock_ms() - start_ms) / 1000);

    fvlm_writer_abort(&e.predictions);
    for (size_t i = 0; i < e.kind_count; i++)
        free(e.kinds[i].kind);
    free(e.kinds);
    fvlm_session_close(&e.session);
    json_decref(samples);
    fvlm_engine_close(&engine);
    return code;
}
