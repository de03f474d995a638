/* union: the parents' partitions side by side, in the order given. */
#include "runtime/operator.h"

const struct rt_operator rt_union_operator = {.name = "union"};

levee_stream *levee_union_at(levee_stream *const *streams, size_t n, const char *file, int line)
{
    if (!streams || n == 0 || !streams[0]) {
        return NULL;
    }
    levee_stream *u =
        rt_graph_add(streams[0]->graph, RT_EXCHANGE, "union", NULL, false, streams, n, file, line);
    if (!u) {
        return NULL;
    }
    u->op = &rt_union_operator;
    u->partitions = 0;
    for (size_t i = 0; i < n; i++) {
        u->partitions += streams[i]->partitions;
    }
    return u;
}
