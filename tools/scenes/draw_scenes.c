/* Draw pictures and ask about them: a data set in LLaVA's format, for training and for tests.
 *
 *     draw_scenes --count 1000 --seed 7 --output set        set/data.jsonl, set/000/7-000000.jpg, ...
 *
 * A line has the picture, its questions as one conversation (or one question and its "type", with --single, as `eval`
 * wants them), and "labels" and "marks" for pre-training the vision tower. The same options give the same bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fontconfig/fontconfig.h>
#include <jansson.h>
#include <jpeglib.h>
#include <popt.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "scene.h"

static int count = 100, seed = 1, side = 256, single, fresh, most_questions = MAX_QUESTIONS;
static char *output, *kinds, *types;
static double camera = 1;

static const struct poptOption table[] = {
    {"count", 'n', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &count, 0, "Pictures to draw", "N"},
    {"seed", 's', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &seed, 0, "Of the random numbers", "N"},
    {"side", '\0', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &side, 0, "Pixels of a picture's side", "N"},
    {"kinds", 'k', POPT_ARG_STRING, &kinds, 0, "Kinds of scenes, in turns (objects,text,chart,clock,sign,face,screen)",
     "K,K"},
    {"camera", '\0', POPT_ARG_DOUBLE | POPT_ARGFLAG_SHOW_DEFAULT, &camera, 0, "How much pictures are distorted, 0 to 1",
     "X"},
    {"questions", '\0', POPT_ARG_INT, &most_questions, 0, "Ask at most so many questions of a picture", "N"},
    {"types", '\0', POPT_ARG_STRING, &types, 0,
     "Ask these types of questions only, and name only pictures that have any", "T,T"},
    {"single", '\0', POPT_ARG_NONE, &single, 0, "Ask one question of a picture, with its type", NULL},
    {"fresh", '\0', POPT_ARG_NONE, &fresh, 0, "Show a turquoise object or a crescent in each picture of objects", NULL},
    {"output", 'o', POPT_ARG_STRING, &output, 0, "Folder to write", "DIR"},
    POPT_AUTOHELP POPT_TABLEEND};

/* The picture as a JPEG file, which the caller frees; NULL: out of memory. libjpeg ends the program on other errors. */
static unsigned char *compress(cairo_surface_t *picture, int quality, unsigned long *bytes)
{
    unsigned char *file = NULL;
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &file, bytes);
    jpeg.image_width = (JDIMENSION)cairo_image_surface_get_width(picture);
    jpeg.image_height = (JDIMENSION)cairo_image_surface_get_height(picture);
    jpeg.input_components = 4;
    jpeg.in_color_space = JCS_EXT_BGRX;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, quality, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    unsigned char *rows = cairo_image_surface_get_data(picture);
    size_t stride = (size_t)cairo_image_surface_get_stride(picture);
    while (jpeg.next_scanline < jpeg.image_height)
        jpeg_write_scanlines(&jpeg, &(JSAMPROW){rows + jpeg.next_scanline * stride}, 1);
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    return file;
}

/* Whether the list of --types names it. */
static bool is_wanted(const char *type)
{
    size_t length = strlen(type);
    for (const char *at = types; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == length && strncmp(at, type, length) == 0)
            return true;
    return !types;
}

/* One line of the data set; NULL: out of memory. */
static json_t *line_of(scene *s, int index, const char *name)
{
    scene_question questions[MAX_QUESTIONS];
    int asked = 0;
    for (size_t i = 0, n = scene_ask(s, questions); i < n; i++)
        if (is_wanted(questions[i].type))
            questions[asked++] = questions[i];
    json_t *turns = json_array(), *line;
    const char *type = scene_kind_names[s->kind];
    /* In any order, so that each question is the first one of some conversation. */
    for (int i = 0, wanted = single ? 1 : most_questions; i < asked && i < wanted; i++) {
        int chosen = i + scene_pick(s, asked - i);
        scene_question question = questions[chosen];
        questions[chosen] = questions[i];
        if (single)
            type = question.type;
        char *text = fvlm_calloc(1, sizeof question.question + 16);
        if (text) {
            snprintf(text, sizeof question.question + 16, "%s%s", i == 0 ? "<image>\n" : "", question.question);
            json_array_append_new(turns, json_pack("{ssss}", "from", "human", "value", text));
            json_array_append_new(turns, json_pack("{ssss}", "from", "gpt", "value", question.answer));
        }
        free(text);
    }
    line = json_pack("{sissssso}", "id", index, "image", name, "type", type, "conversations", turns);
    if (!single) {
        json_object_set_new(line, "labels", scene_labels(s));
        json_object_set_new(line, "marks", scene_marks(s));
    }
    return line;
}

static bool write_file(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    bool written = file && fwrite(data, 1, bytes, file) == bytes;
    written = file && fclose(file) == 0 && written;
    if (!written)
        fprintf(stderr, "draw_scenes: cannot write %s\n", path);
    return written;
}

