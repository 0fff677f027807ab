/* The published template table (conv_templates of ml-fastvlm's llava/conversation.py), as data. The wording is part of
 * what the models were trained on; see NOTICE. The styles there become these strings:
 *
 *     SINGLE        system sep, then "role: text sep" or "role:"
 *     TWO           the same with the separators alternating: sep after even turns, sep2 after odd ones
 *     MPT, QWEN_2   system sep, then "role text sep" or "role", the role being "<|im_start|>user\n"
 *     LLAMA_2       "[INST] <<SYS>>\n system \n<</SYS>>\n\n text [/INST]" " answer sep2", sep in front of every user
 *                   turn but the first (where the published code strips it)
 *     PLAIN         texts and separators only
 *
 * PLAIN has no sep2, so the published code fails on an answered turn; here an answer ends like a question, which is
 * how that template's training data was written. */
#include "text/template.h"

#include <string.h>

#define ARRAY_COUNT(array) (sizeof(array) / sizeof *(array))

#define HUMAN_SYSTEM                                                                                                   \
    "A chat between a curious human and an artificial intelligence assistant. "                                        \
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
#define USER_SYSTEM                                                                                                    \
    "A chat between a curious user and an artificial intelligence assistant. "                                         \
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
#define MMTAG_SYSTEM                                                                                                   \
    "A chat between a curious user and an artificial intelligence assistant. "                                         \
    "The assistant is able to understand the visual content that the user provides, and assist the user with a "       \
    "variety of tasks using natural language."                                                                         \
    "The visual content will be provided with the following format: <Image>visual content</Image>."
#define LLAMA_2_SYSTEM                                                                                                 \
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "  \
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "   \
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"                              \
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering "           \
    "something not correct. If you don't know the answer to a question, please don't share false information."
#define LLAVA_LLAMA_2_SYSTEM                                                                                           \
    "You are a helpful language and vision assistant. "                                                                \
    "You are able to understand the visual content that the user provides, "                                           \
    "and assist the user with a variety of tasks using natural language."
#define MPT_SYSTEM                                                                                                     \
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."

static const fvlm_turn vicuna_example[] = {
    {"user", "What are the key differences between renewable and non-renewable energy sources?"},
    {"assistant", "Renewable energy sources are those that can be replenished naturally in a relatively "
                  "short amount of time, such as solar, wind, hydro, geothermal, and biomass. "
                  "Non-renewable energy sources, on the other hand, are finite and will eventually be "
                  "depleted, such as coal, oil, and natural gas. Here are some key differences between "
                  "renewable and non-renewable energy sources:\n"
                  "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable "
                  "energy sources are finite and will eventually run out.\n"
                  "2. Environmental impact: Renewable energy sources have a much lower environmental impact "
                  "than non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, "
                  "and other negative effects.\n"
                  "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically "
                  "have lower operational costs than non-renewable sources.\n"
                  "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote "
                  "locations than non-renewable sources.\n"
                  "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different "
                  "situations and needs, while non-renewable sources are more rigid and inflexible.\n"
                  "6. Sustainability: Renewable energy sources are more sustainable over the long term, while "
                  "non-renewable sources are not, and their depletion can lead to economic and social instability.\n"},
};

#define COLON_ROLE(role, separator)                                                                                    \
    {                                                                                                                  \
        role ": ", separator, role ":"                                                                                 \
    }
#define TAG_ROLE(role, separator)                                                                                      \
    {                                                                                                                  \
        "<|im_start|>" role "\n", separator, "<|im_start|>" role "\n"                                                  \
    }

/* Members that every template of a style shares. */
#define SINGLE_STYLE                                                                                                   \
    .system_prefix = "", .system_suffix = "###", .keep_empty_system = true, .user = COLON_ROLE("Human", "###"),        \
    .assistant = COLON_ROLE("Assistant", "###")
