/* map_to_i64: every record keeps its key and gets the same value; no call, no copy. */
#include "runtime/operator.h"

static void rewrite(const levee_stream *node, struct levee_record *io, size_t n)
{
    const struct levee_slice value = slice_of(node->op_data, 8);

    for (size_t i = 0; i < n; i++) {
        io[i].value = value;
    }
}

static const struct rt_operator map_to_i64_operator = {
    .name = "map_to_i64", .rewrite = rewrite, .free_data = rt_free_data};

levee_stream *levee_map_to_i64_at(levee_stream *s, int64_t value, const char *file, int line)
{
    if (!s) {
        return NULL;
    }
    uint8_t *le = mem_alloc(8);
    if (!le) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "map_to_i64");
    }
    put_le64(le, (uint64_t)value);
    return rt_lower(s, RT_NARROW, &map_to_i64_operator, NULL, le, 0, file, line);
}
