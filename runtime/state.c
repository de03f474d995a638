/*
 * State tables. The digest of a table is the sum (mod 2^64) of a hash per entry, so it does not
 * depend on order; entries carry their last contribution, so gather and load keep it up to date at
 * the cost of the dirty entries. A removed key stays as a tombstone until it was gathered.
 */
#include "runtime/state.h"

void rt_table_init(struct rt_table *t, const levee_stream *node)
{
    *t = (struct rt_table){.id = node->table, .node = node};
}

static void free_entry(struct rt_entry *e)
{
    if (e->value_len > RT_INLINE_VALUE) {
        mem_free(e->value.large);
    }
    mem_free(e->key);
    *e = (struct rt_entry){0};
}

void rt_table_release(struct rt_table *t)
{
    for (size_t i = 0; i < RT_KEY_GROUPS; i++) {
        struct rt_state_group *g = &t->groups[i];
        for (uint32_t k = 0; k < g->count; k++) {
            free_entry(&g->entries[k]);
        }
        map_release(&g->map);
        mem_free(g->entries);
        mem_free(g->dirty);
        mem_free(g->spare);
    }
    *t = (struct rt_table){0};
}

struct levee_slice rt_entry_value(const struct rt_entry *e)
{
    return slice_of(e->value_len > RT_INLINE_VALUE ? e->value.large : e->value.small, e->value_len);
}

static struct rt_entry *find_any(struct rt_state_group *g, uint64_t hash, struct levee_slice key)
{
    uint32_t pos = (uint32_t)hash & g->map.mask;
    struct map_slot *s;

    while ((s = map_probe(&g->map, hash, &pos)) != NULL) {
        struct rt_entry *e = &g->entries[s->index];
        if (e->key_len == key.len && (key.len == 0 || memcmp(e->key, key.data, key.len) == 0)) {
            return e;
        }
        pos = (pos + 1) & g->map.mask;
    }
    return NULL;
}

struct rt_entry *rt_table_find(struct rt_table *t, uint64_t hash, struct levee_slice key)
{
    struct rt_entry *e = find_any(&t->groups[rt_group_of(hash)], hash, key);

    return e && e->present ? e : NULL;
}

static bool grow_u32(uint32_t **items, uint32_t *cap, uint32_t need)
{
    size_t c = *cap;

    if (!mem_grow((void **)items, &c, need, sizeof **items)) {
        return false;
    }
    *cap = (uint32_t)c;
    return true;
}

static bool mark_dirty(struct rt_state_group *g, struct rt_entry *e)
{
    if (e->dirty) {
        return true;
    }
    if (!grow_u32(&g->dirty, &g->dirty_cap, g->dirty_count + 1)) {
        return false;
    }
    g->dirty[g->dirty_count++] = (uint32_t)(e - g->entries);
    e->dirty = true;
    return true;
}

static struct rt_entry *add_entry(struct rt_state_group *g, uint64_t hash, struct levee_slice key)
{
    uint8_t *copy = mem_alloc(key.len ? key.len : 1);
    size_t cap = g->cap;
    uint32_t index = g->spare_count ? g->spare[g->spare_count - 1] : g->count;

    if (!copy || !mem_grow((void **)&g->entries, &cap, (size_t)g->count + 1, sizeof *g->entries) ||
        !map_insert(&g->map, hash, index)) {
        mem_free(copy);
        g->cap = (uint32_t)cap;
        return NULL;
    }
    g->cap = (uint32_t)cap;
    if (g->spare_count) {
        g->spare_count--;
    } else {
        g->count++;
    }
    if (key.len) {
        memcpy(copy, key.data, key.len);
    }
    struct rt_entry *e = &g->entries[index];
    *e = (struct rt_entry){.hash = hash, .key = copy, .key_len = (uint32_t)key.len};
    return e;
}

static bool put_value(struct rt_entry *e, struct levee_slice value)
{
    if (value.len > RT_INLINE_VALUE) {
        uint8_t *bytes = mem_alloc(value.len);
        if (!bytes) {
            return false;
        }
        memcpy(bytes, value.data, value.len);
        if (e->value_len > RT_INLINE_VALUE) {
            mem_free(e->value.large);
        }
        e->value.large = bytes;
    } else {
        if (e->value_len > RT_INLINE_VALUE) {
            mem_free(e->value.large);
        }
        if (value.len) {
            memcpy(e->value.small, value.data, value.len);
        }
    }
    e->value_len = (uint32_t)value.len;
    return true;
}

static uint64_t weight(const struct rt_entry *e)
{
    return sizeof *e + sizeof(struct map_slot) + e->key_len +
           (e->value_len > RT_INLINE_VALUE ? e->value_len : 0);
}

static bool set_in(struct rt_state_group *g, uint64_t hash, struct levee_slice key,
                   struct levee_slice value, int64_t touch_ms, int64_t timer_ms, bool dirty)
{
    struct rt_entry *e = find_any(g, hash, key);
    bool was = e && e->present;

    if (!e && !(e = add_entry(g, hash, key))) {
        return false;
    }
    uint64_t before = was ? weight(e) : 0;
    if (!put_value(e, value) || (dirty && !mark_dirty(g, e))) {
        return false; /* a key that was just made stays absent: present is false */
    }
    e->present = true;
    e->touch_ms = touch_ms;
    e->timer_ms = timer_ms;
    g->keys += !was;
    g->bytes += weight(e) - before;
    return true;
}

