/* Paint a scene with cairo. Lengths are in units of the side: the context is scaled once. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scene.h"

#define TURN (2 * 3.14159265358979323846)

const char *const font_names[FONTS] = {"DejaVu Sans",
                                       "DejaVu Serif",
                                       "DejaVu Sans Mono",
                                       "Liberation Sans",
                                       "Liberation Serif",
                                       "Liberation Mono",
                                       "Lato",
                                       "Roboto",
                                       "Comic Neue",
                                       "FreeSerif",
                                       "Hack",
                                       "Liberation Sans Narrow"};

static void use(cairo_t *c, const scene_colour *colour)
{
    cairo_set_source_rgb(c, colour->r, colour->g, colour->b);
}

/* Black or white, whichever is told from the colour more easily. */
static void use_contrast(cairo_t *c, const scene_colour *colour)
{
    double light = 0.3 * colour->r + 0.59 * colour->g + 0.11 * colour->b < 0.5;
    cairo_set_source_rgb(c, light, light, light);
}

/* A mark of what is drawn at (x, y). */
static scene_mark *mark(scene *s, cairo_t *c, double x, double y, int thing)
{
    if (s->mark_count == MAX_MARKS)
        return &s->marks[MAX_MARKS - 1];
    cairo_user_to_device(c, &x, &y);
    scene_mark *made = &s->marks[s->mark_count++];
    *made = (scene_mark){x / s->side, y / s->side, thing, -1, -1, -1, -1};
    return made;
}

static void polygon(cairo_t *c, int corners, double first)
{
    for (int i = 0; i < corners; i++)
        cairo_line_to(c, cos(first + TURN * i / corners), sin(first + TURN * i / corners));
    cairo_close_path(c);
}

static void path_of(cairo_t *c, const double (*points)[2], size_t count)
{
    for (size_t i = 0; i < count; i++)
        cairo_line_to(c, points[i][0], points[i][1]);
    cairo_close_path(c);
}

/* The outline of a shape, in a circle of radius 1 around the origin. */
static void trace_shape(cairo_t *c, int shape)
{
    static const double cross[12][2] = {{-0.3, -0.9}, {0.3, -0.9}, {0.3, -0.3},  {0.9, -0.3},
                                        {0.9, 0.3},   {0.3, 0.3},  {0.3, 0.9},   {-0.3, 0.9},
                                        {-0.3, 0.3},  {-0.9, 0.3}, {-0.9, -0.3}, {-0.3, -0.3}};
    cairo_new_path(c);
    switch (shape) {
    case 0:
        cairo_arc(c, 0, 0, 0.95, 0, TURN);
        break;
    case 1:
        cairo_rectangle(c, -0.8, -0.8, 1.6, 1.6);
        break;
    case 2:
        polygon(c, 3, -TURN / 4);
        break;
    case 3:
        cairo_rectangle(c, -0.95, -0.5, 1.9, 1);
        break;
    case 4:
        cairo_save(c);
        cairo_scale(c, 1, 0.55);
        cairo_arc(c, 0, 0, 1, 0, TURN);
        cairo_restore(c);
        break;
    case 5:
        for (int i = 0; i < 10; i++) {
            double r = i % 2 ? 0.42 : 1, angle = TURN * (i / 10.0 - 0.25);
            cairo_line_to(c, r * cos(angle), r * sin(angle));
        }
        cairo_close_path(c);
        break;
    case 6:
        cairo_move_to(c, 0, 0.95);
        cairo_curve_to(c, -1.6, -0.2, -0.8, -1.3, 0, -0.45);
        cairo_curve_to(c, 0.8, -1.3, 1.6, -0.2, 0, 0.95);
        cairo_close_path(c);
        break;
    case 7:
        cairo_scale(c, 0.7, 1);
        polygon(c, 4, 0);
        cairo_scale(c, 1 / 0.7, 1);
        break;
    case 8:
        path_of(c, cross, 12);
        break;
    case 9:
        polygon(c, 5, -TURN / 4);
        break;
    case 10:
        polygon(c, 6, 0);
        break;
    case 11:
        cairo_arc(c, 0, 0, 0.95, 0, TURN);
        cairo_new_sub_path(c);
        cairo_arc_negative(c, 0, 0, 0.5, TURN, 0);
        break;
    default: /* crescent: a disc without another */
        cairo_arc(c, 0, 0, 0.95, 0.14 * TURN, 0.86 * TURN);
        cairo_arc_negative(c, 0.45, 0, 0.75, 0.75 * TURN, 0.25 * TURN);
        cairo_close_path(c);
    }
}

