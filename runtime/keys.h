/*
 * A table of the distinct keys of one partition, or of one combine: what a map-side combine and the
 * grouping before a fold have in common. Keys stay in first-arrival order. The first bytes of a key
 * lie in its entry, so that for short keys, which are most, nothing else is read to compare.
 */
#ifndef LEVEE_RT_KEYS_H
#define LEVEE_RT_KEYS_H

#include "base/base.h"

struct rt_key {
    uint64_t hash;
    struct levee_slice key;
    uint64_t head; /* rt_key_head(key) */
    union {        /* what belongs to the key; the user of the table knows which */
        int64_t sum;
        void *acc;
        struct {
            uint32_t first, last;
        } items;
    };
    uint32_t count; /* items */
};
struct rt_keys {
    struct map map;
    struct rt_key *items;
    size_t count, cap;
};

/* Up to 8 bytes that, together with the length, tell keys of up to 8 bytes apart. */
static inline uint64_t rt_key_head(struct levee_slice key)
{
    const uint8_t *p = key.data;
    uint64_t head = 0;
    uint32_t low, high;

    if (key.len >= 8) {
        memcpy(&head, p, 8);
    } else if (key.len >= 4) {
        memcpy(&low, p, 4);
        memcpy(&high, p + key.len - 4, 4);
        head = low | (uint64_t)high << 32;
    } else if (key.len > 0) {
        head = p[0] | (uint64_t)p[key.len >> 1] << 8 | (uint64_t)p[key.len - 1] << 16;
    }
    return head;
}
/* Are two keys with equal hashes the same? An absent key and an empty one are. */
static inline bool rt_key_is(const struct rt_key *k, struct levee_slice key, uint64_t head)
{
    /* A slot's index names an item. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    return k->key.len == key.len && k->head == head &&
           (key.len <= 8 || memcmp(k->key.data + 8, key.data + 8, key.len - 8) == 0);
}

static inline struct rt_key *rt_keys_find(const struct rt_keys *t, uint64_t hash,
                                          struct levee_slice key, uint64_t head)
{
    uint32_t pos = (uint32_t)hash & t->map.mask;
    struct map_slot *s;

    while ((s = map_probe(&t->map, hash, &pos)) != NULL) {
        struct rt_key *k = &t->items[s->index];
        if (LIKELY(rt_key_is(k, key, head))) {
            return k;
        }
        pos = (pos + 1) & t->map.mask;
    }
    return NULL;
}
/* A key that was not found; zeroed apart from what names it. NULL: no memory. (runtime/keys.c) */
struct rt_key *rt_keys_add(struct rt_keys *t, uint64_t hash, struct levee_slice key, uint64_t head);
/* Forgets all keys, at the cost of what was there, not of what there is room for. */
void rt_keys_clear(struct rt_keys *t);
void rt_keys_release(struct rt_keys *t);

#endif
