/*
 * A table of sums by key, for a combine whose reducer is a plain count or sum: everything that
 * adding to a known key touches lies in one entry of 32 bytes, found without an index in between.
 * With ten thousand keys this is what decides how fast words are counted: one cache line per word.
 *
 * Linear probing, at most half full: the first slot is nearly always the right one, which is worth
 * more than the memory because a processor that guesses the next branch wrongly waits for the
 * entry. Keys are views into the batch. Keys stay in first-arrival order.
 */
#ifndef LEVEE_RT_SUMS_H
#define LEVEE_RT_SUMS_H

#include "runtime/keys.h"

struct rt_sum {
    uint64_t head;      /* rt_key_head of the key */
    const uint8_t *key; /* may be NULL: an absent key and an empty one are the same */
    int64_t sum;
    uint32_t len;
    uint32_t tag; /* high half of the hash with its lowest bit set; 0: empty */
};
struct rt_sums {
    struct rt_sum *slots;
    uint32_t *order; /* slots in the order in which their keys came */
    uint32_t mask;   /* capacity - 1; 0 and no slots: nothing yet */
    uint32_t count;
};

static inline uint32_t rt_sum_tag(uint64_t hash)
{
    return (uint32_t)(hash >> 32) | 1u;
}

static inline bool rt_sum_is(const struct rt_sum *s, uint32_t tag, struct levee_slice key,
                             uint64_t head)
{
    return s->tag == tag && s->head == head && s->len == key.len &&
           (key.len <= 8 || memcmp(s->key + 8, key.data + 8, key.len - 8) == 0);
}

/* Adds v to the sum of a key that may be new. false: no memory, nothing changed. (runtime/sums.c)
 */
bool rt_sums_add_new(struct rt_sums *t, uint64_t hash, struct levee_slice key, uint64_t head,
                     int64_t v);
static inline bool rt_sums_add(struct rt_sums *t, uint64_t hash, struct levee_slice key, int64_t v)
{
    uint64_t head = rt_key_head(key);
    uint32_t tag = rt_sum_tag(hash);

    for (uint32_t pos = (uint32_t)hash & t->mask; t->slots; pos = (pos + 1) & t->mask) {
        struct rt_sum *s = &t->slots[pos];
        if (LIKELY(rt_sum_is(s, tag, key, head))) {
            s->sum = (int64_t)((uint64_t)s->sum + (uint64_t)v); /* wraps around */
            return true;
        }
        if (s->tag == 0) {
            break;
        }
    }
    return rt_sums_add_new(t, hash, key, head, v);
}
static inline void rt_sums_prefetch(const struct rt_sums *t, uint64_t hash)
{
    if (t->slots) {
        __builtin_prefetch(&t->slots[(uint32_t)hash & t->mask], 1);
    }
}
/* Forgets all keys, at the cost of what was there. */
void rt_sums_clear(struct rt_sums *t);
void rt_sums_release(struct rt_sums *t);

#endif
