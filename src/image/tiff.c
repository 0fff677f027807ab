/* TIFF by libtiff: strips and tiles, every compression libtiff has, first directory.
 *
 *     strip or tile, samples as stored -> bytes [width, samples] -> RGB
 *
 * Grey, palette, RGB and CMYK samples are converted here, since libtiff's own RGBA interface multiplies colour by
 * alpha and rounds differently from the published code; only subsampled YCbCr goes through that interface.
 */
#include "image/image_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <tiffio.h>

#include "base/checked.h"
#include "fastvlm/image.h"

#define TIFF_MAX_SAMPLES 8u
#define TIFF_MAX_UNPACKED_BYTES ((uint64_t)1 << 30) /* of one strip or tile, however well it is packed */

typedef struct tiff_input {
    const fvlm_encoded *source;
    uint64_t position;
} tiff_input;

typedef struct tiff_layout {
    uint32_t width, height;
    uint16_t photometric, bits, samples, format, planar, compression;
    bool premultiplied;         /* the sample behind the colours is associated alpha */
    const uint16_t *colours[3]; /* palette: [1 << bits] each */
} tiff_layout;

/* A part of the picture as libtiff hands it over: rows of `stride` bytes, `samples` of each pixel side by side. */
typedef struct tiff_block {
    uint8_t *data;
    size_t size, stride;
    uint32_t x, y, width, height; /* the part of the picture it covers */
    uint16_t first_sample, samples;
} tiff_block;

static tmsize_t on_read(thandle_t handle, void *target, tmsize_t bytes)
{
    tiff_input *input = handle;
    if (bytes < 0 || input->position >= input->source->size)
        return 0;
    uint64_t left = input->source->size - input->position;
    size_t count = (uint64_t)bytes < left ? (size_t)bytes : (size_t)left;
    memcpy(target, input->source->data + input->position, count);
    input->position += count;
    return (tmsize_t)count;
}

static tmsize_t on_write(thandle_t handle, void *data, tmsize_t bytes)
{
    (void)handle;
    (void)data;
    (void)bytes;
    return -1;
}

static toff_t on_seek(thandle_t handle, toff_t offset, int whence)
{
    tiff_input *input = handle;
    uint64_t base = whence == SEEK_CUR ? input->position : whence == SEEK_END ? input->source->size : 0;
    input->position = base + offset;
    return input->position;
}

static int on_close(thandle_t handle)
{
    (void)handle;
    return 0;
}

static toff_t on_size(thandle_t handle)
{
    return ((tiff_input *)handle)->source->size;
}

static int on_message(TIFF *tiff, void *user, const char *module, const char *format, va_list arguments)
{
    (void)tiff;
    (void)user;
    (void)module;
    (void)format;
    (void)arguments;
    return 1; /* handled: libtiff must not print */
}

static fvlm_status damaged(const fvlm_encoded *source, const char *what, fvlm_error *error)
{
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: damaged or truncated TIFF: %s", source->name, what);
}

