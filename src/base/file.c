/* POSIX and Windows file access behind one interface. */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE) && !defined(__APPLE__)
#define _DEFAULT_SOURCE 1
#define _POSIX_C_SOURCE 200809L
#endif
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/memory.h"

#ifdef _WIN32
#include <io.h>
#include <windows.h>
/* after windows.h, whose types it uses */
#include <psapi.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#endif

static fvlm_status fail_io(fvlm_error *error, const char *verb, const char *path)
{
    return fvlm_fail(error, FVLM_ERROR_IO, "cannot %s %s: %s", verb, path, strerror(errno));
}

/* Files in memory; path NULL: a free place. */
static struct memory_file {
    const char *path;
    const uint8_t *data;
    size_t size;
} memory_files[16];
enum { MEMORY_FILES = sizeof memory_files / sizeof *memory_files };

static struct memory_file *find_in_memory(const char *path)
{
    for (int i = 0; i < MEMORY_FILES; i++)
        if (memory_files[i].path && strcmp(memory_files[i].path, path) == 0)
            return &memory_files[i];
    return NULL;
}

/* True where `data` belongs to a file in memory. */
static bool is_in_memory(const void *data)
{
    uintptr_t at = (uintptr_t)data;
    for (int i = 0; i < MEMORY_FILES; i++)
        if (memory_files[i].path && at - (uintptr_t)memory_files[i].data < memory_files[i].size)
            return true;
    return false;
}

fvlm_status fvlm_file_in_memory(const char *path, const void *data, size_t size, fvlm_error *error)
{
    struct memory_file *file = find_in_memory(path);
    for (int i = 0; i < MEMORY_FILES && !file; i++)
        if (!memory_files[i].path)
            file = &memory_files[i];
    if (!file)
        return fvlm_fail(error, FVLM_ERROR_LIMIT, "%s: there are %d files in memory already", path, MEMORY_FILES);
    *file = (struct memory_file){data ? path : NULL, data, size};
    return FVLM_OK;
}

#ifdef _WIN32

static fvlm_status map_file(const char *path, fvlm_mapping *mapping, fvlm_error *error)
{
    HANDLE file = CreateFileA(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return fvlm_fail(error, FVLM_ERROR_IO, "cannot open %s", path);
    LARGE_INTEGER size;
    if (!GetFileSizeEx(file, &size)) {
        CloseHandle(file);
        return fvlm_fail(error, FVLM_ERROR_IO, "cannot read the size of %s", path);
    }
    if (size.QuadPart > 0) {
        HANDLE handle = CreateFileMappingA(file, NULL, PAGE_READONLY, 0, 0, NULL);
        if (handle) {
            mapping->data = MapViewOfFile(handle, FILE_MAP_READ, 0, 0, 0);
            CloseHandle(handle);
        }
        if (!mapping->data) {
            CloseHandle(file);
            return fvlm_fail(error, FVLM_ERROR_IO, "cannot map %s", path);
        }
    }
    mapping->size = (size_t)size.QuadPart;
    CloseHandle(file);
    return FVLM_OK;
}

static void unmap_file(const fvlm_mapping *mapping)
{
    UnmapViewOfFile(mapping->data);
}

void fvlm_mapping_release(const void *data, size_t bytes)
{
    (void)data;
    (void)bytes;
}

#else

static fvlm_status map_file(const char *path, fvlm_mapping *mapping, fvlm_error *error)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return fail_io(error, "open", path);
    struct stat status;
    if (fstat(file, &status) != 0) {
        fail_io(error, "read the size of", path);
        close(file);
        return FVLM_ERROR_IO;
    }
    if (!S_ISREG(status.st_mode)) {
        close(file);
        return fvlm_fail(error, FVLM_ERROR_IO, "%s is not a regular file", path);
    }
    if (status.st_size > 0) {
        void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (data == MAP_FAILED) {
            fail_io(error, "map", path);
            close(file);
            return FVLM_ERROR_IO;
        }
        mapping->data = data;
    }
    mapping->size = (size_t)status.st_size;
    close(file);
    return FVLM_OK;
}

static void unmap_file(const fvlm_mapping *mapping)
{
    munmap((void *)mapping->data, mapping->size);
}

