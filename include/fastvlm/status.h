/* Status codes and errors of libfastvlm.
 *
 * What can fail returns fvlm_status (FVLM_OK is 0) and, where the caller passes an fvlm_error, fills it with the
 * code and one line that names the file or value and the remedy. The library never prints, exits or aborts on input.
 */
#ifndef FASTVLM_STATUS_H
#define FASTVLM_STATUS_H

#if defined(_WIN32) && defined(FVLM_SHARED)
#define FVLM_API __declspec(dllexport)
#elif defined(__GNUC__)
#define FVLM_API __attribute__((visibility("default")))
#else
#define FVLM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fvlm_status {
    FVLM_OK = 0,
    FVLM_ERROR_ARGUMENT,    /* the caller passed a value that makes no sense */
    FVLM_ERROR_IO,          /* the system refused to open, read or write */
    FVLM_ERROR_FORMAT,      /* the bytes are not what the format says */
    FVLM_ERROR_UNSUPPORTED, /* valid, but not something this build does */
    FVLM_ERROR_LIMIT,       /* larger than a documented limit (pixels, context, header) */
    FVLM_ERROR_MEMORY       /* out of memory */
} fvlm_status;

typedef struct fvlm_error {
    fvlm_status code;
    char message[512]; /* UTF-8, one line, no newline at the end */
} fvlm_error;

/* Free what the library handed out as plain memory (strings, token arrays). NULL is fine. */
FVLM_API void fvlm_free(void *memory);

#ifdef __cplusplus
}
#endif
#endif
