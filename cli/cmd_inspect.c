/* fastvlm inspect: what is in a model file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "fastvlm/convert.h"
#include "options.h"
#include "output.h"
#include "zoo.h"

static int as_json;

static const struct poptOption table[] = {{"json", '\0', POPT_ARG_NONE, &as_json, 0,
                                           "Print one JSON object: format, metadata, tensors, elements, bytes", NULL},
                                          CLI_HELP_OPTION,
                                          POPT_TABLEEND};

static const cli_usage usage = {.command = "inspect",
                                .arguments = "MODEL [OPTION...]",
                                .about = "list the tensors, types, sizes and metadata of a GGUF, safetensors or "
                                         "PyTorch file, an .mlpackage, or a checkpoint's folder",
                                .example = "  fastvlm inspect model.gguf\n"
                                           "  fastvlm inspect ./checkpoint --json | jq '.tensors[0]'"};

/* Names may be hostile: cli_json_text makes them UTF-8. */
static int print_json(const fvlm_inspection *inspection)
{
    json_t *tensors = json_array(), *metadata = json_object();
    for (size_t i = 0; i < inspection->value_count; i++) {
        const fvlm_file_value *value = &inspection->values[i];
        json_t *key = cli_json_text(value->key);
        json_object_set_new(metadata, key ? json_string_value(key) : "",
                            json_pack("{ss so}", "type", value->type, "value",
                                      json_loads(value->json, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL)));
        json_decref(key);
    }
    for (size_t i = 0; i < inspection->tensor_count; i++) {
        const fvlm_file_tensor *tensor = &inspection->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < tensor->rank; d++)
            json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
        json_array_append_new(tensors, json_pack("{so ss so sI}", "name", cli_json_text(tensor->name), "type",
                                                 tensor->type, "shape", shape, "bytes", (json_int_t)tensor->bytes));
    }
    return cli_print_json(json_pack("{ss so so sI sI}", "format", inspection->format, "metadata", metadata, "tensors",
                                    tensors, "elements", (json_int_t)inspection->elements, "bytes",
                                    (json_int_t)inspection->bytes));
}

/* A name for a terminal: control characters, which a file may hold, as '?'. */
static const char *plain(const char *name, char *shown, size_t size)
{
    snprintf(shown, size, "%s", name);
    for (char *c = shown; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return shown;
}

static int print_table(const fvlm_inspection *inspection)
{
    char name[512], bytes[32];
    cli_print("format: %s\n", inspection->format);
    for (size_t i = 0; i < inspection->value_count; i++) {
        const fvlm_file_value *value = &inspection->values[i];
        cli_print("%-45s %-16s %.120s%s\n", plain(value->key, name, sizeof name), value->type, value->json,
                  strlen(value->json) > 120 ? "..." : "");
    }
    for (size_t i = 0; i < inspection->tensor_count; i++) {
        const fvlm_file_tensor *tensor = &inspection->tensors[i];
        char shape[256] = "";
        size_t used = 0;
        for (int d = 0; d < tensor->rank; d++)
            used += (size_t)snprintf(shape + used, sizeof shape - used, d ? " x %zu" : "%zu", tensor->shape[d]);
        cli_print("%-80s %-8s %-24s %12llu\n", plain(tensor->name, name, sizeof name), tensor->type, shape,
                  (unsigned long long)tensor->bytes);
    }
    cli_format_bytes(inspection->bytes, bytes, sizeof bytes);
    cli_print("%zu tensors, %llu values, %s\n", inspection->tensor_count, (unsigned long long)inspection->elements,
              bytes);
    return CLI_DONE;
}

int cmd_inspect(int argc, const char **argv)
{
    int code;
    const char *const *arguments;
    if (!cli_parse(&usage, table, argc, argv, &arguments, &code))
        return code;
    if (!arguments[0] || arguments[1])
        return cli_usage_error(&usage, "give one file or folder");
    fvlm_error error;
    fvlm_inspection *inspection = NULL;
    char *path;
    fvlm_status status = cli_model_path(arguments[0], &path, &error);
    if (status == FVLM_OK)
        status = fvlm_inspect(path, &inspection, &error);
    code = status ? cli_fail(&error) : as_json ? print_json(inspection) : print_table(inspection);
    fvlm_inspection_free(&inspection);
    free(path);
    return code;
}
