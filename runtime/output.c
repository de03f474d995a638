/* Emitting, and the rules of failure: a failed call has had no effect (4d.7). */
#include "runtime/exec.h"

bool rt_output_grow(struct levee_output *out)
{
    if (!mem_grow((void **)&out->items, &out->cap, out->count + RT_VECTOR, sizeof *out->items)) {
        out->failed = true;
        return false;
    }
    return true;
}

int levee_emit(levee_output *out, struct levee_slice key, struct levee_slice value)
{
    return rt_output_add(out, key, value);
}

static struct levee_slice copied(levee_output *out, struct levee_slice s)
{
    if (!s.data) {
        return s;
    }
    uint8_t *copy = arena_copy(out->arena, s.data, s.len);
    out->failed = out->failed || !copy;
    return slice_of(copy, s.len);
}

int levee_emit_copy(levee_output *out, struct levee_slice key, struct levee_slice value)
{
    struct levee_slice k = copied(out, key), v = copied(out, value);

    return out->failed ? LEVEE_ENOMEM : rt_output_add(out, k, v);
}

int levee_emit_i64(levee_output *out, struct levee_slice key, int64_t value)
{
    uint8_t *p = arena_alloc(out->arena, 8);

    if (!p) {
        out->failed = true;
        return LEVEE_ENOMEM;
    }
    put_le64(p, (uint64_t)value);
    return rt_output_add(out, key, slice_of(p, 8));
}

int levee_emit_f64(levee_output *out, struct levee_slice key, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return levee_emit_i64(out, key, (int64_t)bits);
}

int levee_emit_record(levee_output *out, const struct levee_record *record)
{
    return rt_output_add(out, record->key, record->value);
}

static inline bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

int levee_emit_words(levee_output *out, struct levee_slice text)
{
    const uint8_t *p = text.data, *end = text.len ? text.data + text.len : text.data;

    while (p < end) {
        while (p < end && is_space(*p)) {
            p++;
        }
        const uint8_t *start = p;
        while (p < end && !is_space(*p)) {
            p++;
        }
        if (p > start && rt_output_add(out, slice_of(start, (size_t)(p - start)),
                                       slice_of(NULL, 0)) != LEVEE_OK) {
            return LEVEE_ENOMEM;
        }
    }
    return LEVEE_OK;
}

void *levee_alloc(levee_output *out, size_t bytes)
{
    return arena_alloc(out->arena, bytes);
}

int64_t levee_batch_time(const levee_output *out)
{
    return out->header->time_ms;
}

uint64_t levee_batch_id(const levee_output *out)
{
    return out->header->id;
}

uint64_t levee_batch_seed(const levee_output *out)
{
    return out->header->seed;
}

int64_t levee_i64(struct levee_slice s)
{
    return s.len == 8 ? (int64_t)get_le64(s.data) : 0;
}

