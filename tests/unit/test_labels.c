/* Classes of pictures and places: their losses, and the gradients that they give a whole network, by differences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fastvlm/fastvlm.h"
#include "train/labels.h"
#include "train/network.h"
#include "train/random.h"

#define MODEL TEST_GOLDEN "/llava"

enum { GRID = 4, NAMES = 2 };
static char thing[] = "thing", colour[] = "colour";
static char *names[NAMES] = {colour, thing};
static size_t first[NAMES + 1] = {0, 3, 8};
static const fvlm_class_names marks = {names, first, NAMES};

static float unit(uint64_t index)
{
    return 2 * fvlm_random_unit(7, 0, index) - 1;
}

/* A grid where one cell has both names, one only a thing, and all others nothing. */
static void fill_cells(int32_t *cells, size_t grid)
{
    memset(cells, 0, grid * grid * NAMES * sizeof *cells);
    cells[(grid + 2) * NAMES] = 2;
    cells[(grid + 2) * NAMES + 1] = 4;
    cells[(3 * grid + 1) * NAMES] = -1;
    cells[(3 * grid + 1) * NAMES + 1] = 1;
}

static void test_marks_weigh_as_much_as_nothing(void **state)
{
    (void)state;
    int32_t cells[GRID * GRID * NAMES];
    float logits[GRID * GRID * 8] = {0};
    size_t known;
    fill_cells(cells, GRID);
    double loss = fvlm_marks_loss(&marks, GRID, GRID, logits, cells, &known);
    assert_int_equal(known, 2 * 1 + 2 * 2); /* one colour, two things */
    assert_float_equal(loss, 2 * log(3) + 4 * log(5), 1e-5);
    memset(cells, 0, sizeof cells);
    memset(logits, 0, sizeof logits);
    loss = fvlm_marks_loss(&marks, GRID, GRID, logits, cells, &known);
    assert_int_equal(known, NAMES);
    assert_float_equal(loss, log(3) + log(5), 1e-5);
}

/* A place answers for a square of cells: the same logits, laid out for 2 x 2 places, give the same loss and gradients.
 */
static void test_squares_of_cells(void **state)
{
    (void)state;
    enum { SIDE = 2, SQUARE = GRID / SIDE, OUTPUTS = 8 };
    int32_t cells[GRID * GRID * NAMES];
    float plain[GRID * GRID * OUTPUTS], squares[GRID * GRID * OUTPUTS];
    size_t known[2];
    fill_cells(cells, GRID);
    for (size_t y = 0; y < GRID; y++)
        for (size_t x = 0; x < GRID; x++)
            for (size_t k = 0; k < OUTPUTS; k++) {
                size_t place = y / SQUARE * SIDE + x / SQUARE, cell = y % SQUARE * SQUARE + x % SQUARE;
                plain[(y * GRID + x) * OUTPUTS + k] = unit((y * GRID + x) * OUTPUTS + k);
                squares[(place * SQUARE * SQUARE + cell) * OUTPUTS + k] = plain[(y * GRID + x) * OUTPUTS + k];
            }
    double loss = fvlm_marks_loss(&marks, GRID, GRID, plain, cells, &known[0]);
    assert_float_equal(fvlm_marks_loss(&marks, GRID, SIDE, squares, cells, &known[1]), loss, 0);
    assert_int_equal(known[0], known[1]);
    for (size_t y = 0; y < GRID; y++)
        for (size_t x = 0; x < GRID; x++) {
            size_t place = y / SQUARE * SIDE + x / SQUARE, cell = y % SQUARE * SQUARE + x % SQUARE;
            assert_memory_equal(plain + (y * GRID + x) * OUTPUTS, squares + (place * SQUARE * SQUARE + cell) * OUTPUTS,
                                OUTPUTS * sizeof(float));
        }
}

static const fvlm_framing whole = {{1, 1}, {0, 0}};

static fvlm_classes read_framed(const char *text, const fvlm_framing *framing, const char *wrong)
{
    const fvlm_label_set set = {.labels = marks, .marks = marks};
    fvlm_classes classes;
    fvlm_error error = {0};
    json_t *sample = json_loads(text, 0, NULL);
    assert_non_null(sample);
    fvlm_status status = fvlm_classes_read(&set, sample, framing, GRID, &classes, &error);
    json_decref(sample);
    assert_int_equal(status, wrong ? FVLM_ERROR_FORMAT : FVLM_OK);
    if (wrong)
        assert_non_null(strstr(error.message, wrong));
    return classes;
}

static fvlm_classes read_classes(const char *text, const char *wrong)
{
    return read_framed(text, &whole, wrong);
}