static fvlm_status read_layout(TIFF *tiff, const fvlm_encoded *source, tiff_layout *layout, fvlm_error *error)
{
    uint16_t extra_count = 0, *extra = NULL, *red = NULL, *green = NULL, *blue = NULL;
    if (!TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &layout->width) ||
        !TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &layout->height))
        return damaged(source, "no size", error);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &layout->bits);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLESPERPIXEL, &layout->samples);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_SAMPLEFORMAT, &layout->format);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_PLANARCONFIG, &layout->planar);
    TIFFGetFieldDefaulted(tiff, TIFFTAG_COMPRESSION, &layout->compression);
    if (!TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &layout->photometric))
        layout->photometric = PHOTOMETRIC_MINISWHITE;
    size_t colours;
    switch (layout->photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
    case PHOTOMETRIC_PALETTE:
        colours = 1;
        break;
    case PHOTOMETRIC_RGB:
    case PHOTOMETRIC_YCBCR:
        colours = 3;
        break;
    case PHOTOMETRIC_SEPARATED:
        colours = 4;
        break;
    default:
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: a TIFF of colour kind %u", source->name,
                         layout->photometric);
    }
    bool whole = layout->format == SAMPLEFORMAT_UINT || layout->format == SAMPLEFORMAT_INT;
    bool known = whole ? layout->bits == 1 || layout->bits == 2 || layout->bits == 4 || layout->bits == 8 ||
                             layout->bits == 12 || layout->bits == 16 || layout->bits == 32
                       : layout->format == SAMPLEFORMAT_IEEEFP && layout->bits == 32;
    if (!known || layout->samples > TIFF_MAX_SAMPLES)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: a TIFF of %u samples of %u bits, sample format %u",
                         source->name, layout->samples, layout->bits, layout->format);
    if (layout->samples < colours)
        return damaged(source, "too few samples for its colours", error);
    if (layout->photometric == PHOTOMETRIC_PALETTE) {
        if (layout->bits > 8 || !TIFFGetField(tiff, TIFFTAG_COLORMAP, &red, &green, &blue))
            return damaged(source, "a palette picture without a palette", error);
        layout->colours[0] = red;
        layout->colours[1] = green;
        layout->colours[2] = blue;
    }
    if (TIFFGetField(tiff, TIFFTAG_EXTRASAMPLES, &extra_count, &extra) && extra_count > 0)
        layout->premultiplied = extra[0] == EXTRASAMPLE_ASSOCALPHA && layout->samples > colours;
    return FVLM_OK;
}

static uint8_t clip_to_byte(double value)
{
    return value >= 255 ? 255 : value > 0 ? (uint8_t)value : 0; /* NaN becomes 0 */
}

/* Sample `index` of a row as a byte: palette indices as they are, everything else on a scale of 0..255. Numbers
 * of 32 bits and signed ones have no known range and are cut to 0..255. */
static uint8_t sample_byte(const tiff_layout *layout, const uint8_t *row, size_t index)
{
    switch (layout->bits) {
    case 1:
    case 2:
    case 4: {
        unsigned maximum = (1u << layout->bits) - 1, bit = (unsigned)index * layout->bits % 8;
        unsigned value = row[index * layout->bits / 8] >> (8 - layout->bits - bit) & maximum;
        return (uint8_t)(layout->photometric == PHOTOMETRIC_PALETTE ? value : value * (255 / maximum));
    }
    case 8:
        return row[index];
    case 12: /* the high 8 of the 12 bits */
        return index % 2 == 0 ? row[index / 2 * 3]
                              : (uint8_t)(row[index / 2 * 3 + 1] << 4 | row[index / 2 * 3 + 2] >> 4);
    case 16: {
        uint16_t value;
        memcpy(&value, row + 2 * index, sizeof value);
        return layout->format == SAMPLEFORMAT_INT ? clip_to_byte((int16_t)value) : (uint8_t)(value >> 8);
    }
    default: {
        uint32_t value;
        float real;
        memcpy(&value, row + 4 * index, sizeof value);
        memcpy(&real, &value, sizeof real);
        return clip_to_byte(layout->format == SAMPLEFORMAT_IEEEFP ? (double)real
                            : layout->format == SAMPLEFORMAT_INT  ? (double)(int32_t)value
                                                                  : (double)value);
    }
    }
}

/* samples [layout->samples] of one pixel. */
static void convert_pixel(const tiff_layout *layout, const uint8_t *samples, uint8_t *rgb)
{
    size_t colours = 3;
    switch (layout->photometric) {
    case PHOTOMETRIC_PALETTE:
        for (size_t c = 0; c < 3; c++)
            rgb[c] = (uint8_t)(layout->colours[c][samples[0]] >> 8);
        return;
    case PHOTOMETRIC_SEPARATED:
        for (size_t c = 0; c < 3; c++)
            rgb[c] = fvlm_cmyk_channel(samples[c], samples[3]);
        return;
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
        memset(rgb, layout->photometric == PHOTOMETRIC_MINISWHITE && layout->bits <= 8 ? 255 - samples[0] : samples[0],
               3);
        colours = 1;
        break;
    default:
        memcpy(rgb, samples, 3);
    }
    unsigned alpha = layout->premultiplied ? samples[colours] : 255;
    for (size_t c = 0; c < 3 && alpha != 255; c++) {
        unsigned value = alpha == 0 ? 0 : rgb[c] * 255u / alpha;
        rgb[c] = (uint8_t)(value < 255 ? value : 255);
    }
}

