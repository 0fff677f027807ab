/* Opcodes of pickles; see pickle_machine.h. */
#include "formats/pickle_machine.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "formats/tensor_table.h"

#define MAX_NODES ((size_t)1 << 18) /* a checkpoint of 1000 tensors makes 15000; a node takes 128 bytes */
#define MAX_GLOBAL 200              /* bytes of a module's and of a name */
#define POINTERS_A_NODE 16          /* arrays of pointers are charged as nodes */

/* What a global stands for. */
enum meaning {
    MAKE_DICT,
    MAKE_SIZE,
    REBUILD_TENSOR,    /* (storage, offset, shape, strides, ...) */
    REBUILD_TYPED,     /* the same, element 6 is the type */
    REBUILD_PARAMETER, /* (tensor, ...) */
    NUMBER_TYPE        /* a number type, or the storage of one */
};

static const struct {
    const char *name; /* as the pickle spells it: module, space, name */
    enum meaning meaning;
    fvlm_dtype type;
} globals[] = {
    {"collections OrderedDict", MAKE_DICT, 0},
    {"torch Size", MAKE_SIZE, 0},
    {"torch._utils _rebuild_tensor", REBUILD_TENSOR, 0},
    {"torch._utils _rebuild_tensor_v2", REBUILD_TENSOR, 0},
    {"torch._utils _rebuild_tensor_v3", REBUILD_TYPED, 0},
    {"torch._utils _rebuild_parameter", REBUILD_PARAMETER, 0},
    {"torch.storage UntypedStorage", NUMBER_TYPE, FVLM_U8},
    {"torch.storage _UntypedStorage", NUMBER_TYPE, FVLM_U8},
    {"torch UntypedStorage", NUMBER_TYPE, FVLM_U8},
    {"torch FloatStorage", NUMBER_TYPE, FVLM_F32},
    {"torch HalfStorage", NUMBER_TYPE, FVLM_F16},
    {"torch BFloat16Storage", NUMBER_TYPE, FVLM_BF16},
    {"torch DoubleStorage", NUMBER_TYPE, FVLM_F64},
    {"torch ByteStorage", NUMBER_TYPE, FVLM_U8},
    {"torch CharStorage", NUMBER_TYPE, FVLM_I8},
    {"torch ShortStorage", NUMBER_TYPE, FVLM_I16},
    {"torch IntStorage", NUMBER_TYPE, FVLM_I32},
    {"torch LongStorage", NUMBER_TYPE, FVLM_I64},
    {"torch BoolStorage", NUMBER_TYPE, FVLM_BOOL},
    {"torch float32", NUMBER_TYPE, FVLM_F32},
    {"torch float16", NUMBER_TYPE, FVLM_F16},
    {"torch bfloat16", NUMBER_TYPE, FVLM_BF16},
    {"torch float64", NUMBER_TYPE, FVLM_F64},
    {"torch uint8", NUMBER_TYPE, FVLM_U8},
    {"torch int8", NUMBER_TYPE, FVLM_I8},
    {"torch int16", NUMBER_TYPE, FVLM_I16},
    {"torch uint16", NUMBER_TYPE, FVLM_U16},
    {"torch int32", NUMBER_TYPE, FVLM_I32},
    {"torch uint32", NUMBER_TYPE, FVLM_U32},
    {"torch int64", NUMBER_TYPE, FVLM_I64},
    {"torch uint64", NUMBER_TYPE, FVLM_U64},
    {"torch bool", NUMBER_TYPE, FVLM_BOOL},
};

struct machine {
    const char *path;
    const uint8_t *code; /* [size] */
    size_t size, at;     /* at: the next byte */
    fvlm_arena *arena;   /* nodes, items, stack and memo */
    size_t nodes;
    fvlm_pickle_node **stack; /* [depth] */
    size_t depth, stack_capacity;
    fvlm_pickle_node **memo; /* [memo_size], NULL where nothing was put */
    size_t memo_size, memo_next;
    fvlm_status status; /* the first error; later steps do nothing */
    fvlm_error *error;
};

