/*
 * The engine: runs a batch level by level on worker lanes, and owns the tables.
 *
 * Workers take units of a level by an atomic counter; the one that finishes the last unit posts to
 * the loop, which starts the next level or ends the batch. Of several errors the one of the lowest
 * unit counts, so even a failure does not depend on the schedule. Memory of a batch (struct rt_run)
 * is recycled when its compute is released, after its sinks are done.
 */
#include "runtime/dataset.h"
#include "runtime/exec.h"

#include <stdlib.h>

/* ---- runs ---- */

static void run_free(struct rt_engine *e, struct rt_run *r)
{
    for (size_t i = 0; r->arenas && i < e->unit_count; i++) {
        arena_release(&r->arenas[i]);
    }
    for (size_t i = 0; r->inboxes && i < e->keyed_count; i++) {
        for (size_t c = 0;
             r->inboxes[i].cells && c < (size_t)r->inboxes[i].rows * r->inboxes[i].columns; c++) {
            mem_free(r->inboxes[i].cells[c].items);
        }
        mem_free(r->inboxes[i].cells);
    }
    for (size_t i = 0; r->outputs && i < e->graph->sink_count; i++) {
        for (uint32_t p = 0; r->outputs[i].parts && p < r->outputs[i].partitions; p++) {
            mem_free(r->outputs[i].parts[p].items);
        }
        mem_free(r->outputs[i].parts);
        mem_free(r->part_digests ? r->part_digests[i] : NULL);
    }
    mem_free(r->part_digests);
    mem_free(r->arenas);
    mem_free(r->inboxes);
    mem_free(r->outputs);
    mem_free(r->digests);
    mem_free(r->output_records);
    mem_free(r->decisions);
    arena_release(&r->own);
    (void)pthread_mutex_destroy(&r->mutex);
    mem_free(r);
}

static bool run_outputs(struct rt_engine *e, struct rt_run *r)
{
    size_t sinks = e->graph->sink_count;

    for (size_t i = 0; i < sinks; i++) {
        uint32_t n = e->graph->sinks[i]->parents[0]->partitions;
        r->outputs[i].parts = mem_zalloc(n * sizeof *r->outputs[i].parts);
        r->part_digests[i] = mem_zalloc(n * sizeof **r->part_digests);
        r->outputs[i].partitions = r->outputs[i].parts ? n : 0;
        if (!r->outputs[i].parts || !r->part_digests[i]) {
            return false;
        }
    }
    return true;
}

static bool run_inboxes(struct rt_engine *e, struct rt_run *r)
{
    for (size_t i = 0; i < e->head_count; i++) {
        const struct rt_head *h = &e->heads[i];
        if (h->node->kind == RT_KEYED) {
            struct rt_inbox *box = &r->inboxes[h->keyed];
            box->cells = mem_zalloc((size_t)h->inbox_rows * h->partitions * sizeof *box->cells);
            if (!box->cells) {
                return false;
            }
            box->rows = h->inbox_rows;
            box->columns = h->partitions;
        }
    }
    return true;
}

static struct rt_run *run_new(struct rt_engine *e)
{
    struct rt_run *r = mem_zalloc(sizeof *r);
    size_t sinks = e->graph->sink_count;

    if (!r) {
        return NULL;
    }
    (void)pthread_mutex_init(&r->mutex, NULL);
    r->arenas = mem_zalloc((e->unit_count + 1) * sizeof *r->arenas);
    r->inboxes = mem_zalloc((e->keyed_count + 1) * sizeof *r->inboxes);
    r->outputs = mem_zalloc((sinks + 1) * sizeof *r->outputs);
    r->part_digests = mem_zalloc((sinks + 1) * sizeof(uint64_t *));
    r->digests = mem_zalloc((sinks + 1) * sizeof *r->digests);
    r->output_records = mem_zalloc((sinks + 1) * sizeof *r->output_records);
    if (!r->arenas || !r->inboxes || !r->outputs || !r->part_digests || !r->digests ||
        !r->output_records || !run_outputs(e, r) || !run_inboxes(e, r)) {
        run_free(e, r);
        return NULL;
    }
    return r;
}

