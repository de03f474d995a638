/*
 * State tables. A key's hash picks its group, the group's map finds the entry. A removed key stays
 * as an entry that is not present until a gather has packed its removal; then its place is taken
 * again by later keys.
 *
 * The digest of a table is the sum (mod 2^64) of one hash per entry, so it does not depend on
 * order. Every entry carries what it contributed last, hence gather and load keep the sum up to
 * date at the cost of the entries they touch.
 *
 * Where keys time out, the entries present are also in their group's list by last touch: it is kept
 * wherever touch_ms or presence changes, and says at once who is due. Those of a timed table are in
 * its heaps of timers instead, kept wherever a timer or presence changes.
 *
 * S1  Every dirty entry is in its group's dirty list once, and the list holds nothing else.
 * S2  A call that finds no memory leaves the table as it was, apart from spare room.
 */
#include "runtime/state.h"

#include <stdlib.h>

#include "runtime/keys.h"

#define LARGE_STEP                                                                                 \
    64u /* outside the entry values grow in such steps, to be overwritten in place                 \
         */

void rt_table_init(struct rt_table *t, const levee_stream *node)
{
    *t = (struct rt_table){.id = node->table, .node = node, .first_event_ms = RT_NEVER};
}

static void free_bytes(union rt_bytes *b, uint32_t len)
{
    if (len > RT_INLINE) {
        mem_free(b->large);
    }
}

void rt_table_release(struct rt_table *t)
{
    for (size_t i = 0; i < RT_KEY_GROUPS; i++) {
        struct rt_state_group *g = &t->groups[i];
        for (uint32_t k = 0; k < g->count; k++) {
            free_bytes(&g->entries[k].key, g->entries[k].key_len);
            free_bytes(&g->entries[k].value, g->entries[k].value_len);
        }
        map_release(&g->map);
        mem_free(g->entries);
        mem_free(g->dirty);
        mem_free(g->spare);
        rt_idle_release(&g->idle);
        rt_timers_release(&g->timers[RT_EVENT_TIMER]);
        rt_timers_release(&g->timers[RT_BATCH_TIMER]);
    }
    *t = (struct rt_table){0};
}

static uint64_t large_size(uint32_t len)
{
    return len > RT_INLINE ? align_up(len, LARGE_STEP) : 0;
}

/* Replaces `len` bytes by others; in place when they fill as many steps. */
static bool put_bytes(union rt_bytes *b, uint32_t len, struct levee_slice bytes)
{
    uint8_t *to = b->small;

    if (bytes.len > RT_INLINE) {
        to = b->large;
        if (large_size(len) != large_size((uint32_t)bytes.len)) {
            to = mem_alloc(large_size((uint32_t)bytes.len));
            if (!to) {
                return false;
            }
            free_bytes(b, len);
            b->large = to;
        }
    } else {
        free_bytes(b, len);
    }
    if (bytes.len) {
        memcpy(to, bytes.data, bytes.len);
    }
    return true;
}

static bool has_key(const struct rt_entry *e, struct levee_slice key, uint64_t head)
{
    struct levee_slice own = rt_entry_key(e);

    return own.len == key.len && rt_key_head(own) == head &&
           (own.len <= 8 || memcmp(own.data + 8, key.data + 8, own.len - 8) == 0);
}

struct rt_entry *rt_table_find(struct rt_table *t, uint64_t hash, struct levee_slice key,
                               uint64_t head)
{
    struct rt_state_group *g = &t->groups[rt_group_of(hash)];
    uint32_t pos = (uint32_t)hash & g->map.mask;
    struct map_slot *s;

    while ((s = map_probe(&g->map, hash, &pos)) != NULL) {
        struct rt_entry *e = &g->entries[s->index];
        if (LIKELY(has_key(e, key, head))) {
            return e;
        }
        pos = (pos + 1) & g->map.mask;
    }
    return NULL;
}

void rt_table_prefetch_entry(const struct rt_table *t, uint64_t hash)
{
    const struct rt_state_group *g = &t->groups[rt_group_of(hash)];
    uint32_t pos = (uint32_t)hash & g->map.mask;
    const struct map_slot *s = map_probe(&g->map, hash, &pos);

    if (s) {
        __builtin_prefetch(&g->entries[s->index]);
    }
}

