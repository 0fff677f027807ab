/* PNG by libpng: every colour type and depth, interlaced or not.
 *
 * Alpha and tRNS are dropped, not composed; gamma and profiles are ignored; colours of 16 bits keep their high byte.
 * The orientation is in the eXIf chunk, in the text chunk that older tools write instead, or in XMP.
 */
#include "image/image_codec.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "fastvlm/image.h"

#define PNG_MAX_CHUNK_BYTES (8u << 20) /* of an unpacked text or profile chunk: a small file can declare gigabytes */
#define PNG_MAX_CHUNKS 1000            /* text chunks that are kept */
#define PNG_MAX_MEMORY (64u << 20)     /* for libpng before the pixels, freed or not; again from there on */

typedef struct reader {
    png_structp png;
    png_infop info;
    const fvlm_encoded *source;
    size_t position;
    size_t memory; /* that libpng may still allocate */
    fvlm_raster *raster;
    fvlm_error *error;
    fvlm_status status;
} reader;

static void on_error(png_structp png, png_const_charp message)
{
    reader *self = png_get_error_ptr(png);
    if (self->status == FVLM_OK)
        self->status = fvlm_fail(self->error, FVLM_ERROR_FORMAT, "%s: damaged PNG: %s", self->source->name, message);
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void on_read(png_structp png, png_bytep target, size_t bytes)
{
    reader *self = png_get_io_ptr(png);
    if (bytes > self->source->size - self->position) {
        self->status = fvlm_fail(self->error, FVLM_ERROR_FORMAT, "%s: truncated PNG, the file ends after %zu bytes",
                                 self->source->name, self->source->size);
        png_error(png, "truncated");
    }
    memcpy(target, self->source->data + self->position, bytes);
    self->position += bytes;
}

/* libpng only warns of a chunk that is longer than it may be, and allocates what the length says before it reads. */
static png_voidp on_malloc(png_structp png, png_alloc_size_t bytes)
{
    reader *self = png_get_mem_ptr(png);
    if (bytes > self->memory)
        return NULL;
    self->memory -= bytes;
    return malloc(bytes);
}

static void on_free(png_structp png, png_voidp memory)
{
    (void)png;
    free(memory);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* ImageMagick's "Raw profile type exif": a newline, a name, a byte count, then the bytes in hexadecimal. */
static int raw_profile_orientation(const char *text, size_t length)
{
    size_t start = 0;
    for (int line = 0; line < 3; line++) {
        while (start < length && text[start] != '\n')
            start++;
        if (start < length)
            start++;
    }
    uint8_t *exif = malloc((length - start) / 2 + 1);
    if (!exif)
        return 0;
    size_t digits = 0;
    for (size_t i = start; i < length; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0)
            continue;
        if (digits % 2 == 0)
            exif[digits / 2] = (uint8_t)(digit << 4);
        else
            exif[digits / 2] |= (uint8_t)digit;
        digits++;
    }
    int orientation = fvlm_exif_orientation(exif, digits / 2);
    free(exif);
    return orientation;
}

static void find_orientation(reader *self)
{
    png_bytep exif = NULL;
    png_uint_32 size = 0;
    png_textp texts = NULL;
    int count = 0, from_profile = 0, from_xmp = 0;
    if (png_get_eXIf_1(self->png, self->info, &size, &exif))
        self->raster->orientation = fvlm_exif_orientation(exif, size);
    png_get_text(self->png, self->info, &texts, &count);
    for (int i = 0; i < count; i++) {
        size_t length = texts[i].compression >= PNG_ITXT_COMPRESSION_NONE ? texts[i].itxt_length : texts[i].text_length;
        if (strcmp(texts[i].key, "Raw profile type exif") == 0)
            from_profile = raw_profile_orientation(texts[i].text, length);
        else if (strcmp(texts[i].key, "XML:com.adobe.xmp") == 0)
            from_xmp = fvlm_xmp_orientation((const uint8_t *)texts[i].text, length);
    }
    if (!self->raster->orientation && !exif)
        self->raster->orientation = from_profile;
    if (!self->raster->orientation)
        self->raster->orientation = from_xmp;
}

/* Everything that libpng may leave by longjmp; what must be freed is in *self. */
static fvlm_status read_picture(reader *self)
{
    if (setjmp(png_jmpbuf(self->png)))
        return self->status;
    png_set_read_fn(self->png, self, on_read);
    png_set_user_limits(self->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* fvlm_raster_create has the limits */
    png_set_chunk_cache_max(self->png, PNG_MAX_CHUNKS);
    png_set_chunk_malloc_max(self->png, PNG_MAX_CHUNK_BYTES);
    png_set_crc_action(self->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_keep_unknown_chunks(self->png, PNG_HANDLE_CHUNK_NEVER, (png_const_bytep) "iCCP", 1);
    png_read_info(self->png, self->info);

    png_uint_32 width = png_get_image_width(self->png, self->info);
    png_uint_32 height = png_get_image_height(self->png, self->info);
    int type = png_get_color_type(self->png, self->info);
    fvlm_status status = fvlm_raster_create(self->source, width, height, self->raster, self->error);
    if (status != FVLM_OK)
        return status;

    self->memory = PNG_MAX_MEMORY;
    png_set_palette_to_rgb(self->png);
    if (type == PNG_COLOR_TYPE_GRAY)
        png_set_expand_gray_1_2_4_to_8(self->png);
    png_set_strip_16(self->png);
    png_set_gray_to_rgb(self->png);
    png_set_strip_alpha(self->png);
    int passes = png_set_interlace_handling(self->png);
    png_read_update_info(self->png, self->info);
    if (png_get_rowbytes(self->png, self->info) != (size_t)width * 3)
        png_error(self->png, "unexpected row size");
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < height; y++)
            png_read_row(self->png, self->raster->rgb + (size_t)y * width * 3, NULL);
    png_read_end(self->png, self->info);
    find_orientation(self);
    return FVLM_OK;
}

fvlm_status fvlm_png_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    reader self = {.source = source, .memory = PNG_MAX_MEMORY, .raster = raster, .error = error};
    self.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &self, on_error, on_warning, &self, on_malloc, on_free);
    self.info = self.png ? png_create_info_struct(self.png) : NULL;
    fvlm_status status = self.info ? read_picture(&self) : fvlm_fail_memory(error);
    png_destroy_read_struct(&self.png, &self.info, NULL);
    return status;
}
