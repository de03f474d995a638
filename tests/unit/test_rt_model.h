/*
 * A naive model of the engine: operators over data sets that are arrays of records. It shares no
 * code with the engine but the hash that deals keys, and is as slow as it is plain.
 */
#ifndef LEVEE_TEST_RT_MODEL_H
#define LEVEE_TEST_RT_MODEL_H

#include "tests/unit/test_rt_functions.h"

/* ---- byte strings of the model ---- */

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

static inline void *take(size_t n)
{
    void *p = malloc(n ? n : 1);

    MUST(p != NULL && pool_used < ARRAY_LEN(pool));
    pool[pool_used++] = p;
    return p;
}

static inline void drop_pool(void)
{
    while (pool_used) {
        free(pool[--pool_used]);
    }
}

static inline struct bytes bytes_of(const void *data, size_t len)
{
    uint8_t *p = take(len);

    if (len) {
        memcpy(p, data, len);
    }
    return (struct bytes){p, len};
}

static inline struct bytes number(int64_t v)
{
    uint8_t le[8];

    for (int i = 0; i < 8; i++) {
        le[i] = (uint8_t)((uint64_t)v >> (8 * i));
    }
    return bytes_of(le, 8);
}

static inline int64_t number_of(struct bytes b)
{
    uint64_t v = 0;

    for (size_t i = 0; b.len == 8 && i < 8; i++) {
        v |= (uint64_t)b.data[i] << (8 * i);
    }
    return (int64_t)v;
}

static inline bool same(struct bytes a, struct bytes b)
{
    return a.len == b.len &&
           (a.len == 0 || !a.data || !b.data || memcmp(a.data, b.data, a.len) == 0);
}

static inline void add(struct set *s, uint32_t partition, struct rec r)
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

enum op {
    OP_WORDS,       /* value → words as keys */
    OP_SWAP,        /* key ↔ value */
    OP_ODD,         /* filter on the key's hash */
    OP_LENGTH,      /* map_values: the value's length as a number */
    OP_SEVEN,       /* map_to_i64 */
    OP_TWICE,       /* flat_map_many: every record twice */
    OP_SOME_VALUES, /* flat_map_values */
    OP_CENSUS,      /* map_partitions: first key, number of records */
    OP_FIRST_THREE, /* map_partitions */
    OP_GLOM,
    OP_UNION,   /* of two */
    OP_TURNS,   /* repartition to 5 */
    OP_PLACED,  /* repartition_by to 3 */
    OP_COGROUP, /* of two by key, of the first three records of every partition */
    OP_JOIN,
    OP_LEFT,
    OP_RIGHT,
    OP_FULL,
    OP_SORTED, /* a transform of both, to as many partitions as operators by key */
    OP_SUM,    /* reduce_by_key from here */
    OP_COUNT_KEY,
    OP_MIN,
    OP_CONCAT,
    OP_COUNT_VALUE,
    OP_COMBINE, /* combine_by_key, by the same reducer */
    OP_SPAN,    /* a reducer of our own: the first and the last value */
    OP_GROUP,
    OP_COUNT,
    OP_REDUCE_CONCAT,
    OP_REDUCE_SUM,
    OP_STATE_SUM, /* update_state_by_key from here */
    OP_STATE_TALLY,
    OP_STATE_TALLY_EVERY,
    OP_STATE_LOG,
    OP_TALLY_ALL, /* update_state_by_partition, calling the tally per key */
    OP_TALLY_ALL_EVERY,
    OP_VISIT,       /* map_with_state */
    OP_VISIT_TIMED, /* with a time-out of one batch */
    OP_SNAPSHOTS,   /* of one of those before */
    OP_END
};

/* ---- the model's operators ---- */

static inline void model_words(struct set *to, uint32_t p, const struct rec *r)
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

