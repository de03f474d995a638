/*
 * Replay: what the log holds above the checkpoint becomes waiting blocks, facts and logged batches
 * again, and what a replayed batch gives is held against what its first run gave.
 *
 * Skipping is by position: a block that a checkpointed batch used has an LSN at or below its
 * source's consumed LSN (blocks of one source are used in LSN order, and an LSN is never reused
 * once durable), and, for numbered producers, a sequence at or below the applied one: both must
 * agree.
 */
#include "runtime/context.h"

/* ---- reading the log ---- */

static struct rt_source *find_source(levee_context *ctx, uint32_t table)
{
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        if (ctx->graph->sources[i]->table == table) {
            return ctx->graph->sources[i]->source;
        }
    }
    return NULL;
}

static struct rt_sink *find_sink(levee_context *ctx, uint32_t table)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        if (ctx->graph->sinks[i]->table == table) {
            return ctx->graph->sinks[i]->sink;
        }
    }
    return NULL;
}

static struct rt_logged_batch *find_logged(levee_context *ctx, uint64_t id)
{
    for (struct link *l = ctx->logged.head; l; l = l->next) {
        struct rt_logged_batch *b = CONTAINER_OF(l, struct rt_logged_batch, link);
        if (b->header.id == id) {
            return b;
        }
    }
    return NULL;
}

static int read_block(levee_context *ctx, const struct wal_entry *e, struct buf *payload,
                      struct levee_error *err)
{
    struct rt_source *s = find_source(ctx, e->stream);

    if (!s) {
        if (ctx->opt.drop_orphaned_state) {
            return LEVEE_OK;
        }
        err_set(err, LEVEE_ESTATE_ORPHANED,
                "the log holds records of a source that is not in the graph");
        err_where(err, "LSN %llu, uid hash %08x", (unsigned long long)e->lsn, e->stream);
        return LEVEE_ESTATE_ORPHANED;
    }
    if (e->lsn <= s->inlet.consumed_lsn) {
        return LEVEE_OK;
    }
    struct rt_block *b = mem_zalloc(sizeof *b);
    if (!b) {
        return err_nomem(err, sizeof *b);
    }
    b->payload = *payload;
    *payload = (struct buf){0};
    b->lsn = e->lsn;
    int code = rt_block_parse(b, err);
    if (code == LEVEE_OK) {
        code = rt_source_restore_block(s, b, err);
    }
    if (code) {
        rt_block_free(b);
        return code;
    }
    if (b->elsewhere && !s->inlet.ops->read) {
        err_set(err, LEVEE_EUNSUPPORTED, "source %s cannot read its records again",
                s->inlet.node->uid);
        err_where(err, "LSN %llu", (unsigned long long)e->lsn);
        err_found(err, "the log holds only where they are (positions mode)");
        return LEVEE_EUNSUPPORTED;
    }
    if (!b->elsewhere &&
        atomic_load(&ctx->buffered) >
            ctx->opt.buffer_bytes) { /* memory is bounded: read again when its turn comes */
        (void)atomic_fetch_sub(&ctx->buffered, b->payload.cap);
        buf_release(&b->payload);
        b->producer = slice_of(NULL, 0);
        b->on_disk = true;
    }
    return LEVEE_OK;
}

static int read_open(levee_context *ctx, const struct wal_entry *e, struct levee_slice payload,
                     struct levee_error *err)
{
    if (e->seq <= ctx->last_batch) {
        return LEVEE_OK;
    }
    struct rt_logged_batch *l = mem_zalloc(sizeof *l);
    if (!l) {
        return err_nomem(err, sizeof *l);
    }
    l->open_lsn = e->lsn;
    int code = rt_open_decode(payload, l, err);
    uint64_t want = ctx->last_batch + 1 + ctx->logged.count;
    if (code == LEVEE_OK && l->header.id != want) {
        err_set(err, LEVEE_EWAL_GAP, "the log misses a batch");
        err_where(err, "LSN %llu", (unsigned long long)e->lsn);
        err_expected(err, "BATCH_OPEN %llu", (unsigned long long)want);
        err_found(err, "%llu", (unsigned long long)l->header.id);
        code = LEVEE_EWAL_GAP;
    }
    if (code) {
        rt_logged_free(l);
        return code;
    }
    fifo_push(&ctx->logged, &l->link);
    return LEVEE_OK;
}