/* What is marked in a picture that is no square is where the tower sees it. */
static void test_marks_move_with_the_picture(void **state)
{
    (void)state;
    enum { LONG = 96, SHORT = 48, SIDE = 64, DOT = 6 };
    static const fvlm_image_mode modes[] = {FVLM_IMAGE_PAD, FVLM_IMAGE_CROP};
    fvlm_pool *pool;
    assert_int_equal(fvlm_pool_create(1, &pool, NULL), FVLM_OK);
    for (int i = 0; i < 4; i++) {
        static uint8_t rgb[LONG * SHORT * 3];
        size_t width = i < 2 ? LONG : SHORT, height = i < 2 ? SHORT : LONG, left = width / 2, top = height / 2;
        left += i < 2 ? 12 : 5;
        top += i < 2 ? 5 : 12;
        memset(rgb, 0, sizeof rgb);
        for (size_t y = top; y < top + DOT; y++)
            memset(rgb + (y * width + left) * 3, 255, (size_t)DOT * 3);
        fvlm_image *image;
        fvlm_tiles tiles;
        assert_int_equal(fvlm_image_from_rgb(rgb, width, height, &image, NULL), FVLM_OK);
        fvlm_preprocessing preprocessing = {.mode = modes[i % 2], .size = SIDE};
        assert_int_equal(fvlm_preprocess(pool, image, &preprocessing, &tiles, NULL), FVLM_OK);
        double sums[3] = {0};
        for (size_t y = 0; y < SIDE; y++)
            for (size_t x = 0; x < SIDE; x++) {
                double light = tiles.pixels[(y * SIDE + x) * 3];
                sums[0] += light * ((double)x + 0.5) / SIDE;
                sums[1] += light * ((double)y + 0.5) / SIDE;
                sums[2] += light;
            }
        fvlm_framing framing = fvlm_preprocess_framing(modes[i % 2], width, height, SIDE);
        const double part[2] = {(double)(left + DOT / 2) / (double)width, (double)(top + DOT / 2) / (double)height};
        for (int k = 0; k < 2; k++)
            assert_float_equal(framing.scale[k] * part[k] + framing.offset[k], sums[k] / sums[2], 0.01);
        fvlm_tiles_free(&tiles);
        fvlm_image_free(&image);
    }
    fvlm_pool_destroy(&pool);

    const fvlm_framing square = fvlm_preprocess_framing(FVLM_IMAGE_PAD, 300, 300, SIDE);
    assert_memory_equal(&square, &whole, sizeof whole);
    const fvlm_framing padded = fvlm_preprocess_framing(FVLM_IMAGE_PAD, LONG, SHORT, SIDE);
    fvlm_classes classes = read_framed("{\"marks\": [{\"at\": [0, 0], \"thing\": 3}]}", &padded, NULL);
    for (int cell = 0; cell < GRID * GRID; cell++)
        assert_int_equal(classes.cells[cell * NAMES + 1], cell == GRID ? 3 : 0);
    fvlm_classes_clear(&classes);
    const fvlm_framing cut = fvlm_preprocess_framing(FVLM_IMAGE_CROP, LONG, SHORT, SIDE);
    classes =
        read_framed("{\"marks\": [{\"at\": [0.1, 0.5], \"thing\": 3}, {\"at\": [0.3, 0], \"thing\": 2}]}", &cut, NULL);
    for (int cell = 0; cell < GRID * GRID; cell++)
        assert_int_equal(classes.cells[cell * NAMES + 1], cell == 0 ? 2 : 0);
    fvlm_classes_clear(&classes);
}

static void test_reading(void **state)
{
    (void)state;
    fvlm_classes classes = read_classes("{\"marks\": [{\"at\": [0.5, 0.99], \"thing\": 3}]}", NULL);
    for (int cell = 0; cell < GRID * GRID; cell++) {
        assert_int_equal(classes.cells[cell * NAMES], cell == 14 ? -1 : 0);
        assert_int_equal(classes.cells[cell * NAMES + 1], cell == 14 ? 3 : 0);
    }
    fvlm_classes_clear(&classes);
    classes = read_classes("{\"labels\": {\"thing\": 1}}", NULL); /* of its places it says nothing */
    for (int k = 0; k < GRID * GRID * NAMES; k++)
        assert_int_equal(classes.cells[k], -1);
    fvlm_classes_clear(&classes);
    read_classes("{\"marks\": [{\"at\": [0.5, 1], \"thing\": 3}]}", "\"at\"");
    read_classes("{\"marks\": [{\"at\": [0.5], \"thing\": 3}]}", "\"at\"");
    read_classes("{\"marks\": [{\"thing\": 3}]}", "\"at\"");
    read_classes("{\"marks\": [7]}", "\"at\"");
    read_classes("{\"marks\": [{\"at\": [0, 0], \"thing\": 5}]}", "'thing' is 5");
    read_classes("{\"marks\": [{\"at\": [0, 0], \"thing\": -1}]}", "'thing'");
    read_classes("{\"marks\": {\"at\": [0, 0], \"thing\": 1}, \"labels\": {\"thing\": 1}}", "no list");
    read_classes("{\"marks\": [{\"at\": [0, 0], \"thing\": 1}], \"labels\": [1]}", "no object");
    read_classes("{\"marks\": [], \"labels\": {}}", "no \"labels\"");
    read_classes("{}", "no \"labels\"");
}

