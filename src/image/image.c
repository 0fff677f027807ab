/* Pictures: encoded bytes -> RGB u8 [height, width, 3].
 *
 * The first bytes choose the codec, never a file name. The codec hands back a raster as it is stored plus the
 * orientation that EXIF, XMP or the container asks for; here it is turned, once, whatever the format was.
 */
#include "fastvlm/image.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "image/codec_config.h" /* made by meson */
#include "image/image_codec.h"

/* A fuzzer's time should go into parsers, not into filling pixels. */
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#define MAX_PIXELS (1u << 20)
#else
#define MAX_PIXELS FVLM_IMAGE_MAX_PIXELS
#endif

struct fvlm_image {
    size_t width, height;
    uint8_t *rgb; /* [height, width, 3] */
};

/* Formats whose library is optional at build time: recognised in any case, decoded where it was there. */
#ifdef FVLM_HAVE_GIF
#define GIF_DECODER fvlm_gif_decode
#else
#define GIF_DECODER NULL
#endif
#ifdef FVLM_HAVE_TIFF
#define TIFF_DECODER fvlm_tiff_decode
#else
#define TIFF_DECODER NULL
#endif
#ifdef FVLM_HAVE_AVIF
#define AVIF_DECODER fvlm_avif_decode
#else
#define AVIF_DECODER NULL
#endif
#ifdef FVLM_HAVE_HEIF
#define HEIF_DECODER fvlm_heif_decode
#else
#define HEIF_DECODER NULL
#endif

typedef struct image_format {
    const char *name;
    bool (*recognise)(const fvlm_encoded *source);
    fvlm_status (*decode)(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error); /* NULL: not built */
} image_format;

static bool has_bytes(const fvlm_encoded *source, size_t offset, const char *bytes, size_t count)
{
    return source->size >= offset + count && memcmp(source->data + offset, bytes, count) == 0;
}

static bool is_jpeg(const fvlm_encoded *source)
{
    return has_bytes(source, 0, "\xff\xd8\xff", 3);
}

static bool is_png(const fvlm_encoded *source)
{
    return has_bytes(source, 0, "\x89PNG\r\n\x1a\n", 8);
}

static bool is_webp(const fvlm_encoded *source)
{
    return has_bytes(source, 0, "RIFF", 4) && has_bytes(source, 8, "WEBP", 4);
}

static bool is_gif(const fvlm_encoded *source)
{
    return has_bytes(source, 0, "GIF87a", 6) || has_bytes(source, 0, "GIF89a", 6);
}

static bool is_bmp(const fvlm_encoded *source)
{
    return has_bytes(source, 0, "BM", 2);
}

static bool is_tiff(const fvlm_encoded *source)
{
    return has_bytes(source, 0, "II*\0", 4) || has_bytes(source, 0, "MM\0*", 4) || has_bytes(source, 0, "II+\0", 4) ||
           has_bytes(source, 0, "MM\0+", 4);
}

/* Whether the file type box at the start of an ISO media file names one of `brands` (four letters each). */
static bool has_brand(const fvlm_encoded *source, const char *brands)
{
    if (!has_bytes(source, 4, "ftyp", 4) || source->size < 16)
        return false;
    const uint8_t *box = source->data;
    size_t end = (size_t)box[0] << 24 | (size_t)box[1] << 16 | (size_t)box[2] << 8 | box[3];
    end = end < source->size ? end : source->size;
    for (size_t at = 8; at + 4 <= end; at += at == 8 ? 8 : 4) /* the major brand, its version, the compatible ones */
        for (const char *brand = brands; *brand; brand += 4)
            if (memcmp(box + at, brand, 4) == 0)
                return true;
    return false;
}

static bool is_avif(const fvlm_encoded *source)
{
    return has_brand(source, "avifavis");
}

static bool is_heif(const fvlm_encoded *source)
{
    return has_brand(source, "heicheixheimheishevchevxmif1msf1");
}

static const image_format formats[] = {
    {"JPEG", is_jpeg, fvlm_jpeg_decode}, {"PNG", is_png, fvlm_png_decode}, {"WebP", is_webp, fvlm_webp_decode},
    {"GIF", is_gif, GIF_DECODER},        {"BMP", is_bmp, fvlm_bmp_decode}, {"TIFF", is_tiff, TIFF_DECODER},
    {"AVIF", is_avif, AVIF_DECODER},     {"HEIC", is_heif, HEIF_DECODER},
};

fvlm_status fvlm_raster_check(const fvlm_encoded *source, uint64_t width, uint64_t height, fvlm_error *error)
{
    if (width == 0 || height == 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: the header says %llu x %llu pixels", source->name,
                         (unsigned long long)width, (unsigned long long)height);
    if (width > FVLM_IMAGE_MAX_SIDE || height > FVLM_IMAGE_MAX_SIDE || width * height > MAX_PIXELS)
        return fvlm_fail(error, FVLM_ERROR_LIMIT,
                         "%s: %llu x %llu pixels are more than the limit of %u a side and %u in all; scale it down",
                         source->name, (unsigned long long)width, (unsigned long long)height, FVLM_IMAGE_MAX_SIDE,
                         MAX_PIXELS);
    return FVLM_OK;
}

fvlm_status fvlm_raster_create(const fvlm_encoded *source, uint64_t width, uint64_t height, fvlm_raster *raster,
                               fvlm_error *error)
{
    fvlm_status status = fvlm_raster_check(source, width, height, error);
    if (status != FVLM_OK)
        return status;
    raster->rgb = calloc((size_t)(width * height), 3);
    if (!raster->rgb)
        return fvlm_fail_memory(error);
    raster->width = (size_t)width;
    raster->height = (size_t)height;
    return FVLM_OK;
}

