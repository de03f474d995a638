#include "runtime/sums.h"

#define CAPACITY_MIN 1024u
#define CAPACITY_MAX (1u << 30)

/* The first empty slot of a hash's probe sequence. */
static uint32_t empty_slot(const struct rt_sum *slots, uint32_t mask, uint64_t hash)
{
    uint32_t pos = (uint32_t)hash & mask;

    while (slots[pos].tag != 0) {
        pos = (pos + 1) & mask;
    }
    return pos;
}

/* Twice the room. Hashes are not kept, they are cheaper to compute again than to carry along. */
static bool grow(struct rt_sums *t)
{
    uint32_t capacity = t->slots ? (t->mask + 1) * 2 : CAPACITY_MIN;
    struct rt_sum *slots =
        capacity <= CAPACITY_MAX ? mem_aligned(64, (size_t)capacity * sizeof *slots) : NULL;
    uint32_t *order = slots ? mem_alloc((size_t)capacity / 2 * sizeof *order) : NULL;

    if (!order) {
        mem_free(slots);
        return false;
    }
    memset(slots, 0, (size_t)capacity * sizeof *slots);
    ASSERT(t->slots || t->count == 0);
    for (uint32_t i = 0; i < t->count; i++) {
        const struct rt_sum *s = &t->slots[t->order[i]];
        order[i] = empty_slot(slots, capacity - 1, hash_key(s->key, s->len));
        slots[order[i]] = *s;
    }
    mem_free(t->slots);
    mem_free(t->order);
    t->slots = slots;
    t->order = order;
    t->mask = capacity - 1;
    return true;
}

bool rt_sums_add_new(struct rt_sums *t, uint64_t hash, struct levee_slice key, uint64_t head,
                     int64_t v)
{
    ASSERT(key.len <= UINT32_MAX); /* a record fits a log segment */
    if ((!t->slots || t->count > t->mask / 2) && !grow(t)) {
        return false;
    }
    uint32_t pos = empty_slot(t->slots, t->mask, hash);
    t->slots[pos] = (struct rt_sum){
        .head = head, .key = key.data, .sum = v, .len = (uint32_t)key.len, .tag = rt_sum_tag(hash)};
    t->order[t->count++] = pos;
    return true;
}

void rt_sums_clear(struct rt_sums *t)
{
    for (uint32_t i = 0; i < t->count; i++) {
        t->slots[t->order[i]].tag = 0;
    }
    t->count = 0;
}

void rt_sums_release(struct rt_sums *t)
{
    mem_free(t->slots);
    mem_free(t->order);
    *t = (struct rt_sums){0};
}
