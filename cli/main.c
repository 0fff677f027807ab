/* fastvlm: finds the command, and sees that what it printed reached standard output. */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "base/system.h"
#include "builtin_model.h"
#include "command.h"
#include "fastvlm/engine.h"
#include "output.h"

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, const char **argv);
} command;

static const command commands[] = {
    {"predict", "answer a question about pictures", cmd_predict},
    {"chat", "the same as a conversation", cmd_chat},
    {"models", "list the models that there are, and which are here", cmd_models},
    {"pull", "download a published model", cmd_pull},
    {"train", "fine-tune a model on conversations about pictures", cmd_train},
    {"merge", "merge a LoRA adapter into its model", cmd_merge},
    {"eval", "score a model on a data set of questions", cmd_eval},
    {"export", "write a model in the layout of other tools", cmd_export},
    {"bench", "measure encoding, prefill, decoding and memory", cmd_bench},
    {"trace", "write every stage's tensor to a file", cmd_trace},
    {"convert", "write a model as GGUF, or in another layout or number type", cmd_convert},
    {"quantize", "round a model's weights to 4 or 8 bits by pictures and prompts", cmd_quantize},
    {"inspect", "list what is in a model file", cmd_inspect},
    {"tokenize", "token ids of a text", cmd_tokenize},
    {"template", "the prompt that a chat template makes", cmd_template},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_help(void)
{
    cli_print("Usage: fastvlm COMMAND [OPTION...]\n\n"
              "Answers about pictures with FastVLM models, on this machine's processor.\n\nCommands:\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        cli_print("  %-10s %s\n", commands[i].name, commands[i].summary);
    cli_print("\n`fastvlm COMMAND --help` lists a command's options and shows an example.\n"
              "Exit codes: 0 done, 1 failed, 2 wrong usage.\n\n"
              "Example:\n  fastvlm predict --image cat.jpg --prompt \"What is this?\"\n");
}

static int run(int argc, const char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        cli_error("no command given; `fastvlm --help` lists them");
        return CLI_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help();
        return CLI_DONE;
    }
    if (strcmp(name, "--version") == 0) {
        cli_print("fastvlm %s\n", fvlm_version());
        return CLI_DONE;
    }
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    cli_error("'%s' is not a command; `fastvlm --help` lists them", name);
    return CLI_USAGE;
}

int main(int argc, char **argv)
{
    fvlm_error error;
    setlocale(LC_CTYPE, "");
    fvlm_ignore_write_signals();
    if (cli_builtin_model(&error))
        return cli_fail(&error);
    int code = run(argc, (const char **)argv);
    return cli_close_output() ? code : CLI_FAILED;
}
