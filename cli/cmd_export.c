/* fastvlm export: a model in the layouts that other people's tools load. */
#include "fastvlm/export.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static char *output, *type_name, *mlx_layout, **sizes;
static int bits, group, quiet;

static const struct poptOption table[] = {
    {"model", 'm', POPT_ARG_STRING, &cli_model.model, 0, CLI_MODEL_HELP, "MODEL"},
    {"model-path", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &cli_model.model, 0, NULL, NULL},
    {"output", 'o', POPT_ARG_STRING, &output, 0, "Folder to write; an earlier export there is replaced", "FOLDER"},
    {"out", '\0', POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, &output, 0, NULL, NULL},
    {"type", '\0', POPT_ARG_STRING, &type_name, 0,
     "Number type of the weights: f32, f16, bf16 (hf: as stored; mlx, coreml: f16)", "TYPE"},
    {"bits", '\0', POPT_ARG_INT, &bits, 0, "Quantise: mlx to 4 or 8 bits, coreml to 8", "N"},
    {"group-size", '\0', POPT_ARG_INT, &group, 0, "mlx: weights that share a scale: 32, 64 (default) or 128", "N"},
    {"layout", '\0', POPT_ARG_STRING, &mlx_layout, 0,
     "mlx: apple (the tower in fastvithd.mlpackage, the default) or mlx-vlm (among the weights)", "LAYOUT"},
    {"size", '\0', POPT_ARG_ARGV, &sizes, 0,
     "coreml: side of the input in pixels; repeat it for more, the first is the default", "N"},
    {"threads", 't', POPT_ARG_INT, &cli_model.threads, 0, "Threads to use (default: one for each processor)", "N"},
    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "No progress", NULL},
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "export",
    .arguments = "mlx|coreml|hf --model MODEL --output FOLDER [OPTION...]",
    .about = "write a model in the layout of other tools:\n"
             "  mlx     MLX, as Apple's own exports or as mlx-vlm has it\n"
             "  coreml  the vision tower as a Core ML package\n"
             "  hf      transformers' fast_vlm",
    .example = "  fastvlm export mlx --model ./checkpoint --output ./mlx-4bit --bits 4\n"
               "  fastvlm export coreml --model ./checkpoint --output fastvithd.mlpackage --size 1024 --size 512\n"
               "  fastvlm export hf --model ./checkpoint --output ./checkpoint-hf"};

static bool find_type(const char *name, fvlm_export_type *type)
{
    static const char *const names[] = {
        [FVLM_EXPORT_FP32] = "f32", [FVLM_EXPORT_FP16] = "f16", [FVLM_EXPORT_BF16] = "bf16"};
    *type = FVLM_EXPORT_DEFAULT;
    for (int i = FVLM_EXPORT_FP32; name && i <= FVLM_EXPORT_BF16; i++)
        if (strcmp(name, names[i]) == 0)
            *type = (fvlm_export_type)i;
    return !name || *type != FVLM_EXPORT_DEFAULT;
}

static bool draw(void *user, uint64_t done, uint64_t total)
{
    cli_progress *progress = user;
    if (progress->total == 0)
        cli_progress_start(progress, "exporting", NULL, 0, total, quiet);
    cli_progress_update(progress, done);
    return !cli_interrupted();
}

#define MAX_SIZES 16

/* What the command line asks for. */
struct request {
    enum { MLX, COREML, HF } target;
    fvlm_export_type type;
    fvlm_mlx_options mlx;
    fvlm_coreml_options coreml;
    int sides[MAX_SIZES];
};

static fvlm_status export_model(const struct request *request, fvlm_error *error)
{
    cli_progress progress = {0};
    char *model;
    fvlm_status status = cli_model_path(cli_model.model, &model, error);
    if (status)
        return status;
    fvlm_export_options options = {.model = model,
                                   .output = output,
                                   .type = request->type,
                                   .threads = cli_model.threads,
                                   .on_progress = draw,
                                   .user = &progress};
    status = request->target == MLX      ? fvlm_export_mlx(&options, &request->mlx, error)
             : request->target == COREML ? fvlm_export_coreml(&options, &request->coreml, error)
                                         : fvlm_export_hf(&options, error);
    if (progress.total)
        cli_progress_finish(&progress, status ? progress.first : progress.total);
    free(model);
    return status;
}

static bool find_target(const char *const *arguments, struct request *request)
{
    static const char *const names[] = {[MLX] = "mlx", [COREML] = "coreml", [HF] = "hf"};
    for (int i = MLX; arguments && arguments[0] && !arguments[1] && i <= HF; i++)
        if (strcmp(arguments[0], names[i]) == 0) {
            request->target = i;
            return true;
        }
    return false;
}

/* The options as the library wants them; an exit code other than CLI_DONE where they make no sense. */
static int read_request(const char *const *arguments, struct request *request)
{
    if (!find_target(arguments, request))
        return cli_usage_error(&usage, "name one layout: mlx, coreml or hf");
    if (!output)
        return cli_usage_error(&usage, "--output is missing");
    if (!find_type(type_name, &request->type))
        return cli_usage_error(&usage, "--type %s is not f32, f16 or bf16", type_name);
    bool vlm = mlx_layout && strcmp(mlx_layout, "mlx-vlm") == 0;
    if (mlx_layout && !vlm && strcmp(mlx_layout, "apple") != 0)
        return cli_usage_error(&usage, "--layout %s is not apple or mlx-vlm", mlx_layout);
    if (request->target != MLX && (group || mlx_layout))
        return cli_usage_error(&usage, "--%s is for mlx", group ? "group-size" : "layout");
    if (request->target != COREML && sizes)
        return cli_usage_error(&usage, "--size is for coreml");
    if (request->target == HF && bits)
        return cli_usage_error(&usage, "--bits is for mlx and coreml");
    if (request->target == COREML && bits != 0 && bits != 8)
        return cli_usage_error(&usage, "--bits %d: coreml has 8", bits);
    if (cli_count(sizes) > MAX_SIZES)
        return cli_usage_error(&usage, "more than %d times --size", MAX_SIZES);
    for (size_t i = 0; i < cli_count(sizes); i++) {
        char *end;
        long side = strtol(sizes[i], &end, 10);
        if (end == sizes[i] || *end || side < 1 || side > INT_MAX)
            return cli_usage_error(&usage, "--size %s is not a number of pixels", sizes[i]);
        request->sides[i] = (int)side;
    }
    request->mlx = (fvlm_mlx_options){vlm ? FVLM_MLX_VLM : FVLM_MLX_APPLE, bits, group};
    request->coreml = (fvlm_coreml_options){request->sides, cli_count(sizes), bits == 8};
    return CLI_DONE;
}

int cmd_export(int argc, const char **argv)
{
    int code;
    const char *const *arguments;
    struct request request = {0};
    if (!cli_parse(&usage, table, argc, argv, &arguments, &code))
        return code;
    code = read_request(arguments, &request);
    if (code != CLI_DONE)
        return code;

    fvlm_error error;
    cli_interrupt_catch();
    fvlm_status status = export_model(&request, &error);
    bool interrupted = cli_interrupted();
    cli_interrupt_release();
    if (!status)
        return CLI_DONE;
    code = cli_fail(&error);
    if (interrupted)
        cli_interrupt_exit();
    return code;
}
