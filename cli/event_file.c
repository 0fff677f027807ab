/* Writing event files: TFRecords of Event messages.
 *
 *     record   length (8 bytes), masked CRC-32C of these, message, masked CRC-32C of it; little endian
 */
#include "event_file.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "event.pb-c.h"

#define POLYNOMIAL 0x82f63b78u /* Castagnoli's, bits reversed */
#define SESSION_START 1        /* SessionLog.START: forget what is from this step on */
#define MAX_SCALARS 16

struct cli_events {
    FILE *file;
    char *path;
    uint32_t table[256];
};

static void make_table(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? POLYNOMIAL : 0);
    }
}

/* Rotated and moved, so that a sum over data with sums in it is none of those. */
static uint32_t masked_sum(const cli_events *events, const uint8_t *data, size_t size)
{
    uint32_t sum = UINT32_MAX;
    for (size_t i = 0; i < size; i++)
        sum = events->table[(sum ^ data[i]) & 0xff] ^ sum >> 8;
    sum = ~sum;
    return (sum >> 15 | sum << 17) + 0xa282ead8u;
}

static void put(uint8_t *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

static fvlm_status write_event(cli_events *events, Cli__Event__Event *event, fvlm_error *error)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    event->wall_time = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    size_t size = cli__event__event__get_packed_size(event);
    uint8_t *record = fvlm_calloc(size + 16, 1);
    if (!record)
        return fvlm_fail_memory(error);
    put(record, size, 8);
    put(record + 8, masked_sum(events, record, 8), 4);
    cli__event__event__pack(event, record + 12);
    put(record + 12 + size, masked_sum(events, record + 12, size), 4);
    bool fine = fwrite(record, 1, size + 16, events->file) == size + 16 && fflush(events->file) == 0;
    free(record);
    return fine ? FVLM_OK : fvlm_fail(error, FVLM_ERROR_IO, "cannot write %s", events->path);
}

/* A name that no earlier run has taken. */
static char *free_path(const char *folder)
{
    for (int number = 0;; number++) {
        char name[64];
        snprintf(name, sizeof name, "events.out.tfevents.%010lld.fastvlm.%d", (long long)time(NULL), number);
        char *path = fvlm_path_join(folder, name);
        if (!path || !fvlm_file_exists(path))
            return path;
        free(path);
    }
}

fvlm_status cli_events_open(const char *folder, long long first, cli_events **out, fvlm_error *error)
{
    cli_events *events = *out = fvlm_calloc(1, sizeof *events);
    if (!events)
        return fvlm_fail_memory(error);
    make_table(events->table);
    fvlm_status status = fvlm_folder_create(folder, error);
    if (!status && !(events->path = free_path(folder)))
        status = fvlm_fail_memory(error);
    if (!status && !(events->file = fopen(events->path, "wb")))
        status = fvlm_fail(error, FVLM_ERROR_IO, "cannot write %s", events->path);
    static char version[] = "brain.Event:2";
    Cli__Event__Event event = CLI__EVENT__EVENT__INIT;
    event.what_case = CLI__EVENT__EVENT__WHAT_FILE_VERSION;
    event.file_version = version;
    if (!status)
        status = write_event(events, &event, error);
    Cli__Event__SessionLog session = CLI__EVENT__SESSION_LOG__INIT;
    session.status = SESSION_START;
    event.what_case = CLI__EVENT__EVENT__WHAT_SESSION_LOG;
    event.session_log = &session;
    event.step = first;
    if (!status)
        status = write_event(events, &event, error);
    if (status)
        cli_events_close(out);
    return status;
}

fvlm_status cli_events_add(cli_events *events, long long step, const cli_scalar *scalars, size_t count,
                           fvlm_error *error)
{
    Cli__Event__Summary__Value values[MAX_SCALARS], *pointers[MAX_SCALARS];
    for (size_t i = 0; i < count && i < MAX_SCALARS; i++) {
        values[i] = (Cli__Event__Summary__Value)CLI__EVENT__SUMMARY__VALUE__INIT;
        values[i].tag = (char *)(uintptr_t)scalars[i].tag;
        values[i].value_case = CLI__EVENT__SUMMARY__VALUE__VALUE_SIMPLE_VALUE;
        values[i].simple_value = (float)scalars[i].value;
        pointers[i] = &values[i];
    }
    Cli__Event__Summary summary = CLI__EVENT__SUMMARY__INIT;
    summary.n_value = count < MAX_SCALARS ? count : MAX_SCALARS;
    summary.value = pointers;
    Cli__Event__Event event = CLI__EVENT__EVENT__INIT;
    event.step = step;
    event.what_case = CLI__EVENT__EVENT__WHAT_SUMMARY;
    event.summary = &summary;
    return write_event(events, &event, error);
}

void cli_events_close(cli_events **events)
{
    if (!*events)
        return;
    if ((*events)->file)
        fclose((*events)->file);
    free((*events)->path);
    free(*events);
    *events = NULL;
}