/* The maximum is far above any record's; what counts is that lengths fit their fields. */
static bool too_long(struct levee_slice s)
{
    return s.len > RT_VALUE_MAX;
}

static bool grow_u32(uint32_t **items, uint32_t *cap, uint32_t need)
{
    size_t c = *cap;
    void *p = *items;

    if (!mem_grow(&p, &c, need, sizeof **items)) {
        return false;
    }
    *items = p;
    *cap = (uint32_t)c;
    return true;
}

/* Room in lists and heaps for entries [0, entries). */
static bool has_room(const struct rt_table *t, struct rt_state_group *g, uint32_t entries)
{
    return (!t->idle_ms || rt_idle_reserve(&g->idle, entries)) &&
           (!t->timed || (rt_timers_reserve(&g->timers[RT_EVENT_TIMER], entries) &&
                          rt_timers_reserve(&g->timers[RT_BATCH_TIMER], entries)));
}

/* Room for one more dirty mark and, where keys time out, for the entry's place in the list; NULL:
 * an entry that is added. Taken before anything changes (S2). */
static bool may_mark(const struct rt_table *t, struct rt_state_group *g, const struct rt_entry *e)
{
    return ((e && e->dirty) || grow_u32(&g->dirty, &g->dirty_cap, g->dirty_count + 1)) &&
           has_room(t, g, g->count + 1u);
}

static void list_touched(const struct rt_table *t, struct rt_state_group *g,
                         const struct rt_entry *e)
{
    if (t->idle_ms) {
        rt_idle_touch(&g->idle, (uint32_t)(e - g->entries));
    }
}

static void list_timers(const struct rt_table *t, struct rt_state_group *g,
                        const struct rt_entry *e)
{
    for (int kind = 0; t->timed && kind < RT_TIMER_KINDS; kind++) {
        rt_timers_set(&g->timers[kind], (uint32_t)(e - g->entries),
                      rt_entry_timer(e, (enum rt_timer_kind)kind));
    }
}

/* An entry that goes. */
static void unlist(const struct rt_table *t, struct rt_state_group *g, const struct rt_entry *e)
{
    uint32_t index = (uint32_t)(e - g->entries);

    rt_idle_remove(&g->idle, index);
    for (int kind = 0; t->timed && kind < RT_TIMER_KINDS; kind++) {
        rt_timers_set(&g->timers[kind], index, RT_NEVER);
    }
}

static void mark(struct rt_state_group *g, struct rt_entry *e)
{
    if (!e->dirty) {
        g->dirty[g->dirty_count++] = (uint32_t)(e - g->entries);
        e->dirty = 1;
    }
}

/* Whether there is room for one more entry; the place it will get in *ret. */
static bool next_place(struct rt_state_group *g, uint32_t *ret)
{
    size_t cap = g->cap;
    void *p = g->entries;

    if (g->spare_count) {
        *ret = g->spare[g->spare_count - 1];
        return true;
    }
    if (g->count == UINT32_MAX || !mem_grow(&p, &cap, (size_t)g->count + 1, sizeof *g->entries)) {
        return false;
    }
    g->entries = p;
    g->cap = (uint32_t)cap;
    *ret = g->count;
    return true;
}

/* A new entry, neither present nor dirty. NULL: no memory. */
static struct rt_entry *add_entry(struct rt_state_group *g, uint64_t hash, struct levee_slice key)
{
    uint32_t place;
    struct rt_entry fresh = {.key_len = (uint32_t)key.len};

    if (too_long(key) || !next_place(g, &place) || !put_bytes(&fresh.key, 0, key)) {
        return NULL;
    }
    if (!map_insert(&g->map, hash, place)) {
        free_bytes(&fresh.key, fresh.key_len);
        return NULL;
    }
    g->large_bytes += large_size(fresh.key_len);
    if (g->spare_count) {
        g->spare_count--;
    } else {
        g->count++;
    }
    g->entries[place] = fresh;
    return &g->entries[place];
}

