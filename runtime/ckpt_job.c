/*
 * Checkpoints of a running context. One candidate at a time (4d.4):
 *
 *   none ──gather──▶ gathered ──batch done──▶ publishing ──▶ (folding) ──▶ none
 *
 * gather   at the boundary after batch b, before b + 1 computes: dirty entries, positions,
 * producers, dead letters, sink ends; what changes later is already copied. Cost follows the dirty
 * keys. publish  when every sink has b, on the checkpoint lane. A full disk keeps the candidate and
 * tries again: it is one delta. trim     the log goes below the replay-from of the newest batch
 * that two disjoint sets of verified files reach (4d.13).
 *
 * Items. meta: batch, digest-from, digest-to, durable-lsn, graph, program, replay-from, time. Small
 * (whole in every version): s/accumulators, s/dead, s/shared, s/sink/<uid>, s/source/<uid>,
 * s/tables, s/time (watermarks).
 */
#include "runtime/context.h"

#include <stdlib.h>

#define RETRY_NS      200000000u /* a full disk is looked at again after this */
#define FOLD_EVERY    4u
#define FOLD_STEP     (256u << 10)
#define FOLD_PAUSE_NS 2000000u /* between steps: leaves the log's latency alone (4d.12) */

/* ---- gather ---- */

static bool add_item(struct rt_ckpt *c, bool meta, const char *key, struct levee_slice value)
{
    struct ckpt_item **items = meta ? &c->meta : &c->small;
    size_t *n = meta ? &c->meta_count : &c->small_count;
    struct levee_slice k = slice_str(key);
    uint8_t *copy = arena_copy(&c->arena, k.data, k.len);
    uint8_t *bytes = arena_copy(&c->arena, value.data, value.len);

    if (!copy || !bytes) {
        return false;
    }
    (*items)[(*n)++] = (struct ckpt_item){slice_of(copy, k.len), slice_of(bytes, value.len)};
    return true;
}

static bool add_u64(struct rt_ckpt *c, const char *key, uint64_t v)
{
    uint8_t le[8];

    put_le64(le, v);
    return add_item(c, true, key, slice_of(le, 8));
}

static int item_order(const void *a, const void *b)
{
    const struct ckpt_item *x = a, *y = b;

    return slice_cmp(x->key, y->key);
}

static void encode_tables(levee_context *ctx, struct buf *b)
{
    const struct rt_graph *g = ctx->graph;

    /* What is needed to read a table lives with it (4d.10). */
    for (size_t i = 0; i < g->count; i++) {
        const levee_stream *n = g->nodes[i];
        if (n->kind == RT_KEYED && n->uid[0]) {
            buf_u32(b, n->table);
            buf_slice(b, slice_str(n->uid));
            buf_u32(b, n->state_version);
            buf_u32(b, RT_KEY_GROUPS);
            buf_u8(b, rt_table_codec(n));
            buf_u8(b, 1); /* hash: XXH3-64 */
        }
    }
}

/* Everything small, as of the batch just computed. */
static bool gather_small(levee_context *ctx, struct buf *b)
{
    struct rt_ckpt *c = &ctx->ckpt;
    struct rt_graph *g = ctx->graph;
    char key[96];
    bool ok;

    /* The letters become an item when the candidate is published: some may still be added. */
    c->letters.count = ctx->letters.count;
    buf_clear(&c->letters.bytes);
    buf_put(&c->letters.bytes, ctx->letters.bytes.data, ctx->letters.bytes.len);
    ok = !c->letters.bytes.failed;
    for (size_t i = 0; i < g->source_count && ok; i++) {
        buf_clear(b);
        rt_source_encode(g->sources[i]->source, b);
        (void)snprintf(key, sizeof key, "s/source/%s", g->sources[i]->uid);
        ok = !b->failed && add_item(c, false, key, buf_view(b));
    }
    buf_clear(b);
    rt_engine_encode_clocks(ctx->engine, b);
    ok = ok && !b->failed && (b->len == 0 || add_item(c, false, "s/time", buf_view(b)));
    buf_clear(b);
    rt_accumulators_encode(ctx, b);
    ok = ok && !b->failed && (b->len == 0 || add_item(c, false, "s/accumulators", buf_view(b)));
    buf_clear(b);
    rt_shared_encode(ctx, b);
    ok = ok && !b->failed && (b->len == 0 || add_item(c, false, "s/shared", buf_view(b)));
    buf_clear(b);
    encode_tables(ctx, b);
    return ok && !b->failed && add_item(c, false, "s/tables", buf_view(b));
}

