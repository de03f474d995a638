/*
 * Start from a checkpoint: the chain that recovery chose becomes state, positions, facts and sink
 * ends; its meta says after which batch, at which batch time, under which graph and with which
 * digest. Read-only.
 */
#include "runtime/context.h"

struct loading {
    levee_context *ctx;
    uint32_t *tables; /* tables the chain describes: their operators are not new */
    size_t table_count, table_cap;
    const uint32_t *orphans;
    size_t orphan_count;
    uint64_t digest;
};

static bool is_orphan(const struct loading *l, uint32_t table)
{
    for (size_t i = 0; i < l->orphan_count; i++) {
        if (l->orphans[i] == table) {
            return true;
        }
    }
    return false;
}

static int on_entry(void *arg, uint32_t table, const struct ckpt_entry *e, struct levee_error *err)
{
    struct loading *l = arg;

    return is_orphan(l, table) ? LEVEE_OK : rt_engine_load(l->ctx->engine, table, e, err);
}

static bool key_uid(struct levee_slice key, const char *prefix, char uid[65])
{
    size_t n = strlen(prefix);

    if (key.len <= n || key.len - n > 64 || memcmp(key.data, prefix, n) != 0) {
        return false;
    }
    memcpy(uid, key.data + n, key.len - n);
    uid[key.len - n] = 0;
    return true;
}

static int load_sink(levee_context *ctx, const char *uid, struct levee_slice value,
                     struct levee_error *err)
{
    struct cursor c = cursor_of(value);
    uint8_t version = cur_u8(&c);
    uint64_t end = cur_u64(&c), start = cur_u64(&c);
    struct levee_slice note = version >= 2 ? cur_slice(&c) : slice_of(NULL, 0);

    if (c.bad || version > 2) {
        return err_set(err, LEVEE_ECKPT_CORRUPT, "stored end of sink %s does not parse", uid);
    }
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (strcmp(s->node->uid, uid) == 0) {
            s->confirmed = end;
            s->start_batch = start;
            s->known = true;
            s->added = false;
            return rt_sink_restore_note(s, note, err);
        }
    }
    return LEVEE_OK;
}

static int load_source(levee_context *ctx, const char *uid, struct levee_slice value,
                       struct levee_error *err)
{
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        if (strcmp(ctx->graph->sources[i]->uid, uid) == 0) {
            return rt_source_decode(ctx->graph->sources[i]->source, value, err);
        }
    }
    return LEVEE_OK; /* its removal was accepted when the graphs were compared */
}

/* 0: no operator reads it any more. */
static uint8_t codec_of(const levee_context *ctx, uint32_t table)
{
    const struct rt_graph *g = ctx->graph;

    for (size_t i = 0; i < g->count; i++) {
        if (g->nodes[i]->kind == RT_KEYED && g->nodes[i]->table == table) {
            return rt_table_codec(g->nodes[i]);
        }
    }
    return 0;
}

static int load_tables(struct loading *l, struct levee_slice value, struct levee_error *err)
{
    struct cursor c = cursor_of(value);

    while (cur_left(&c)) {
        uint32_t table = cur_u32(&c);
        struct levee_slice uid = cur_slice(&c);
        (void)cur_u32(&c); /* state version: compared with the graph */
        uint32_t groups = cur_u32(&c);
        uint8_t codec = cur_u8(&c), hash = cur_u8(&c);
        if (c.bad) {
            break;
        }
        uint8_t want = codec_of(l->ctx, table);
        if (groups != RT_KEY_GROUPS || (want && codec != want) || hash != 1) {
            err_set(err, LEVEE_EDIR_NEWER,
                    "table %.*s is stored in a format this build does not read", (int)uid.len,
                    (const char *)uid.data);
            err_expected(err, "%u key groups, codec %u, hash 1", RT_KEY_GROUPS, want ? want : 1);
            err_found(err, "%u key groups, codec %u, hash %u", groups, codec, hash);
            return LEVEE_EDIR_NEWER;
        }
        if (!mem_grow((void **)&l->tables, &l->table_cap, l->table_count + 1, sizeof *l->tables)) {
            return err_nomem(err, sizeof *l->tables);
        }
        l->tables[l->table_count++] = table;
    }
    return c.bad ? err_set(err, LEVEE_ECKPT_CORRUPT, "stored table descriptors do not parse")
                 : LEVEE_OK;
}

