/* What a scene shows: lots drawn from the scene's own stream of random numbers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scene.h"
#include "train/random.h"

const char *const scene_kind_names[SCENE_KINDS] = {"objects", "text", "chart", "clock", "sign", "face", "screen"};
const char *const colour_names[COLOURS] = {"red",  "green", "blue",  "yellow", "orange", "purple",
                                           "pink", "brown", "black", "white",  "grey",   "turquoise"};
const char *const shape_names[SHAPES] = {"circle",  "square", "triangle", "rectangle", "oval", "star",    "heart",
                                         "diamond", "cross",  "pentagon", "hexagon",   "ring", "crescent"};
const char *const sign_names[SIGNS] = {"stop",        "no entry",   "warning",    "arrow up",
                                       "arrow right", "arrow down", "arrow left", "parking"};
const char *const face_names[FACES] = {"happy", "sad", "surprised", "angry", "winking", "neutral"};
const char *const label_names[LABELS] = {"OK",   "Cancel", "Save", "Open", "Play", "Stop", "Send",
                                         "Back", "Next",   "Help", "Yes",  "No",   "Edit", "Close"};
const char *const pattern_names[PATTERNS] = {"plain", "striped", "dotted", "checkered"};

/* Hue in turns, saturation and value: each a range, so that two names never meet. */
typedef struct colour_range {
    double hue[2], saturation[2], value[2];
} colour_range;

static const colour_range ranges[COLOURS] = {
    {{-0.02, 0.015}, {0.85, 1}, {0.7, 1}},  {{0.28, 0.40}, {0.7, 1}, {0.4, 0.8}},
    {{0.58, 0.67}, {0.75, 1}, {0.6, 1}},    {{0.14, 0.17}, {0.8, 1}, {0.9, 1}},
    {{0.065, 0.095}, {0.9, 1}, {0.92, 1}},  {{0.75, 0.80}, {0.6, 1}, {0.45, 0.75}},
    {{0.89, 0.95}, {0.3, 0.55}, {0.95, 1}}, {{0.04, 0.075}, {0.6, 0.85}, {0.3, 0.48}},
    {{0, 1}, {0, 0.3}, {0, 0.1}},           {{0, 1}, {0, 0.03}, {0.96, 1}},
    {{0, 1}, {0, 0.05}, {0.42, 0.66}},      {{0.48, 0.51}, {0.7, 1}, {0.75, 0.9}}};

int scene_pick(scene *s, int n)
{
    return (int)(fvlm_random_unit(s->key, 0, s->drawn++) * (float)n);
}

double scene_between(scene *s, double low, double high)
{
    return low + (high - low) * (double)fvlm_random_unit(s->key, 0, s->drawn++);
}

bool scene_once_in(scene *s, int n)
{
    return scene_pick(s, n) == 0;
}

static double within(scene *s, const double range[2])
{
    return scene_between(s, range[0], range[1]);
}

static scene_colour shade(scene *s, int name)
{
    const colour_range *range = &ranges[name];
    double hue = within(s, range->hue), saturation = within(s, range->saturation), value = within(s, range->value);
    /* Each of the three falls off with its distance in hue (Smith 1978, without its six cases). */
    double rgb[3];
    for (int i = 0; i < 3; i++) {
        double k = fmod((5 - 2 * i) + hue * 6 + 12, 6);
        rgb[i] = value - value * saturation * fmax(0, fmin(fmin(k, 4 - k), 1));
    }
    return (scene_colour){name, rgb[0], rgb[1], rgb[2]};
}

/* A colour that differs from those named. */
static scene_colour other_colour(scene *s, const int *taken, int count)
{
    for (;;) {
        int name = scene_pick(s, COLOURS - 1);
        bool free = true;
        for (int i = 0; i < count; i++)
            free = free && taken[i] != name;
        if (free)
            return shade(s, name);
    }
}

static bool near_a_third(double v)
{
    return fabs(v - 1.0 / 3) < 0.035 || fabs(v - 2.0 / 3) < 0.035;
}