static void fail(struct machine *machine, fvlm_status code, const char *problem)
{
    if (!machine->status)
        machine->status =
            fvlm_fail(machine->error, code, "%s: byte %zu of the pickle: %s", machine->path, machine->at, problem);
}

static void fail_memory(struct machine *machine)
{
    if (!machine->status)
        machine->status = fvlm_fail_memory(machine->error);
}

/* The next `count` bytes, or NULL behind the end. */
static const uint8_t *take(struct machine *machine, uint64_t count)
{
    if (machine->status || !fvlm_range_fits(machine->at, count, machine->size)) {
        fail(machine, FVLM_ERROR_FORMAT, "it is cut short");
        return NULL;
    }
    const uint8_t *bytes = machine->code + machine->at;
    machine->at += (size_t)count;
    return bytes;
}

/* A little-endian number of `count` bytes, at most 8. */
static uint64_t take_number(struct machine *machine, size_t count)
{
    const uint8_t *bytes = take(machine, count);
    uint64_t value = 0;
    for (size_t i = count; bytes && i > 0; i--)
        value = value << 8 | bytes[i - 1];
    return value;
}

/* A new array of `capacity` pointers with the old one's `count`; NULL on failure. */
static fvlm_pickle_node **grow(struct machine *machine, fvlm_pickle_node **old, size_t count, size_t capacity)
{
    if (capacity / POINTERS_A_NODE > MAX_NODES - machine->nodes) {
        fail(machine, FVLM_ERROR_LIMIT, "it makes too many values for a checkpoint");
        return NULL;
    }
    machine->nodes += capacity / POINTERS_A_NODE;
    fvlm_pickle_node **items = fvlm_arena_alloc(machine->arena, capacity, sizeof *items);
    if (!items)
        fail_memory(machine);
    else if (count)
        memcpy(items, old, count * sizeof *items);
    return items;
}

static fvlm_pickle_node *make(struct machine *machine, fvlm_pickle_kind kind)
{
    if (machine->status)
        return NULL;
    if (machine->nodes == MAX_NODES) {
        fail(machine, FVLM_ERROR_LIMIT, "it makes too many values for a checkpoint");
        return NULL;
    }
    fvlm_pickle_node *node = fvlm_arena_alloc(machine->arena, 1, sizeof *node);
    if (!node) {
        fail_memory(machine);
        return NULL;
    }
    machine->nodes++;
    node->kind = kind;
    return node;
}

static void push(struct machine *machine, fvlm_pickle_node *node)
{
    if (machine->status || !node)
        return;
    if (machine->depth == machine->stack_capacity) {
        size_t capacity = machine->stack_capacity ? 2 * machine->stack_capacity : 256;
        fvlm_pickle_node **stack = grow(machine, machine->stack, machine->depth, capacity);
        if (!stack)
            return;
        machine->stack = stack;
        machine->stack_capacity = capacity;
    }
    machine->stack[machine->depth++] = node;
}

/* The topmost value, `any` kind but a mark; NULL and an error where there is none. */
static fvlm_pickle_node *peek(struct machine *machine)
{
    if (!machine->status && (machine->depth == 0 || machine->stack[machine->depth - 1]->kind == FVLM_PICKLE_MARK))
        fail(machine, FVLM_ERROR_FORMAT, "a value is missing on its stack");
    return machine->status ? NULL : machine->stack[machine->depth - 1];
}

static fvlm_pickle_node *pop(struct machine *machine)
{
    fvlm_pickle_node *node = peek(machine);
    if (node)
        machine->depth--;
    return node;
}

/* The values above the topmost mark: *first is the index of the lowest. The mark and they are popped, the stack's
 * memory still holds them. */
