/* Folders, terminal and signals: POSIX and Windows behind one interface. */
#if defined(__linux__)
#define _GNU_SOURCE 1 /* renameat2 */
#elif !defined(_WIN32) && !defined(_POSIX_C_SOURCE) && !defined(__APPLE__)
#define _DEFAULT_SOURCE 1
#define _POSIX_C_SOURCE 200809L
#endif
#include "base/system.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/file.h"
#include "base/memory.h"

#ifdef _WIN32
#include <direct.h>
#include <io.h>
#include <windows.h>
#else
#include <dirent.h>
#include <time.h>
#include <unistd.h>
#endif

static fvlm_status fail_io(fvlm_error *error, const char *verb, const char *path)
{
    return fvlm_fail(error, FVLM_ERROR_IO, "cannot %s %s: %s", verb, path, strerror(errno));
}

static int make_folder(const char *path)
{
#ifdef _WIN32
    return _mkdir(path);
#else
    return mkdir(path, 0777);
#endif
}

fvlm_status fvlm_folder_create(const char *path, fvlm_error *error)
{
    char *copy = fvlm_strdup(path);
    if (!copy)
        return fvlm_fail_memory(error);
    fvlm_status status = FVLM_OK;
    for (char *end = copy + 1; status == FVLM_OK && *copy; end++) {
        char c = *end;
        if (c != '/' && c != '\0')
            continue;
        *end = '\0';
        if (make_folder(copy) != 0 && !fvlm_folder_exists(copy))
            status = fail_io(error, "create the folder", copy);
        *end = c;
        if (c == '\0')
            break;
    }
    free(copy);
    return status;
}

fvlm_status fvlm_path_rename(const char *from, const char *to, fvlm_error *error)
{
#ifdef _WIN32
    if (!MoveFileExA(from, to, MOVEFILE_REPLACE_EXISTING))
        return fvlm_fail(error, FVLM_ERROR_IO, "cannot rename %s to %s", from, to);
#else
    if (rename(from, to) != 0)
        return fvlm_fail(error, FVLM_ERROR_IO, "cannot rename %s to %s: %s", from, to, strerror(errno));
#endif
    return FVLM_OK;
}

bool fvlm_file_size(const char *path, uint64_t *bytes)
{
    struct stat status;
    if (stat(path, &status) != 0 || (status.st_mode & S_IFMT) != S_IFREG)
        return false;
    *bytes = (uint64_t)status.st_size;
    return true;
}

#ifdef _WIN32

fvlm_status fvlm_folder_each(const char *folder, fvlm_entry_fn visit, void *user, fvlm_error *error)
{
    char *pattern = fvlm_path_join(folder, "*");
    if (!pattern)
        return fvlm_fail_memory(error);
    WIN32_FIND_DATAA entry;
    HANDLE handle = FindFirstFileA(pattern, &entry);
    free(pattern);
    if (handle == INVALID_HANDLE_VALUE)
        return fvlm_fail(error, FVLM_ERROR_IO, "cannot list %s", folder);
    fvlm_status status = FVLM_OK;
    do {
        if (strcmp(entry.cFileName, ".") == 0 || strcmp(entry.cFileName, "..") == 0)
            continue;
        char *path = fvlm_path_join(folder, entry.cFileName);
        DWORD kind = entry.dwFileAttributes;
        status =
            path ? visit(path, (kind & FILE_ATTRIBUTE_DIRECTORY) && !(kind & FILE_ATTRIBUTE_REPARSE_POINT), user, error)
                 : fvlm_fail_memory(error);
        free(path);
    } while (status == FVLM_OK && FindNextFileA(handle, &entry));
    FindClose(handle);
    return status;
}

bool fvlm_is_terminal(FILE *stream)
{
    return _isatty(_fileno(stream)) != 0;
}

void fvlm_sleep_ms(unsigned milliseconds)
{
    Sleep(milliseconds);
}

void fvlm_ignore_write_signals(void) {}

static bool is_link(const char *path)
{
    DWORD kind = GetFileAttributesA(path);
    return kind != INVALID_FILE_ATTRIBUTES && (kind & FILE_ATTRIBUTE_REPARSE_POINT);
}