static void fill_pattern(cairo_t *c, int pattern)
{
    cairo_save(c);
    cairo_clip(c);
    if (pattern == STRIPED)
        for (double at = -1; at < 1; at += 0.4)
            cairo_rectangle(c, -1, at, 2, 0.18);
    else if (pattern == DOTTED)
        for (int i = 0; i < 25; i++) {
            cairo_new_sub_path(c);
            cairo_arc(c, (i % 5 - 2) * 0.42, (i / 5 - 2) * 0.42, 0.12, 0, TURN);
        }
    else
        for (int i = 0; i < 36; i++)
            if ((i % 6 + i / 6) % 2)
                cairo_rectangle(c, (i % 6 - 3) * 0.34, (i / 6 - 3) * 0.34, 0.34, 0.34);
    cairo_fill(c);
    cairo_restore(c);
}

static void draw_object(scene *s, cairo_t *c, const scene_object *o)
{
    scene_mark *here = mark(s, c, o->x, o->y, scene_thing_class(THING_SHAPE, o->shape));
    here->colour = o->colour.name;
    here->pattern = o->pattern;
    cairo_save(c);
    cairo_translate(c, o->x, o->y);
    cairo_scale(c, o->radius, o->radius);
    cairo_rotate(c, o->angle);
    trace_shape(c, o->shape);
    use(c, &o->colour);
    cairo_fill_preserve(c);
    if (o->pattern != PLAIN) {
        use_contrast(c, &o->colour);
        fill_pattern(c, o->pattern);
    }
    cairo_restore(c);
}

/* A mark in the middle of each character of a text that begins at (x, y). Of what is too small to read nothing is said.
 */
static void mark_characters(scene *s, cairo_t *c, const char *text, double x, double y)
{
    enum { SMALLEST = 11 }; /* pixels of a character's width and height together, of 256 */
    for (const char *at = text; *at; at++) {
        char part[32];
        cairo_text_extents_t before, own;
        snprintf(part, sizeof part, "%.*s", (int)(at - text), text);
        cairo_text_extents(c, part, &before);
        snprintf(part, sizeof part, "%c", *at);
        cairo_text_extents(c, part, &own);
        double w = own.width, h = own.height;
        cairo_user_to_device_distance(c, &w, &h);
        bool legible = fabs(w) + fabs(h) > SMALLEST / 256.0 * s->side && scene_character(*at) >= 0;
        mark(s, c, x + before.x_advance + own.x_bearing + own.width / 2, y + own.y_bearing + own.height / 2,
             legible ? scene_thing_class(THING_CHARACTER, scene_character(*at)) : -1);
    }
}

/* Text centred at (x, y): `width` wide, or, where that would be higher than `height`, that high. */
static void draw_text(scene *s, cairo_t *c, const char *text, int font, bool bold, double x, double y, double width,
                      double height)
{
    cairo_text_extents_t box;
    cairo_select_font_face(c, font_names[font], CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, 1);
    cairo_text_extents(c, text, &box);
    double size = fmin(width / box.width, height / box.height);
    cairo_save(c);
    cairo_translate(c, x, y);
    cairo_scale(c, size, size);
    mark_characters(s, c, text, -box.x_bearing - box.width / 2, -box.y_bearing - box.height / 2);
    cairo_move_to(c, -box.x_bearing - box.width / 2, -box.y_bearing - box.height / 2);
    cairo_text_path(c, text);
    cairo_fill(c);
    cairo_restore(c);
}

