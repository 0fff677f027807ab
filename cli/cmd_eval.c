/* fastvlm eval: ask every question of a data set and score the answers, or measure how probable the references are.
 *
 * A sample's later questions see the earlier ones with their reference answers, as in training. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "base/file.h"
#include "base/memory.h"
#include "command.h"
#include "fastvlm/dataset.h"
#include "metrics.h"
#include "options.h"
#include "output.h"

enum { EXACT = 1, ANLS = 2, VQA = 4, PERPLEXITY = 8, ANSWERS = EXACT | ANLS | VQA };

static char *data_path, *image_folder, *predictions_path, *metric;
static int as_json, quiet;

static const struct poptOption table[] = {
    {"data", 'd', POPT_ARG_STRING, &data_path, 0, "Questions in LLaVA's format: a JSON list, or JSON lines", "FILE"},
    {"image-folder", '\0', POPT_ARG_STRING, &image_folder, 0, "Where the pictures are (default: this folder)", "DIR"},
    {"image_folder", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &image_folder, 0, NULL, NULL},
    {"metric", '\0', POPT_ARG_STRING, &metric, 0, "What to report, of exact, anls, vqa and perplexity (default: exact)",
     "LIST"},
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
    .about = "score a model's answers, with a table by kind of question",
    .example = "  fastvlm eval --model ./checkpoint --data questions.json --image-folder pictures --metric exact,anls"};

typedef struct tally {
    char *kind;
    size_t total, correct;
    double anls, vqa; /* sums */
    double loss;      /* sum over `tokens` of references */
    size_t tokens;
} tally;

typedef struct evaluation {
    unsigned metrics;
    fvlm_session *session; /* NULL: no answers are asked for */
    fvlm_scorer *scorer;   /* NULL: no perplexity */
    fvlm_generation generation;
    fvlm_writer *predictions; /* NULL: not asked for */
    tally *kinds;             /* [kind_count], in the order in which they came up */
    size_t kind_count;
    tally all;
    cli_progress progress;
} evaluation;

/* A question that is being asked: turn `at` (even) of a sample, with what its answer is compared with. */
typedef struct question {
    fvlm_conversation *sample;
    const char *id, *kind;
    size_t at;
    const char *const *references; /* [reference_count] */
    size_t reference_count;
} question;