static char *full_path(const char *path)
{
    return _fullpath(NULL, path, 0);
}

#else

fvlm_status fvlm_folder_each(const char *folder, fvlm_entry_fn visit, void *user, fvlm_error *error)
{
    DIR *handle = opendir(folder);
    if (!handle)
        return fail_io(error, "list", folder);
    fvlm_status status = FVLM_OK;
    for (struct dirent *entry; status == FVLM_OK && (entry = readdir(handle));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *path = fvlm_path_join(folder, entry->d_name);
        struct stat kind;
        if (!path)
            status = fvlm_fail_memory(error);
        else if (lstat(path, &kind) != 0)
            status = fail_io(error, "look at", path);
        else
            status = visit(path, S_ISDIR(kind.st_mode), user, error);
        free(path);
    }
    closedir(handle);
    return status;
}

bool fvlm_is_terminal(FILE *stream)
{
    return isatty(fileno(stream)) == 1;
}

void fvlm_sleep_ms(unsigned milliseconds)
{
    struct timespec rest = {.tv_sec = milliseconds / 1000, .tv_nsec = (long)(milliseconds % 1000) * 1000000};
    nanosleep(&rest, NULL);
}

void fvlm_ignore_write_signals(void)
{
    signal(SIGPIPE, SIG_IGN);
#ifdef SIGXFSZ
    signal(SIGXFSZ, SIG_IGN);
#endif
}

static bool is_link(const char *path)
{
    struct stat kind;
    return lstat(path, &kind) == 0 && S_ISLNK(kind.st_mode);
}

/* Without links and dots, for free(); NULL where nothing is there. */
static char *full_path(const char *path)
{
    return realpath(path, NULL);
}

#endif

static fvlm_status remove_entry(const char *path, bool folder, void *user, fvlm_error *error)
{
    (void)user;
    if (folder) {
        fvlm_status status = fvlm_folder_each(path, remove_entry, NULL, error);
        if (status)
            return status;
#ifdef _WIN32
        return _rmdir(path) == 0 ? FVLM_OK : fail_io(error, "remove", path);
#endif
    }
    return remove(path) == 0 ? FVLM_OK : fail_io(error, "remove", path);
}

fvlm_status fvlm_folder_remove(const char *path, fvlm_error *error)
{
    return fvlm_folder_exists(path) ? remove_entry(path, !is_link(path), NULL, error) : FVLM_OK;
}

/* What a folder holds: how many entries, and the path of the last one when it is a folder. */
typedef struct contents {
    size_t count;
    char *folder;
} contents;

static fvlm_status count_entry(const char *path, bool folder, void *user, fvlm_error *error)
{
    contents *found = user;
    found->count++;
    free(found->folder);
    found->folder = folder ? fvlm_strdup(path) : NULL;
    return folder && !found->folder ? fvlm_fail_memory(error) : FVLM_OK;
}

fvlm_status fvlm_folder_only_child(const char *path, char **child, fvlm_error *error)
{
    contents found = {0};
    fvlm_status status = fvlm_folder_each(path, count_entry, &found, error);
    *child = NULL;
    if (status == FVLM_OK && found.count == 1)
        *child = found.folder;
    else
        free(found.folder);
    return status;
}

#ifdef _WIN32

static fvlm_status flush_folder(const char *path, fvlm_error *error)
{
    (void)path;
    (void)error;
    return FVLM_OK;
}

bool fvlm_path_same(const char *a, const char *b)
{
    char full_a[MAX_PATH], full_b[MAX_PATH];
    DWORD length_a = GetFullPathNameA(a, MAX_PATH, full_a, NULL),
          length_b = GetFullPathNameA(b, MAX_PATH, full_b, NULL);
    return length_a && length_b && length_a < MAX_PATH && length_b < MAX_PATH && _stricmp(full_a, full_b) == 0;
}

#else

/* The names in a folder and below it; files flush themselves (base/file.h). */
static fvlm_status flush_entry(const char *path, bool folder, void *user, fvlm_error *error)
{
    (void)user;
    if (!folder)
        return FVLM_OK;
    fvlm_status status = fvlm_folder_each(path, flush_entry, NULL, error);
    if (status)
        return status;
    int handle = open(path, O_RDONLY | O_CLOEXEC);
    if (handle < 0)
        return fail_io(error, "open", path);
    if (fsync(handle) != 0 && errno != EINVAL)
        status = fail_io(error, "flush", path);
    close(handle);
    return status;
}

