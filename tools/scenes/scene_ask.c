/* What is asked about a scene, and what is true. Answers are a word or two; only descriptions are sentences. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "scene.h"

typedef struct asking {
    scene *s;
    scene_question *questions;
    size_t count;
} asking;

/* Copy a text, and write "an" where it has "a" before a vowel. */
static void write_text(char *to, size_t size, const char *from)
{
    size_t length = 0;
    for (const char *c = from; *c && length + 2 < size; c++) {
        to[length++] = *c;
        bool word = (*c == 'a' || *c == 'A') && (c == from || c[-1] == ' ') && c[1] == ' ';
        if (word && strchr("aeiou", c[2]))
            to[length++] = 'n';
    }
    to[length] = '\0';
}

/* One of the wordings, by lot: they are separated by '|', and each takes `thing` where it has a '#'. */
static void ask(asking *a, const char *type, const char *wordings, const char *thing, const char *answer, ...)
{
    if (a->count == MAX_QUESTIONS)
        return;
    scene_question *q = &a->questions[a->count++];
    q->type = type;
    int n = 1;
    for (const char *c = wordings; *c; c++)
        n += *c == '|';
    for (int skip = scene_pick(a->s, n); skip > 0; skip--)
        wordings = strchr(wordings, '|') + 1;
    int length = (int)strcspn(wordings, "|"), before = (int)strcspn(wordings, "#|");
    char text[sizeof q->answer];
    snprintf(text, sizeof text, "%.*s%s%.*s", before, wordings, before < length ? thing : "",
             before < length ? length - before - 1 : 0, wordings + before + 1);
    write_text(q->question, sizeof q->question, text);
    va_list arguments;
    va_start(arguments, answer);
    vsnprintf(text, sizeof text, answer, arguments);
    va_end(arguments);
    write_text(q->answer, sizeof q->answer, text);
}

#define DESCRIBE "Describe the picture.|Describe the image.|What do you see?|What is in this picture?"

static int shapes_like(const scene *s, int shape, int colour)
{
    int count = 0;
    for (int i = 0; i < s->count; i++)
        count += (shape < 0 || s->objects[i].shape == shape) && (colour < 0 || s->objects[i].colour.name == colour);
    return count;
}

static const char *plural(int shape)
{
    static const char *const names[SHAPES] = {"circles",  "squares", "triangles", "rectangles", "ovals",
                                              "stars",    "hearts",  "diamonds",  "crosses",    "pentagons",
                                              "hexagons", "rings",   "crescents"};
    return names[shape];
}

static void ask_ground(asking *a)
{
    ask(a, "background",
        "What colour is the background?|What is the colour of the background?|What color is the background?|Which "
        "colour does the background have?",
        "", "%s", colour_names[a->s->ground.name]);
}

