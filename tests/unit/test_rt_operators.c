/*
 * Operators against a model: random graphs of random operators over random input are built twice,
 * once through the public builders, once as a naive interpreter that shares no code with the engine
 * but the hash that deals keys. Every record of every output of every batch must be equal, in order
 * and partition, and so must digests and gathered state, whatever the number of workers and on any
 * schedule. Then the meanings that are easy to get wrong, one by one.
 */
#include "tests/unit/test_rt.h"

/* ---- byte strings of the model ---- */

struct bytes {
    const uint8_t *data; /* NULL: absent */
    size_t len;
};
struct rec {
    struct bytes key, value;
    int64_t time;
};
struct set { /* a data set: partitions of records */
    struct rec *items[64];
    size_t count[64];
    uint32_t partitions;
};

static void *pool[1 << 16];
static size_t pool_used;

static void *take(size_t n)
{
    void *p = malloc(n ? n : 1);

    MUST(p != NULL && pool_used < ARRAY_LEN(pool));
    pool[pool_used++] = p;
    return p;
}

static void drop_pool(void)
{
    while (pool_used) {
        free(pool[--pool_used]);
    }
}

static struct bytes bytes_of(const void *data, size_t len)
{
    uint8_t *p = take(len);

    if (len) {
        memcpy(p, data, len);
    }
    return (struct bytes){p, len};
}

static struct bytes number(int64_t v)
{
    uint8_t le[8];

    for (int i = 0; i < 8; i++) {
        le[i] = (uint8_t)((uint64_t)v >> (8 * i));
    }
    return bytes_of(le, 8);
}

static int64_t number_of(struct bytes b)
{
    uint64_t v = 0;

    for (size_t i = 0; b.len == 8 && i < 8; i++) {
        v |= (uint64_t)b.data[i] << (8 * i);
    }
    return (int64_t)v;
}

static bool same(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static void add(struct set *s, uint32_t partition, struct rec r)
{
    size_t n = s->count[partition];

    if ((n & (n - 1)) == 0) { /* grown at powers of two */
        struct rec *more = take((n ? 2 * n : 1) * sizeof *more);
        if (n) {
            memcpy(more, s->items[partition], n * sizeof *more);
        }
        s->items[partition] = more;
    }
    s->items[partition][s->count[partition]++] = r;
}

static uint32_t mix(struct bytes b) /* FNV-1a */
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < b.len; i++) {
        h = (h ^ b.data[i]) * 16777619u;
    }
    return h;
}

static uint32_t group_of(struct bytes key)
{
    return (uint32_t)(hash_key(key.data, key.len) >> 57);
}

/* ---- the functions, once for levee, once for the model ---- */

enum op {
    OP_WORDS,  /* value → words as keys */
    OP_SWAP,   /* key ↔ value */
    OP_ODD,    /* filter on the key's hash */
    OP_LENGTH, /* map_values: the value's length as a number */
    OP_SEVEN,  /* map_to_i64 */
    OP_TWICE,  /* flat_map_many: every record twice, copied */
    OP_UNION,  /* of two */
    OP_SUM,    /* reduce_by_key from here */
    OP_COUNT_KEY,
    OP_MIN,
    OP_CONCAT,
    OP_SPAN, /* a reducer of our own: the first and the last value */
    OP_GROUP,
    OP_COUNT,
    OP_REDUCE_CONCAT,
    OP_REDUCE_SUM,
    OP_STATE_SUM, /* update_state_by_key from here */
    OP_STATE_TALLY,
    OP_STATE_TALLY_EVERY,
    OP_STATE_LOG,
    OP_END
};

static struct bytes view(struct levee_slice s)
{
    return (struct bytes){s.data, s.len};
}

static int fn_words(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit_words(out, in->value);
}
static int fn_swap(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit(out, in->value, in->key);
}
static int fn_odd(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    (void)levee_emit_copy(out, in->key, in->key); /* a filter's emits count for nothing */
    return mix(view(in->key)) & 1;
}
static int fn_length(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit_i64(out, slice_of("ignored", 7), (int64_t)in->value.len);
}
static int fn_twice(levee_output *out, const struct levee_record *in, size_t n, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < 2 * n; i++) {
        if (levee_emit_copy(out, in[i / 2].key, in[i / 2].value)) {
            return -5;
        }
    }
    return 0;
}

struct span {
    struct levee_slice first, last;
};
static int span_create(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct span *s = acc;

    (void)out;
    (void)arg;
    MUST(s->first.data == NULL && s->last.len == 0); /* zeroed */
    s->first = s->last = value;
    return 0;
}
static int span_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    (void)out;
    (void)arg;
    ((struct span *)acc)->last = value;
    return 0;
}
static int span_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    (void)out;
    (void)arg;
    ((struct span *)acc)->last = ((const struct span *)other)->last;
    return 0;
}
static int span_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    const struct span *s = acc;
    uint8_t *p = levee_alloc(out, s->first.len + s->last.len);

    (void)arg;
    if (!p) {
        return -1;
    }
    if (s->first.len) {
        memcpy(p, s->first.data, s->first.len);
    }
    if (s->last.len) {
        memcpy(p + s->first.len, s->last.data, s->last.len);
    }
    return levee_emit(out, key, slice_of(p, s->first.len + s->last.len));
}
static const struct levee_reducer span = {
    1, sizeof(struct span), span_create, span_add, span_merge, NULL, span_finish, NULL};