/* The gradient of everything that classifiers and answers share, against central differences of the loss. */
static void test_gradients_of_a_network(void **state)
{
    (void)state;
    fvlm_error error = {0};
    fvlm_engine *engine;
    fvlm_engine_options engine_options = {.model = MODEL, .threads = 2, .context = 256};
    assert_int_equal(fvlm_engine_open(&engine_options, &engine, &error), FVLM_OK);
    fvlm_label_set set = {.labels = {names, first, NAMES}, .marks = marks};
    fvlm_network_options options = {.trained = FVLM_PART_VISION | FVLM_PART_PROJECTOR | FVLM_PART_LANGUAGE,
                                    .labels = &set};
    fvlm_network *network;
    if (fvlm_network_create(engine, &options, &network, &error))
        fail_msg("%s", error.message);
    fvlm_parameters *parameters = fvlm_network_parameters(network);
    for (size_t i = 0; i < parameters->count; i++)
        for (size_t k = 0; k < parameters->items[i]->count && strcmp(parameters->items[i]->name, "finder.weight") == 0;
             k++)
            parameters->items[i]->value[k] = 0.1f * unit(k);

    size_t side = engine->config.vision.resolution, tokens = fvlm_engine_tile_tokens(engine);
    size_t grid = FVLM_CELLS_PER_TOKEN * fvlm_engine_side(engine);
    fvlm_picture picture = {.tiles = {.count = 1, .size = side}, .count = tokens};
    picture.tiles.pixels = malloc(side * side * 3);
    picture.index = malloc(tokens * sizeof *picture.index);
    fvlm_sample sample = {.count = tokens + 3, .pictures = &picture, .picture_count = 1};
    sample.tokens = malloc(sample.count * sizeof *sample.tokens);
    sample.labels = malloc(sample.count * sizeof *sample.labels);
    sample.classes.labels = calloc(NAMES, sizeof *sample.classes.labels);
    sample.classes.cells = calloc(grid * grid * NAMES, sizeof *sample.classes.cells);
    assert_true(picture.tiles.pixels && picture.index && sample.tokens && sample.labels && sample.classes.labels &&
                sample.classes.cells);
    for (size_t i = 0; i < side * side * 3; i++)
        picture.tiles.pixels[i] = (uint8_t)(fvlm_random_unit(3, 1, i / 3 / 16) * 255);
    for (size_t i = 0; i < tokens; i++)
        picture.index[i] = i;
    for (size_t i = 0; i < sample.count; i++) {
        sample.tokens[i] = i < tokens ? FVLM_ROW_PICTURE : (int32_t)(5 + i - tokens);
        sample.labels[i] = i < tokens ? -100 : 9;
    }
    fill_cells(sample.classes.cells, grid);

    fvlm_network_result result;
    fvlm_parameters_clear_gradients(parameters, engine->pool);
    assert_int_equal(fvlm_network_run(network, &sample, 1, true, &result, &error), FVLM_OK);
    assert_int_equal(result.targets, 3 + NAMES + 3 * 6);
    /* Along the gradient itself the loss changes by its square. One parameter at a time, of the tower's beginning, the
     * middle stage's end, the tower's end, a finder, and the projector. */
    static const char *const looked_at[] = {"model.vision_tower.vision_tower.model.patch_embed.0.reparam_conv.weight",
                                            "model.vision_tower.vision_tower.model.network.4.0.convffn.fc2.weight",
                                            "model.vision_tower.vision_tower.model.conv_exp.reparam_conv.weight",
                                            "finder.weight",
                                            "spread.1.weight",
                                            "spread.2.weight",
                                            "model.mm_projector.0.weight"};
    for (size_t i = 0; i < sizeof looked_at / sizeof *looked_at; i++) {
        fvlm_parameter *p = fvlm_parameters_find(parameters, looked_at[i]);
        assert_non_null(p);
        double square = 0, losses[2];
        for (size_t k = 0; k < p->count; k++)
            square += (double)p->gradient[k] * (double)p->gradient[k];
        assert_true(square > 0);
        double step = 0.002 / sqrt(square);
        float *kept = malloc(p->count * sizeof *kept);
        assert_non_null(kept);
        memcpy(kept, p->value, p->count * sizeof *kept);
        for (int sign = 0; sign < 2; sign++) {
            for (size_t k = 0; k < p->count; k++)
                p->value[k] = kept[k] + (float)((sign ? -step : step) * (double)p->gradient[k]);
            assert_int_equal(fvlm_network_run(network, &sample, 1, false, &result, &error), FVLM_OK);
            losses[sign] = result.loss;
        }
        memcpy(p->value, kept, p->count * sizeof *kept);
        free(kept);
        assert_float_equal((losses[0] - losses[1]) / (2 * step) / square, 1, 0.03);
    }
    free(picture.tiles.pixels);
    free(picture.index);
    free(sample.tokens);
    free(sample.labels);
    fvlm_classes_clear(&sample.classes);
    fvlm_network_destroy(&network);
    fvlm_engine_close(&engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks_weigh_as_much_as_nothing), cmocka_unit_test(test_squares_of_cells),
        cmocka_unit_test(test_marks_move_with_the_picture),    cmocka_unit_test(test_reading),
        cmocka_unit_test(test_gradients_of_a_network),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
