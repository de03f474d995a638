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
