#include "runtime/keys.h"

struct rt_key *rt_keys_add(struct rt_keys *t, uint64_t hash, struct levee_slice key, uint64_t head)
{
    void *items = t->items;

    if (!mem_grow(&items, &t->cap, t->count + 1, sizeof *t->items)) {
        return NULL;
    }
    t->items = items;
    if (t->count == UINT32_MAX || !map_insert(&t->map, hash, (uint32_t)t->count)) {
        return NULL;
    }
    t->items[t->count] = (struct rt_key){.hash = hash, .key = key, .head = head};
    return &t->items[t->count++];
}

/* Empties the run of slots that begins at the key's home: every one of them is going to go. */
static void clear_run(struct map *m, uint64_t hash)
{
    for (uint32_t pos = (uint32_t)hash & m->mask; m->slots[pos].hash; pos = (pos + 1) & m->mask) {
        m->slots[pos].hash = 0;
    }
}

void rt_keys_clear(struct rt_keys *t)
{
    if (t->count > t->map.mask / 16) {
        map_clear(&t->map);
    } else {
        for (size_t i = 0; i < t->count; i++) {
            clear_run(&t->map, t->items[i].hash);
        }
        t->map.used = 0;
    }
    t->count = 0;
}

void rt_keys_release(struct rt_keys *t)
{
    mem_free(t->items);
    map_release(&t->map);
    *t = (struct rt_keys){0};
}
