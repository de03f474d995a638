/*
 * Running a unit: its head's records are pushed down the tree of steps, a vector at a time.
 *
 * A narrow operator emits into its port; when the port holds about a vector, it is handed on and
 * emptied. An operator that only rewrites changes the vector it is given where it lies, unless
 * somebody else reads it too: then it gets a copy in its port. Ends copy: sinks into the batch's
 * outputs, the others into inboxes. An operator over whole partitions holds what comes in its port
 * until the unit has pushed all it has. Between units every port is empty.
 */
#include "runtime/exec.h"

int rt_worker_nomem(struct rt_worker *w)
{
    w->share->code = err_nomem(&w->share->err, 0);
    return w->share->code;
}

static int take_output(struct rt_worker *w, const struct rt_step *s, const struct levee_record *in,
                       size_t n)
{
    struct rt_dataset *data = &w->run->outputs[s->node->ordinal];
    struct rt_records *part = &data->parts[w->unit->partition + s->offset];
    void *items = part->items;

    if (!mem_grow(&items, &part->cap, part->count + n, sizeof *part->items)) {
        return rt_worker_nomem(w);
    }
    part->items = items;
    memcpy(part->items + part->count, in, n * sizeof *in);
    part->count += n;
    return LEVEE_OK;
}

/* To the children that take the one or the other: what a step hands on, or what it sets aside. */
static int push_to(struct rt_worker *w, const struct rt_step *s, bool side, struct levee_record *io,
                   size_t n)
{
    int code = LEVEE_OK;

    for (uint32_t i = 0; i < s->child_count && code == LEVEE_OK; i++) {
        if (w->unit->head->steps[s->children[i]].side == side) {
            code = rt_push(w, s->children[i], io, n);
        }
    }
    return code;
}

static int push_children(struct rt_worker *w, const struct rt_step *s, struct levee_record *io,
                         size_t n)
{
    return push_to(w, s, false, io, n);
}

static int rewrite(struct rt_worker *w, uint32_t step, struct levee_record *io, size_t n)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct levee_output *out = &rt_port_of(w, step)->out;

    if (!s->owns_input) {
        void *items = out->items;
        if (!mem_grow(&items, &out->cap, n, sizeof *out->items)) {
            return rt_worker_nomem(w);
        }
        out->items = items;
        memcpy(out->items, io, n * sizeof *io);
        io = out->items;
    }
    s->node->op->rewrite(s->node, io, n);
    return push_children(w, s, io, n);
}

/* Vectors get narrower for operators that multiply records, so that what they emit stays in cache.
 */
static void adapt_width(struct rt_port *port, size_t emitted)
{
    if (emitted > (size_t)2 * RT_VECTOR && port->width > 4) {
        port->width /= 2;
    } else if (emitted < RT_VECTOR / 2 && port->width < RT_VECTOR) {
        port->width *= 2;
    }
}

static int run_narrow(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    struct rt_port *port = rt_port_of(w, step);
    struct rt_call call = rt_call_at(w, step, 0);
    int code = LEVEE_OK;

    for (size_t at = 0, some; at < n && code == LEVEE_OK; at += some) {
        size_t before = port->out.count;
        some = n - at < port->width ? n - at : port->width;
        code = call.node->op->narrow(&call, in + at, some, port->seen);
        port->seen += some;
        if (code == LEVEE_OK && port->out.failed) {
            code = rt_worker_nomem(w);
        }
        if (some == port->width) {
            adapt_width(port, port->out.count - before);
        }
        if (code == LEVEE_OK &&
            (port->out.count >= RT_VECTOR || port->out.side_count >= RT_VECTOR)) {
            code = rt_flush(w, step);
        }
    }
    return code;
}

static int hold(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    struct rt_records *held = &rt_port_of(w, step)->held;
    void *items = held->items;

    if (!mem_grow(&items, &held->cap, held->count + n, sizeof *held->items)) {
        return rt_worker_nomem(w);
    }
    held->items = items;
    memcpy(held->items + held->count, in, n * sizeof *in);
    held->count += n;
    return LEVEE_OK;
}