/* Takes an entry that is not in the dirty list out of the map; its place becomes spare. */
static void drop_entry(struct rt_state_group *g, uint64_t hash, struct rt_entry *e)
{
    uint32_t index = (uint32_t)(e - g->entries), pos = (uint32_t)hash & g->map.mask;
    struct map_slot *s;

    if (!grow_u32(&g->spare, &g->spare_cap, g->spare_count + 1)) {
        return; /* no memory: it stays, not present and harmless */
    }
    while ((s = map_probe(&g->map, hash, &pos)) != NULL && s->index != index) {
        pos = (pos + 1) & g->map.mask;
    }
    ASSERT(s != NULL);
    map_remove(&g->map, s);
    g->large_bytes -= large_size(e->key_len) + large_size(e->value_len);
    free_bytes(&e->key, e->key_len);
    free_bytes(&e->value, e->value_len);
    *e = (struct rt_entry){0};
    g->spare[g->spare_count++] = index;
}

static bool set_value(struct rt_state_group *g, struct rt_entry *e, struct levee_slice value,
                      int64_t touch_ms, int64_t timer_ms)
{
    if (too_long(value) || !put_bytes(&e->value, e->value_len, value)) {
        return false;
    }
    g->large_bytes += large_size((uint32_t)value.len) - large_size(e->value_len);
    e->value_len = (uint32_t)value.len & RT_VALUE_MAX;
    g->keys += !e->present;
    e->present = 1;
    e->touch_ms = touch_ms;
    e->timer_ms = timer_ms;
    return true;
}

bool rt_table_put(struct rt_table *t, uint64_t hash, struct rt_entry *e, struct levee_slice value,
                  int64_t touch_ms)
{
    struct rt_state_group *g = &t->groups[rt_group_of(hash)];

    if (!may_mark(t, g, e) || !set_value(g, e, value, touch_ms, 0)) {
        return false;
    }
    list_touched(t, g, e);
    mark(g, e);
    return true;
}

bool rt_table_touch(struct rt_table *t, uint64_t hash, struct rt_entry *e, int64_t touch_ms)
{
    struct rt_state_group *g = &t->groups[rt_group_of(hash)];

    ASSERT(e->present);
    if (!may_mark(t, g, e)) {
        return false;
    }
    e->touch_ms = touch_ms;
    list_touched(t, g, e);
    mark(g, e);
    return true;
}

struct rt_entry *rt_table_add(struct rt_table *t, uint64_t hash, struct levee_slice key,
                              struct levee_slice value, int64_t touch_ms)
{
    struct rt_state_group *g = &t->groups[rt_group_of(hash)];
    struct rt_entry *e = may_mark(t, g, NULL) ? add_entry(g, hash, key) : NULL;

    if (!e) {
        return NULL;
    }
    if (!set_value(g, e, value, touch_ms, 0)) {
        drop_entry(g, hash, e);
        return NULL;
    }
    list_touched(t, g, e);
    mark(g, e);
    return e;
}

bool rt_table_remove(struct rt_table *t, uint64_t hash, struct rt_entry *e)
{
    struct rt_state_group *g = &t->groups[rt_group_of(hash)];

    ASSERT(e->present);
    if (!may_mark(t, g, e)) {
        return false;
    }
    mark(g, e);
    unlist(t, g, e);
    g->keys--;
    e->present = 0;
    return true;
}

static int by_hash(const void *a, const void *b)
{
    const struct rt_listed *x = a, *y = b;

    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : slice_cmp(x->key, y->key);
}

struct rt_listed *rt_table_list(struct arena *arena, const struct rt_table *t, uint32_t group,
                                const struct rt_keys *skipped, size_t *ret_n)
{
    const struct rt_state_group *g = &t->groups[group];
    struct rt_listed *list = arena_alloc(arena, ((size_t)g->keys + 1) * sizeof *list);
    size_t n = 0;

    for (uint32_t i = 0; i < g->count && list; i++) {
        const struct rt_entry *e = &g->entries[i];
        struct levee_slice key = rt_entry_key(e);
        uint64_t hash = hash_key(key.data, key.len);
        if (!e->present || (skipped && rt_keys_find(skipped, hash, key, rt_key_head(key)))) {
            continue;
        }
        const uint8_t *copy = arena_copy(arena, key.data, key.len);
        if (!copy) {
            return NULL;
        }
        list[n++] = (struct rt_listed){hash, slice_of(copy, key.len), e};
    }
    if (list && n) {
        qsort(list, n, sizeof *list, by_hash);
    }
    *ret_n = n;
    return list;
}

