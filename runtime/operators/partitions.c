/* partitions: the partition count of the keyed operator or transform just built. It says how many
 * units of work there are and where the output lies; key groups, and so state, know nothing of it.
 */
#include "runtime/operator.h"

static bool has_children(const levee_stream *s)
{
    for (size_t i = s->id + 1u; i < s->graph->count; i++) {
        const levee_stream *n = s->graph->nodes[i];
        for (size_t p = 0; p < n->parent_count; p++) {
            if (n->parents[p] == s) {
                return true;
            }
        }
    }
    return false;
}

levee_stream *levee_partitions_at(levee_stream *s, uint32_t n, const char *file, int line)
{
    if (!s) {
        return NULL;
    }
    if (s->op != &rt_recut_operator && (s->kind != RT_KEYED || s->op->to_one)) {
        return rt_graph_fail(
            s->graph, file, line, LEVEE_EGRAPH,
            "partitions: %s is no operator by key or transform; levee_repartition moves "
            "the records of any stream",
            s->name);
    }
    if (n == 0 || n > RT_PARTITIONS_MAX) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EGRAPH,
                             "partitions: %u is not a number of 1-%u", n, RT_PARTITIONS_MAX);
    }
    if (s->graph->frozen || has_children(s)) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EGRAPH,
                             "partitions: %s, built at %s:%d, is in use already", s->name, s->file,
                             s->line);
    }
    s->partitions = n;
    return s;
}