static fvlm_status flush_folder(const char *path, fvlm_error *error)
{
    return flush_entry(path, true, NULL, error);
}

bool fvlm_path_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

#endif

bool fvlm_path_within(const char *path, const char *folder)
{
    char *inner = full_path(path), *outer = full_path(folder);
    size_t length = outer ? strlen(outer) : 0;
    bool within = inner && outer && strncmp(inner, outer, length) == 0 &&
                  (inner[length] == '\0' || strchr("/\\", inner[length]) || strchr("/\\", outer[length - 1]));
    free(inner);
    free(outer);
    return within;
}

/* Give two paths each other's name; false where the system cannot. */
static bool swap_names(const char *a, const char *b)
{
#ifdef RENAME_EXCHANGE
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
#else
    (void)a;
    (void)b;
    return false;
#endif
}

fvlm_status fvlm_folder_replace(const char *aside, const char *path, fvlm_error *error)
{
    fvlm_status status = flush_folder(aside, error);
    if (status)
        return status;
    if (!fvlm_folder_exists(path))
        return fvlm_path_rename(aside, path, error);
    if (swap_names(aside, path))
        return fvlm_folder_remove(aside, error);
    size_t length = strlen(path);
    char *old = malloc(length + sizeof ".old");
    if (!old)
        return fvlm_fail_memory(error);
    memcpy(old, path, length);
    memcpy(old + length, ".old", sizeof ".old");
    status = fvlm_path_rename(path, old, error);
    if (!status) {
        status = fvlm_path_rename(aside, path, error);
        if (status)
            fvlm_path_rename(old, path, NULL);
        else
            status = fvlm_folder_remove(old, error);
    }
    free(old);
    return status;
}

struct listing {
    char **names; /* [count] of capacity */
    size_t count, capacity;
};

static fvlm_status list_entry(const char *path, bool folder, void *user, fvlm_error *error)
{
    struct listing *listing = user;
    if (folder)
        return FVLM_OK;
    if (listing->count == listing->capacity) {
        size_t capacity = listing->capacity ? 2 * listing->capacity : 64;
        char **names = realloc(listing->names, capacity * sizeof *names);
        if (!names)
            return fvlm_fail_memory(error);
        listing->names = names;
        listing->capacity = capacity;
    }
    const char *name = strrchr(path, '/');
    listing->names[listing->count] = fvlm_strdup(name ? name + 1 : path);
    return listing->names[listing->count++] ? FVLM_OK : fvlm_fail_memory(error);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

fvlm_status fvlm_folder_list(const char *folder, char ***names, size_t *count, fvlm_error *error)
{
    struct listing listing = {0};
    fvlm_status status = fvlm_folder_each(folder, list_entry, &listing, error);
    if (status) {
        for (size_t i = 0; i < listing.count; i++)
            free(listing.names[i]);
        free(listing.names);
        listing = (struct listing){0};
    } else if (listing.count > 0) {
        qsort(listing.names, listing.count, sizeof *listing.names, compare_names);
    }
    *names = listing.names;
    *count = listing.count;
    return status;
}

typedef struct numbered {
    const char *prefix;
    fvlm_number_fn visit;
    void *user;
} numbered;

static fvlm_status visit_numbered(const char *path, bool folder, void *user, fvlm_error *error)
{
    const numbered *wanted = user;
    (void)error;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t length = strlen(wanted->prefix);
    if (!folder || strncmp(name, wanted->prefix, length) != 0)
        return FVLM_OK;
    const char *digits = name + length;
    size_t count = strspn(digits, "0123456789");
    if (count > 0 && count <= 18 && digits[count] == '\0')
        wanted->visit(wanted->user, strtoll(digits, NULL, 10));
    return FVLM_OK;
}

fvlm_status fvlm_folder_numbers(const char *path, const char *prefix, fvlm_number_fn visit, void *user,
                                fvlm_error *error)
{
    numbered wanted = {prefix, visit, user};
    return fvlm_folder_each(path, visit_numbered, &wanted, error);
}
