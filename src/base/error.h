/* Filling fvlm_error: every failing function returns through here. */
#ifndef FVLM_BASE_ERROR_H
#define FVLM_BASE_ERROR_H

#include "fastvlm/status.h"

#if defined(__MINGW32__) /* whose printf is the C standard's only where asked: see meson.build */
#define FVLM_PRINTF(string_index, first) __attribute__((format(gnu_printf, string_index, first)))
#elif defined(__GNUC__)
#define FVLM_PRINTF(string_index, first) __attribute__((format(printf, string_index, first)))
#else
#define FVLM_PRINTF(string_index, first)
#endif

/* Write code and message into *error (may be NULL); control characters from hostile names become '?'. Returns code. */
fvlm_status fvlm_fail(fvlm_error *error, fvlm_status code, const char *format, ...) FVLM_PRINTF(3, 4);

/* The out-of-memory error, which must not allocate. */
fvlm_status fvlm_fail_memory(fvlm_error *error);

#endif