/* Put a block's samples into `strip`, bytes [block->height, block->width, layout->samples]. */
static void take_samples(const tiff_layout *layout, const tiff_block *block, uint8_t *strip)
{
    for (size_t y = 0; y < block->height; y++)
        for (size_t x = 0; x < block->width; x++)
            for (size_t s = 0; s < block->samples; s++)
                strip[(y * block->width + x) * layout->samples + block->first_sample + s] =
                    sample_byte(layout, block->data + y * block->stride, x * block->samples + s);
}

static void put_pixels(const tiff_layout *layout, const tiff_block *block, const uint8_t *strip,
                       const fvlm_raster *raster)
{
    for (size_t y = 0; y < block->height; y++)
        for (size_t x = 0; x < block->width; x++)
            convert_pixel(layout, strip + (y * block->width + x) * layout->samples,
                          raster->rgb + ((block->y + y) * raster->width + block->x + x) * 3);
}

/* Subsampled YCbCr: libtiff's own conversion, block->height rows at a time. */
static fvlm_status read_converted(TIFF *tiff, const fvlm_encoded *source, const fvlm_raster *raster, fvlm_error *error)
{
    enum { ROWS = 256 };
    TIFFRGBAImage picture;
    char message[1024] = "";
    if (!TIFFRGBAImageOK(tiff, message) || !TIFFRGBAImageBegin(&picture, tiff, 1, message))
        return damaged(source, message, error);
    fvlm_status status = FVLM_OK;
    uint32_t *rows = calloc(ROWS, raster->width * sizeof *rows); /* [ROWS, width] */
    if (!rows)
        status = fvlm_fail_memory(error);
    picture.orientation = picture.req_orientation = ORIENTATION_TOPLEFT;
    for (size_t y = 0; status == FVLM_OK && y < raster->height; y += ROWS) {
        size_t count = raster->height - y < ROWS ? raster->height - y : ROWS;
        picture.row_offset = (int)y;
        if (!TIFFRGBAImageGet(&picture, rows, (uint32_t)raster->width, (uint32_t)count)) {
            status = damaged(source, "its pixels", error);
            break;
        }
        for (size_t i = 0; i < count * raster->width; i++) {
            uint8_t *rgb = raster->rgb + (y * raster->width + i) * 3;
            rgb[0] = (uint8_t)TIFFGetR(rows[i]);
            rgb[1] = (uint8_t)TIFFGetG(rows[i]);
            rgb[2] = (uint8_t)TIFFGetB(rows[i]);
        }
    }
    free(rows);
    TIFFRGBAImageEnd(&picture);
    return status;
}

/* One strip or tile, all its planes. */
static fvlm_status read_block(TIFF *tiff, const fvlm_encoded *source, const tiff_layout *layout, tiff_block *block,
                              uint8_t *strip, const fvlm_raster *raster, fvlm_error *error)
{
    bool tiled = TIFFIsTiled(tiff) != 0, separate = layout->planar == PLANARCONFIG_SEPARATE;
    block->samples = separate ? 1 : layout->samples;
    for (uint16_t plane = 0; plane < (separate ? layout->samples : 1); plane++) {
        block->first_sample = plane;
        uint32_t index =
            tiled ? TIFFComputeTile(tiff, block->x, block->y, 0, plane) : TIFFComputeStrip(tiff, block->y, plane);
        tmsize_t wanted = (tmsize_t)(tiled ? block->size : block->height * block->stride);
        tmsize_t got = tiled ? TIFFReadEncodedTile(tiff, index, block->data, wanted)
                             : TIFFReadEncodedStrip(tiff, index, block->data, wanted);
        if (got < wanted)
            return damaged(source, "its pixels end early", error);
        take_samples(layout, block, strip);
    }
    put_pixels(layout, block, strip, raster);
    return FVLM_OK;
}