/* BATCH_RESULT may span frames; an unfinished one at the end of the log counts as absent. */
static int read_result(levee_context *ctx, const struct wal_entry *e, struct buf *payload,
                       struct buf *parts, struct levee_error *err)
{
    struct rt_logged_batch *l = find_logged(ctx, e->seq);

    buf_put(parts, payload->data, payload->len);
    if (parts->failed) {
        return err_nomem(err, payload->len);
    }
    if (e->flags & RT_FRAME_MORE) {
        return LEVEE_OK;
    }
    int code = l ? rt_result_decode(parts, l, err) : LEVEE_OK;
    buf_clear(parts);
    return code;
}

static void read_done(levee_context *ctx, uint64_t id)
{
    struct rt_logged_batch *l = find_logged(ctx, id);

    if (!l) {
        return;
    }
    l->done = true;
    for (size_t i = 0; i < l->sink_count; i++) {
        struct rt_sink *s = find_sink(ctx, l->sinks[i].table);
        if (s && l->sinks[i].records && s->confirmed < id) {
            s->confirmed = id;
        }
    }
}

static int read_entry(levee_context *ctx, const struct wal_entry *e, struct buf *payload,
                      struct buf *parts, struct levee_error *err)
{
    switch (e->type) {
    case WAL_BLOCK:
        return read_block(ctx, e, payload, err);
    case WAL_BATCH_OPEN:
        return read_open(ctx, e, buf_view(payload), err);
    case WAL_BATCH_RESULT:
        return read_result(ctx, e, payload, parts, err);
    case WAL_BATCH_DONE:
        read_done(ctx, e->seq);
        return LEVEE_OK;
    case WAL_SINK_INIT: {
        struct rt_sink *s = find_sink(ctx, e->stream);
        if (s) {
            s->known = true;
            s->added = false;
            s->start_batch = e->seq;
        }
        return LEVEE_OK;
    }
    case WAL_SINK_NOTE: {
        struct rt_sink *s = find_sink(ctx, e->stream);
        return s ? rt_sink_restore_note(s, buf_view(payload), err) : LEVEE_OK;
    }
    case WAL_SOURCE_INIT: {
        struct rt_source *s = find_source(ctx, e->stream);
        struct cursor c = cursor_of(buf_view(payload));
        struct levee_slice name = cur_slice(&c), value = cur_slice(&c);
        if (c.bad) {
            return err_set(err, LEVEE_EWAL_CORRUPT, "a SOURCE_INIT frame does not parse");
        }
        return s ? rt_source_restore_fact(s, name, value, err) : LEVEE_OK;
    }
    default: /* a mark, or a later minor version's hint */
        return LEVEE_OK;
    }
}

int rt_replay_read(levee_context *ctx, uint64_t keep_to, struct levee_error *err)
{
    const struct wal_facts *w = &ctx->facts.wal;
    struct buf payload = {0}, parts = {0};
    int code = LEVEE_OK;

    for (size_t i = wal_facts_find(w, ctx->facts.ckpt_replay_from);
         i < w->entry_count && code == LEVEE_OK; i++) {
        const struct wal_entry *e = &w->entries[i];
        if (e->lsn > keep_to) {
            break;
        }
        code = wal_read_entry(ctx->io, ctx->dir.wal, w, e, &payload, err);
        if (code == LEVEE_OK) {
            code = read_entry(ctx, e, &payload, &parts, err);
        }
    }
    buf_release(&payload);
    buf_release(&parts);
    return code;
}

/* ---- comparing ---- */

