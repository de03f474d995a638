/*
 * Chains: pure functions over the set of versions.
 *
 * A version is an edge from one batch to a later one; a state is a path from 0. All paths to a
 * batch give the same state, so the only questions are which path is shortest, and how far two
 * paths reach that share no file, for that is how far one damaged file cannot hurt us (design
 * 4d.13).
 *
 * Two disjoint paths are a flow of two through edges of capacity one. Both have to pass a batch m;
 * the largest such m is found by bisection, for whoever passes m passes everything below.
 *
 * Fixed memory, no I/O, no failure. Files that are bad, or whose ends make no sense, are no edges.
 */
#include "checkpoint/ckpt_graph.h"

#define NONE UINT32_MAX

/* ---- the graph ---- */

static void sort_edges(struct ckpt_graph *g)
{
    /* Few, and nearly in order already: versions come by sequence. */
    for (uint32_t i = 1; i < g->count; i++) {
        struct ckpt_edge e = g->edges[i];
        uint32_t at = i;
        for (; at > 0 && g->edges[at - 1].to > e.to; at--) {
            g->edges[at] = g->edges[at - 1];
        }
        g->edges[at] = e;
    }
}

static void add_edge(struct ckpt_graph *g, const struct ckpt_edge *e)
{
    if (e->from < e->to && g->count < CKPT_EDGES_MAX) {
        g->edges[g->count++] = *e;
    }
}

void ckpt_graph_init(struct ckpt_graph *g, const struct ckpt_versions *v, bool verified_only,
                     const struct ckpt_edge *extra)
{
    g->count = 0;
    for (size_t i = 0; i < v->count && i < CKPT_VERSIONS_MAX; i++) {
        const struct ckpt_version *x = &v->items[i];
        if (!x->bad && (x->verified || !verified_only)) {
            add_edge(g, &(struct ckpt_edge){.from = x->from,
                                            .to = x->to,
                                            .size = x->size,
                                            .sequence = x->sequence,
                                            .index = (uint32_t)i});
        }
    }
    if (extra != NULL) {
        add_edge(g, extra);
    }
    sort_edges(g);
}

/* ---- shortest paths ---- */

void ckpt_graph_search(const struct ckpt_graph *g, uint64_t start, const bool *without,
                       struct ckpt_paths *ret)
{
    /* Edges come by their end, so every path to an edge's start is known before the edge is. */
    for (uint32_t i = 0; i < g->count; i++) {
        const struct ckpt_edge *e = &g->edges[i];
        ret->files[i] = NONE;
        ret->before[i] = NONE;
        if (without != NULL && without[i]) {
            continue;
        }
        if (e->from == start) {
            ret->files[i] = 1;
            continue;
        }
        uint32_t p = ckpt_paths_to(g, ret, i, e->from);
        if (p != NONE && ret->files[p] < CKPT_CHAIN_MAX) {
            ret->files[i] = ret->files[p] + 1;
            ret->before[i] = p;
        }
    }
}

/* The last edge of the best path to `batch` among the first `limit` edges: fewest files, then the
 * newest sequence. */
uint32_t ckpt_paths_to(const struct ckpt_graph *g, const struct ckpt_paths *p, uint32_t limit,
                       uint64_t batch)
{
    uint32_t best = NONE;

    for (uint32_t i = limit; i-- > 0 && g->edges[i].to >= batch;) {
        if (g->edges[i].to != batch || p->files[i] == NONE) {
            continue;
        }
        if (best == NONE || p->files[i] < p->files[best] ||
            (p->files[i] == p->files[best] && g->edges[i].sequence > g->edges[best].sequence)) {
            best = i;
        }
    }
    return best;
}

/* The same for the highest batch that is reached at all. */
static uint32_t highest(const struct ckpt_graph *g, const struct ckpt_paths *p)
{
    for (uint32_t i = g->count; i-- > 0;) {
        if (p->files[i] != NONE) {
            return ckpt_paths_to(g, p, g->count, g->edges[i].to);
        }
    }
    return NONE;
}

void ckpt_paths_chain(const struct ckpt_graph *g, const struct ckpt_paths *p, uint32_t last,
                      struct ckpt_path *ret)
{
    ret->count = 0;
    ret->to = 0;
    if (last == NONE) {
        return;
    }
    ret->to = g->edges[last].to;
    ret->count = p->files[last];
    for (size_t at = ret->count; at-- > 0; last = p->before[last]) {
        ret->edge[at] = last;
    }
}

static void export_chain(const struct ckpt_graph *g, const struct ckpt_path *p,
                         struct ckpt_chain *ret)
{
    ret->count = p->count;
    ret->to = p->to;
    for (size_t i = 0; i < p->count; i++) {
        ret->index[i] = g->edges[p->edge[i]].index;
    }
}

void ckpt_graph_best(const struct ckpt_graph *g, const bool *without, struct ckpt_path *ret)
{
    struct ckpt_paths paths;

    ckpt_graph_search(g, 0, without, &paths);
    ckpt_paths_chain(g, &paths, highest(g, &paths), ret);
}

/* ---- two disjoint paths ---- */

struct flow {
    bool used[CKPT_EDGES_MAX]; /* edges that carry flow */
    /* Batches that are reached, in order: 0, and at most one per edge. */
    uint64_t queue[CKPT_EDGES_MAX + 1];
    uint32_t by[CKPT_EDGES_MAX + 1];  /* the edge by which queue[i] was reached */
    uint32_t via[CKPT_EDGES_MAX + 1]; /* and the place in the queue it was reached from */
    uint32_t count;
};