static size_t pop_to_mark(struct machine *machine, size_t *first)
{
    size_t mark = machine->depth;
    while (mark > 0 && machine->stack[mark - 1]->kind != FVLM_PICKLE_MARK)
        mark--;
    if (mark == 0) {
        fail(machine, FVLM_ERROR_FORMAT, "a mark is missing on its stack");
        return 0;
    }
    size_t count = machine->depth - mark;
    *first = mark;
    machine->depth = mark - 1;
    return count;
}

static void push_tuple(struct machine *machine, fvlm_pickle_node *const *items, size_t count)
{
    fvlm_pickle_node *tuple = make(machine, FVLM_PICKLE_TUPLE);
    if (tuple && count) {
        tuple->items = grow(machine, NULL, 0, count);
        if (tuple->items)
            memcpy(tuple->items, items, count * sizeof *items);
        tuple->length = count;
    }
    push(machine, tuple);
}

/* The topmost `count` values become a tuple. */
static void tuple_of(struct machine *machine, size_t count)
{
    fvlm_pickle_node *items[3] = {0};
    for (size_t i = count; i > 0; i--)
        items[i - 1] = pop(machine);
    if (!machine->status)
        push_tuple(machine, items, count);
}

static void push_number(struct machine *machine, int64_t number)
{
    fvlm_pickle_node *node = make(machine, FVLM_PICKLE_NUMBER);
    if (node)
        node->number = number;
    push(machine, node);
}

/* Two's complement of `count` bytes. */
static void push_long(struct machine *machine, size_t count)
{
    if (count > 8) {
        fail(machine, FVLM_ERROR_FORMAT, "a number does not fit into 64 bits");
        return;
    }
    uint64_t value = take_number(machine, count);
    if (count > 0 && count < 8 && value >> (8 * count - 1))
        value |= ~(uint64_t)0 << 8 * count;
    push_number(machine, (int64_t)value);
}

static void push_text(struct machine *machine, uint64_t length)
{
    const uint8_t *text = take(machine, length);
    fvlm_pickle_node *node = text ? make(machine, FVLM_PICKLE_TEXT) : NULL;
    if (node) {
        node->text = (const char *)text;
        node->length = (size_t)length;
    }
    push(machine, node);
}

/* Push what "module name" stands for; the allow-list ends here. */
static void push_global(struct machine *machine, const char *module, size_t module_length, const char *name,
                        size_t name_length)
{
    char spelled[2 * MAX_GLOBAL + 2];
    if (machine->status)
        return;
    if (module_length > MAX_GLOBAL || name_length > MAX_GLOBAL) {
        fail(machine, FVLM_ERROR_UNSUPPORTED, "the name of a global is too long");
        return;
    }
    snprintf(spelled, sizeof spelled, "%.*s %.*s", (int)module_length, module, (int)name_length, name);
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++)
        if (strcmp(globals[i].name, spelled) == 0) {
            fvlm_pickle_node *node = make(machine, FVLM_PICKLE_GLOBAL);
            if (node) {
                node->meaning = globals[i].meaning;
                node->type = globals[i].type;
            }
            push(machine, node);
            return;
        }
    machine->status = fvlm_fail(machine->error, FVLM_ERROR_UNSUPPORTED,
                                "%s: the pickle asks for '%.*s.%.*s', which weights have no need of; nothing was "
                                "executed. Save the model's state_dict as safetensors",
                                machine->path, (int)module_length, module, (int)name_length, name);
}

/* GLOBAL: two lines. */
static void read_global(struct machine *machine)
{
    const char *lines[2];
    size_t lengths[2];
    for (int i = 0; i < 2; i++) {
        lines[i] = (const char *)machine->code + machine->at;
        const char *end = memchr(lines[i], '\n', machine->size - machine->at);
        if (!end) {
            fail(machine, FVLM_ERROR_FORMAT, "it is cut short");
            return;
        }
        lengths[i] = (size_t)(end - lines[i]);
        machine->at += lengths[i] + 1;
    }
    push_global(machine, lines[0], lengths[0], lines[1], lengths[1]);
}