static fvlm_status read_blocks(TIFF *tiff, const fvlm_encoded *source, const tiff_layout *layout,
                               const fvlm_raster *raster, fvlm_error *error)
{
    bool tiled = TIFFIsTiled(tiff) != 0;
    uint32_t width = layout->width, height = layout->height;
    if (tiled) {
        if (!TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &width) || !TIFFGetField(tiff, TIFFTAG_TILELENGTH, &height) ||
            width == 0 || height == 0)
            return damaged(source, "no tile size", error);
    } else {
        TIFFGetFieldDefaulted(tiff, TIFFTAG_ROWSPERSTRIP, &height);
        if (height == 0 || height > layout->height)
            height = layout->height;
    }
    uint64_t size = tiled ? TIFFTileSize64(tiff) : TIFFVStripSize64(tiff, height);
    uint64_t stride = tiled ? TIFFTileRowSize64(tiff) : TIFFScanlineSize64(tiff);
    size_t covered_width = width < layout->width ? width : layout->width;
    size_t covered_height = height < layout->height ? height : layout->height, bytes;
    if (size > TIFF_MAX_UNPACKED_BYTES || stride == 0 || stride > size ||
        !fvlm_size_multiply(covered_width * covered_height, layout->samples, &bytes) || bytes > TIFF_MAX_UNPACKED_BYTES)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: a TIFF with strips or tiles of %llu bytes", source->name,
                         (unsigned long long)size);
    tiff_block block = {.size = (size_t)size, .stride = (size_t)stride};
    block.data = malloc(block.size);
    uint8_t *strip = malloc(bytes);
    fvlm_status status = block.data && strip ? FVLM_OK : fvlm_fail_memory(error);
    for (uint32_t y = 0; status == FVLM_OK && y < layout->height; y += height)
        for (uint32_t x = 0; status == FVLM_OK && x < layout->width; x += width) {
            block.x = x;
            block.y = y;
            block.width = layout->width - x < width ? layout->width - x : width;
            block.height = layout->height - y < height ? layout->height - y : height;
            status = read_block(tiff, source, layout, &block, strip, raster, error);
        }
    free(strip);
    free(block.data);
    return status;
}

static void find_orientation(TIFF *tiff, fvlm_raster *raster)
{
    uint16_t orientation = 0;
    uint32_t size = 0;
    void *xmp = NULL;
    if (TIFFGetField(tiff, TIFFTAG_ORIENTATION, &orientation))
        raster->orientation = orientation;
    else if (TIFFGetField(tiff, TIFFTAG_XMLPACKET, &size, &xmp))
        raster->orientation = fvlm_xmp_orientation(xmp, size);
}

static fvlm_status read_picture(TIFF *tiff, const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    tiff_layout layout = {0};
    fvlm_status status = read_layout(tiff, source, &layout, error);
    if (status == FVLM_OK)
        status = fvlm_raster_create(source, layout.width, layout.height, raster, error);
    if (status != FVLM_OK)
        return status;
    find_orientation(tiff, raster);
    if (layout.photometric == PHOTOMETRIC_YCBCR) {
        if (layout.compression != COMPRESSION_JPEG || layout.planar != PLANARCONFIG_CONTIG)
            return read_converted(tiff, source, raster, error);
        TIFFSetField(tiff, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    }
    return read_blocks(tiff, source, &layout, raster, error);
}

fvlm_status fvlm_tiff_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    TIFFOpenOptions *options = TIFFOpenOptionsAlloc();
    if (!options)
        return fvlm_fail_memory(error);
    TIFFOpenOptionsSetErrorHandlerExtR(options, on_message, NULL);
    TIFFOpenOptionsSetWarningHandlerExtR(options, on_message, NULL);
    TIFFOpenOptionsSetMaxSingleMemAlloc(options, (tmsize_t)TIFF_MAX_UNPACKED_BYTES);
    tiff_input input = {source, 0};
    TIFF *tiff =
        TIFFClientOpenExt("memory", "rm", &input, on_read, on_write, on_seek, on_close, on_size, NULL, NULL, options);
    TIFFOpenOptionsFree(options);
    if (!tiff)
        return damaged(source, "its header or first directory", error);
    fvlm_status status = read_picture(tiff, source, raster, error);
    TIFFClose(tiff);
    return status;
}
