/* fastvlm chat: a conversation. The whole of it is the prompt of every turn; the session keeps in its KV cache what it
 * has already seen, pictures included, so that a turn costs only what is new. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <histedit.h>

#include "answer.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "base/text_buffer.h"
#include "command.h"
#include "options.h"
#include "output.h"
#include "show_picture.h"

static char **image_paths, *first_prompt;
static int as_json;
static cli_display display;

static const struct poptOption table[] = {
    {"image", 'i', POPT_ARG_ARGV, &image_paths, 0, "Picture of the first question; may be repeated", "FILE"},
    {"image-file", '\0', POPT_ARG_ARGV | POPT_ARGFLAG_DOC_HIDDEN, &image_paths, 0, NULL, NULL},
    {"prompt", 'p', POPT_ARG_STRING, &first_prompt, 0, "The first question", "TEXT"},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object for each answer", NULL},
    CLI_SHOW_OPTION,
    CLI_MODEL_GROUP,
    CLI_GENERATION_GROUP,
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "chat",
    .arguments = "[--image FILE] [OPTION...]",
    .about = "talk about pictures; a line is a question, /help lists what else there is",
    .example = "  fastvlm chat --model llava-fastvithd_0.5b_stage3 --image cat.jpg\n"
               "  printf '/image cat.jpg\\nWhat is this?\\nWhich colour?\\n' | fastvlm chat --model ./checkpoint"};

/* The conversation so far. */
typedef struct chat {
    fvlm_engine *engine;
    fvlm_session *session;
    fvlm_generation generation;
    fvlm_turn *turns; /* [turn_count], texts owned; room for two more */
    size_t turn_count;
    cli_images images;   /* of all turns; the last `fresh_images` wait for the next question */
    size_t fresh_images; /* from /image and --image */
    int code;            /* what the process will return */
} chat;

/* Where lines come from: a terminal by libedit, else standard input. */
typedef struct line_source {
    EditLine *editor; /* NULL: not a terminal */
    History *history;
    fvlm_text_buffer line;
} line_source;

static char *prompt_sign(EditLine *editor)
{
    (void)editor;
    static char sign[] = "> ";
    return sign;
}

static void source_open(line_source *source)
{
    *source = (line_source){0};
    if (!fvlm_is_terminal(stdin) || !fvlm_is_terminal(stdout))
        return;
    source->editor = el_init("fastvlm", stdin, stdout, stderr);
    if (!source->editor)
        return;
    HistEvent event;
    source->history = history_init();
    el_set(source->editor, EL_PROMPT, prompt_sign);
    el_set(source->editor, EL_EDITOR, "emacs");
    el_set(source->editor, EL_SIGNAL, 1);
    if (source->history) {
        history(source->history, &event, H_SETSIZE, 500);
        el_set(source->editor, EL_HIST, history, source->history);
    }
}

static void source_close(line_source *source)
{
    if (source->history)
        history_end(source->history);
    if (source->editor)
        el_end(source->editor);
    fvlm_text_clear(&source->line);
}

/* The next line without blanks around it, valid until the next call; NULL at the end. */
static char *source_next(line_source *source)
{
    source->line.length = 0;
    if (source->editor) {
        int count;
        const char *line = el_gets(source->editor, &count);
        if (!line || count <= 0)
            return NULL;
        HistEvent event;
        if (source->history && count > 1)
            history(source->history, &event, H_ENTER, line);
        fvlm_text_append(&source->line, line, (size_t)count);
    } else {
        int c;
        while ((c = getc(stdin)) != EOF && c != '\n') {
            char character = (char)c;
            fvlm_text_append(&source->line, &character, 1);
        }
        if (c == EOF && source->line.length == 0)
            return NULL;
        fvlm_text_append(&source->line, "", 0);
    }
    if (source->line.failed || !source->line.data)
        return NULL;
    char *start = source->line.data, *end = start + strlen(start);
    while (end > start && isspace((unsigned char)end[-1]))
        *--end = '\0';
    while (isspace((unsigned char)*start))
        start++;
    return start;
}

static fvlm_status add_turn(chat *c, const char *role, char *text, fvlm_error *error)
{
    fvlm_turn *turns = realloc(c->turns, (c->turn_count + 3) * sizeof *turns);
    if (!turns)
        return fvlm_fail_memory(error);
    c->turns = turns;
    turns[c->turn_count++] = (fvlm_turn){role, text};
    return FVLM_OK;
}

static void drop_turns(chat *c, size_t count)
{
    while (c->turn_count > count)
        free((char *)c->turns[--c->turn_count].text);
}

static bool print_piece(void *user, const char *text, size_t bytes)
{
    (void)user;
    return cli_write(text, bytes) && !cli_interrupted();
}

