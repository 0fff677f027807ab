/* The reader of Core ML packages: one tower written down in several ways by coremltools
 * (tools/make_mlpackage_samples.py) must give the same weights; programs that are not this tower, damaged files and
 * hostile manifests must be refused.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "formats/mil_constant.h"
#include "formats/tensor_table.h"

static fvlm_error error;

static fvlm_tensor_table *create(void)
{
    fvlm_tensor_table *table;
    assert_int_equal(fvlm_tensor_table_create(&table, NULL), FVLM_OK);
    memset(&error, 0, sizeof error);
    return table;
}

static char *sample_path(const char *name)
{
    char *path = fvlm_path_join(TEST_DATA, name);
    assert_non_null(path);
    return path;
}

/* float32 [*count] of a tensor, NULL where there is none. */
static float *load(const fvlm_tensor_table *table, const char *stem, const char *part, size_t *count)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s", stem, part);
    const fvlm_tensor *tensor = fvlm_tensor_table_find(table, name);
    if (!tensor)
        return NULL;
    *count = tensor->bytes / fvlm_dtype_bytes(tensor->type);
    float *values = malloc(*count * sizeof *values);
    fvlm_to_float(tensor->type, tensor->data, *count, values);
    return values;
}

static float *load_or(const fvlm_tensor_table *table, const char *stem, const char *part, size_t count, float fallback)
{
    size_t found;
    float *values = load(table, stem, part, &found);
    if (values) {
        assert_int_equal(found, count);
        return values;
    }
    values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = fallback;
    return values;
}

/* What the layer computes, however it is cut into tensors: weight rows, then the bias, in one array [*count]. */
static float *effective(const fvlm_tensor_table *table, const char *stem, const char *layer, const char *norm,
                        const char *layer_scale, size_t *count)
{
    char part[64];
    size_t weights = 0, rows;
    snprintf(part, sizeof part, "%s.weight", layer);
    float *weight = load(table, stem, part, &weights);
    if (!weight)
        fail_msg("no tensor %s%s", stem, part);
    char name[256];
    snprintf(name, sizeof name, "%s%s", stem, part);
    rows = fvlm_tensor_table_find(table, name)->shape[0];
    snprintf(part, sizeof part, "%s.bias", layer);
    float *bias = load_or(table, stem, part, rows, 0);

    char part_of[4][64];
    static const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};
    for (int i = 0; i < 4; i++)
        snprintf(part_of[i], sizeof part_of[i], "%s.%s", norm ? norm : "none", parts[i]);
    float *gamma = load_or(table, stem, part_of[0], rows, 1), *beta = load_or(table, stem, part_of[1], rows, 0);
    float *mean = load_or(table, stem, part_of[2], rows, 0);
    float *variance = load_or(table, stem, part_of[3], rows, 1 - 1e-5f);
    float *scale = load_or(table, stem, layer_scale ? layer_scale : "none", rows, 1);

    float *all = malloc((weights + rows) * sizeof *all);
    size_t width = weights / rows;
    for (size_t r = 0; r < rows; r++) {
        float factor = gamma[r] / sqrtf(variance[r] + 1e-5f);
        for (size_t i = 0; i < width; i++)
            all[r * width + i] = weight[r * width + i] * factor * scale[r];
        all[weights + r] = ((bias[r] - mean[r]) * factor + beta[r]) * scale[r];
    }
    *count = weights + rows;
    free(weight);
    free(bias);
    free(gamma);
    free(beta);
    free(mean);
    free(variance);
    free(scale);
    return all;
}

static void compare(const fvlm_tensor_table *found, const fvlm_tensor_table *expected, const char *stem,
                    const char *layer, const char *norm, const char *layer_scale, float tolerance)
{
    size_t a_count, b_count;
    float *a = effective(found, stem, layer, norm, layer_scale, &a_count);
    float *b = effective(expected, stem, layer, norm, layer_scale, &b_count), largest = 0;
    char name[256];
    snprintf(name, sizeof name, "%s%s.weight", stem, layer);
    const fvlm_tensor *x = fvlm_tensor_table_find(found, name), *y = fvlm_tensor_table_find(expected, name);
    assert_int_equal(x->rank, y->rank);
    assert_memory_equal(x->shape, y->shape, (size_t)x->rank * sizeof x->shape[0]);
    assert_int_equal(a_count, b_count);
    for (size_t i = 0; i < a_count; i++)
        largest = fabsf(b[i]) > largest ? fabsf(b[i]) : largest;
    for (size_t i = 0; i < a_count; i++)
        if (!(fabsf(a[i] - b[i]) <= tolerance * largest))
            fail_msg("%s%s: value %zu is %g where %g was expected", stem, layer, i, a[i], b[i]);
    free(a);
    free(b);
}

