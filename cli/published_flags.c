/* A list of flags; those that come with a value which would change the result have the values that do not. */
#include "published_flags.h"

#include <jansson.h>
#include <string.h>
#include <strings.h>

#include "base/text_buffer.h"
#include "output.h"

#define ANY NULL

static const struct {
    const char *name;
    const char *values; /* that are fine, with commas around them; ANY: all, the model or the machine decides */
    const char *instead;
} flags[] = {
    /* The checkpoint says what the model is. */
    {"vision-tower", ANY, ""},
    {"mm-vision-select-layer", ANY, ""},
    {"mm-vision-select-feature", ANY, ""},
    {"mm-projector-type", ANY, ""},
    {"mm-patch-merge-type", ANY, ""},
    {"image-aspect-ratio", ANY, ""},
    {"image-grid-pinpoints", ANY, ""},
    {"image-crop-resolution", ANY, ""},
    {"image-split-resolution", ANY, ""},
    {"mm-use-im-patch-token", ",false,", "pictures stand between texts without tokens of their own"},
    {"mm-use-im-start-end", ",false,", "pictures stand between texts without tokens of their own"},
    {"s2", ",false,", "the tower runs at one resolution"},
    {"hd", ",false,", "the tower runs at one resolution"},
    /* How data are read and the machine is used. */
    {"lazy-preprocess", ANY, ""},
    {"is-multimodal", ANY, ""},
    {"dataloader-num-workers", ANY, ""},
    {"dataloader-drop-last", ",false,", "an epoch ends with a smaller batch"},
    {"remove-unused-columns", ANY, ""},
    {"cache-dir", ANY, ""},
    {"tf32", ANY, ""},
    {"fp16", ",false,", "there is --bf16"},
    {"local-rank", ANY, ""},
    {"ddp-timeout", ANY, ""},
    {"logging-steps", ANY, ""},
    {"run-name", ANY, ""},
    {"do-train", ANY, ""},
    {"per-device-eval-batch-size", ANY, ""},
    {"mpt-attn-impl", ANY, ""},
    {"attn-implementation", ANY, ""},
    /* A frozen model is quantised beforehand. */
    {"bits", ",16,", "start from a quantised --model (fastvlm quantize)"},
    {"double-quant", ANY, ""},
    {"quant-type", ANY, ""},
    {"lora-bias", ",none,", "adapters have no biases"},
    {"lora-weight-path", ",,", "merge the adapter first (fastvlm merge)"},
    {"pretrain-mm-mlp-adapter", ",,", "start from the whole model that stage 1 wrote"},
};
enum { FLAGS = sizeof flags / sizeof *flags };

static char *given[FLAGS];
struct poptOption cli_published_table[FLAGS + 1];

void cli_published_prepare(void)
{
    for (int i = 0; i < FLAGS; i++)
        cli_published_table[i] = (struct poptOption){
            .longName = flags[i].name, .argInfo = POPT_ARG_STRING | POPT_ARGFLAG_DOC_HIDDEN, .arg = &given[i]};
    cli_published_table[FLAGS] = (struct poptOption)POPT_TABLEEND;
}

/* Whether `value` is one of the list, whatever its case. */
static bool is_listed(const char *value, const char *values)
{
    size_t length = strlen(value);
    for (const char *at = values; at[1]; at++)
        if (*at == ',' && strncasecmp(at + 1, value, length) == 0 && at[1 + length] == ',')
            return true;
    return false;
}

bool cli_published_check(const cli_usage *usage)
{
    fvlm_text_buffer names = {0};
    for (int i = 0; i < FLAGS; i++) {
        if (!given[i])
            continue;
        if (flags[i].values && !is_listed(given[i], flags[i].values)) {
            cli_usage_error(usage, "--%s %s: %s", flags[i].name, given[i], flags[i].instead);
            fvlm_text_clear(&names);
            return false;
        }
        fvlm_text_format(&names, " --%s", flags[i].name);
    }
    if (names.length > 0 && !names.failed)
        cli_error("these decide nothing here and are passed by:%s", names.data);
    fvlm_text_clear(&names);
    return true;
}

bool cli_deepspeed_stage(const cli_usage *usage, const char *path, int *stage)
{
    json_error_t where;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    const json_t *value = json_object_get(json_object_get(root, "zero_optimization"), "stage");
    json_int_t number = json_integer_value(value);
    if (!root)
        cli_usage_error(usage, "--deepspeed %s: line %d: %s", path, where.line, where.text);
    else if (!json_is_integer(value) || number < 0 || number > 3)
        cli_usage_error(usage, "--deepspeed %s: its zero_optimization has no stage from 0 to 3", path);
    bool fine = root && json_is_integer(value) && number >= 0 && number <= 3;
    *stage = number > 0 ? (int)number : 1; /* what stage 0 keeps whole needs more memory for the same result */
    json_decref(root);
    return fine;
}
