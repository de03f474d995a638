/*
 * Planning: from the graph to heads, their trees of steps, levels and units. Done once, when a
 * context starts.
 */
#include "runtime/exec.h"

static bool is_head(const levee_stream *n)
{
    return n->kind == RT_SOURCE || n->kind == RT_KEYED;
}

static int add_step(struct rt_head *h, const levee_stream *node, uint32_t offset, uint32_t *ret,
                    struct levee_error *err)
{
    size_t cap = h->step_cap;

    if (!mem_grow((void **)&h->steps, &cap, (size_t)h->step_count + 1, sizeof *h->steps)) {
        return err_nomem(err, sizeof *h->steps);
    }
    h->step_cap = (uint32_t)cap;
    *ret = h->step_count;
    h->steps[h->step_count] =
        (struct rt_step){.node = node, .offset = offset, .index = h->step_count};
    h->step_count++;
    return LEVEE_OK;
}

/* Partitions of a union's earlier parents lie before this one's. */
static uint32_t shift_of(const levee_stream *child, size_t parent)
{
    uint32_t shift = 0;

    if (child->op == &rt_union_operator) {
        for (size_t i = 0; i < parent; i++) {
            shift += child->parents[i]->partitions;
        }
    }
    return shift;
}

/* The tree below step `at`, without recursion: steps are worked off in the order they were added.
 */
static int grow_tree(struct rt_engine *e, struct rt_head *h, struct levee_error *err)
{
    const struct rt_graph *g = e->graph;

    for (uint32_t at = 0; at < h->step_count; at++) {
        const levee_stream *node = h->steps[at].node;
        size_t cap = 0;
        if (at > 0 && (is_head(node) || node->kind == RT_SINK)) {
            continue; /* an end */
        }
        for (size_t i = node->id + 1u; i < g->count; i++) {
            const levee_stream *child = g->nodes[i];
            for (size_t p = 0; p < child->parent_count; p++) {
                uint32_t step = 0;
                if (child->parents[p] != node) {
                    continue;
                }
                int code = add_step(h, child, h->steps[at].offset + shift_of(child, p), &step, err);
                struct rt_step *s = &h->steps[at];
                if (code == LEVEE_OK &&
                    !mem_grow((void **)&s->children, &cap, s->child_count + 1u, sizeof(uint32_t))) {
                    code = err_nomem(err, sizeof(uint32_t));
                }
                if (code) {
                    return code;
                }
                s->children[s->child_count++] = step;
            }
        }
    }
    return LEVEE_OK;
}

/* Length of the longest chain of keyed nodes above a node. */
static uint32_t level_of(const levee_stream *n)
{
    uint32_t level = 0;

    for (size_t i = 0; i < n->parent_count; i++) {
        uint32_t l = level_of(n->parents[i]);
        level = l > level ? l : level;
    }
    return level + (n->kind == RT_KEYED);
}

static int make_heads(struct rt_engine *e, struct levee_error *err)
{
    const struct rt_graph *g = e->graph;

    e->heads = mem_zalloc((g->count + 1) * sizeof *e->heads);
    e->tables = mem_zalloc((g->count + 1) * sizeof *e->tables);
    if (!e->heads || !e->tables) {
        return err_nomem(err, g->count * sizeof *e->heads);
    }
    for (size_t i = 0; i < g->count; i++) {
        const levee_stream *n = g->nodes[i];
        uint32_t root = 0;
        if (!is_head(n)) {
            continue;
        }
        struct rt_head *h = &e->heads[e->head_count++];
        *h = (struct rt_head){.node = n, .level = level_of(n), .partitions = n->partitions};
        e->levels = h->level + 1 > e->levels ? h->level + 1 : e->levels;
        if (n->kind == RT_KEYED) {
            h->keyed = e->keyed_count++;
            h->inbox_rows = n->parents[0]->partitions;
            h->always = n->op->every_batch && n->op->every_batch(n);
            e->wants_empty = e->wants_empty || (n->op->stateful && h->always);
            if (n->op->stateful) {
                h->table = &e->tables[e->table_count++];
                rt_table_init(h->table, n);
            }
        }
        int code = add_step(h, n, 0, &root, err);
        if (code || (code = grow_tree(e, h, err)) != LEVEE_OK) {
            return code;
        }
    }
    return LEVEE_OK;
}

int rt_plan(struct rt_engine *e, struct levee_error *err)
{
    int code = make_heads(e, err);

    if (code) {
        return code;
    }
    for (size_t i = 0; i < e->head_count; i++) {
        e->unit_count += e->heads[i].partitions;
    }
    e->units = mem_zalloc((e->unit_count + 1) * sizeof *e->units);
    e->level_starts = mem_zalloc((e->levels + 1u) * sizeof *e->level_starts);
    if (!e->units || !e->level_starts) {
        return err_nomem(err, e->unit_count * sizeof *e->units);
    }
    size_t at = 0;
    for (uint32_t level = 0; level < e->levels; level++) {
        e->level_starts[level] = at;
        for (size_t i = 0; i < e->head_count; i++) {
            for (uint32_t p = 0; e->heads[i].level == level && p < e->heads[i].partitions; p++) {
                e->units[at++] = (struct rt_unit){&e->heads[i], p};
            }
        }
    }
    e->level_starts[e->levels] = at;
    return LEVEE_OK;
}

void rt_plan_release(struct rt_engine *e)
{
    for (size_t i = 0; i < e->head_count; i++) {
        for (uint32_t s = 0; s < e->heads[i].step_count; s++) {
            mem_free(e->heads[i].steps[s].children);
        }
        mem_free(e->heads[i].steps);
    }
    for (size_t i = 0; i < e->table_count; i++) {
        rt_table_release(&e->tables[i]);
    }
    mem_free(e->heads);
    mem_free(e->tables);
    mem_free(e->units);
    mem_free(e->level_starts);
}
