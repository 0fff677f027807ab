/* One file from an HTTP server, by libcurl.
 *
 * What arrives is appended to PATH.part. PATH.part.json remembers what the server said about the file (its validator
 * and its size), so that the next request can ask for the rest with Range and If-Range: the server answers 206 with the
 * rest when the file is still the same, and 200 with the whole file otherwise, which starts PATH.part anew.
 */
#include "download.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "base/text_buffer.h"
#include "output.h"

enum { FIRST_PAUSE_MS = 500, LONGEST_PAUSE_MS = 30000, STALLED_SECONDS = 60, CONNECT_SECONDS = 30 };

/* A transfer's state; the headers are those of the last response. */
typedef struct transfer {
    const cli_download *download;
    char *part, *memory; /* paths of PATH.part and PATH.part.json */
    FILE *file;          /* PATH.part, opened when the first byte of a body arrives */
    int write_errno;     /* of the write that failed, or 0 */
    uint64_t have;       /* bytes in PATH.part */
    uint64_t total;      /* bytes of the whole file, 0: not known */
    char validator[256]; /* strong ETag or Last-Modified of the file that PATH.part is a part of; empty: none */

    long status;
    uint64_t content_length, range_first, range_total;
    bool has_length, has_range;
    char etag[256], modified[256];
    unsigned retry_after_ms;
    bool unusable; /* a 206 that is not the rest we asked for */

    cli_progress progress;
} transfer;

static void trim_copy(const char *text, size_t bytes, char *to, size_t size)
{
    while (bytes > 0 && (*text == ' ' || *text == '\t'))
        text++, bytes--;
    while (bytes > 0 && strchr(" \t\r\n", text[bytes - 1]))
        bytes--;
    if (bytes >= size) /* cut, a validator would be another one: better none */
        bytes = 0;
    memcpy(to, text, bytes);
    to[bytes] = '\0';
}

/* True when the header line is `name`; *value and *bytes are then what stands behind the colon. */
static bool header_is(const char *line, size_t length, const char *name, const char **value, size_t *bytes)
{
    size_t name_length = strlen(name);
    if (length <= name_length || line[name_length] != ':' || !curl_strnequal(line, name, name_length))
        return false;
    *value = line + name_length + 1;
    *bytes = length - name_length - 1;
    return true;
}

static size_t on_header(char *line, size_t size, size_t count, void *user)
{
    transfer *t = user;
    size_t length = size * count, bytes;
    const char *value;
    char text[256];
    if (length > 5 && curl_strnequal(line, "HTTP/", 5)) { /* of this response; those before were redirects */
        t->status = 0;
        t->has_length = t->has_range = false;
        t->etag[0] = t->modified[0] = '\0';
        t->retry_after_ms = 0;
        trim_copy(line, length, text, sizeof text);
        const char *space = strchr(text, ' ');
        if (space)
            t->status = strtol(space, NULL, 10);
    } else if (header_is(line, length, "content-length", &value, &bytes)) {
        trim_copy(value, bytes, text, sizeof text);
        t->has_length = sscanf(text, "%" SCNu64, &t->content_length) == 1;
    } else if (header_is(line, length, "content-range", &value, &bytes)) {
        trim_copy(value, bytes, text, sizeof text);
        if (sscanf(text, "bytes %" SCNu64 "-%*[0-9]/%" SCNu64, &t->range_first, &t->range_total) == 2)
            t->has_range = true;
        else if (sscanf(text, "bytes */%" SCNu64, &t->range_total) == 1)
            t->has_range = t->status == 416;
    } else if (header_is(line, length, "etag", &value, &bytes)) {
        trim_copy(value, bytes, t->etag, sizeof t->etag);
    } else if (header_is(line, length, "last-modified", &value, &bytes)) {
        trim_copy(value, bytes, t->modified, sizeof t->modified);
    } else if (header_is(line, length, "retry-after", &value, &bytes)) {
        trim_copy(value, bytes, text, sizeof text);
        unsigned long seconds = strtoul(text, NULL, 10);
        t->retry_after_ms = seconds < 60 ? (unsigned)seconds * 1000 : 60000;
    }
    return length;
}

static void remember(const transfer *t)
{
    json_t *object =
        json_pack("{ss ss sI}", "url", t->download->url, "validator", t->validator, "total", (json_int_t)t->total);
    /* A memory that could not be written costs a download from the start, no more. */
    if (!object || json_dump_file(object, t->memory, JSON_COMPACT) != 0)
        remove(t->memory);
    json_decref(object);
}

