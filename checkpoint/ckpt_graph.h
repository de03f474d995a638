/* Versions as edges between batches: what chain.c computes and fold_plan.c asks. */
#ifndef LEVEE_CKPT_GRAPH_H
#define LEVEE_CKPT_GRAPH_H

#include "checkpoint/ckpt_impl.h"

/* One more than files: a fold that is only thought of. */
#define CKPT_EDGES_MAX (CKPT_VERSIONS_MAX + 1)

struct ckpt_edge {
    uint64_t from, to, size, sequence;
    uint32_t index; /* into versions.items */
};

struct ckpt_graph {
    struct ckpt_edge edges[CKPT_EDGES_MAX]; /* by `to` */
    uint32_t count;
};

/* Shortest paths from one batch, as a tree: for every edge the length of the best path that ends
 * with it. */
struct ckpt_paths {
    uint32_t files[CKPT_EDGES_MAX];  /* UINT32_MAX: none, or longer than a chain may be */
    uint32_t before[CKPT_EDGES_MAX]; /* UINT32_MAX: the edge is the path's first */
};

/* A chain in terms of edges. */
struct ckpt_path {
    uint32_t edge[CKPT_CHAIN_MAX];
    size_t count;
    uint64_t to;
};

void ckpt_graph_init(struct ckpt_graph *g, const struct ckpt_versions *v, bool verified_only,
                     const struct ckpt_edge *extra);
/* `without` (may be NULL) marks edges that are not to be used. */
void ckpt_graph_search(const struct ckpt_graph *g, uint64_t start, const bool *without,
                       struct ckpt_paths *ret);
/* The last edge of the best path to a batch, among the first `limit` edges; UINT32_MAX: none. */
uint32_t ckpt_paths_to(const struct ckpt_graph *g, const struct ckpt_paths *p, uint32_t limit,
                       uint64_t batch);
void ckpt_paths_chain(const struct ckpt_graph *g, const struct ckpt_paths *p, uint32_t last,
                      struct ckpt_path *ret);
void ckpt_graph_best(const struct ckpt_graph *g, const bool *without, struct ckpt_path *ret);
/* As ckpt_chain_disjoint. */
uint64_t ckpt_graph_disjoint(const struct ckpt_graph *g, struct ckpt_path ret[2]);

#endif