/* Ready for another batch; keeps its memory. */
static void run_reset(struct rt_engine *e, struct rt_run *r)
{
    for (size_t i = 0; i < e->unit_count; i++) {
        arena_reset(&r->arenas[i]);
    }
    for (size_t i = 0; i < e->keyed_count; i++) {
        for (size_t c = 0; c < (size_t)r->inboxes[i].rows * r->inboxes[i].columns; c++) {
            r->inboxes[i].cells[c].count = 0;
        }
    }
    for (size_t i = 0; i < e->graph->sink_count; i++) {
        for (uint32_t p = 0; p < r->outputs[i].partitions; p++) {
            r->outputs[i].parts[p].count = 0;
            r->part_digests[i][p] = 0;
        }
    }
    arena_reset(&r->own);
    r->decision_count = 0;
    r->code = LEVEE_OK;
    r->error_rank = UINT64_MAX;
    r->compute = NULL;
    atomic_store(&r->stop, false);
}

/* ---- levels ---- */

static void fail_run(struct rt_run *r, uint64_t rank, int code, const struct levee_error *err)
{
    pthread_mutex_lock(&r->mutex);
    if (rank < r->error_rank) {
        r->error_rank = rank;
        r->code = code;
        r->err = *err;
    }
    pthread_mutex_unlock(&r->mutex);
}

static void run_worker(struct io_task *t)
{
    struct rt_worker *w = CONTAINER_OF(t, struct rt_worker, task);
    struct rt_engine *e = w->engine;
    struct rt_run *r = w->run;
    size_t at = atomic_fetch_add(&r->next_unit, 1);

    if (at < r->level_end) {
        w->unit = &e->units[at];
        w->arena = &r->arenas[at];
        if (rt_unit_run(w) != LEVEE_OK) {
            fail_run(r, at, w->code, &w->err);
        }
    }
    if (at + 1 < r->level_end) {
        e->opt.io->ops->lane_post(w->lane, &w->task); /* the next unit, by whoever comes first */
    } else if (atomic_fetch_sub(&r->units_left, 1) == 1) {
        e->opt.io->ops->lane_post(e->opt.loop, &e->level_task);
    }
}

/* Every worker runs until the level's counter is used up, then signs off. */
static void start_level(struct rt_engine *e, struct rt_run *r)
{
    size_t first = e->level_starts[r->level], end = e->level_starts[r->level + 1],
           units = end - first;
    size_t workers = units < e->opt.workers ? units : e->opt.workers;

    r->level_first = first;
    r->level_end = end;
    atomic_store(&r->next_unit, first);
    atomic_store(&r->units_left, workers);
    for (size_t i = 0; i < workers; i++) {
        e->workers[i].run = r;
        e->opt.io->ops->lane_post(e->workers[i].lane, &e->workers[i].task);
    }
}

static int by_place(const void *a, const void *b)
{
    const struct rt_decision *x = a, *y = b;

    if (x->node_uid_hash != y->node_uid_hash) {
        return x->node_uid_hash < y->node_uid_hash ? -1 : 1;
    }
    if (x->partition != y->partition) {
        return x->partition < y->partition ? -1 : 1;
    }
    return x->index == y->index ? 0 : x->index < y->index ? -1 : 1;
}