/* ---- digest, gather, load ---- */

static uint64_t contribution_of(uint32_t table, const struct rt_entry *e)
{
    struct levee_slice k = rt_entry_key(e), v = rt_entry_value(e);
    uint64_t times = (uint64_t)e->touch_ms * 0x9e3779b97f4a7c15u ^ (uint64_t)e->timer_ms;

    return hash64(v.data, v.len, hash64(k.data, k.len, table) + times);
}

static void contribute(struct rt_table *t, struct rt_entry *e)
{
    uint64_t now = e->present ? contribution_of(t->id, e) : 0;

    t->digest += now - e->contribution;
    e->contribution = now;
}

static void gather_group(struct rt_table *t, uint32_t group, struct ckpt_slices *to)
{
    struct rt_state_group *g = &t->groups[group];

    for (uint32_t k = 0; k < g->dirty_count; k++) {
        struct rt_entry *e = &g->entries[g->dirty[k]];
        if (k + 8 < g->dirty_count) {
            __builtin_prefetch(&g->entries[g->dirty[k + 8]]);
        }
        struct levee_slice key = rt_entry_key(e);
        struct ckpt_entry out = {
            .group = group,
            .key = key,
            .value = e->present ? rt_entry_value(e) : slice_of(NULL, 0),
            .hash = hash_key(key.data, key.len),
            .touch_ms = e->touch_ms,
            .timer_ms = e->timer_ms,
        };
        ckpt_slices_add(to, &out);
        contribute(t, e);
        e->dirty = 0;
        if (!e->present) {
            drop_entry(g, out.hash, e);
        }
    }
    g->dirty_count = 0;
}

int rt_table_gather(struct rt_table *t, struct ckpt_slices *ret, struct levee_error *err)
{
    ckpt_slices_init(ret, t->id);
    for (uint32_t i = 0; i < RT_KEY_GROUPS; i++) {
        gather_group(t, i, ret);
    }
    return ckpt_slices_finish(ret, err);
}

int rt_table_load(struct rt_table *t, const struct ckpt_entry *in, struct levee_error *err)
{
    struct rt_state_group *g = &t->groups[rt_group_of(in->hash)];
    struct rt_entry *e = rt_table_find(t, in->hash, in->key, rt_key_head(in->key));

    DASSERT(in->hash == hash_key(in->key.data, in->key.len));
    if (!in->value.data) {
        if (e && e->present) {
            unlist(t, g, e);
            g->keys--;
            e->present = 0;
            contribute(t, e);
            drop_entry(g, in->hash, e);
        }
        return LEVEE_OK;
    }
    bool fresh = !e;
    if (fresh) {
        e = add_entry(g, in->hash, in->key);
    }
    if (!e || !has_room(t, g, g->count) ||
        !set_value(g, e, in->value, in->touch_ms, in->timer_ms)) {
        if (e && fresh) {
            drop_entry(g, in->hash, e);
        }
        return err_nomem(err, in->key.len + in->value.len);
    }
    contribute(t, e);
    list_touched(t, g, e);
    list_timers(t, g, e);
    return LEVEE_OK;
}

/* ---- timers ---- */

/* 0 stands for none, which is what most entries have, and is stored in no byte. */
static int64_t timer_stored(int64_t at_ms)
{
    return at_ms == RT_NEVER ? 0 : at_ms >= 0 ? at_ms + 1 : at_ms;
}

int64_t rt_entry_timer(const struct rt_entry *e, enum rt_timer_kind kind)
{
    int64_t stored = kind == RT_EVENT_TIMER ? e->timer_ms : e->touch_ms;

    return stored == 0 ? RT_NEVER : stored > 0 ? stored - 1 : stored;
}