/* What an earlier run left: without a memory of the same URL, PATH.part is worth nothing. */
static void recall(transfer *t)
{
    json_error_t ignored;
    json_t *object = json_load_file(t->memory, 0, &ignored);
    const char *url = json_string_value(json_object_get(object, "url"));
    const char *validator = json_string_value(json_object_get(object, "validator"));
    json_int_t total = json_integer_value(json_object_get(object, "total"));
    if (url && strcmp(url, t->download->url) == 0 && validator && strlen(validator) < sizeof t->validator &&
        total >= 0 && fvlm_file_size(t->part, &t->have)) {
        strcpy(t->validator, validator);
        t->total = (uint64_t)total;
    } else {
        t->have = 0;
    }
    json_decref(object);
}

/* The response is the file itself: get PATH.part ready for it. */
static bool start_body(transfer *t)
{
    bool whole = t->status == 200;
    if (!whole && (!t->has_range || t->range_first != t->have || (t->total && t->range_total != t->total))) {
        t->unusable = true;
        return false;
    }
    if (whole) {
        t->have = 0;
        t->total = t->has_length ? t->content_length : 0;
        bool strong = t->etag[0] && strncmp(t->etag, "W/", 2) != 0;
        strcpy(t->validator, strong ? t->etag : t->modified);
    } else {
        t->total = t->range_total;
    }
    t->file = fopen(t->part, t->have == 0 ? "wb" : "ab");
    if (!t->file) {
        t->write_errno = errno;
        return false;
    }
    if (whole)
        remember(t);
    cli_progress_start(&t->progress, "downloading", NULL, t->have, t->total, t->download->quiet);
    return true;
}

static size_t on_body(char *data, size_t size, size_t count, void *user)
{
    transfer *t = user;
    size_t bytes = size * count;
    if (t->status != 200 && t->status != 206) /* an error page */
        return bytes;
    if (!t->file && !start_body(t))
        return 0;
    if (fwrite(data, 1, bytes, t->file) != bytes) {
        t->write_errno = errno ? errno : EIO;
        return 0;
    }
    t->have += bytes;
    cli_progress_update(&t->progress, t->have);
    return bytes;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)user, (void)a, (void)b, (void)c, (void)d;
    return cli_interrupted();
}

/* One request for the rest of the file. */
static CURLcode request(transfer *t, CURL *curl, char *message)
{
    char range[32];
    char condition[300];
    struct curl_slist *headers = NULL;
    t->status = 0;
    t->unusable = false;
    message[0] = '\0';
    curl_easy_reset(curl);
    if (t->have > 0) {
        snprintf(range, sizeof range, "%" PRIu64 "-", t->have);
        curl_easy_setopt(curl, CURLOPT_RANGE, range);
        if (t->validator[0]) {
            snprintf(condition, sizeof condition, "If-Range: %s", t->validator);
            headers = curl_slist_append(NULL, condition);
        }
    }
    curl_easy_setopt(curl, CURLOPT_URL, t->download->url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 5L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "fastvlm/" FVLM_VERSION);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALLED_SECONDS);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, message);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    if (t->file) {
        cli_progress_finish(&t->progress, t->have);
        if (fclose(t->file) != 0 && t->write_errno == 0)
            t->write_errno = errno ? errno : EIO;
        t->file = NULL;
        /* What was written may be less than what was received. */
        if (!fvlm_file_size(t->part, &t->have))
            t->have = 0;
    }
    if (message[0] == '\0')
        snprintf(message, CURL_ERROR_SIZE, "%s", curl_easy_strerror(code));
    return code;
}

/* Errors that another attempt may not meet. */
static bool is_passing(CURLcode code, long status)
{
    switch (code) {
    case CURLE_OK:
        return status >= 500 || status == 408 || status == 429;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_GOT_NOTHING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_SSL_CONNECT_ERROR:
        return true;
    default:
        return false;
    }
}

/* Wait, unless an interrupt comes. */
static void pause_ms(unsigned milliseconds)
{
    for (unsigned waited = 0; waited < milliseconds && !cli_interrupted(); waited += 50)
        fvlm_sleep_ms(50);
}

static void forget(transfer *t)
{
    remove(t->part);
    remove(t->memory);
    t->have = t->total = 0;
    t->validator[0] = '\0';
}

