/* WebP by libwebp: lossy, lossless, with alpha (dropped); of an animation the first frame, on a black canvas. */
#include "image/image_codec.h"

#include <stdlib.h>

#include <webp/decode.h>
#include <webp/demux.h>

static int metadata_orientation(const WebPDemuxer *demuxer)
{
    WebPChunkIterator chunk;
    int orientation = 0;
    if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk))
        orientation = fvlm_exif_orientation(chunk.chunk.bytes, chunk.chunk.size);
    WebPDemuxReleaseChunkIterator(&chunk);
    if (orientation == 0) {
        if (WebPDemuxGetChunk(demuxer, "XMP ", 1, &chunk))
            orientation = fvlm_xmp_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    return orientation;
}

/* Decode the frame straight into its place on the canvas. */
static fvlm_status decode_frame(const fvlm_encoded *source, const WebPIterator *frame, fvlm_raster *raster,
                                fvlm_error *error)
{
    size_t left = (size_t)frame->x_offset, top = (size_t)frame->y_offset, width = (size_t)frame->width,
           height = (size_t)frame->height;
    if (left + width > raster->width || top + height > raster->height)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: damaged WebP: a frame beyond the canvas", source->name);
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: the installed libwebp does not match this build",
                         source->name);
    size_t stride = raster->width * 3, offset = (top * raster->width + left) * 3;
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = raster->rgb + offset;
    config.output.u.RGBA.stride = (int)stride;
    config.output.u.RGBA.size = raster->height * stride - offset;
    VP8StatusCode code = WebPDecode(frame->fragment.bytes, frame->fragment.size, &config);
    WebPFreeDecBuffer(&config.output);
    if (code == VP8_STATUS_OK)
        return FVLM_OK;
    if (code == VP8_STATUS_OUT_OF_MEMORY)
        return fvlm_fail_memory(error);
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: %s WebP", source->name,
                     code == VP8_STATUS_NOT_ENOUGH_DATA || code == VP8_STATUS_SUSPENDED ? "truncated" : "damaged");
}

fvlm_status fvlm_webp_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    WebPData data = {source->data, source->size};
    WebPDemuxState state;
    WebPDemuxer *demuxer = WebPDemuxPartial(&data, &state);
    if (!demuxer || state < WEBP_DEMUX_PARSED_HEADER) {
        WebPDemuxDelete(demuxer);
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: %s WebP", source->name,
                         state == WEBP_DEMUX_PARSE_ERROR ? "damaged" : "truncated");
    }
    WebPIterator frame = {0};
    fvlm_status status = fvlm_raster_create(source, WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH),
                                            WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT), raster, error);
    if (status != FVLM_OK)
        goto done;
    if (state != WEBP_DEMUX_DONE || !WebPDemuxGetFrame(demuxer, 1, &frame) || !frame.complete) {
        status = fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: truncated WebP, the file ends after %zu bytes", source->name,
                           source->size);
        goto done;
    }
    raster->orientation = metadata_orientation(demuxer);
    status = decode_frame(source, &frame, raster, error);
done:
    WebPDemuxReleaseIterator(&frame);
    WebPDemuxDelete(demuxer);
    return status;
}