bool rt_table_set(struct rt_table *t, uint64_t hash, struct levee_slice key,
                  struct levee_slice value, int64_t touch_ms)
{
    return set_in(&t->groups[rt_group_of(hash)], hash, key, value, touch_ms, 0, true);
}

bool rt_table_remove(struct rt_table *t, struct rt_entry *e)
{
    struct rt_state_group *g = &t->groups[rt_group_of(e->hash)];

    if (!mark_dirty(g, e)) {
        return false;
    }
    g->bytes -= weight(e);
    g->keys--;
    e->present = false;
    return true;
}

static uint64_t contribution_of(uint32_t table, const struct rt_entry *e)
{
    struct levee_slice v = rt_entry_value(e);
    uint64_t h = hash64(e->key, e->key_len, table + 1u);

    h = hash64(v.data, v.len, h);
    return h ^ (uint64_t)e->timer_ms * 0x9e3779b97f4a7c15u;
}

static void drop_tombstone(struct rt_state_group *g, struct rt_entry *e)
{
    uint32_t index = (uint32_t)(e - g->entries), pos = (uint32_t)e->hash & g->map.mask;
    struct map_slot *s;

    if (!grow_u32(&g->spare, &g->spare_cap, g->spare_count + 1)) {
        return; /* no memory: it stays, harmless */
    }
    while ((s = map_probe(&g->map, e->hash, &pos)) != NULL && s->index != index) {
        pos = (pos + 1) & g->map.mask;
    }
    ASSERT(s != NULL);
    map_remove(&g->map, s);
    free_entry(e);
    g->spare[g->spare_count++] = index;
}

int rt_table_gather(struct rt_table *t, struct ckpt_slices *ret, struct levee_error *err)
{
    ckpt_slices_init(ret, t->id);
    for (uint32_t i = 0; i < RT_KEY_GROUPS; i++) {
        struct rt_state_group *g = &t->groups[i];
        for (uint32_t k = 0; k < g->dirty_count; k++) {
            struct rt_entry *e = &g->entries[g->dirty[k]];
            struct ckpt_entry out = {
                .group = i,
                .key = slice_of(e->key, e->key_len),
                .value = e->present ? rt_entry_value(e) : slice_of(NULL, 0),
                .hash = e->hash,
                .touch_ms = e->touch_ms,
                .timer_ms = e->timer_ms,
            };
            ckpt_slices_add(ret, &out);
            uint64_t now = e->present ? contribution_of(t->id, e) : 0;
            t->digest += now - e->contribution;
            e->contribution = now;
            e->dirty = false;
            if (!e->present) {
                drop_tombstone(g, e);
            }
        }
        g->dirty_count = 0;
    }
    return ckpt_slices_finish(ret, err);
}

int rt_table_load(struct rt_table *t, const struct ckpt_entry *in, struct levee_error *err)
{
    uint64_t hash = hash_key(in->key.data, in->key.len);
    struct rt_state_group *g = &t->groups[rt_group_of(hash)];
    struct rt_entry *e = find_any(g, hash, in->key);

    if (!in->value.data) {
        if (e) {
            t->digest -= e->contribution;
            g->bytes -= weight(e);
            g->keys--;
            drop_tombstone(g, e);
        }
        return LEVEE_OK;
    }
    if (!set_in(g, hash, in->key, in->value, in->touch_ms, in->timer_ms, false)) {
        return err_nomem(err, in->key.len + in->value.len);
    }
    e = find_any(g, hash, in->key);
    uint64_t now = contribution_of(t->id, e);
    t->digest += now - e->contribution;
    e->contribution = now;
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

void rt_table_size(const struct rt_table *t, uint64_t *keys, uint64_t *bytes)
{
    for (size_t i = 0; i < RT_KEY_GROUPS; i++) {
        *keys += t->groups[i].keys;
        *bytes += t->groups[i].bytes;
    }
}

/* ---- the public face during a call ---- */

bool levee_state_get(const levee_state *s, struct levee_slice *ret_value)
{
    if (s->exists) {
        *ret_value = s->now;
    }
    return s->exists;
}

int levee_state_set(levee_state *s, struct levee_slice value)
{
    if (value.len && value.data >= s->staged.data && value.data < s->staged.data + s->staged.cap) {
        struct buf copy = {0}; /* a view of what was staged before */
        buf_put(&copy, value.data, value.len);
        buf_release(&s->staged);
        s->staged = copy;
    } else {
        buf_clear(&s->staged);
        (void)buf_reserve(&s->staged, value.len + 1);
        buf_put(&s->staged, value.data, value.len);
    }
    if (s->staged.failed) {
        s->staged.failed = false;
        s->failed = true;
        return LEVEE_ENOMEM;
    }
    s->now = slice_of(s->staged.data, s->staged.len);
    s->exists = s->changed = true;
    return LEVEE_OK;
}

int levee_state_set_i64(levee_state *s, int64_t value)
{
    uint8_t le[8];

    put_le64(le, (uint64_t)value);
    return levee_state_set(s, slice_of(le, 8));
}

void levee_state_remove(levee_state *s)
{
    s->exists = false;
    s->changed = true;
}
