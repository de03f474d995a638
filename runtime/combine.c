/*
 * The half of a reducing node before the exchange: records are folded per key where they arise, so
 * that only accumulators travel. A unit's table is sent and emptied when it has so many keys that
 * memory would not be bounded otherwise, or RT_COMBINE_CACHED if they hardly repeat: such input
 * then costs one insert into a table that stays in cache. Where it is cut depends on the unit's
 * records alone, so it is the same on every run.
 *
 * Why keys that do repeat get a larger table: what travels takes 64 bytes until its batch is done.
 * Words of 50,000, low ones more often, fill a table of 16,384 before they have come twice; sent
 * one by one, ten million of them take more than half a gigabyte, and as sums of a table of 4 MiB
 * next to nothing. An eighth more records than keys at RT_COMBINE_CACHED says, for keys that come
 * evenly, that they will have come twice at RT_COMBINE_KEYS.
 *
 * Keys stay in first-arrival order, and so do the accumulators of one key: merged in the order in
 * which they arrive they give what one long run of adds would have given.
 */
#include "runtime/exec.h"

#define RT_COMBINE_KEYS   65536u
#define RT_COMBINE_CACHED 16384u
#define TO_ONE_HASH       1u /* of the absent key, where all records have that one */

static inline int64_t value_of(enum rt_fast fast, struct levee_slice value)
{
    if (fast == RT_FAST_COUNT) {
        return 1;
    }
    return value.len == 8 ? (int64_t)get_le64(value.data) : 0;
}

static bool send_sum(struct rt_items *row, uint32_t column, uint64_t hash, struct levee_slice key,
                     uint64_t head, int64_t sum)
{
    struct rt_item *item = rt_items_add(&row[column]);

    if (item) {
        item->hash = hash;
        item->key = key;
        item->head = head;
        item->sum = sum;
    }
    return item != NULL;
}

/* One vector into sums. All hashes first, so that the entries are on their way when they are
 * needed.
 */
static int take_fast(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    enum rt_fast fast = w->unit->head->steps[step].fast;
    struct rt_sums *t = &rt_port_of(w, step)->sums;
    uint64_t hashes[RT_VECTOR];

    for (size_t i = 0; i < n; i++) {
        hashes[i] = hash_key(in[i].key.data, in[i].key.len);
        rt_sums_prefetch(t, hashes[i]);
    }
    for (size_t i = 0; i < n; i++) {
        if (UNLIKELY(!rt_sums_add(t, hashes[i], in[i].key, value_of(fast, in[i].value)))) {
            return rt_worker_nomem(w);
        }
    }
    return LEVEE_OK;
}

/* The same where keys hardly repeat: every record travels as a sum of its own. */
static int send_each(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct rt_items *row = rt_row_of(w, s);

    for (size_t i = 0; i < n; i++) {
        uint64_t hash = hash_key(in[i].key.data, in[i].key.len);
        if (!send_sum(row, rt_group_of(hash), hash, in[i].key, rt_key_head(in[i].key),
                      value_of(s->fast, in[i].value))) {
            return rt_worker_nomem(w);
        }
    }
    return LEVEE_OK;
}

/* The same without keys: one sum. */
static int take_total(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    enum rt_fast fast = w->unit->head->steps[step].fast;
    uint64_t total = 0;

    for (size_t i = 0; i < n; i++) {
        total += (uint64_t)value_of(fast, in[i].value); /* wraps around */
    }
    return rt_sums_add(&rt_port_of(w, step)->sums, TO_ONE_HASH, slice_of(NULL, 0), (int64_t)total)
               ? LEVEE_OK
               : rt_worker_nomem(w);
}

/* ---- any reducer ---- */

struct adding {
    const struct levee_reducer *r;
    levee_output *out;
    void *acc;
    const struct buf *before; /* what acc held; NULL: nothing, the call creates it */
    struct levee_slice value;
};

static int try_add(void *arg)
{
    const struct adding *a = arg;
    size_t mark = a->out->count;
    int rc;

    if (a->before) {
        memcpy(a->acc, a->before->data, a->r->size);
        rc = a->r->add(a->out, a->acc, a->value, a->r->arg);
    } else {
        memset(a->acc, 0, a->r->size);
        rc = a->r->create(a->out, a->acc, a->value, a->r->arg);
    }
    bool emitted = a->out->count != mark; /* only finish may */
    a->out->count = mark;
    return rc >= 0 && emitted ? LEVEE_EINVALID : rc;
}