/* STACK_GLOBAL: module and name are texts on the stack. */
static void stack_global(struct machine *machine)
{
    fvlm_pickle_node *name = pop(machine), *module = pop(machine);
    if (machine->status)
        return;
    if (name->kind != FVLM_PICKLE_TEXT || module->kind != FVLM_PICKLE_TEXT)
        fail(machine, FVLM_ERROR_FORMAT, "the name of a global is not a text");
    else
        push_global(machine, module->text, module->length, name->text, name->length);
}

static void put(struct machine *machine, uint64_t index)
{
    fvlm_pickle_node *node = peek(machine);
    if (!node)
        return;
    if (index >= MAX_NODES) {
        fail(machine, FVLM_ERROR_LIMIT, "it remembers too many values for a checkpoint");
        return;
    }
    if (index >= machine->memo_size) {
        size_t size = machine->memo_size ? machine->memo_size : 256;
        while (size <= index)
            size *= 2;
        fvlm_pickle_node **memo = grow(machine, machine->memo, machine->memo_size, size);
        if (!memo)
            return;
        machine->memo = memo;
        machine->memo_size = size;
    }
    machine->memo[index] = node;
}

static void get(struct machine *machine, uint64_t index)
{
    if (machine->status)
        return;
    if (index >= machine->memo_size || !machine->memo[index])
        fail(machine, FVLM_ERROR_FORMAT, "it recalls a value that it never made");
    else
        push(machine, machine->memo[index]);
}

/* stack[first] and on are key, value, key, value: into the dictionary below them. */
static void set_items(struct machine *machine, size_t first, size_t count)
{
    fvlm_pickle_node *dict = peek(machine);
    if (!dict)
        return;
    if (dict->kind != FVLM_PICKLE_DICT || count % 2 != 0) {
        fail(machine, FVLM_ERROR_FORMAT, "items are set on what is not a dictionary");
        return;
    }
    size_t length = dict->length + count / 2;
    if (length > dict->capacity) {
        size_t capacity = length > 2 * dict->capacity ? length : 2 * dict->capacity;
        fvlm_pickle_node **items = grow(machine, dict->items, 2 * dict->length, 2 * capacity);
        if (!items)
            return;
        dict->items = items;
        dict->capacity = capacity;
    }
    if (count)
        memcpy(dict->items + 2 * dict->length, machine->stack + first, count * sizeof *dict->items);
    dict->length = length;
}

/* ('storage', type, key, device, elements) becomes a storage. */
static void persistent_id(struct machine *machine)
{
    fvlm_pickle_node *id = pop(machine);
    if (!id)
        return;
    fvlm_pickle_node **item = id->items;
    if (id->kind != FVLM_PICKLE_TUPLE || id->length < 5 || item[0]->kind != FVLM_PICKLE_TEXT || item[0]->length != 7 ||
        memcmp(item[0]->text, "storage", 7) != 0 || item[1]->kind != FVLM_PICKLE_GLOBAL ||
        item[1]->meaning != NUMBER_TYPE || item[2]->kind != FVLM_PICKLE_TEXT || item[4]->kind != FVLM_PICKLE_NUMBER ||
        item[4]->number < 0) {
        fail(machine, FVLM_ERROR_FORMAT, "a persistent id is not that of a tensor's storage");
        return;
    }
    fvlm_pickle_node *storage = make(machine, FVLM_PICKLE_STORAGE);
    if (storage) {
        storage->type = item[1]->type;
        storage->text = item[2]->text;
        storage->length = item[2]->length;
        storage->number = item[4]->number;
    }
    push(machine, storage);
}

static bool is_size_tuple(const fvlm_pickle_node *node)
{
    if (node->kind != FVLM_PICKLE_TUPLE || node->length > FVLM_MAX_RANK)
        return false;
    for (size_t i = 0; i < node->length; i++)
        if (node->items[i]->kind != FVLM_PICKLE_NUMBER || node->items[i]->number < 0 ||
            (uint64_t)node->items[i]->number > SIZE_MAX)
            return false;
    return true;
}

