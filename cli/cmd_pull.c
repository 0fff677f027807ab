/* fastvlm pull: download a published model and unpack it where --model finds it.
 *
 * HOME/NAME.zip is downloaded and unpacked into HOME/NAME.unpacking; when that is a checkpoint, it becomes HOME/NAME
 * and the archive is removed. Whatever goes wrong, HOME/NAME is there whole or not at all.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/system.h"
#include "base/text_buffer.h"
#include "builtin_model.h"
#include "command.h"
#include "download.h"
#include "options.h"
#include "output.h"
#include "unzip.h"
#include "zoo.h"

static char *url_base, *expected_sha256;
static int as_json, accept_licence, quiet, again, retries = 8;

static const struct poptOption table[] = {
    {"accept-license", 'y', POPT_ARG_NONE, &accept_licence, 0, "Agree to the model's licence without being asked",
     NULL},
    {"sha256", '\0', POPT_ARG_STRING, &expected_sha256, 0, "SHA-256 that the archive has to have", "HEX"},
    {"url-base", '\0', POPT_ARG_STRING, &url_base, 0, "Take NAME.zip from this address instead of Apple's", "URL"},
    {"retries", '\0', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &retries, 0,
     "How often in a row to try again when nothing arrives", "N"},
    {"force", 'f', POPT_ARG_NONE, &again, 0, "Download again what is here already", NULL},
    {"quiet", 'q', POPT_ARG_NONE, &quiet, 0, "No progress", NULL},
    {"json", '\0', POPT_ARG_NONE, &as_json, 0, "Print one JSON object when done", NULL},
    CLI_HELP_OPTION,
    POPT_TABLEEND};

static const cli_usage usage = {
    .command = "pull",
    .arguments = "NAME [OPTION...]",
    .about = "download a published model; stopped, it goes on where it was",
    .example = "  fastvlm pull llava-fastvithd_0.5b_stage3\n"
               "  fastvlm predict --model llava-fastvithd_0.5b_stage3 --image cat.jpg --prompt \"What is this?\""};

/* CLI_DONE when the user agrees; not asked, where nobody could answer. */
static int accept_the_licence(void)
{
    fputs("The weights of the published FastVLM models are Apple's, not part of this program. They come under the\n"
          "Apple Machine Learning Research Model licence, which allows research use only:\n"
          "  https://github.com/apple/ml-fastvlm/blob/main/LICENSE_MODEL\n",
          stderr);
    if (accept_licence)
        return CLI_DONE;
    if (!fvlm_is_terminal(stdin))
        return cli_usage_error(&usage, "pass --accept-license to agree to the licence above");
    fputs("Do you agree? [y/N] ", stderr);
    char line[16] = "";
    if (fgets(line, sizeof line, stdin) && (line[0] == 'y' || line[0] == 'Y'))
        return CLI_DONE;
    cli_error("not downloaded: the licence was not accepted");
    return CLI_FAILED;
}

static bool is_sha256(char *text)
{
    for (char *c = text; *c; c++) {
        *c = (char)tolower((unsigned char)*c);
        if (!isxdigit((unsigned char)*c))
            return false;
    }
    return strlen(text) == CLI_SHA256_HEX - 1;
}

/* The checkpoint's folder in what was unpacked: the folder itself, or the only one in it. Free with free(). */
static fvlm_status find_checkpoint(const char *unpacked, const char *archive, char **root, fvlm_error *error)
{
    *root = NULL;
    char *here = fvlm_strdup(unpacked);
    if (!here)
        return fvlm_fail_memory(error);
    if (!cli_zoo_downloaded(here)) {
        char *child;
        fvlm_status status = fvlm_folder_only_child(here, &child, error);
        free(here);
        if (status)
            return status;
        here = child;
    }
    if (!here || !cli_zoo_downloaded(here)) {
        free(here);
        return fvlm_fail(error, FVLM_ERROR_FORMAT, "%s holds no checkpoint: there is no config.json in it", archive);
    }
    *root = here;
    return FVLM_OK;
}

