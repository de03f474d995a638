/*
 * Executing a unit: its head's records are pushed down the tree of steps, a vector at a time.
 * Everything a unit makes lies in its arena; its ports are its worker's and empty between units.
 * Nothing here depends on which worker runs a unit, or when.
 */
#include "runtime/exec.h"

static int take_output(struct rt_worker *w, const struct rt_step *s, const struct levee_record *in,
                       size_t n)
{
    struct rt_records *part =
        &w->run->outputs[s->node->ordinal].parts[w->unit->partition + s->offset];

    if (!mem_grow((void **)&part->items, &part->cap, part->count + n, sizeof *part->items)) {
        return rt_worker_nomem(w);
    }
    memcpy(part->items + part->count, in, n * sizeof *in);
    part->count += n;
    return LEVEE_OK;
}

static struct rt_port *port_of(struct rt_worker *w, uint32_t step)
{
    return &w->ports[w->unit->head - w->engine->heads][step];
}

int rt_push(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct rt_port *port = port_of(w, step);
    int code = LEVEE_OK;

    if (n == 0) {
        return LEVEE_OK;
    }
    if (s->node->kind == RT_SINK) {
        return take_output(w, s, in, n);
    }
    if (s->node->kind == RT_KEYED && step > 0) {
        return rt_keyed_take(w, s, port, in, n);
    }
    if (step == 0 ||
        !s->node->op->narrow) { /* a head's own output, or a union: handed on as it is */
        for (uint32_t i = 0; i < s->child_count && code == LEVEE_OK; i++) {
            code = rt_push(w, s->children[i], in, n);
        }
        return code;
    }
    uint64_t index = port->seen;
    port->seen += n;
    for (size_t at = 0; at < n && code == LEVEE_OK; at += RT_VECTOR) {
        size_t some = n - at < RT_VECTOR ? n - at : RT_VECTOR;
        struct rt_call call = {w, s->node, w->unit->partition + s->offset, &port->out};
        code = s->node->op->narrow(&call, in + at, some, index + at);
        if (code == LEVEE_OK && port->out.failed) {
            code = rt_worker_nomem(w);
        }
        if (code == LEVEE_OK && port->out.count >= RT_VECTOR) {
            code = rt_flush(w, step);
        }
    }
    return code;
}

int rt_flush(struct rt_worker *w, uint32_t step)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct levee_output *out = &port_of(w, step)->out;
    int code = LEVEE_OK;

    for (uint32_t i = 0; i < s->child_count && code == LEVEE_OK; i++) {
        code = rt_push(w, s->children[i], out->items, out->count);
    }
    out->count = 0;
    return code;
}

static int run_source(struct rt_worker *w)
{
    const struct rt_input *in = &w->run->compute->inputs[w->unit->head->node->ordinal];
    struct levee_record vector[RT_VECTOR];
    size_t n = 0;
    int code = LEVEE_OK;

    for (size_t b = 0; b < in->count && code == LEVEE_OK; b++) {
        struct rt_block_cursor c;
        if (in->blocks[b]->partition % w->unit->head->partitions != w->unit->partition) {
            continue;
        }
        rt_block_cursor_init(&c, in->blocks[b]);
        while (code == LEVEE_OK && rt_block_next(&c, &vector[n])) {
            if (++n == RT_VECTOR) {
                code = rt_push(w, 0, vector, n);
                n = 0;
            }
        }
    }
    return code ? code : rt_push(w, 0, vector, n);
}

static void reset_ports(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;

    for (uint32_t i = 0; i < h->step_count; i++) {
        struct rt_port *p = port_of(w, i);
        p->seen = 0;
        p->out.count = 0;
        p->out.failed = false;
        p->out.arena = w->arena;
        p->out.header = &w->run->compute->header;
        p->out.time_ms = 0;
        p->combine.count = 0;
        map_clear(&p->combine.map);
    }
}

/* What is still in ports, parents first (steps are in that order), then combines. */
static int finish_tree(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;
    int code = LEVEE_OK;

    for (uint32_t i = 0; i < h->step_count && code == LEVEE_OK; i++) {
        const struct rt_step *s = &h->steps[i];
        if (s->node->kind == RT_KEYED && i > 0) {
            code = rt_keyed_unit_end(w, s, port_of(w, i));
        } else if (i > 0 && s->node->kind == RT_NARROW && s->node->op->narrow) {
            code = rt_flush(w, i);
        } else if (i == 0 && h->node->kind == RT_KEYED) {
            code = rt_flush(w, 0);
        }
    }
    return code;
}

/* Order of records counts, and so do absent keys and values. */
static uint64_t digest_records(const struct rt_records *r)
{
    uint64_t h = 0x9ae16a3b2f90404full;

    for (size_t i = 0; i < r->count; i++) {
        const struct levee_record *x = &r->items[i];
        h = hash64(x->key.data, x->key.len, h + (x->key.data != NULL));
        h = hash64(x->value.data, x->value.len, h + (x->value.data != NULL) + (uint64_t)x->time_ms);
    }
    return r->count ? h : 0;
}

static void digest_outputs(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;

    for (uint32_t i = 1; i < h->step_count; i++) {
        const struct rt_step *s = &h->steps[i];
        if (s->node->kind == RT_SINK) {
            uint32_t p = w->unit->partition + s->offset, k = s->node->ordinal;
            w->run->part_digests[k][p] = digest_records(&w->run->outputs[k].parts[p]);
        }
    }
}

int rt_unit_run(struct rt_worker *w)
{
    int code;

    w->code = LEVEE_OK;
    reset_ports(w);
    code = w->unit->head->node->kind == RT_SOURCE ? run_source(w) : rt_keyed_run(w);
    if (code == LEVEE_OK) {
        code = finish_tree(w);
    }
    if (code == LEVEE_OK) {
        digest_outputs(w);
    }
    return code;
}
