/*
 * The engine: runs a batch level by level on worker lanes, and owns the state tables.
 *
 * A level's units are handed out by an atomic counter, one at a time: a worker posts itself again
 * after each, so that lanes of a simulated machine take turns. The worker that finds none left and
 * is the last to do so posts to the loop, which starts the next level or ends the batch. If units
 * failed, the error of the first in plan order counts: even that does not depend on the schedule.
 *
 * A compute that ends in an error leaves tables half-changed. The context then stops (4d.7, and the
 * next start recovers), so nothing is rolled back; only memory is given back.
 */
#include "runtime/exec.h"
#include "runtime/operators/window.h"

#include <stdlib.h>

/* ---- levels ---- */

static void post(struct rt_engine *e, struct io_lane *lane, struct io_task *task)
{
    e->opt.io->ops->lane_post(lane, task);
}

static void run_worker(struct io_task *t)
{
    struct rt_worker *w = CONTAINER_OF(t, struct rt_worker, task);
    struct rt_engine *e = w->engine;
    struct rt_run *r = w->run;
    size_t at = atomic_fetch_add(&r->next_unit, 1);

    if (at < r->level_end) {
        w->unit = &e->units[at];
        w->share = &r->shares[at];
        rt_unit_run(w);
        post(e, w->lane, &w->task);
    } else if (atomic_fetch_sub(&r->workers_left, 1) == 1) {
        post(e, e->opt.loop, &e->loop_task);
    }
}

static void start_level(struct rt_engine *e, struct rt_run *r)
{
    size_t first = e->level_starts[r->level], end = e->level_starts[r->level + 1];
    uint32_t workers = end - first < e->opt.workers ? (uint32_t)(end - first) : e->opt.workers;

    r->level_end = end;
    atomic_store(&r->next_unit, first);
    atomic_store(&r->workers_left, workers);
    for (uint32_t i = 0; i < workers; i++) {
        e->workers[i].run = r;
        post(e, e->workers[i].lane, &e->workers[i].task);
    }
}

static int check_state_size(const struct rt_engine *e, struct levee_error *err)
{
    uint64_t keys, bytes;

    if (!e->opt.state_bytes_max) {
        return LEVEE_OK;
    }
    rt_engine_state_size(e, &keys, &bytes);
    if (bytes <= e->opt.state_bytes_max) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_ELIMIT, "the state of %llu keys is larger than state_bytes_max",
            (unsigned long long)keys);
    err_expected(err, "at most %llu bytes", (unsigned long long)e->opt.state_bytes_max);
    err_found(err, "%llu bytes", (unsigned long long)bytes);
    return LEVEE_ELIMIT;
}

/* The first failed unit of the level that has just run. */
static int level_outcome(const struct rt_engine *e, const struct rt_run *r, struct levee_error *err)
{
    for (size_t i = e->level_starts[r->level]; i < r->level_end; i++) {
        if (r->shares[i].code) {
            err_copy(err, &r->shares[i].err);
            return r->shares[i].code;
        }
    }
    return LEVEE_OK;
}

/* Asked far more often than batches are run: who is due next is looked up once after each. */
static void find_next_due(struct rt_engine *e)
{
    e->next_due_ms = INT64_MAX;
    for (size_t i = 0; i < e->table_count; i++) {
        struct rt_table *t = &e->tables[i];
        t->first_event_ms = RT_NEVER;
        for (uint32_t g = 0; (t->idle_ms || t->timed) && g < RT_KEY_GROUPS; g++) {
            int64_t due = t->timed ? rt_table_timer_due(t, g, RT_BATCH_TIMER) : rt_table_due(t, g);
            int64_t event = rt_table_timer_due(t, g, RT_EVENT_TIMER);
            e->next_due_ms = due < e->next_due_ms ? due : e->next_due_ms;
            t->first_event_ms = event < t->first_event_ms ? event : t->first_event_ms;
        }
    }
}

static void level_done(struct rt_engine *e)
{
    struct rt_run *r = e->current;
    struct rt_compute *c = r->compute;

    c->code = level_outcome(e, r, &c->err);
    if (c->code == LEVEE_OK && r->level + 1 < e->levels) {
        r->level++;
        start_level(e, r);
        return;
    }
    e->current = NULL;
    if (c->code == LEVEE_OK) {
        c->code = rt_run_collect(e, r, &c->err);
    }
    if (c->code == LEVEE_OK) {
        c->code = check_state_size(e, &c->err);
    }
    if (c->code == LEVEE_OK) {
        rt_clocks_move(&e->clocks, c->header.time_ms, r->watermarks, r->marks);
    }
    find_next_due(e);
    c->done(c);
}

static void run_loop_task(struct io_task *t)
{
    struct rt_engine *e = CONTAINER_OF(t, struct rt_engine, loop_task);
    struct rt_compute *refused = e->refused;

    if (!refused) {
        level_done(e);
        return;
    }
    e->refused = NULL;
    refused->done(refused);
}

