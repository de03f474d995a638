/*
 * Keyed nodes: dealing records to key groups, the map-side combine, grouping and folding.
 *
 * Order. A cell of the inbox holds what one unit sent to one partition, in its order; a keyed unit
 * reads its column from the first row to the last, so items come in (source partition, record)
 * order. Keys are folded and emitted by key group, then first arrival.
 */
#include "runtime/exec.h"

static struct rt_items *cell_of(struct rt_worker *w, const struct rt_step *s, uint32_t column)
{
    const struct rt_engine *e = w->engine;
    uint32_t keyed = 0;

    for (size_t i = 0; i < e->head_count; i++) { /* few heads */
        if (e->heads[i].node == s->node) {
            keyed = e->heads[i].keyed;
            break;
        }
    }
    struct rt_inbox *box = &w->run->inboxes[keyed];
    return &box->cells[(size_t)(w->unit->partition + s->offset) * box->columns + column];
}

static int add_item(struct rt_worker *w, struct rt_items *cell, uint64_t hash,
                    const struct levee_record *r)
{
    if (UNLIKELY(cell->count == cell->cap) &&
        !mem_grow((void **)&cell->items, &cell->cap, cell->count + 1, sizeof *cell->items)) {
        return rt_worker_nomem(w);
    }
    cell->items[cell->count++] = (struct rt_item){hash, *r, UINT32_MAX};
    return LEVEE_OK;
}

static int deal(struct rt_worker *w, const struct rt_step *s, const struct levee_record *in,
                size_t n)
{
    uint32_t columns = s->node->partitions;
    struct rt_items *cells = cell_of(w, s, 0);
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        uint64_t h = s->node->op->to_one ? 1 : hash_key(in[i].key.data, in[i].key.len);
        uint32_t column = s->node->op->to_one ? 0 : rt_partition_of(rt_group_of(h), columns);
        code = add_item(w, &cells[column], h, &in[i]);
    }
    return code;
}

/* ---- the map-side combine ---- */

