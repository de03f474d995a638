/* state_snapshots: the whole table of a stateful operator after each batch. The node is keyed, so
 * that its units own key groups as the operator's do; it reads the table on the level above, when
 * nobody changes it any more, and emits copies, for the next batch changes it again. */
#include "runtime/operator.h"

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    size_t n;
    const struct rt_listed *list = rt_table_list(c->out->arena, t, g->group, NULL, &n);
    int code = LEVEE_OK;

    if (!list) {
        return rt_call_nomem(c);
    }
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        struct levee_slice value = rt_table_state_of(t, list[i].entry);
        if (!value.data) {
            continue; /* it has timers, and no state */
        }
        const uint8_t *copy = arena_copy(c->out->arena, value.data, value.len);
        if (!copy) {
            return rt_call_nomem(c);
        }
        (void)rt_output_add(c->out, list[i].key, slice_of(copy, value.len));
        code = rt_call_emitted(c);
    }
    return code;
}

static bool every_batch(const levee_stream *node)
{
    (void)node;
    return true;
}

static const struct rt_operator state_snapshots_operator = {
    .name = "state_snapshots", .fold = fold, .every_batch = every_batch, .reads_parent = true};

levee_stream *levee_state_snapshots_at(levee_stream *stateful, const char *file, int line)
{
    if (stateful && !(stateful->kind == RT_KEYED && stateful->op->stateful)) {
        return rt_graph_fail(stateful->graph, file, line, LEVEE_EGRAPH,
                             "state_snapshots: %s has no state", stateful->name);
    }
    return rt_lower(stateful, RT_KEYED, &state_snapshots_operator, NULL, NULL, 0, file, line);
}