/* The kind of a question whose sample names none: its first word, in small letters. */
static char *first_word(const char *text)
{
    while (strncmp(text, "<image>\n", 8) == 0)
        text += 8;
    while (isspace((unsigned char)*text))
        text++;
    size_t word = strcspn(text, " \t\r\n?.,:;!");
    char *kind = fvlm_calloc(word + 1, 1);
    for (size_t i = 0; kind && i < word; i++)
        kind[i] = (char)tolower((unsigned char)text[i]);
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

/* The members of `t` that were asked for; of one answer, too. */
static void add_scores(json_t *object, unsigned metrics, const tally *t)
{
    double total = t->total ? (double)t->total : 1;
    if (metrics & ANLS)
        json_object_set_new(object, "anls", json_real(t->anls / total));
    if (metrics & VQA)
        json_object_set_new(object, "vqa_accuracy", json_real(t->vqa / total));
    if (metrics & PERPLEXITY) {
        double perplexity = exp(t->loss / (t->tokens ? (double)t->tokens : 1));
        json_object_set_new(object, "perplexity", isfinite(perplexity) ? json_real(perplexity) : json_null());
        json_object_set_new(object, "tokens", json_integer((json_int_t)t->tokens));
    }
}

static fvlm_status write_prediction(evaluation *e, const question *q, const char *answer, const tally *own,
                                    fvlm_error *error)
{
    json_t *object = json_pack("{so so so so}", "id", cli_json_text(q->id), "kind", cli_json_text(q->kind), "question",
                               cli_json_text(q->sample->turns[q->at].text), "reference",
                               cli_json_text(q->sample->turns[q->at + 1].text));
    if (object && answer)
        json_object_set_new(object, "answer", cli_json_text(answer));
    if (object && e->metrics & EXACT)
        json_object_set_new(object, "correct", json_boolean(own->correct));
    if (object)
        add_scores(object, e->metrics, own);
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

/* The model's answer; the turns before the question are the context. Free with fvlm_answer_clear. */
static fvlm_status ask(evaluation *e, const question *q, const cli_images *images, fvlm_answer *answer,
                       fvlm_error *error)
{
    fvlm_turn *turns = q->sample->turns;
    const char *reference = turns[q->at + 1].text, *system = q->sample->system;
    size_t shown = 0, beams = e->generation.beams > 1 ? (size_t)e->generation.beams : 1;
    for (size_t i = 0; i <= q->at; i += 2)
        shown += cli_placeholders(turns[i].text);
    turns[q->at + 1].text = NULL;
    char *prompt;
    fvlm_status status = fvlm_template_render(cli_prompt.template_name, system ? system : cli_prompt.system, turns,
                                              q->at + 2, &prompt, error);
    turns[q->at + 1].text = reference;
    if (status)
        return status;
    fvlm_answer *answers = fvlm_calloc(beams, sizeof *answers);
    if (!answers)
        status = fvlm_fail_memory(error);
    if (status == FVLM_OK)
        status = fvlm_session_prefill(e->session, prompt, (const fvlm_image *const *)images->items, shown, NULL, error);
    if (status == FVLM_OK)
        status = fvlm_session_generate(e->session, &e->generation, NULL, NULL, answers, error);
    for (size_t i = 1; answers && i < beams; i++)
        fvlm_answer_clear(&answers[i]);
    if (status == FVLM_OK)
        *answer = answers[0];
    free(answers);
    fvlm_free(prompt);
    return status;
}

static fvlm_status score(evaluation *e, const question *q, const cli_images *images, tally *own, fvlm_answer *answer,
                         fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    if (e->session)
        status = ask(e, q, images, answer, error);
    if (status == FVLM_OK && e->session) {
        own->correct = cli_exact_match(answer->text, q->references, q->reference_count);
        own->anls = e->metrics & ANLS ? cli_anls(answer->text, q->references, q->reference_count) : 0;
        own->vqa = e->metrics & VQA ? cli_vqa_accuracy(answer->text, q->references, q->reference_count) : 0;
        if (own->anls < 0 || own->vqa < 0)
            status = fvlm_fail_memory(error);
    }
    if (status == FVLM_OK && e->scorer)
        status = fvlm_scorer_score(e->scorer, q->sample, q->at + 1, image_folder, cli_prompt.template_name,
                                   cli_prompt.system, &own->loss, &own->tokens, error);
    return status;
}

static void add(tally *sum, const tally *own)
{
    sum->total++;
    sum->correct += own->correct;
    sum->anls += own->anls;
    sum->vqa += own->vqa;
    sum->loss += own->loss;
    sum->tokens += own->tokens;
}

/* Turn `at` of the sample, which is its `number`-th. */
static fvlm_status run_question(evaluation *e, fvlm_conversation *sample, size_t number, const cli_images *images,
                                size_t at, fvlm_error *error)
{
    tally *kind = tally_of(e, sample->kind ? fvlm_strdup(sample->kind) : first_word(sample->turns[at].text));
    if (!kind)
        return fvlm_fail_memory(error);
    char place[32];
    snprintf(place, sizeof place, "#%zu", number);
    bool others = sample->answer_count > 0 && at + 2 == sample->turn_count;
    const question q = {.sample = sample,
                        .id = sample->id ? sample->id : place,
                        .kind = kind->kind,
                        .at = at,
                        .references = others ? sample->answers : &sample->turns[at + 1].text,
                        .reference_count = others ? sample->answer_count : 1};
    tally own = {.total = 1};
    fvlm_answer answer = {0};
    fvlm_status status = score(e, &q, images, &own, &answer, error);
    if (status == FVLM_OK && e->predictions)
        status = write_prediction(e, &q, answer.text, &own, error);
    fvlm_answer_clear(&answer);
    add(kind, &own);
    add(&e->all, &own);
    cli_progress_update(&e->progress, e->all.total);
    return status;
}

static fvlm_status run_sample(evaluation *e, fvlm_conversation *sample, size_t number, fvlm_error *error)
{
    cli_images images = {0};
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; status == FVLM_OK && e->session && i < sample->image_count; i++) {
        char *path = fvlm_path_join(image_folder ? image_folder : "", sample->images[i]);
        status = path ? cli_images_add(&images, path, error) : fvlm_fail_memory(error);
        free(path);
    }
    for (size_t at = 0; status == FVLM_OK && at < sample->turn_count; at += 2)
        status = run_question(e, sample, number, &images, at, error);
    cli_images_clear(&images);
    return status;
}

/* Read every sample, so that a fault in the data shows before hours of work; *questions is their number. */
static fvlm_status count_questions(const fvlm_dataset *dataset, uint64_t *questions, fvlm_error *error)
{
    *questions = 0;
    for (size_t i = 0; i < fvlm_dataset_count(dataset); i++) {
        fvlm_conversation sample;
        fvlm_status status = fvlm_dataset_read(dataset, i, &sample, error);
        if (status)
            return status;
        *questions += sample.turn_count / 2;
        fvlm_conversation_clear(&sample);
    }
    return FVLM_OK;
}

static fvlm_status run(evaluation *e, const fvlm_dataset *dataset, fvlm_error *error)
{
    uint64_t questions;
    fvlm_status status = count_questions(dataset, &questions, error);
    cli_progress_start(&e->progress, "evaluating", "questions", 0, questions, quiet);
    for (size_t i = 0; status == FVLM_OK && i < fvlm_dataset_count(dataset); i++) {
        fvlm_conversation sample;
        status = fvlm_dataset_read(dataset, i, &sample, error);
        if (status == FVLM_OK) {
            status = run_sample(e, &sample, i + 1, error);
            fvlm_conversation_clear(&sample);
        }
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

static json_t *tally_json(const evaluation *e, const tally *t)
{
    json_t *object = json_pack("{sI}", "total", (json_int_t)t->total);
    if (e->metrics & EXACT) {
        json_object_set_new(object, "correct", json_integer((json_int_t)t->correct));
        json_object_set_new(object, "accuracy", json_real(accuracy(t)));
    }
    add_scores(object, e->metrics, t);
    return object;
}

static void print_row(const evaluation *e, const char *kind, const tally *t)
{
    double total = t->total ? (double)t->total : 1;
    cli_print("%-32s", kind);
    if (e->metrics & EXACT)
        cli_print(" %10zu", t->correct);
    cli_print(" %10zu", t->total);
    if (e->metrics & EXACT)
        cli_print(" %9.1f%%", 100 * accuracy(t));
    if (e->metrics & ANLS)
        cli_print(" %10.4f", t->anls / total);
    if (e->metrics & VQA)
        cli_print(" %9.1f%%", 100 * t->vqa / total);
    if (e->metrics & PERPLEXITY)
        cli_print(" %10.4g", exp(t->loss / (t->tokens ? (double)t->tokens : 1)));
    cli_print("\n");
}

static int report(const evaluation *e, double seconds)
{
    if (as_json) {
        json_t *object = tally_json(e, &e->all), *kinds = json_object();
        for (size_t i = 0; i < e->kind_count; i++)
            json_object_set_new(kinds, e->kinds[i].kind, tally_json(e, &e->kinds[i]));
        json_object_set_new(object, "kinds", kinds);
        json_object_set_new(object, "seconds", cli_json_number(seconds));
        json_object_set_new(object, "model", cli_json_text(cli_model_name()));
        return cli_print_json(object);
    }
    cli_print("%-32s%s %10s%s%s%s%s\n", "kind", e->metrics & EXACT ? "    correct" : "", "questions",
              e->metrics & EXACT ? "   accuracy" : "", e->metrics & ANLS ? "       anls" : "",
              e->metrics & VQA ? "        vqa" : "", e->metrics & PERPLEXITY ? " perplexity" : "");
    for (size_t i = 0; i < e->kind_count; i++)
        print_row(e, e->kinds[i].kind, &e->kinds[i]);
    print_row(e, "all", &e->all);
    return CLI_DONE;
}

static bool read_metrics(unsigned *metrics)
{
    static const struct {
        const char *name;
        unsigned value;
    } names[] = {{"exact", EXACT}, {"anls", ANLS}, {"vqa", VQA}, {"perplexity", PERPLEXITY}};
    for (const char *at = metric ? metric : "exact", *end; at; at = *end ? end + 1 : NULL) {
        size_t i = 0, length = strcspn(at, ",");
        end = at + length;
        while (i < 4 && (strlen(names[i].name) != length || strncmp(names[i].name, at, length) != 0))
            i++;
        if (i == 4) {
            cli_usage_error(&usage, "--metric: '%.*s' is none of exact, anls, vqa, perplexity", (int)length, at);
            return false;
        }
        *metrics |= names[i].value;
    }
    return true;
}

int cmd_eval(int argc, const char **argv)
{
    int code;
    evaluation e = {0};
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (!data_path)
        return cli_usage_error(&usage, "--data is missing");
    if (!read_metrics(&e.metrics))
        return CLI_USAGE;

    fvlm_error error;
    fvlm_engine *engine = NULL;
    fvlm_dataset *dataset = NULL;
    const char *const paths[] = {data_path};
    /* Scores are of greedy answers unless asked otherwise. */
    fvlm_status status = cli_generation_get(0, &e.generation, &error);
    if (status == FVLM_OK)
        status = fvlm_dataset_open(paths, NULL, 1, &dataset, &error);
    if (status == FVLM_OK)
        status = cli_engine_open(&engine, &error);
    if (status == FVLM_OK && e.metrics & ANSWERS)
        status = fvlm_session_open(engine, &e.session, &error);
    if (status == FVLM_OK && e.metrics & PERPLEXITY)
        status = fvlm_scorer_open(engine, &e.scorer, &error);
    if (status == FVLM_OK && predictions_path)
        status = fvlm_writer_open(predictions_path, &e.predictions, &error);
    double start_ms = fvlm_clock_ms();
    if (status == FVLM_OK)
        status = run(&e, dataset, &error);
    code = status ? cli_fail(&error) : report(&e, (fvlm_clock_ms() - start_ms) / 1000);

    fvlm_writer_abort(&e.predictions);
    for (size_t i = 0; i < e.kind_count; i++)
        free(e.kinds[i].kind);
    free(e.kinds);
    fvlm_scorer_close(&e.scorer);
    fvlm_session_close(&e.session);
    fvlm_dataset_close(&dataset);
    fvlm_engine_close(&engine);
    return code;
}
