/*
 * What to fold, and when: a pure function of the files' ends and sizes.
 *
 * Every checkpoint adds a file, and only the newest ones are shared by all chains. A fold writes
 * one file from some earlier batch x to the best chain's end h, which lets two disjoint chains
 * reach h: one through the new file, one through the files it was made of. So the log can be
 * trimmed up to h, and files that neither chain needs any more are removed. x is chosen as late as
 * possible (that is the cheapest file) under three rules:
 *
 *   F1  With the new file, two disjoint chains reach h. x = 0, a new base, always does that.
 *   F2  Not more than FILES_MAX files, and those of one fold round, are needed afterwards.
 *   F3  On the new file's chain the file before it is at least RATIO times as large. Sizes along a
 * chain thus grow geometrically towards the base, so a byte is written once per size class and not
 * once per fold: write amplification is logarithmic in the state's size, and a new base is due when
 * the folded deltas have reached half the size of the old one.
 *
 * F2 and F3 give way to F1: when no x obeys all of them, the fold makes a new base. The estimate of
 * the new file's size is the sum of its parts: keys that were written twice make the file smaller
 * than planned, never larger. There is no state to keep between calls, so damage or a crash at any
 * time only changes the set of files that the next call starts from.
 */
#include "checkpoint/ckpt_graph.h"

#define FOLD_EVERY_DEFAULT 4
/* A round must fit a chain several times over. */
#define FOLD_EVERY_MAX 16
/* Files two chains may need beside those of the last round. */
#define FILES_MAX 14
/* Measured by simulation (tests/unit/test_ckpt_chain.c): 2 writes less when the state is 100 deltas
 * large and five times more when it is 10,000 and F2 begins to bind; 6 stays near 2 log2(state /
 * delta). */
#define RATIO 6

/* How many files of the best chain lie beyond batch m. */
static size_t files_beyond(const struct ckpt_graph *g, const struct ckpt_path *p, uint64_t m)
{
    size_t n = 0;

    for (size_t i = 0; i < p->count; i++) {
        n += g->edges[p->edge[i]].to > m ? 1 : 0;
    }
    return n;
}

/* Files that retention would keep. */
static size_t files_needed(const struct ckpt_graph *g, const struct ckpt_path pair[2])
{
    bool needed[CKPT_EDGES_MAX] = {false};
    struct ckpt_path best;
    size_t n = 0;

    ckpt_graph_best(g, NULL, &best);
    const struct ckpt_path *const all[3] = {&best, &pair[0], &pair[1]};
    for (size_t k = 0; k < ARRAY_LEN(all); k++) {
        for (size_t i = 0; i < all[k]->count; i++) {
            n += needed[all[k]->edge[i]] ? 0 : 1;
            needed[all[k]->edge[i]] = true;
        }
    }
    return n;
}

/* F3 for the path that contains the edge `fold`. */
static bool is_geometric(const struct ckpt_graph *g, const struct ckpt_path *p, uint32_t fold)
{
    for (size_t i = 1; i < p->count; i++) {
        if (g->edges[p->edge[i]].index == fold) {
            return g->edges[p->edge[i - 1]].size / RATIO >= g->edges[p->edge[i]].size;
        }
    }
    return true; /* a base, or another path */
}

/* Judges a fold of the parts from x to the best chain's end; a base is only asked whether it
 * exists. */
static bool is_good(const struct ckpt_versions *v, const struct ckpt_edge *fold, size_t files_max)
{
    struct ckpt_graph g;
    struct ckpt_path pair[2];

    if (fold->from == 0) {
        return true;
    }
    ckpt_graph_init(&g, v, false, fold);
    return ckpt_graph_disjoint(&g, pair) == fold->to && files_needed(&g, pair) <= files_max &&
           is_geometric(&g, &pair[0], fold->index) && is_geometric(&g, &pair[1], fold->index);
}

/* The parts of a fold from x to h: the shortest path. false: there is none. */
static bool find_parts(const struct ckpt_graph *g, uint64_t x, uint64_t h,
                       struct ckpt_fold_plan *ret, uint64_t *ret_size)
{
    struct ckpt_paths paths;
    struct ckpt_path path;

    ckpt_graph_search(g, x, NULL, &paths);
    ckpt_paths_chain(g, &paths, ckpt_paths_to(g, &paths, g->count, h), &path);
    ret->from = x;
    ret->to = h;
    ret->parts.count = path.count;
    ret->parts.to = h;
    *ret_size = 0;
    for (size_t i = 0; i < path.count; i++) {
        ret->parts.index[i] = g->edges[path.edge[i]].index;
        *ret_size += g->edges[path.edge[i]].size;
    }
    return path.count > 0;
}

bool ckpt_fold_due(const struct ckpt_versions *v, uint32_t fold_every, struct ckpt_fold_plan *ret)
{
    struct ckpt_graph g;
    struct ckpt_path best;
    struct ckpt_path pair[2];
    struct ckpt_fold_plan plan;
    uint64_t size;

    fold_every = fold_every == 0 ? FOLD_EVERY_DEFAULT : fold_every;
    fold_every = fold_every > FOLD_EVERY_MAX ? FOLD_EVERY_MAX : fold_every;
    ckpt_graph_init(&g, v, false, NULL);
    ckpt_graph_best(&g, NULL, &best);
    size_t fresh = files_beyond(&g, &best, ckpt_graph_disjoint(&g, pair));
    if (fresh < fold_every) {
        return false;
    }
    for (uint32_t i = g.count; i-- > 0;) {
        uint64_t x = i > 0 ? g.edges[i - 1].to : 0;
        if (x == g.edges[i].to || x >= best.to || !find_parts(&g, x, best.to, &plan, &size)) {
            continue;
        }
        struct ckpt_edge fold = {x, best.to, size, UINT64_MAX, UINT32_MAX};
        if (is_good(v, &fold, FILES_MAX + fold_every)) {
            *ret = plan;
            return true;
        }
    }
    return false;
}
