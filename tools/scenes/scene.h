/* A made-up picture and what can be asked about it.
 *
 * scene_make draws lots (one random stream a scene, so that a scene is a function of seed and number), scene_draw
 * paints it, scene_camera does to it what cameras and files do to pictures, scene_ask says what is true of it.
 */
#ifndef SCENES_SCENE_H
#define SCENES_SCENE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cairo.h>
#include <jansson.h>

typedef enum scene_kind {
    SCENE_OBJECTS, /* coloured shapes on a ground */
    SCENE_TEXT,    /* a word, a number, a row of characters */
    SCENE_CHART,   /* bars */
    SCENE_CLOCK,
    SCENE_SIGN,
    SCENE_FACE,
    SCENE_SCREEN, /* a window with buttons */
    SCENE_KINDS
} scene_kind;
extern const char *const scene_kind_names[SCENE_KINDS];

/* The last colour and the last shape are drawn only where asked for: something new to learn for a trained model. */
enum { COLOURS = 12, SHAPES = 13, FONTS = 12, SIGNS = 8, FACES = 6, LABELS = 14, PATTERNS = 4 };
extern const char *const colour_names[COLOURS],
    *const shape_names[SHAPES], *const sign_names[SIGNS], *const face_names[FACES], *const label_names[LABELS],
                                                                                        *const font_names[FONTS];
enum { PLAIN, STRIPED, DOTTED, CHECKERED };
extern const char *const pattern_names[PATTERNS];

typedef struct scene_colour {
    int name; /* index of colour_names */
    double r, g, b;
} scene_colour;

/* Places and lengths are in units of the picture's side; the origin is its top left corner. */
typedef struct scene_object {
    int shape, pattern;
    scene_colour colour;
    double x, y, radius, angle;
    bool large;
} scene_object;

/* A place in the picture and what is seen there; -1: not said. */
typedef struct scene_mark {
    double x, y;
    int thing, colour, pattern, hour, minute;
} scene_mark;

enum { MAX_OBJECTS = 6, MAX_BARS = 5, MAX_BUTTONS = 4, MAX_TEXT = 8, MAX_MARKS = 64, MAX_HEIGHT = 9 };

typedef struct scene {
    uint64_t key, drawn; /* of the random numbers: their stream, and how many were taken */
    scene_kind kind;
    int side;            /* pixels */
    scene_colour ground; /* of the background, or of what the subject is drawn on */
    int ground_style;    /* what the ground has beside its colour: 0 nothing, gradient, grain, clouds */
    scene_colour ink;
    scene_object objects[MAX_OBJECTS];
    int count; /* of objects, bars or buttons */

    char text[MAX_TEXT + 1];
    int font;
    bool bold, numeric, word;
    double x, y, size, angle; /* of the text, clock, sign or face: centre, width or radius, rotation */

    scene_colour colours[MAX_BARS]; /* of bars and buttons */
    int heights[MAX_BARS];          /* 1 to 9, all different */
    bool numbered;                  /* the heights are written on the bars, or the hours on the clock */
    int hour, minute;
    int sign, face;
    int labels[MAX_BUTTONS]; /* all different */

    scene_mark marks[MAX_MARKS]; /* filled by scene_draw, moved by scene_camera */
    int mark_count;
} scene;

/* Random numbers of the scene's stream: whole in [0, n), in [low, high), and true once in n. */
int scene_pick(scene *s, int n);
double scene_between(scene *s, double low, double high);
bool scene_once_in(scene *s, int n);

/* Scene `index` of `seed`. `side` is that of the picture; `fresh` also draws the new colour and shape, and always one
 * of them. */
void scene_make(scene *s, uint64_t seed, uint64_t index, scene_kind kind, int side, bool fresh);

/* The word for where in the picture a place is: "top left", "centre". */
const char *scene_place(double x, double y);

/* Paint the scene; the caller destroys the surface (CAIRO_FORMAT_RGB24, side x side). */
cairo_surface_t *scene_draw(scene *s);

/* Distort the picture as `strength` (0 to 1) says: perspective, light, blur, sensor noise. Of what is drawn the answers
 * stay true. */
void scene_camera(scene *s, cairo_surface_t **picture, double strength);

/* Questions. */
typedef struct scene_question {
    const char *type; /* "colour", "count", ... */
    char question[160], answer[320];
} scene_question;
enum { MAX_QUESTIONS = 24 };

/* All that is asked about the scene, the description last; how many. */
size_t scene_ask(scene *s, scene_question *questions);

/* What classifiers can learn of a scene that is drawn: {"kind": ..., ...} of the whole picture, [{"at": [x, y],
 * "thing": ...,
 * ...}, ...] of places; classes of places begin with 1, what is not said is not known. The caller owns them; NULL: out
 * of memory. */
json_t *scene_labels(const scene *s);
json_t *scene_marks(const scene *s);

/* Classes of things: a number within its kind, see the list in scene_labels.c. */
typedef enum scene_thing {
    THING_SHAPE,
    THING_CHARACTER,
    THING_BAR,
    THING_HAND,
    THING_CLOCK,
    THING_SIGN,
    THING_FACE,
    THING_BUTTON
} scene_thing;
int scene_thing_class(scene_thing thing, int number);
/* Letters and digits from 0 on; -1: it is neither. */
int scene_character(char c);

#endif