/* Answer the last turn and add the answer as a turn. */
static fvlm_status answer_turn(chat *c, double start_ms, fvlm_error *error)
{
    size_t beams = (size_t)c->generation.beams;
    fvlm_answer *answers = fvlm_calloc(beams, sizeof *answers);
    if (!answers)
        return fvlm_fail_memory(error);
    char *prompt = NULL, *said = NULL;
    fvlm_prefill_stats stats;
    c->turns[c->turn_count] = (fvlm_turn){"assistant", NULL};
    fvlm_status status =
        fvlm_template_render(cli_prompt.template_name, cli_prompt.system, c->turns, c->turn_count + 1, &prompt, error);
    if (status == FVLM_OK)
        status = fvlm_session_prefill(c->session, prompt, (const fvlm_image *const *)c->images.items, c->images.count,
                                      &stats, error);
    if (status == FVLM_OK) {
        double before_ms = fvlm_clock_ms() - start_ms;
        bool streaming = !as_json && beams <= 1;
        cli_interrupt_catch();
        status =
            fvlm_session_generate(c->session, &c->generation, streaming ? print_piece : NULL, NULL, answers, error);
        cli_interrupt_release();
        if (status == FVLM_OK && as_json) {
            json_t *object = cli_answer_json(c->engine, &stats, answers, before_ms + answers[0].first_ms);
            if (cli_print_json(object) != CLI_DONE)
                c->code = CLI_FAILED;
        } else if (status == FVLM_OK && !streaming) {
            cli_print("%s", answers[0].text);
        }
        if (!as_json)
            cli_write("\n", 1);
    }
    if (status == FVLM_OK && !(said = fvlm_strdup(answers[0].text)))
        status = fvlm_fail_memory(error);
    if (status == FVLM_OK)
        status = add_turn(c, "assistant", said, error);
    for (size_t i = 0; i < beams; i++)
        fvlm_answer_clear(&answers[i]);
    free(answers);
    fvlm_free(prompt);
    return status;
}

/* A question with the pictures that wait. When it fails, the conversation is as it was before, without them. */
static fvlm_status ask(chat *c, const char *question, fvlm_error *error)
{
    double start_ms = fvlm_clock_ms();
    size_t turns_before = c->turn_count, images_before = c->images.count - c->fresh_images;
    char *text = NULL;
    fvlm_status status = cli_turn_text(question, c->fresh_images, &text, error);
    if (status == FVLM_OK && (status = add_turn(c, "user", text, error)) != FVLM_OK)
        free(text);
    if (status == FVLM_OK)
        status = answer_turn(c, start_ms, error);
    if (status) {
        drop_turns(c, turns_before);
        cli_images_truncate(&c->images, images_before);
    }
    c->fresh_images = 0;
    return status;
}

static void print_history(const chat *c)
{
    for (size_t i = 0; i < c->turn_count; i++)
        cli_print("%s: %s\n", c->turns[i].role, c->turns[i].text);
}

static void forget(chat *c)
{
    drop_turns(c, 0);
    cli_images_truncate(&c->images, 0);
    c->fresh_images = 0;
}

static fvlm_status add_image(chat *c, const char *path, fvlm_error *error)
{
    fvlm_status status = cli_images_add(&c->images, path, error);
    if (status)
        return status;
    c->fresh_images++;
    const fvlm_image *image = c->images.items[c->images.count - 1];
    fprintf(stderr, "%s, %zu x %zu, goes with the next question\n", path, fvlm_image_width(image),
            fvlm_image_height(image));
    return cli_show_picture(image, display, error);
}

/* A path may stand in quotes, as terminals write it when a file is dropped on them. */
static char *unquote(char *path)
{
    size_t length = strlen(path);
    if (length >= 2 && (path[0] == '\'' || path[0] == '"') && path[length - 1] == path[0]) {
        path[length - 1] = '\0';
        return path + 1;
    }
    return path;
}

/* Carry out one line. False: the end was asked for. */
static bool handle_line(chat *c, char *line)
{
    fvlm_error error;
    fvlm_status status = FVLM_OK;
    if (*line == '\0')
        return true;
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        return false;
    if (strcmp(line, "/help") == 0)
        fputs("/image FILE   show a picture with the next question\n"
              "/history      what was said\n"
              "/clear        start a new conversation\n"
              "/quit         end (as Ctrl-D does); Ctrl-C stops an answer\n",
              stderr);
    else if (strcmp(line, "/history") == 0)
        print_history(c);
    else if (strcmp(line, "/clear") == 0)
        forget(c);
    else if (strncmp(line, "/image ", 7) == 0)
        status = add_image(c, unquote(line + 7 + strspn(line + 7, " \t")), &error);
    else if (*line == '/')
        status = fvlm_fail(&error, FVLM_ERROR_ARGUMENT, "'%s' is not something chat knows; /help lists what is", line);
    else
        status = ask(c, line, &error);
    if (status == FVLM_ERROR_LIMIT)
        cli_error("%s (/clear starts a new conversation)", error.message);
    else if (status)
        cli_error("%s", error.message);
    if (status)
        c->code = CLI_FAILED;
    return true;
}

static fvlm_status open_chat(chat *c, fvlm_error *error)
{
    fvlm_status status = cli_generation_get(CLI_TEMPERATURE, &c->generation, error);
    if (status == FVLM_OK)
        status = cli_engine_open(&c->engine, error);
    if (status == FVLM_OK)
        status = fvlm_session_open(c->engine, &c->session, error);
    for (size_t i = 0; status == FVLM_OK && i < cli_count(image_paths); i++)
        status = add_image(c, image_paths[i], error);
    return status;
}

int cmd_chat(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (as_json && cli_show)
        return cli_usage_error(&usage, "--json prints objects and no pictures: leave --show out");
    if (!cli_show_get(&usage, &display))
        return CLI_USAGE;
    fvlm_error error;
    chat c = {.code = CLI_DONE};
    if (open_chat(&c, &error)) {
        c.code = cli_fail(&error);
    } else {
        line_source source;
        source_open(&source);
        bool go_on = true;
        if (first_prompt)
            go_on = handle_line(&c, first_prompt);
        for (char *line; go_on && (line = source_next(&source));)
            go_on = handle_line(&c, line) && cli_write("", 0);
        source_close(&source);
        /* In front of a terminal somebody saw each error and went on. */
        if (fvlm_is_terminal(stdin))
            c.code = CLI_DONE;
    }
    drop_turns(&c, 0);
    free(c.turns);
    cli_images_clear(&c.images);
    fvlm_session_close(&c.session);
    fvlm_engine_close(&c.engine);
    return c.code;
}