/* The last batch with output that each sink will have committed when batch b is done. */
static bool gather_sinks(levee_context *ctx, struct buf *b)
{
    struct rt_graph *g = ctx->graph;
    char key[96];
    bool ok = true;

    for (size_t i = 0; i < g->sink_count && ok; i++) {
        const struct rt_sink *s = g->sinks[i]->sink;
        uint64_t end = s->confirmed;
        for (const struct link *l = ctx->committing.head; l; l = l->next) {
            const struct rt_batch *x = CONTAINER_OF(l, const struct rt_batch, link);
            if (x->compute.output_records[i] && x->header.id > end) {
                end = x->header.id;
            }
        }
        buf_clear(b);
        buf_u8(b, s->note.len ? 2 : 1);
        buf_u64(b, end);
        buf_u64(b, s->start_batch);
        if (s->note.len) {
            buf_slice(b, buf_view(&s->note));
        }
        (void)snprintf(key, sizeof key, "s/sink/%s", s->node->uid);
        ok = !b->failed && add_item(&ctx->ckpt, false, key, buf_view(b));
    }
    return ok;
}

static uint64_t lowest_needed(levee_context *ctx)
{
    /* Read first: a block that is appended after this has a higher LSN, so none can slip between.
     */
    uint64_t lsn = wal_next_lsn(ctx->wal);

    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        uint64_t first = rt_source_first_waiting(ctx->graph->sources[i]->source);
        lsn = first < lsn ? first : lsn;
    }
    for (const struct link *l = ctx->logged.head; l; l = l->next) {
        const struct rt_logged_batch *b = CONTAINER_OF(l, const struct rt_logged_batch, link);
        lsn = b->open_lsn < lsn ? b->open_lsn : lsn;
    }
    return lsn;
}

static void drop_candidate(struct rt_ckpt *c)
{
    rt_engine_free_slices(c->tables, c->table_count);
    c->tables = NULL;
    c->table_count = 0;
    mem_free(c->small);
    mem_free(c->meta);
    c->small = c->meta = NULL;
    c->small_count = c->meta_count = 0;
    arena_reset(&c->arena);
}

bool rt_ckpt_due(levee_context *ctx)
{
    const struct levee_options *o = &ctx->opt;

    if (ctx->ckpt.stage != RT_CKPT_NONE) {
        return false;
    }
    if (o->checkpoint_batches && ctx->last_batch >= ctx->ckpt.last_batch + o->checkpoint_batches) {
        return true;
    }
    return ctx->io->ops->now_ns(ctx->io) >=
           ctx->last_ckpt_ns + (uint64_t)o->checkpoint_ms * 1000000u;
}

int rt_ckpt_gather(levee_context *ctx, struct levee_error *err)
{
    struct rt_ckpt *c = &ctx->ckpt;
    struct buf b = {0};
    size_t items = ctx->graph->sink_count + ctx->graph->source_count + 7;

    ASSERT(c->stage == RT_CKPT_NONE);
    ASSERT(!ctx->computing);
    c->batch = ctx->last_batch;
    c->replay_from = lowest_needed(ctx);
    int code = rt_engine_gather(ctx->engine, &c->tables, &c->table_count, err);
    if (code) {
        return code;
    }
    c->digest = rt_engine_state_digest(ctx->engine);
    c->small = mem_zalloc(items * sizeof *c->small);
    c->meta = mem_zalloc(10 * sizeof *c->meta);
    struct buf graph = {0};
    rt_graph_describe(ctx->graph, &graph);
    bool ok = c->small && c->meta && !graph.failed && gather_small(ctx, &b) &&
              gather_sinks(ctx, &b) && add_u64(c, "batch", c->batch) &&
              add_u64(c, "digest-from", c->last_digest) && add_u64(c, "digest-to", c->digest) &&
              add_item(c, true, "graph", buf_view(&graph)) &&
              add_item(c, true, "program", slice_str(ctx->program)) &&
              add_u64(c, REC_META_REPLAY_FROM, c->replay_from) &&
              add_u64(c, "time", (uint64_t)ctx->last_time);
    buf_release(&graph);
    buf_release(&b);
    if (!ok) {
        return err_nomem(err, items * sizeof *c->small);
    }
    c->has_letters = false;
    c->stage = RT_CKPT_GATHERED;
    c->gathered_ns = ctx->io->ops->now_ns(ctx->io);
    crash_at(ctx->io, CP_CKPT_AFTER_GATHER);
    return LEVEE_OK;
}

/* ---- on the checkpoint lane ---- */

/* Versions that retention does not need go; then the log below what two disjoint sets of files can
 * reach. */
