/* What a classifier can be taught about a scene, for pre-training a vision tower: names and classes. A picture without
 * something has class 0 of it; a name that is not said of a picture is not known of it and counts for nothing. */
#include <stdio.h>
#include <string.h>

#include "scene.h"

typedef struct labelling {
    scene_label *labels;
    size_t count;
} labelling;

static void say(labelling *l, const char *name, int value)
{
    scene_label *label = &l->labels[l->count++];
    snprintf(label->name, sizeof label->name, "%s", name);
    label->value = value;
}

static void say_at(labelling *l, const char *name, int place, int value)
{
    char full[24];
    snprintf(full, sizeof full, "%s %d", name, place);
    say(l, full, value);
}

/* Letters and digits from 1 on; 0: there is none. */
static int character_class(char c)
{
    if (c >= '0' && c <= '9')
        return 1 + c - '0';
    if (c >= 'A' && c <= 'Z')
        return 11 + c - 'A';
    return c >= 'a' && c <= 'z' ? 37 + c - 'a' : 0;
}

/* Of the nine parts of the picture each has at most a few objects: the largest one's shape, colour and pattern. */
static void label_objects(labelling *l, const scene *s)
{
    for (int part = 0; part < 9; part++) {
        const scene_object *found = NULL;
        int here = 0;
        for (int i = 0; i < s->count; i++) {
            const scene_object *o = &s->objects[i];
            if ((int)(o->y * 3) * 3 + (int)(o->x * 3) != part)
                continue;
            here++;
            found = !found || o->radius > found->radius ? o : found;
        }
        say_at(l, "objects", part, here);
        say_at(l, "shape", part, found ? 1 + found->shape : 0);
        say_at(l, "colour", part, found ? 1 + found->colour.name : 0);
        say_at(l, "pattern", part, found ? 1 + found->pattern : 0);
    }
}

size_t scene_labels(const scene *s, scene_label *labels)
{
    labelling l = {labels, 0};
    say(&l, "kind", (int)s->kind);
    if (s->kind != SCENE_SCREEN)
        say(&l, "background", s->ground.name);
    switch (s->kind) {
    case SCENE_OBJECTS:
        label_objects(&l, s);
        break;
    case SCENE_TEXT:
        say(&l, "ink", s->ink.name);
        for (int i = 0, end = (int)strlen(s->text); i < MAX_TEXT; i++)
            say_at(&l, "character", i, i < end ? character_class(s->text[i]) : 0);
        break;
    case SCENE_CHART:
    case SCENE_SCREEN:
        for (int i = 0; i < MAX_BARS; i++) {
            bool there = i < s->count, bars = s->kind == SCENE_CHART;
            say_at(&l, bars ? "bar" : "button", i, there ? 1 + s->colours[i].name : 0);
            if (there)
                say_at(&l, bars ? "height" : "label", i, bars ? s->heights[i] : s->labels[i]);
        }
        break;
    case SCENE_CLOCK:
        say(&l, "ink", s->ink.name);
        say(&l, "hour", s->hour - 1);
        say(&l, "minute", s->minute / 5);
        break;
    case SCENE_SIGN:
        say(&l, "sign", s->sign);
        break;
    default:
        say(&l, "ink", s->ink.name);
        say(&l, "face", s->face);
        break;
    }
    return l.count;
}
