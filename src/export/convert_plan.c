/* Planning types, and turning stored values into written ones: rows -> float32 -> the type, a block of rows at a time
 * over the pool. What keeps its type is copied. */
#include "export/convert_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export/export_source.h"
#include "kernels/quantize.h"

#define PIECE_BYTES ((size_t)8 << 20) /* of float32 values that are converted together, or bytes copied at once */
#define STORED FVLM_U64               /* as a wanted type: leave it; no weights are U64 */

static const char *const part_names[FVLM_PARTS] = {"vision", "projector", "embed", "head", "llm"};

static const struct {
    const char *name;
    fvlm_dtype type;
} type_names[] = {{"f32", FVLM_F32},   {"f16", FVLM_F16},   {"bf16", FVLM_BF16}, {"q8_0", FVLM_Q8_0},
                  {"q4_0", FVLM_Q4_0}, {"q4_k", FVLM_Q4_K}, {"stored", STORED}};

static bool is_block_type(fvlm_dtype type)
{
    size_t bytes;
    return fvlm_dtype_block(type, &bytes) > 0;
}

static fvlm_status find_type(const char *name, size_t length, fvlm_dtype *type, fvlm_error *error)
{
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++)
        if (strlen(type_names[i].name) == length && memcmp(type_names[i].name, name, length) == 0) {
            *type = type_names[i].type;
            return FVLM_OK;
        }
    return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "type \"%.*s\" is not f32, f16, bf16, q8_0, q4_0 or q4_k", (int)length,
                     name);
}

/* "vision=bf16,embed=q8_0". `named`: the parts in it. */
static fvlm_status read_keep(const char *keep, fvlm_dtype types[FVLM_PARTS], bool named[FVLM_PARTS], fvlm_error *error)
{
    for (const char *rule = keep; *rule;) {
        size_t length = strcspn(rule, ","), name = strcspn(rule, "=,"), part = 0;
        while (part < FVLM_PARTS && (strlen(part_names[part]) != name || memcmp(part_names[part], rule, name) != 0))
            part++;
        if (part == FVLM_PARTS || name == length)
            return fvlm_fail(error, FVLM_ERROR_ARGUMENT,
                             "\"%.*s\" is not PART=TYPE with one of vision, projector, embed, head, llm", (int)length,
                             rule);
        fvlm_status status = find_type(rule + name + 1, length - name - 1, &types[part], error);
        if (status)
            return status;
        named[part] = true;
        rule += length + (rule[length] == ',');
    }
    if (is_block_type(types[FVLM_PART_VISION]))
        return fvlm_fail(error, FVLM_ERROR_ARGUMENT, "the vision tower takes f32, f16 or bf16, not %s",
                         fvlm_dtype_name(types[FVLM_PART_VISION]));
    return FVLM_OK;
}

static fvlm_status read_types(const char *type, const char *keep, fvlm_dtype types[FVLM_PARTS], bool named[FVLM_PARTS],
                              fvlm_error *error)
{
    fvlm_dtype all = STORED;
    fvlm_status status = type ? find_type(type, strlen(type), &all, error) : FVLM_OK;
    for (size_t i = 0; i < FVLM_PARTS; i++)
        types[i] = all;
    if (is_block_type(all)) /* the tower's convolutions have no rows of whole blocks */
        types[FVLM_PART_VISION] = STORED;
    return status || !keep ? status : read_keep(keep, types, named, error);
}