/* Descriptions name objects in the order in which one reads. */
static void describe_objects(asking *a)
{
    scene *s = a->s;
    int order[MAX_OBJECTS];
    for (int i = 0; i < s->count; i++) {
        int at = i;
        for (; at > 0; at--) {
            const scene_object *one = &s->objects[order[at - 1]], *other = &s->objects[i];
            int above = (int)(one->y * 3) - (int)(other->y * 3);
            if (above < 0 || (above == 0 && one->x <= other->x))
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    char text[300] = "";
    size_t used = 0;
    for (int i = 0; i < s->count; i++) {
        const scene_object *o = &s->objects[order[i]];
        used += (size_t)snprintf(text + used, sizeof text - used, "%s %s %s at the %s",
                                 i == 0              ? "A"
                                 : i + 1 == s->count ? " and a"
                                                     : ", a",
                                 colour_names[o->colour.name], shape_names[o->shape], scene_place(o->x, o->y));
        if (used >= sizeof text)
            return; /* no description of half of it */
    }
    ask(a, "description", DESCRIBE, "", "%s on a %s background.", text, colour_names[s->ground.name]);
}

/* Questions that name an object by its shape need it to be the only one. */
static void ask_single_object(asking *a, const scene_object *o)
{
    scene *s = a->s;
    const char *shape = shape_names[o->shape], *colour = colour_names[o->colour.name];
    if (shapes_like(s, o->shape, -1) == 1) {
        ask(a, "colour",
            "What colour is the #?|What is the colour of the #?|What color is the #?|Which colour does the # have?",
            shape, "%s", colour);
        ask(a, "position", "Where is the #?|In which part of the picture is the #?|Where in the image is the #?", shape,
            "%s", scene_place(o->x, o->y));
        if (scene_once_in(s, 2))
            ask(a, "pattern", "What pattern does the # have?|Is the # plain, striped, dotted or checkered?", shape,
                "%s", pattern_names[o->pattern]);
    }
    if (shapes_like(s, -1, o->colour.name) == 1) {
        char thing[32];
        snprintf(thing, sizeof thing, "%s object", colour);
        ask(a, "shape", "What shape is the #?|What is the #?|Which shape does the # have?", thing, "%s", shape);
    }
}

static void ask_relation(asking *a, const scene_object *one, const scene_object *other)
{
    scene *s = a->s;
    if (shapes_like(s, one->shape, -1) != 1 || shapes_like(s, other->shape, -1) != 1)
        return;
    bool across = scene_once_in(s, 2);
    double apart = across ? other->x - one->x : other->y - one->y;
    if (fabs(apart) < 0.12)
        return;
    static const char *const words[2][2] = {{"below", "above"}, {"to the right of", "to the left of"}};
    int said = scene_pick(s, 2); /* 1: one is left of, or above, the other */
    char thing[80];
    snprintf(thing, sizeof thing, "%s %s the %s", shape_names[one->shape], words[across][said],
             shape_names[other->shape]);
    ask(a, "relation", "Is the #?", thing, "%s", (apart > 0) == (said == 1) ? "yes" : "no");
    if (one->large != other->large) {
        snprintf(thing, sizeof thing, "the %s or the %s", shape_names[one->shape], shape_names[other->shape]);
        ask(a, "compare", "Which is larger, #?|What is bigger, #?", thing, "%s",
            shape_names[one->large ? one->shape : other->shape]);
    }
}

static void ask_objects(asking *a)
{
    scene *s = a->s;
    char thing[64];
    ask_ground(a);
    for (int i = 0; i < s->count && i < 3; i++)
        ask_single_object(a, &s->objects[i]);
    if (s->count > 1)
        ask_relation(a, &s->objects[0], &s->objects[1]);

    snprintf(thing, sizeof thing, "%d", s->count);
    ask(a, "count", "How many objects are there?|How many shapes are in the picture?|Count the objects.", "", "%s",
        thing);
    const scene_object *first = &s->objects[0];
    ask(a, "count", "How many # are there?|How many # do you see?|Count the #.", plural(first->shape), "%d",
        shapes_like(s, first->shape, -1));
    snprintf(thing, sizeof thing, "%s objects", colour_names[first->colour.name]);
    ask(a, "count", "How many # are there?|How many # do you see?", thing, "%d",
        shapes_like(s, -1, first->colour.name));

    /* As often yes as no; no's often have the right shape in another colour. */
    int shape = first->shape, colour = first->colour.name;
    if (scene_once_in(s, 2)) {
        colour = scene_pick(s, COLOURS - 1);
        shape = scene_once_in(s, 2) ? shape : scene_pick(s, SHAPES - 1);
    }
    snprintf(thing, sizeof thing, "a %s %s", colour_names[colour], shape_names[shape]);
    ask(a, "yes/no", "Is there #?|Do you see #?|Is there # in the picture?", thing, "%s",
        shapes_like(s, shape, colour) ? "yes" : "no");
    shape = scene_once_in(s, 2) ? first->shape : scene_pick(s, SHAPES - 1);
    snprintf(thing, sizeof thing, "a %s", shape_names[shape]);
    ask(a, "yes/no", "Is there #?|Does the picture show #?|Can you see #?", thing, "%s",
        shapes_like(s, shape, -1) ? "yes" : "no");

    shape = scene_pick(s, SHAPES - 1);
    if (shapes_like(s, shape, -1) == 0)
        ask(a, "absent", "What colour is the #?|Where is the #?|What color is the #?", shape_names[shape],
            "I cannot see a %s.", shape_names[shape]);
    describe_objects(a);
}

static void ask_text(asking *a)
{
    scene *s = a->s;
    const char *kind = s->word ? "word" : s->numeric ? "number" : "text";
    ask_ground(a);
    ask(a, s->word ? "word" : "reading",
        "What does it say?|Read the text.|What is written here?|What text is in the picture?|Which # do you see?", kind,
        "%s", s->text);
    ask(a, "colour", "What colour is the text?|What color is the text?|What is the colour of the writing?", "", "%s",
        colour_names[s->ink.name]);
    ask(a, "description", DESCRIBE, "", "The %s %s in %s on a %s background.", kind, s->text, colour_names[s->ink.name],
        colour_names[s->ground.name]);
}

static void ask_chart(asking *a)
{
    scene *s = a->s;
    int tallest = 0, shortest = 0, any = scene_pick(s, s->count);
    char text[200] = "";
    size_t used = 0;
    for (int i = 0; i < s->count; i++) {
        tallest = s->heights[i] > s->heights[tallest] ? i : tallest;
        shortest = s->heights[i] < s->heights[shortest] ? i : shortest;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %d",
                                 i == 0              ? ""
                                 : i + 1 == s->count ? " and "
                                                     : ", ",
                                 colour_names[s->colours[i].name], s->heights[i]);
    }
    ask_ground(a);
    ask(a, "chart", "Which bar is the tallest?|What colour is the highest bar?|Which bar is the largest?", "", "%s",
        colour_names[s->colours[tallest].name]);
    ask(a, "chart", "Which bar is the shortest?|What colour is the lowest bar?|Which bar is the smallest?", "", "%s",
        colour_names[s->colours[shortest].name]);
    ask(a, "chart", "How high is the # bar?|What is the value of the # bar?|Which number does the # bar reach?",
        colour_names[s->colours[any].name], "%d", s->heights[any]);
    ask(a, "count", "How many bars are there?|How many bars does the chart have?", "", "%d", s->count);
    ask(a, "description", DESCRIBE, "", "A chart with %d bars: %s.", s->count, text);
}

static void ask_subject(asking *a)
{
    scene *s = a->s;
    ask_ground(a);
    if (s->kind == SCENE_CLOCK) {
        ask(a, "clock", "What time is it?|What time does the clock show?|Read the clock.", "", "%d:%02d", s->hour,
            s->minute);
        ask(a, "description", DESCRIBE, "", "A %s clock that shows %d:%02d.", colour_names[s->ink.name], s->hour,
            s->minute);
    } else if (s->kind == SCENE_SIGN) {
        ask(a, "sign", "Which sign is this?|What does the sign show?|What is on the sign?", "", "%s",
            sign_names[s->sign]);
        ask(a, "description", DESCRIBE, "", "A sign: %s.", sign_names[s->sign]);
    } else {
        ask(a, "face", "How does the face look?|Which expression does the face have?|How does the face feel?", "", "%s",
            face_names[s->face]);
        ask(a, "colour", "What colour is the face?|What color is the face?", "", "%s", colour_names[s->ink.name]);
        ask(a, "description", DESCRIBE, "", "A %s %s face.", face_names[s->face], colour_names[s->ink.name]);
    }
}

static void ask_screen(asking *a)
{
    scene *s = a->s;
    int any = scene_pick(s, s->count), label = scene_once_in(s, 2) ? s->labels[any] : scene_pick(s, LABELS);
    bool there = false;
    char text[200] = "";
    size_t used = 0;
    for (int i = 0; i < s->count; i++) {
        there = there || s->labels[i] == label;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s",
                                 i == 0              ? ""
                                 : i + 1 == s->count ? " and "
                                                     : ", ",
                                 colour_names[s->colours[i].name], label_names[s->labels[i]]);
    }
    ask(a, "button", "What does the # button say?|What is written on the # button?", colour_names[s->colours[any].name],
        "%s", label_names[s->labels[any]]);
    any = scene_pick(s, s->count);
    ask(a, "button", "What colour is the # button?|What color is the # button?", label_names[s->labels[any]], "%s",
        colour_names[s->colours[any].name]);
    ask(a, "yes/no", "Is there a button that says #?|Is there a # button?", label_names[label], "%s",
        there ? "yes" : "no");
    ask(a, "count", "How many buttons are there?|How many buttons does the window have?", "", "%d", s->count);
    ask(a, "description", DESCRIBE, "", "A window with %d buttons: %s.", s->count, text);
}

size_t scene_ask(scene *s, scene_question *questions)
{
    asking a = {s, questions, 0};
    switch (s->kind) {
    case SCENE_OBJECTS:
        ask_objects(&a);
        break;
    case SCENE_TEXT:
        ask_text(&a);
        break;
    case SCENE_CHART:
        ask_chart(&a);
        break;
    case SCENE_SCREEN:
        ask_screen(&a);
        break;
    default:
        ask_subject(&a);
        break;
    }
    return a.count;
}
