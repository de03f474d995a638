/*
 * repartition: records move to n partitions, in turns or as a function says. Only where output
 * records lie depends on it: state is dealt by key group whatever comes in.
 *
 * In turns, record i of source partition p goes to partition (p + i) mod n: even, without a look at
 * the records, and sources with few records do not all begin with the same partition.
 */
#include "runtime/operator.h"

#define CELLS_MAX (1u << 22) /* pairs of a source partition and a target: memory for each batch */

struct repartition_data {
    levee_partitioner_fn fn; /* NULL: in turns */
    void *arg;
};

struct placing {
    const struct repartition_data *d;
    const struct levee_record *in;
    uint32_t partitions;
    uint32_t to;
};

static int try_place(void *arg)
{
    struct placing *p = arg;
    int to = p->d->fn(p->in, p->partitions, p->d->arg);

    if (to >= 0 && (uint32_t)to >= p->partitions) {
        return LEVEE_EINVALID;
    }
    p->to = (uint32_t)to;
    return to;
}

static int place(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index,
                 uint32_t *ret)
{
    struct placing p = {.d = c->node->op_data, .partitions = c->node->partitions};
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        bool skipped = false;
        p.in = &in[i];
        p.to = (uint32_t)((c->partition + index + i) % p.partitions);
        if (p.d->fn) {
            code = rt_call_guarded(c, index + i, &in[i], try_place, &p, &skipped);
        }
        ret[i] = skipped ? RT_NOWHERE : p.to;
    }
    return code;
}

static const struct rt_operator repartition_operator = {
    .name = "repartition", .place = place, .free_data = rt_free_data};

static levee_stream *lower(levee_stream *s, uint32_t n, struct repartition_data data,
                           const char *file, int line)
{
    if (!s) {
        return NULL;
    }
    if (n == 0 || n > RT_PARTITIONS_MAX || (uint64_t)s->partitions * n > CELLS_MAX) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EGRAPH,
                             "repartition: from %u partitions to %u; to 1-%u, at most %u pairs",
                             s->partitions, n, RT_PARTITIONS_MAX, CELLS_MAX);
    }
    struct repartition_data *copy = mem_alloc(sizeof *copy);
    if (!copy) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "repartition");
    }
    *copy = data;
    return rt_lower(s, RT_EXCHANGE, &repartition_operator, NULL, copy, n, file, line);
}

levee_stream *levee_repartition_at(levee_stream *s, uint32_t n, const char *file, int line)
{
    return lower(s, n, (struct repartition_data){NULL, NULL}, file, line);
}

levee_stream *levee_repartition_by_at(levee_stream *s, uint32_t n, levee_partitioner_fn fn,
                                      void *arg, const char *file, int line)
{
    if (s && !fn) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "repartition_by: no function");
    }
    return lower(s, n, (struct repartition_data){fn, arg}, file, line);
}
