/*
 * The graph: nodes in the order they were built. Every builder ends here, so this is where uids are
 * checked, where the first error is remembered with the caller's line, and where a graph is
 * described and compared with a stored one.
 */
#include "runtime/operator.h"

#include <stdio.h>

#define DESCRIBE_VERSION 1u
#define NODES_MAX        4096u /* records are pushed through chains of nodes by recursion */

struct rt_graph *rt_graph_new(levee_context *ctx, uint32_t default_partitions, uint32_t interval_ms)
{
    struct rt_graph *g = mem_zalloc(sizeof *g);

    if (g) {
        g->ctx = ctx;
        g->default_partitions = default_partitions;
        g->interval_ms = interval_ms;
    }
    return g;
}

void rt_graph_free(struct rt_graph *g)
{
    if (!g) {
        return;
    }
    for (size_t i = 0; i < g->count; i++) {
        levee_stream *n = g->nodes[i];
        if (n->op && n->op->free_data && n->op_data) {
            n->op->free_data(n->op_data);
        }
        mem_free(n->parents);
        mem_free(n);
    }
    mem_free(g->nodes);
    mem_free(g->sources);
    mem_free(g->sinks);
    mem_free(g);
}

levee_stream *rt_graph_fail(struct rt_graph *g, const char *file, int line, int code,
                            const char *fmt, ...)
{
    if (g && g->error.code == LEVEE_OK) {
        va_list ap;
        char what[sizeof g->error.what];
        va_start(ap, fmt);
        (void)vsnprintf(what, sizeof what, fmt, ap);
        va_end(ap);
        (void)err_set(&g->error, code, "%s", what);
        (void)err_where(&g->error, "%s:%d", file, line);
    }
    return NULL;
}

uint32_t rt_uid_hash(const char *uid)
{
    uint32_t h = (uint32_t)hash64(uid, strlen(uid), 0);

    return h ? h : 1; /* 0 means "no stream" in a frame */
}

bool rt_uid_valid(const char *uid)
{
    size_t n = 0;

    for (; uid[n]; n++) {
        char c = uid[n];
        bool fine = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '_' || c == '-';
        if (!fine) {
            return false;
        }
    }
    return n >= 1 && n <= 64;
}

static bool uid_ok(struct rt_graph *g, const char *name, const char *uid, const char *file,
                   int line)
{
    if (!uid || !rt_uid_valid(uid)) {
        (void)rt_graph_fail(g, file, line, LEVEE_EGRAPH_UID,
                            "%s needs a uid of 1-64 characters [A-Za-z0-9._-], not \"%s\"", name,
                            uid ? uid : "");
        return false;
    }
    for (size_t i = 0; i < g->count; i++) {
        const levee_stream *n = g->nodes[i];
        if (n->uid[0] && strcmp(n->uid, uid) == 0) {
            (void)rt_graph_fail(g, file, line, LEVEE_EGRAPH_UID,
                                "the uid %s is used twice: first at %s:%d", uid, n->file, n->line);
            return false;
        }
        if (n->uid[0] && n->table == rt_uid_hash(uid)) {
            (void)rt_graph_fail(g, file, line, LEVEE_EGRAPH_UID,
                                "the uids %s and %s have the same hash: rename one", uid, n->uid);
            return false;
        }
    }
    return true;
}

static bool parents_ok(struct rt_graph *g, const char *name, levee_stream *const *parents, size_t n,
                       const char *file, int line)
{
    for (size_t i = 0; i < n; i++) {
        if (!parents[i]) {
            (void)rt_graph_fail(g, file, line, LEVEE_EINVALID, "%s: a stream is NULL", name);
            return false;
        }
        if (parents[i]->graph != g) {
            (void)rt_graph_fail(g, file, line, LEVEE_EGRAPH,
                                "%s: a stream belongs to another context", name);
            return false;
        }
        if (parents[i]->slide != parents[0]->slide) {
            (void)rt_graph_fail(g, file, line, LEVEE_EGRAPH,
                                "%s: its streams have different slides, %u and %u batch intervals",
                                name, parents[0]->slide, parents[i]->slide);
            return false;
        }
    }
    return true;
}

static bool enlist(struct rt_graph *g, levee_stream *n)
{
    bool source = n->kind == RT_SOURCE, sink = n->kind == RT_SINK;

    if (!mem_grow((void **)&g->nodes, &g->cap, g->count + 1, sizeof(levee_stream *)) ||
        (source && !mem_grow((void **)&g->sources, &g->source_cap, g->source_count + 1,
                             sizeof(levee_stream *))) ||
        (sink &&
         !mem_grow((void **)&g->sinks, &g->sink_cap, g->sink_count + 1, sizeof(levee_stream *)))) {
        return false;
    }
    n->id = (uint32_t)g->count;
    g->nodes[g->count++] = n;
    if (source) {
        n->ordinal = (uint32_t)g->source_count;
        g->sources[g->source_count++] = n;
    } else if (sink) {
        n->ordinal = (uint32_t)g->sink_count;
        g->sinks[g->sink_count++] = n;
    }
    return true;
}

