/* fastvlm trace: every stage's tensor of one question, in a safetensors file. */
#include "answer.h"
#include "command.h"
#include "options.h"
#include "output.h"

static char **image_paths, *prompt_text, *out_path;

static const struct poptOption table[] = {
    {"image", 'i', POPT_ARG_ARGV, &image_paths, 0,
     "Picture file, `-` for standard input; may be repeated; none: the text's logits alone", "FILE"},
    {"image-file", '\0', POPT_ARG_ARGV | POPT_ARGFLAG_DOC_HIDDEN, &image_paths, 0, NULL, NULL},
    {"prompt", 'p', POPT_ARG_STRING, &prompt_text, 0, "The question, as for predict", "TEXT"},
    {"out", 'o', POPT_ARG_STRING, &out_path, 0, "File to write", "FILE.safetensors"},
    CLI_MODEL_GROUP,
    CLI_PROMPT_GROUP,
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "trace",
    .arguments = "--prompt TEXT --out FILE.safetensors [--image FILE] [OPTION...]",
    .about = "write the tensors of every stage, from pixels to logits",
    .example = "  fastvlm trace --model ./checkpoint --image cat.jpg --prompt \"What is this?\" --out cat.safetensors"};

int cmd_trace(int argc, const char **argv)
{
    int code;
    if (!cli_parse(&usage, table, argc, argv, NULL, &code))
        return code;
    if (!prompt_text || !out_path)
        return cli_usage_error(&usage, "--%s is missing", !prompt_text ? "prompt" : "out");

    fvlm_error error;
    fvlm_engine *engine = NULL;
    fvlm_session *session = NULL;
    cli_images images = {0};
    char *prompt = NULL;
    fvlm_status status = cli_question_prompt(prompt_text, cli_count(image_paths), &prompt, &error);
    if (status == FVLM_OK)
        status = cli_engine_open(&engine, &error);
    for (size_t i = 0; status == FVLM_OK && i < cli_count(image_paths); i++)
        status = cli_images_add(&images, image_paths[i], &error);
    if (status == FVLM_OK)
        status = fvlm_session_open(engine, &session, &error);
    if (status == FVLM_OK)
        status = fvlm_session_trace(session, prompt, (const fvlm_image *const *)images.items, images.count, out_path,
                                    &error);
    code = status ? cli_fail(&error) : CLI_DONE;
    fvlm_free(prompt);
    fvlm_session_close(&session);
    cli_images_clear(&images);
    fvlm_engine_close(&engine);
    return code;
}