static bool starts(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static fvlm_part part_of(const char *name)
{
    return starts(name, "model.vision_tower.")                                   ? FVLM_PART_VISION
           : starts(name, "model.mm_projector.") || starts(name, "model.image_") ? FVLM_PART_PROJECTOR
           : starts(name, "model.embed_tokens.")                                 ? FVLM_PART_EMBED
           : starts(name, "lm_head.")                                            ? FVLM_PART_HEAD
                                                                                 : FVLM_PART_LLM;
}

static bool is_float(fvlm_dtype type)
{
    return type == FVLM_F32 || type == FVLM_F16 || type == FVLM_BF16 || type == FVLM_F64;
}

/* Fewer than two dimensions that are more than one. */
static bool is_vector(const fvlm_planned *tensor)
{
    int wide = 0;
    for (int i = 0; i < tensor->rank; i++)
        wide += tensor->shape[i] > 1;
    return wide < 2;
}

/* The type that a tensor of type `stored` gets; *replaced is set when it is not the wanted one. */
static fvlm_dtype choose_type(const fvlm_planned *tensor, fvlm_dtype stored, fvlm_dtype wanted, size_t *replaced)
{
    size_t bytes, block = fvlm_dtype_block(wanted, &bytes);
    if (wanted == STORED || !(is_float(stored) || is_block_type(stored)))
        return stored;
    if (is_vector(tensor))
        return FVLM_F32;
    if (!block || (tensor->rank == 2 && tensor->source.cols % block == 0))
        return wanted;
    ++*replaced;
    return wanted == FVLM_Q4_K && tensor->rank == 2 && tensor->source.cols % FVLM_BLOCK_PART == 0 ? FVLM_Q4_0
                                                                                                  : FVLM_F16;
}

/* The scales or biases of an MLX matrix, which its words bring along. */
static bool is_companion(const fvlm_source *source, const fvlm_tensor *tensor)
{
    const char *dot = strrchr(tensor->name, '.');
    char words[FVLM_MAX_NAME];
    if (!dot || (strcmp(dot, ".scales") != 0 && strcmp(dot, ".biases") != 0))
        return false;
    int length = snprintf(words, sizeof words, "%.*s.weight", (int)(dot - tensor->name), tensor->name);
    const fvlm_tensor *found =
        length > 0 && (size_t)length < sizeof words ? fvlm_tensor_table_find(source->table, words) : NULL;
    return found && found->type == FVLM_U32;
}

/* Where the values of `stored` are; *type is what they are of. */
static fvlm_status find_values(const fvlm_source *source, const fvlm_tensor *stored, fvlm_plan *plan,
                               fvlm_planned *tensor, fvlm_dtype *type, fvlm_error *error)
{
    fvlm_matrix *values = &tensor->source;
    fvlm_status status = fvlm_export_find_matrix(source, plan->arena, stored, values, error);
    *type = values->scales ? values->scale_type : stored->type;
    tensor->rank = stored->rank;
    memcpy(tensor->shape, stored->shape, sizeof tensor->shape);
    if (values->scales) {
        tensor->shape[1] = values->cols;
    } else if (stored->rank == 1) { /* in one go */
        values->cols = values->rows;
        values->rows = 1;
    }
    return status;
}

fvlm_status fvlm_plan_make(const fvlm_source *source, const char *type, const char *keep, fvlm_plan *plan,
                           fvlm_error *error)
{
    fvlm_dtype types[FVLM_PARTS];
    bool named[FVLM_PARTS] = {false};
    size_t count = fvlm_tensor_table_count(source->table);
    *plan = (fvlm_plan){.tensors = fvlm_calloc(count + 1, sizeof *plan->tensors), .arena = fvlm_arena_create()};
    fvlm_status status = plan->tensors && plan->arena ? FVLM_OK : fvlm_fail_memory(error);
    if (!status)
        status = read_types(type, keep, types, named, error);
    for (size_t i = 0; i < count && !status; i++) {
        const fvlm_tensor *stored = fvlm_tensor_table_at(source->table, i);
        plan->bytes_before += stored->bytes;
        if (is_companion(source, stored))
            continue;
        fvlm_planned *tensor = &plan->tensors[plan->count++];
        fvlm_dtype stored_type;
        tensor->name = stored->name;
        tensor->part = part_of(stored->name);
        status = find_values(source, stored, plan, tensor, &stored_type, error);
        if (status)
            break;
        tensor->type = choose_type(tensor, stored_type, types[tensor->part], &plan->replaced);
        if (!fvlm_dtype_size(tensor->type, tensor->rank, tensor->shape, &tensor->bytes))
            status = fvlm_fail(error, FVLM_ERROR_FORMAT, "tensor %s is too large", tensor->name);
        plan->bytes_after += tensor->bytes;
        named[tensor->part] = false;
    }
    for (size_t part = 0; part < FVLM_PARTS && !status; part++)
        if (named[part])
            status = fvlm_fail(error, FVLM_ERROR_ARGUMENT, "%s has no weights of its own for %s%s", source->path,
                               part_names[part], part == FVLM_PART_HEAD ? ": it uses those of embed" : "");
    return status;
}

void fvlm_plan_clear(fvlm_plan *plan)
{
    free(plan->tensors);
    fvlm_arena_destroy(&plan->arena);
    *plan = (fvlm_plan){0};
}

struct piece {
    const fvlm_planned *tensor;
    size_t first;     /* row */
    size_t row_bytes; /* as written */
    float *values;    /* [rows, cols] */
    uint8_t *out;     /* [rows, row_bytes] */
};

static void convert_row(void *argument, size_t index, int thread)
{
    (void)thread;
    const struct piece *piece = argument;
    const fvlm_matrix *source = &piece->tensor->source;
    float *values = piece->values + index * source->cols;
    fvlm_matrix_row(source, piece->first + index, values);
    fvlm_from_float(piece->tensor->type, values, source->cols, piece->out + index * piece->row_bytes);
}

static fvlm_status copy(const fvlm_planned *tensor, const fvlm_source *source, fvlm_sink_fn sink, void *user,
                        fvlm_error *error)
{
    fvlm_status status = FVLM_OK;
    const uint8_t *data = tensor->source.data;
    for (size_t at = 0; at < tensor->bytes && !status; at += PIECE_BYTES) {
        size_t left = tensor->bytes - at, bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
        status = sink(user, data + at, bytes, error);
        fvlm_source_forget(source, data + at, bytes);
    }
    return status;
}

fvlm_status fvlm_planned_write(const fvlm_planned *tensor, const fvlm_source *source, fvlm_pool *pool,
                               fvlm_sink_fn sink, void *user, fvlm_error *error)
{
    const fvlm_matrix *from = &tensor->source;
    if (tensor->bytes == 0)
        return FVLM_OK;
    if (tensor->type == from->type)
        return copy(tensor, source, sink, user, error);
    size_t most = PIECE_BYTES / sizeof(float) / from->cols, stored = fvlm_matrix_bytes(from) / from->rows;
    struct piece piece = {.tensor = tensor, .row_bytes = tensor->bytes / from->rows};
    most = most < 1 ? 1 : most > from->rows ? from->rows : most;
    piece.values = fvlm_aligned_alloc(most * from->cols * sizeof(float));
    piece.out = fvlm_aligned_alloc(most * piece.row_bytes);
    fvlm_status status = piece.values && piece.out ? FVLM_OK : fvlm_fail_memory(error);
    for (; piece.first < from->rows && !status; piece.first += most) {
        size_t left = from->rows - piece.first, rows = left < most ? left : most;
        fvlm_pool_run(pool, rows, convert_row, &piece);
        status = sink(user, piece.out, rows * piece.row_bytes, error);
        if (!from->scales)
            fvlm_source_forget(source, (const uint8_t *)from->data + piece.first * stored, rows * stored);
    }
    fvlm_aligned_free(piece.values);
    fvlm_aligned_free(piece.out);
    return status;
}
