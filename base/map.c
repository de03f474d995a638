/*
 * The slots of a hash table whose entries live elsewhere. A slot is 16 bytes and holds the whole
 * hash, so growing touches no key and a probe compares keys only when all 64 bits agree.
 *
 * Linear probing; a removal moves later slots of the run back into the hole (no tombstones), so
 * lookups stay as short as if the removed entry had never been there.
 *
 * Invariants. M1: at most 3/4 of the slots are used, so every probe meets an empty one. M2: no
 * empty slot lies between a slot's home (hash & mask) and the place it is in.
 */
#include "base/base.h"

#define CAPACITY_MIN 16U
#define CAPACITY_MAX (1U << 31)

static bool fits(uint64_t entries, uint64_t capacity)
{
    return entries * 4 <= capacity * 3;
}

static uint64_t capacity_of(const struct map *m)
{
    return m->slots ? (uint64_t)m->mask + 1 : 0;
}

static void place(struct map *m, struct map_slot slot)
{
    uint32_t pos = (uint32_t)slot.hash & m->mask;

    while (m->slots[pos].hash != 0) {
        pos = (pos + 1) & m->mask;
    }
    m->slots[pos] = slot;
}

bool map_reserve(struct map *m, uint32_t entries)
{
    uint64_t capacity = CAPACITY_MIN;

    if (fits(entries, capacity_of(m))) {
        return true;
    }
    while (!fits(entries, capacity)) {
        capacity *= 2;
    }
    if (capacity > CAPACITY_MAX) {
        return false;
    }
    struct map bigger = {.mask = (uint32_t)(capacity - 1), .used = m->used};
    bigger.slots = mem_zalloc((size_t)capacity * sizeof *bigger.slots);
    if (!bigger.slots) {
        return false;
    }
    for (uint64_t i = 0; i < capacity_of(m); i++) {
        if (m->slots[i].hash != 0) {
            place(&bigger, m->slots[i]);
        }
    }
    mem_free(m->slots);
    *m = bigger;
    return true;
}

bool map_insert(struct map *m, uint64_t hash, uint32_t index)
{
    ASSERT(hash != 0);
    if (UNLIKELY(!fits((uint64_t)m->used + 1, capacity_of(m)))) {
        if (m->used == UINT32_MAX || !map_reserve(m, m->used + 1)) {
            return false;
        }
    }
    place(m, (struct map_slot){.hash = hash, .index = index});
    m->used++;
    return true;
}

void map_remove(struct map *m, struct map_slot *slot)
{
    ASSERT(m->slots != NULL);
    ASSERT(slot >= m->slots);
    ASSERT((size_t)(slot - m->slots) <= m->mask);
    ASSERT(slot->hash != 0);

    uint32_t hole = (uint32_t)(slot - m->slots);
    for (uint32_t pos = (hole + 1) & m->mask; m->slots[pos].hash != 0; pos = (pos + 1) & m->mask) {
        uint32_t home = (uint32_t)m->slots[pos].hash & m->mask;
        uint32_t from_home = (pos - home) & m->mask;
        uint32_t from_hole = (pos - hole) & m->mask;

        /* It may move back only if its home is not behind the hole (M2). */
        if (from_home >= from_hole) {
            m->slots[hole] = m->slots[pos];
            hole = pos;
        }
    }
    m->slots[hole] = (struct map_slot){0};
    m->used--;
}

void map_clear(struct map *m)
{
    if (m->used > 0) {
        memset(m->slots, 0, (size_t)capacity_of(m) * sizeof *m->slots);
        m->used = 0;
    }
}

void map_release(struct map *m)
{
    mem_free(m->slots);
    *m = (struct map){0};
}
