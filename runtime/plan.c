/*
 * Planning: from the graph to heads, their trees of steps, levels and units. Done once, when a
 * context starts.
 *
 * A node that is reached on two ways (a stream united with itself) has a step on each: they stand
 * for different partitions of it.
 */
#include "runtime/exec.h"

static bool is_head(const levee_stream *n)
{
    return n->kind == RT_SOURCE || rt_has_inbox(n);
}

static enum rt_fast fast_of(const struct levee_reducer *r)
{
    enum rt_fast fast = RT_FAST_NONE;

    if (r && r->size == 8 && r->merge == levee_sum_i64.merge && r->finish == levee_sum_i64.finish &&
        r->create == r->add) {
        fast = r->add == levee_sum_i64.add        ? RT_FAST_SUM
               : r->add == levee_count_values.add ? RT_FAST_COUNT
                                                  : RT_FAST_NONE;
    }
    return fast;
}

static const struct levee_reducer *combine_of(const levee_stream *n)
{
    return n->op->combine ? n->op->combine(n) : NULL;
}

static int add_step(struct rt_head *h, const levee_stream *node, uint32_t offset, uint32_t *ret,
                    struct levee_error *err)
{
    void *steps = h->steps;

    if (!mem_grow(&steps, &h->step_cap, (size_t)h->step_count + 1, sizeof *h->steps)) {
        return err_nomem(err, sizeof *h->steps);
    }
    h->steps = steps;
    *ret = h->step_count;
    h->steps[h->step_count++] = (struct rt_step){.node = node, .offset = offset};
    return LEVEE_OK;
}

/* Where several parents meet, the partitions of earlier ones lie before this one's. */
static uint32_t shift_of(const levee_stream *child, size_t parent)
{
    uint32_t shift = 0;

    if (child->op == &rt_union_operator || rt_has_inbox(child)) {
        for (size_t i = 0; i < parent; i++) {
            shift += child->parents[i]->partitions;
        }
    }
    return shift;
}

static int add_child(struct rt_head *h, uint32_t at, const levee_stream *child, size_t parent,
                     size_t *cap, struct levee_error *err)
{
    uint32_t step = 0;
    int code = add_step(h, child, h->steps[at].offset + shift_of(child, parent), &step, err);

    if (code) {
        return code;
    }
    struct rt_step *s = &h->steps[at];
    void *children = s->children;
    if (!mem_grow(&children, cap, s->child_count + 1u, sizeof *s->children)) {
        return err_nomem(err, sizeof *s->children);
    }
    s->children = children;
    s->children[s->child_count++] = step;
    return LEVEE_OK;
}

/* The tree, without recursion: steps are worked off in the order they were added. */
static int grow_tree(const struct rt_graph *g, struct rt_head *h, struct levee_error *err)
{
    for (uint32_t at = 0; at < h->step_count; at++) {
        const levee_stream *node = h->steps[at].node;
        size_t cap = 0;
        if (at > 0 && (is_head(node) || node->kind == RT_SINK)) {
            continue; /* an end */
        }
        for (size_t i = node->id + 1u; i < g->count; i++) {
            const levee_stream *child = g->nodes[i];
            for (size_t p = 0; p < child->parent_count; p++) {
                if (child->parents[p] != node) {
                    continue;
                }
                int code = add_child(h, at, child, p, &cap, err);
                if (code) {
                    return code;
                }
            }
        }
    }
    return LEVEE_OK;
}

static enum rt_does does_of(const levee_stream *n)
{
    enum rt_does does = RT_PASSES;

    if (n->kind == RT_SINK) {
        does = RT_OUTPUTS;
    } else if (n->kind == RT_KEYED && n->op->reads_parent) {
        does = RT_IGNORES;
    } else if (n->kind == RT_KEYED) {
        does = combine_of(n) ? RT_COMBINES : RT_DEALS;
    } else if (n->op->place) {
        does = RT_PLACES;
    } else if (n->op->gather) {
        does = RT_GATHERS;
    } else if (n->op->rewrite) {
        does = RT_REWRITES;
    } else if (n->op->narrow) {
        does = RT_CALLS;
    } else if (n->op->whole) {
        does = RT_HOLDS;
    }
    return does;
}

