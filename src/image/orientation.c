/* Which way up a picture is: EXIF (libexif) and, where a file has none, the XMP property that photo editors write. */
#include "image/image_codec.h"

#include <stdlib.h>
#include <string.h>

#include <libexif/exif-data.h>

#define EXIF_PREFIX "Exif\0"
#define EXIF_PREFIX_SIZE 6u   /* with its terminating zero */
#define EXIF_MAX_BYTES 65536u /* a JPEG segment can hold no more; the first directory comes first */

/* The standard says SHORT; the published code takes a number of any width but a plain BYTE. */
static int whole_number(const ExifEntry *entry, ExifByteOrder order)
{
    bool two_bytes = entry->format == EXIF_FORMAT_SHORT || entry->format == EXIF_FORMAT_SSHORT;
    bool four_bytes = entry->format == EXIF_FORMAT_LONG || entry->format == EXIF_FORMAT_SLONG;
    if (two_bytes && entry->size >= 2)
        return exif_get_short(entry->data, order);
    if (four_bytes && entry->size >= 4)
        return (int)(exif_get_long(entry->data, order) & 0xffff);
    if (entry->format == EXIF_FORMAT_SBYTE && entry->size >= 1)
        return entry->data[0];
    return 0;
}

int fvlm_exif_orientation(const uint8_t *exif, size_t size)
{
    int orientation = 0;
    bool has_prefix = size >= EXIF_PREFIX_SIZE && memcmp(exif, EXIF_PREFIX, EXIF_PREFIX_SIZE) == 0;
    size_t prefix = has_prefix ? 0 : EXIF_PREFIX_SIZE;
    if (size > EXIF_MAX_BYTES)
        size = EXIF_MAX_BYTES;

    /* libexif wants the prefix, which PNG, WebP and HEIF leave out. */
    unsigned char *block = malloc(size + prefix);
    ExifData *data = exif_data_new();
    if (!block || !data)
        goto done;
    memcpy(block, EXIF_PREFIX, prefix);
    memcpy(block + prefix, exif, size);
    exif_data_unset_option(data, EXIF_DATA_OPTION_FOLLOW_SPECIFICATION);
    exif_data_load_data(data, block, (unsigned)(size + prefix));
    ExifEntry *entry = exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
    if (entry && entry->components >= 1)
        orientation = whole_number(entry, exif_data_get_byte_order(data));
done:
    if (data)
        exif_data_unref(data);
    free(block);
    return orientation;
}

int fvlm_xmp_orientation(const uint8_t *xmp, size_t size)
{
    static const char property[] = "tiff:Orientation";
    const size_t length = sizeof property - 1;
    for (size_t i = 0; i + length + 3 <= size; i++) {
        if (memcmp(xmp + i, property, length) != 0)
            continue;
        const uint8_t *value = xmp + i + length; /* either ="6" or >6< */
        if (value[0] == '>' && value[1] >= '0' && value[1] <= '9')
            return value[1] - '0';
        if (value[0] == '=' && value[1] == '"' && value[2] >= '0' && value[2] <= '9')
            return value[2] - '0';
    }
    return 0;
}