static void collect(struct rt_engine *e, struct rt_run *r)
{
    struct rt_compute *c = r->compute;

    for (size_t i = 0; i < e->graph->sink_count; i++) {
        uint64_t h = 0, n = 0;
        for (uint32_t p = 0; p < r->outputs[i].partitions; p++) {
            uint64_t part = r->part_digests[i][p];
            n += r->outputs[i].parts[p].count;
            h = part ? hash64(&part, sizeof part, h + 1)
                     : h; /* an empty partition leaves no trace */
        }
        r->digests[i] = n ? h : 0;
        r->output_records[i] = n;
    }
    if (r->decision_count) {
        qsort(r->decisions, r->decision_count, sizeof *r->decisions, by_place);
    }
    c->outputs = r->outputs;
    c->digests = r->digests;
    c->output_records = r->output_records;
    c->decisions = r->decisions;
    c->decision_count = r->decision_count;
    for (size_t i = 0; i < e->graph->source_count; i++) {
        for (size_t b = 0; b < c->inputs[i].count; b++) {
            c->records += c->inputs[i].blocks[b]->count;
        }
    }
    for (size_t i = 0; i < e->unit_count; i++) {
        c->bytes += r->arenas[i].total;
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
    err_found(err, "%llu", (unsigned long long)bytes);
    return LEVEE_ELIMIT;
}

static void run_level_done(struct io_task *t)
{
    struct rt_engine *e = CONTAINER_OF(t, struct rt_engine, level_task);
    struct rt_run *r = e->current;
    struct rt_compute *c = r->compute;

    if (r->code == LEVEE_OK && ++r->level < e->levels) {
        start_level(e, r);
        return;
    }
    e->current = NULL;
    c->code = r->code;
    c->err = r->err;
    if (c->code == LEVEE_OK) {
        collect(e, r);
        c->code = check_state_size(e, &c->err);
    }
    c->done(c);
}

void rt_engine_compute(struct rt_engine *e, struct rt_compute *c)
{
    struct rt_run *r = e->free_runs;

    ASSERT(e->current == NULL);
    if (r) {
        e->free_runs = r->next;
    } else {
        r = run_new(e);
    }
    c->code = LEVEE_OK;
    if (!r) {
        c->code = err_nomem(&c->err, sizeof *r);
        c->done(c);
        return;
    }
    run_reset(e, r);
    r->compute = c;
    c->private_ = r;
    r->level = 0;
    e->current = r;
    start_level(e, r);
}

void rt_compute_release(struct rt_engine *e, struct rt_compute *c)
{
    struct rt_run *r = c->private_;

    if (r) {
        if (e->current == r) {
            e->current = NULL; /* only after rt_engine_stop */
        }
        run_reset(e, r);
        r->next = e->free_runs;
        e->free_runs = r;
        c->private_ = NULL;
    }
}

bool rt_engine_wants_empty_batch(const struct rt_engine *e)
{
    return e->wants_empty;
}

/* ---- open and close ---- */

static int open_workers(struct rt_engine *e, struct levee_error *err)
{
    e->workers = mem_zalloc(e->opt.workers * sizeof *e->workers);
    if (!e->workers) {
        return err_nomem(err, e->opt.workers * sizeof *e->workers);
    }
    for (uint32_t i = 0; i < e->opt.workers; i++) {
        struct rt_worker *w = &e->workers[i];
        w->engine = e;
        w->task.run = run_worker;
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
        int code = e->opt.io->ops->lane_open(e->opt.io, "worker", &w->lane, err);
        if (code) {
            return code;
        }
    }
    return LEVEE_OK;
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
    e->level_task.run = run_level_done;
    int code = rt_plan(e, err);
    if (code == LEVEE_OK) {
        code = open_workers(e, err);
    }
    if (code) {
        rt_engine_stop(e);
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

static void worker_release(struct rt_engine *e, struct rt_worker *w)
{
    for (size_t h = 0; w->ports && h < e->head_count; h++) {
        for (uint32_t s = 0; w->ports[h] && s < e->heads[h].step_count; s++) {
            mem_free(w->ports[h][s].out.items);
            mem_free(w->ports[h][s].combine.entries);
            map_release(&w->ports[h][s].combine.map);
        }
        mem_free(w->ports[h]);
    }
    mem_free(w->ports);
    mem_free(w->values);
    buf_release(&w->state.staged);
    rt_groups_release(&w->groups);
}

void rt_engine_close(struct rt_engine *e)
{
    if (!e) {
        return;
    }
    rt_engine_stop(e);
    for (uint32_t i = 0; e->workers && i < e->opt.workers; i++) {
        worker_release(e, &e->workers[i]);
    }
    mem_free(e->workers);
    while (e->free_runs) {
        struct rt_run *r = e->free_runs;
        e->free_runs = r->next;
        run_free(e, r);
    }
    rt_plan_release(e);
    mem_free(e);
}

/* ---- state ---- */

static int by_table(const void *a, const void *b)
{
    const struct ckpt_slices *x = a, *y = b;

    return x->table < y->table ? -1 : x->table > y->table;
}

int rt_engine_gather(struct rt_engine *e, struct ckpt_slices **ret, size_t *ret_count,
                     struct levee_error *err)
{
    struct ckpt_slices *slices = mem_zalloc((e->table_count + 1) * sizeof *slices);
    int code = slices ? LEVEE_OK : err_nomem(err, e->table_count * sizeof *slices);
    size_t n = 0;

    ASSERT(e->current == NULL);
    for (size_t i = 0; i < e->table_count && code == LEVEE_OK; i++) {
        code = rt_table_gather(&e->tables[i], &slices[n], err);
        n++;
    }
    if (code) {
        rt_engine_free_slices(slices, n);
        return code;
    }
    qsort(slices, n, sizeof *slices, by_table);
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

int rt_engine_load(struct rt_engine *e, uint32_t table, const struct ckpt_entry *entry,
                   struct levee_error *err)
{
    for (size_t i = 0; i < e->table_count; i++) {
        if (e->tables[i].id == table) {
            return rt_table_load(&e->tables[i], entry, err);
        }
    }
    return err_set(err, LEVEE_ENOTFOUND, "no operator has the table %08x", table);
}

int rt_engine_loaded(struct rt_engine *e, const uint32_t *known, size_t count,
                     struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < e->table_count && code == LEVEE_OK; i++) {
        struct rt_table *t = &e->tables[i];
        bool stored = false;
        for (size_t k = 0; k < count; k++) {
            stored = stored || known[k] == t->id;
        }
        if (!stored && t->node->op->initial) {
            code = t->node->op->initial(t->node, t, err);
        }
    }
    return code;
}

int rt_engine_each(const struct rt_engine *e, uint32_t table,
                   int (*each)(void *arg, struct levee_slice key, struct levee_slice value),
                   void *arg)
{
    for (size_t i = 0; i < e->table_count; i++) {
        const struct rt_table *t = &e->tables[i];
        if (t->id != table) {
            continue;
        }
        for (size_t g = 0; g < RT_KEY_GROUPS; g++) {
            for (uint32_t k = 0; k < t->groups[g].count; k++) {
                const struct rt_entry *x = &t->groups[g].entries[k];
                int rc =
                    x->present ? each(arg, slice_of(x->key, x->key_len), rt_entry_value(x)) : 0;
                if (rc) {
                    return rc;
                }
            }
        }
        return LEVEE_OK;
    }
    return LEVEE_ENOTFOUND;
}

void rt_engine_state_size(const struct rt_engine *e, uint64_t *ret_keys, uint64_t *ret_bytes)
{
    *ret_keys = *ret_bytes = 0;
    for (size_t i = 0; i < e->table_count; i++) {
        rt_table_size(&e->tables[i], ret_keys, ret_bytes);
    }
}

/* ---- what foreach_batch sees ---- */

size_t levee_batch_partitions(const levee_batch *batch)
{
    return batch->data->partitions;
}

size_t levee_batch_count(const levee_batch *batch)
{
    size_t n = 0;

    for (uint32_t p = 0; p < batch->data->partitions; p++) {
        n += batch->data->parts[p].count;
    }
    return n;
}

const struct levee_record *levee_batch_records(const levee_batch *batch, size_t partition,
                                               size_t *ret_n)
{
    if (partition >= batch->data->partitions) {
        *ret_n = 0;
        return NULL;
    }
    *ret_n = batch->data->parts[partition].count;
    return batch->data->parts[partition].items;
}
