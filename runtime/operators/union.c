/* union: the parents' partitions side by side, in the order given. Nothing runs: the planner lets
 * each parent's tree go on below it. */
#include "runtime/operator.h"

const struct rt_operator rt_union_operator = {.name = "union"};

levee_stream *levee_union_at(levee_stream *const *streams, size_t n, const char *file, int line)
{
    uint64_t partitions = 0;

    if (!streams || n == 0 || !streams[0]) {
        return NULL; /* of no stream no graph is known; a NULL one has left its error */
    }
    struct rt_graph *g = streams[0]->graph;
    for (size_t i = 0; i < n; i++) {
        partitions += streams[i] ? streams[i]->partitions : 0;
    }
    if (partitions > RT_PARTITIONS_MAX) {
        return rt_graph_fail(g, file, line, LEVEE_EGRAPH, "union: more than %u partitions together",
                             RT_PARTITIONS_MAX);
    }
    return rt_lower_many(streams, n, RT_EXCHANGE, &rt_union_operator, NULL, NULL,
                         (uint32_t)partitions, file, line);
}