void rt_engine_compute(struct rt_engine *e, struct rt_compute *c)
{
    struct rt_run *r = e->free_runs;

    ASSERT(e->current == NULL);
    ASSERT(e->refused == NULL);
    if (r) {
        e->free_runs = r->next;
    } else {
        r = rt_run_new(e);
    }
    c->code = LEVEE_OK;
    c->private_ = r;
    if (!r) {
        c->code = err_nomem(&c->err, sizeof *r);
        e->refused = c; /* done is called later, never from in here */
        post(e, e->opt.loop, &e->loop_task);
        return;
    }
    rt_run_reset(e, r);
    r->compute = c;
    if (c->watermarks) {
        memcpy(r->watermarks, c->watermarks, e->clocks.count * sizeof *r->watermarks);
    } else {
        rt_clocks_read(&e->clocks, c->header.time_ms, r->watermarks);
    }
    r->level = 0;
    e->current = r;
    start_level(e, r);
}

void rt_compute_release(struct rt_engine *e, struct rt_compute *c)
{
    struct rt_run *r = c->private_;

    if (e->refused == c) {
        e->refused = NULL; /* only after rt_engine_stop */
    }
    if (!r) {
        return;
    }
    if (e->current == r) {
        e->current = NULL; /* only after rt_engine_stop */
    }
    rt_run_reset(e, r);
    r->next = e->free_runs;
    e->free_runs = r;
    c->private_ = NULL;
}

/* ---- event time ---- */

size_t rt_engine_clock_count(const struct rt_engine *e)
{
    return e->clocks.count;
}

uint32_t rt_engine_clock_table(const struct rt_engine *e, size_t i)
{
    return e->clocks.items[i].node->table;
}

void rt_engine_watermarks(const struct rt_engine *e, int64_t time_ms, int64_t *ret)
{
    rt_clocks_read(&e->clocks, time_ms, ret);
}

bool rt_engine_event_due(const struct rt_engine *e, int64_t time_ms)
{
    bool read = false;

    for (size_t i = 0; i < e->table_count; i++) {
        const struct rt_table *t = &e->tables[i];
        if (t->first_event_ms == RT_NEVER) {
            continue;
        }
        if (!read) {
            rt_clocks_read(&e->clocks, time_ms, e->readings);
            read = true;
        }
        if (t->first_event_ms <= e->readings[t->node->clock - 1]) {
            return true;
        }
    }
    return false;
}

uint64_t rt_engine_late(const struct rt_engine *e)
{
    return rt_clocks_late(&e->clocks);
}

void rt_engine_encode_clocks(const struct rt_engine *e, struct buf *ret)
{
    if (e->clocks.count) {
        rt_clocks_encode(&e->clocks, ret);
    }
}

int rt_engine_decode_clocks(struct rt_engine *e, struct levee_slice bytes, struct levee_error *err)
{
    return rt_clocks_decode(&e->clocks, bytes, err);
}

bool rt_engine_wants_empty_batch(const struct rt_engine *e, int64_t time_ms)
{
    if (time_ms >= e->next_due_ms || rt_engine_event_due(e, time_ms)) {
        return true;
    }
    for (size_t i = 0; i < e->head_count; i++) {
        uint64_t keys = 0, bytes = 0;
        if (e->heads[i].always && e->heads[i].table) {
            rt_table_size(e->heads[i].table, &keys, &bytes);
        }
        if (keys) {
            return true;
        }
    }
    return false;
}

/* ---- open and close ---- */

static int open_workers(struct rt_engine *e, struct levee_error *err)
{
    uint32_t n = e->opt.workers;
    int code = LEVEE_OK;

    e->workers = mem_zalloc((n + 1u) * sizeof *e->workers);
    if (!e->workers) {
        return err_nomem(err, n * sizeof *e->workers);
    }
    for (uint32_t i = 0; i < n && code == LEVEE_OK; i++) {
        struct rt_worker *w = &e->workers[i];
        w->task.run = run_worker;
        code = rt_worker_init(w, e, err);
        if (code == LEVEE_OK) {
            code = e->opt.io->ops->lane_open(e->opt.io, "worker", &w->lane, err);
        }
    }
    return code;
}

int rt_engine_open(struct rt_graph *g, const struct rt_engine_options *o, struct rt_engine **ret,
                   struct levee_error *err)
{
    struct rt_engine *e = mem_zalloc(sizeof *e);

    if (!e) {
        return err_nomem(err, sizeof *e);
    }
    e->graph = g;
    e->opt = *o;
    e->opt.workers = o->workers ? o->workers : 1;
    e->loop_task.run = run_loop_task;
    e->next_due_ms = INT64_MAX;
    int code = rt_plan(e, err);
    if (code == LEVEE_OK && e->unit_count == 0) {
        code = err_set(err, LEVEE_EGRAPH, "the graph has no source");
    }
    if (code == LEVEE_OK) {
        code = open_workers(e, err);
    }
    if (code) {
        rt_engine_close(e);
        return code;
    }
    *ret = e;
    return LEVEE_OK;
}