static bool ends_in(const char *text, const char *suffix)
{
    size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

/* Every layer of `expected` against `found`, with `tolerance` relative to the layer's largest value. */
static void compare_towers(const fvlm_tensor_table *found, const fvlm_tensor_table *expected, float tolerance)
{
    int layers = 0;
    for (size_t i = 0; i < fvlm_tensor_table_count(expected); i++) {
        char stem[256];
        snprintf(stem, sizeof stem, "%s", fvlm_tensor_table_at(expected, i)->name);
        if (!ends_in(stem, ".weight") || strstr(stem, ".bn."))
            continue;
        stem[strlen(stem) - strlen(".weight")] = '\0';
        if (!strstr(stem, "vision_tower"))
            continue;
        layers++;
        static const struct {
            const char *layer, *norm;
        } forms[] = {
            {"convffn.conv.conv", "convffn.conv.bn"}, {"convffn.fc2", NULL}, {"token_mixer.proj", NULL}, {"", NULL}};
        size_t form = 0;
        while (!ends_in(stem, forms[form].layer))
            form++;
        size_t length = strlen(stem) - strlen(forms[form].layer), unused;
        if (form == 3) {
            compare(found, expected, stem, "", NULL, NULL, tolerance);
            continue;
        }
        stem[length] = '\0';
        const char *scale = NULL;
        if (form == 2)
            scale = "layer_scale_1";
        float *attention = load(expected, stem, "layer_scale_2", &unused);
        if (form == 1)
            scale = attention ? "layer_scale_2" : "layer_scale";
        free(attention);
        compare(found, expected, stem, forms[form].layer, forms[form].norm, scale, tolerance);
    }
    assert_in_range(layers, 30, 200);
}

static void test_one_tower_in_many_ways(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        float tolerance;
        bool keeps_batch_norm;
    } samples[] = {
        {"tower_matmul.mlpackage", 1e-3f, false}, /* folded and rounded to fp16 */
        {"tower_plain.mlpackage", 0, true},       /* nothing folded: fp16 holds the weights exactly */
        {"tower_int8.mlpackage", 5e-3f, false},   /* half a step of 1/255 of the range */
        {"tower_lut4.mlpackage", 0.07f, false},   /* half a step of 1/15 */
    };
    char *path = sample_path("tower.safetensors");
    fvlm_tensor_table *expected = create();
    assert_int_equal(fvlm_safetensors_read(expected, path, &error), FVLM_OK);
    free(path);
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        path = sample_path(samples[i].name);
        fvlm_tensor_table *table = create();
        if (fvlm_mlpackage_read(table, path, &error))
            fail_msg("%s", error.message);
        compare_towers(table, expected, samples[i].tolerance);
        bool has = fvlm_tensor_table_find(
            table, "model.vision_tower.vision_tower.model.network.0.0.convffn.conv.bn.running_var");
        assert_int_equal(has, samples[i].keeps_batch_norm);
        fvlm_tensor_table_destroy(&table);
        free(path);
    }
    fvlm_tensor_table_destroy(&expected);
}

/* The model and the weights of one package in memory. */
struct package {
    char *model, *weights;
    size_t model_size, weights_size;
};

static void open_package(struct package *package, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/Data/com.apple.CoreML/model.mlmodel", TEST_DATA, name);
    assert_int_equal(fvlm_file_read(path, 1 << 20, &package->model, &package->model_size, &error), FVLM_OK);
    snprintf(path, sizeof path, "%s/%s/Data/com.apple.CoreML/weights/weight.bin", TEST_DATA, name);
    assert_int_equal(fvlm_file_read(path, 1 << 20, &package->weights, &package->weights_size, &error), FVLM_OK);
}

static void close_package(struct package *package)
{
    free(package->model);
    free(package->weights);
}

