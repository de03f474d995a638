/*
 * Calling user code under the rules of failure. A failed call has had no effect (4d.7): its emits
 * are cut off, what else it changed is the caller's to restore before the next try. After the last
 * try the batch ends, or, by policy, the record becomes a dead letter: a *decision*, which is
 * logged with the batch's result. A replay is handed those decisions and skips the same calls
 * without making them, so that a function that fails only now and then gives the same output again.
 *
 * A lack of memory is no failure of the function: it ends the batch and decides nothing, whatever
 * code the function returns. The output's sticky flag tells the two apart, not the code, for a
 * function may use any negative code as its own.
 */
#include "runtime/exec.h"

#define NAME_MAX_ 65

/* What names a node in decisions and errors: its uid, or its place in the graph and its name. */
static void node_name(const levee_stream *n, char out[NAME_MAX_])
{
    if (n->uid[0]) {
        memcpy(out, n->uid, sizeof n->uid);
    } else {
        (void)snprintf(out, NAME_MAX_, "#%u:%s", n->id, n->name);
    }
}
_Static_assert(sizeof((levee_stream *)0)->uid == NAME_MAX_, "a uid fits a name");

uint32_t rt_node_hash(const levee_stream *n, uint32_t half)
{
    char name[NAME_MAX_];

    node_name(n, name);
    return (uint32_t)hash64(name, strlen(name), half);
}

void rt_decision_name(struct rt_decision *d, const levee_stream *node, uint32_t half)
{
    d->node_uid_hash = rt_node_hash(node, half);
    node_name(node, d->uid);
}

/* The first decision at or after a place, in the order they are sorted by. */
static size_t decisions_from(const struct rt_compute *c, uint32_t node, uint32_t partition,
                             uint64_t index)
{
    size_t lo = 0, hi = c->apply_count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct rt_decision *d = &c->apply[mid];
        bool before = d->node_uid_hash != node    ? d->node_uid_hash < node
                      : d->partition != partition ? d->partition < partition
                                                  : d->index < index;
        if (before) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static const struct rt_decision *decision_of(const struct rt_compute *c,
                                             const struct rt_decision *d)
{
    size_t at = decisions_from(c, d->node_uid_hash, d->partition, d->index);
    const struct rt_decision *x = &c->apply[at];
    bool same = at < c->apply_count && x->node_uid_hash == d->node_uid_hash &&
                x->partition == d->partition && x->index == d->index;

    return same ? x : NULL;
}

bool rt_call_decided(const struct rt_worker *w, const levee_stream *node, uint32_t half,
                     uint32_t partition)
{
    const struct rt_compute *c = w->run->compute;

    if (c->apply_count == 0) {
        return false;
    }
    uint32_t hash = rt_node_hash(node, half);
    size_t at = decisions_from(c, hash, partition, 0);
    return at < c->apply_count && c->apply[at].node_uid_hash == hash &&
           c->apply[at].partition == partition;
}

struct rt_call rt_call_at(struct rt_worker *w, uint32_t step, uint32_t half)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct rt_port *port = rt_port_of(w, step);

    return (struct rt_call){.worker = w,
                            .node = s->node,
                            .partition = w->unit->partition + s->offset,
                            .out = &port->out,
                            .step = step,
                            .half = half,
                            .may_decide = port->may_decide};
}

int rt_call_nomem(struct rt_call *c)
{
    return rt_worker_nomem(c->worker);
}

/* Records live in blocks and arenas that the batch holds until its result is logged: no copies. */
static int add_decision(struct rt_call *c, const struct rt_decision *d)
{
    struct rt_share *s = c->worker->share;
    void *all = s->decisions;

    if (!mem_grow(&all, &s->decision_cap, s->decision_count + 1, sizeof *d)) {
        return rt_call_nomem(c);
    }
    s->decisions = all;
    s->decisions[s->decision_count++] = *d;
    return LEVEE_OK;
}

static int give_up(struct rt_call *c, const struct rt_decision *d)
{
    struct rt_worker *w = c->worker;
    struct rt_share *s = w->share;

    s->code =
        err_set(&s->err, LEVEE_EFUNCTION, "%s failed on %s %llu of partition %u%s", d->uid,
                c->node->kind == RT_KEYED && c->half == 0 ? "key" : "record",
                (unsigned long long)d->index, d->partition,
                w->run->compute->apply_only ? ", as it did not when the batch first ran" : "");
    err_where(&s->err, "%s:%d", c->node->file, c->node->line);
    err_expected(&s->err, "0 or more");
    err_found(&s->err, "%d after %u calls", d->code, d->attempts);
    return s->code;
}

/* What a call has added to accumulators counts now; what one within another call has, with that. */
static inline int adds_count(struct rt_call *c)
{
    return LIKELY(c->out->adds->count == 0) || c->apart ? LEVEE_OK
                                                        : rt_adds_take(c->worker, c->out);
}

/* The first try, where there was one, gave `earlier`. */
static int try_again(struct rt_call *c, uint64_t index, const struct levee_record *input,
                     int earlier, rt_try_fn fn, void *arg, bool *ret_skipped)
{
    struct rt_worker *w = c->worker;
    const struct rt_compute *compute = w->run->compute;

    if (c->apart) {
        return earlier < 0 ? earlier : LEVEE_ENOMEM;
    }
    struct rt_decision d = {.partition = c->partition,
                            .index = index,
                            .code = earlier,
                            .attempts = earlier < 0,
                            .key = input->key,
                            .value = input->value};
    size_t mark = c->out->count, adds = c->out->adds->count;

    rt_decision_name(&d, c->node, c->half);
    const struct rt_decision *old = c->may_decide ? decision_of(compute, &d) : NULL;
    if (old) {
        d.code = old->code;
        d.attempts = old->attempts;
        *ret_skipped = true;
        return add_decision(c, &d);
    }
    while (!c->out->failed && d.attempts <= w->engine->opt.retries) {
        d.attempts++;
        d.code = fn(arg);
        if (d.code >= 0) {
            break;
        }
        c->out->count = mark;
        c->out->adds->count = adds;
    }
    if (c->out->failed) {
        return rt_call_nomem(c);
    }
    if (d.code >= 0) {
        return adds_count(c);
    }
    if (w->engine->opt.on_failure == LEVEE_DEAD_LETTER && !compute->apply_only) {
        *ret_skipped = true;
        return add_decision(c, &d);
    }
    return give_up(c, &d);
}