/* Whole pages only, and not what is in memory alone: it would be lost. */
void fvlm_mapping_release(const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), end = ((uintptr_t)data + bytes) & ~(page - 1);
    uintptr_t start = ((uintptr_t)data + page - 1) & ~(page - 1);
    if (end > start && !is_in_memory(data))
        madvise((void *)start, end - start, MADV_DONTNEED);
}

#endif

fvlm_status fvlm_mapping_open(const char *path, fvlm_mapping *mapping, fvlm_error *error)
{
    const struct memory_file *file = find_in_memory(path);
    *mapping = file ? (fvlm_mapping){file->data, file->size, true} : (fvlm_mapping){0};
    return file ? FVLM_OK : map_file(path, mapping, error);
}

void fvlm_mapping_close(fvlm_mapping *mapping)
{
    if (mapping->data && !mapping->in_memory)
        unmap_file(mapping);
    *mapping = (fvlm_mapping){0};
}

fvlm_status fvlm_file_read(const char *path, size_t limit, char **data, size_t *size, fvlm_error *error)
{
    *data = NULL;
    *size = 0;
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file)
        return fail_io(error, "open", path);
    fvlm_status status = FVLM_OK;
    size_t capacity = 64 << 10, used = 0;
    char *bytes = malloc(capacity);
    if (!bytes)
        status = fvlm_fail_memory(error);
    while (!status) {
        size_t got = fread(bytes + used, 1, capacity - used - 1, file);
        used += got;
        if (used > limit) {
            status = fvlm_fail(error, FVLM_ERROR_LIMIT, "%s is larger than %zu bytes", path, limit);
        } else if (ferror(file)) {
            status = fail_io(error, "read", path);
        } else if (feof(file)) {
            break;
        } else if (used + 1 == capacity) {
            char *larger = capacity > SIZE_MAX / 2 ? NULL : realloc(bytes, capacity * 2);
            if (larger) {
                bytes = larger;
                capacity *= 2;
            } else {
                status = fvlm_fail_memory(error);
            }
        }
    }
    if (file != stdin)
        fclose(file);
    if (status) {
        free(bytes);
        return status;
    }
    bytes[used] = '\0';
    *data = bytes;
    *size = used;
    return FVLM_OK;
}

static bool has_mode(const char *path, unsigned mode)
{
    struct stat status;
    return stat(path, &status) == 0 && ((unsigned)status.st_mode & S_IFMT) == mode;
}

bool fvlm_file_exists(const char *path)
{
    return find_in_memory(path) || has_mode(path, S_IFREG);
}

bool fvlm_folder_exists(const char *path)
{
    return !find_in_memory(path) && has_mode(path, S_IFDIR);
}

static bool ends_in(const char *text, const char *suffix)
{
    size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

fvlm_status fvlm_folder_find(const char *folder, const char *suffix, char **name, fvlm_error *error)
{
    *name = NULL;
    DIR *entries = opendir(folder);
    if (!entries)
        return fail_io(error, "open", folder);
    fvlm_status status = FVLM_OK;
    for (struct dirent *entry; !status && (entry = readdir(entries));) {
        bool dots = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (dots || !ends_in(entry->d_name, suffix) || (*name && strcmp(*name, entry->d_name) <= 0))
            continue;
        free(*name);
        *name = fvlm_strdup(entry->d_name);
        if (!*name)
            status = fvlm_fail_memory(error);
    }
    closedir(entries);
    return status;
}

char *fvlm_path_join(const char *folder, const char *name)
{
    size_t a = strlen(folder), b = strlen(name);
    char *path = malloc(a + b + 2);
    if (!path)
        return NULL;
    memcpy(path, folder, a);
    if (a > 0 && folder[a - 1] != '/')
        path[a++] = '/';
    memcpy(path + a, name, b + 1);
    return path;
}

struct fvlm_writer {
    FILE *file;
    char *path, *aside;
};

static void writer_free(fvlm_writer **writer)
{
    free((*writer)->path);
    free((*writer)->aside);
    free(*writer);
    *writer = NULL;
}

char *fvlm_writer_aside(const char *path)
{
    size_t length = strlen(path);
    char *aside = malloc(length + sizeof ".part");
    if (aside) {
        memcpy(aside, path, length);
        memcpy(aside + length, ".part", sizeof ".part");
    }
    return aside;
}

fvlm_status fvlm_writer_check(const char *path, fvlm_error *error)
{
    struct stat status;
    size_t length = strlen(path);
    if (length == 0 || path[length - 1] == '/' || fvlm_folder_exists(path))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "'%s' is a folder: name a file in it", path);
    if (stat(path, &status) == 0 && ((unsigned)status.st_mode & S_IFMT) != S_IFREG)
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s is no regular file, and is not replaced: name another", path);
    return FVLM_OK;
}