/* Requests until PATH.part is the whole file. */
static fvlm_status fetch(transfer *t, CURL *curl, fvlm_error *error)
{
    const cli_download *download = t->download;
    char message[CURL_ERROR_SIZE];
    unsigned pause = FIRST_PAUSE_MS;
    int restarts_left = 3;
    for (int attempts_left = download->retries;;) {
        uint64_t before = t->have;
        CURLcode code = request(t, curl, message);
        if (cli_interrupted())
            return fvlm_fail(error, FVLM_ERROR_IO, "interrupted; the same command goes on where it stopped");
        if (t->write_errno)
            return fvlm_fail(error, FVLM_ERROR_IO,
                             "cannot write %s: %s; make room and run the same command, it goes on where it stopped",
                             t->part, strerror(t->write_errno));
        bool complete =
            code == CURLE_OK && (t->status == 200 || t->status == 206) && (!t->total || t->have == t->total);
        /* 416: there is nothing after what we have. */
        if (complete || (t->status == 416 && t->has_range && t->have > 0 && t->range_total == t->have))
            return FVLM_OK;
        if (code == CURLE_OK && t->status == 200 && !fvlm_file_exists(t->part))
            return fvlm_fail(error, FVLM_ERROR_IO, "%s is empty", download->url);
        if ((t->unusable || t->status == 416 || (t->total && t->have > t->total)) && before > 0 &&
            restarts_left-- > 0) {
            /* The server cannot give the rest of what we have: once more from the start. */
            forget(t);
            continue;
        }
        bool cut_short = code == CURLE_OK && (t->status == 200 || t->status == 206);
        if (code == CURLE_OK && !cut_short)
            snprintf(message, sizeof message, "the server answered %ld", t->status);
        if (!cut_short && !is_passing(code, t->status))
            return fvlm_fail(error, FVLM_ERROR_IO, "cannot download %s: %s", download->url, message);
        if (t->have > before) {
            attempts_left = download->retries;
            pause = FIRST_PAUSE_MS;
        } else if (attempts_left-- <= 0) {
            return fvlm_fail(error, FVLM_ERROR_IO,
                             "cannot download %s: %s, after %d retries; the same command goes on where it stopped",
                             download->url, message, download->retries);
        }
        unsigned wait = t->retry_after_ms > pause ? t->retry_after_ms : pause;
        if (!download->quiet)
            fprintf(stderr, "%s; trying again in %.1f s\n", message, wait / 1000.0);
        pause_ms(wait);
        pause = pause * 2 < LONGEST_PAUSE_MS ? pause * 2 : LONGEST_PAUSE_MS;
    }
}

static fvlm_status hash_file(const char *path, char *hex, fvlm_error *error)
{
    FILE *file = fopen(path, "rb");
    unsigned char *block = malloc(1 << 20), digest[SHA256_DIGEST_SIZE];
    fvlm_status status = FVLM_OK;
    if (!block)
        status = fvlm_fail_memory(error);
    else if (!file)
        status = fvlm_fail(error, FVLM_ERROR_IO, "cannot open %s: %s", path, strerror(errno));
    if (status == FVLM_OK) {
        struct sha256_ctx context;
        sha256_init(&context);
        for (size_t bytes; (bytes = fread(block, 1, 1 << 20, file)) > 0;)
            sha256_update(&context, bytes, block);
        if (ferror(file))
            status = fvlm_fail(error, FVLM_ERROR_IO, "cannot read %s: %s", path, strerror(errno));
        sha256_digest(&context, sizeof digest, digest);
        for (size_t i = 0; i < sizeof digest; i++)
            snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
    if (file)
        fclose(file);
    free(block);
    return status;
}

static char *with_suffix(const char *path, const char *suffix)
{
    fvlm_text_buffer buffer = {0};
    fvlm_text_format(&buffer, "%s%s", path, suffix);
    return fvlm_text_take(&buffer);
}

/* PATH.part is whole: check it, and give it its name. */
static fvlm_status place(transfer *t, char *sha256, fvlm_error *error)
{
    const cli_download *download = t->download;
    fvlm_status status = hash_file(t->part, sha256, error);
    if (status == FVLM_OK && download->sha256 && strcmp(sha256, download->sha256) != 0) {
        forget(t);
        return fvlm_fail(error, FVLM_ERROR_FORMAT,
                         "%s has SHA-256 %s, not %s as expected; what was downloaded has been removed", download->url,
                         sha256, download->sha256);
    }
    if (status == FVLM_OK)
        status = fvlm_path_rename(t->part, download->path, error);
    if (status == FVLM_OK)
        remove(t->memory);
    return status;
}

fvlm_status cli_download_run(const cli_download *download, char *sha256, fvlm_error *error)
{
    transfer t = {.download = download};
    CURL *curl = NULL;
    fvlm_status status = FVLM_OK;
    bool started = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    t.part = with_suffix(download->path, ".part");
    t.memory = with_suffix(download->path, ".part.json");
    curl = started ? curl_easy_init() : NULL;
    if (!curl || !t.part || !t.memory)
        status = fvlm_fail_memory(error);
    /* An earlier call may have finished the file and its caller not have used it. */
    bool complete = status == FVLM_OK && fvlm_file_exists(download->path);
    if (complete)
        status = hash_file(download->path, sha256, error);
    if (status == FVLM_OK && complete && download->sha256 && strcmp(sha256, download->sha256) != 0)
        complete = false;
    if (status == FVLM_OK && !complete) {
        recall(&t);
        status = fetch(&t, curl, error);
        if (status == FVLM_OK)
            status = place(&t, sha256, error);
    }
    if (curl)
        curl_easy_cleanup(curl);
    if (started)
        curl_global_cleanup();
    free(t.part);
    free(t.memory);
    return status;
}
