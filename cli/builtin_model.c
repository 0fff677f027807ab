/* The built-in model's file, put into the program by the assembler as it is.
 *
 * .incbin costs nothing, whatever the size, and every compiler that this project is for has it (gcc and clang, for ELF,
 * Mach-O, Windows and WebAssembly). An array in C would need a program that writes it, which runs on the machine that
 * builds, and gcc some hundred bytes of memory for each byte of it; #embed needs C23. This file is compiled anew when
 * the model changes, for builtin_config.h holds its checksum.
 */
#include "builtin_model.h"

#include "builtin_config.h" /* FVLM_BUILTIN_FILE, FVLM_BUILTIN_BYTES, from meson.build */
#include "fastvlm/engine.h"

#if defined(__APPLE__)
#define SECTION ".section __TEXT,__const\n"
#define SIZE ""
#elif defined(_WIN32)
#define SECTION ".section .rdata,\"dr\"\n"
#define SIZE ""
#elif defined(__wasm__)
#define SECTION ".section .rodata.cli_builtin_bytes,\"\",@\n.type cli_builtin_bytes,@object\n"
#define SIZE ".size cli_builtin_bytes, . - cli_builtin_bytes\n"
#else
#define SECTION ".section .rodata\n"
#define SIZE ".text\n"
#endif

/* Aligned to a cache line, as the tensors in it are to half of one. */
__asm__(SECTION ".globl cli_builtin_bytes\n"
                ".p2align 6\n"
                "cli_builtin_bytes:\n"
                ".incbin \"" FVLM_BUILTIN_FILE "\"\n" SIZE);
extern const unsigned char cli_builtin_bytes[FVLM_BUILTIN_BYTES] __asm__("cli_builtin_bytes");

fvlm_status cli_builtin_model(fvlm_error *error)
{
    return fvlm_model_in_memory(CLI_BUILTIN_PATH, cli_builtin_bytes, sizeof cli_builtin_bytes, error);
}