/* state = 3 × old + values; a multiple of 5 removes it. */
static int fn_tally(levee_output *out, levee_state *state, struct levee_slice key,
                    const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old;
    int64_t v = levee_state_get(state, &old) ? levee_i64(old) : 1;

    (void)out;
    (void)key;
    (void)values;
    (void)arg;
    v = (v * 3 + (int64_t)n) % 1000003;
    if (v % 5 == 0) {
        levee_state_remove(state);
        return 0;
    }
    return levee_state_set_i64(state, v);
}

/* state = old, the first value, the number of values; removed beyond 60 bytes. */
static int fn_log(levee_output *out, levee_state *state, struct levee_slice key,
                  const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old = {NULL, 0};
    uint8_t text[256];
    size_t len = 0;

    (void)key;
    (void)arg;
    (void)levee_state_get(state, &old);
    if (old.len) {
        memcpy(text, old.data, old.len);
        len = old.len;
    }
    size_t more = values[0].len < 40 ? values[0].len : 40;
    if (more) {
        memcpy(text + len, values[0].data, more);
    }
    text[len + more] = (uint8_t)('0' + n % 10);
    len += more + 1;
    if (len > 60) {
        levee_state_remove(state);
        return 0;
    }
    MUST(levee_batch_time(out) == 1000 * (int64_t)levee_batch_id(out));
    return levee_state_set(state, slice_of(text, len));
}

static levee_stream *build(enum op op, levee_stream *a, levee_stream *b, const char *uid)
{
    static const struct levee_state_options every = {.every_key = true};
    levee_stream *both[2] = {a, b};

    switch (op) {
    case OP_WORDS:
        return levee_flat_map(a, fn_words, NULL);
    case OP_SWAP:
        return levee_map(a, fn_swap, NULL);
    case OP_ODD:
        return levee_filter(a, fn_odd, NULL);
    case OP_LENGTH:
        return levee_map_values(a, fn_length, NULL);
    case OP_SEVEN:
        return levee_map_to_i64(a, 7);
    case OP_TWICE:
        return levee_flat_map_many(a, fn_twice, NULL);
    case OP_UNION:
        return levee_union(both, 2);
    case OP_SUM:
        return levee_reduce_by_key(a, &levee_sum_i64);
    case OP_COUNT_KEY:
        return levee_reduce_by_key(a, &levee_count_values);
    case OP_MIN:
        return levee_reduce_by_key(a, &levee_min_i64);
    case OP_CONCAT:
        return levee_reduce_by_key(a, &levee_concat);
    case OP_SPAN:
        return levee_reduce_by_key(a, &span);
    case OP_GROUP:
        return levee_group_by_key(a);
    case OP_COUNT:
        return levee_count(a);
    case OP_REDUCE_CONCAT:
        return levee_reduce(a, &levee_concat);
    case OP_REDUCE_SUM:
        return levee_reduce(a, &levee_sum_i64);
    case OP_STATE_SUM:
        return levee_update_state_by_key(a, uid, NULL, levee_update_sum_i64, NULL);
    case OP_STATE_TALLY:
        return levee_update_state_by_key(a, uid, NULL, fn_tally, NULL);
    case OP_STATE_TALLY_EVERY:
        return levee_update_state_by_key(a, uid, &every, fn_tally, NULL);
    case OP_STATE_LOG:
        return levee_update_state_by_key(a, uid, NULL, fn_log, NULL);
    case OP_END:
        break;
    }
    ck_abort_msg("no such operation");
    return NULL;
}

/* ---- the model's operators ---- */

static void model_words(struct set *to, uint32_t p, const struct rec *r)
{
    for (size_t i = 0; i < r->value.len;) {
        size_t n = 0;
        while (i + n < r->value.len && !memchr(" \t\n\v\f\r", r->value.data[i + n], 6)) {
            n++;
        }
        if (n) {
            add(to, p, (struct rec){{r->value.data + i, n}, {NULL, 0}, r->time});
        }
        i += n + 1;
    }
}

static void model_narrow(enum op op, const struct set *a, struct set *to)
{
    to->partitions = a->partitions;
    for (uint32_t p = 0; p < a->partitions; p++) {
        for (size_t i = 0; i < a->count[p]; i++) {
            struct rec r = a->items[p][i], swapped = {r.value, r.key, r.time};
            if (op == OP_WORDS) {
                model_words(to, p, &r);
            } else if (op == OP_SWAP) {
                add(to, p, swapped);
            } else if (op == OP_ODD && (mix(r.key) & 1)) {
                add(to, p, r);
            } else if (op == OP_LENGTH) {
                add(to, p, (struct rec){r.key, number((int64_t)r.value.len), r.time});
            } else if (op == OP_SEVEN) {
                add(to, p, (struct rec){r.key, number(7), r.time});
            } else if (op == OP_TWICE) {
                /* A vector's copies have the time of its first record, which tests keep equal. */
                add(to, p, r);
                add(to, p, r);
            }
        }
    }
}