static int retain(struct rt_ckpt *c, struct levee_error *err)
{
    struct ckpt_versions *v = &c->store.versions;
    bool *keep = mem_zalloc(v->count + 1);
    int code = LEVEE_OK;

    if (!keep) {
        return err_nomem(err, v->count);
    }
    ckpt_retain(v, keep);
    for (size_t i = v->count; i-- > 0 && code == LEVEE_OK;) {
        if (!keep[i] && !v->items[i].bad) {
            struct ckpt_version gone = v->items[i];
            code = ckpt_remove(&c->store, &gone, err); /* takes it out of the list */
        }
    }
    mem_free(keep);
    struct ckpt_chain pair[2];
    uint64_t m = code == LEVEE_OK ? ckpt_chain_disjoint(v, pair) : 0;
    c->trim_to = 0;
    c->trim_batch = m;
    for (size_t i = 0; m && i < v->count; i++) {
        if (v->items[i].to == m && v->items[i].replay_from) {
            c->trim_to = v->items[i].replay_from;
        }
    }
    return code;
}

/* Once per candidate: its batch is done, so no letter will be added any more. */
static int add_letters(struct rt_ckpt *c, struct levee_error *err)
{
    struct buf b = {0};
    bool ok = true;

    if (!c->has_letters) {
        rt_letters_encode(&c->letters, &b);
        ok = !b.failed && add_item(c, false, "s/dead", buf_view(&b));
        qsort(c->small, c->small_count, sizeof *c->small, item_order);
        c->has_letters = ok;
    }
    buf_release(&b);
    return ok ? LEVEE_OK : err_nomem(err, c->letters.bytes.len);
}

static int publish(levee_context *ctx, struct levee_error *err)
{
    struct rt_ckpt *c = &ctx->ckpt;
    size_t metas = c->meta_count;
    int code = add_letters(c, err);

    /* Known only now: everything the candidate rests on is durable. */
    if (code == LEVEE_OK && !add_u64(c, REC_META_DURABLE_LSN, wal_durable_lsn(ctx->wal))) {
        code = err_nomem(err, 64);
    }
    if (code) {
        return code;
    }
    qsort(c->meta, c->meta_count, sizeof *c->meta, item_order);
    struct ckpt_content content = {
        .from = c->last_batch,
        .to = c->batch,
        .meta = c->meta,
        .meta_count = c->meta_count,
        .small = c->small,
        .small_count = c->small_count,
        .tables = c->tables,
        .table_count = c->table_count,
    };
    code = ckpt_publish(&c->store, &content, c->replay_from, &c->published, err);
    if (code) { /* for the next try the late item is made again */
        for (size_t i = 0; i < c->meta_count; i++) {
            if (slice_eq(c->meta[i].key, slice_str(REC_META_DURABLE_LSN))) {
                c->meta[i] = c->meta[c->meta_count - 1];
                break;
            }
        }
        c->meta_count = metas;
        return code;
    }
    return retain(c, err);
}

static int fold(struct rt_ckpt *c, bool *ret_done, struct levee_error *err)
{
    struct ckpt_version made;
    int code = LEVEE_OK;

    *ret_done = false;
    if (!c->fold) {
        if (!ckpt_fold_due(&c->store.versions, FOLD_EVERY, &c->fold_plan)) {
            *ret_done = true;
            return LEVEE_OK;
        }
        code = ckpt_fold_begin(&c->store, &c->fold_plan, &c->fold, err);
    }
    if (code == LEVEE_OK) {
        code = ckpt_fold_step(c->fold, FOLD_STEP, ret_done, &made, err);
    }
    if (code || *ret_done) {
        ckpt_fold_free(c->fold);
        c->fold = NULL;
        *ret_done = true;
    }
    return code ? code : *ret_done ? retain(c, err) : LEVEE_OK;
}

static void run_task(struct io_task *t)
{
    struct rt_ckpt *c = CONTAINER_OF(t, struct rt_ckpt, task);
    levee_context *ctx = CONTAINER_OF(c, levee_context, ckpt);
    bool done = true;

    err_clear(&c->err);
    if (c->stage == RT_CKPT_PUBLISHING) {
        c->code = publish(ctx, &c->err);
    } else {
        c->code = fold(c, &done, &c->err);
    }
    if (!done && c->code == LEVEE_OK && !atomic_load(&ctx->ckpt_hurry)) {
        ctx->io->ops->lane_post_at(ctx->ckpt_lane, &c->task,
                                   ctx->io->ops->now_ns(ctx->io) + FOLD_PAUSE_NS);
        return;
    }
    if (!done && c->code == LEVEE_OK) { /* the context is stopping: a fold can be done again */
        ckpt_fold_free(c->fold);
        c->fold = NULL;
    }
    ctx->io->ops->lane_post(ctx->loop, &c->reply);
}

