/* A folder in LLaVA's layout. Tensors already have its names and shapes; a checkpoint that was in this layout gets its
 * small files back as they were; those of transformers' processor are for its own layout. */
#include "export/export_config.h"
#include "export/export_tensors.h"

static void add_tensors(fvlm_export_list *list, fvlm_export_type type)
{
    const fvlm_tensor_table *table = list->source->table;
    for (size_t i = 0; i < fvlm_tensor_table_count(table); i++) {
        const fvlm_tensor *tensor = fvlm_tensor_table_at(table, i);
        if (fvlm_export_ends_in(tensor->name, ".scales") || fvlm_export_ends_in(tensor->name, ".biases"))
            continue;
        if (fvlm_export_ends_in(tensor->name, "convffn.conv.conv.bias"))
            fvlm_export_add_unfolded(list, tensor, tensor->name, type);
        else
            fvlm_export_add(list, tensor, tensor->name, type);
    }
}

static fvlm_status put_config(const fvlm_export_source *source, const fvlm_export_folder *folder, fvlm_export_type type,
                              fvlm_error *error)
{
    if (type == FVLM_EXPORT_DEFAULT && !source->config->fast_vlm && !source->config->quantized_bits)
        return fvlm_bundle_copy(&source->model->files, fvlm_small_files[0], folder->aside, error);
    json_t *config = fvlm_export_llava_config(source, fvlm_export_dtype(source, type));
    return fvlm_export_put_json(folder, "config.json", config, error);
}

fvlm_status fvlm_export_llava(const fvlm_export_options *options, fvlm_error *error)
{
    fvlm_export_job job;
    fvlm_export_list list = {0};
    fvlm_status status = fvlm_export_job_open(options, "config.json", &job, error);
    const fvlm_export_source *source = &job.source;
    if (!status) {
        fvlm_export_list_open(source, error, &list);
        add_tensors(&list, options->type);
        status = fvlm_export_list_write(&list, &job.folder, "pt", options, error);
        fvlm_export_list_close(&list);
    }
    if (!status)
        status = put_config(source, &job.folder, options->type, error);
    for (size_t i = 1; fvlm_small_files[i] && !status; i++)
        if (!source->config->fast_vlm || !fvlm_export_ends_in(fvlm_small_files[i], "processor_config.json"))
            status = fvlm_bundle_copy(&source->model->files, fvlm_small_files[i], job.folder.aside, error);
    return fvlm_export_job_end(&job, status, error);
}
