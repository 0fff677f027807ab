/* Run a fuzz target over every file of a corpus folder (argv[1]): what `make check` does where libFuzzer is not. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    if (!folder) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    int files = 0, failures = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char *path = fvlm_path_join(argv[1], entry->d_name), *data;
        size_t size;
        if (!path || !fvlm_file_exists(path)) {
            free(path);
            continue;
        }
        fvlm_error error;
        if (fvlm_file_read(path, (size_t)64 << 20, &data, &size, &error)) {
            fprintf(stderr, "%s\n", error.message);
            failures++;
        } else {
            LLVMFuzzerTestOneInput((const uint8_t *)data, size);
            free(data);
            files++;
        }
        free(path);
    }
    closedir(folder);
    printf("%d files\n", files);
    return files == 0 || failures > 0;
}
