/* Conversions: open the model, plan types, write. */
#include "fastvlm/convert.h"

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

fvlm_status fvlm_convert(const fvlm_convert_options *options, fvlm_convert_report *report, fvlm_error *error)
{
    if (!options->model || !options->model[0] || !options->output || !options->output[0])
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "no model or no output given");
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
    if (!status && report)
        *report = (fvlm_convert_report){plan.bytes_before, plan.bytes_after, plan.count, plan.replaced};
    fvlm_pool_destroy(&pool);
    fvlm_plan_clear(&plan);
    fvlm_source_close(&source);
    return status;
}