/* Draw scene `index` into the folder, with the line that tells of it. */
static bool draw(int index, scene_kind kind, FILE *lines)
{
    scene s;
    scene_make(&s, (uint64_t)seed, (uint64_t)index, kind, side, fresh);
    cairo_surface_t *picture = scene_draw(&s);
    if (camera > 0 && !scene_once_in(&s, 3))
        scene_camera(&s, &picture, camera * scene_between(&s, 0, 1));
    if (cairo_surface_status(picture) != CAIRO_STATUS_SUCCESS) {
        fprintf(stderr, "draw_scenes: %s\n", cairo_status_to_string(cairo_surface_status(picture)));
        return false;
    }
    unsigned long bytes = 0;
    unsigned char *file = compress(picture, 45 + scene_pick(&s, 51), &bytes);
    cairo_surface_destroy(picture);
    char name[64];
    /* With the seed, so that two sets can lie in one folder. */
    snprintf(name, sizeof name, "%03d/%d-%06d.jpg", index / 1000, seed, index);
    char *path = fvlm_path_join(output, name);
    bool done = file && path && write_file(path, file, bytes);
    free(path);
    free(file);
    json_t *line = line_of(&s, index, name);
    bool asked = json_array_size(json_object_get(line, "conversations")) > 0;
    done =
        done && line &&
        (!asked || (json_dumpf(line, lines, JSON_COMPACT | JSON_REAL_PRECISION(4)) == 0 && putc('\n', lines) != EOF));
    json_decref(line);
    return done;
}

/* cairo would take another font for one that is missing, and draw other pictures. */
static bool have_fonts(void)
{
    for (int i = 0; i < FONTS; i++) {
        FcPattern *wanted = FcNameParse((const FcChar8 *)font_names[i]), *found;
        FcResult result;
        FcChar8 *family = NULL;
        FcConfigSubstitute(NULL, wanted, FcMatchPattern);
        FcDefaultSubstitute(wanted);
        found = FcFontMatch(NULL, wanted, &result);
        bool there = found && FcPatternGetString(found, FC_FAMILY, 0, &family) == FcResultMatch &&
                     strcmp((const char *)family, font_names[i]) == 0;
        if (!there)
            fprintf(stderr, "draw_scenes: the font %s is not installed; tools/install_packages.sh check installs it\n",
                    font_names[i]);
        FcPatternDestroy(wanted);
        if (found)
            FcPatternDestroy(found);
        if (!there)
            return false;
    }
    return true;
}

/* The kinds asked for, as bits; 0: one has no such name. */
static unsigned kinds_wanted(void)
{
    if (!kinds)
        return (1u << SCENE_KINDS) - 1;
    unsigned wanted = 0;
    for (char *name = strtok(kinds, ","); name; name = strtok(NULL, ",")) {
        unsigned before = wanted;
        for (int kind = 0; kind < SCENE_KINDS; kind++)
            if (strcmp(name, scene_kind_names[kind]) == 0)
                wanted |= 1u << kind;
        if (wanted == before) {
            fprintf(stderr, "draw_scenes: there is no kind of scene called '%s'; --help lists them\n", name);
            return 0;
        }
    }
    return wanted;
}

/* Kinds in turns; objects, of which most is asked, as often as all the others. */
static scene_kind kind_of(int index, unsigned wanted)
{
    if ((wanted & 1) && (index % 2 == 0 || wanted == 1))
        return SCENE_OBJECTS;
    int others = 0, skip;
    for (int kind = 1; kind < SCENE_KINDS; kind++)
        others += (wanted >> kind) & 1;
    skip = (wanted & 1 ? index / 2 : index) % others;
    for (int kind = 1;; kind++)
        if (((wanted >> kind) & 1) && skip-- == 0)
            return (scene_kind)kind;
}

static bool draw_all(unsigned wanted)
{
    fvlm_error error;
    char *path = fvlm_path_join(output, "data.jsonl"), folder[16];
    FILE *lines = NULL;
    bool done = path && fvlm_folder_create(output, &error) == FVLM_OK && (lines = fopen(path, "wb"));
    if (!done)
        fprintf(stderr, "draw_scenes: cannot write into %s\n", output);
    for (int i = 0; done && i < count; i++) {
        if (i % 1000 == 0) {
            snprintf(folder, sizeof folder, "%03d", i / 1000);
            char *place = fvlm_path_join(output, folder);
            done = place && fvlm_folder_create(place, &error) == FVLM_OK;
            free(place);
            if (!done)
                fprintf(stderr, "draw_scenes: cannot make a folder in %s\n", output);
            if (fvlm_is_terminal(stderr))
                fprintf(stderr, "\r%d of %d pictures", i, count);
        }
        done = done && draw(i, kind_of(i, wanted), lines);
    }
    if (lines && fclose(lines) != 0)
        done = false;
    free(path);
    return done;
}

int main(int argc, const char **argv)
{
    poptContext context = poptGetContext("draw_scenes", argc, argv, table, 0);
    int code = poptGetNextOpt(context), result = 2;
    if (code < -1)
        fprintf(stderr, "draw_scenes: %s: %s\n", poptBadOption(context, 0), poptStrerror(code));
    else if (!output || count < 1 || count > 1000000 || side < 32 || side > 4096 || most_questions < 1 || camera < 0 ||
             camera > 1)
        fprintf(stderr,
                "draw_scenes: needs --output, 1 to 1000000 pictures of 32 to 4096 pixels; --help lists the options\n");
    else {
        unsigned wanted = kinds_wanted();
        if (wanted)
            result = have_fonts() && draw_all(wanted) ? 0 : 1;
    }
    cairo_debug_reset_static_data(); /* fonts that cairo and fontconfig keep */
    FcFini();
    poptFreeContext(context);
    free(kinds);
    free(types);
    free(output);
    return result;
}