static inline void model_narrow(enum op op, const struct set *a, struct set *to)
{
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
                add(to, p, r);
                add(to, p, r);
            }
            for (size_t k = 0; op == OP_SOME_VALUES && k < r.value.len % 4; k++) {
                add(to, p, (struct rec){r.key, number((int64_t)k), r.time});
            }
        }
    }
}

/* Varint(length + 1), 0 for absent, then the bytes; returns the end. */
static inline uint8_t *put_one(uint8_t *at, struct bytes b)
{
    uint64_t n = b.data ? b.len + 1 : 0;

    while (n >= 128) {
        *at++ = (uint8_t)(n % 128 + 128);
        n /= 128;
    }
    *at++ = (uint8_t)n;
    if (b.len) {
        memcpy(at, b.data, b.len);
    }
    return at + b.len;
}

static inline struct bytes glommed(const struct rec *r, size_t n)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        len += r[i].key.len + r[i].value.len + 28;
    }
    uint8_t *p = take(len), *at = p;
    for (size_t i = 0; i < n; i++) {
        at = put_one(put_one(at, r[i].key), r[i].value);
        for (int k = 0; k < 8; k++) {
            *at++ = (uint8_t)((uint64_t)r[i].time >> (8 * k));
        }
    }
    return (struct bytes){p, (size_t)(at - p)};
}

static inline void model_partitions(enum op op, const struct set *a, struct set *to)
{
    for (uint32_t p = 0; p < a->partitions; p++) {
        size_t n = a->count[p];
        struct rec r = {.key = n ? a->items[p][0].key : (struct bytes){NULL, 0}};
        if (op == OP_CENSUS) {
            r.value = number((int64_t)n);
            add(to, p, r);
        } else if (op == OP_GLOM) {
            add(to, p, (struct rec){{NULL, 0}, glommed(a->items[p], n), 0});
        }
        for (size_t i = 0; op == OP_FIRST_THREE && i < n && i < 3; i++) {
            add(to, p, a->items[p][i]);
        }
    }
}

static inline bool is_to_one(enum op op)
{
    return op == OP_COUNT || op == OP_REDUCE_CONCAT || op == OP_REDUCE_SUM;
}

struct keyed { /* a key with its values in arrival order */
    struct bytes key;
    struct bytes *values;
    size_t n, cap;
};

