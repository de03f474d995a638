/*
 * Exchanges that place records: every record goes to the partition that the operator names. A cell
 * of the inbox holds what one unit sent to one partition, in its order; a unit reads its column
 * from the first row to the last, so records arrive in (source partition, record) order.
 */
#include "runtime/exec.h"

static int send(struct rt_worker *w, const struct rt_step *s, const struct levee_record *in,
                const uint32_t *to, size_t n)
{
    struct rt_items *row = rt_row_of(w, s);

    for (size_t i = 0; i < n; i++) {
        if (to[i] == RT_NOWHERE) {
            continue;
        }
        ASSERT(to[i] < s->node->partitions);
        struct rt_item *item = rt_items_add(&row[to[i]]);
        if (!item) {
            return rt_worker_nomem(w);
        }
        *item = (struct rt_item){.key = in[i].key, .value = in[i].value, .time_ms = in[i].time_ms};
    }
    return LEVEE_OK;
}

int rt_exchange_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct rt_port *port = rt_port_of(w, step);
    struct rt_call call = rt_call_at(w, step, 1);
    uint32_t to[RT_VECTOR];
    int code = LEVEE_OK;

    for (size_t at = 0, some; at < n && code == LEVEE_OK; at += some) {
        some = n - at < RT_VECTOR ? n - at : RT_VECTOR;
        code = s->node->op->place(&call, in + at, some, port->seen, to);
        port->seen += some;
        if (code == LEVEE_OK) {
            code = send(w, s, in + at, to, some);
        }
    }
    return code;
}

int rt_exchange_run(struct rt_worker *w)
{
    const struct rt_inbox *box = &w->run->inboxes[w->unit->head->inbox];
    struct levee_record vector[RT_VECTOR];
    size_t n = 0;
    int code = LEVEE_OK;

    for (uint32_t row = 0; row < box->rows; row++) {
        const struct rt_items *cell = &box->cells[(size_t)row * box->columns + w->unit->partition];
        for (size_t i = 0; i < cell->count && code == LEVEE_OK; i++) {
            const struct rt_item *item = &cell->items[i];
            vector[n++] = (struct levee_record){item->key, item->value, item->time_ms};
            if (n == RT_VECTOR) {
                code = rt_push(w, 0, vector, n);
                n = 0;
            }
        }
    }
    return code ? code : rt_push(w, 0, vector, n);
}

/* ---- gathering ---- */

int rt_gather_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    uint32_t to[RT_VECTOR] = {0};
    int code = LEVEE_OK;

    for (size_t at = 0, some; at < n && code == LEVEE_OK; at += some) {
        some = n - at < RT_VECTOR ? n - at : RT_VECTOR;
        code = send(w, &w->unit->head->steps[step], in + at, to, some);
    }
    return code;
}

/* The inbox as data sets: one array of all records, in the order of rows. NULL: no memory. */
static struct rt_dataset *data_sets(struct rt_worker *w)
{
    const levee_stream *node = w->unit->head->node;
    const struct rt_inbox *box = &w->run->inboxes[w->unit->head->inbox];
    struct arena *arena = &w->share->arena;
    size_t total = 0;

    for (uint32_t row = 0; row < box->rows; row++) {
        total += box->cells[row].count;
    }
    struct rt_dataset *sets = arena_alloc(arena, node->parent_count * sizeof *sets);
    struct rt_records *parts = arena_alloc(arena, box->rows * sizeof *parts);
    struct levee_record *at = arena_alloc(arena, total * sizeof *at);
    if (!sets || !parts || !at) {
        return NULL;
    }
    for (uint32_t row = 0; row < box->rows; row++) {
        const struct rt_items *cell = &box->cells[row];
        parts[row] = (struct rt_records){at, cell->count, cell->count};
        for (size_t i = 0; i < cell->count; i++) {
            *at++ = (struct levee_record){cell->items[i].key, cell->items[i].value,
                                          cell->items[i].time_ms};
        }
    }
    for (size_t p = 0; p < node->parent_count; p++) {
        sets[p] = (struct rt_dataset){parts, node->parents[p]->partitions};
        parts += sets[p].partitions;
    }
    return sets;
}

static int push_some(struct rt_worker *w, const struct levee_record *in, size_t n)
{
    struct levee_record vector[RT_VECTOR]; /* whoever is pushed to may change what it is given */
    int code = LEVEE_OK;

    for (size_t at = 0, some; at < n && code == LEVEE_OK; at += some) {
        some = n - at < RT_VECTOR ? n - at : RT_VECTOR;
        memcpy(vector, in + at, some * sizeof *in);
        code = rt_push(w, 0, vector, some);
    }
    return code;
}

/* Partition p of n gets records [p * total / n, (p + 1) * total / n) of all. */
static int push_cut(struct rt_worker *w, const struct rt_dataset *d, uint32_t n)
{
    uint64_t total = 0, seen = 0;
    int code = LEVEE_OK;

    for (uint32_t p = 0; p < d->partitions; p++) {
        total += d->parts[p].count;
    }
    w->cut = 0;
    for (uint32_t p = 0; p < d->partitions; p++) {
        const struct rt_records *part = &d->parts[p];
        for (size_t at = 0, some; at < part->count && code == LEVEE_OK; at += some) {
            while (seen >= (w->cut + 1u) * total / n) {
                w->cut++;
            }
            uint64_t room = (w->cut + 1u) * total / n - seen;
            some = part->count - at < room ? part->count - at : (size_t)room;
            code = push_some(w, part->items + at, some);
            seen += some;
        }
    }
    return code;
}

static int push_data_set(struct rt_worker *w, const struct rt_dataset *d, uint32_t n)
{
    int code = LEVEE_OK;

    if (d->partitions != n) {
        return push_cut(w, d, n);
    }
    for (w->cut = 0; w->cut < n && code == LEVEE_OK; w->cut++) {
        code = push_some(w, d->parts[w->cut].items, d->parts[w->cut].count);
    }
    return code;
}

int rt_gather_run(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;
    const struct rt_dataset *in = data_sets(w);
    struct rt_call call = rt_call_at(w, 0, 0);
    struct rt_dataset out = {NULL, 0};

    ASSERT(h->steps[0].child_count == 1);
    const levee_stream *child = h->steps[h->steps[0].children[0]].node;
    ASSERT(child->op == &rt_recut_operator);
    if (!rt_due(&call)) {
        return LEVEE_OK; /* below a window that is not due: nothing has come */
    }
    if (!in) {
        return rt_worker_nomem(w);
    }
    int code = h->node->op->gather(&call, in, h->node->parent_count, &out);
    if (code == LEVEE_OK && call.out->failed) {
        code = rt_worker_nomem(w);
    }
    return code ? code : push_data_set(w, &out, child->partitions);
}

static int place_in_cut(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index,
                        uint32_t *ret)
{
    (void)in;
    (void)index;
    for (size_t i = 0; i < n; i++) {
        ret[i] = c->worker->cut;
    }
    return LEVEE_OK;
}

const struct rt_operator rt_recut_operator = {.name = "recut", .place = place_in_cut};