static fvlm_status parse(const struct package *package)
{
    fvlm_tensor_table *table = create();
    fvlm_status status =
        fvlm_mlpackage_parse(table, (const uint8_t *)package->model, package->model_size,
                             (const uint8_t *)package->weights, package->weights_size, "m.mlpackage", &error);
    assert_int_equal(error.code, status);
    unsigned sum = 0; /* every byte that is handed out must be readable */
    for (size_t i = 0; !status && i < fvlm_tensor_table_count(table); i++) {
        const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
        for (size_t k = 0; k < tensor->bytes; k++)
            sum += ((const uint8_t *)tensor->data)[k];
    }
    assert_true(status || sum > 0);
    fvlm_tensor_table_destroy(&table);
    return status;
}

/* Replace every occurrence of `from` by `to`, which is as long; -1: only the last. */
static void patch(struct package *package, const char *from, const char *to, int which)
{
    size_t length = strlen(from), last = SIZE_MAX;
    assert_int_equal(length, strlen(to));
    for (size_t i = 0; i + length <= package->model_size; i++)
        if (memcmp(package->model + i, from, length) == 0) {
            last = i;
            if (which >= 0)
                memcpy(package->model + i, to, length);
        }
    assert_int_not_equal(last, SIZE_MAX);
    memcpy(package->model + last, to, length);
}

static void test_other_programs(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        int which;
        fvlm_status status;
        const char *words;
    } cases[] = {
        {"\x04relu", "\x04tanh", 0, FVLM_ERROR_UNSUPPORTED, "(tanh): a FastViTHD tower has no such operation"},
        {"\x04relu", "\x04sqrt", 0, FVLM_ERROR_UNSUPPORTED, "a ReLU was expected"},
        {"\x07sigmoid", "\x07softmax", 0, FVLM_ERROR_UNSUPPORTED, "a sigmoid was expected"},
        {"\x07softmax", "\x07sigmoid", 0, FVLM_ERROR_UNSUPPORTED, "multiplied by a constant"},
        {"EXACT", "EXAC2", 0, FVLM_ERROR_UNSUPPORTED, "only the exact (erf) GELU"},
        {"weights/weight.bin", "weights/weighs.bin", -1, FVLM_ERROR_UNSUPPORTED, "another file"},
        {"custom", "costum", -1, FVLM_ERROR_UNSUPPORTED, "its padding"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct package package;
        open_package(&package, "tower_matmul.mlpackage");
        patch(&package, cases[i].from, cases[i].to, cases[i].which);
        fvlm_status status = parse(&package);
        if (status != cases[i].status || !strstr(error.message, cases[i].words))
            fail_msg("%s: status %d, '%s'", cases[i].from, status, error.message);
        close_package(&package);
    }
}

static void test_not_a_program(void **state)
{
    (void)state;
    static char old[] = "\x08\x01\xa2\x1f\x00"; /* version 1, an empty neuralNetwork (field 500) */
    struct package package = {.model = old, .model_size = 5};
    assert_int_equal(parse(&package), FVLM_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "mlprogram"));
    package.model_size = 0;
    assert_int_equal(parse(&package), FVLM_ERROR_UNSUPPORTED);
    package.model = "not protobuf";
    package.model_size = 12;
    assert_int_equal(parse(&package), FVLM_ERROR_FORMAT);
}

/* Two bytes of protobuf an operation, a hundred in memory: the budget ends it. */
static void test_many_empty_messages(void **state)
{
    (void)state;
    size_t pairs = 900000, size = 2 * pairs; /* lengths of three bytes */
    uint8_t *block = malloc(size + 64), *at = block;
    /* ml_program { functions { value { block_specializations { value { operations {} operations {} ... } } } } } */
    static const uint8_t tags[][2] = {{0xb2, 0x1f}, {0x12, 0}, {0x12, 0}, {0x1a, 0}, {0x12, 0}};
    size_t lengths[5] = {size + 16, size + 12, size + 8, size + 4, size};
    for (int i = 0; i < 5; i++) {
        *at++ = tags[i][0];
        if (tags[i][1])
            *at++ = tags[i][1];
        for (int k = 0; k < 3; k++)
            *at++ = (uint8_t)((lengths[i] >> 7 * k & 0x7f) | (k < 2 ? 0x80 : 0));
    }
    for (size_t i = 0; i < pairs; i++) {
        *at++ = 0x1a;
        *at++ = 0;
    }
    struct package package = {.model = (char *)block, .model_size = (size_t)(at - block)};
    assert_int_not_equal(parse(&package), FVLM_OK);
    free(block);
}