/* The partition is complete. */
static int run_whole(struct rt_worker *w, uint32_t step)
{
    struct rt_port *port = rt_port_of(w, step);
    struct rt_call call = rt_call_at(w, step, 0);
    if (!rt_due(&call)) {
        return LEVEE_OK; /* below a window that is not due: nothing has come */
    }
    int code = call.node->op->whole(&call, port->held.items, port->held.count);

    if (code == LEVEE_OK && port->out.failed) {
        code = rt_worker_nomem(w);
    }
    port->held.count = 0;
    return code ? code : rt_flush(w, step);
}

int rt_push(struct rt_worker *w, uint32_t step, struct levee_record *io, size_t n)
{
    const struct rt_step *s = &w->unit->head->steps[step];

    if (n == 0) {
        return LEVEE_OK;
    }
    switch (s->does) {
    case RT_PASSES:
        return push_children(w, s, io, n);
    case RT_REWRITES:
        return rewrite(w, step, io, n);
    case RT_CALLS:
        return run_narrow(w, step, io, n);
    case RT_HOLDS:
        return hold(w, step, io, n);
    case RT_OUTPUTS:
        return take_output(w, s, io, n);
    case RT_COMBINES:
        return rt_combine_take(w, step, io, n);
    case RT_DEALS:
        return rt_keyed_take(w, step, io, n);
    case RT_PLACES:
        return rt_exchange_take(w, step, io, n);
    case RT_GATHERS:
        return rt_gather_take(w, step, io, n);
    case RT_IGNORES:
        break;
    }
    return LEVEE_OK;
}

int rt_flush(struct rt_worker *w, uint32_t step)
{
    struct levee_output *out = &rt_port_of(w, step)->out;
    const struct rt_step *s = &w->unit->head->steps[step];
    int code = push_children(w, s, out->items, out->count);

    if (code == LEVEE_OK && out->side_count) {
        code = push_to(w, s, true, out->side, out->side_count);
    }
    out->count = out->side_count = 0;
    return code;
}

/* A block was verified by hash when it was read, so a record that does not parse is our own bug or
 * bad memory: either way the batch must not go on without it. */
static int cut_short(struct rt_worker *w, const struct rt_block *b, uint32_t read)
{
    struct rt_share *share = w->share;

    share->code = err_set(&share->err, LEVEE_EWAL_CORRUPT, "a block of source %s does not parse",
                          w->unit->head->node->uid);
    err_where(&share->err, "log position %llu", (unsigned long long)b->lsn);
    err_expected(&share->err, "%u records", b->count);
    err_found(&share->err, "%u", read);
    return share->code;
}

static int run_source(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;
    const struct rt_input *in = &w->run->compute->inputs[h->node->ordinal];
    struct levee_record vector[RT_VECTOR];
    size_t n = 0;
    int code = LEVEE_OK;

    for (size_t b = 0; b < in->count && code == LEVEE_OK; b++) {
        const struct rt_block *block = in->blocks[b];
        struct rt_block_cursor c;
        uint32_t read = 0;
        if (block->partition % h->partitions != w->unit->partition) {
            continue;
        }
        rt_block_cursor_init(&c, block);
        while (code == LEVEE_OK && rt_block_next(&c, &vector[n])) {
            read++;
            if (++n == RT_VECTOR) {
                code = rt_push(w, 0, vector, n);
                n = 0;
            }
        }
        if (code == LEVEE_OK && read != block->count) {
            code = cut_short(w, block, read);
        }
    }
    return code ? code : rt_push(w, 0, vector, n);
}

static void reset_ports(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;

    for (uint32_t i = 0; i < h->step_count; i++) {
        const struct rt_step *s = &h->steps[i];
        struct rt_port *p = rt_port_of(w, i);
        /* Where records are combined or placed they are calls of the half before the exchange. */
        uint32_t half = i > 0 && rt_has_inbox(s->node);
        p->seen = p->combined_from = p->direct_until = 0;
        p->width = RT_VECTOR;
        p->may_decide = rt_call_decided(w, s->node, half, w->unit->partition + s->offset);
        p->out.count = 0;
        p->out.failed = false;
        p->out.arena = &w->share->arena;
        p->out.header = &w->run->compute->header;
        p->out.adds = &w->share->adds;
        p->out.shared = w->run->compute->shared;
        p->out.shared_count = w->run->compute->shared_count;
        p->out.time_ms = 0;
        p->out.side_count = 0;
        p->out.window = NULL;
        p->out.watermark_ms = s->node->clock ? w->run->watermarks[s->node->clock - 1] : RT_NO_TIME;
        p->held.count = 0;
        rt_keys_clear(&p->combined);
        rt_sums_clear(&p->sums);
    }
}