int rt_call_guarded(struct rt_call *c, uint64_t index, const struct levee_record *input,
                    rt_try_fn fn, void *arg, bool *ret_skipped)
{
    size_t mark = c->out->count, adds = c->out->adds->count;
    int rc = 0;

    *ret_skipped = false;
    if (LIKELY(!c->may_decide)) {
        rc = fn(arg);
        if (LIKELY(rc >= 0 && !c->out->failed)) {
            return adds_count(c);
        }
        c->out->count = mark;
        c->out->adds->count = adds;
    }
    return try_again(c, index, input, rc < 0 ? rc : 0, fn, arg, ret_skipped);
}

int rt_call_skip_too(struct rt_call *c, uint64_t index, const struct levee_record *input)
{
    const struct rt_share *s = c->worker->share;
    struct rt_decision d = s->decisions[s->decision_count - 1]; /* like that of the one before */

    d.index = index;
    d.key = input->key;
    d.value = input->value;
    return add_decision(c, &d);
}

int rt_call_together(struct rt_call *c, const struct levee_record *in, size_t n, rt_try_fn fn,
                     void *arg, bool *ret_skipped)
{
    const struct levee_record none = {.key = {NULL, 0}, .value = {NULL, 0}};
    int code = rt_call_guarded(c, 0, n ? in : &none, fn, arg, ret_skipped);

    for (size_t i = 1; code == LEVEE_OK && *ret_skipped && i < n; i++) {
        code = rt_call_skip_too(c, i, &in[i]);
    }
    return code;
}

/* ---- records that are late ---- */

int rt_call_reject(struct rt_call *c, uint64_t index, const struct levee_record *input, int code)
{
    struct rt_decision d = {.partition = c->partition,
                            .index = index,
                            .code = code,
                            .key = input->key,
                            .value = input->value};

    rt_decision_name(&d, c->node, c->half);
    return add_decision(c, &d);
}

int64_t rt_call_watermark_before(const struct rt_call *c)
{
    return c->worker->engine->clocks.items[c->node->clock - 1].watermark;
}

struct rt_mark *rt_call_mark(const struct rt_call *c)
{
    return &c->worker->run->marks[c->node->clock - 1][c->partition];
}

int rt_call_late(struct rt_call *c, enum levee_late policy, uint64_t index,
                 const struct levee_record *in)
{
    levee_output *out = c->out;

    rt_call_mark(c)->late++;
    if (policy == LEVEE_LATE_DEAD_LETTER) {
        return rt_call_reject(c, index, in, LEVEE_ELATE);
    }
    if (policy == LEVEE_LATE_SIDE) {
        void *side = out->side;
        if (!mem_grow(&side, &out->side_cap, out->side_count + 1, sizeof *out->side)) {
            return rt_call_nomem(c);
        }
        out->side = side;
        out->side[out->side_count++] = *in;
    }
    return LEVEE_OK;
}

/* ---- a function of one record ---- */

struct one_call {
    rt_record_fn fn;
    levee_output *out;
    const struct levee_record *in;
    void *arg;
};

static int try_one(void *arg)
{
    const struct one_call *c = arg;

    return c->fn(c->out, c->in, c->arg);
}

int rt_call_each(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index,
                 rt_record_fn fn, void *arg)
{
    struct one_call call = {fn, c->out, in, arg};
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        bool skipped;
        call.in = &in[i];
        c->out->time_ms = in[i].time_ms;
        code = rt_call_guarded(c, index + i, &in[i], try_one, &call, &skipped);
    }
    return code;
}

/* ---- for keyed nodes ---- */

int rt_call_emitted(struct rt_call *c)
{
    if (c->out->failed) {
        return rt_call_nomem(c);
    }
    bool full = c->out->count >= RT_VECTOR || c->out->side_count >= RT_VECTOR;
    return full && !c->apart ? rt_flush(c->worker, c->step) : LEVEE_OK;
}

int rt_call_emit_sides(struct rt_call *c, struct levee_slice key, struct levee_slice left,
                       struct levee_slice right)
{
    size_t size = rt_sequence_size(left) + rt_sequence_size(right);
    uint8_t *bytes = rt_output_alloc(c->out, size);

    if (!bytes) {
        return rt_call_nomem(c);
    }
    (void)rt_sequence_put(rt_sequence_put(bytes, left), right);
    (void)rt_output_add(c->out, key, slice_of(bytes, size)); /* remembers a failure */
    return c->out->failed ? rt_call_nomem(c) : LEVEE_OK;
}

int rt_call_values(struct rt_call *c, size_t n, struct levee_slice **ret)
{
    struct rt_worker *w = c->worker;
    void *values = w->values;

    if (!mem_grow(&values, &w->values_cap, n, sizeof *w->values)) {
        return rt_call_nomem(c);
    }
    *ret = w->values = values;
    return LEVEE_OK;
}

levee_state *rt_call_state(struct rt_call *c)
{
    return &c->worker->state;
}