static fvlm_pickle_node *rebuild_tensor(struct machine *machine, int meaning, const fvlm_pickle_node *arguments)
{
    fvlm_pickle_node **item = arguments->items;
    bool typed = meaning == REBUILD_TYPED;
    if (arguments->length < (typed ? 7 : 4) || item[0]->kind != FVLM_PICKLE_STORAGE ||
        item[1]->kind != FVLM_PICKLE_NUMBER || item[1]->number < 0 || !is_size_tuple(item[2]) ||
        !is_size_tuple(item[3]) || item[2]->length != item[3]->length ||
        (typed && (item[6]->kind != FVLM_PICKLE_GLOBAL || item[6]->meaning != NUMBER_TYPE))) {
        fail(machine, FVLM_ERROR_FORMAT, "a tensor's storage, offset, shape or strides make no sense");
        return NULL;
    }
    fvlm_pickle_node *tensor = make(machine, FVLM_PICKLE_TENSOR);
    if (tensor) {
        tensor->type = typed ? item[6]->type : item[0]->type;
        tensor->storage = item[0];
        tensor->number = item[1]->number;
        tensor->shape = item[2];
        tensor->strides = item[3];
    }
    return tensor;
}

/* function, arguments -> result */
static void reduce(struct machine *machine)
{
    fvlm_pickle_node *arguments = pop(machine), *function = pop(machine), *result = NULL;
    if (machine->status)
        return;
    if (function->kind != FVLM_PICKLE_GLOBAL || arguments->kind != FVLM_PICKLE_TUPLE) {
        fail(machine, FVLM_ERROR_UNSUPPORTED, "it calls what is not a function of a checkpoint");
        return;
    }
    switch (function->meaning) {
    case MAKE_DICT:
        if (arguments->length == 0)
            result = make(machine, FVLM_PICKLE_DICT);
        break;
    case MAKE_SIZE:
        if (arguments->length == 1 && arguments->items[0]->kind == FVLM_PICKLE_TUPLE)
            result = arguments->items[0];
        break;
    case REBUILD_TENSOR:
    case REBUILD_TYPED:
        result = rebuild_tensor(machine, function->meaning, arguments);
        break;
    case REBUILD_PARAMETER:
        if (arguments->length >= 1 && arguments->items[0]->kind == FVLM_PICKLE_TENSOR)
            result = arguments->items[0];
        break;
    case NUMBER_TYPE:
        break;
    }
    if (!result)
        fail(machine, FVLM_ERROR_FORMAT, "a function's arguments make no sense");
    push(machine, result);
}

/* BUILD: a dictionary may be given attributes, which are ignored. */
static void build(struct machine *machine)
{
    fvlm_pickle_node *state = pop(machine), *object = peek(machine);
    if (state && object && (object->kind != FVLM_PICKLE_DICT || state->kind != FVLM_PICKLE_DICT))
        fail(machine, FVLM_ERROR_UNSUPPORTED, "it sets the state of what is not a dictionary");
}

