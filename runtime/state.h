/*
 * A state table: key → value, cut into RT_KEY_GROUPS key groups. A group is touched by one worker
 * at a time; nothing here locks.
 */
#ifndef LEVEE_RT_STATE_H
#define LEVEE_RT_STATE_H

#include "runtime/engine.h"

#define RT_INLINE_VALUE 16u

struct rt_entry {
    uint64_t hash, contribution; /* to the table's digest, as of the last gather or load */
    uint8_t *key;                /* owned; NULL: the slot is free */
    uint32_t key_len, value_len;
    union {
        uint8_t small[RT_INLINE_VALUE];
        uint8_t *large; /* owned, when value_len > RT_INLINE_VALUE */
    } value;
    int64_t touch_ms, timer_ms;
    bool present; /* false: removed, remembered until the next gather */
    bool dirty;
};
struct rt_state_group {
    struct map map;
    struct rt_entry *entries;
    uint32_t count, cap;
    uint32_t *dirty, dirty_count, dirty_cap;
    uint32_t *spare, spare_count, spare_cap; /* free slots */
    uint64_t keys, bytes;
};
struct rt_table {
    uint32_t id;
    const levee_stream *node;
    uint64_t digest;
    struct rt_state_group groups[RT_KEY_GROUPS];
};

static inline uint32_t rt_group_of(uint64_t hash)
{
    return (uint32_t)(hash >> 57); /* the top bits: slots use the low ones. 128 = 2^7 */
}
_Static_assert(RT_KEY_GROUPS == 128, "rt_group_of takes 7 bits");
static inline uint32_t rt_partition_of(uint32_t group, uint32_t partitions)
{
    return group * partitions / RT_KEY_GROUPS;
}

void rt_table_init(struct rt_table *t, const levee_stream *node);
void rt_table_release(struct rt_table *t);
/* NULL: no such key (or removed). */
struct rt_entry *rt_table_find(struct rt_table *t, uint64_t hash, struct levee_slice key);
struct levee_slice rt_entry_value(const struct rt_entry *e);
/* Sets, creating the key if need be; false: no memory (unchanged). */
bool rt_table_set(struct rt_table *t, uint64_t hash, struct levee_slice key,
                  struct levee_slice value, int64_t touch_ms);
bool rt_table_remove(struct rt_table *t, struct rt_entry *e);
int rt_table_gather(struct rt_table *t, struct ckpt_slices *ret, struct levee_error *err);
int rt_table_load(struct rt_table *t, const struct ckpt_entry *in, struct levee_error *err);
uint64_t rt_table_digest_now(const struct rt_table *t);
void rt_table_size(const struct rt_table *t, uint64_t *keys, uint64_t *bytes);

/* One key's state during one call: changes are staged and laid down only when the call succeeded.
 */
struct levee_state {
    struct levee_slice now; /* what get sees */
    bool exists, changed;
    struct buf staged; /* reused from call to call */
    bool failed;
};

#endif