struct keyed { /* a key with its values in arrival order */
    struct bytes key;
    struct bytes *values;
    size_t n, cap;
};

static size_t group(const struct set *a, bool to_one, struct keyed **ret)
{
    struct keyed *keys = NULL;
    size_t n = 0, cap = 0;

    for (uint32_t p = 0; p < a->partitions; p++) {
        for (size_t i = 0; i < a->count[p]; i++) {
            struct rec r = a->items[p][i];
            size_t k = 0;
            r.key = to_one ? (struct bytes){NULL, 0} : r.key;
            while (k < n && !same(keys[k].key, r.key)) {
                k++;
            }
            if (k == n) {
                if (n == cap) {
                    struct keyed *more = take((cap = cap ? 2 * cap : 16) * sizeof *more);
                    if (n) {
                        memcpy(more, keys, n * sizeof *more);
                    }
                    keys = more;
                }
                keys[n++] = (struct keyed){.key = r.key};
            }
            struct keyed *x = &keys[k];
            if (x->n == x->cap) {
                struct bytes *more = take((x->cap = x->cap ? 2 * x->cap : 2) * sizeof *more);
                if (x->n) {
                    memcpy(more, x->values, x->n * sizeof *more);
                }
                x->values = more;
            }
            x->values[x->n++] = r.value;
        }
    }
    *ret = keys;
    return n;
}

static struct bytes joined(const struct keyed *k)
{
    size_t len = 0;

    for (size_t i = 0; i < k->n; i++) {
        len += k->values[i].len;
    }
    uint8_t *p = take(len), *at = p;
    for (size_t i = 0; i < k->n; i++) {
        if (k->values[i].len) {
            memcpy(at, k->values[i].data, k->values[i].len);
        }
        at += k->values[i].len;
    }
    return (struct bytes){p, len};
}

static struct bytes reduced(enum op op, const struct keyed *k)
{
    int64_t sum = 0, least = INT64_MAX;

    for (size_t i = 0; i < k->n; i++) {
        int64_t v = number_of(k->values[i]);
        sum = (int64_t)((uint64_t)sum + (uint64_t)v);
        least = v < least ? v : least;
    }
    if (op == OP_SUM || op == OP_REDUCE_SUM) {
        return number(sum);
    }
    if (op == OP_COUNT_KEY || op == OP_COUNT) {
        return number((int64_t)k->n);
    }
    if (op == OP_MIN) {
        return number(least);
    }
    if (op == OP_SPAN) {
        struct bytes ends[2] = {k->values[0], k->values[k->n - 1]};
        return joined(&(struct keyed){.values = ends, .n = 2});
    }
    return joined(k);
}

/* Varint(length + 1), 0 for absent, then the bytes. */
static struct bytes sequence(const struct keyed *k)
{
    size_t len = 0;

    for (size_t i = 0; i < k->n; i++) {
        len += k->values[i].len + 10;
    }
    uint8_t *p = take(len), *at = p;
    for (size_t i = 0; i < k->n; i++) {
        uint64_t n = k->values[i].data ? k->values[i].len + 1 : 0;
        while (n >= 128) {
            *at++ = (uint8_t)(n % 128 + 128);
            n /= 128;
        }
        *at++ = (uint8_t)n;
        if (k->values[i].len) {
            memcpy(at, k->values[i].data, k->values[i].len);
        }
        at += k->values[i].len;
    }
    return (struct bytes){p, (size_t)(at - p)};
}

struct memory { /* a stateful node's state */
    struct bytes keys[4096], values[4096];
    bool there[4096];
    size_t n;
};

static size_t place_of(struct memory *m, struct bytes key)
{
    size_t k = 0;

    while (k < m->n && !same(m->keys[k], key)) {
        k++;
    }
    if (k == m->n) {
        MUST(m->n < ARRAY_LEN(m->keys));
        uint8_t *copy = malloc(key.len + 1); /* the pool lives for one batch */
        MUST(copy != NULL);
        if (key.len) {
            memcpy(copy, key.data, key.len);
        }
        m->keys[m->n] = (struct bytes){copy, key.len};
        m->values[m->n] = (struct bytes){NULL, 0};
        m->there[m->n++] = false;
    }
    return k;
}

static void remember(struct memory *m, size_t k, struct bytes value)
{
    uint8_t *copy = malloc(value.len + 1);

    MUST(copy != NULL);
    if (value.len) {
        memcpy(copy, value.data, value.len);
    }
    free((void *)(uintptr_t)m->values[k].data);
    m->values[k] = (struct bytes){copy, value.len};
    m->there[k] = true;
}

static void forget(struct memory *m)
{
    for (size_t k = 0; k < m->n; k++) {
        free((void *)(uintptr_t)m->keys[k].data);
        free((void *)(uintptr_t)m->values[k].data);
    }
    free(m);
}

