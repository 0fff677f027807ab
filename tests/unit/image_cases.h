/* The cases of tests/data/images/cases.txt (tools/make_image_cases.py says what a line means), shared by the image
 * tests. */
#ifndef FVLM_TEST_IMAGE_CASES_H
#define FVLM_TEST_IMAGE_CASES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "fastvlm/image.h"

#define CASE_FOLDER TEST_DATA "/images/"

/* FNV-1a. */
static inline uint64_t hash_bytes(const uint8_t *data, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ data[i]) * 0x100000001b3u;
    return hash;
}

/* Call `check` with what follows `kind` on each of its lines; how many there were. */
static inline int for_each_case(const char *kind, void (*check)(const char *arguments))
{
    char *text, *rest;
    size_t size;
    fvlm_error error;
    if (fvlm_file_read(CASE_FOLDER "cases.txt", 1 << 20, &text, &size, &error)) {
        printf("%s\n", error.message);
        exit(1);
    }
    int count = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        if (strncmp(line, kind, strlen(kind)) == 0 && line[strlen(kind)] == ' ') {
            check(line + strlen(kind) + 1);
            count++;
        }
    free(text);
    return count;
}

/* NULL, after saying so, when the build has no decoder for this format; any other failure ends the test. */
static inline fvlm_image *open_case(const char *name)
{
    char path[512];
    fvlm_error error;
    fvlm_image *image;
    snprintf(path, sizeof path, CASE_FOLDER "%s", name);
    if (fvlm_image_open(path, &image, &error) == FVLM_OK)
        return image;
    printf("%s\n", error.message);
    if (error.code != FVLM_ERROR_UNSUPPORTED || !strstr(error.message, "made without"))
        exit(1);
    return NULL;
}

#endif