/* An object that touches no earlier one and whose place has a clear name; false: there was no room. */
static bool add_object(scene *s, bool fresh)
{
    scene_object o = {.shape = scene_pick(s, SHAPES - 1), .large = scene_once_in(s, 2)};
    o.colour = other_colour(s, &s->ground.name, 1);
    if (fresh && scene_once_in(s, 2))
        o.shape = SHAPES - 1;
    else if (fresh)
        o.colour = shade(s, COLOURS - 1);
    o.pattern = scene_once_in(s, 3) ? scene_pick(s, PATTERNS) : PLAIN;
    o.radius = o.large ? scene_between(s, 0.14, 0.19) : scene_between(s, 0.065, 0.095);
    o.angle = scene_once_in(s, 2) ? 0 : scene_between(s, -0.3, 0.3);
    for (int attempt = 0; attempt < 40; attempt++) {
        o.x = scene_between(s, o.radius + 0.02, 0.98 - o.radius);
        o.y = scene_between(s, o.radius + 0.02, 0.98 - o.radius);
        bool free = !near_a_third(o.x) && !near_a_third(o.y);
        for (int i = 0; free && i < s->count; i++)
            free = hypot(o.x - s->objects[i].x, o.y - s->objects[i].y) > 1.08 * (o.radius + s->objects[i].radius);
        if (free) {
            s->objects[s->count++] = o;
            return true;
        }
    }
    return false;
}

static void make_objects(scene *s, bool fresh)
{
    int wanted = 1 + scene_pick(s, MAX_OBJECTS);
    /* Often one shape or colour many times, so that counting it is worth a question. */
    bool alike = scene_once_in(s, 3);
    for (int i = 0; i < wanted && add_object(s, fresh && i == 0); i++)
        if (alike && i > 0 && !scene_once_in(s, 3) && s->objects[i].shape < SHAPES - 1)
            s->objects[i].shape = s->objects[0].shape;
}

/* Words are made of syllables: a reader must read them, and cannot guess. */
static void make_word(scene *s)
{
    static const char *const starts[] = {"b", "c", "d", "f", "g", "h", "k", "l",  "m", "n",  "p",  "r",
                                         "s", "t", "v", "w", "z", "j", "y", "qu", "x", "st", "tr", "ch"};
    static const char *const middles[] = {"a", "e", "i", "o", "u", "ea", "oo", "ai"};
    static const char *const ends[] = {"", "", "n", "r", "s", "t", "l", "m", "ck", "d", "ng", "p", "x", "y"};
    static const char *const known[] = {"OPEN", "EXIT",  "SALE",  "TAXI", "HOTEL", "CAFE",  "BANK",   "SCHOOL",
                                        "FREE", "HELLO", "WORLD", "MILK", "BREAD", "WATER", "MUSIC",  "MARKET",
                                        "PUSH", "PULL",  "STOP",  "SLOW", "TREE",  "HOUSE", "STREET", "GARDEN",
                                        "RED",  "BLUE",  "APPLE", "BOOK", "PHONE", "TABLE", "WINTER", "SUMMER"};
    char word[32] = "";
    if (scene_once_in(s, 4)) {
        snprintf(word, sizeof word, "%s", known[scene_pick(s, sizeof known / sizeof *known)]);
    } else {
        do {
            word[0] = '\0';
            for (int i = 0, n = 1 + scene_pick(s, 3); i < n; i++) {
                strcat(word, starts[scene_pick(s, sizeof starts / sizeof *starts)]);
                strcat(word, middles[scene_pick(s, sizeof middles / sizeof *middles)]);
                strcat(word, ends[scene_pick(s, sizeof ends / sizeof *ends)]);
            }
        } while (strlen(word) < 3 || strlen(word) > MAX_TEXT);
    }
    int style = scene_pick(s, 3); /* HELLO, hello, Hello */
    for (char *c = word; *c; c++) {
        bool upper = style == 0 || (style == 2 && c == word);
        if (upper && *c >= 'a' && *c <= 'z')
            *c = (char)(*c - 'a' + 'A');
        else if (!upper && *c >= 'A' && *c <= 'Z')
            *c = (char)(*c - 'A' + 'a');
    }
    memcpy(s->text, word, MAX_TEXT + 1);
}