static const struct rt_sink_result *logged_result(const struct rt_logged_batch *l, uint32_t table)
{
    for (size_t i = 0; i < l->sink_count; i++) {
        if (l->sinks[i].table == table) {
            return &l->sinks[i];
        }
    }
    return NULL;
}

/* May somebody outside have seen this batch at this sink? */
static bool maybe_visible(const struct rt_batch *b, const struct rt_sink *s)
{
    bool has_it = s->judged && b->header.id <= s->skip_to;
    bool in_part = s->token_state == LEVEE_TOKEN_FOUND && s->token.records > 0 &&
                   s->token.batch == b->header.id;
    bool shows_early = !s->ops || s->ops->kind != LEVEE_SINK_TRANSACTIONAL;

    return has_it || in_part || !s->judged || (b->logged->has_result && shows_early);
}

/* The node upstream of a sink that has a name of its own: where to look for the function. */
static const levee_stream *nearest_upstream(const levee_stream *n)
{
    while (n->parent_count && !(n->parents[0]->uid[0] && n->parents[0]->kind != RT_SOURCE) &&
           n->parents[0]->kind != RT_SOURCE && n->parents[0]->parent_count) {
        n = n->parents[0];
    }
    return n->parent_count ? n->parents[0] : n;
}

static int report_difference(struct rt_batch *b, const struct rt_sink *s, uint64_t expected,
                             uint64_t found, struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    const levee_stream *near = nearest_upstream(s->node);
    bool other = strcmp(ctx->program, b->logged->result_program) != 0;
    int code = other ? LEVEE_EUPGRADE_IN_FLIGHT : LEVEE_ENONDETERMINISTIC;

    err_set(err, code,
            "batch %llu at sink %s: the replay's output differs; nearest named operator: %s",
            (unsigned long long)b->header.id, s->node->uid, near->uid[0] ? near->uid : near->name);
    err_where(err, "%s:%d", near->file, near->line);
    err_expected(err, "digest %016llx%s%s", (unsigned long long)expected,
                 other ? " of program " : "", other ? b->logged->result_program : "");
    err_found(err, "%016llx%s%s", (unsigned long long)found, other ? " of program " : "",
              other ? ctx->program : "");
    if (!other && ctx->opt.continue_nondeterministic) {
        char line[1024];
        rt_say(ctx, 1, "%s", levee_error_format(err, line, sizeof line));
        ctx->lowered = LEVEE_AT_LEAST_ONCE;
        memcpy(ctx->lowered_uid, s->node->uid, sizeof ctx->lowered_uid);
        err_clear(err);
        return LEVEE_OK;
    }
    return code;
}

int rt_replay_check(struct rt_batch *b, struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    struct rt_logged_batch *l = b->logged;
    bool other = strcmp(ctx->program, l->result_program) != 0;
    bool everywhere = true;

    if (!l->has_result) {
        return LEVEE_OK; /* nothing was visible: this try is the first that counts */
    }
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        const struct rt_sink *s = ctx->graph->sinks[i]->sink;
        const struct rt_sink_result *r = logged_result(l, s->table);
        bool empty = !r || r->records == 0;
        everywhere = everywhere && (empty || (s->judged && l->header.id <= s->skip_to) || l->done);
    }
    if (other && everywhere) {
        return LEVEE_OK; /* another program, and all sinks have it: not compared (4d.5) */
    }
    bool differs = false;
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        const struct rt_sink *s = ctx->graph->sinks[i]->sink;
        const struct rt_sink_result *r = logged_result(l, s->table);
        if (!r || r->digest == b->compute.digests[i]) {
            continue;
        }
        differs = true;
        if (maybe_visible(b, s)) {
            int code = report_difference(b, s, r->digest, b->compute.digests[i], err);
            if (code) {
                return code;
            }
        }
    }
    if (differs) {
        b->compute.apply_only =
            false; /* visible nowhere: the new try replaces the old one in the log */
    }
    return LEVEE_OK;
}