/* Unpack `archive` aside, and put the checkpoint in it at `folder`. */
static fvlm_status install_archive(const char *archive, const char *folder, fvlm_error *error)
{
    fvlm_text_buffer aside_path = {0};
    fvlm_text_format(&aside_path, "%s.unpacking", folder);
    char *aside = fvlm_text_take(&aside_path), *root = NULL;
    if (!aside)
        return fvlm_fail_memory(error);
    fvlm_status status = fvlm_folder_remove(aside, error);
    if (status == FVLM_OK)
        status = cli_unzip(archive, aside, quiet, error);
    if (status == FVLM_OK)
        status = find_checkpoint(aside, archive, &root, error);
    if (status == FVLM_OK)
        status = fvlm_folder_remove(folder, error);
    if (status == FVLM_OK)
        status = fvlm_path_rename(root, folder, error);
    fvlm_folder_remove(aside, NULL);
    free(root);
    free(aside);
    return status;
}

/* Download and install. sha256 is the archive's. */
static fvlm_status pull(const char *name, const char *home, const char *folder, char *sha256, fvlm_error *error)
{
    fvlm_text_buffer text = {0};
    fvlm_text_format(&text, "%s/%s.zip", url_base ? url_base : CLI_ZOO_URL, name);
    char *url = fvlm_text_take(&text);
    fvlm_text_format(&text, "%s.zip", folder);
    char *archive = fvlm_text_take(&text);
    cli_download download = {
        .url = url, .path = archive, .sha256 = expected_sha256, .retries = retries, .quiet = quiet};
    fvlm_status status = url && archive ? fvlm_folder_create(home, error) : fvlm_fail_memory(error);
    if (status == FVLM_OK)
        status = cli_download_run(&download, sha256, error);
    if (status == FVLM_OK) {
        status = install_archive(archive, folder, error);
        /* A damaged archive would be as damaged the next time; what failed for want of room is worth keeping. */
        if (status != FVLM_ERROR_IO)
            remove(archive);
    }
    free(url);
    free(archive);
    return status;
}

int cmd_pull(int argc, const char **argv)
{
    int code;
    const char *const *arguments;
    if (!cli_parse(&usage, table, argc, argv, &arguments, &code))
        return code;
    if (!arguments[0] || arguments[1])
        return cli_usage_error(&usage, "give the name of one model (`fastvlm models` lists them)");
    if (expected_sha256 && !is_sha256(expected_sha256))
        return cli_usage_error(&usage, "--sha256 needs 64 hexadecimal digits");
    if (retries < 0)
        return cli_usage_error(&usage, "--retries is %d; it has to be 0 or more", retries);
    const char *name = arguments[0];
    if (strcmp(name, CLI_BUILTIN_NAME) == 0) {
        if (as_json)
            return cli_print_json(json_pack("{ss sb}", "name", name, "built_in", 1));
        cli_print("%s is built in: there is nothing to download\n", name);
        return CLI_DONE;
    }
    if (!cli_zoo_find(name))
        return cli_usage_error(&usage, "'%s' is not a published model (`fastvlm models` lists them)", name);

    fvlm_error error;
    char *home = NULL, *folder = NULL, sha256[CLI_SHA256_HEX] = "";
    fvlm_status status = cli_zoo_home(&home, &error);
    if (status == FVLM_OK)
        status = cli_zoo_folder(name, &folder, &error);
    bool here = status == FVLM_OK && !again && cli_zoo_downloaded(folder);
    if (status == FVLM_OK && !here) {
        if ((code = accept_the_licence()) != CLI_DONE) {
            free(home);
            free(folder);
            return code;
        }
        cli_interrupt_catch();
        status = pull(name, home, folder, sha256, &error);
        bool interrupted = cli_interrupted();
        cli_interrupt_release();
        if (interrupted) {
            cli_fail(&error);
            cli_interrupt_exit();
        }
    }
    code = CLI_DONE;
    if (status)
        code = cli_fail(&error);
    else if (as_json)
        code = cli_print_json(json_pack("{ss so ss* sb}", "name", name, "folder", cli_json_text(folder), "sha256",
                                        here ? NULL : sha256, "downloaded_before", here));
    else if (here)
        cli_print("%s is here already: %s (--force downloads it again)\n", name, folder);
    else
        cli_print("%s\nSHA-256 of the archive: %s%s\n", folder, sha256,
                  expected_sha256 ? ", as expected" : " (nothing to compare it with was given)");
    free(home);
    free(folder);
    return code;
}
