/* Flags of the published train_qwen.py, and of transformers' trainer behind it, that decide nothing here. */
#ifndef FVLM_CLI_PUBLISHED_FLAGS_H
#define FVLM_CLI_PUBLISHED_FLAGS_H

#include "options.h"

/* To be included in a command's table, after cli_published_prepare. */
extern struct poptOption cli_published_table[];
void cli_published_prepare(void);

/* Check the values that were given: one that asks for what there is not is wrong usage. Then one notice says which
 * flags were passed by. */
bool cli_published_check(const cli_usage *usage);

/* The stage of ZeRO in a configuration of DeepSpeed, "zero_optimization": {"stage": 3}; false after printing the error.
 */
bool cli_deepspeed_stage(const cli_usage *usage, const char *path, int *stage);

#endif
