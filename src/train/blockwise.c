/* Codes by table: decoding by the code, encoding by a number's upper 16 bits, whose 8 binary digits are more than a
 * code has. */
#include "train/blockwise.h"

#include <math.h>
#include <string.h>

#define UPPER_ONE 0x3f80 /* the upper bits of 1.0f */
#define SIGN 0x80

static float values[2][256];              /* [is_signed][code]; of magnitudes only the first half where signed */
static uint8_t nearest[2][UPPER_ONE + 1]; /* of a number in [0, 1] by its upper bits */

/* Magnitudes with `bits` bits, in rising order: 0, then for each count of leading zeros 2^rest steps in (0.1, 1]. */
static void make_values(int bits, float *to)
{
    size_t count = 0;
    to[count++] = 0;
    for (int zeros = bits - 1; zeros >= 0; zeros--) {
        int steps = 1 << (bits - 1 - zeros);
        for (int k = 1; k <= steps; k++)
            to[count++] = (float)(pow(10, -zeros) * (0.1 + 0.9 * k / steps));
    }
}

void fvlm_block_prepare(void)
{
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        int bits = is_signed ? 7 : 8, last = (1 << bits) - 1, code = 0;
        float *own = values[is_signed];
        make_values(bits, own);
        for (uint32_t upper = 0; upper <= UPPER_ONE; upper++) {
            uint32_t middle = upper << 16 | (upper < UPPER_ONE ? 0x8000u : 0);
            float x;
            memcpy(&x, &middle, sizeof x);
            while (code < last && own[code + 1] - x <= x - own[code])
                code++;
            nearest[is_signed][upper] = (uint8_t)(code == 0 && !is_signed && upper > 0 ? 1 : code);
        }
        for (int i = 0; is_signed && i <= last; i++)
            own[i | SIGN] = -own[i];
    }
}

void fvlm_block_decode(bool is_signed, const uint8_t *codes, float scale, size_t count, float *x)
{
    const float *own = values[is_signed];
    for (size_t i = 0; i < count; i++)
        x[i] = own[codes[i]] * scale;
}

float fvlm_block_encode(bool is_signed, const float *x, size_t count, uint8_t *codes)
{
    float most = 0;
    for (size_t i = 0; i < count; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    float factor = most > 0 ? 1 / most : 0;
    if (!isfinite(factor)) { /* all but nothing */
        memset(codes, 0, count);
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        float magnitude = fminf(fabsf(x[i]) * factor, 1);
        uint32_t pattern;
        memcpy(&pattern, &magnitude, sizeof pattern);
        codes[i] = nearest[is_signed][pattern >> 16];
        if (is_signed && x[i] < 0)
            codes[i] |= SIGN;
        else if (!is_signed && codes[i] == 0 && x[i] > 0)
            codes[i] = 1;
    }
    return most;
}