static void model_update(enum op op, struct memory *m, size_t k, const struct keyed *x)
{
    bool was = m->there[k];

    if (op == OP_STATE_SUM) {
        int64_t sum = was ? number_of(m->values[k]) : 0;
        for (size_t i = 0; i < x->n; i++) {
            sum = (int64_t)((uint64_t)sum + (uint64_t)number_of(x->values[i]));
        }
        remember(m, k, number(sum));
    } else if (op == OP_STATE_LOG) {
        uint8_t text[256];
        size_t len = was ? m->values[k].len : 0;
        size_t more = x->values[0].len < 40 ? x->values[0].len : 40;
        memcpy(text, was ? m->values[k].data : text, len);
        memcpy(text + len, more ? x->values[0].data : text, more);
        text[len + more] = (uint8_t)('0' + x->n % 10);
        m->there[k] = false;
        if (len + more + 1 <= 60) {
            remember(m, k, bytes_of(text, len + more + 1));
        }
    } else {
        int64_t v = ((was ? number_of(m->values[k]) : 1) * 3 + (int64_t)x->n) % 1000003;
        m->there[k] = false;
        if (v % 5 != 0) {
            remember(m, k, number(v));
        }
    }
}

static struct memory *sorting;
static int by_hash(const void *a, const void *b)
{
    struct bytes x = sorting->keys[*(const size_t *)a], y = sorting->keys[*(const size_t *)b];
    uint64_t hx = hash_key(x.data, x.len), hy = hash_key(y.data, y.len);

    return (hx > hy) - (hx < hy);
}

/* Keys with state and without values, of one key group, by hash. */
static size_t untouched(struct memory *m, uint32_t group, const struct keyed *keys, size_t n,
                        size_t *ret)
{
    size_t count = 0;

    for (size_t k = 0; k < m->n; k++) {
        bool touched = !m->there[k] || group_of(m->keys[k]) != group;
        for (size_t i = 0; i < n && !touched; i++) {
            touched = same(keys[i].key, m->keys[k]);
        }
        if (!touched) {
            ret[count++] = k;
        }
    }
    sorting = m;
    qsort(ret, count, sizeof *ret, by_hash);
    return count;
}

static void model_state(enum op op, struct memory *m, uint32_t group_, uint32_t p,
                        const struct keyed *keys, size_t n, struct set *to)
{
    static size_t idle[4096];

    for (size_t i = 0; i < n; i++) {
        if (group_of(keys[i].key) == group_) {
            size_t k = place_of(m, keys[i].key);
            model_update(op, m, k, &keys[i]);
            if (m->there[k]) {
                add(to, p,
                    (struct rec){keys[i].key, bytes_of(m->values[k].data, m->values[k].len), 0});
            }
        }
    }
    if (op != OP_STATE_TALLY_EVERY) {
        return;
    }
    size_t count = untouched(m, group_, keys, n, idle);
    for (size_t i = 0; i < count; i++) {
        struct keyed none = {.key = m->keys[idle[i]]};
        model_update(op, m, idle[i], &none);
        if (m->there[idle[i]]) {
            struct bytes v = m->values[idle[i]];
            add(to, p,
                (struct rec){bytes_of(none.key.data, none.key.len), bytes_of(v.data, v.len), 0});
        }
    }
}

static void model_keyed(enum op op, const struct set *a, struct memory *m, struct set *to)
{
    bool to_one = op == OP_COUNT || op == OP_REDUCE_CONCAT || op == OP_REDUCE_SUM;
    struct keyed *keys;
    size_t n = group(a, to_one, &keys);

    to->partitions = to_one ? 1 : 8;
    if (op == OP_COUNT && n == 0) {
        add(to, 0, (struct rec){{NULL, 0}, number(0), 0});
    }
    for (uint32_t g = 0; g < 128; g++) {
        uint32_t p = g * to->partitions / 128;
        if (op >= OP_STATE_SUM) {
            model_state(op, m, g, p, keys, n, to);
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            if (to_one ? g == 0 : group_of(keys[i].key) == g) {
                struct bytes v = op == OP_GROUP ? sequence(&keys[i]) : reduced(op, &keys[i]);
                add(to, p, (struct rec){keys[i].key, v, 0});
            }
        }
    }
}

static void model(enum op op, const struct set *a, const struct set *b, struct memory *m,
                  struct set *to)
{
    *to = (struct set){0};
    if (op == OP_UNION) {
        to->partitions = a->partitions + b->partitions;
        for (uint32_t p = 0; p < to->partitions; p++) {
            const struct set *from = p < a->partitions ? a : b;
            uint32_t q = p < a->partitions ? p : p - a->partitions;
            for (size_t i = 0; i < from->count[q]; i++) {
                add(to, p, from->items[q][i]);
            }
        }
    } else if (op < OP_UNION) {
        model_narrow(op, a, to);
    } else {
        model_keyed(op, a, m, to);
    }
}

/* ---- random graphs ---- */

#define NODES 14u

struct plan { /* nodes 0 and 1 are sources */
    enum op ops[NODES];
    uint32_t a[NODES], b[NODES];
    uint32_t partitions[NODES];
    uint32_t count;
};

static uint64_t below(uint64_t *rng, uint64_t n)
{
    return rng_next(rng) % n;
}

