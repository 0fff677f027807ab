/* Slots of layers, and what moves between ranks when. */
#include "train/shards.h"

#include <stdlib.h>
#include <string.h>

struct needs {
    size_t floats[FVLM_SLOTS];
    size_t share; /* of a parameter, at most */
};

static struct needs needs_of(const fvlm_parameters *measured)
{
    struct needs needs = {0};
    for (size_t i = 0; i < measured->group_count; i++) {
        const fvlm_parameter_group *group = &measured->groups[i];
        size_t *floats = &needs.floats[group->slot];
        *floats = group->floats > *floats ? group->floats : *floats;
    }
    for (size_t i = 0; i < measured->count; i++)
        if (measured->items[i]->own && measured->items[i]->share > needs.share)
            needs.share = measured->items[i]->share;
    return needs;
}

/* How many copies of a slot a stage needs: gradients, values. */
static size_t copies(int stage)
{
    return stage == 3 ? 2 : stage == 2 ? 1 : 0;
}

size_t fvlm_shards_floats(const fvlm_parameters *measured, int stage)
{
    struct needs needs = needs_of(measured);
    size_t floats = needs.share;
    for (int i = 0; i < FVLM_SLOTS; i++)
        floats += copies(stage) * needs.floats[i];
    return floats;
}

fvlm_status fvlm_shards_create(fvlm_ranks *ranks, int stage, const fvlm_parameters *measured, fvlm_shards **out,
                               fvlm_error *error)
{
    fvlm_shards *shards = *out = fvlm_calloc(1, sizeof *shards);
    if (!shards)
        return fvlm_fail_memory(error);
    shards->ranks = ranks;
    shards->stage = stage;
    struct needs needs = needs_of(measured);
    shards->scratch = fvlm_aligned_alloc((needs.share + 1) * sizeof(float));
    bool fine = shards->scratch;
    for (int i = 0; i < FVLM_SLOTS; i++) {
        fvlm_slot *slot = &shards->slots[i];
        slot->floats = needs.floats[i];
        size_t bytes = (slot->floats + 1) * sizeof(float);
        if (stage >= 2)
            fine = (slot->gradients = fvlm_aligned_alloc(bytes)) && fine;
        if (stage == 3)
            fine = (slot->values = fvlm_aligned_alloc(bytes)) && fine;
    }
    return fine ? FVLM_OK : fvlm_fail_memory(error);
}

void fvlm_shards_destroy(fvlm_shards **shards)
{
    fvlm_shards *old = *shards;
    if (!old)
        return;
    for (int i = 0; i < FVLM_SLOTS; i++) {
        fvlm_aligned_free(old->slots[i].values);
        fvlm_aligned_free(old->slots[i].gradients);
    }
    fvlm_aligned_free(old->scratch);
    free(old);
    *shards = NULL;
}

/* Start to bring a group's values, if they are not there or on their way. */
static void fetch(const fvlm_parameters *set, size_t index)
{
    fvlm_shards *shards = set->shards;
    const fvlm_parameter_group *group = &set->groups[index];
    fvlm_slot *slot = &shards->slots[group->slot];
    if (shards->stage < 3 || group->floats == 0 || slot->held == index + 1)
        return;
    for (size_t i = group->first; i < group->first + group->count; i++) {
        const fvlm_parameter *parameter = set->items[i];
        if (parameter->trained)
            slot->fetched = fvlm_ranks_gather(shards->ranks, parameter->own_value, parameter->count, parameter->value);
    }
    slot->held = index + 1;
}

void fvlm_group_use(fvlm_parameters *set, size_t index, int ahead)
{
    fvlm_shards *shards = set->shards;
    if (!shards || set->groups[index].floats == 0)
        return;
    fetch(set, index);
    bool inside = ahead > 0 ? index + 1 < set->group_count : ahead < 0 && index > 0;
    size_t next = ahead > 0 ? index + 1 : index - 1;
    if (inside && set->groups[next].slot != FVLM_WIDE_SLOT && set->groups[next].slot != set->groups[index].slot)
        fetch(set, next);
    fvlm_ranks_wait(shards->ranks, shards->slots[set->groups[index].slot].fetched);
}

void fvlm_group_reuse(fvlm_parameters *set, size_t index)
{
    fvlm_group_use(set, index, -1);
    fvlm_group_clear(set, index);
}

void fvlm_group_clear(fvlm_parameters *set, size_t index)
{
    fvlm_shards *shards = set->shards;
    if (!shards || shards->stage < 2)
        return;
    fvlm_slot *slot = &shards->slots[set->groups[index].slot];
    fvlm_ranks_wait(shards->ranks, slot->sent);
    if (slot->gradients)
        memset(slot->gradients, 0, set->groups[index].floats * sizeof *slot->gradients);
}

void fvlm_group_sent(fvlm_parameters *set, size_t index)
{
    fvlm_shards *shards = set->shards;
    if (!shards || (shards->stage == 1 && !shards->complete))
        return;
    const fvlm_parameter_group *group = &set->groups[index];
    for (size_t i = group->first; i < group->first + group->count; i++) {
        const fvlm_parameter *parameter = set->items[i];
        if (parameter->trained)
            shards->slots[group->slot].sent =
                fvlm_ranks_reduce(shards->ranks, parameter->gradient, parameter->count, parameter->own_gradient,
                                  shards->stage >= 2, shards->scratch);
    }
}

void fvlm_groups_pass(fvlm_parameters *set, size_t first, size_t count, bool backward)
{
    for (size_t i = 0; i < count; i++) {
        size_t index = backward ? first + count - 1 - i : first + i;
        if (!backward) {
            fvlm_group_use(set, index, 1);
        } else {
            fvlm_group_reuse(set, index);
            fvlm_group_sent(set, index);
        }
    }
}

void fvlm_shards_settle(fvlm_parameters *set)
{
    for (int i = 0; set->shards && i < FVLM_SLOTS; i++)
        fvlm_ranks_wait(set->shards->ranks, set->shards->slots[i].sent);
}

void fvlm_shards_renew(fvlm_parameters *set)
{
    fvlm_shards *shards = set->shards;
    if (!shards)
        return;
    uint64_t last = 0;
    for (size_t i = 0; i < set->count && shards->stage < 3; i++) {
        const fvlm_parameter *parameter = set->items[i];
        if (parameter->trained)
            last = fvlm_ranks_gather(shards->ranks, parameter->own_value, parameter->count, parameter->value);
    }
    fvlm_ranks_wait(shards->ranks, last);
    for (int i = 0; i < FVLM_SLOTS; i++)
        shards->slots[i].held = 0;
}

void fvlm_shards_average(fvlm_parameters *set)
{
    enum { RUN = 256 };
    for (size_t i = 0; set->shards && i < set->count; i++) {
        const fvlm_parameter *parameter = set->items[i];
        if (!parameter->own || parameter->trained)
            continue;
        for (size_t first = 0, n; first < parameter->count; first += n) {
            double sums[RUN];
            n = parameter->count - first < RUN ? parameter->count - first : RUN;
            for (size_t k = 0; k < n; k++)
                sums[k] = (double)parameter->value[first + k];
            fvlm_ranks_sum(set->shards->ranks, sums, n);
            for (size_t k = 0; k < n; k++)
                parameter->value[first + k] = (float)(sums[k] / fvlm_ranks_count(set->shards->ranks));
        }
    }
}