static void test_missing_weights(void **state)
{
    (void)state;
    struct package package;
    open_package(&package, "tower_lut4.mlpackage");
    char *weights = package.weights;
    package.weights = NULL;
    assert_int_equal(parse(&package), FVLM_ERROR_IO);
    assert_non_null(strstr(error.message, "weight.bin is missing"));
    package.weights = weights;
    close_package(&package);
}

static void test_truncation(void **state)
{
    (void)state;
    struct package package;
    open_package(&package, "tower_int8.mlpackage");
    size_t model_size = package.model_size, weights_size = package.weights_size;
    for (size_t cut = 0; cut < model_size; cut += cut < 256 ? 1 : 211) {
        struct package part = package;
        part.model = malloc(cut ? cut : 1); /* of its own, so that ASan sees a read behind the end */
        memcpy(part.model, package.model, cut);
        part.model_size = cut;
        assert_int_not_equal(parse(&part), FVLM_OK);
        free(part.model);
    }
    for (size_t cut = 0; cut < weights_size; cut += cut < 256 ? 1 : 331) {
        struct package part = package;
        part.weights = malloc(cut ? cut : 1);
        memcpy(part.weights, package.weights, cut);
        part.weights_size = cut;
        assert_int_not_equal(parse(&part), FVLM_OK);
        free(part.weights);
    }
    close_package(&package);
}

static void test_flipped_bits(void **state)
{
    (void)state;
    static const char *const names[] = {"tower_int8.mlpackage", "tower_lut4.mlpackage", "tower_plain.mlpackage"};
    size_t refused = 0, flips = 0;
    for (int n = 0; n < 3; n++) {
        struct package package;
        open_package(&package, names[n]);
        for (size_t bit = (size_t)n; bit < 8 * package.model_size; bit += 1601) {
            package.model[bit / 8] ^= (char)(1 << bit % 8);
            refused += parse(&package) != FVLM_OK;
            flips++;
            package.model[bit / 8] ^= (char)(1 << bit % 8);
        }
        for (size_t bit = 0; bit < 8 * 640; bit += 11) { /* the file's head and its first records */
            package.weights[bit / 8] ^= (char)(1 << bit % 8);
            refused += parse(&package) != FVLM_OK;
            flips++;
            package.weights[bit / 8] ^= (char)(1 << bit % 8);
        }
        close_package(&package);
    }
    assert_in_range(refused, 100, flips);
}

/* Unpacking of compressed weights against values worked out by hand. */
static void test_unpacking(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x21, 0xf3, 0x84, 0x65};
    fvlm_mil_constant data = {.type = FVLM_MIL_INT4, .rank = 2, .shape = {2, 4}, .count = 8, .data = bytes};
    static const float scales[] = {1, 2, 4, 8}, offsets[] = {0, 1, 0, 0};
    fvlm_mil_constant scale = {
        .type = FVLM_MIL_FLOAT32, .rank = 2, .shape = {2, 2}, .count = 4, .data = (const uint8_t *)scales};
    fvlm_mil_constant offset = scale;
    offset.data = (const uint8_t *)offsets;
    static const float affine[] = {1, 2, 4, -4, 16, -32, 40, 48};
    float values[8];
    assert_true(fvlm_mil_check_affine(&data, &scale, &offset));
    fvlm_mil_unpack_affine(&data, &scale, &offset, values);
    assert_memory_equal(values, affine, sizeof affine);
    scale.shape[1] = 3;
    assert_false(fvlm_mil_check_affine(&data, &scale, NULL));

    /* 3 bits each, across bytes: 1 0 2 3 4 7 5 6, lowest bits first. */
    static const uint8_t packed[] = {0x81, 0xc6, 0xd7};
    fvlm_mil_constant indices = {.type = FVLM_MIL_UINT3, .rank = 1, .shape = {8}, .count = 8, .data = packed};
    static const float palette[] = {0, 10, 20, 30, 40, 50, 60, 70}, looked_up[] = {10, 0, 20, 30, 40, 70, 50, 60};
    fvlm_mil_constant lookup = {
        .type = FVLM_MIL_FLOAT32, .rank = 2, .shape = {1, 8}, .count = 8, .data = (const uint8_t *)palette};
    assert_true(fvlm_mil_check_lookup(&indices, &lookup));
    fvlm_mil_unpack_lookup(&indices, &lookup, values);
    assert_memory_equal(values, looked_up, sizeof looked_up);
    lookup.shape[1] = 7;
    assert_false(fvlm_mil_check_lookup(&indices, &lookup));
}