static void make_plan(struct plan *p, uint64_t *rng)
{
    p->count = 4 + (uint32_t)below(rng, NODES - 4);
    p->partitions[0] = 1 + (uint32_t)below(rng, 3);
    p->partitions[1] = 1 + (uint32_t)below(rng, 4);
    for (uint32_t i = 2; i < p->count; i++) {
        do {
            p->ops[i] = (enum op)below(rng, OP_END);
            p->a[i] = (uint32_t)below(rng, i);
            p->b[i] = (uint32_t)below(rng, i);
            p->partitions[i] = p->partitions[p->a[i]];
            if (p->ops[i] == OP_UNION) {
                p->partitions[i] += p->partitions[p->b[i]];
            } else if (p->ops[i] == OP_COUNT || p->ops[i] == OP_REDUCE_CONCAT ||
                       p->ops[i] == OP_REDUCE_SUM) {
                p->partitions[i] = 1;
            } else if (p->ops[i] > OP_UNION) {
                p->partitions[i] = 8;
            }
        } while (p->partitions[i] > 40);
    }
}

/* Every node has a sink of its own, so that every edge is looked at. */
static void build_plan(const struct plan *p, struct bed *b)
{
    levee_stream *nodes[NODES];
    char uid[16];

    for (uint32_t i = 0; i < p->count; i++) {
        (void)snprintf(uid, sizeof uid, "node%u", i);
        nodes[i] = i < 2 ? bed_source(b, p->partitions[i])
                         : build(p->ops[i], nodes[p->a[i]], nodes[p->b[i]], uid);
        if (!nodes[i]) {
            ck_abort_msg("node %u: %s", i, b->graph->error.what);
        }
        MUST(nodes[i]->partitions == p->partitions[i]);
        MUST(bed_sink(b, nodes[i]) == i);
    }
}

/* Lines of a small vocabulary, some keys and values absent or empty, some long. */
static struct rec make_record(uint64_t *rng, int64_t time)
{
    static const char *const words[] = {"a",  "b",   "to",   "be",    "or",         "not",
                                        "it", "the", "that", "stone", "parliament", "x"};
    char text[512];
    size_t len = 0;
    struct rec r = {.time = time};

    for (uint64_t n = below(rng, 6); n > 0; n--) {
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%s",
                                words[below(rng, ARRAY_LEN(words))], n % 3 ? " " : "\t\n");
    }
    if (below(rng, 8) == 0) {
        len += (size_t)snprintf(text + len, sizeof text - len, " w%llu",
                                (unsigned long long)below(rng, 300));
    }
    r.value = below(rng, 10) ? bytes_of(text, len) : (struct bytes){NULL, 0};
    r.value = below(rng, 6) ? r.value : number((int64_t)rng_next(rng));
    len = (size_t)snprintf(text, sizeof text, "%s%s", words[below(rng, ARRAY_LEN(words))],
                           below(rng, 9) ? "" : " with a tail that does not fit an entry");
    r.key = below(rng, 10) ? bytes_of(text, below(rng, 20) ? len : 0) : (struct bytes){NULL, 0};
    return r;
}

/* Feeds both: blocks for the bed, the same in a set. */
static void make_input(uint64_t *rng, const struct plan *p, struct bed *b, struct set in[2],
                       uint64_t batch)
{
    for (uint32_t s = 0; s < 2; s++) {
        in[s] = (struct set){.partitions = p->partitions[s]};
        for (uint64_t blocks = below(rng, 5); blocks > 0; blocks--) {
            uint32_t part = (uint32_t)below(rng, p->partitions[s]);
            struct levee_record records[700];
            size_t n = below(rng, 6) ? below(rng, 40) : below(rng, 700);
            for (size_t i = 0; i < n; i++) {
                struct rec r = make_record(rng, (int64_t)batch * 10);
                add(&in[s], part, r);
                records[i] = (struct levee_record){
                    {r.key.data, r.key.len}, {r.value.data, r.value.len}, r.time};
            }
            bed_feed(b, s, (uint16_t)part, records, n);
        }
    }
}

static bool equal(struct bytes want, struct levee_slice got)
{
    return (want.data == NULL) == (got.data == NULL) && same(want, view(got));
}

static void compare(const struct set *want, const struct rt_dataset *got, const char *who)
{
    if (want->partitions != got->partitions) {
        ck_abort_msg("%s: %u partitions, expected %u", who, got->partitions, want->partitions);
    }
    for (uint32_t p = 0; p < want->partitions; p++) {
        if (want->count[p] != got->parts[p].count) {
            ck_abort_msg("%s, partition %u: %zu records, expected %zu", who, p, got->parts[p].count,
                         want->count[p]);
        }
        for (size_t i = 0; i < want->count[p]; i++) {
            const struct rec *w = &want->items[p][i];
            const struct levee_record *g = &got->parts[p].items[i];
            if (!equal(w->key, g->key) || !equal(w->value, g->value) || w->time != g->time_ms) {
                ck_abort_msg("%s, partition %u, record %zu: expected %.*s=%.*s at %lld, got "
                             "%.*s=%.*s at %lld",
                             who, p, i, (int)w->key.len, (const char *)w->key.data,
                             (int)w->value.len, (const char *)w->value.data, (long long)w->time,
                             (int)g->key.len, (const char *)g->key.data, (int)g->value.len,
                             (const char *)g->value.data, (long long)g->time_ms);
            }
        }
    }
}