/* Turn the raster upright: *rgb becomes [*height, *width, 3] in display order.
 *
 * Walking the result row by row reads the source from `origin` in steps of step_x and step_y pixels. Going by squares
 * keeps both sides in the cache when rows become columns. */
static fvlm_status turn_upright(fvlm_raster *raster, fvlm_error *error)
{
    ptrdiff_t width = (ptrdiff_t)raster->width, height = (ptrdiff_t)raster->height;
    ptrdiff_t last_x = width - 1, last_y = (height - 1) * width, last = last_y + last_x;
    const struct {
        ptrdiff_t origin, step_x, step_y;
    } walks[9] = {
        [1] = {0, 1, width}, [2] = {last_x, -1, width}, [3] = {last, -1, -width}, [4] = {last_y, 1, -width},
        [5] = {0, width, 1}, [6] = {last_y, -width, 1}, [7] = {last, -width, -1}, [8] = {last_x, width, -1},
    };
    if (raster->orientation < 2 || raster->orientation > 8)
        return FVLM_OK;
    const ptrdiff_t origin = walks[raster->orientation].origin, step_x = walks[raster->orientation].step_x,
                    step_y = walks[raster->orientation].step_y;
    bool swapped = raster->orientation >= 5;
    ptrdiff_t new_width = swapped ? height : width, new_height = swapped ? width : height;
    uint8_t *turned = malloc(raster->width * raster->height * 3);
    if (!turned)
        return fvlm_fail_memory(error);
    enum { SQUARE = 64 };
    for (ptrdiff_t y0 = 0; y0 < new_height; y0 += SQUARE)
        for (ptrdiff_t x0 = 0; x0 < new_width; x0 += SQUARE) {
            ptrdiff_t y1 = y0 + SQUARE < new_height ? y0 + SQUARE : new_height;
            ptrdiff_t x1 = x0 + SQUARE < new_width ? x0 + SQUARE : new_width;
            for (ptrdiff_t y = y0; y < y1; y++) {
                const uint8_t *from = raster->rgb + (origin + y * step_y + x0 * step_x) * 3;
                uint8_t *to = turned + (y * new_width + x0) * 3;
                for (ptrdiff_t x = x0; x < x1; x++, to += 3, from += step_x * 3)
                    memcpy(to, from, 3);
            }
        }
    free(raster->rgb);
    raster->rgb = turned;
    raster->width = (size_t)new_width;
    raster->height = (size_t)new_height;
    return FVLM_OK;
}

/* Takes over raster->rgb. */
static fvlm_status make_image(fvlm_raster *raster, fvlm_image **image, fvlm_error *error)
{
    fvlm_image *made = malloc(sizeof *made);
    if (!made) {
        free(raster->rgb);
        return fvlm_fail_memory(error);
    }
    made->width = raster->width;
    made->height = raster->height;
    made->rgb = raster->rgb;
    *image = made;
    return FVLM_OK;
}

fvlm_status fvlm_image_decode(const void *data, size_t bytes, const char *name, fvlm_image **image, fvlm_error *error)
{
    *image = NULL;
    fvlm_encoded source = {data, bytes, name ? name : "image"};
    if (bytes == 0)
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s: empty, not a picture", source.name);
    if (bytes > FVLM_IMAGE_MAX_BYTES)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: larger than the limit of %u MiB", source.name,
                         FVLM_IMAGE_MAX_BYTES >> 20);
    const image_format *found = NULL;
    for (size_t i = 0; i < sizeof formats / sizeof formats[0] && !found; i++)
        if (formats[i].recognise(&source))
            found = &formats[i];
    if (!found)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: not a picture in a known format", source.name);
    if (!found->decode)
        return fvlm_fail(error, FVLM_ERROR_UNSUPPORTED, "%s: this build was made without %s", source.name, found->name);

    fvlm_raster raster = {0};
    fvlm_status status = found->decode(&source, &raster, error);
    if (status == FVLM_OK)
        status = turn_upright(&raster, error);
    if (status != FVLM_OK) {
        free(raster.rgb);
        return status;
    }
    return make_image(&raster, image, error);
}

fvlm_status fvlm_image_open(const char *path, fvlm_image **image, fvlm_error *error)
{
    *image = NULL;
    char *data;
    size_t size;
    fvlm_status status = fvlm_file_read(path, FVLM_IMAGE_MAX_BYTES, &data, &size, error);
    if (status != FVLM_OK)
        return status;
    status = fvlm_image_decode(data, size, strcmp(path, "-") == 0 ? "standard input" : path, image, error);
    free(data);
    return status;
}

fvlm_status fvlm_image_from_rgb(const uint8_t *rgb, size_t width, size_t height, fvlm_image **image, fvlm_error *error)
{
    *image = NULL;
    fvlm_encoded source = {NULL, 0, "raw pixels"};
    fvlm_raster raster = {0};
    fvlm_status status = fvlm_raster_create(&source, width, height, &raster, error);
    if (status != FVLM_OK)
        return status;
    memcpy(raster.rgb, rgb, width * height * 3);
    return make_image(&raster, image, error);
}

size_t fvlm_image_width(const fvlm_image *image)
{
    return image->width;
}

size_t fvlm_image_height(const fvlm_image *image)
{
    return image->height;
}

const uint8_t *fvlm_image_rgb(const fvlm_image *image)
{
    return image->rgb;
}

void fvlm_image_free(fvlm_image **image)
{
    if (!*image)
        return;
    free((*image)->rgb);
    free(*image);
    *image = NULL;
}