/* ---- the loop's side ---- */

static void run_timer(struct io_task *t)
{
    struct rt_ckpt *c = CONTAINER_OF(t, struct rt_ckpt, timer);
    levee_context *ctx = CONTAINER_OF(c, levee_context, ckpt);

    c->waiting_for_space = false;
    rt_pump(ctx);
}

static void published(levee_context *ctx)
{
    struct rt_ckpt *c = &ctx->ckpt;

    c->last_batch = c->batch;
    c->last_digest = c->digest;
    c->no_space_reported = false;
    ctx->last_ckpt_ns = ctx->io->ops->now_ns(ctx->io);
    counter_add(&ctx->count.checkpoints, 1);
    rt_hint(ctx, WAL_CHECKPOINT_MARK, c->batch);
    drop_candidate(c);
    if (ctx->failed || ctx->stop_requested || ctx->draining) {
        c->stage = RT_CKPT_NONE;
        return;
    }
    c->stage = RT_CKPT_FOLDING;
    ctx->io->ops->lane_post(ctx->ckpt_lane, &c->task);
}

static void run_reply(struct io_task *t)
{
    struct rt_ckpt *c = CONTAINER_OF(t, struct rt_ckpt, reply);
    levee_context *ctx = CONTAINER_OF(c, levee_context, ckpt);
    bool retry = c->code && levee_error_class(c->code) == LEVEE_CLASS_RETRY;

    if (c->code == LEVEE_OK && c->trim_to) {
        wal_trim(ctx->wal, c->trim_to);
        rt_shared_trim(ctx, c->trim_batch);
    } else if (c->code == LEVEE_ENOSPACE) {
        wal_give_back(ctx->wal);
    }
    if (c->code == LEVEE_OK && c->stage == RT_CKPT_PUBLISHING) {
        published(ctx);
    } else if (c->code == LEVEE_OK || (retry && c->stage == RT_CKPT_FOLDING)) {
        c->stage = RT_CKPT_NONE; /* a fold that found no room is tried after the next version */
    } else if (retry) {
        c->stage = RT_CKPT_GATHERED;
        c->waiting_for_space = true;
        if (!c->no_space_reported) {
            c->no_space_reported = true;
            rt_say(ctx, 1, "checkpoint of batch %llu waits: %s", (unsigned long long)c->batch,
                   c->err.what);
        }
        ctx->io->ops->lane_post_at(ctx->loop, &c->timer, ctx->io->ops->now_ns(ctx->io) + RETRY_NS);
    } else {
        c->stage = RT_CKPT_NONE;
        drop_candidate(c);
        rt_fail(ctx, &c->err);
    }
    rt_pump(ctx);
}

/* Lives that end before a fold is done leave their deltas behind: the next one folds first. */
void rt_ckpt_start(levee_context *ctx)
{
    struct rt_ckpt *c = &ctx->ckpt;

    if (c->store.versions.count > 1 && c->stage == RT_CKPT_NONE) {
        c->stage = RT_CKPT_FOLDING;
        ctx->io->ops->lane_post(ctx->ckpt_lane, &c->task);
    }
}

void rt_ckpt_advance(levee_context *ctx)
{
    struct rt_ckpt *c = &ctx->ckpt;
    bool ending = ctx->failed || ctx->stop_requested;

    if (c->stage == RT_CKPT_GATHERED && !ending && !c->waiting_for_space &&
        ctx->done_batch >= c->batch) {
        c->stage = RT_CKPT_PUBLISHING;
        ctx->io->ops->lane_post(ctx->ckpt_lane, &c->task);
    } else if (c->stage == RT_CKPT_GATHERED && ending) {
        drop_candidate(c); /* recovery computes these batches again */
        c->stage = RT_CKPT_NONE;
    }
    if (ending || ctx->draining) {
        atomic_store(&ctx->ckpt_hurry, true);
    }
}

bool rt_ckpt_idle(levee_context *ctx)
{
    return ctx->ckpt.stage == RT_CKPT_NONE;
}

void rt_ckpt_init(levee_context *ctx)
{
    ctx->ckpt.task.run = run_task;
    ctx->ckpt.reply.run = run_reply;
    ctx->ckpt.timer.run = run_timer;
}

void rt_ckpt_release(levee_context *ctx)
{
    struct rt_ckpt *c = &ctx->ckpt;

    ckpt_fold_free(c->fold);
    c->fold = NULL;
    drop_candidate(c);
    arena_release(&c->arena);
    buf_release(&c->letters.bytes);
    ckpt_store_release(&c->store);
}