static inline bool key_eq(struct levee_slice a, struct levee_slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static struct rt_combine_entry *combine_find(struct rt_combine *c, uint64_t hash,
                                             struct levee_slice key)
{
    uint32_t pos = (uint32_t)hash & c->map.mask;
    struct map_slot *s;

    while ((s = map_probe(&c->map, hash, &pos)) != NULL) {
        struct rt_combine_entry *e = &c->entries[s->index];
        if (LIKELY(key_eq(e->key, key))) {
            return e;
        }
        pos = (pos + 1) & c->map.mask;
    }
    return NULL;
}

static struct rt_combine_entry *combine_add(struct rt_worker *w, struct rt_combine *c,
                                            uint64_t hash, struct levee_slice key, size_t acc_bytes)
{
    uint64_t *acc = arena_alloc(w->arena, acc_bytes);

    if (!acc || !mem_grow((void **)&c->entries, &c->cap, c->count + 1, sizeof *c->entries) ||
        !map_insert(&c->map, hash, (uint32_t)c->count)) {
        return NULL;
    }
    memset(acc, 0, acc_bytes);
    c->entries[c->count] = (struct rt_combine_entry){hash, key, acc};
    return &c->entries[c->count++];
}

static int combine(struct rt_worker *w, const struct rt_step *s, struct rt_port *port,
                   const struct levee_record *in, size_t n, const struct levee_reducer *r)
{
    bool to_one = s->node->op->to_one;
    bool sum = r->add == levee_sum_i64.add;
    uint64_t hashes[RT_VECTOR];

    for (size_t i = 0; i < n;
         i++) { /* first all hashes, so that the probes' cache lines are on their way */
        hashes[i] = to_one ? 1 : hash_key(in[i].key.data, in[i].key.len);
        map_prefetch(&port->combine.map, hashes[i]);
    }
    port->out.time_ms = in[0].time_ms;
    for (size_t i = 0; i < n; i++) {
        struct levee_slice key = to_one ? slice_of(NULL, 0) : in[i].key;
        struct rt_combine_entry *e = combine_find(&port->combine, hashes[i], key);
        int rc = 0;
        if (LIKELY(e != NULL)) {
            if (LIKELY(sum)) {
                *(int64_t *)e->acc += levee_i64(in[i].value);
            } else {
                rc = r->add(&port->out, e->acc, in[i].value, r->arg);
            }
        } else {
            e = combine_add(w, &port->combine, hashes[i], key, r->size ? r->size : 1);
            if (!e) {
                return rt_worker_nomem(w);
            }
            rc = r->create(&port->out, e->acc, in[i].value, r->arg);
        }
        if (UNLIKELY(rc < 0)) {
            w->code = err_set(&w->err, rc == LEVEE_ENOMEM ? LEVEE_ENOMEM : LEVEE_EFUNCTION,
                              "the reducer of %s failed", s->node->name);
            err_where(&w->err, "%s:%d", s->node->file, s->node->line);
            err_found(&w->err, "%d", rc);
            return w->code;
        }
    }
    return LEVEE_OK;
}

int rt_keyed_take(struct rt_worker *w, const struct rt_step *s, struct rt_port *port,
                  const struct levee_record *in, size_t n)
{
    const struct levee_reducer *r = s->node->op->combine ? s->node->op->combine(s->node) : NULL;
    int code = LEVEE_OK;

    if (!r) {
        return deal(w, s, in, n);
    }
    for (size_t at = 0; at < n && code == LEVEE_OK; at += RT_VECTOR) {
        code = combine(w, s, port, in + at, n - at < RT_VECTOR ? n - at : RT_VECTOR, r);
    }
    return code;
}

int rt_keyed_unit_end(struct rt_worker *w, const struct rt_step *s, struct rt_port *port)
{
    const struct levee_reducer *r = s->node->op->combine ? s->node->op->combine(s->node) : NULL;
    struct rt_items *cells = cell_of(w, s, 0);
    int code = LEVEE_OK;

    for (size_t i = 0; r && i < port->combine.count && code == LEVEE_OK; i++) {
        const struct rt_combine_entry *e = &port->combine.entries[i];
        uint32_t column =
            s->node->op->to_one ? 0 : rt_partition_of(rt_group_of(e->hash), s->node->partitions);
        struct levee_record rec = {e->key, slice_of(e->acc, r->size), 0};
        code = add_item(w, &cells[column], e->hash, &rec);
    }
    return code;
}

/* ---- grouping ---- */

static bool group_item(struct rt_groups *g, struct rt_item *item)
{
    uint32_t pos = (uint32_t)item->hash & g->map.mask, index = (uint32_t)g->item_count;
    struct map_slot *s;

    if (!mem_grow((void **)&g->items, &g->item_cap, g->item_count + 1, sizeof(struct rt_item *))) {
        return false;
    }
    g->items[g->item_count++] = item;
    item->next = UINT32_MAX;
    while ((s = map_probe(&g->map, item->hash, &pos)) != NULL) {
        struct rt_key_group_entry *k = &g->keys[s->index];
        if (key_eq(k->key, item->r.key)) {
            g->items[k->last]->next = index;
            k->last = index;
            k->count++;
            return true;
        }
        pos = (pos + 1) & g->map.mask;
    }
    if (!mem_grow((void **)&g->keys, &g->key_cap, g->key_count + 1, sizeof *g->keys) ||
        !map_insert(&g->map, item->hash, (uint32_t)g->key_count)) {
        return false;
    }
    g->keys[g->key_count++] = (struct rt_key_group_entry){
        item->hash, item->r.key, rt_group_of(item->hash), index, index, 1};
    return true;
}

/* A counting sort by key group: stable, so first arrival decides inside a group. */
static bool order_keys(struct rt_groups *g)
{
    uint32_t starts[RT_KEY_GROUPS + 1] = {0};

    if (!mem_grow((void **)&g->order, &g->order_cap, g->key_count + 1, sizeof *g->order)) {
        return false;
    }
    for (size_t i = 0; i < g->key_count; i++) {
        starts[g->keys[i].group + 1]++;
    }
    for (size_t i = 0; i < RT_KEY_GROUPS; i++) {
        starts[i + 1] += starts[i];
    }
    for (size_t i = 0; i < g->key_count; i++) {
        g->order[starts[g->keys[i].group]++] = (uint32_t)i;
    }
    return true;
}

int rt_keyed_run(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;
    struct rt_inbox *box = &w->run->inboxes[h->keyed];
    struct rt_groups *g = &w->groups;
    struct rt_port *port = &w->ports[h - w->engine->heads][0];

    g->item_count = g->key_count = 0;
    map_clear(&g->map);
    for (uint32_t row = 0; row < box->rows; row++) {
        struct rt_items *cell = &box->cells[(size_t)row * box->columns + w->unit->partition];
        for (size_t i = 0; i < cell->count; i++) {
            if (!group_item(g, &cell->items[i])) {
                return rt_worker_nomem(w);
            }
        }
    }
    if (!order_keys(g)) {
        return rt_worker_nomem(w);
    }
    struct rt_call call = {w, h->node, w->unit->partition, &port->out};
    int code = h->node->op->fold(&call, g, h->table);
    return code == LEVEE_OK && port->out.failed ? rt_worker_nomem(w) : code;
}

void rt_groups_release(struct rt_groups *g)
{
    mem_free(g->items);
    mem_free(g->keys);
    mem_free(g->order);
    map_release(&g->map);
    *g = (struct rt_groups){0};
}
