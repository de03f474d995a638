#include "runtime/sets.h"

#include "runtime/exec.h"

/* ---- memory and failures ---- */

void rt_sets_init(struct rt_sets *s, struct rt_call *c)
{
    *s = (struct rt_sets){.call = c,
                          .out = {.arena = c->out->arena,
                                  .header = c->out->header,
                                  .shared = c->out->shared,
                                  .shared_count = c->out->shared_count,
                                  .adds = c->out->adds},
                          .partitions = c->node->graph->default_partitions};
}

void rt_sets_clear(struct rt_sets *s)
{
    s->code = LEVEE_OK;
    s->samples = 0;
    s->out.count = 0;
}

void rt_sets_release(struct rt_sets *s)
{
    mem_free(s->out.items);
    rt_keys_release(&s->keys);
}

const levee_batch *rt_sets_fail(struct rt_sets *s, int code)
{
    s->code = s->code ? s->code : code;
    /* A lack of memory is no failure of the function: it ends the batch. */
    if (s->out.failed || s->call->worker->share->code) {
        s->call->out->failed = true;
    }
    return NULL;
}

void *rt_sets_alloc(struct rt_sets *s, size_t bytes)
{
    void *p = rt_output_alloc(&s->out, bytes);

    if (!p) {
        (void)rt_sets_fail(s, LEVEE_ENOMEM);
    }
    return p;
}

struct set { /* a batch with all that it points to */
    struct levee_batch batch;
    struct rt_dataset data;
};

struct levee_batch *rt_set_new(struct rt_sets *s, uint32_t partitions)
{
    struct set *set = rt_sets_alloc(s, sizeof *set);
    struct rt_records *parts = rt_sets_alloc(s, partitions * sizeof *parts);

    if (!set || !parts) {
        return NULL;
    }
    memset(parts, 0, partitions * sizeof *parts);
    set->data = (struct rt_dataset){parts, partitions};
    set->batch = (struct levee_batch){&set->data, s};
    return &set->batch;
}

struct rt_sets *rt_sets_of(const levee_batch *const *in, size_t n)
{
    struct rt_sets *s = n && in[0] ? in[0]->sets : NULL;

    for (size_t i = 0; i < n && s; i++) {
        s = in[i] && in[i]->sets == s ? s : NULL;
    }
    return s && s->code == LEVEE_OK ? s : NULL;
}

/* ---- running operators ---- */

struct running {
    struct rt_sets *sets;
    const struct rt_operator *op;
    struct rt_call call;
    levee_stream node; /* what operators may ask of theirs */
    struct levee_batch *ret;
};

/* What was emitted becomes a partition of the result. */
static int end_partition(struct running *r, uint32_t partition)
{
    struct levee_output *out = &r->sets->out;
    struct levee_record *items = rt_sets_alloc(r->sets, out->count * sizeof *items);

    if (!items || out->failed) {
        return LEVEE_ENOMEM;
    }
    if (out->count) {
        memcpy(items, out->items, out->count * sizeof *items);
    }
    r->ret->data->parts[partition] = (struct rt_records){items, out->count, out->count};
    out->count = 0;
    return LEVEE_OK;
}

static int run_narrow(struct running *r, const struct rt_dataset *in)
{
    int code = LEVEE_OK;

    for (uint32_t p = 0; p < in->partitions && code == LEVEE_OK; p++) {
        const struct rt_records *part = &in->parts[p];
        r->call.partition = p;
        for (size_t at = 0, some; at < part->count && code == LEVEE_OK; at += some) {
            some = part->count - at < RT_VECTOR ? part->count - at : RT_VECTOR;
            code = r->op->narrow(&r->call, part->items + at, some, at);
        }
        code = code ? code : end_partition(r, p);
    }
    return code;
}

/* ---- by key ---- */

/* The items of one side by key group, in the order they came. */
struct side {
    struct rt_items cells[RT_KEY_GROUPS];
};

static int deal(struct rt_sets *s, const struct rt_item *items, size_t n, struct side *ret)
{
    struct rt_item *dealt = rt_sets_alloc(s, n * sizeof *dealt);

    if (!dealt) {
        return LEVEE_ENOMEM;
    }
    *ret = (struct side){0};
    for (size_t i = 0; i < n; i++) {
        ret->cells[rt_group_of(items[i].hash)].cap++;
    }
    for (uint32_t g = 0; g < RT_KEY_GROUPS; g++) {
        ret->cells[g].items = dealt;
        dealt += ret->cells[g].cap;
    }
    for (size_t i = 0; i < n; i++) {
        struct rt_items *cell = &ret->cells[rt_group_of(items[i].hash)];
        cell->items[cell->count++] = items[i];
    }
    return LEVEE_OK;
}

static int deal_records(struct running *r, const levee_batch *in, struct side *ret)
{
    size_t n = 0;
    struct rt_item *items = rt_sets_alloc(r->sets, levee_batch_count(in) * sizeof *items);

    for (uint32_t p = 0; p < in->data->partitions && items; p++) {
        const struct rt_records *part = &in->data->parts[p];
        for (size_t i = 0; i < part->count; i++) {
            struct levee_record x = part->items[i];
            items[n++] = (struct rt_item){.hash = hash_key(x.key.data, x.key.len),
                                          .key = x.key,
                                          .value = x.value,
                                          .time_ms = x.time_ms};
        }
    }
    return items ? deal(r->sets, items, n, ret) : LEVEE_ENOMEM;
}