static void reach(struct flow *f, uint64_t batch, uint32_t edge, uint32_t from)
{
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->queue[i] == batch) {
            return;
        }
    }
    f->queue[f->count] = batch;
    f->by[f->count] = edge;
    f->via[f->count] = from;
    f->count++;
}

/* Adds one unit of flow from 0 to any batch >= m; false: there is no further path. */
static bool augment(const struct ckpt_graph *g, struct flow *f, uint64_t m)
{
    f->count = 0;
    reach(f, 0, NONE, NONE);
    for (uint32_t at = 0; at < f->count; at++) {
        uint64_t batch = f->queue[at];
        if (batch >= m) {
            for (; f->by[at] != NONE; at = f->via[at]) {
                /* Along an edge takes it, against it gives it back. */
                f->used[f->by[at]] = !f->used[f->by[at]];
            }
            return true;
        }
        for (uint32_t i = 0; i < g->count; i++) {
            const struct ckpt_edge *e = &g->edges[i];
            if (!f->used[i] && e->from == batch) {
                reach(f, e->to, i, at);
            } else if (f->used[i] && e->to == batch) {
                reach(f, e->from, i, at);
            }
        }
    }
    return false;
}

/* Takes one path out of the flow. false: longer than a chain may be. */
static bool take_path(const struct ckpt_graph *g, struct flow *f, uint64_t m, struct ckpt_path *ret)
{
    uint64_t batch = 0;

    ret->count = 0;
    while (batch < m) {
        uint32_t i = 0;
        while (i < g->count && !(f->used[i] && g->edges[i].from == batch)) {
            i++;
        }
        ASSERT(i < g->count);
        if (ret->count == CKPT_CHAIN_MAX) {
            return false;
        }
        ret->edge[ret->count++] = i;
        f->used[i] = false;
        batch = g->edges[i].to;
    }
    ret->to = batch;
    return true;
}

static bool two_paths(const struct ckpt_graph *g, struct flow *f, uint64_t m)
{
    memset(f->used, 0, sizeof f->used);
    if (!augment(g, f, m)) {
        return false;
    }
    return augment(g, f, m);
}

uint64_t ckpt_graph_disjoint(const struct ckpt_graph *g, struct ckpt_path ret[2])
{
    struct flow f;
    bool without[CKPT_EDGES_MAX] = {false};
    uint32_t low = 0; /* edges[low - 1].to is reached twice, edges[high].to and beyond is not */
    uint32_t high = g->count;

    ret[0].count = ret[1].count = 0;
    ret[0].to = ret[1].to = 0;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (two_paths(g, &f, g->edges[mid].to)) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    if (low == 0) {
        return 0;
    }
    uint64_t m = g->edges[low - 1].to;

    /* The best chain is kept anyway: a partner for it costs fewer files than any other pair. */
    ckpt_graph_best(g, NULL, &ret[0]);
    for (size_t i = 0; i < ret[0].count; i++) {
        without[ret[0].edge[i]] = true;
    }
    ckpt_graph_best(g, without, &ret[1]);
    if (ret[0].to >= m && ret[1].to >= m) {
        return m;
    }
    if (!two_paths(g, &f, m) || !take_path(g, &f, m, &ret[0]) || !take_path(g, &f, m, &ret[1])) {
        ret[0].count = ret[1].count = 0;
        ret[0].to = ret[1].to = 0;
        return 0;
    }
    return m;
}

/* ---- the questions asked from outside ---- */

void ckpt_chain_best(const struct ckpt_versions *v, struct ckpt_chain *ret)
{
    struct ckpt_graph g;
    struct ckpt_path best;

    ckpt_graph_init(&g, v, false, NULL);
    ckpt_graph_best(&g, NULL, &best);
    export_chain(&g, &best, ret);
}

uint64_t ckpt_chain_disjoint(const struct ckpt_versions *v, struct ckpt_chain ret[2])
{
    struct ckpt_graph g;
    struct ckpt_path pair[2];

    ckpt_graph_init(&g, v, true, NULL);
    uint64_t m = ckpt_graph_disjoint(&g, pair);
    export_chain(&g, &pair[0], &ret[0]);
    export_chain(&g, &pair[1], &ret[1]);
    return m;
}

static void mark(const struct ckpt_chain *c, bool *keep)
{
    for (size_t i = 0; i < c->count; i++) {
        keep[c->index[i]] = true;
    }
}

void ckpt_retain(const struct ckpt_versions *v, bool *keep)
{
    struct ckpt_graph g;
    struct ckpt_path pair[2];
    struct ckpt_chain chain[2];

    for (size_t i = 0; i < v->count; i++) {
        keep[i] = false;
    }
    ckpt_chain_best(v, &chain[0]);
    mark(&chain[0], keep);
    /* The pair the log was trimmed by, and the pair that may be as good or better once the files of
     * earlier lives were verified too. */
    (void)ckpt_chain_disjoint(v, chain);
    mark(&chain[0], keep);
    mark(&chain[1], keep);
    ckpt_graph_init(&g, v, false, NULL);
    (void)ckpt_graph_disjoint(&g, pair);
    for (int i = 0; i < 2; i++) {
        export_chain(&g, &pair[i], &chain[i]);
        mark(&chain[i], keep);
    }
}

bool ckpt_chain_full(const struct ckpt_versions *v, uint64_t from)
{
    struct ckpt_graph g;
    struct ckpt_paths paths;

    ckpt_graph_init(&g, v, false, NULL);
    ckpt_graph_search(&g, 0, NULL, &paths);
    uint32_t last = ckpt_paths_to(&g, &paths, g.count, from);
    return from > 0 && last != NONE && paths.files[last] >= CKPT_CHAIN_MAX;
}
