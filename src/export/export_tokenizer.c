/* The tokenizer's files: copies, but for the token of `<image>`, which LLaVA's own code does without. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "export/export_config.h"

#define FILE_LIMIT ((size_t)256 << 20)
#define IMAGE_TOKEN "<image>"

/* The default prompt (template qwen_2) in transformers' template language. A message's content is a text, or a list of
 * texts and pictures. */
static const char chat_template[] = "{%- for message in messages -%}\n"
                                    "    {%- if loop.first and message.role != 'system' -%}\n"
                                    "        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}\n"
                                    "    {%- endif -%}\n"
                                    "    {{- '<|im_start|>' + message.role + '\\n' -}}\n"
                                    "    {%- if message.content is string -%}\n"
                                    "        {{- message.content -}}\n"
                                    "    {%- else -%}\n"
                                    "        {%- for part in message.content -%}\n"
                                    "            {{- part.text if part.type == 'text' else '" IMAGE_TOKEN "\\n' -}}\n"
                                    "        {%- endfor -%}\n"
                                    "    {%- endif -%}\n"
                                    "    {{- '<|im_end|>\\n' -}}\n"
                                    "{%- endfor -%}\n"
                                    "{%- if add_generation_prompt -%}\n"
                                    "    {{- '<|im_start|>assistant\\n' -}}\n"
                                    "{%- endif -%}\n";

static json_t *image_token(void)
{
    return json_pack("{ss sb sb sb sb sb}", "content", IMAGE_TOKEN, "lstrip", 0, "normalized", 0, "rstrip", 0,
                     "single_word", 0, "special", 1);
}

/* Put the token into the object of the file `name`, in the form that the file has. */
static void add_token(json_t *object, const char *name, int32_t id)
{
    char key[16];
    snprintf(key, sizeof key, "%d", id);
    if (strcmp(name, "added_tokens.json") == 0) {
        json_object_set_new(object, IMAGE_TOKEN, json_integer(id));
    } else if (strcmp(name, "tokenizer.json") == 0) {
        json_t *token = image_token();
        json_object_set_new(token, "id", json_integer(id));
        json_array_append_new(json_object_get(object, "added_tokens"), token);
    } else {
        json_t *decoder = json_object_get(object, "added_tokens_decoder");
        if (decoder)
            json_object_set_new(decoder, key, image_token());
        json_t *special = json_object_get(object, "additional_special_tokens");
        if (special)
            json_array_append_new(special, json_string(IMAGE_TOKEN));
    }
}

static fvlm_status put_with_token(const fvlm_export_source *source, const fvlm_export_folder *folder, const char *name,
                                  fvlm_error *error)
{
    json_t *object;
    if (!fvlm_bundle_has(&source->model->files, name))
        return FVLM_OK;
    fvlm_status status = fvlm_json_read_bundle(&source->model->files, name, FILE_LIMIT, &object, error);
    if (status)
        return status;
    add_token(object, name, source->image_token);
    return fvlm_export_put_json(folder, name, object, error);
}

fvlm_status fvlm_export_put_tokenizer(const fvlm_export_source *source, const fvlm_export_folder *folder,
                                      fvlm_error *error)
{
    static const char *const with_token[] = {"tokenizer.json", "added_tokens.json", "tokenizer_config.json"};
    static const char *const copied[] = {"vocab.json", "merges.txt", "special_tokens_map.json", "chat_template.json",
                                         "chat_template.jinja"};
    const fvlm_bundle *files = &source->model->files;
    fvlm_status status = FVLM_OK;
    for (size_t i = 0; !status && i < sizeof with_token / sizeof with_token[0]; i++)
        status = source->image_token_free ? put_with_token(source, folder, with_token[i], error)
                                          : fvlm_bundle_copy(files, with_token[i], folder->aside, error);
    for (size_t i = 0; !status && i < sizeof copied / sizeof copied[0]; i++)
        status = fvlm_bundle_copy(files, copied[i], folder->aside, error);
    if (!status && !fvlm_bundle_has(files, "chat_template.jinja"))
        status = fvlm_file_write(folder->aside, "chat_template.jinja", chat_template, sizeof chat_template - 1, error);
    return status;
}