/* The state as the engine enumerates it against the model's. */
struct state_check {
    struct memory *m;
    size_t seen;
};
static int check_entry(void *arg, struct levee_slice key, struct levee_slice value)
{
    struct state_check *c = arg;
    size_t k = place_of(c->m, view(key));

    MUST(c->m->there[k]);
    MUST(same(c->m->values[k], view(value)));
    c->seen++;
    return 0;
}

static void compare_state(const struct bed *b, const char *uid, struct memory *m)
{
    struct state_check c = {m, 0};
    size_t there = 0;

    MUST(rt_engine_each(b->engine, rt_uid_hash(uid), check_entry, &c) == 0);
    for (size_t k = 0; k < m->n; k++) {
        there += m->there[k];
    }
    MUST(c.seen == there);
}

static uint64_t gathered(struct bed *b)
{
    struct ckpt_slices *slices;
    uint64_t h = 1;
    size_t n;

    MUST(rt_engine_gather(b->engine, &slices, &n, &b->err) == LEVEE_OK);
    for (size_t i = 0; i < n; i++) {
        h = hash64(slices[i].bytes.data, slices[i].bytes.len, h + slices[i].table);
    }
    rt_engine_free_slices(slices, n);
    return h;
}

/* Runs a seed's graph for some batches; the fingerprint of all that must not depend on workers. */
static uint64_t run_seed(uint64_t seed, uint32_t workers, uint64_t schedule)
{
    struct plan p = {0};
    struct bed b;
    struct memory *memories[NODES];
    static struct set sets[NODES];
    uint64_t rng = seed, print = 0;
    char who[64], uid[16];

    make_plan(&p, &rng);
    bed_init(&b, workers, schedule);
    build_plan(&p, &b);
    b.opt.retries = 1;
    MUST(bed_open(&b) == LEVEE_OK);
    for (uint32_t i = 0; i < p.count; i++) {
        memories[i] = calloc(1, sizeof *memories[i]);
        MUST(memories[i] != NULL);
    }
    for (uint64_t batch = 1; batch <= 4; batch++) {
        make_input(&rng, &p, &b, sets, batch);
        MUST(bed_run(&b) == LEVEE_OK);
        for (uint32_t i = 0; i < p.count; i++) {
            if (i >= 2) {
                model(p.ops[i], &sets[p.a[i]], &sets[p.b[i]], memories[i], &sets[i]);
            }
            (void)snprintf(who, sizeof who, "seed %llu, batch %llu, node %u, operation %d",
                           (unsigned long long)seed, (unsigned long long)batch, i, (int)p.ops[i]);
            compare(&sets[i], bed_output(&b, i), who);
            print = hash64(&b.compute.digests[i], 8, print);
            MUST((b.compute.digests[i] == 0) == (b.compute.output_records[i] == 0));
            (void)snprintf(uid, sizeof uid, "node%u", i);
            if (i >= 2 && p.ops[i] >= OP_STATE_SUM) {
                compare_state(&b, uid, memories[i]);
            }
        }
        if (batch % 2 == 0) {
            print = gathered(&b) + print * 31;
            print += rt_engine_state_digest(b.engine);
        }
        bed_end_batch(&b);
        drop_pool();
    }
    for (uint32_t i = 0; i < p.count; i++) {
        forget(memories[i]);
    }
    bed_release(&b);
    return print;
}

static uint64_t seeds(uint64_t usual) /* RT_SEEDS: for long runs by hand */
{
    const char *s = getenv("RT_SEEDS");

    return s ? strtoull(s, NULL, 10) : usual;
}

START_TEST(random_graphs_equal_the_model_for_any_number_of_workers)
{
    for (uint64_t seed = 1; seed <= seeds(60); seed++) {
        uint64_t one = run_seed(seed, 1, 0);
        MUST(run_seed(seed, 2, 0) == one);
        MUST(run_seed(seed, 7, 0) == one);
    }
}
END_TEST

START_TEST(random_graphs_equal_the_model_on_any_schedule)
{
    for (uint64_t seed = 1000; seed < 1000 + seeds(40); seed++) {
        uint64_t one = run_seed(seed, 1, 0);
        MUST(run_seed(seed, 3, seed * 5 + 1) == one);
        MUST(run_seed(seed, 3, seed * 7 + 2) == one);
    }
}
END_TEST

/* ---- meanings easy to get wrong ---- */

static char shown[4096];

START_TEST(count_of_an_empty_batch_is_one_record_0)
{
    struct bed b;

    bed_init(&b, 2, 0);
    levee_stream *s = bed_source(&b, 3);
    size_t count = bed_sink(&b, levee_count(s)),
           total = bed_sink(&b, levee_reduce(s, &levee_sum_i64));
    MUST(bed_open(&b) == LEVEE_OK);
    ck_assert(!rt_engine_wants_empty_batch(b.engine));
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, count, shown, sizeof shown), "=0");
    ck_assert_uint_eq(b.compute.output_records[total], 0);
    ck_assert_uint_eq(b.compute.digests[total], 0);
    ck_assert_uint_ne(b.compute.digests[count], 0);
    bed_release(&b);
}
END_TEST