static int on_meta(struct loading *l, struct levee_slice key, struct levee_slice value)
{
    levee_context *ctx = l->ctx;

    if (slice_eq(key, slice_str("digest-to")) && value.len == 8) {
        l->digest = get_le64(value.data);
    } else if (slice_eq(key, slice_str("time")) && value.len == 8) {
        ctx->last_time = (int64_t)get_le64(value.data);
    }
    return LEVEE_OK;
}

static int on_item(void *arg, enum ckpt_db db, struct levee_slice key, struct levee_slice value,
                   struct levee_error *err)
{
    struct loading *l = arg;
    char uid[65];

    if (db == CKPT_META) {
        return on_meta(l, key, value);
    }
    if (key_uid(key, "s/source/", uid)) {
        return load_source(l->ctx, uid, value, err);
    }
    if (key_uid(key, "s/sink/", uid)) {
        return load_sink(l->ctx, uid, value, err);
    }
    if (slice_eq(key, slice_str("s/tables"))) {
        return load_tables(l, value, err);
    }
    if (slice_eq(key, slice_str("s/time"))) {
        return rt_engine_decode_clocks(l->ctx->engine, value, err);
    }
    if (slice_eq(key, slice_str("s/accumulators"))) {
        return rt_accumulators_decode(l->ctx, value, err);
    }
    if (slice_eq(key, slice_str("s/shared"))) {
        buf_put(&l->ctx->shared.stored, value.data, value.len);
        return l->ctx->shared.stored.failed ? err_nomem(err, value.len) : LEVEE_OK;
    }
    if (slice_eq(key, slice_str("s/dead"))) {
        return rt_letters_decode(&l->ctx->letters, value, err);
    }
    return LEVEE_OK; /* a later minor version's item */
}

int rt_ckpt_stored_graph(levee_context *ctx, struct buf *ret, struct levee_error *err)
{
    struct rec_facts *f = &ctx->facts;

    buf_clear(ret);
    if (f->chain.count == 0) {
        return LEVEE_OK;
    }
    struct ckpt_version *last = &f->store.versions.items[f->chain.index[f->chain.count - 1]];
    return ckpt_read_meta(&f->store, last, slice_str("graph"), ret, err);
}

int rt_ckpt_load(levee_context *ctx, struct levee_error *err)
{
    static const struct ckpt_load_ops ops = {on_entry, on_item};
    struct loading l = {.ctx = ctx};
    struct rec_facts *f = &ctx->facts;
    uint32_t *orphans = NULL;
    struct buf graph = {0};
    int code = rt_ckpt_stored_graph(ctx, &graph, err);

    if (code == LEVEE_OK && graph.len) {
        code = rt_graph_compare(ctx->graph, buf_view(&graph), ctx->opt.drop_orphaned_state,
                                &orphans, &l.orphan_count, err);
    }
    l.orphans = orphans;
    if (code == LEVEE_OK && f->chain.count) {
        code = ckpt_load(&f->store, &f->chain, &ops, &l, err);
    }
    if (code == LEVEE_OK) {
        code = rt_engine_loaded(ctx->engine, l.tables, l.table_count, err);
    }
    if (code == LEVEE_OK && f->chain.count) {
        ctx->last_batch = ctx->done_batch = ctx->ckpt.last_batch = f->ckpt_batch;
        ctx->ckpt.last_digest = rt_engine_state_digest(ctx->engine);
        if (l.orphan_count == 0 && ctx->ckpt.last_digest != l.digest) {
            err_set(err, LEVEE_ECKPT_DIGEST, "the state after batch %llu is not what was stored",
                    (unsigned long long)f->ckpt_batch);
            err_where(err, "%s", ctx->dir.ckpt);
            err_expected(err, "digest %016llx", (unsigned long long)l.digest);
            err_found(err, "%016llx", (unsigned long long)ctx->ckpt.last_digest);
            code = LEVEE_ECKPT_DIGEST;
        }
    }
    mem_free(l.tables);
    mem_free(orphans);
    buf_release(&graph);
    return code;
}
