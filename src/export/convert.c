/* Conversions: open the model, plan types, write. */
#include "fastvlm/export.h"

#include <string.h>

#include "base/cpu.h"
#include "export/convert_gguf.h"

fvlm_status fvlm_conversion_advance(fvlm_conversion *conversion, size_t bytes, fvlm_error *error)
{
    const fvlm_convert_options *options = conversion->options;
    conversion->done += bytes;
    if (options->on_progress && !options->on_progress(options->user, conversion->done, conversion->plan->bytes_after))
        return fvlm_fail(error, FVLM_ERROR_IO, "stopped; %s is as it was", options->output);
    return FVLM_OK;
}

static fvlm_status convert_to_file(const fvlm_convert_options *options, fvlm_convert_report *report, fvlm_error *error)
{
    fvlm_source *source;
    fvlm_plan plan = {0};
    fvlm_pool *pool = NULL;
    fvlm_status status = fvlm_source_open(options->model, &source, error);
    if (!status)
        status = fvlm_plan_make(source, options->type, options->keep, &plan, error);
    if (!status)
        status = fvlm_pool_create(options->threads > 0 ? options->threads : fvlm_cpu_count(), &pool, error);
    fvlm_conversion conversion = {.source = source, .plan = &plan, .pool = pool, .options = options};
    if (!status)
        status = fvlm_convert_to_gguf(&conversion, error);
    if (!status)
        *report = (fvlm_convert_report){plan.bytes_before, plan.bytes_after, plan.count, plan.replaced};
    fvlm_pool_destroy(&pool);
    fvlm_plan_clear(&plan);
    fvlm_source_close(&source);
    return status;
}

static fvlm_status convert_to_folder(const fvlm_convert_options *options, fvlm_convert_report *report,
                                     fvlm_error *error)
{
    static const char *const names[] = {
        [FVLM_EXPORT_FP32] = "f32", [FVLM_EXPORT_FP16] = "f16", [FVLM_EXPORT_BF16] = "bf16"};
    fvlm_export_options folder = {.model = options->model,
                                  .output = options->output,
                                  .threads = options->threads,
                                  .on_progress = options->on_progress,
                                  .user = options->user};
    for (int i = FVLM_EXPORT_FP32; options->type && i <= FVLM_EXPORT_BF16; i++)
        if (strcmp(options->type, names[i]) == 0)
            folder.type = (fvlm_export_type)i;
    if (options->keep || (options->type && folder.type == FVLM_EXPORT_DEFAULT))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "a folder's weights are all f32, f16, bf16 or as stored");
    fvlm_source *source; /* both files of a pair */
    uint64_t before = 0;
    fvlm_status status = fvlm_source_open(options->model, &source, error);
    for (size_t i = 0; !status && i < fvlm_tensor_table_count(source->table); i++)
        before += fvlm_tensor_table_at(source->table, i)->bytes;
    fvlm_source_close(&source);
    if (!status)
        status =
            options->target == FVLM_CONVERT_LLAVA ? fvlm_export_llava(&folder, error) : fvlm_export_hf(&folder, error);
    fvlm_inspection *after = NULL;
    if (!status)
        status = fvlm_inspect(options->output, &after, error);
    if (!status)
        *report = (fvlm_convert_report){before, after->bytes, after->tensor_count, 0};
    fvlm_inspection_free(&after);
    return status;
}

fvlm_status fvlm_convert(const fvlm_convert_options *options, fvlm_convert_report *report, fvlm_error *error)
{
    fvlm_convert_report unwanted;
    if (!options->model || !options->model[0] || !options->output || !options->output[0])
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no model or no output given");
    bool folder = options->target == FVLM_CONVERT_LLAVA || options->target == FVLM_CONVERT_FAST_VLM;
    return (folder ? convert_to_folder : convert_to_file)(options, report ? report : &unwanted, error);
}
