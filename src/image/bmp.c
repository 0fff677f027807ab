/* BMP, decoded here: no library in Debian reads it well, and the format is small.
 *
 * Headers of 12 (OS/2), 40, 52, 56, 64, 108 and 124 bytes; 1, 4 and 8 bits with a palette, 16, 24 and 32 bits with
 * fixed or free colour masks; RLE4 and RLE8; rows bottom-up or top-down. Where old files are ambiguous (pixels that a
 * run leaves out are index 0, an end of line at the start of a line does nothing, runs beyond a row) the published
 * code's reading is followed.
 *
 *     14 bytes file header | info header | masks | palette of b, g, r(, 0) | rows padded to 4 bytes, or runs
 */
#include "image/image_codec.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define FILE_HEADER_BYTES 14u

enum { BMP_RAW = 0, BMP_RLE8 = 1, BMP_RLE4 = 2, BMP_BITFIELDS = 3 };

typedef struct bitmap {
    const fvlm_encoded *source;
    uint32_t header_size, width, height, bits, compression, colour_count, entry_bytes, pixel_offset;
    bool top_down;
    uint32_t masks[3];       /* red, green, blue */
    size_t after_header;     /* where the header and its masks end */
    uint8_t palette[256][3]; /* red, green, blue; what the file does not define is black */
} bitmap;

static uint32_t read16(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8;
}

static uint32_t read32(const uint8_t *bytes)
{
    return read16(bytes) | read16(bytes + 2) << 16;
}

static fvlm_status truncated(const fvlm_encoded *source, fvlm_error *error)
{
    return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: truncated BMP, the file ends after %zu bytes", source->name,
                     source->size);
}

static fvlm_status unsupported(const fvlm_encoded *source, const char *what, uint32_t value, fvlm_error *error)
{
    return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: a BMP with %s %u", source->name, what, value);
}

static fvlm_status read_masks(bitmap *self, fvlm_error *error)
{
    static const uint32_t masks_555[3] = {0x7c00, 0x3e0, 0x1f}, masks_888[3] = {0xff0000, 0xff00, 0xff};
    memcpy(self->masks, self->bits == 16 ? masks_555 : masks_888, sizeof self->masks);
    if (self->compression != BMP_BITFIELDS)
        return FVLM_OK;
    if (self->bits != 16 && self->bits != 24 && self->bits != 32)
        return unsupported(self->source, "colour masks and a depth of", self->bits, error);
    if (self->header_size == 40 || self->header_size == 64)
        self->after_header += 12; /* the masks follow the header instead of being part of it */
    size_t place = self->header_size == 64 ? FILE_HEADER_BYTES + 64 : FILE_HEADER_BYTES + 40;
    if (!fvlm_range_fits(place, 12, self->source->size))
        return truncated(self->source, error);
    uint32_t all = 0;
    for (size_t c = 0; c < 3; c++)
        all |= self->masks[c] = read32(self->source->data + place + 4 * c);
    if (all == 0)
        memcpy(self->masks, masks_888, sizeof self->masks);
    return FVLM_OK;
}

static fvlm_status read_header(bitmap *self, fvlm_error *error)
{
    const fvlm_encoded *source = self->source;
    if (source->size < FILE_HEADER_BYTES + 12)
        return truncated(source, error);
    const uint8_t *header = source->data + FILE_HEADER_BYTES;
    self->pixel_offset = read32(source->data + 10);
    self->header_size = read32(header);
    if (!fvlm_range_fits(FILE_HEADER_BYTES, self->header_size, source->size))
        return truncated(source, error);
    self->after_header = FILE_HEADER_BYTES + self->header_size;
    switch (self->header_size) {
    case 12:
        self->width = read16(header + 4);
        self->height = read16(header + 6);
        self->bits = read16(header + 10);
        self->entry_bytes = 3;
        break;
    case 40:
    case 52:
    case 56:
    case 64:
    case 108:
    case 124:
        self->width = read32(header + 4);
        self->height = read32(header + 8);
        self->bits = read16(header + 14);
        self->compression = read32(header + 16);
        self->colour_count = read32(header + 32);
        self->entry_bytes = 4;
        if (self->height > INT32_MAX) {
            self->top_down = true;
            self->height = 0 - self->height;
        }
        break;
    default:
        return unsupported(source, "a header of size", self->header_size, error);
    }
    if (self->bits != 1 && self->bits != 4 && self->bits != 8 && self->bits != 16 && self->bits != 24 &&
        self->bits != 32)
        return unsupported(source, "a depth of", self->bits, error);
    if (self->compression > BMP_BITFIELDS || (self->compression == BMP_RLE8 && self->bits != 8) ||
        (self->compression == BMP_RLE4 && self->bits != 4))
        return unsupported(source, "compression", self->compression, error);
    if (self->colour_count == 0 && self->bits <= 8)
        self->colour_count = 1u << self->bits;
    return read_masks(self, error);
}

static fvlm_status read_palette(bitmap *self, fvlm_error *error)
{
    if (self->bits > 8)
        return FVLM_OK;
    if (self->colour_count > 65536)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: a BMP palette of %u colours", self->source->name,
                         self->colour_count);
    size_t count = self->colour_count < 256 ? self->colour_count : 256;
    if (!fvlm_range_fits(self->after_header, (uint64_t)count * self->entry_bytes, self->source->size))
        return truncated(self->source, error);
    const uint8_t *entry = self->source->data + self->after_header;
    for (size_t i = 0; i < count; i++, entry += self->entry_bytes)
        for (size_t c = 0; c < 3; c++)
            self->palette[i][c] = entry[2 - c];
    return FVLM_OK;
}