/* One opcode; the names are those of CPython's pickletools. False at STOP. */
static bool step(struct machine *machine)
{
    const uint8_t *opcode = take(machine, 1);
    size_t first = 0, count;
    if (!opcode)
        return false;
    switch (*opcode) {
    case 0x80: /* PROTO */
        if (take_number(machine, 1) > 5)
            fail(machine, FVLM_ERROR_UNSUPPORTED, "a protocol newer than 5");
        break;
    case 0x95: /* FRAME: only a hint for buffering */
        take(machine, 8);
        break;
    case '.': /* STOP */
        return false;
    case '(': /* MARK */
        push(machine, make(machine, FVLM_PICKLE_MARK));
        break;
    case 'N': /* NONE */
        push(machine, make(machine, FVLM_PICKLE_NONE));
        break;
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        push_number(machine, *opcode == 0x88);
        break;
    case 'K': /* BININT1 */
        push_number(machine, (int64_t)take_number(machine, 1));
        break;
    case 'M': /* BININT2 */
        push_number(machine, (int64_t)take_number(machine, 2));
        break;
    case 'J': /* BININT */
        push_long(machine, 4);
        break;
    case 0x8a: /* LONG1 */
        push_long(machine, (size_t)take_number(machine, 1));
        break;
    case 'G': /* BINFLOAT */
        take(machine, 8);
        push(machine, make(machine, FVLM_PICKLE_OTHER));
        break;
    case 'U':  /* SHORT_BINSTRING, by Python 2 */
    case 0x8c: /* SHORT_BINUNICODE */
        push_text(machine, take_number(machine, 1));
        break;
    case 'X': /* BINUNICODE */
        push_text(machine, take_number(machine, 4));
        break;
    case 0x8d: /* BINUNICODE8 */
        push_text(machine, take_number(machine, 8));
        break;
    case 'c': /* GLOBAL */
        read_global(machine);
        break;
    case 0x93: /* STACK_GLOBAL */
        stack_global(machine);
        break;
    case 'q': /* BINPUT */
        put(machine, take_number(machine, 1));
        break;
    case 'r': /* LONG_BINPUT */
        put(machine, take_number(machine, 4));
        break;
    case 0x94: /* MEMOIZE */
        put(machine, machine->memo_next++);
        break;
    case 'h': /* BINGET */
        get(machine, take_number(machine, 1));
        break;
    case 'j': /* LONG_BINGET */
        get(machine, take_number(machine, 4));
        break;
    case ')': /* EMPTY_TUPLE */
        push_tuple(machine, NULL, 0);
        break;
    case 0x85: /* TUPLE1 */
    case 0x86: /* TUPLE2 */
    case 0x87: /* TUPLE3 */
        tuple_of(machine, *opcode - 0x84u);
        break;
    case 't': /* TUPLE */
        count = pop_to_mark(machine, &first);
        push_tuple(machine, count ? machine->stack + first : NULL, count);
        break;
    case '}': /* EMPTY_DICT */
        push(machine, make(machine, FVLM_PICKLE_DICT));
        break;
    case 's': /* SETITEM */
        pop(machine);
        pop(machine);
        set_items(machine, machine->depth, 2);
        break;
    case 'u': /* SETITEMS */
        count = pop_to_mark(machine, &first);
        set_items(machine, first, count);
        break;
    case ']': /* EMPTY_LIST: what lists hold is of no use here */
        push(machine, make(machine, FVLM_PICKLE_OTHER));
        break;
    case 'a': /* APPEND */
        pop(machine);
        peek(machine);
        break;
    case 'e': /* APPENDS */
        pop_to_mark(machine, &first);
        peek(machine);
        break;
    case 'Q': /* BINPERSID */
        persistent_id(machine);
        break;
    case 'R': /* REDUCE */
        reduce(machine);
        break;
    case 'b': /* BUILD */
        build(machine);
        break;
    default:
        machine->status = fvlm_fail(machine->error, FVLM_ERROR_UNSUPPORTED,
                                    "%s: opcode 0x%02x at byte %zu of the pickle is not one that weights need; nothing "
                                    "was executed. Save the model's state_dict as safetensors",
                                    machine->path, *opcode, machine->at - 1);
    }
    return !machine->status;
}

fvlm_status fvlm_pickle_run(const uint8_t *code, size_t size, const char *path, fvlm_arena *arena,
                            const fvlm_pickle_node **root, fvlm_error *error)
{
    struct machine machine = {.path = path, .code = code, .size = size, .arena = arena, .error = error};
    while (step(&machine)) {
    }
    *root = pop(&machine);
    return machine.status;
}