/* What the steps must know beyond their nodes. inbox_of: by node id. */
static void finish_tree(struct rt_head *h, const uint32_t *inbox_of)
{
    for (uint32_t at = 0; at < h->step_count; at++) {
        struct rt_step *s = &h->steps[at];
        s->side = s->node->op && s->node->op->takes_side;
        /* What it was given, unchanged. */
        bool hands_on = s->node->op == &rt_union_operator || s->side;
        if (at == 0) {
            s->owns_input = true;
        } else {
            s->does = does_of(s->node);
            s->inbox = inbox_of[s->node->id];
            s->combine = s->does == RT_COMBINES ? combine_of(s->node) : NULL;
            s->fast = fast_of(s->combine);
        }
        for (uint32_t i = 0; i < s->child_count; i++) {
            h->steps[s->children[i]].owns_input =
                s->child_count == 1 && (!hands_on || s->owns_input);
        }
    }
}

static struct rt_table *table_of(const struct rt_engine *e, const levee_stream *n)
{
    for (size_t i = 0; i < e->table_count; i++) {
        if (e->tables[i].node == n) {
            return &e->tables[i];
        }
    }
    return NULL;
}

static void make_head(struct rt_engine *e, const levee_stream *n, uint32_t level)
{
    struct rt_head *h = &e->heads[e->head_count];

    *h = (struct rt_head){
        .node = n, .index = (uint32_t)e->head_count++, .level = level, .partitions = n->partitions};
    e->levels = level + 1 > e->levels ? level + 1 : e->levels;
    if (!rt_has_inbox(n)) {
        return;
    }
    h->inbox = e->inbox_count++;
    h->fast = fast_of(combine_of(n));
    for (size_t p = 0; p < n->parent_count; p++) {
        h->rows += n->parents[p]->partitions;
    }
    if (n->op->stateful) {
        h->table = &e->tables[e->table_count++];
        rt_table_init(h->table, n);
        h->table->idle_ms = n->op->idle_ms ? n->op->idle_ms(n) : 0;
        h->table->timed = n->op->holds_time;
    } else if (n->op->reads_parent) {
        h->table = table_of(e, n->parents[0]);
    }
    h->always = n->op->every_batch && n->op->every_batch(n);
}

/* A node's level is the longest chain of nodes with an inbox that ends in it; parents come first.
 */
static int make_heads(struct rt_engine *e, struct levee_error *err)
{
    const struct rt_graph *g = e->graph;
    uint32_t *levels = mem_zalloc((g->count + 1) * sizeof *levels);
    uint32_t *inbox_of = mem_zalloc((g->count + 1) * sizeof *inbox_of);
    int code = LEVEE_OK;

    e->heads = mem_zalloc((g->count + 1) * sizeof *e->heads);
    e->tables = mem_zalloc((g->count + 1) * sizeof *e->tables);
    if (!levels || !inbox_of || !e->heads || !e->tables) {
        code = err_nomem(err, g->count * sizeof *e->heads);
        goto out;
    }
    for (size_t i = 0; i < g->count; i++) {
        const levee_stream *n = g->nodes[i];
        for (size_t p = 0; p < n->parent_count; p++) {
            uint32_t above = levels[n->parents[p]->id];
            levels[i] = above > levels[i] ? above : levels[i];
        }
        levels[i] += rt_has_inbox(n);
        inbox_of[i] = e->inbox_count; /* its own, if it has one */
        if (is_head(n)) {
            make_head(e, n, levels[i]);
        }
    }
    for (size_t i = 0; i < e->head_count && code == LEVEE_OK; i++) {
        struct rt_head *h = &e->heads[i];
        uint32_t root = 0;
        code = add_step(h, h->node, 0, &root, err);
        code = code ? code : grow_tree(g, h, err);
        if (code == LEVEE_OK) {
            finish_tree(h, inbox_of);
        }
    }
out:
    mem_free(levels);
    mem_free(inbox_of);
    return code;
}

int rt_plan(struct rt_engine *e, struct levee_error *err)
{
    int code = make_heads(e, err);

    code = code ? code : rt_clocks_init(&e->clocks, e->graph, err);
    if (code) {
        return code;
    }
    e->readings = mem_zalloc((e->clocks.count + 1) * sizeof *e->readings);
    if (!e->readings) {
        return err_nomem(err, e->clocks.count * sizeof *e->readings);
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
    rt_clocks_release(&e->clocks);
    mem_free(e->readings);
    mem_free(e->heads);
    mem_free(e->tables);
    mem_free(e->units);
    mem_free(e->level_starts);
}
