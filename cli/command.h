/* The commands of the program: each lives in cmd_NAME.c, gets its own argument vector (argv[0] is its name), and
 * returns the process's exit code. */
#ifndef FVLM_CLI_COMMAND_H
#define FVLM_CLI_COMMAND_H

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

int cmd_predict(int argc, const char **argv);
int cmd_chat(int argc, const char **argv);
int cmd_trace(int argc, const char **argv);
int cmd_tokenize(int argc, const char **argv);
int cmd_template(int argc, const char **argv);
int cmd_bench(int argc, const char **argv);
int cmd_eval(int argc, const char **argv);
int cmd_convert(int argc, const char **argv);
int cmd_export(int argc, const char **argv);
int cmd_inspect(int argc, const char **argv);
int cmd_quantize(int argc, const char **argv);
int cmd_models(int argc, const char **argv);
int cmd_pull(int argc, const char **argv);
int cmd_train(int argc, const char **argv);
int cmd_merge(int argc, const char **argv);

#endif