void rt_engine_stop(struct rt_engine *e)
{
    for (uint32_t i = 0; e && e->workers && i < e->opt.workers; i++) {
        if (e->workers[i].lane) {
            e->opt.io->ops->lane_close(e->workers[i].lane);
            e->workers[i].lane = NULL;
        }
    }
}

void rt_engine_close(struct rt_engine *e)
{
    if (!e) {
        return;
    }
    rt_engine_stop(e);
    for (uint32_t i = 0; e->workers && i < e->opt.workers; i++) {
        rt_worker_release(&e->workers[i]);
    }
    mem_free(e->workers);
    while (e->free_runs) {
        struct rt_run *r = e->free_runs;
        e->free_runs = r->next;
        rt_run_free(e, r);
    }
    rt_plan_release(e);
    mem_free(e);
}

/* ---- state ---- */

uint8_t rt_table_codec(const levee_stream *n)
{
    return n->op && n->op->codec ? n->op->codec : 1;
}

static int by_table(const void *a, const void *b)
{
    const struct ckpt_slices *x = a, *y = b;

    return (x->table > y->table) - (x->table < y->table);
}

int rt_engine_gather(struct rt_engine *e, struct ckpt_slices **ret, size_t *ret_count,
                     struct levee_error *err)
{
    struct ckpt_slices *slices = mem_zalloc((e->table_count + 1) * sizeof *slices);
    int code = LEVEE_OK;
    size_t n = 0;

    ASSERT(e->current == NULL);
    if (!slices) {
        return err_nomem(err, e->table_count * sizeof *slices);
    }
    for (; n < e->table_count && code == LEVEE_OK; n++) {
        code = rt_table_gather(&e->tables[n], &slices[n], err);
    }
    if (code) {
        rt_engine_free_slices(slices, n);
        return code;
    }
    if (n) {
        qsort(slices, n, sizeof *slices, by_table);
    }
    *ret = slices;
    *ret_count = n;
    return LEVEE_OK;
}

void rt_engine_free_slices(struct ckpt_slices *slices, size_t count)
{
    for (size_t i = 0; slices && i < count; i++) {
        ckpt_slices_release(&slices[i]);
    }
    mem_free(slices);
}

uint64_t rt_engine_state_digest(const struct rt_engine *e)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < e->table_count; i++) {
        sum += e->opt.verify_state ? rt_table_digest_now(&e->tables[i]) : e->tables[i].digest;
    }
    return sum;
}

static struct rt_table *table_of(const struct rt_engine *e, uint32_t id)
{
    for (size_t i = 0; i < e->table_count; i++) {
        if (e->tables[i].id == id) {
            return &e->tables[i];
        }
    }
    return NULL;
}

int rt_engine_load(struct rt_engine *e, uint32_t table, const struct ckpt_entry *entry,
                   struct levee_error *err)
{
    struct rt_table *t = table_of(e, table);

    return t ? rt_table_load(t, entry, err)
             : err_set(err, LEVEE_ENOTFOUND, "no operator has the table %08x", table);
}

int rt_engine_loaded(struct rt_engine *e, const uint32_t *known_tables, size_t count,
                     struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < e->table_count && code == LEVEE_OK; i++) {
        struct rt_table *t = &e->tables[i];
        bool stored = false;
        for (size_t k = 0; k < count; k++) {
            stored = stored || known_tables[k] == t->id;
        }
        if (!stored && t->node->op->initial) {
            code = t->node->op->initial(t->node, t, err);
        }
        code = code ? code : rt_table_loaded(t, err);
    }
    find_next_due(e);
    return code;
}

int rt_engine_slice(const struct rt_engine *e, uint32_t table, int64_t from_ms, int64_t to_ms,
                    struct buf *ret)
{
    const struct rt_table *t = table_of(e, table);

    return t ? rt_window_read(t, from_ms, to_ms, ret) : LEVEE_ENOTFOUND;
}

int rt_engine_each(const struct rt_engine *e, uint32_t table,
                   int (*each)(void *arg, struct levee_slice key, struct levee_slice value),
                   void *arg)
{
    const struct rt_table *t = table_of(e, table);
    int rc = 0;

    if (!t) {
        return LEVEE_ENOTFOUND;
    }
    for (size_t g = 0; g < RT_KEY_GROUPS && rc == 0; g++) {
        for (uint32_t k = 0; k < t->groups[g].count && rc == 0; k++) {
            const struct rt_entry *x = &t->groups[g].entries[k];
            struct levee_slice value = x->present ? rt_table_state_of(t, x) : slice_of(NULL, 0);
            rc = value.data ? each(arg, rt_entry_key(x), value) : 0;
        }
    }
    return rc;
}

void rt_engine_state_size(const struct rt_engine *e, uint64_t *ret_keys, uint64_t *ret_bytes)
{
    *ret_keys = *ret_bytes = 0;
    for (size_t i = 0; i < e->table_count; i++) {
        rt_table_size(&e->tables[i], ret_keys, ret_bytes);
    }
}
