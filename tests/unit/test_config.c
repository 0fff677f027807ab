/* config.json and its companions: what each layout says, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "model/config.h"

#define FOLDER "test_config.tmp"

static const fvlm_bundle files = {.path = FOLDER};

static const char *const companions[] = {"config.json", "generation_config.json", "preprocessor_config.json",
                                         "tokenizer_config.json"};

static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", FOLDER, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int make_folder(void **state)
{
    (void)state;
    mkdir(FOLDER, 0777);
    for (size_t i = 0; i < sizeof companions / sizeof *companions; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", FOLDER, companions[i]);
        remove(path);
    }
    return 0;
}

#define DECODER                                                                                                        \
    "\"hidden_size\":64,\"intermediate_size\":160,\"num_hidden_layers\":3,\"num_attention_heads\":4,"                  \
    "\"num_key_value_heads\":2,\"vocab_size\":1024,\"max_position_embeddings\":512"

static void test_llava_defaults(void **state)
{
    (void)state;
    fvlm_config config;
    write_file("config.json", "{\"model_type\":\"llava_qwen2\"," DECODER
                              ",\"mm_vision_tower\":\"mobileclip_l_512\",\"mm_projector_type\":\"mlp3x_gelu\","
                              "\"image_aspect_ratio\":\"pad\",\"eos_token_id\":7}");
    write_file("generation_config.json", "{\"eos_token_id\":[7,9]}");
    write_file("tokenizer_config.json", "{\"eos_token\":{\"content\":\"<|im_end|>\"}}");
    assert_int_equal(fvlm_config_read(&files, &config, NULL), FVLM_OK);
    assert_int_equal(config.vision.resolution, 512);
    assert_int_equal(config.vision.widths[4], 1536);
    assert_int_equal(config.vision.layers[2], 24);
    assert_true(config.vision.attention[3] && !config.vision.attention[2]);
    assert_int_equal(config.projector_layers, 3);
    assert_int_equal(config.decoder.head_dim, 16);
    assert_int_equal(config.decoder.positions, 512);
    assert_true(config.decoder.rope_base == 1e6);
    assert_int_equal(config.image_mode, FVLM_IMAGE_PAD);
    assert_int_equal(config.end_token_count, 2);
    assert_int_equal(config.end_tokens[1], 9);
    assert_string_equal(config.end_text, "<|im_end|>");
}

static void test_custom_tower_and_tiles(void **state)
{
    (void)state;
    fvlm_config config;
    write_file("config.json",
               "{\"model_type\":\"llava_qwen2\"," DECODER ",\"mm_vision_tower\":\"mobileclip_l_256\","
               "\"mm_vision_arch\":{\"layers\":[1,2,2,1,1],\"embed_dims\":[8,16,32,64,128],\"mlp_ratio\":3,"
               "\"token_mixers\":[\"repmixer\",\"repmixer\",\"repmixer\",\"repmixer\",\"attention\"]},"
               "\"image_aspect_ratio\":\"anyres\",\"mm_patch_merge_type\":\"spatial_unpad\","
               "\"image_grid_pinpoints\":[[256,512],[512,256]],\"quantization\":{\"group_size\":64,\"bits\":8}}");
    assert_int_equal(fvlm_config_read(&files, &config, NULL), FVLM_OK);
    assert_int_equal(config.vision.mlp_ratio[2], 3);
    assert_false(config.vision.attention[3]);
    assert_int_equal(config.pinpoint_count, 2);
    assert_int_equal(config.pinpoints[0][1], 512);
    assert_int_equal(config.merge, FVLM_MERGE_SPATIAL_UNPAD);
    assert_int_equal(config.quantized_bits, 8);
}

static void test_fast_vlm(void **state)
{
    (void)state;
    fvlm_config config;
    write_file("config.json",
               "{\"model_type\":\"fast_vlm\",\"image_seq_length\":256,\"text_config\":{" DECODER
               ",\"eos_token_id\":null,\"rope_parameters\":{\"rope_theta\":5000.0,\"rope_type\":\"default\"}},"
               "\"vision_config\":{\"model_args\":{\"layers\":[1,1,1,1,1]}}}");
    assert_int_equal(fvlm_config_read(&files, &config, NULL), FVLM_OK);
    assert_true(config.fast_vlm);
    assert_int_equal(config.vision.resolution, 1024);
    assert_int_equal(config.vision.layers[2], 1);
    assert_true(config.decoder.rope_base == 5000);
    assert_int_equal(config.image_mode, FVLM_IMAGE_PAD);
    assert_int_equal(config.end_token_count, 0);
    write_file("preprocessor_config.json", "{\"crop_size\":{\"height\":320,\"width\":320},\"do_pad\":false}");
    assert_int_equal(fvlm_config_read(&files, &config, NULL), FVLM_OK);
    assert_int_equal(config.vision.resolution, 320);
    assert_int_equal(config.image_mode, FVLM_IMAGE_CROP);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
        fvlm_status status;
    } cases[] = {
        {"[]", "object", FVLM_ERROR_FORMAT},
        {"{\"model_type\":\"llama\"}", "llama", FVLM_ERROR_UNSUPPORTED},
        {"{\"model_type\":\"llava_qwen2\",\"mm_vision_tower\":\"clip_336\"," DECODER "}", "336",
         FVLM_ERROR_UNSUPPORTED},
        {"{\"model_type\":\"llava_qwen2\",\"hidden_size\":64}", "intermediate_size is missing", FVLM_ERROR_FORMAT},
        {"{\"model_type\":\"llava_qwen2\",\"hidden_size\":99999999999," DECODER "}", "", FVLM_ERROR_FORMAT},
        {"{\"model_type\":\"llava_qwen2\"," DECODER ",\"mm_projector_type\":\"mlp2x_relu\"}", "mlp2x_relu",
         FVLM_ERROR_UNSUPPORTED},
        {"{\"model_type\":\"llava_qwen2\"," DECODER ",\"head_dim\":3}", "even", FVLM_ERROR_FORMAT},
        {"{\"model_type\":\"llava_qwen2\"," DECODER ",\"rms_norm_eps\":-1}", "rms_norm_eps", FVLM_ERROR_FORMAT},
        {"{\"model_type\":\"llava_qwen2\"," DECODER ",\"rope_scaling\":{\"type\":\"yarn\"}}", "yarn",
         FVLM_ERROR_UNSUPPORTED},
        {"{\"model_type\":\"llava_qwen2\"," DECODER ",\"image_aspect_ratio\":\"anyres\"}", "image_grid_pinpoints",
         FVLM_ERROR_FORMAT},
        {"{\"model_type\":\"llava_qwen2\"," DECODER ",\"mm_vision_arch\":{\"embed_dims\":[8,20,32,64,128]}}", "20",
         FVLM_ERROR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fvlm_config config;
        fvlm_error error;
        write_file("config.json", cases[i].text);
        assert_int_equal(fvlm_config_read(&files, &config, &error), cases[i].status);
        assert_non_null(strstr(error.message, cases[i].says));
        assert_non_null(strstr(error.message, "config.json"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_llava_defaults, make_folder),
        cmocka_unit_test_setup(test_custom_tower_and_tiles, make_folder),
        cmocka_unit_test_setup(test_fast_vlm, make_folder),
        cmocka_unit_test_setup(test_refusals, make_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