bool rt_table_lay_timed(struct rt_table *t, uint64_t hash, struct levee_slice key,
                        struct levee_slice value, const int64_t at_ms[RT_TIMER_KINDS],
                        struct rt_entry **entry_io)
{
    struct rt_state_group *g = &t->groups[rt_group_of(hash)];
    struct rt_entry *e = *entry_io;

    ASSERT(t->timed);
    if (!may_mark(t, g, e)) {
        return false;
    }
    if (!e) {
        e = add_entry(g, hash, key);
    }
    if (!e || !set_value(g, e, value, timer_stored(at_ms[RT_BATCH_TIMER]),
                         timer_stored(at_ms[RT_EVENT_TIMER]))) {
        if (e && !*entry_io) {
            drop_entry(g, hash, e);
        }
        return false;
    }
    list_timers(t, g, e);
    mark(g, e);
    *entry_io = e;
    return true;
}

/* ---- keys that time out ---- */

int64_t rt_table_due(const struct rt_table *t, uint32_t group)
{
    const struct rt_state_group *g = &t->groups[group];
    uint32_t first = rt_idle_first(&g->idle);

    if (first == RT_IDLE_NONE) {
        return INT64_MAX;
    }
    int64_t touch_ms = g->entries[first].touch_ms;
    return touch_ms ? touch_ms + t->idle_ms + 1 : 0;
}

struct touched {
    int64_t touch_ms;
    uint32_t entry;
};

static int by_touch(const void *a, const void *b)
{
    const struct touched *x = a, *y = b;

    return x->touch_ms != y->touch_ms ? (x->touch_ms < y->touch_ms ? -1 : 1)
                                      : (x->entry > y->entry) - (x->entry < y->entry);
}

int rt_table_loaded(struct rt_table *t, struct levee_error *err)
{
    struct touched *all = NULL;
    size_t cap = 0;

    for (uint32_t i = 0; t->idle_ms && i < RT_KEY_GROUPS; i++) {
        struct rt_state_group *g = &t->groups[i];
        size_t n = 0;
        if (!mem_grow((void **)&all, &cap, g->count, sizeof *all)) {
            mem_free(all);
            return err_nomem(err, g->count * sizeof *all);
        }
        for (uint32_t e = rt_idle_first(&g->idle); e != RT_IDLE_NONE;
             e = rt_idle_after(&g->idle, e)) {
            all[n++] = (struct touched){g->entries[e].touch_ms, e};
        }
        if (n) {
            qsort(all, n, sizeof *all, by_touch);
        }
        for (size_t k = 0; k < n; k++) {
            rt_idle_touch(&g->idle, all[k].entry);
        }
    }
    mem_free(all);
    return LEVEE_OK;
}

uint64_t rt_table_digest_now(const struct rt_table *t)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < RT_KEY_GROUPS; i++) {
        const struct rt_state_group *g = &t->groups[i];
        for (uint32_t k = 0; k < g->count; k++) {
            sum += g->entries[k].present ? contribution_of(t->id, &g->entries[k]) : 0;
        }
    }
    return sum;
}

void rt_table_size(const struct rt_table *t, uint64_t *keys_io, uint64_t *bytes_io)
{
    for (size_t i = 0; i < RT_KEY_GROUPS; i++) {
        const struct rt_state_group *g = &t->groups[i];
        uint64_t slots = g->map.slots ? (uint64_t)g->map.mask + 1 : 0;
        *keys_io += g->keys;
        *bytes_io += g->cap * sizeof(struct rt_entry) + slots * sizeof(struct map_slot) +
                     ((uint64_t)g->dirty_cap + g->spare_cap) * sizeof(uint32_t) + g->large_bytes +
                     g->idle.cap * sizeof *g->idle.nodes;
        for (int kind = 0; kind < RT_TIMER_KINDS; kind++) {
            *bytes_io += g->timers[kind].cap * sizeof(struct rt_timer) +
                         g->timers[kind].place_cap * sizeof(uint32_t);
        }
    }
}