static void test_hostile_manifests(void **state)
{
    (void)state;
    static const struct {
        const char *manifest;
        fvlm_status status;
        const char *words;
    } cases[] = {
        {"{}", FVLM_ERROR_FORMAT, "does not say which file"},
        {"[]", FVLM_ERROR_FORMAT, "not a JSON object"},
        {"{\"rootModelIdentifier\":\"a\",\"itemInfoEntries\":{\"b\":{}}}", FVLM_ERROR_FORMAT, "does not say"},
        {"{\"rootModelIdentifier\":\"a\",\"itemInfoEntries\":{\"a\":{\"path\":\"../m\"}}}", FVLM_ERROR_FORMAT,
         "'../m' is not a path inside"},
        {"{\"rootModelIdentifier\":\"a\",\"itemInfoEntries\":{\"a\":{\"path\":\"x/../../m\"}}}", FVLM_ERROR_FORMAT,
         "is not a path inside"},
        {"{\"rootModelIdentifier\":\"a\",\"itemInfoEntries\":{\"a\":{\"path\":\"/etc/passwd\"}}}", FVLM_ERROR_FORMAT,
         "is not a path inside"},
        {"{\"rootModelIdentifier\":\"a\",\"itemInfoEntries\":{\"a\":{\"path\":\"m.mlmodel\"}}}", FVLM_ERROR_IO,
         "Data/m.mlmodel"},
    };
    char folder[] = "test_mlpackage_XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *path = fvlm_path_join(folder, "Manifest.json");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        fputs(cases[i].manifest, file);
        fclose(file);
        fvlm_tensor_table *table = create();
        fvlm_status status = fvlm_mlpackage_read(table, folder, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].words))
            fail_msg("%s: status %d, '%s'", cases[i].manifest, status, error.message);
        fvlm_tensor_table_destroy(&table);
    }
    remove(path);
    rmdir(folder);
    free(path);
}

/* Apple's export script leaves its package in the checkpoint's folder: what the checkpoint has itself comes first. */
static void test_package_beside_a_checkpoint(void **state)
{
    (void)state;
    char folder[] = "test_mlpackage_XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *weights = fvlm_path_join(folder, "model.safetensors"), *package = fvlm_path_join(folder, "x.mlpackage");
    assert_int_equal(mkdir(package, 0700), 0); /* without a manifest, so that reading it fails */
    static const char *const names[] = {"model.norm.weight", "model.vision_tower.vision_tower.model.x"};
    for (int with_tower = 0; with_tower < 2; with_tower++) {
        fvlm_tensor tensor = {.name = names[with_tower], .type = FVLM_F32};
        assert_true(fvlm_tensor_measure(&tensor));
        tensor.data = &(const float){1};
        assert_int_equal(fvlm_safetensors_write(weights, &tensor, 1, &error), FVLM_OK);
        fvlm_tensor_table *table = create();
        const char *layout;
        assert_int_equal(fvlm_checkpoint_read(table, folder, &layout, &error), with_tower ? FVLM_OK : FVLM_ERROR_IO);
        fvlm_tensor_table_destroy(&table);
    }
    remove(weights);
    rmdir(package);
    rmdir(folder);
    free(weights);
    free(package);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_tower_in_many_ways), cmocka_unit_test(test_other_programs),
        cmocka_unit_test(test_not_a_program),          cmocka_unit_test(test_many_empty_messages),
        cmocka_unit_test(test_missing_weights),        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_flipped_bits),           cmocka_unit_test(test_unpacking),
        cmocka_unit_test(test_hostile_manifests),      cmocka_unit_test(test_package_beside_a_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