static inline size_t group(const struct set *a, enum op op, struct keyed **ret)
{
    bool to_one = is_to_one(op);
    struct keyed *keys = NULL;
    size_t n = 0, cap = 0;

    for (uint32_t p = 0; p < a->partitions; p++) {
        for (size_t i = 0; i < a->count[p]; i++) {
            struct rec r = a->items[p][i];
            size_t k = 0;
            r.key = to_one ? (struct bytes){NULL, 0} : op == OP_COUNT_VALUE ? r.value : r.key;
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

static inline struct bytes joined(const struct keyed *k)
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

static inline struct bytes reduced(enum op op, const struct keyed *k)
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
    if (op == OP_COUNT_KEY || op == OP_COUNT || op == OP_COUNT_VALUE) {
        return number((int64_t)k->n);
    }
    if (op == OP_MIN) {
        return number(least);
    }
    if (op == OP_SPAN || op == OP_COMBINE) {
        struct bytes ends[2] = {k->values[0], k->values[k->n - 1]};
        return joined(&(struct keyed){.values = ends, .n = 2});
    }
    return joined(k);
}

static inline struct bytes sequence(const struct keyed *k)
{
    size_t len = 0;

    for (size_t i = 0; i < k->n; i++) {
        len += k->values[i].len + 10;
    }
    uint8_t *p = take(len), *at = p;
    for (size_t i = 0; i < k->n; i++) {
        at = put_one(at, k->values[i]);
    }
    return (struct bytes){p, (size_t)(at - p)};
}

struct memory { /* a stateful node's state */
    struct bytes keys[4096], values[4096];
    bool there[4096];
    int64_t touched[4096], now;
    size_t n;
};

static inline size_t place_of(struct memory *m, struct bytes key)
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

static inline void remember(struct memory *m, size_t k, struct bytes value)
{
    uint8_t *copy = malloc(value.len + 1);

    MUST(copy != NULL);
    if (value.len) {
        memcpy(copy, value.data, value.len);
    }
    free((void *)(uintptr_t)m->values[k].data);
    m->values[k] = (struct bytes){copy, value.len};
    m->there[k] = true;
    m->touched[k] = m->now;
}

static inline void forget(struct memory *m)
{
    for (size_t k = 0; k < m->n; k++) {
        free((void *)(uintptr_t)m->keys[k].data);
        free((void *)(uintptr_t)m->values[k].data);
    }
    free(m);
}

static inline void model_update(enum op op, struct memory *m, size_t k, const struct keyed *x)
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
static inline int by_hash(const void *a, const void *b)
{
    struct bytes x = sorting->keys[*(const size_t *)a], y = sorting->keys[*(const size_t *)b];
    uint64_t hx = hash_key(x.data, x.len), hy = hash_key(y.data, y.len);

    return (hx > hy) - (hx < hy);
}

/* Keys with state and without values, of one key group, by hash. */
static inline size_t untouched(struct memory *m, uint32_t group, const struct keyed *keys, size_t n,
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

static inline int64_t visited(struct memory *m, size_t k, struct bytes value)
{
    int64_t v = m->there[k] ? number_of(m->values[k]) : 1;

    if (value.len % 5 == 2) {
        m->touched[k] = m->now;
        return -1;
    }
    v = (3 * v + (int64_t)value.len) % 1009;
    if (value.len % 5 == 3) {
        m->there[k] = false;
    } else {
        struct bytes le = number(v);
        remember(m, k, le);
    }
    return v;
}

static struct memory *timing;
static inline int by_touch(const void *a, const void *b)
{
    size_t i = *(const size_t *)a, k = *(const size_t *)b;
    struct bytes x = timing->keys[i], y = timing->keys[k];
    size_t shorter = x.len < y.len ? x.len : y.len;

    if (timing->touched[i] != timing->touched[k]) {
        return timing->touched[i] < timing->touched[k] ? -1 : 1;
    }
    int c = shorter ? memcmp(x.data, y.data, shorter) : 0;
    return c ? c : (x.len > y.len) - (x.len < y.len);
}

static inline void model_timeouts(struct memory *m, uint32_t group_, uint32_t p, struct set *to)
{
    static size_t due[4096];
    size_t n = 0;

    for (size_t k = 0; k < m->n; k++) {
        if (m->there[k] && group_of(m->keys[k]) == group_ && m->now - m->touched[k] > 1000) {
            due[n++] = k;
        }
    }
    timing = m;
    qsort(due, n, sizeof *due, by_touch);
    for (size_t i = 0; i < n; i++) {
        struct bytes key = m->keys[due[i]];
        add(to, p,
            (struct rec){bytes_of(key.data, key.len), number(-number_of(m->values[due[i]])), 0});
        m->there[due[i]] = false;
    }
}

/* Values and times of a key: the records are looked for again, in order. */
static inline void model_visit_key(const struct set *a, struct memory *m, struct bytes key,
                                   uint32_t p, struct set *to)
{
    size_t k = place_of(m, key);

    for (uint32_t q = 0; q < a->partitions; q++) {
        for (size_t i = 0; i < a->count[q]; i++) {
            const struct rec *r = &a->items[q][i];
            if (!same(r->key, key)) {
                continue;
            }
            int64_t v = visited(m, k, r->value);
            for (int64_t e = v; v >= 0 && e <= v + (v % 2 == 0); e++) {
                add(to, p, (struct rec){key, number(e), r->time});
            }
        }
    }
}

static inline void model_snapshot(const struct memory *of, uint32_t group_, uint32_t p,
                                  struct set *to)
{
    static size_t all[4096];
    struct memory *m = (struct memory *)(uintptr_t)of;
    size_t n = untouched(m, group_, NULL, 0, all);

    for (size_t i = 0; i < n; i++) {
        struct bytes k = m->keys[all[i]], v = m->values[all[i]];
        add(to, p, (struct rec){bytes_of(k.data, k.len), bytes_of(v.data, v.len), 0});
    }
}

static inline void model_state(enum op op, struct memory *m, uint32_t group_, uint32_t p,
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

/* Of an operation's output; `keyed` is what operators by key were given. */
static inline uint32_t partitions_of(enum op op, uint32_t a, uint32_t b, uint32_t keyed)
{
    if (op == OP_UNION) {
        return a + b;
    }
    if (op == OP_TURNS || op == OP_PLACED) {
        return op == OP_TURNS ? 5 : 3;
    }
    return op < OP_UNION ? a : is_to_one(op) ? 1 : keyed;
}

static inline void model_exchange(enum op op, const struct set *a, const struct set *b,
                                  struct set *to)
{
    for (uint32_t p = 0; p < a->partitions; p++) {
        for (size_t i = 0; i < a->count[p]; i++) {
            struct rec r = a->items[p][i];
            uint32_t turn = (uint32_t)((p + i) % 5), place = mix(r.key) % 3;
            add(to, op == OP_UNION ? p : op == OP_TURNS ? turn : place, r);
        }
    }
    for (uint32_t p = 0; op == OP_UNION && p < b->partitions; p++) {
        for (size_t i = 0; i < b->count[p]; i++) {
            add(to, a->partitions + p, b->items[p][i]);
        }
    }
}

static inline void model_keyed(enum op op, const struct set *a, struct memory *m, struct set *to)
{
    bool to_one = is_to_one(op);
    struct keyed *keys;
    size_t n = group(a, op, &keys);

    if (op == OP_COUNT && n == 0) {
        add(to, 0, (struct rec){{NULL, 0}, number(0), 0});
    }
    for (uint32_t g = 0; g < 128; g++) {
        uint32_t p = g * to->partitions / 128;
        if (op == OP_SNAPSHOTS) {
            model_snapshot(m, g, p, to);
            continue;
        }
        if (op == OP_VISIT || op == OP_VISIT_TIMED) {
            for (size_t i = 0; i < n; i++) {
                if (group_of(keys[i].key) == g) {
                    model_visit_key(a, m, keys[i].key, p, to);
                }
            }
            if (op == OP_VISIT_TIMED) {
                model_timeouts(m, g, p, to);
            }
            continue;
        }
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

static inline bool is_of_two(enum op op)
{
    return op >= OP_COGROUP && op <= OP_SORTED;
}

static inline struct bytes pair_of(struct bytes left, struct bytes right)
{
    return sequence(&(struct keyed){.values = (struct bytes[]){left, right}, .n = 2});
}

static inline void model_pairs(enum op op, const struct keyed *l, const struct keyed *r,
                               struct bytes key, uint32_t p, struct set *to)
{
    static const struct bytes absent[] = {{NULL, 0}};
    struct keyed none = {.values = (struct bytes *)(uintptr_t)absent, .n = 1};

    if (op == OP_COGROUP) {
        static const struct keyed empty;
        struct bytes sides = pair_of(sequence(l ? l : &empty), sequence(r ? r : &empty));
        add(to, p, (struct rec){key, sides, 0});
        return;
    }
    if ((!r && op != OP_LEFT && op != OP_FULL) || (!l && op != OP_RIGHT && op != OP_FULL)) {
        return;
    }
    l = l ? l : &none;
    r = r ? r : &none;
    for (size_t i = 0; i < l->n * r->n; i++) {
        add(to, p, (struct rec){key, pair_of(l->values[i / r->n], r->values[i % r->n]), 0});
    }
}

/* memcmp order, absent before empty. */
static inline bool comes_after(struct bytes x, struct bytes y)
{
    size_t shorter = x.len < y.len ? x.len : y.len;
    int c = shorter ? memcmp(x.data, y.data, shorter) : 0;

    if (!x.data || !y.data) {
        return x.data != NULL && y.data == NULL;
    }
    return c > 0 || (c == 0 && x.len > y.len);
}

static inline bool identical(struct bytes x, struct bytes y)
{
    return (x.data == NULL) == (y.data == NULL) && same(x, y);
}

static inline void model_sorted(const struct set *left, const struct set *right, struct set *to)
{
    struct rec all[512];
    size_t n = 0;

    for (uint32_t p = 0; p < left->partitions + right->partitions; p++) {
        const struct set *s = p < left->partitions ? left : right;
        uint32_t q = p < left->partitions ? p : p - left->partitions;
        for (size_t i = 0; i < s->count[q]; i++) {
            struct rec r = s->items[q][i];
            size_t at = n, seen = 0;
            while (seen < n &&
                   !(identical(all[seen].key, r.key) && identical(all[seen].value, r.value))) {
                seen++;
            }
            if (seen < n) {
                continue;
            }
            MUST(n < ARRAY_LEN(all));
            for (n++; at > 0 && comes_after(all[at - 1].key, r.key); at--) {
                all[at] = all[at - 1];
            }
            all[at] = r;
        }
    }
    for (uint32_t p = 0; p < to->partitions; p++) {
        for (size_t i = p * n / to->partitions; i < (p + 1) * n / to->partitions; i++) {
            add(to, p, all[i]);
        }
    }
}

static inline const struct keyed *find_key(const struct keyed *keys, size_t n, struct bytes key)
{
    for (size_t i = 0; i < n; i++) {
        if (same(keys[i].key, key)) {
            return &keys[i];
        }
    }
    return NULL;
}

static inline void model_two(enum op op, const struct set *a, const struct set *b, struct set *to)
{
    struct set left = {.partitions = a->partitions}, right = {.partitions = b->partitions};
    struct keyed *ls, *rs;

    model_partitions(OP_FIRST_THREE, a, &left);
    model_partitions(OP_FIRST_THREE, b, &right);
    if (op == OP_SORTED) {
        model_sorted(&left, &right, to);
        return;
    }
    size_t ln = group(&left, op, &ls), rn = group(&right, op, &rs);
    for (uint32_t g = 0; g < 128; g++) {
        uint32_t p = g * to->partitions / 128;
        for (size_t i = 0; i < ln + rn; i++) {
            const struct keyed *k = i < ln ? &ls[i] : &rs[i - ln];
            if (group_of(k->key) == g && !(i >= ln && find_key(ls, ln, k->key))) {
                model_pairs(op, find_key(ls, ln, k->key), find_key(rs, rn, k->key), k->key, p, to);
            }
        }
    }
}

static inline void model(enum op op, const struct set *a, const struct set *b, uint32_t keyed,
                         struct memory *m, struct set *to)
{
    op = op == OP_TALLY_ALL         ? OP_STATE_TALLY
         : op == OP_TALLY_ALL_EVERY ? OP_STATE_TALLY_EVERY
                                    : op; /* must be the same */
    *to = (struct set){.partitions = partitions_of(op, a->partitions, b->partitions, keyed)};
    if (op == OP_UNION || op == OP_TURNS || op == OP_PLACED) {
        model_exchange(op, a, b, to);
    } else if (op >= OP_CENSUS && op <= OP_GLOM) {
        model_partitions(op, a, to);
    } else if (op < OP_UNION) {
        model_narrow(op, a, to);
    } else if (is_of_two(op)) {
        model_two(op, a, b, to);
    } else {
        model_keyed(op, a, m, to);
    }
}

#endif