fvlm_status fvlm_writer_open(const char *path, fvlm_writer **writer, fvlm_error *error)
{
    *writer = NULL;
    fvlm_status status = fvlm_writer_check(path, error);
    if (status)
        return status;
    fvlm_writer *made = calloc(1, sizeof *made);
    if (!made)
        return fvlm_fail_memory(error);
    made->path = fvlm_strdup(path);
    made->aside = fvlm_writer_aside(path);
    if (!made->path || !made->aside) {
        writer_free(&made);
        return fvlm_fail_memory(error);
    }
    made->file = fopen(made->aside, "wb");
    if (!made->file) {
        fail_io(error, "write", made->aside);
        writer_free(&made);
        return FVLM_ERROR_IO;
    }
    *writer = made;
    return FVLM_OK;
}

fvlm_status fvlm_writer_write(fvlm_writer *writer, const void *data, size_t bytes, fvlm_error *error)
{
    if (bytes && fwrite(data, 1, bytes, writer->file) != bytes)
        return fail_io(error, "write", writer->aside);
    return FVLM_OK;
}

fvlm_status fvlm_writer_patch(fvlm_writer *writer, long offset, const void *data, size_t bytes, fvlm_error *error)
{
    if (fseek(writer->file, offset, SEEK_SET) != 0)
        return fail_io(error, "write", writer->aside);
    fvlm_status status = fvlm_writer_write(writer, data, bytes, error);
    if (!status && fseek(writer->file, 0, SEEK_END) != 0)
        status = fail_io(error, "write", writer->aside);
    return status;
}

static bool flush_to_disk(FILE *file)
{
    if (fflush(file) != 0)
        return false;
#ifdef _WIN32
    return _commit(_fileno(file)) == 0;
#else
    return fsync(fileno(file)) == 0;
#endif
}

fvlm_status fvlm_writer_commit(fvlm_writer **writer, fvlm_error *error)
{
    fvlm_writer *made = *writer;
    if (!flush_to_disk(made->file)) {
        fail_io(error, "write", made->aside);
        fvlm_writer_abort(writer);
        return FVLM_ERROR_IO;
    }
    int closed = fclose(made->file);
    made->file = NULL;
#ifdef _WIN32
    bool placed = closed == 0 && MoveFileExA(made->aside, made->path, MOVEFILE_REPLACE_EXISTING);
#else
    bool placed = closed == 0 && rename(made->aside, made->path) == 0;
#endif
    if (!placed) {
        fail_io(error, "put in place", made->path);
        fvlm_writer_abort(writer);
        return FVLM_ERROR_IO;
    }
    writer_free(writer);
    return FVLM_OK;
}

void fvlm_writer_abort(fvlm_writer **writer)
{
    if (!*writer)
        return;
    if ((*writer)->file)
        fclose((*writer)->file);
    remove((*writer)->aside);
    writer_free(writer);
}

fvlm_status fvlm_file_write(const char *folder, const char *name, const void *data, size_t bytes, fvlm_error *error)
{
    char *path = fvlm_path_join(folder, name);
    fvlm_writer *writer = NULL;
    fvlm_status status = path ? fvlm_writer_open(path, &writer, error) : fvlm_fail_memory(error);
    if (!status)
        status = fvlm_writer_write(writer, data, bytes, error);
    if (!status)
        status = fvlm_writer_commit(&writer, error);
    fvlm_writer_abort(&writer);
    free(path);
    return status;
}

double fvlm_clock_ms(void)
{
#ifdef _WIN32
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    return 1e3 * (double)now.QuadPart / (double)frequency.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
#endif
}

uint64_t fvlm_peak_memory(void)
{
#ifdef _WIN32
    PROCESS_MEMORY_COUNTERS counters;
    return GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) ? counters.PeakWorkingSetSize : 0;
#else
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
#ifdef __APPLE__
    return (uint64_t)usage.ru_maxrss;
#else
    return (uint64_t)usage.ru_maxrss * 1024;
#endif
#endif
}
