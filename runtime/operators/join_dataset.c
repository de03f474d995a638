/*
 * join_dataset: a stream joined with the version of a data set that the batch sees. Inner and left
 * look every record's key up where the record is. Right and full must also know which keys have not
 * come: records are dealt by key first, and each partition then adds what the data set has under
 * the other keys of its key groups, in the order of the data set.
 */
#include "runtime/operator.h"

#include "runtime/shared_values.h"

struct join_data {
    const struct levee_shared *set;
    enum levee_join kind;
};

/* *ret_first: the first record of the data set under its key; UINT32_MAX: none. */
static int join_one(struct rt_call *c, const struct rt_image *image, const struct levee_record *in,
                    uint32_t *ret_first)
{
    const struct join_data *d = c->node->op_data;
    uint32_t first = rt_image_find(image, in->key, hash_key(in->key.data, in->key.len));
    bool keep = d->kind == LEVEE_LEFT_OUTER || d->kind == LEVEE_FULL_OUTER;
    int code = LEVEE_OK;

    *ret_first = first;
    c->out->time_ms = in->time_ms;
    if (first == UINT32_MAX && keep) {
        return rt_call_emit_sides(c, in->key, in->value, slice_of(NULL, 0));
    }
    for (uint32_t at = first; at != UINT32_MAX && code == LEVEE_OK; at = image->next[at]) {
        code = rt_call_emit_sides(c, in->key, in->value, image->records[at].value);
    }
    return code;
}

static const struct rt_image *image_of(const struct rt_call *c)
{
    static const struct rt_image none;
    const struct join_data *d = c->node->op_data;
    const struct rt_version *v = rt_shared_seen(c->out, d->set);

    return v ? &v->image : &none;
}

static int narrow(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    const struct rt_image *image = image_of(c);
    uint32_t first;
    int code = LEVEE_OK;

    (void)index;
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        code = join_one(c, image, &in[i], &first);
    }
    return code;
}

static uint32_t partition_of(uint64_t hash, uint32_t partitions)
{
    return rt_group_of(hash) % partitions;
}

static int whole(struct rt_call *c, const struct levee_record *in, size_t n)
{
    const struct rt_image *image = image_of(c);
    uint8_t *met = arena_alloc(c->out->arena, image->count + 1);
    int code = LEVEE_OK;

    if (!met) {
        return rt_call_nomem(c);
    }
    memset(met, 0, image->count + 1);
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        uint32_t first;
        code = join_one(c, image, &in[i], &first);
        met[first == UINT32_MAX ? image->count : first] = 1;
    }
    c->out->time_ms = 0;
    for (size_t i = 0; i < image->count && code == LEVEE_OK; i++) {
        const struct levee_record *r = &image->records[i];
        if (partition_of(image->hashes[i], c->node->partitions) == c->partition &&
            !met[image->first[i]]) {
            code = rt_call_emit_sides(c, r->key, slice_of(NULL, 0), r->value);
        }
    }
    return code;
}

static int by_key(const struct levee_record *r, uint32_t partitions, void *arg)
{
    (void)arg;
    return (int)partition_of(hash_key(r->key.data, r->key.len), partitions);
}

static const struct rt_operator lookup_operator = {
    .name = "join_dataset", .narrow = narrow, .free_data = rt_free_data};
static const struct rt_operator whole_operator = {
    .name = "join_dataset", .whole = whole, .free_data = rt_free_data};

levee_stream *levee_join_dataset_at(levee_stream *s, levee_dataset *d, enum levee_join kind,
                                    const char *file, int line)
{
    bool outer = kind == LEVEE_RIGHT_OUTER || kind == LEVEE_FULL_OUTER;

    if (!s) {
        return NULL;
    }
    if (!d || !d->records || (unsigned)kind > LEVEE_FULL_OUTER) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                             "join_dataset: no data set, or no kind of join: %d", (int)kind);
    }
    struct join_data *data = mem_alloc(sizeof *data);
    if (!data) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "join_dataset");
    }
    *data = (struct join_data){d, kind};
    if (outer) {
        s = levee_repartition_by_at(s, s->graph->default_partitions, by_key, NULL, file, line);
    }
    if (!s) {
        mem_free(data);
        return NULL;
    }
    return rt_lower(s, RT_NARROW, outer ? &whole_operator : &lookup_operator, NULL, data, 0, file,
                    line);
}
