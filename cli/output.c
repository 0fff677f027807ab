/* Standard output and error, JSON, interrupts and progress. */
#include "output.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/system.h"
#include "base/text_buffer.h"
#include "command.h"

static int write_error; /* errno of the first write to standard output that failed, or 0 */
static volatile sig_atomic_t interrupted;
static bool silent;

void cli_error(const char *format, ...)
{
    if (silent)
        return;
    fflush(stdout);
    va_list arguments;
    va_start(arguments, format);
    fputs("fastvlm: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

int cli_fail(const fvlm_error *error)
{
    cli_error("%s", error->message);
    return error->code == FVLM_ERROR_ARGUMENT ? CLI_USAGE : CLI_FAILED;
}

static void note_write(bool fine)
{
    if (!fine && write_error == 0)
        write_error = errno ? errno : EIO;
}

void cli_silence(void)
{
    silent = true;
}

void cli_print(const char *format, ...)
{
    if (silent)
        return;
    va_list arguments;
    va_start(arguments, format);
    note_write(vfprintf(stdout, format, arguments) >= 0);
    va_end(arguments);
}

bool cli_write(const char *text, size_t bytes)
{
    note_write(fwrite(text, 1, bytes, stdout) == bytes && fflush(stdout) == 0);
    return write_error == 0;
}

bool cli_close_output(void)
{
    note_write(fflush(stdout) == 0);
    if (write_error == 0)
        return true;
    fprintf(stderr, "fastvlm: cannot write to standard output: %s\n", strerror(write_error));
    return false;
}

/* ASCII only: a reader that ends lines at U+2028 or U+0085, as Python's splitlines does, still sees one line. */
int cli_print_json(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(object);
    if (!text) {
        cli_error("out of memory");
        return CLI_FAILED;
    }
    cli_print("%s\n", text);
    cli_write("", 0);
    free(text);
    return CLI_DONE;
}

/* Length of the well-formed UTF-8 character at `text`, 0 when there is none. */
static size_t character_bytes(const unsigned char *text)
{
    size_t bytes = text[0] < 0x80 ? 1 : text[0] < 0xc2 ? 0 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    if (text[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < bytes; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    bool outside = (text[0] == 0xed && text[1] > 0x9f) || (text[0] == 0xf4 && text[1] > 0x8f);
    return overlong || outside ? 0 : bytes;
}

json_t *cli_json_text(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    fvlm_text_buffer buffer = {0};
    for (const char *c = text; *c;) {
        size_t bytes = character_bytes((const unsigned char *)c);
        if (bytes)
            fvlm_text_append(&buffer, c, bytes);
        else
            fvlm_text_append_string(&buffer, "\xef\xbf\xbd");
        c += bytes ? bytes : 1;
    }
    string = buffer.failed ? NULL : json_string(buffer.data ? buffer.data : "");
    fvlm_text_clear(&buffer);
    return string;
}

json_t *cli_json_tokens(const int32_t *tokens, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer(tokens[i]));
    return list;
}

json_t *cli_json_number(double value)
{
    return json_real(isfinite(value) ? round(value * 1000) / 1000 : 0);
}

static void on_interrupt(int number)
{
    interrupted = 1;
    signal(number, SIG_DFL);
}

void cli_interrupt_catch(void)
{
    interrupted = 0;
    signal(SIGINT, on_interrupt);
}

void cli_terminate_catch(void)
{
    signal(SIGTERM, on_interrupt);
}

void cli_warning_catch(void)
{
#ifdef SIGUSR1
    signal(SIGUSR1, on_interrupt);
#endif
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

void cli_interrupt_release(void)
{
    signal(SIGINT, SIG_DFL);
}

void cli_interrupt_exit(void)
{
    fflush(stdout);
    signal(SIGINT, SIG_DFL);
    raise(SIGINT);
}

void cli_format_bytes(uint64_t bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1000 && unit + 1 < sizeof units / sizeof *units; unit++)
        value /= 1000;
    snprintf(text, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

/* "1:05", "2:01:05" */
static void format_seconds(double seconds, char *text, size_t size)
{
    unsigned long whole = seconds < 360000 ? (unsigned long)(seconds + 0.5) : 360000;
    if (whole >= 3600)
        snprintf(text, size, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(text, size, "%lu:%02lu", whole / 60, whole % 60);
}

static void format_count(const cli_progress *progress, uint64_t count, char *text, size_t size)
{
    if (progress->unit)
        snprintf(text, size, "%llu", (unsigned long long)count);
    else
        cli_format_bytes(count, text, size);
}

static void draw(cli_progress *progress, uint64_t done, bool last)
{
    double now = fvlm_clock_ms(), seconds = (now - progress->started_ms) / 1000;
    char count[32], total[32], rate[48] = "", left[32] = "";
    format_count(progress, done, count, sizeof count);
    uint64_t fresh = done > progress->first ? done - progress->first : 0;
    if (fresh > 0 && seconds > 0.2) {
        double per_second = (double)fresh / seconds;
        if (progress->unit) {
            snprintf(rate, sizeof rate, ", %.2f %s/s", per_second, progress->unit);
        } else {
            cli_format_bytes((uint64_t)per_second, total, sizeof total);
            snprintf(rate, sizeof rate, ", %s/s", total);
        }
        if (last)
            format_seconds(seconds, left, sizeof left);
        else if (progress->total > done)
            format_seconds((double)(progress->total - done) / per_second, left, sizeof left);
    }
    format_count(progress, progress->total, total, sizeof total);
    fprintf(stderr, "%s%s: %s%s%s%s%s%s%s%s", progress->terminal ? "\r\033[K" : "", progress->title, count,
            progress->total ? " of " : "", progress->total ? total : "", progress->unit ? " " : "",
            progress->unit ? progress->unit : "", rate, *left ? (last ? ", took " : ", left ") : "", left);
    fputs(progress->terminal && !last ? "" : "\n", stderr);
    progress->drawn_ms = now;
    progress->drawn = true;
}

void cli_progress_start(cli_progress *progress, const char *title, const char *unit, uint64_t first, uint64_t total,
                        bool quiet)
{
    double now = fvlm_clock_ms();
    *progress = (cli_progress){.title = title,
                               .unit = unit,
                               .first = first,
                               .total = total,
                               .started_ms = now,
                               .drawn_ms = now,
                               .terminal = fvlm_is_terminal(stderr),
                               .quiet = quiet};
}

void cli_progress_update(cli_progress *progress, uint64_t done)
{
    double interval_ms = progress->terminal ? 150 : 5000;
    if (!progress->quiet && fvlm_clock_ms() - progress->drawn_ms >= interval_ms)
        draw(progress, done, false);
}

void cli_progress_finish(cli_progress *progress, uint64_t done)
{
    if (!progress->quiet)
        draw(progress, done, true);
}