/* Values in [-1, 1] that change slowly over the picture: three octaves of waves. */
static double cloud(const double *waves, double x, double y)
{
    double sum = 0;
    for (int i = 0; i < 9; i++) {
        double frequency = 3 << (i / 3);
        double phase = frequency * (waves[3 * i] * x + waves[3 * i + 1] * y) + 6.3 * waves[3 * i + 2];
        sum += (double)cosf((float)phase) / (1 << (i / 3));
    }
    return sum / 5.25;
}

static void draw_ground(scene *s, cairo_surface_t *picture)
{
    enum { NOTHING, GRADIENT, GRAIN, CLOUDS };
    double waves[27], range = scene_between(s, 0.04, 0.12);
    for (int i = 0; i < 27; i++)
        waves[i] = scene_between(s, -1, 1);
    cairo_surface_flush(picture);
    uint8_t *rows = cairo_image_surface_get_data(picture);
    size_t stride = (size_t)cairo_image_surface_get_stride(picture);
    const double base[3] = {s->ground.b, s->ground.g, s->ground.r};
    for (int y = 0; y < s->side; y++)
        for (int x = 0; x < s->side; x++) {
            double u = (double)x / s->side, v = (double)y / s->side, change = 0;
            if (s->ground_style == GRADIENT)
                change = waves[0] * (u - 0.5) + waves[1] * (v - 0.5);
            else if (s->ground_style == GRAIN)
                change = scene_between(s, -1, 1);
            else if (s->ground_style == CLOUDS)
                change = cloud(waves, u, v);
            for (int i = 0; i < 3; i++) {
                double value = base[i] + range * change;
                value = value < 0 ? 0 : value > 1 ? 1 : value;
                rows[(size_t)y * stride + 4 * (size_t)x + (size_t)i] = (uint8_t)(255 * value);
            }
        }
    cairo_surface_mark_dirty(picture);
}

static void draw_chart(scene *s, cairo_t *c)
{
    double width = 0.84 / s->count, thickness = width * scene_between(s, 0.5, 0.85);
    use_contrast(c, &s->ground);
    cairo_set_line_width(c, 0.008);
    cairo_move_to(c, 0.1, 0.06);
    cairo_line_to(c, 0.1, 0.92);
    cairo_line_to(c, 0.96, 0.92);
    cairo_stroke(c);
    for (int tick = 1; tick <= 9; tick++) {
        cairo_move_to(c, 0.085, 0.92 - 0.09 * tick);
        cairo_line_to(c, 0.1, 0.92 - 0.09 * tick);
        cairo_stroke(c);
        char number[12];
        snprintf(number, sizeof number, "%d", tick);
        draw_text(s, c, number, s->font, false, 0.05, 0.92 - 0.09 * tick, 0.05, 0.055);
    }
    for (int i = 0; i < s->count; i++) {
        double left = 0.11 + width * i + (width - thickness) / 2, height = 0.09 * s->heights[i];
        use(c, &s->colours[i]);
        cairo_rectangle(c, left, 0.918 - height, thickness, height);
        cairo_fill(c);
        mark(s, c, left + thickness / 2, 0.918 - height, scene_thing_class(THING_BAR, s->heights[i] - 1))->colour =
            s->colours[i].name;
        if (s->numbered) {
            char number[12];
            snprintf(number, sizeof number, "%d", s->heights[i]);
            use_contrast(c, &s->colours[i]);
            draw_text(s, c, number, s->font, true, left + thickness / 2, 0.918 - 0.045, 0.07, 0.06);
        }
    }
}

static void hand(scene *s, cairo_t *c, double turn, double length, double width)
{
    mark(s, c, length * sin(TURN * turn), -length * cos(TURN * turn), scene_thing_class(THING_HAND, width > 0.08));
    cairo_set_line_width(c, width);
    cairo_move_to(c, -0.1 * length * sin(TURN * turn), 0.1 * length * cos(TURN * turn));
    cairo_line_to(c, length * sin(TURN * turn), -length * cos(TURN * turn));
    cairo_stroke(c);
}

