/* GIF by giflib: the first picture of the file, on its screen.
 *
 * As in the published code, what the first picture does not cover has the transparent index when there is one and
 * index 0 otherwise; transparent pixels keep their palette colour; a picture that sticks out enlarges the screen.
 * Colour tables that are a plain grey ramp, and pictures without a table, are grey values.
 */
#include "image/image_codec.h"

#include <stdlib.h>
#include <string.h>

#include <gif_lib.h>

typedef struct input {
    const fvlm_encoded *source;
    size_t position;
} input;

static int read_bytes(GifFileType *gif, GifByteType *target, int bytes)
{
    input *in = gif->UserData;
    size_t left = in->source->size - in->position, count = (size_t)bytes < left ? (size_t)bytes : left;
    memcpy(target, in->source->data + in->position, count);
    in->position += count;
    return (int)count;
}

static fvlm_status damaged(const fvlm_encoded *source, int code, fvlm_error *error)
{
    const char *reason = GifErrorString(code);
    if (code == D_GIF_ERR_READ_FAILED || code == D_GIF_ERR_EOF_TOO_SOON)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: truncated GIF, the file ends after %zu bytes", source->name,
                         source->size);
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: damaged GIF: %s", source->name, reason ? reason : "unknown error");
}

/* Go to the first picture; *transparent becomes its transparent index or -1. */
static fvlm_status find_picture(GifFileType *gif, const fvlm_encoded *source, int *transparent, fvlm_error *error)
{
    GifRecordType type;
    *transparent = -1;
    for (;;) {
        if (DGifGetRecordType(gif, &type) == GIF_ERROR)
            return damaged(source, gif->Error, error);
        if (type == IMAGE_DESC_RECORD_TYPE)
            return DGifGetImageDesc(gif) == GIF_ERROR ? damaged(source, gif->Error, error) : FVLM_OK;
        if (type == TERMINATE_RECORD_TYPE)
            return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: a GIF without a picture", source->name);
        if (type != EXTENSION_RECORD_TYPE)
            continue;
        int function;
        GifByteType *block; /* its length, then its bytes */
        if (DGifGetExtension(gif, &function, &block) == GIF_ERROR)
            return damaged(source, gif->Error, error);
        if (function == GRAPHICS_EXT_FUNC_CODE && block && block[0] >= 4 && (block[1] & 1))
            *transparent = block[4];
        while (block)
            if (DGifGetExtensionNext(gif, &block) == GIF_ERROR)
                return damaged(source, gif->Error, error);
    }
}

static bool is_grey_ramp(const ColorMapObject *map)
{
    for (int i = 0; i < map->ColorCount; i++)
        if (map->Colors[i].Red != i || map->Colors[i].Green != i || map->Colors[i].Blue != i)
            return false;
    return true;
}

/* colours [256, 3]; indices beyond the table are black. */
static void make_colours(const ColorMapObject *map, uint8_t (*colours)[3])
{
    if (!map || is_grey_ramp(map)) {
        for (int i = 0; i < 256; i++)
            memset(colours[i], i, 3);
        return;
    }
    memset(colours, 0, 256 * 3);
    for (int i = 0; i < map->ColorCount && i < 256; i++) {
        colours[i][0] = map->Colors[i].Red;
        colours[i][1] = map->Colors[i].Green;
        colours[i][2] = map->Colors[i].Blue;
    }
}

/* Give the part of the screen that the frame leaves free the colour [3]. */
static void fill_around(const GifImageDesc *frame, const uint8_t *colour, const fvlm_raster *raster)
{
    size_t left = (size_t)frame->Left, top = (size_t)frame->Top;
    size_t right = left + (size_t)frame->Width, bottom = top + (size_t)frame->Height;
    for (size_t y = 0; y < raster->height; y++) {
        uint8_t *row = raster->rgb + y * raster->width * 3;
        bool inside = y >= top && y < bottom;
        for (size_t x = 0; x < (inside ? left : raster->width); x++)
            memcpy(row + 3 * x, colour, 3);
        for (size_t x = right; inside && x < raster->width; x++)
            memcpy(row + 3 * x, colour, 3);
    }
}

static fvlm_status read_picture(GifFileType *gif, const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    int transparent;
    fvlm_status status = find_picture(gif, source, &transparent, error);
    if (status != FVLM_OK)
        return status;
    const GifImageDesc *frame = &gif->Image;
    size_t left = (size_t)frame->Left, top = (size_t)frame->Top, width = (size_t)frame->Width,
           height = (size_t)frame->Height;
    size_t screen_width = (size_t)gif->SWidth, screen_height = (size_t)gif->SHeight;
    status = fvlm_raster_create(source, left + width > screen_width ? left + width : screen_width,
                                top + height > screen_height ? top + height : screen_height, raster, error);
    if (status != FVLM_OK)
        return status;

    uint8_t colours[256][3];
    make_colours(frame->ColorMap ? frame->ColorMap : gif->SColorMap, colours);
    GifPixelType *indices = malloc(width);
    if (!indices)
        return fvlm_fail_memory(error);
    /* Interlaced pictures come in four passes: first row and step of each. */
    static const size_t passes[4][2] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}}, plain[1][2] = {{0, 1}};
    const size_t(*order)[2] = frame->Interlace ? passes : plain;
    for (int pass = 0; status == FVLM_OK && pass < (frame->Interlace ? 4 : 1); pass++)
        for (size_t y = order[pass][0]; status == FVLM_OK && y < height; y += order[pass][1]) {
            if (DGifGetLine(gif, indices, (int)width) == GIF_ERROR) {
                status = damaged(source, gif->Error, error);
                break;
            }
            uint8_t *row = raster->rgb + ((top + y) * raster->width + left) * 3;
            for (size_t x = 0; x < width; x++)
                memcpy(row + 3 * x, colours[indices[x]], 3);
        }
    free(indices);
    if (status == FVLM_OK)
        fill_around(frame, colours[transparent >= 0 ? transparent : 0], raster);
    return status;
}

fvlm_status fvlm_gif_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    input in = {source, 0};
    int code = 0;
    GifFileType *gif = DGifOpen(&in, read_bytes, &code);
    if (!gif)
        return damaged(source, code, error);
    fvlm_status status = read_picture(gif, source, raster, error);
    DGifCloseFile(gif, &code);
    return status;
}