levee_stream *rt_graph_add(struct rt_graph *g, enum rt_kind kind, const char *name, const char *uid,
                           bool need_uid, levee_stream *const *parents, size_t parent_count,
                           const char *file, int line)
{
    if (!g) {
        return NULL;
    }
    if (g->frozen) {
        return rt_graph_fail(g, file, line, LEVEE_EGRAPH_FROZEN,
                             "%s: the graph is frozen after start", name);
    }
    if (g->count >= NODES_MAX) {
        return rt_graph_fail(g, file, line, LEVEE_EGRAPH, "%s: a graph has at most %u nodes", name,
                             NODES_MAX);
    }
    if (parent_count && parents[0] && parents[0]->kind == RT_LETTERS && kind != RT_SINK) {
        return rt_graph_fail(g, file, line, LEVEE_EGRAPH, "%s: only sinks take dead letters", name);
    }
    if (!parents_ok(g, name, parents, parent_count, file, line) ||
        (need_uid && !uid_ok(g, name, uid, file, line))) {
        return NULL;
    }
    levee_stream *n = mem_zalloc(sizeof *n);
    levee_stream **copy = parent_count ? mem_alloc(parent_count * sizeof(levee_stream *)) : NULL;
    if (!n || (parent_count && !copy)) {
        goto fail;
    }
    if (parent_count) {
        memcpy(copy, parents, parent_count * sizeof(levee_stream *));
    }
    *n = (levee_stream){.graph = g,
                        .kind = kind,
                        .name = name,
                        .file = file,
                        .line = line,
                        .parents = copy,
                        .parent_count = parent_count,
                        .partitions = parent_count ? parents[0]->partitions : 1,
                        .slide = parent_count ? parents[0]->slide : 1};
    if (need_uid) {
        (void)snprintf(n->uid, sizeof n->uid, "%s", uid);
        n->table = rt_uid_hash(uid);
    }
    if (enlist(g, n)) {
        return n;
    }
fail:
    mem_free(copy);
    mem_free(n);
    return rt_graph_fail(g, file, line, LEVEE_ENOMEM, "%s", name);
}

/* ---- what is stored, and what it says of another graph ---- */

void rt_graph_describe(const struct rt_graph *g, struct buf *ret)
{
    buf_u8(ret, DESCRIBE_VERSION);
    buf_varint(ret, g->count);
    for (size_t i = 0; i < g->count; i++) {
        const levee_stream *n = g->nodes[i];
        buf_u8(ret, (uint8_t)n->kind);
        buf_slice(ret, slice_str(n->name));
        buf_slice(ret, slice_str(n->uid));
        buf_u32(ret, n->state_version);
        buf_varint(ret, n->parent_count);
        for (size_t k = 0; k < n->parent_count; k++) {
            buf_varint(ret, n->parents[k]->id);
        }
    }
}

static const levee_stream *find_uid(const struct rt_graph *g, struct levee_slice uid)
{
    for (size_t i = 0; i < g->count; i++) {
        if (slice_eq(slice_str(g->nodes[i]->uid), uid)) {
            return g->nodes[i];
        }
    }
    return NULL;
}

static int compare_node(const struct rt_graph *g, uint8_t kind, struct levee_slice uid,
                        uint32_t version, bool drop_orphans, bool *ret_orphan,
                        struct levee_error *err)
{
    const levee_stream *n = find_uid(g, uid);

    *ret_orphan = false;
    if (uid.len == 0 || kind == RT_SINK) {
        return LEVEE_OK; /* a sink may go: what it holds is its own */
    }
    if (n && (uint8_t)n->kind != kind) {
        err_set(err, LEVEE_ESTATE_ORPHANED, "the uid %s named another kind of operator", n->uid);
        err_where(err, "%s:%d", n->file, n->line);
        return LEVEE_ESTATE_ORPHANED;
    }
    if (!n) {
        *ret_orphan = drop_orphans;
        if (drop_orphans) {
            return LEVEE_OK;
        }
        err_set(err, LEVEE_ESTATE_ORPHANED, "%s %.*s has stored %s and is not in the graph",
                kind == RT_SOURCE ? "source" : "operator", (int)uid.len, (const char *)uid.data,
                kind == RT_SOURCE ? "positions" : "state");
        return LEVEE_ESTATE_ORPHANED;
    }
    if (n->state_version != version) {
        err_set(err, LEVEE_ESTATE_VERSION, "the state of %s has another version", n->uid);
        err_where(err, "%s:%d", n->file, n->line);
        err_expected(err, "version %u, as stored", version);
        err_found(err, "version %u", n->state_version);
        return LEVEE_ESTATE_VERSION;
    }
    return LEVEE_OK;
}

int rt_graph_compare(const struct rt_graph *g, struct levee_slice stored, bool drop_orphans,
                     uint32_t **ret_orphans, size_t *ret_count, struct levee_error *err)
{
    struct cursor c = cursor_of(stored);
    uint8_t format = cur_u8(&c);
    uint64_t nodes = cur_varint(&c);
    uint32_t *orphans = NULL;
    size_t count = 0, cap = 0;
    int code = LEVEE_OK;

    for (uint64_t i = 0; i < nodes && !c.bad && code == LEVEE_OK; i++) {
        bool orphan;
        uint8_t kind = cur_u8(&c);
        (void)cur_slice(&c); /* name */
        struct levee_slice uid = cur_slice(&c);
        uint32_t version = cur_u32(&c);
        for (uint64_t p = cur_varint(&c); p && !c.bad; p--) {
            (void)cur_varint(&c);
        }
        if (c.bad) {
            break;
        }
        code = compare_node(g, kind, uid, version, drop_orphans, &orphan, err);
        if (code == LEVEE_OK && orphan) {
            uint32_t h = (uint32_t)hash64(uid.data, uid.len, 0);
            if (!mem_grow((void **)&orphans, &cap, count + 1, sizeof *orphans)) {
                code = err_nomem(err, sizeof *orphans);
            } else {
                orphans[count++] = h ? h : 1;
            }
        }
    }
    if (code == LEVEE_OK && (c.bad || format != DESCRIBE_VERSION)) {
        code = err_set(err, LEVEE_ECKPT_CORRUPT, "the stored graph does not parse");
    }
    if (code) {
        mem_free(orphans);
        return code;
    }
    *ret_orphans = orphans;
    *ret_count = count;
    return LEVEE_OK;
}