static int reduce_one(struct running *r, const struct levee_reducer *red,
                      const struct levee_record *in)
{
    struct rt_keys *t = &r->sets->keys;
    struct levee_output *out = &r->sets->out;
    uint64_t hash = hash_key(in->key.data, in->key.len), head = rt_key_head(in->key);
    struct rt_key *k = rt_keys_find(t, hash, in->key, head);
    int rc;

    if (k) {
        rc = red->add(out, k->acc, in->value, red->arg);
    } else {
        void *acc = rt_sets_alloc(r->sets, red->size);
        k = acc ? rt_keys_add(t, hash, in->key, head) : NULL;
        if (!k) {
            out->failed = true;
            return LEVEE_ENOMEM;
        }
        k->acc = memset(acc, 0, red->size);
        rc = red->create(out, acc, in->value, red->arg);
    }
    return rc >= 0 && out->count ? LEVEE_EINVALID : rc < 0 ? rc : LEVEE_OK; /* only finish emits */
}

/* One accumulator per key: what is left for the fold is to finish it. */
static int deal_reduced(struct running *r, const levee_batch *in, struct side *ret)
{
    const struct levee_reducer *red = r->op->combine(&r->node);
    struct rt_keys *t = &r->sets->keys;
    int code = LEVEE_OK;

    rt_keys_clear(t);
    for (uint32_t p = 0; p < in->data->partitions; p++) {
        const struct rt_records *part = &in->data->parts[p];
        for (size_t i = 0; i < part->count && code == LEVEE_OK; i++) {
            code = reduce_one(r, red, &part->items[i]);
        }
    }
    struct rt_item *items = code ? NULL : rt_sets_alloc(r->sets, t->count * sizeof *items);
    for (size_t i = 0; i < t->count && items; i++) {
        const struct rt_key *k = &t->items[i];
        items[i] =
            (struct rt_item){.hash = k->hash, .key = k->key, .value = slice_of(k->acc, red->size)};
    }
    if (code) {
        return code;
    }
    return items ? deal(r->sets, items, t->count, ret) : LEVEE_ENOMEM;
}

static int fold_groups(struct running *r, const struct side *sides, size_t n)
{
    struct rt_groups *g = &r->call.worker->groups;
    uint32_t partitions = r->node.partitions;
    int code = LEVEE_OK;

    g->summed = g->to_one = false;
    g->side_starts = rt_sets_alloc(r->sets, (n + 1) * sizeof *g->side_starts);
    if (!g->side_starts) {
        return LEVEE_ENOMEM;
    }
    for (uint32_t group = 0; group < RT_KEY_GROUPS && code == LEVEE_OK; group++) {
        bool room = true;
        rt_groups_begin(g, group);
        for (size_t s = 0; s < n && room; s++) {
            g->side_starts[s] = g->item_count;
            room = rt_groups_take(g, &sides[s].cells[group]);
        }
        g->side_starts[n] = g->item_count;
        if (!room) {
            code = rt_call_nomem(&r->call);
        } else if (g->keys.count) {
            code = r->op->fold(&r->call, g, NULL);
        }
        uint32_t here = rt_partition_of(group, partitions);
        bool last = group + 1 == RT_KEY_GROUPS;
        if (code == LEVEE_OK && (last || rt_partition_of(group + 1, partitions) != here)) {
            code = end_partition(r, here);
        }
    }
    return code;
}

static int run_keyed(struct running *r, const levee_batch *const *in, size_t n)
{
    struct side *sides = rt_sets_alloc(r->sets, n * sizeof *sides);
    int code = sides ? LEVEE_OK : LEVEE_ENOMEM;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        code =
            r->op->combine ? deal_reduced(r, in[i], &sides[i]) : deal_records(r, in[i], &sides[i]);
    }
    return code ? code : fold_groups(r, sides, n);
}

/* ---- */

const levee_batch *rt_set_run(const levee_batch *const *in, size_t n, const struct rt_operator *op,
                              void *data, uint32_t partitions)
{
    struct rt_sets *s = rt_sets_of(in, n);

    if (!s) {
        return NULL;
    }
    struct running r = {.sets = s, .op = op};
    uint32_t count = op->narrow ? in[0]->data->partitions : partitions ? partitions : s->partitions;
    r.node = (levee_stream){.op = op,
                            .op_data = data,
                            .name = op->name,
                            .partitions = count,
                            .slide = 1,
                            .graph = s->call->node->graph};
    r.call =
        (struct rt_call){.worker = s->call->worker, .node = &r.node, .out = &s->out, .apart = true};
    r.ret = rt_set_new(s, count);
    if (!r.ret) {
        return NULL;
    }
    s->out.count = 0;
    s->out.time_ms = 0;
    int code = op->narrow ? run_narrow(&r, in[0]->data) : run_keyed(&r, in, n);
    return code ? rt_sets_fail(s, code) : r.ret;
}

const levee_batch *rt_set_run_fn(const levee_batch *in, const struct rt_operator *op,
                                 levee_record_fn fn, void *arg)
{
    struct rt_fn_data data = {.fn = fn, .arg = arg};
    struct rt_sets *s = rt_sets_of(&in, 1);

    if (s && !fn) {
        return rt_sets_fail(s, LEVEE_EINVALID);
    }
    return rt_set_run(&in, 1, op, &data, 0);
}

const levee_batch *rt_set_run_reducer(const levee_batch *in, const struct rt_operator *op,
                                      const struct levee_reducer *r)
{
    struct rt_sets *s = rt_sets_of(&in, 1);
    struct levee_reducer copy;

    if (s && !rt_reducer_valid(r)) {
        return rt_sets_fail(s, LEVEE_EINVALID);
    }
    if (!s) {
        return NULL;
    }
    copy = *r;
    return rt_set_run(&in, 1, op, &copy, 0);
}