/* Where the pixels begin. A header that points right behind itself forgot the palette. */
static size_t pixel_start(const bitmap *self)
{
    size_t start = self->pixel_offset;
    size_t palette = self->bits <= 8 ? (size_t)self->entry_bytes * self->colour_count : 0;
    if (start == 0)
        return self->after_header + palette;
    return start == FILE_HEADER_BYTES + self->header_size ? start + palette : start;
}

/* The value under `mask`, stretched to 0..255. */
static uint8_t masked(uint32_t pixel, uint32_t mask)
{
    if (mask == 0)
        return 0;
    uint32_t lowest = mask & (0 - mask), highest = mask / lowest;
    return (uint8_t)((uint64_t)((pixel & mask) / lowest) * 255 / highest);
}

static void convert_row(const bitmap *self, const uint8_t *row, uint8_t *rgb)
{
    for (size_t x = 0; x < self->width; x++, rgb += 3) {
        if (self->bits <= 8) {
            size_t per_byte = 8 / self->bits, shift = 8 - self->bits * (x % per_byte + 1);
            memcpy(rgb, self->palette[row[x / per_byte] >> shift & ((1u << self->bits) - 1)], 3);
            continue;
        }
        const uint8_t *bytes = row + x * (self->bits / 8);
        uint32_t pixel = read16(bytes);
        for (uint32_t byte = 2; byte < self->bits / 8; byte++)
            pixel |= (uint32_t)bytes[byte] << 8 * byte;
        for (size_t c = 0; c < 3; c++)
            rgb[c] = masked(pixel, self->masks[c]);
    }
}

static uint8_t *target_row(const bitmap *self, const fvlm_raster *raster, size_t y)
{
    return raster->rgb + (self->top_down ? y : self->height - 1 - y) * self->width * 3;
}

static fvlm_status read_rows(const bitmap *self, const fvlm_raster *raster, fvlm_error *error)
{
    size_t start = pixel_start(self), stride = ((size_t)self->width * self->bits + 31) / 32 * 4;
    /* The padding of the last row may be missing. */
    size_t needed = stride * (self->height - 1) + ((size_t)self->width * self->bits + 7) / 8;
    if (!fvlm_range_fits(start, needed, self->source->size))
        return truncated(self->source, error);
    for (size_t y = 0; y < self->height; y++)
        convert_row(self, self->source->data + start + y * stride, target_row(self, raster, y));
    return FVLM_OK;
}

/* indices [height * width], zeroed, in the order of the file. */
static fvlm_status unpack_runs(const bitmap *self, uint8_t *indices, fvlm_error *error)
{
    const uint8_t *data = self->source->data;
    size_t start = pixel_start(self), at = start, size = self->source->size;
    size_t total = (size_t)self->width * self->height, filled = 0, x = 0;
    bool nibbles = self->compression == BMP_RLE4;
    while (filled < total) {
        if (!fvlm_range_fits(at, 2, size))
            return truncated(self->source, error);
        size_t count = data[at], value = data[at + 1];
        at += 2;
        if (count > 0) { /* a run of one index, or of two by turns */
            count = x + count > self->width ? (x < self->width ? self->width - x : 0) : count;
            count = count < total - filled ? count : total - filled;
            for (size_t i = 0; i < count; i++)
                indices[filled + i] = (uint8_t)(!nibbles ? value : i % 2 == 0 ? value >> 4 : value & 15);
            filled += count;
            x += count;
        } else if (value == 0) { /* end of line */
            filled = (filled + self->width - 1) / self->width * self->width;
            x = 0;
        } else if (value == 1) { /* end of picture */
            break;
        } else if (value == 2) { /* go right and on by lines */
            if (!fvlm_range_fits(at, 2, size))
                return truncated(self->source, error);
            size_t skipped = data[at] + (size_t)data[at + 1] * self->width;
            at += 2;
            filled += skipped < total - filled ? skipped : total - filled;
            x = filled % self->width;
        } else { /* `value` indices as they are, padded to 2 bytes */
            count = value < total - filled ? value : total - filled;
            size_t bytes = nibbles ? (count + 1) / 2 : count;
            if (!fvlm_range_fits(at, bytes, size))
                return truncated(self->source, error);
            for (size_t i = 0; i < count; i++)
                indices[filled + i] = !nibbles     ? data[at + i]
                                      : i % 2 == 0 ? data[at + i / 2] >> 4
                                                   : data[at + i / 2] & 15;
            filled += count;
            x += value;
            at += bytes;
            at += (at - start) % 2;
        }
    }
    return FVLM_OK;
}

static fvlm_status read_runs(const bitmap *self, const fvlm_raster *raster, fvlm_error *error)
{
    uint8_t *indices = calloc(self->height, self->width); /* [height, width] */
    if (!indices)
        return fvlm_fail_memory(error);
    fvlm_status status = unpack_runs(self, indices, error);
    for (size_t y = 0; status == FVLM_OK && y < self->height; y++) {
        uint8_t *row = target_row(self, raster, y);
        for (size_t x = 0; x < self->width; x++)
            memcpy(row + 3 * x, self->palette[indices[y * self->width + x]], 3);
    }
    free(indices);
    return status;
}

fvlm_status fvlm_bmp_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    bitmap self = {.source = source};
    fvlm_status status = read_header(&self, error);
    if (status == FVLM_OK)
        status = fvlm_raster_create(source, self.width, self.height, raster, error);
    if (status == FVLM_OK)
        status = read_palette(&self, error);
    if (status != FVLM_OK)
        return status;
    bool runs = self.compression == BMP_RLE8 || self.compression == BMP_RLE4;
    return runs ? read_runs(&self, raster, error) : read_rows(&self, raster, error);
}
