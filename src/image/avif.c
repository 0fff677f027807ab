/* AVIF by libavif: the primary picture, or the first frame of a sequence.
 *
 * libavif leaves rotation and mirroring to the caller; only the container's own boxes count, not EXIF, as the format
 * demands and the published code does.
 */
#include "image/image_codec.h"

#include <stdlib.h>
#include <string.h>

#include <avif/avif.h>

#include "fastvlm/image.h"

/* irot turns anticlockwise by `angle` quarters, then imir swaps top and bottom (0) or left and right (1). */
static int box_orientation(const avifImage *picture)
{
    static const int turned[4] = {1, 8, 3, 6}, swapped_rows[4] = {4, 5, 2, 7}, swapped_columns[4] = {2, 7, 4, 5};
    unsigned quarters = picture->transformFlags & AVIF_TRANSFORM_IROT ? picture->irot.angle & 3u : 0;
    if (!(picture->transformFlags & AVIF_TRANSFORM_IMIR))
        return turned[quarters];
#if AVIF_VERSION_MAJOR >= 1
    bool columns = picture->imir.axis != 0;
#else
    bool columns = picture->imir.mode != 0;
#endif
    return columns ? swapped_columns[quarters] : swapped_rows[quarters];
}

static fvlm_status failed(const fvlm_encoded *source, avifResult code, fvlm_error *error)
{
    if (code == AVIF_RESULT_OUT_OF_MEMORY)
        return fvlm_fail_memory(error);
    if (code == AVIF_RESULT_NO_CODEC_AVAILABLE)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: the installed libavif has no AV1 decoder", source->name);
    if (code == AVIF_RESULT_TRUNCATED_DATA)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: truncated AVIF, the file ends after %zu bytes", source->name,
                         source->size);
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: damaged AVIF: %s", source->name, avifResultToString(code));
}

/* Pictures with alpha are converted with it, since libavif otherwise composes them on black, then it is dropped. */
static fvlm_status convert_picture(const avifImage *picture, const fvlm_encoded *source, const fvlm_raster *raster,
                                   fvlm_error *error)
{
    bool alpha = picture->alphaPlane != NULL;
    size_t pixels = raster->width * raster->height;
    avifRGBImage target;
    avifRGBImageSetDefaults(&target, picture);
    target.depth = 8;
    target.format = alpha ? AVIF_RGB_FORMAT_RGBA : AVIF_RGB_FORMAT_RGB;
    target.rowBytes = (uint32_t)raster->width * (alpha ? 4 : 3);
    target.pixels = alpha ? malloc(pixels * 4) : raster->rgb; /* [height, width, 4 or 3] */
    if (!target.pixels)
        return fvlm_fail_memory(error);
    avifResult code = avifImageYUVToRGB(picture, &target);
    if (alpha) {
        for (size_t i = 0; code == AVIF_RESULT_OK && i < pixels; i++)
            memcpy(raster->rgb + 3 * i, target.pixels + 4 * i, 3);
        free(target.pixels);
    }
    return code == AVIF_RESULT_OK ? FVLM_OK : failed(source, code, error);
}

static fvlm_status read_picture(avifDecoder *decoder, const fvlm_encoded *source, fvlm_raster *raster,
                                fvlm_error *error)
{
    /* Files from older writers miss these; the published code reads them. */
    decoder->strictFlags &= ~(avifStrictFlags)(AVIF_STRICT_CLAP_VALID | AVIF_STRICT_PIXI_REQUIRED);
    decoder->imageSizeLimit = FVLM_IMAGE_MAX_PIXELS;
    decoder->imageDimensionLimit = FVLM_IMAGE_MAX_SIDE;
    decoder->ignoreExif = AVIF_TRUE;
    decoder->ignoreXMP = AVIF_TRUE;
    avifResult code = avifDecoderSetIOMemory(decoder, source->data, source->size);
    if (code == AVIF_RESULT_OK)
        code = avifDecoderParse(decoder);
    if (code != AVIF_RESULT_OK)
        return failed(source, code, error);
    fvlm_status status = fvlm_raster_create(source, decoder->image->width, decoder->image->height, raster, error);
    if (status != FVLM_OK)
        return status;
    code = avifDecoderNextImage(decoder);
    if (code != AVIF_RESULT_OK)
        return failed(source, code, error);
    const avifImage *picture = decoder->image;
    if (picture->width != raster->width || picture->height != raster->height)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: damaged AVIF: the picture is not of the declared size",
                         source->name);
    raster->orientation = box_orientation(picture);
    return convert_picture(picture, source, raster, error);
}

fvlm_status fvlm_avif_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    avifDecoder *decoder = avifDecoderCreate();
    if (!decoder)
        return fvlm_fail_memory(error);
    fvlm_status status = read_picture(decoder, source, raster, error);
    avifDecoderDestroy(decoder);
    return status;
}