static void draw_clock(scene *s, cairo_t *c)
{
    cairo_translate(c, s->x, s->y);
    cairo_scale(c, s->size, s->size);
    cairo_arc(c, 0, 0, 1, 0, TURN);
    use(c, &s->ink);
    cairo_fill_preserve(c);
    use_contrast(c, &s->ink);
    cairo_set_line_width(c, scene_between(s, 0.02, 0.08));
    cairo_stroke(c);
    cairo_set_line_cap(c, CAIRO_LINE_CAP_ROUND);
    for (int i = 1; i <= 12; i++) {
        double u = sin(TURN * i / 12), v = -cos(TURN * i / 12);
        if (s->numbered) {
            char number[12];
            snprintf(number, sizeof number, "%d", i);
            draw_text(s, c, number, s->font, false, 0.8 * u, 0.8 * v, 0.2, 0.17);
        } else {
            cairo_set_line_width(c, i % 3 ? 0.03 : 0.06);
            cairo_move_to(c, 0.8 * u, 0.8 * v);
            cairo_line_to(c, 0.9 * u, 0.9 * v);
            cairo_stroke(c);
        }
    }
    hand(s, c, (s->hour + s->minute / 60.0) / 12, 0.42, 0.1);
    hand(s, c, s->minute / 60.0, 0.72, 0.055);
    scene_mark *here = mark(s, c, 0, 0, scene_thing_class(THING_CLOCK, 0));
    here->colour = s->ink.name;
    here->hour = s->hour;
    here->minute = s->minute;
}

static void draw_arrow(cairo_t *c, double turn)
{
    static const double arrow[7][2] = {{0, -0.8},     {0.6, -0.1},   {0.22, -0.1}, {0.22, 0.75},
                                       {-0.22, 0.75}, {-0.22, -0.1}, {-0.6, -0.1}};
    cairo_save(c);
    cairo_rotate(c, TURN * turn);
    path_of(c, arrow, 7);
    cairo_fill(c);
    cairo_restore(c);
}

static void draw_sign(scene *s, cairo_t *c)
{
    static const scene_colour red = {0, 0.8, 0.05, 0.05}, blue = {2, 0.1, 0.25, 0.75}, white = {9, 1, 1, 1};
    cairo_translate(c, s->x, s->y);
    cairo_scale(c, s->size, s->size);
    cairo_rotate(c, s->angle);
    bool arrow = s->sign >= 3 && s->sign <= 6;
    if (s->sign == 0)
        polygon(c, 8, TURN / 16);
    else if (s->sign == 2)
        polygon(c, 3, -TURN / 4);
    else if (s->sign == 7 || (arrow && s->numbered))
        cairo_rectangle(c, -0.85, -0.85, 1.7, 1.7);
    else
        cairo_arc(c, 0, 0, 0.95, 0, TURN);
    cairo_set_line_width(c, 0.14);
    use(c, arrow ? &s->ink : s->sign == 7 ? &blue : s->sign == 2 ? &white : &red);
    cairo_fill_preserve(c);
    use(c, s->sign == 2 ? &red : &white);
    cairo_stroke(c);
    if (arrow) {
        use_contrast(c, &s->ink);
        draw_arrow(c, (s->sign - 3) / 4.0);
    } else if (s->sign == 0) {
        draw_text(s, c, "STOP", 7, true, 0, 0, 1.4, 0.6);
    } else if (s->sign == 1) {
        cairo_rectangle(c, -0.65, -0.16, 1.3, 0.32);
        cairo_fill(c);
    } else if (s->sign == 2) {
        cairo_set_source_rgb(c, 0, 0, 0);
        draw_text(s, c, "!", 7, true, 0, 0.1, 0.3, 0.75);
    } else {
        draw_text(s, c, "P", 7, true, 0, 0, 0.8, 1.1);
    }
    mark(s, c, 0, 0, scene_thing_class(THING_SIGN, s->sign));
}

