/* What happens to a picture between the scene and the file: a camera that looks from the side, light that falls off,
 * a lens that blurs, a sensor that adds noise. */
#include <math.h>
#include <stdlib.h>

#include "scene.h"

/* The projective map of the unit square to four corners, as x' = (a x + b y + c) / (g x + h y + 1) (Heckbert 1989). */
typedef struct projection {
    double a, b, c, d, e, f, g, h;
} projection;

static projection square_to(const double (*q)[2])
{
    double dx1 = q[1][0] - q[2][0], dx2 = q[3][0] - q[2][0], sx = q[0][0] - q[1][0] + q[2][0] - q[3][0];
    double dy1 = q[1][1] - q[2][1], dy2 = q[3][1] - q[2][1], sy = q[0][1] - q[1][1] + q[2][1] - q[3][1];
    double below = dx1 * dy2 - dx2 * dy1;
    double g = (sx * dy2 - dx2 * sy) / below, h = (dx1 * sy - sx * dy1) / below;
    return (projection){q[1][0] - q[0][0] + g * q[1][0],
                        q[3][0] - q[0][0] + h * q[3][0],
                        q[0][0],
                        q[1][1] - q[0][1] + g * q[1][1],
                        q[3][1] - q[0][1] + h * q[3][1],
                        q[0][1],
                        g,
                        h};
}

/* Where the camera sees a place of the picture: the map's inverse, by Cramer's rule. */
static void see(const projection *p, double *x, double *y)
{
    double a = p->a - p->g * *x, b = p->b - p->h * *x, c = *x - p->c;
    double d = p->d - p->g * *y, e = p->e - p->h * *y, f = *y - p->f;
    double below = a * e - b * d;
    *x = (c * e - b * f) / below;
    *y = (a * f - c * d) / below;
}

static float clamp(float value, float most)
{
    return value < 0 ? 0 : value > most ? most : value;
}

/* Add what lies between four pixels to the three channels; outside, the nearest edge's. */
static void add_sample(const uint8_t *rows, size_t stride, int side, float x, float y, float *channels)
{
    x = clamp(x, (float)(side - 1));
    y = clamp(y, (float)(side - 1));
    int left = (int)x, top = (int)y, right = left + (left < side - 1), bottom = top + (top < side - 1);
    float u = x - (float)left, v = y - (float)top;
    const uint8_t *above = rows + (size_t)top * stride, *below = rows + (size_t)bottom * stride;
    for (int i = 0; i < 3; i++)
        channels[i] += (1 - v) * ((1 - u) * above[4 * left + i] + u * above[4 * right + i]) +
                       v * ((1 - u) * below[4 * left + i] + u * below[4 * right + i]);
}

void scene_camera(scene *s, cairo_surface_t **picture, double strength)
{
    cairo_surface_t *seen = cairo_image_surface_create(CAIRO_FORMAT_RGB24, s->side, s->side);
    if (cairo_surface_status(seen) != CAIRO_STATUS_SUCCESS) {
        cairo_surface_destroy(*picture);
        *picture = seen;
        return;
    }
    /* The corners of what is seen lie outside the picture's as well as inside, but never so far in that something that
     * was drawn is lost: scenes keep 2 % of their sides free. */
    double corners[4][2] = {{0, 0}, {1, 0}, {1, 1}, {0, 1}};
    for (int i = 0; i < 8; i++) {
        double out = scene_between(s, -0.02, 0.12) * strength;
        corners[i / 2][i % 2] += corners[i / 2][i % 2] > 0.5 ? out : -out;
    }
    projection p = square_to((const double(*)[2])corners);
    double light[3], slope[2], noise = scene_between(s, 0, 9) * strength, blur = scene_between(s, 0, 1.2) * strength;
    double dim = scene_between(s, 1 - 0.3 * strength, 1 + 0.15 * strength);
    for (int i = 0; i < 3; i++)
        light[i] = dim * scene_between(s, 1 - 0.06 * strength, 1 + 0.06 * strength);
    for (int i = 0; i < 2; i++)
        slope[i] = scene_between(s, -0.25, 0.25) * strength;

    for (int i = 0; i < s->mark_count; i++)
        see(&p, &s->marks[i].x, &s->marks[i].y);
    cairo_surface_flush(*picture);
    const uint8_t *from = cairo_image_surface_get_data(*picture);
    uint8_t *to = cairo_image_surface_get_data(seen);
    size_t stride = (size_t)cairo_image_surface_get_stride(seen);
    for (int y = 0; y < s->side; y++)
        for (int x = 0; x < s->side; x++) {
            double u = (x + 0.5) / s->side, v = (y + 0.5) / s->side, w = p.g * u + p.h * v + 1;
            double at_x = (p.a * u + p.b * v + p.c) / w * s->side - 0.5;
            double at_y = (p.d * u + p.e * v + p.f) / w * s->side - 0.5;
            double shine = 1 + slope[0] * (u - 0.5) + slope[1] * (v - 0.5);
            float sums[3] = {0, 0, 0};
            for (int tap = 0; tap < 4; tap++)
                add_sample(from, stride, s->side, (float)(at_x + (tap % 2 ? blur : -blur)),
                           (float)(at_y + (tap / 2 ? blur : -blur)), sums);
            for (int i = 0; i < 3; i++) {
                double value = 0.25 * sums[i] * shine * light[i] + noise * scene_between(s, -1, 1);
                to[(size_t)y * stride + 4 * (size_t)x + (size_t)i] = (uint8_t)clamp((float)value + 0.5f, 255);
            }
        }
    cairo_surface_mark_dirty(seen);
    cairo_surface_destroy(*picture);
    *picture = seen;
}
