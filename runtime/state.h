/*
 * A state table: key → value with a small header, cut into RT_KEY_GROUPS key groups. A group is
 * touched by one worker at a time, so nothing here locks. What a fold does per key is one probe,
 * which it prefetches for the keys ahead; values of up to 16 bytes and such keys lie in the entry,
 * and an entry is one cache line.
 */
#ifndef LEVEE_RT_STATE_H
#define LEVEE_RT_STATE_H

#include "runtime/engine.h"
#include "runtime/idle.h"
#include "runtime/timers.h"

#define RT_INLINE    16u              /* bytes of a key or a value kept in the entry */
#define RT_VALUE_MAX ((1u << 30) - 1) /* bytes of a value or a key */

union rt_bytes {
    uint8_t small[RT_INLINE];
    uint8_t *large; /* owned, when longer */
};
struct rt_entry {
    uint64_t contribution; /* to the table's digest, as of the last gather or load */
    int64_t touch_ms, timer_ms;
    uint32_t key_len;
    uint32_t value_len : 30;
    uint32_t present : 1; /* 0: removed, remembered until the next gather; or a spare place */
    uint32_t dirty : 1;   /* in the group's dirty list */
    union rt_bytes key, value;
};
_Static_assert(sizeof(void *) != 8 || sizeof(struct rt_entry) == 64, "an entry is a cache line");

/* A timed table has two timers per entry. They are stored where other tables keep their times: the
 * one by event time as timer_ms, the one by batch time as touch_ms. */
enum rt_timer_kind { RT_EVENT_TIMER, RT_BATCH_TIMER, RT_TIMER_KINDS };

struct rt_state_group {
    struct map map;
    struct rt_entry *entries; /* in order of insertion, but for spare places taken again */
    uint32_t count, cap;
    uint32_t *dirty, dirty_count, dirty_cap; /* in order of the first touch since the last gather */
    uint32_t *spare, spare_count, spare_cap;
    struct rt_idle idle; /* the entries present, by touch_ms, if the table's keys time out */
    struct rt_timers timers[RT_TIMER_KINDS]; /* if the table is timed */
    uint64_t keys;
    uint64_t large_bytes; /* of keys and values outside the entries */
};
struct rt_table {
    uint32_t id;
    const levee_stream *node;
    bool timed;             /* entries have timers, and are laid down by rt_table_lay_timed only */
    int64_t first_event_ms; /* of all event timers, as of the last batch or load */
    int64_t idle_ms;        /* keys time out when they were not touched for longer; 0: never */
    uint64_t digest;        /* sum of the contributions */
    struct rt_state_group groups[RT_KEY_GROUPS];
};

/* The group of a key: frozen with the stored format. The top bits, for slots use the low ones. */
static inline uint32_t rt_group_of(uint64_t hash)
{
    return (uint32_t)(hash >> 57);
}
_Static_assert(RT_KEY_GROUPS == 128, "rt_group_of takes 7 bits");
/* Each partition owns a contiguous range of groups. */
static inline uint32_t rt_partition_of(uint32_t group, uint32_t partitions)
{
    return (uint32_t)((uint64_t)group * partitions / RT_KEY_GROUPS);
}

void rt_table_init(struct rt_table *t, const levee_stream *node);
void rt_table_release(struct rt_table *t);

static inline struct levee_slice rt_entry_key(const struct rt_entry *e)
{
    return slice_of(e->key_len > RT_INLINE ? e->key.large : e->key.small, e->key_len);
}
static inline struct levee_slice rt_entry_value(const struct rt_entry *e)
{
    return slice_of(e->value_len > RT_INLINE ? e->value.large : e->value.small, e->value_len);
}
/* The value's bytes, to be changed where they lie, by whoever has just touched the entry. */
static inline uint8_t *rt_entry_bytes(struct rt_entry *e)
{
    return e->value_len > RT_INLINE ? e->value.large : e->value.small;
}
/* The key's entry, also when it was removed since the last gather: look at `present`. NULL: none.
 * head: rt_key_head(key). */
struct rt_entry *rt_table_find(struct rt_table *t, uint64_t hash, struct levee_slice key,
                               uint64_t head);