double levee_f64(struct levee_slice s)
{
    uint64_t bits = (uint64_t)levee_i64(s);
    double v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

bool levee_group_next(struct levee_slice *group, struct levee_slice *ret_value)
{
    struct cursor c = cursor_of(*group);

    if (group->len == 0) {
        return false;
    }
    struct levee_slice v = cur_slice(&c);
    if (c.bad) {
        return false;
    }
    *ret_value = v;
    *group = slice_of(c.p, cur_left(&c));
    return true;
}

/* ---- calls that may fail ---- */

/* What names a node in decisions and errors: its uid, or its place and name. */
static void node_name(const levee_stream *n, char out[65])
{
    if (n->uid[0]) {
        memcpy(out, n->uid, sizeof n->uid);
    } else {
        (void)snprintf(out, 65, "#%u:%s", n->id, n->name);
    }
}

static int decision_order(const struct rt_decision *d, uint32_t node, uint32_t partition,
                          uint64_t index)
{
    if (d->node_uid_hash != node) {
        return d->node_uid_hash < node ? -1 : 1;
    }
    if (d->partition != partition) {
        return d->partition < partition ? -1 : 1;
    }
    return d->index == index ? 0 : d->index < index ? -1 : 1;
}

static const struct rt_decision *find_decision(const struct rt_compute *c, uint32_t node,
                                               uint32_t partition, uint64_t index)
{
    size_t lo = 0, hi = c->apply_count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = decision_order(&c->apply[mid], node, partition, index);
        if (order == 0) {
            return &c->apply[mid];
        }
        if (order < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}

static struct levee_slice keep(struct rt_run *r, struct levee_slice s, bool *failed)
{
    if (!s.data) {
        return s;
    }
    uint8_t *copy = arena_copy(&r->own, s.data, s.len);
    *failed = *failed || !copy;
    return slice_of(copy, s.len);
}

static int add_decision(struct rt_worker *w, const struct rt_decision *d)
{
    struct rt_run *r = w->run;
    bool failed = false;

    pthread_mutex_lock(&r->mutex);
    if (!mem_grow((void **)&r->decisions, &r->decision_cap, r->decision_count + 1, sizeof *d)) {
        failed = true;
    } else {
        struct rt_decision *x = &r->decisions[r->decision_count];
        *x = *d;
        x->key = keep(r, d->key, &failed);
        x->value = keep(r, d->value, &failed);
        r->decision_count += !failed;
    }
    pthread_mutex_unlock(&r->mutex);
    return failed ? rt_worker_nomem(w) : LEVEE_OK;
}

int rt_call_guarded(struct rt_call *c, uint64_t index, const struct levee_record *input,
                    int earlier, rt_try_fn fn, void *arg, bool *ret_skipped)
{
    struct rt_worker *w = c->worker;
    const struct rt_compute *compute = w->run->compute;
    struct rt_decision d = {
        .partition = c->partition, .index = index, .key = input->key, .value = input->value};
    size_t mark = c->out->count;
    int rc = earlier;

    *ret_skipped = false;
    node_name(c->node, d.uid);
    d.node_uid_hash = (uint32_t)hash64(d.uid, strlen(d.uid), 0);
    if (compute->apply_count) {
        const struct rt_decision *old =
            find_decision(compute, d.node_uid_hash, c->partition, index);
        if (old) {
            d.code = old->code;
            d.attempts = old->attempts;
            *ret_skipped = true;
            return add_decision(w, &d);
        }
    }
    for (d.attempts = earlier < 0; d.attempts < w->engine->opt.retries + 1;) {
        d.attempts++;
        rc = fn(arg);
        if (rc >= 0) {
            return LEVEE_OK;
        }
        c->out->count = mark;
        if (rc == LEVEE_ENOMEM || c->out->failed) {
            return rt_worker_nomem(w);
        }
    }
    d.code = rc;
    if (w->engine->opt.on_failure == LEVEE_DEAD_LETTER && !compute->apply_only) {
        *ret_skipped = true;
        return add_decision(w, &d);
    }
    w->code = err_set(&w->err, LEVEE_EFUNCTION, "%s failed on record %llu of partition %u%s", d.uid,
                      (unsigned long long)index, c->partition,
                      compute->apply_only ? ", which it did not when the batch ran first" : "");
    err_where(&w->err, "%s:%d", c->node->file, c->node->line);
    err_expected(&w->err, "0 or more");
    err_found(&w->err, "%d after %u calls", rc, d.attempts);
    return w->code;
}

int rt_worker_nomem(struct rt_worker *w)
{
    w->code = err_nomem(&w->err, 0);
    return w->code;
}

bool rt_call_decided(const struct rt_call *c)
{
    return c->worker->run->compute->apply_count > 0;
}

int rt_call_failed(struct rt_call *c, int rc)
{
    struct rt_worker *w = c->worker;

    if (rc == LEVEE_ENOMEM) {
        return rt_worker_nomem(w);
    }
    w->code = err_set(&w->err, LEVEE_EFUNCTION, "the reducer of %s failed", c->node->name);
    err_where(&w->err, "%s:%d", c->node->file, c->node->line);
    err_found(&w->err, "%d", rc);
    return w->code;
}

struct one_call {
    int (*one)(levee_output *out, const struct levee_record *in, void *arg);
    levee_output *out;
    const struct levee_record *in;
    void *arg;
};

static int try_one(void *arg)
{
    struct one_call *c = arg;

    return c->one(c->out, c->in, c->arg);
}

int rt_each_record(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index,
                   int (*one)(levee_output *out, const struct levee_record *in, void *arg),
                   void *arg)
{
    bool decided = c->worker->run->compute->apply_count > 0;

    for (size_t i = 0; i < n; i++) {
        size_t mark = c->out->count;
        c->out->time_ms = in[i].time_ms;
        int rc = decided ? 0 : one(c->out, &in[i], arg);
        if (LIKELY(rc >= 0 && !decided)) {
            continue;
        }
        struct one_call call = {one, c->out, &in[i], arg};
        bool skipped;
        c->out->count = mark;
        if (c->out->failed) {
            return rt_worker_nomem(c->worker);
        }
        int code = rt_call_guarded(c, index + i, &in[i], rc, try_one, &call, &skipped);
        if (code) {
            return code;
        }
    }
    return LEVEE_OK;
}
