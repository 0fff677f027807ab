/* HEIC by libheif: the primary picture.
 *
 * libheif carries out rotation, mirroring and cropping itself, so the raster comes upright and EXIF's orientation must
 * not be applied again.
 */
#include "image/image_codec.h"

#include <stdlib.h>
#include <string.h>

#include <libheif/heif.h>

#include "fastvlm/image.h"

static fvlm_status failed(const fvlm_encoded *source, struct heif_error code, fvlm_error *error)
{
    if (code.code == heif_error_Memory_allocation_error && code.subcode != heif_suberror_Security_limit_exceeded)
        return fvlm_fail_memory(error);
    if (code.subcode == heif_suberror_Security_limit_exceeded)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: %s", source->name, code.message);
    if (code.code == heif_error_Unsupported_feature || code.code == heif_error_Unsupported_filetype)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: HEIF: %s (is libheif's HEVC plugin installed?)",
                         source->name, code.message);
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: damaged or truncated HEIF: %s", source->name, code.message);
}

/* Copy the decoded [height, stride] into the raster. */
static fvlm_status copy_rows(const fvlm_encoded *source, const struct heif_image *picture, fvlm_raster *raster,
                             fvlm_error *error)
{
    int stride = 0;
    const uint8_t *rows = heif_image_get_plane_readonly(picture, heif_channel_interleaved, &stride);
    int width = heif_image_get_width(picture, heif_channel_interleaved);
    int height = heif_image_get_height(picture, heif_channel_interleaved);
    if (!rows || width <= 0 || height <= 0 || stride < 0 || (size_t)stride < (size_t)width * 3)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: damaged HEIF: no RGB picture", source->name);
    fvlm_status status = fvlm_raster_create(source, (uint64_t)width, (uint64_t)height, raster, error);
    for (size_t y = 0; status == FVLM_OK && y < raster->height; y++)
        memcpy(raster->rgb + y * raster->width * 3, rows + y * (size_t)stride, raster->width * 3);
    return status;
}

static fvlm_status read_picture(struct heif_context *context, const fvlm_encoded *source, fvlm_raster *raster,
                                fvlm_error *error)
{
    struct heif_image_handle *handle = NULL;
    struct heif_image *picture = NULL;
    fvlm_status status = FVLM_OK;
    heif_context_set_maximum_image_size_limit(context, (int)FVLM_IMAGE_MAX_SIDE);
    struct heif_error code = heif_context_read_from_memory_without_copy(context, source->data, source->size, NULL);
    if (code.code == heif_error_Ok)
        code = heif_context_get_primary_image_handle(context, &handle);
    if (code.code != heif_error_Ok)
        return failed(source, code, error);

    status = fvlm_raster_check(source, (uint64_t)heif_image_handle_get_width(handle),
                               (uint64_t)heif_image_handle_get_height(handle), error);
    if (status == FVLM_OK) {
        code = heif_decode_image(handle, &picture, heif_colorspace_RGB, heif_chroma_interleaved_RGB, NULL);
        status = code.code == heif_error_Ok ? copy_rows(source, picture, raster, error) : failed(source, code, error);
    }
    heif_image_release(picture);
    heif_image_handle_release(handle);
    return status;
}

fvlm_status fvlm_heif_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    struct heif_context *context = heif_context_alloc();
    if (!context)
        return fvlm_fail_memory(error);
    fvlm_status status = read_picture(context, source, raster, error);
    heif_context_free(context);
    return status;
}