static void make_text(scene *s)
{
    /* Without 0, 1 and I, which some fonts draw like others, but where a number says that it is one. */
    static const char mixed[] = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    s->word = scene_once_in(s, 2);
    if (s->word) {
        make_word(s);
    } else {
        s->numeric = scene_once_in(s, 2);
        int length = 1 + scene_pick(s, 6);
        for (int i = 0; i < length; i++)
            s->text[i] = (char)(s->numeric ? '0' + scene_pick(s, 10) : mixed[scene_pick(s, sizeof mixed - 1)]);
        if (s->numeric && length > 1 && s->text[0] == '0')
            s->text[0] = (char)('1' + scene_pick(s, 9));
    }
    s->font = scene_pick(s, FONTS);
    s->bold = scene_once_in(s, 2);
    int length = (int)strlen(s->text);
    s->size = scene_between(s, fmin(0.12 * length + 0.1, 0.6), fmin(0.3 * length, 0.9));
    s->angle = scene_once_in(s, 2) ? 0 : scene_between(s, -0.25, 0.25);
    s->x = 0.5 + scene_between(s, -0.5, 0.5) * (0.94 - s->size);
    s->y = 0.5 + scene_between(s, -0.5, 0.5) * fmin(0.94 - s->size, 0.5);
}

static void shuffle_choice(scene *s, int *chosen, int count, int n)
{
    for (int i = 0; i < count; i++) {
        bool taken;
        do {
            chosen[i] = scene_pick(s, n);
            taken = false;
            for (int j = 0; j < i; j++)
                taken = taken || chosen[j] == chosen[i];
        } while (taken);
    }
}

static void colour_all_differently(scene *s)
{
    int taken[MAX_BARS + 1] = {s->ground.name};
    for (int i = 0; i < s->count; i++) {
        s->colours[i] = other_colour(s, taken, i + 1);
        taken[i + 1] = s->colours[i].name;
    }
}

static void make_subject(scene *s, double smallest, double largest)
{
    s->size = scene_between(s, smallest, largest);
    s->x = scene_between(s, s->size + 0.03, 0.97 - s->size);
    s->y = scene_between(s, s->size + 0.03, 0.97 - s->size);
    s->angle = scene_once_in(s, 2) ? 0 : scene_between(s, -0.12, 0.12);
}

void scene_make(scene *s, uint64_t seed, uint64_t index, scene_kind kind, int side, bool fresh)
{
    *s = (scene){.key = fvlm_random(seed, 1, index), .kind = kind, .side = side};
    s->ground = shade(s, scene_once_in(s, 3) ? 9 : scene_pick(s, COLOURS - 1));
    s->ground_style = scene_pick(s, 4);
    s->ink = other_colour(s, &s->ground.name, 1);
    s->numbered = scene_once_in(s, 2);
    s->font = scene_pick(s, FONTS);
    switch (kind) {
    case SCENE_OBJECTS:
        make_objects(s, fresh);
        break;
    case SCENE_TEXT:
        make_text(s);
        break;
    case SCENE_CHART:
        s->count = 3 + scene_pick(s, MAX_BARS - 2);
        colour_all_differently(s);
        shuffle_choice(s, s->heights, s->count, 9);
        for (int i = 0; i < s->count; i++)
            s->heights[i]++;
        break;
    case SCENE_CLOCK:
        make_subject(s, 0.28, 0.46);
        s->angle = 0;
        s->hour = 1 + scene_pick(s, 12);
        s->minute = 5 * scene_pick(s, 12);
        break;
    case SCENE_SIGN:
        make_subject(s, 0.2, 0.42);
        s->sign = scene_pick(s, SIGNS);
        break;
    case SCENE_FACE:
        make_subject(s, 0.2, 0.42);
        s->face = scene_pick(s, FACES);
        break;
    default:
        s->count = 2 + scene_pick(s, MAX_BUTTONS - 1);
        colour_all_differently(s);
        shuffle_choice(s, s->labels, s->count, LABELS);
        s->angle = scene_once_in(s, 2) ? 1 : 0; /* buttons in a row or in a column */
        break;
    }
}

const char *scene_place(double x, double y)
{
    static const char *const places[3][3] = {
        {"top left", "top", "top right"}, {"left", "centre", "right"}, {"bottom left", "bottom", "bottom right"}};
    return places[(int)fmin(y * 3, 2)][(int)fmin(x * 3, 2)];
}