START_TEST(the_words_of_a_line)
{
    struct bed b;
    const char *lines[] = {"to be or  not to\tbe", "", " \n\v\f\r", "be"};

    bed_init(&b, 1, 0);
    levee_stream *pairs = levee_map_to_i64(levee_flat_map(bed_source(&b, 1), fn_words, NULL), 1);
    size_t counts = bed_sink(&b, levee_reduce_by_key(pairs, &levee_sum_i64));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed_text(&b, lines, ARRAY_LEN(lines));
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show_sorted(&b, counts, shown, sizeof shown), "be=3 not=1 or=1 to=2");
    ck_assert_uint_eq(b.compute.records, 4);
    bed_release(&b);
}
END_TEST

START_TEST(words_of_every_length_and_alignment)
{
    struct bed b;
    char line[200], want[400];

    bed_init(&b, 1, 0);
    size_t out = bed_sink(&b, levee_flat_map(bed_source(&b, 1), fn_words, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    for (unsigned first = 0; first < 70; first++) {
        size_t n = 0, w = 0;
        for (unsigned len = first; len > 0 && n + len + 1 < sizeof line; len -= 1 + len / 3) {
            memset(line + n, 'a' + (int)(len % 26), len);
            w += (size_t)snprintf(want + w, sizeof want - w, "%s%.*s=", w ? " " : "", (int)len,
                                  line + n);
            n += len;
            line[n++] = " \t\n\v\f\r"[len % 6];
        }
        struct levee_record r = {.value = slice_of(line, n)};
        want[w] = 0;
        bed_feed(&b, 0, 0, &r, 1);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), want);
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

static int everything_is_a_word(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < in->value.len; i++) {
        MUST(levee_emit_words(out, slice_of(in->value.data + i, 1)) == 0);
    }
    return 0;
}

START_TEST(six_bytes_are_white_space_and_no_others)
{
    struct bed b;
    uint8_t all[256];

    for (size_t i = 0; i < sizeof all; i++) {
        all[i] = (uint8_t)i;
    }
    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t each = bed_sink(&b, levee_flat_map(s, everything_is_a_word, NULL));
    size_t runs = bed_sink(&b, levee_flat_map(s, fn_words, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    struct levee_record r = {.value = slice_of(all, sizeof all)};
    bed_feed(&b, 0, 0, &r, 1);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[each], 250);
    const struct levee_record *w = bed_output(&b, runs)->parts[0].items;
    ck_assert_uint_eq(b.compute.output_records[runs], 3); /* 0–8, 14–31, 33–255 */
    ck_assert_uint_eq(w[0].key.len, 9);
    ck_assert_uint_eq(w[1].key.len, 18);
    ck_assert_uint_eq(w[2].key.len, 223);
    ck_assert_ptr_null(w[0].value.data);
    bed_release(&b);
}
END_TEST

START_TEST(a_group_keeps_arrival_order)
{
    struct bed b;
    struct levee_record in[] = {{slice_str("k"), slice_str("2"), 0},
                                {slice_str("k"), slice_of(NULL, 0), 0},
                                {slice_str("k"), slice_of("", 0), 0},
                                {slice_str("k"), slice_str("1"), 0}};
    struct levee_slice v;

    bed_init(&b, 1, 0);
    size_t out = bed_sink(&b, levee_group_by_key(bed_source(&b, 2)));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 1, in + 2, 2); /* partition 1 comes after partition 0 */
    bed_feed(&b, 0, 0, in, 2);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[out], 1);
    for (uint32_t p = 0; p < 8; p++) {
        const struct rt_records *part = &bed_output(&b, out)->parts[p];
        if (part->count == 0) {
            continue;
        }
        struct levee_slice g = part->items[0].value;
        ck_assert(levee_group_next(&g, &v) && slice_eq(v, slice_str("2")));
        ck_assert(levee_group_next(&g, &v) && v.data == NULL);
        ck_assert(levee_group_next(&g, &v) && v.data != NULL && v.len == 0);
        ck_assert(levee_group_next(&g, &v) && slice_eq(v, slice_str("1")));
        ck_assert(!levee_group_next(&g, &v));
    }
    struct levee_slice damaged = slice_of("\x09"
                                          "abc",
                                          4);
    ck_assert(!levee_group_next(&damaged, &v));
    bed_release(&b);
}
END_TEST

/* Keys 1 and 2 have initial state; 3 has not. */
START_TEST(initial_state_is_for_keys_never_seen)
{
    uint8_t ten[8] = {10}, twenty[8] = {20};
    struct levee_record initial[] = {{slice_str("1"), slice_of(ten, 8), 0},
                                     {slice_str("2"), slice_of(twenty, 8), 0}};
    struct levee_state_options o = {.initial = initial, .initial_count = 2, .version = 3};

    for (int known = 0; known < 2; known++) {
        struct bed b;
        struct levee_record in[] = {{slice_str("1"), slice_of(ten, 8), 0},
                                    {slice_str("3"), slice_of(ten, 8), 0}};
        uint32_t table = rt_uid_hash("s");
        uint64_t keys, bytes;
        bed_init(&b, 1, 0);
        levee_stream *s =
            levee_update_state_by_key(bed_source(&b, 1), "s", &o, levee_update_sum_i64, NULL);
        ck_assert_uint_eq(s->state_version, 3);
        size_t out = bed_sink(&b, s);
        MUST(bed_open(&b) == LEVEE_OK);
        MUST(rt_engine_loaded(b.engine, &table, (size_t)known, &b.err) == LEVEE_OK);
        rt_engine_state_size(b.engine, &keys, &bytes);
        ck_assert_uint_eq(keys, known ? 0 : 2);
        bed_feed(&b, 0, 0, in, 2);
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show_sorted(&b, out, shown, sizeof shown),
                         known ? "1=10 3=10" : "1=20 3=10");
        bed_release(&b);
    }
}
END_TEST

