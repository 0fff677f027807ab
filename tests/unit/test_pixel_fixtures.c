/* Every pixels.MODE.IMAGE of the fixtures: from the picture's file to what the vision tower gets.
 *
 *     test_pixel_fixtures FIXTURES       the folder with images/ and tiny/pixels.safetensors
 *
 * No value may be off by more than 1 and 99.9 % must be equal; of PNG, GIF and BMP all. Exit code 77 without fixtures.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/tensor_table.h"
#include "image/preprocess.h"

static bool lossless(const char *name)
{
    const char *ending = strrchr(name, '.');
    return ending && (strcmp(ending, ".png") == 0 || strcmp(ending, ".gif") == 0 || strcmp(ending, ".bmp") == 0);
}

/* Compare tiles with expected, [count, S, S, 3] or, for a single one, [S, S, 3]; true when near enough. */
static bool compare(const fvlm_tensor *expected, const char *name, const fvlm_tiles *tiles)
{
    size_t bytes = tiles->count * tiles->size * tiles->size * 3, equal = 0;
    int worst = 0;
    if (expected->bytes != bytes) {
        printf("%s: %zu tiles\n", expected->name, tiles->count);
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        int difference = abs(((const uint8_t *)expected->data)[i] - tiles->pixels[i]);
        worst = difference > worst ? difference : worst;
        equal += difference == 0;
    }
    bool fine = lossless(name) ? equal == bytes : worst <= 1 && (double)equal >= 0.999 * (double)bytes;
    printf("%s: worst %d, %.4f %% equal%s\n", expected->name, worst, 100.0 * (double)equal / (double)bytes,
           fine ? "" : ": NOT ENOUGH");
    return fine;
}

static bool check(const char *folder, fvlm_pool *pool, const fvlm_tensor *expected)
{
    char mode[16] = "", name[128] = "", path[1024];
    sscanf(expected->name, "pixels.%15[^.].%127s", mode, name);
    size_t size = expected->shape[expected->rank - 2];
    const size_t pinpoints[3][2] = {{size, 2 * size}, {2 * size, size}, {2 * size, 2 * size}}; /* tiny/llava's */
    fvlm_preprocessing preprocessing = {FVLM_IMAGE_CROP, size, pinpoints, 3};
    if (strcmp(mode, "pad") == 0)
        preprocessing.mode = FVLM_IMAGE_PAD;
    else if (strcmp(mode, "anyres") == 0)
        preprocessing.mode = FVLM_IMAGE_ANYRES;
    fvlm_error error;
    fvlm_image *image = NULL;
    fvlm_tiles tiles = {0};
    snprintf(path, sizeof path, "%s/images/%s", folder, name);
    bool fine = false;
    if (fvlm_image_open(path, &image, &error) || fvlm_preprocess(pool, image, &preprocessing, &tiles, &error))
        printf("%s: %s\n", expected->name, error.message);
    else
        fine = compare(expected, name, &tiles);
    fvlm_tiles_free(&tiles);
    fvlm_image_free(&image);
    return fine;
}

int main(int argc, char **argv)
{
    char path[1024];
    if (argc != 2)
        return 2;
    snprintf(path, sizeof path, "%s/tiny/pixels.safetensors", argv[1]);
    if (!fvlm_file_exists(path)) {
        printf("SKIPPED: no %s\n", path);
        return 77;
    }
    fvlm_error error;
    fvlm_tensor_table *table = NULL;
    fvlm_pool *pool = NULL;
    if (fvlm_tensor_table_create(&table, &error) || fvlm_safetensors_read(table, path, &error) ||
        fvlm_pool_create(2, &pool, &error)) {
        printf("%s\n", error.message);
        return 1;
    }
    size_t count = fvlm_tensor_table_count(table), fine = 0;
    for (size_t i = 0; i < count; i++)
        fine += check(argv[1], pool, fvlm_tensor_table_at(table, i));
    printf("%zu of %zu\n", fine, count);
    fvlm_pool_destroy(&pool);
    fvlm_tensor_table_destroy(&table);
    return count > 0 && fine == count ? 0 : 1;
}