/* What is left in ports and combines, and whole partitions; parents come before their children. */
static int finish_tree(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;
    int code = LEVEE_OK;

    for (uint32_t i = 0; i < h->step_count && code == LEVEE_OK; i++) {
        const struct rt_step *s = &h->steps[i];
        if (i == 0 || s->does == RT_CALLS) {
            code = rt_flush(w, i);
        } else if (s->does == RT_COMBINES) {
            code = rt_combine_flush(w, i);
        } else if (s->does == RT_HOLDS) {
            code = run_whole(w, i);
        }
    }
    return code;
}

/* Over key, value and time of every record in order. Lengths are part of each hash, and what is
 * absent differs from what is empty. */
uint64_t rt_records_digest(const struct rt_records *r)
{
    uint64_t h = 1;

    for (size_t i = 0; i < r->count; i++) {
        const struct levee_record *x = &r->items[i];
        uint64_t present = (x->key.data != NULL) | (uint64_t)(x->value.data != NULL) << 1;
        uint64_t rest = (uint64_t)x->time_ms << 2 | present;
        h = hash64(x->key.data, x->key.len, h + rest * 0x9e3779b97f4a7c15u);
        h = hash64(x->value.data, x->value.len, h);
    }
    return h;
}

static void digest_outputs(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;

    for (uint32_t i = 1; i < h->step_count; i++) {
        const struct rt_step *s = &h->steps[i];
        uint32_t partition = w->unit->partition + s->offset;
        if (s->node->kind == RT_SINK) {
            uint32_t sink = s->node->ordinal;
            w->run->part_digests[sink][partition] =
                rt_records_digest(&w->run->outputs[sink].parts[partition]);
        }
    }
}

void rt_unit_run(struct rt_worker *w)
{
    const levee_stream *node = w->unit->head->node;
    int code;

    reset_ports(w);
    if (node->kind == RT_SOURCE) {
        code = run_source(w);
    } else if (node->kind == RT_KEYED) {
        code = rt_keyed_run(w);
    } else {
        code = node->op->gather ? rt_gather_run(w) : rt_exchange_run(w);
    }
    if (code == LEVEE_OK) {
        code = finish_tree(w);
    }
    if (code == LEVEE_OK) {
        digest_outputs(w);
    }
    ASSERT(code == w->share->code);
}

/* ---- a worker's own memory ---- */

int rt_worker_init(struct rt_worker *w, struct rt_engine *e, struct levee_error *err)
{
    w->engine = e;
    w->ports = mem_zalloc((e->head_count + 1) * sizeof(struct rt_port *));
    if (!w->ports) {
        return err_nomem(err, e->head_count * sizeof(struct rt_port *));
    }
    for (size_t h = 0; h < e->head_count; h++) {
        w->ports[h] = mem_zalloc(e->heads[h].step_count * sizeof **w->ports);
        if (!w->ports[h]) {
            return err_nomem(err, e->heads[h].step_count * sizeof **w->ports);
        }
    }
    return LEVEE_OK;
}

void rt_worker_release(struct rt_worker *w)
{
    for (size_t h = 0; w->ports && h < w->engine->head_count; h++) {
        for (uint32_t s = 0; w->ports[h] && s < w->engine->heads[h].step_count; s++) {
            mem_free(w->ports[h][s].out.items);
            mem_free(w->ports[h][s].out.side);
            mem_free(w->ports[h][s].held.items);
            rt_keys_release(&w->ports[h][s].combined);
            rt_sums_release(&w->ports[h][s].sums);
        }
        mem_free(w->ports[h]);
    }
    mem_free(w->ports);
    mem_free(w->values);
    rt_state_release(&w->state);
    buf_release(&w->before);
    rt_groups_release(&w->groups);
}