/* One record: into its key's accumulator, or making it. */
static int take_one(struct rt_call *c, const struct levee_reducer *r, const struct levee_record *in,
                    uint64_t index)
{
    struct rt_worker *w = c->worker;
    struct rt_keys *t = &rt_port_of(w, c->step)->combined;
    bool to_one = c->node->op->to_one;
    struct levee_slice key = to_one ? slice_of(NULL, 0) : in->key;
    uint64_t hash = to_one ? TO_ONE_HASH : hash_key(key.data, key.len), head = rt_key_head(key);
    struct rt_key *k = rt_keys_find(t, hash, key, head);
    struct adding a = {.r = r, .out = c->out, .value = in->value};
    bool skipped = false;

    if (k) {
        buf_clear(&w->before);
        buf_put(&w->before, k->acc, r->size);
        a.acc = k->acc;
        a.before = &w->before;
    } else {
        a.acc = rt_output_alloc(c->out, r->size);
    }
    if (!a.acc || w->before.failed) {
        return rt_call_nomem(c);
    }
    c->out->time_ms = in->time_ms;
    int code = rt_call_guarded(c, index, in, try_add, &a, &skipped);
    if (code || (skipped && !k)) {
        return code; /* a key that could not be created is not there */
    }
    if (skipped) {
        memcpy(k->acc, w->before.data, r->size);
    } else if (!k) {
        k = rt_keys_add(t, hash, key, head);
        if (!k) {
            return rt_call_nomem(c);
        }
        k->acc = a.acc;
    }
    return LEVEE_OK;
}

static int take_any(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    const struct levee_reducer *r = w->unit->head->steps[step].combine;
    struct rt_port *port = rt_port_of(w, step);
    struct rt_call call = rt_call_at(w, step, 1);
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        code = take_one(&call, r, &in[i], port->seen + i);
    }
    return code;
}

static bool is_full(const struct rt_port *port)
{
    uint64_t keys = port->combined.count + port->sums.count; /* one of them is in use */
    uint64_t records = port->seen - port->combined_from;

    return keys >= RT_COMBINE_KEYS || (keys >= RT_COMBINE_CACHED && records * 8 < keys * 9);
}

/* The table is full: sent and emptied. Sums whose keys did not even come twice on average are not
 * worth a table; for a while their records travel as they are. */
static int send_table(struct rt_worker *w, uint32_t step)
{
    struct rt_port *port = rt_port_of(w, step);
    bool useless = port->seen - port->combined_from < 2 * (uint64_t)port->sums.count;
    int code = rt_combine_flush(w, step);

    if (useless) {
        port->direct_until = port->seen + (uint64_t)16 * RT_COMBINE_CACHED;
        port->combined_from = port->direct_until; /* the table is empty until then */
    }
    return code;
}

int rt_combine_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct rt_port *port = rt_port_of(w, step);
    int code = LEVEE_OK;

    for (size_t at = 0, some; at < n && code == LEVEE_OK; at += some) {
        some = n - at < RT_VECTOR ? n - at : RT_VECTOR;
        if (s->fast == RT_FAST_NONE) {
            code = take_any(w, step, in + at, some);
        } else if (s->node->op->to_one) {
            code = take_total(w, step, in + at, some);
        } else if (port->seen < port->direct_until) {
            code = send_each(w, step, in + at, some);
        } else {
            code = take_fast(w, step, in + at, some);
        }
        port->seen += some;
        if (code == LEVEE_OK && is_full(port)) {
            code = send_table(w, step);
        }
    }
    return code;
}

static int flush_sums(struct rt_worker *w, const struct rt_step *s, struct rt_sums *t)
{
    struct rt_items *row = rt_row_of(w, s);

    for (uint32_t i = 0; i < t->count; i++) {
        const struct rt_sum *sum = &t->slots[t->order[i]];
        uint64_t hash = s->node->op->to_one ? TO_ONE_HASH : hash_key(sum->key, sum->len);
        if (!send_sum(row, rt_column_of(s->node, hash), hash, slice_of(sum->key, sum->len),
                      sum->head, sum->sum)) {
            return rt_worker_nomem(w);
        }
    }
    rt_sums_clear(t);
    return LEVEE_OK;
}

static int flush_accumulators(struct rt_worker *w, const struct rt_step *s, struct rt_keys *t)
{
    struct rt_items *row = rt_row_of(w, s);

    for (size_t i = 0; i < t->count; i++) {
        const struct rt_key *k = &t->items[i];
        struct rt_item *item = rt_items_add(&row[rt_column_of(s->node, k->hash)]);
        if (!item) {
            return rt_worker_nomem(w);
        }
        *item = (struct rt_item){
            .hash = k->hash, .key = k->key, .value = slice_of(k->acc, s->combine->size)};
    }
    rt_keys_clear(t);
    return LEVEE_OK;
}

int rt_combine_flush(struct rt_worker *w, uint32_t step)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct rt_port *port = rt_port_of(w, step);

    port->combined_from = port->seen;
    return s->fast != RT_FAST_NONE ? flush_sums(w, s, &port->sums)
                                   : flush_accumulators(w, s, &port->combined);
}