static void draw_face(scene *s, cairo_t *c)
{
    enum { HAPPY, SAD, SURPRISED, ANGRY, WINKING };
    cairo_translate(c, s->x, s->y);
    cairo_scale(c, s->size, s->size);
    cairo_rotate(c, s->angle);
    cairo_arc(c, 0, 0, 1, 0, TURN);
    use(c, &s->ink);
    cairo_fill(c);
    use_contrast(c, &s->ink);
    cairo_set_line_width(c, 0.1);
    cairo_set_line_cap(c, CAIRO_LINE_CAP_ROUND);
    for (int side = -1; side <= 1; side += 2) {
        if (s->face == WINKING && side > 0) {
            cairo_move_to(c, 0.2, -0.25);
            cairo_line_to(c, 0.5, -0.25);
            cairo_stroke(c);
        } else {
            cairo_arc(c, 0.35 * side, -0.25, s->face == SURPRISED ? 0.17 : 0.12, 0, TURN);
            cairo_fill(c);
        }
        if (s->face == ANGRY) {
            cairo_move_to(c, 0.55 * side, -0.65);
            cairo_line_to(c, 0.15 * side, -0.45);
            cairo_stroke(c);
        }
    }
    if (s->face == HAPPY || s->face == WINKING)
        cairo_arc(c, 0, 0.15, 0.5, 0.05 * TURN, 0.45 * TURN);
    else if (s->face == SAD || s->face == ANGRY)
        cairo_arc(c, 0, 0.75, 0.42, 0.56 * TURN, 0.94 * TURN);
    else if (s->face == SURPRISED)
        cairo_arc(c, 0, 0.45, 0.22, 0, TURN);
    else {
        cairo_move_to(c, -0.4, 0.4);
        cairo_line_to(c, 0.4, 0.4);
    }
    if (s->face == SURPRISED)
        cairo_fill(c);
    else
        cairo_stroke(c);
    mark(s, c, 0, 0, scene_thing_class(THING_FACE, s->face))->colour = s->ink.name;
}

static void draw_screen(scene *s, cairo_t *c)
{
    double left = scene_between(s, 0.03, 0.1), top = scene_between(s, 0.03, 0.1), width = 1 - 2 * left,
           height = 1 - 2 * top, bar = 0.1;
    cairo_set_source_rgb(c, 0.93, 0.93, 0.94);
    cairo_rectangle(c, left, top, width, height);
    cairo_fill(c);
    use(c, &s->ink);
    cairo_rectangle(c, left, top, width, bar);
    cairo_fill(c);
    bool row = s->angle > 0;
    for (int i = 0; i < s->count; i++) {
        double cell_w = row ? width / s->count : width, cell_h = row ? height - bar : (height - bar) / s->count;
        double x = left + cell_w * (row ? i + 0.5 : 0.5), y = top + bar + cell_h * (row ? 0.5 : i + 0.5);
        double w = row ? 0.86 * cell_w : 0.6 * cell_w, h = fmin(0.7 * cell_h, 0.18);
        use(c, &s->colours[i]);
        cairo_rectangle(c, x - w / 2, y - h / 2, w, h);
        cairo_fill(c);
        use_contrast(c, &s->colours[i]);
        draw_text(s, c, label_names[s->labels[i]], s->font, true, x, y, 0.8 * w, 0.5 * h);
        mark(s, c, x, y, scene_thing_class(THING_BUTTON, s->labels[i]))->colour = s->colours[i].name;
    }
}

cairo_surface_t *scene_draw(scene *s)
{
    cairo_surface_t *picture = cairo_image_surface_create(CAIRO_FORMAT_RGB24, s->side, s->side);
    if (cairo_surface_status(picture) != CAIRO_STATUS_SUCCESS)
        return picture;
    draw_ground(s, picture);
    cairo_t *c = cairo_create(picture);
    cairo_scale(c, s->side, s->side);
    switch (s->kind) {
    case SCENE_OBJECTS:
        for (int i = 0; i < s->count; i++)
            draw_object(s, c, &s->objects[i]);
        break;
    case SCENE_TEXT:
        cairo_translate(c, s->x, s->y);
        cairo_rotate(c, s->angle);
        use(c, &s->ink);
        draw_text(s, c, s->text, s->font, s->bold, 0, 0, s->size, 0.4);
        break;
    case SCENE_CHART:
        draw_chart(s, c);
        break;
    case SCENE_CLOCK:
        draw_clock(s, c);
        break;
    case SCENE_SIGN:
        draw_sign(s, c);
        break;
    case SCENE_FACE:
        draw_face(s, c);
        break;
    default:
        draw_screen(s, c);
        break;
    }
    cairo_destroy(c);
    return picture;
}
