/*
 * A batch's memory: arenas, inboxes, outputs. It belongs to a compute from its start to its
 * release, after the sinks have committed, and is then used again: after a few batches of a size
 * nothing is allocated any more.
 */
#include "runtime/exec.h"

#include <stdlib.h>

static bool make_outputs(const struct rt_engine *e, struct rt_run *r)
{
    for (size_t i = 0; i < e->graph->sink_count; i++) {
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

static bool make_inboxes(const struct rt_engine *e, struct rt_run *r)
{
    for (size_t i = 0; i < e->head_count; i++) {
        const struct rt_head *h = &e->heads[i];
        struct rt_inbox *box = &r->inboxes[h->inbox];
        if (!rt_has_inbox(h->node)) {
            continue;
        }
        box->rows = h->rows;
        box->columns = h->partitions; /* 1 where records are gathered */
        if (h->node->kind == RT_KEYED) {
            box->columns = h->node->op->to_one ? 1 : RT_KEY_GROUPS;
        }
        box->cells = mem_zalloc((size_t)box->rows * box->columns * sizeof *box->cells);
        if (!box->cells) {
            return false;
        }
    }
    return true;
}

static bool make_marks(const struct rt_engine *e, struct rt_run *r)
{
    size_t n = e->clocks.count;

    r->watermarks = mem_zalloc((n + 1) * sizeof *r->watermarks);
    r->marks = mem_zalloc((n + 1) * sizeof(struct rt_mark *));
    for (size_t i = 0; i < n && r->watermarks && r->marks; i++) {
        r->marks[i] = mem_zalloc(e->clocks.items[i].node->partitions * sizeof **r->marks);
        if (!r->marks[i]) {
            return false;
        }
    }
    return r->watermarks && r->marks;
}

struct rt_run *rt_run_new(const struct rt_engine *e)
{
    struct rt_run *r = mem_zalloc(sizeof *r);
    size_t sinks = e->graph->sink_count;

    if (!r) {
        return NULL;
    }
    r->shares = mem_zalloc((e->unit_count + 1) * sizeof *r->shares);
    r->share_count = e->unit_count;
    r->inboxes = mem_zalloc((e->inbox_count + 1) * sizeof *r->inboxes);
    r->outputs = mem_zalloc((sinks + 1) * sizeof *r->outputs);
    r->part_digests = mem_zalloc((sinks + 1) * sizeof(uint64_t *));
    r->digests = mem_zalloc((sinks + 1) * sizeof *r->digests);
    r->output_records = mem_zalloc((sinks + 1) * sizeof *r->output_records);
    if (!r->shares || !r->inboxes || !r->outputs || !r->part_digests || !r->digests ||
        !r->output_records || !make_outputs(e, r) || !make_inboxes(e, r) || !make_marks(e, r)) {
        rt_run_free(e, r);
        return NULL;
    }
    return r;
}

static size_t cells_of(const struct rt_inbox *box)
{
    return box->cells ? (size_t)box->rows * box->columns : 0;
}

void rt_run_free(const struct rt_engine *e, struct rt_run *r)
{
    for (size_t i = 0; r->shares && i < e->unit_count; i++) {
        arena_release(&r->shares[i].arena);
        mem_free(r->shares[i].decisions);
        mem_free(r->shares[i].adds.items);
        mem_free(r->shares[i].sums);
    }
    for (size_t i = 0; r->inboxes && i < e->inbox_count; i++) {
        for (size_t c = 0; c < cells_of(&r->inboxes[i]); c++) {
            mem_free(r->inboxes[i].cells[c].items);
        }
        mem_free(r->inboxes[i].cells);
    }
    for (size_t i = 0; r->outputs && i < e->graph->sink_count; i++) {
        for (uint32_t p = 0; p < r->outputs[i].partitions; p++) {
            mem_free(r->outputs[i].parts[p].items);
        }
        mem_free(r->outputs[i].parts);
        mem_free(r->part_digests ? r->part_digests[i] : NULL);
    }
    for (size_t i = 0; r->marks && i < e->clocks.count; i++) {
        mem_free(r->marks[i]);
    }
    mem_free(r->marks);
    mem_free(r->watermarks);
    mem_free(r->shares);
    mem_free(r->inboxes);
    mem_free(r->outputs);
    mem_free(r->part_digests);
    mem_free(r->digests);
    mem_free(r->output_records);
    mem_free(r->decisions);
    mem_free(r);
}

void rt_run_reset(const struct rt_engine *e, struct rt_run *r)
{
    for (size_t i = 0; i < e->unit_count; i++) {
        arena_reset(&r->shares[i].arena);
        r->shares[i].decision_count = 0;
        r->shares[i].adds.count = r->shares[i].sum_count = 0;
        r->shares[i].code = LEVEE_OK;
    }
    for (size_t i = 0; i < e->inbox_count; i++) {
        for (size_t c = 0; c < cells_of(&r->inboxes[i]); c++) {
            r->inboxes[i].cells[c].count = 0;
        }
    }
    for (size_t i = 0; i < e->graph->sink_count; i++) {
        for (uint32_t p = 0; p < r->outputs[i].partitions; p++) {
            r->outputs[i].parts[p].count = 0;
            r->part_digests[i][p] = 0;
        }
    }
    for (size_t i = 0; i < e->clocks.count; i++) {
        for (uint32_t p = 0; p < e->clocks.items[i].node->partitions; p++) {
            r->marks[i][p] = (struct rt_mark){.max_ms = RT_NO_TIME};
        }
    }
    r->compute = NULL;
}

int rt_decision_order(const struct rt_decision *x, const struct rt_decision *y)
{
    if (x->node_uid_hash != y->node_uid_hash) {
        return x->node_uid_hash < y->node_uid_hash ? -1 : 1;
    }
    if (x->partition != y->partition) {
        return x->partition < y->partition ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

static int by_place(const void *a, const void *b)
{
    return rt_decision_order(a, b);
}

static int collect_decisions(const struct rt_engine *e, struct rt_run *r, struct levee_error *err)
{
    struct rt_compute *c = r->compute;
    void *all = r->decisions;
    size_t n = 0;

    for (size_t i = 0; i < e->unit_count; i++) {
        n += r->shares[i].decision_count;
    }
    if (!mem_grow(&all, &r->decision_cap, n, sizeof *r->decisions)) {
        return err_nomem(err, n * sizeof *r->decisions);
    }
    r->decisions = all;
    n = 0;
    for (size_t i = 0; i < e->unit_count; i++) {
        const struct rt_share *s = &r->shares[i];
        if (s->decision_count) {
            memcpy(r->decisions + n, s->decisions, s->decision_count * sizeof *s->decisions);
            n += s->decision_count;
        }
    }
    if (n) {
        qsort(r->decisions, n, sizeof *r->decisions, by_place);
    }
    c->decisions = r->decisions;
    c->decision_count = n;
    return LEVEE_OK;
}

/* A sink's digest: those of its partitions in order. An empty partition leaves no trace. */
static void collect_output(struct rt_run *r, size_t sink)
{
    const struct rt_dataset *d = &r->outputs[sink];
    uint64_t digest = 0, n = 0;

    for (uint32_t p = 0; p < d->partitions; p++) {
        const uint64_t part = r->part_digests[sink][p];
        n += d->parts[p].count;
        digest = d->parts[p].count ? hash64(&part, sizeof part, digest) : digest;
    }
    r->digests[sink] = n && digest == 0 ? 1 : digest; /* 0 says empty */
    r->output_records[sink] = n;
}

void rt_run_digest(struct rt_compute *c, size_t sink)
{
    struct rt_run *r = c->private_;

    for (uint32_t p = 0; p < r->outputs[sink].partitions; p++) {
        r->part_digests[sink][p] = rt_records_digest(&r->outputs[sink].parts[p]);
    }
    collect_output(r, sink);
}

bool rt_run_sums(const struct rt_compute *c, size_t unit, const struct rt_sum_of **ret,
                 size_t *ret_n)
{
    const struct rt_run *r = c->private_;

    if (unit >= r->share_count) {
        return false;
    }
    *ret = r->shares[unit].sums;
    *ret_n = r->shares[unit].sum_count;
    return true;
}

int rt_run_collect(const struct rt_engine *e, struct rt_run *r, struct levee_error *err)
{
    struct rt_compute *c = r->compute;

    c->records = 0;
    c->bytes = 0;
    for (size_t i = 0; i < e->graph->sink_count; i++) {
        collect_output(r, i);
        c->bytes += r->output_records[i] * sizeof(struct levee_record);
    }
    for (size_t i = 0; i < e->graph->source_count; i++) {
        for (size_t b = 0; b < c->inputs[i].count; b++) {
            c->records += c->inputs[i].blocks[b]->count;
        }
    }
    for (size_t i = 0; i < e->unit_count; i++) {
        c->bytes += r->shares[i].arena.total;
    }
    c->outputs = r->outputs;
    c->digests = r->digests;
    c->output_records = r->output_records;
    return collect_decisions(e, r, err);
}
