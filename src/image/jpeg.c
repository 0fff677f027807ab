/* JPEG by libjpeg-turbo: baseline, progressive, grey, RGB, YCbCr, CMYK and YCCK.
 *
 * The published code decodes with the same library at its defaults (accurate integer DCT, smooth chroma upsampling),
 * so the rows must not be scaled by the DCT or decoded by a faster method. Four-component files hold inverted ink, as
 * Adobe writes them, whether or not they carry Adobe's marker.
 */
#include "image/image_codec.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

/* A progressive file repeats its picture in scans, each a few bytes if it likes: bound their number, and their number
 * times the pixels, so that a small file cannot keep a processor busy for minutes. */
#define JPEG_MAX_SCANS 500
#define JPEG_MAX_SCANNED_PIXELS ((uint64_t)1 << 32)

typedef struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr handler;
    struct jpeg_source_mgr input;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    const fvlm_encoded *source;
    fvlm_raster *raster;
    fvlm_error *error;
    fvlm_status status;
    uint8_t *inks; /* [width, 4]: one row of a four-component picture */
} reader;

static void leave(reader *self, fvlm_status status)
{
    self->status = status;
    longjmp(self->escape, 1);
}

static void on_error(j_common_ptr common)
{
    reader *self = common->client_data;
    char message[JMSG_LENGTH_MAX];
    common->err->format_message(common, message);
    leave(self, fvlm_fail(self->error, FVLM_ERROR_FORMAT, "%s: damaged JPEG: %s", self->source->name, message));
}

static void on_message(j_common_ptr common, int level)
{
    (void)common;
    (void)level; /* warnings: decode on, as the published code does */
}

static void on_input_start(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

static boolean on_input_end(j_decompress_ptr jpeg)
{
    reader *self = jpeg->client_data;
    leave(self, fvlm_fail(self->error, FVLM_ERROR_FORMAT, "%s: truncated JPEG, the file ends after %zu bytes",
                          self->source->name, self->source->size));
    return FALSE;
}

static void on_input_skip(j_decompress_ptr jpeg, long bytes)
{
    if (bytes <= 0)
        return;
    if ((size_t)bytes > jpeg->src->bytes_in_buffer)
        on_input_end(jpeg);
    jpeg->src->next_input_byte += bytes;
    jpeg->src->bytes_in_buffer -= (size_t)bytes;
}

static void on_progress(j_common_ptr common)
{
    reader *self = common->client_data;
    uint64_t pixels = (uint64_t)self->jpeg.image_width * self->jpeg.image_height;
    uint64_t scans = (uint64_t)self->jpeg.input_scan_number;
    if (scans > JPEG_MAX_SCANS || scans * pixels > JPEG_MAX_SCANNED_PIXELS)
        leave(self, fvlm_fail(self->error, FVLM_ERROR_LIMIT, "%s: a JPEG of too many scans for its size (%llu)",
                              self->source->name, (unsigned long long)scans));
}

static void find_orientation(reader *self)
{
    static const char xmp_prefix[] = "http://ns.adobe.com/xap/1.0/"; /* with its zero */
    int from_xmp = 0;
    for (jpeg_saved_marker_ptr marker = self->jpeg.marker_list; marker; marker = marker->next) {
        if (marker->data_length >= 6 && memcmp(marker->data, "Exif\0", 6) == 0) {
            if (!self->raster->orientation)
                self->raster->orientation = fvlm_exif_orientation(marker->data, marker->data_length);
        } else if (marker->data_length > sizeof xmp_prefix &&
                   memcmp(marker->data, xmp_prefix, sizeof xmp_prefix) == 0) {
            from_xmp = fvlm_xmp_orientation(marker->data, marker->data_length);
        }
    }
    if (!self->raster->orientation)
        self->raster->orientation = from_xmp;
}

static void read_rows(reader *self)
{
    struct jpeg_decompress_struct *jpeg = &self->jpeg;
    size_t width = self->raster->width;
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *row = self->raster->rgb + jpeg->output_scanline * width * 3;
        JSAMPROW target = self->inks ? self->inks : row;
        jpeg_read_scanlines(jpeg, &target, 1);
        if (self->inks)
            for (size_t x = 0; x < width; x++)
                for (size_t c = 0; c < 3; c++)
                    row[3 * x + c] = fvlm_cmyk_channel(255 - self->inks[4 * x + c], 255 - self->inks[4 * x + 3]);
    }
}

/* Everything that libjpeg may leave by longjmp; what must be freed is in *self. */
static fvlm_status read_picture(reader *self)
{
    struct jpeg_decompress_struct *jpeg = &self->jpeg;
    if (setjmp(self->escape))
        return self->status;

    jpeg_create_decompress(jpeg);
    jpeg->src = &self->input;
    jpeg->progress = &self->progress;
    jpeg_save_markers(jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(jpeg, TRUE);
    fvlm_status status =
        fvlm_raster_create(self->source, jpeg->image_width, jpeg->image_height, self->raster, self->error);
    if (status != FVLM_OK)
        return status;

    switch (jpeg->num_components) {
    case 1:
    case 3:
        jpeg->out_color_space = JCS_RGB;
        break;
    case 4:
        jpeg->out_color_space = JCS_CMYK;
        self->inks = malloc(self->raster->width * 4);
        if (!self->inks)
            return fvlm_fail_memory(self->error);
        break;
    default:
        return fvlm_fail(self->error, FVLM_ERROR_UNSUPPORTED, "%s: a JPEG of %d colour components", self->source->name,
                         jpeg->num_components);
    }
    find_orientation(self); /* finishing frees the markers */
    jpeg_start_decompress(jpeg);
    read_rows(self);
    jpeg_finish_decompress(jpeg);
    return FVLM_OK;
}

fvlm_status fvlm_jpeg_decode(const fvlm_encoded *source, fvlm_raster *raster, fvlm_error *error)
{
    reader self = {.source = source, .raster = raster, .error = error};
    self.jpeg.client_data = &self;
    self.jpeg.err = jpeg_std_error(&self.handler);
    self.handler.error_exit = on_error;
    self.handler.emit_message = on_message;
    self.progress.progress_monitor = on_progress;
    self.input = (struct jpeg_source_mgr){.next_input_byte = source->data,
                                          .bytes_in_buffer = source->size,
                                          .init_source = on_input_start,
                                          .fill_input_buffer = on_input_end,
                                          .skip_input_data = on_input_skip,
                                          .resync_to_restart = jpeg_resync_to_restart,
                                          .term_source = on_input_start};
    fvlm_status status = read_picture(&self);
    jpeg_destroy_decompress(&self.jpeg);
    free(self.inks);
    return status;
}