#define TWO_STYLE                                                                                                      \
    .system_prefix = "", .system_suffix = " ", .keep_empty_system = true, .user = COLON_ROLE("USER", " "),             \
    .assistant = COLON_ROLE("ASSISTANT", "</s>"), .order = FVLM_TEMPLATE_SUFFIX_BY_PLACE
#define TAG_STYLE(separator)                                                                                           \
    .system_prefix = "<|im_start|>system\n", .system_suffix = separator, .keep_empty_system = true,                    \
    .user = TAG_ROLE("user", separator), .assistant = TAG_ROLE("assistant", separator)
#define LLAMA_2_STYLE(separator)                                                                                       \
    .system_prefix = "<<SYS>>\n", .system_suffix = "\n<</SYS>>\n\n", .system_in_first_turn = true, .user_first = true, \
    .user = {separator "[INST] ", " [/INST]", ""}, .assistant = {" ", " </s>", ""}, .first_prefix = "[INST] ",         \
    .order = FVLM_TEMPLATE_ALL_BY_PLACE

static const fvlm_template vicuna_v0 = {SINGLE_STYLE, .system = HUMAN_SYSTEM, .turns = vicuna_example,
                                        .turn_count = ARRAY_COUNT(vicuna_example)};
static const fvlm_template llava_v0 = {SINGLE_STYLE, .system = HUMAN_SYSTEM};
static const fvlm_template v0_mmtag = {SINGLE_STYLE, .system = MMTAG_SYSTEM};
static const fvlm_template vicuna_v1 = {TWO_STYLE, .system = USER_SYSTEM};
static const fvlm_template llava_v1 = {TWO_STYLE, .system = HUMAN_SYSTEM};
static const fvlm_template v1_mmtag = {TWO_STYLE, .system = MMTAG_SYSTEM};
static const fvlm_template qwen_2 = {TAG_STYLE("<|im_end|>\n"), .system = "You are a helpful assistant."};
static const fvlm_template mpt = {TAG_STYLE("<|im_end|>"), .system = MPT_SYSTEM};
static const fvlm_template chatml_direct = {TAG_STYLE("<|im_end|>"), .system = "Answer the questions."};
static const fvlm_template llama_2 = {LLAMA_2_STYLE("<s>"), .system = LLAMA_2_SYSTEM};
static const fvlm_template llava_llama_2 = {LLAMA_2_STYLE("<s>"), .system = LLAVA_LLAMA_2_SYSTEM};
static const fvlm_template mistral_instruct = {LLAMA_2_STYLE(""), .system = ""};
static const fvlm_template plain = {
    .system_prefix = "", .system = "", .system_suffix = "", .user = {"", "\n", ""}, .assistant = {"", "\n", ""}};

/* Names in the published order; names[i] is templates[i]. */
static const char *const names[] = {
    "default",
    "v0",
    "v1",
    "vicuna_v1",
    "qwen_2",
    "llama_2",
    "mistral_instruct",
    "chatml_direct",
    "mistral_direct",
    "plain",
    "v0_plain",
    "llava_v0",
    "v0_mmtag",
    "llava_v1",
    "v1_mmtag",
    "llava_llama_2",
    "mpt",
};
static const fvlm_template *const templates[] = {
    &qwen_2,           &vicuna_v0,     &vicuna_v1,     &vicuna_v1,     &qwen_2, &llama_2,
    &mistral_instruct, &chatml_direct, &chatml_direct, &plain,         &plain,  &llava_v0,
    &v0_mmtag,         &llava_v1,      &v1_mmtag,      &llava_llama_2, &mpt,
};
_Static_assert(ARRAY_COUNT(names) == ARRAY_COUNT(templates), "a name for each template");

const char *const *fvlm_template_names(size_t *count)
{
    *count = ARRAY_COUNT(names);
    return names;
}

const fvlm_template *fvlm_template_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (strcmp(names[i], name) == 0)
            return templates[i];
    return NULL;
}