/* cases.md: values add and set idle 0, none adds 1; idle 2 removes. */
static int drop_after_two_idle(levee_output *out, levee_state *state, struct levee_slice key,
                               const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old;
    uint8_t count = 0, idle = 0;

    (void)out;
    (void)key;
    (void)values;
    (void)arg;
    if (levee_state_get(state, &old)) {
        count = old.data[0];
        idle = old.data[1];
    }
    idle = n ? 0 : (uint8_t)(idle + 1);
    uint8_t now[2] = {(uint8_t)(count + n), idle};
    if (idle == 2) {
        levee_state_remove(state);
        return 0;
    }
    return levee_state_set(state, slice_of(now, 2));
}

START_TEST(every_key_is_called_each_batch_until_it_is_removed)
{
    struct bed b;
    struct levee_state_options o = {.every_key = true};
    struct levee_record a = {slice_str("a"), slice_str("v"), 0}, c = {slice_str("c"), a.value, 0};
    const size_t expected[] = {1, 2, 1, 0, 1}; /* records out of each batch */

    bed_init(&b, 2, 0);
    size_t out = bed_sink(
        &b, levee_update_state_by_key(bed_source(&b, 1), "s", &o, drop_after_two_idle, NULL));
    MUST(bed_open(&b) == LEVEE_OK);
    ck_assert(rt_engine_wants_empty_batch(b.engine));
    for (size_t batch = 0; batch < ARRAY_LEN(expected); batch++) {
        if (batch == 0 || batch == 4) {
            bed_feed(&b, 0, 0, &a, 1);
        } else if (batch == 1) {
            bed_feed(&b, 0, 0, &c, 1);
        }
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.output_records[out], expected[batch]);
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

/* The combine's table is emptied when it is full: more keys than it holds, then few again. */
START_TEST(sums_are_right_when_a_combine_overflows)
{
    enum { KEYS = 50000, ROUNDS = 3 };
    struct bed b;
    struct levee_record *in = calloc(KEYS, sizeof *in);
    char *names = calloc(KEYS, 12);
    uint8_t one[8] = {1};
    uint64_t total = 0;

    MUST(in && names);
    for (size_t i = 0; i < KEYS; i++) {
        int n = snprintf(names + 12 * i, 12, "key%zu", i);
        in[i] = (struct levee_record){slice_of(names + 12 * i, (size_t)n), slice_of(one, 8), 0};
    }
    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 1);
    size_t sums = bed_sink(&b, levee_reduce_by_key(s, &levee_sum_i64));
    size_t spans = bed_sink(&b, levee_reduce_by_key(s, &span));
    MUST(bed_open(&b) == LEVEE_OK);
    for (int r = 0; r < ROUNDS; r++) {
        bed_feed(&b, 0, 0, in, KEYS);
    }
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_uint_eq(b.compute.output_records[sums], KEYS);
    ck_assert_uint_eq(b.compute.output_records[spans], KEYS);
    for (uint32_t p = 0; p < 8; p++) {
        const struct rt_records *part = &bed_output(&b, sums)->parts[p];
        const struct rt_records *other = &bed_output(&b, spans)->parts[p];
        uint32_t group = 0;
        for (size_t i = 0; i < part->count; i++) {
            uint32_t g = group_of(view(part->items[i].key));
            MUST(g >= group && slice_eq(part->items[i].key, other->items[i].key));
            MUST(levee_i64(part->items[i].value) == ROUNDS);
            group = g;
            total++;
        }
    }
    ck_assert_uint_eq(total, KEYS);
    bed_release(&b);
    free(in);
    free(names);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_operators");
    TCase *t = tcase_create("model");

    tcase_set_timeout(t, 600);
    tcase_add_test(t, random_graphs_equal_the_model_for_any_number_of_workers);
    tcase_add_test(t, random_graphs_equal_the_model_on_any_schedule);
    suite_add_tcase(s, t);
    t = tcase_create("meanings");
    tcase_add_test(t, count_of_an_empty_batch_is_one_record_0);
    tcase_add_test(t, the_words_of_a_line);
    tcase_add_test(t, words_of_every_length_and_alignment);
    tcase_add_test(t, six_bytes_are_white_space_and_no_others);
    tcase_add_test(t, a_group_keeps_arrival_order);
    tcase_add_test(t, initial_state_is_for_keys_never_seen);
    tcase_add_test(t, every_key_is_called_each_batch_until_it_is_removed);
    tcase_add_test(t, sums_are_right_when_a_combine_overflows);
    suite_add_tcase(s, t);
    return suite_main(s);
}
