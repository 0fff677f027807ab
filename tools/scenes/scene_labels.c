/* What classifiers can be taught about a scene, for training a vision tower: names and classes. */
#include "scene.h"

int scene_thing_class(scene_thing thing, int number)
{
    enum { CHARACTERS = 62, HANDS = 2, CLOCKS = 1 };
    static const int counts[] = {SHAPES, CHARACTERS, MAX_HEIGHT, HANDS, CLOCKS, SIGNS, FACES, LABELS};
    int first = 1; /* 0: nothing */
    for (int i = 0; i < (int)thing; i++)
        first += counts[i];
    return first + number;
}

int scene_character(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'Z')
        return 10 + c - 'A';
    return c >= 'a' && c <= 'z' ? 36 + c - 'a' : -1;
}

json_t *scene_labels(const scene *s)
{
    json_t *labels = json_pack("{si}", "kind", (int)s->kind);
    if (s->kind != SCENE_SCREEN)
        json_object_set_new(labels, "background", json_integer(s->ground.name));
    if (s->kind == SCENE_TEXT || s->kind == SCENE_CLOCK || s->kind == SCENE_FACE)
        json_object_set_new(labels, "ink", json_integer(s->ink.name));
    return labels;
}

static void say(json_t *mark, const char *name, int value)
{
    if (value >= 0)
        json_object_set_new(mark, name, json_integer(value));
}

/* A part of a side that is below 1 with the four digits that are written, too. */
static bool is_inside(double part)
{
    return part >= 0 && part < 0.99995;
}

json_t *scene_marks(const scene *s)
{
    json_t *marks = json_array();
    for (int i = 0; i < s->mark_count; i++) {
        const scene_mark *m = &s->marks[i];
        if (!is_inside(m->x) || !is_inside(m->y))
            continue; /* the camera lost it */
        json_t *mark = json_pack("{s[ff]}", "at", m->x, m->y);
        say(mark, "thing", m->thing);
        say(mark, "colour", m->colour < 0 ? -1 : 1 + m->colour);
        say(mark, "pattern", m->pattern < 0 ? -1 : 1 + m->pattern);
        say(mark, "hour", m->hour);
        say(mark, "minute", m->minute < 0 ? -1 : 1 + m->minute / 5);
        json_array_append_new(marks, mark);
    }
    return marks;
}