/* What a find will read: first the slot, then, a while later, the entry. */
static inline void rt_table_prefetch(const struct rt_table *t, uint64_t hash)
{
    map_prefetch(&t->groups[rt_group_of(hash)].map, hash);
}
void rt_table_prefetch_entry(const struct rt_table *t, uint64_t hash);
/* Gives an entry a value (it may have been removed). false: no memory, nothing changed. */
bool rt_table_put(struct rt_table *t, uint64_t hash, struct rt_entry *e, struct levee_slice value,
                  int64_t touch_ms);
/* A key that find did not find. NULL: no memory, nothing changed. */
struct rt_entry *rt_table_add(struct rt_table *t, uint64_t hash, struct levee_slice key,
                              struct levee_slice value, int64_t touch_ms);
bool rt_table_remove(struct rt_table *t, uint64_t hash, struct rt_entry *e);
/* The value stays as it is. */
bool rt_table_touch(struct rt_table *t, uint64_t hash, struct rt_entry *e, int64_t touch_ms);
/* The earliest batch time at which a key of the group times out, INT64_MAX: none. Keys that no
 * batch has touched, those of an initial state, are due at any time: their time is then to begin.
 */
int64_t rt_table_due(const struct rt_table *t, uint32_t group);
/* Timed tables: gives a key a value and both timers (RT_NEVER: none). *entry_io: what find found;
 * the entry. false: no memory, nothing changed. */
bool rt_table_lay_timed(struct rt_table *t, uint64_t hash, struct levee_slice key,
                        struct levee_slice value, const int64_t at_ms[RT_TIMER_KINDS],
                        struct rt_entry **entry_io);
int64_t rt_entry_timer(const struct rt_entry *e, enum rt_timer_kind kind);
static inline int64_t rt_table_timer_due(const struct rt_table *t, uint32_t group,
                                         enum rt_timer_kind kind)
{
    return rt_timers_first(&t->groups[group].timers[kind]);
}
/* After the last load: brings the keys that time out into order. */
int rt_table_loaded(struct rt_table *t, struct levee_error *err);
/* The keys of a group by hash, then key: an order that does not depend on how the table came about.
 * Without those in `skipped`, which may be NULL. Keys are copies in the arena; an entry stays where
 * it is until one is added. NULL: no memory. */
struct rt_keys;
struct rt_listed {
    uint64_t hash;
    struct levee_slice key;
    const struct rt_entry *entry;
};
struct rt_listed *rt_table_list(struct arena *arena, const struct rt_table *t, uint32_t group,
                                const struct rt_keys *skipped, size_t *ret_n);
/* Packs the dirty entries, group by group, and forgets that they were. */
int rt_table_gather(struct rt_table *t, struct ckpt_slices *ret, struct levee_error *err);
/* A stored entry; a later one of the same key replaces it, an absent value removes it. */
int rt_table_load(struct rt_table *t, const struct ckpt_entry *in, struct levee_error *err);
/* Recomputed over all entries, dirty ones as they are now. */
uint64_t rt_table_digest_now(const struct rt_table *t);
/* Adds to both: keys present, bytes held by entries, slots, lists and what lies outside. */
void rt_table_size(const struct rt_table *t, uint64_t *keys_io, uint64_t *bytes_io);

/* One key's state during one call: changes are staged here and laid down only once the call has
 * succeeded (4d.7). */
struct levee_state {
    struct levee_slice now; /* what get sees */
    bool exists, changed;
    bool timing_out; /* nothing can be set any more */
    bool failed;     /* sticky: no memory for a value */
    uint8_t small[RT_INLINE];
    struct buf large; /* reused from call to call */
    /* levee_process_by_key: the key's timers, each kind sorted. */
    bool may_time[RT_TIMER_KINDS];
    int64_t *timers[RT_TIMER_KINDS];
    size_t timer_count[RT_TIMER_KINDS], timer_cap[RT_TIMER_KINDS];
};
#define RT_TIMERS_MAX 4096u /* of one key and kind */
/* Adds a timer that is not there yet. false: no memory. */
bool rt_state_timer_add(struct levee_state *s, enum rt_timer_kind kind, int64_t at_ms);
void rt_state_timer_remove(struct levee_state *s, enum rt_timer_kind kind, int64_t at_ms);
void rt_state_release(struct levee_state *s);

#endif
