/*
 * A context from the outside: creation, options, ownership, metrics, the end. Starting is start.c,
 * running loop.c.
 */
#include "runtime/context.h"

#include <stdlib.h>

/* ---- options ---- */

static uint32_t or_u32(uint32_t v, uint32_t fallback)
{
    return v ? v : fallback;
}

static uint64_t or_u64(uint64_t v, uint64_t fallback)
{
    return v ? v : fallback;
}

static int bad_option(struct levee_error *err, const char *name, unsigned long long found,
                      const char *expected)
{
    err_set(err, LEVEE_EINVALID, "option %s is out of range", name);
    err_expected(err, "%s", expected);
    err_found(err, "%llu", found);
    return LEVEE_EINVALID;
}

static int check_options(const struct levee_options *o, struct levee_error *err)
{
    if (!o || !o->directory || !o->directory[0]) {
        return err_set(err, LEVEE_EINVALID, "option directory is missing");
    }
    if (o->batch_interval_ms > 86400000u) {
        return bad_option(err, "batch_interval_ms", o->batch_interval_ms,
                          "at most 86400000 (a day)");
    }
    if (o->workers > 1024) {
        return bad_option(err, "workers", o->workers, "at most 1024");
    }
    if (o->partitions > RT_KEY_GROUPS) {
        return bad_option(err, "partitions", o->partitions,
                          "at most 128, the number of key groups");
    }
    if (o->segment_bytes &&
        (o->segment_bytes < WAL_SEGMENT_MIN || o->segment_bytes > (1ull << 31) ||
         (o->segment_bytes & (o->segment_bytes - 1)))) {
        return bad_option(err, "segment_bytes", o->segment_bytes,
                          "a power of two from 65536 to 2147483648");
    }
    if (o->buffer_bytes && o->buffer_bytes < 4096) {
        return bad_option(err, "buffer_bytes", o->buffer_bytes, "at least 4096");
    }
    if (o->block_bytes > (1u << 30)) {
        return bad_option(err, "block_bytes", o->block_bytes, "at most 1073741824");
    }
    if (o->guarantee < LEVEE_ANY || o->guarantee > LEVEE_EXACTLY_ONCE) {
        return bad_option(err, "guarantee", (unsigned long long)o->guarantee,
                          "one of enum levee_guarantee");
    }
    if (o->listener && o->listener->version != 1) {
        return bad_option(err, "listener->version", (unsigned long long)o->listener->version, "1");
    }
    return LEVEE_OK;
}

static int fill_options(levee_context *ctx, const struct levee_options *o, struct levee_error *err)
{
    struct levee_options *x = &ctx->opt;

    *x = *o;
    x->directory = mem_strdup(o->directory);
    if (!x->directory) {
        return err_nomem(err, strlen(o->directory));
    }
    x->batch_interval_ms = or_u32(o->batch_interval_ms, 1000);
    x->partitions = or_u32(o->partitions, 8);
    x->workers = or_u32(o->workers, io_processors() > 1 ? io_processors() - 1 : 1);
    x->buffer_bytes = or_u64(o->buffer_bytes, 64u << 20);
    x->output_bytes = or_u64(o->output_bytes, 256u << 20);
    x->segment_bytes = or_u64(o->segment_bytes, WAL_SEGMENT_DEFAULT);
    x->block_bytes = or_u32(o->block_bytes, 128u << 10);
    x->checkpoint_ms = or_u32(o->checkpoint_ms, o->checkpoint_batches ? UINT32_MAX : 1000);
    x->producers_max = or_u32(o->producers_max, 10000);
    size_t max = wal_payload_max(x->segment_bytes);
    if (x->block_bytes > max / 2) {
        x->block_bytes = (uint32_t)(max / 2);
    }
    if (o->listener) {
        ctx->listener = *o->listener;
        x->listener = &ctx->listener;
    }
    if (o->program_id) {
        (void)snprintf(ctx->program, sizeof ctx->program, "%s", o->program_id);
    } else {
        rt_program_id(ctx->program);
    }
    x->program_id = ctx->program;
    return LEVEE_OK;
}

void rt_dir_options(const levee_context *ctx, struct rec_frozen frozen[RT_FROZEN_COUNT],
                    struct rec_dir_options *ret)
{
    frozen[0] = (struct rec_frozen){"batch_interval_ms", ctx->opt.batch_interval_ms};
    *ret = (struct rec_dir_options){
        .path = ctx->opt.directory,
        .existing_only = ctx->opt.existing_only,
        .frozen = frozen,
        .frozen_count = RT_FROZEN_COUNT,
    };
}

const struct ckpt_format *rt_ckpt_format(const levee_context *ctx)
{
    return ctx->io->simulated ? &ckpt_format_flat : &ckpt_format_lmdb;
}

/* ---- creation ---- */

static int open_io(levee_context *ctx, const struct levee_options *o, struct levee_error *err)
{
    if (o->testing) {
        ctx->io = o->testing->io;
        return LEVEE_OK;
    }
    ctx->io_owned = true;
    return io_posix_new(&ctx->io, err);
}

/* An existing directory: what it holds, and whether this graph may go on with it. */
static int look(levee_context *ctx, struct levee_error *err)
{
    struct buf graph = {0};
    uint32_t *orphans = NULL;
    size_t orphan_count = 0;
    int code = rec_look(&ctx->dir, rt_ckpt_format(ctx), &ctx->facts, err);

    if (code) {
        return code;
    }
    ctx->has_facts = true;
    code = rt_ckpt_stored_graph(ctx, &graph, err);
    if (code == LEVEE_OK && graph.len) {
        code = rt_graph_compare(ctx->graph, buf_view(&graph), ctx->opt.drop_orphaned_state,
                                &orphans, &orphan_count, err);
    }
    mem_free(orphans);
    buf_release(&graph);
    return code;
}

static int create(levee_context *ctx, const struct levee_options *o, levee_setup_fn setup,
                  void *arg, struct levee_error *err)
{
    struct rec_frozen frozen[RT_FROZEN_COUNT];
    struct rec_dir_options dir;
    int code = open_io(ctx, o, err);

    if (code || (code = fill_options(ctx, o, err)) != LEVEE_OK) {
        return code;
    }
    ctx->graph = rt_graph_new(ctx, ctx->opt.partitions, ctx->opt.batch_interval_ms);
    if (!ctx->graph) {
        return err_nomem(err, sizeof *ctx->graph);
    }
    rt_dir_options(ctx, frozen, &dir);
    code = rec_dir_open(ctx->io, &dir, &ctx->dir, err);
    if (code) {
        return code;
    }
    ctx->dir_open = true;
    crash_at(ctx->io, CP_DIR_AFTER_LOCK);
    code = setup(ctx, arg, err);
    int status = levee_context_status(ctx, code ? NULL : err);
    if (code || status) {
        if (code && err && err->code == 0) {
            err_set(err, code, "setup failed");
        }
        return code ? code : status;
    }
    if (ctx->graph->source_count == 0) {
        return err_set(err, LEVEE_EGRAPH, "setup built a graph without a source");
    }
    code = rt_guarantee_check(ctx, err);
    return code ? code : ctx->dir.fresh ? LEVEE_OK : look(ctx, err);
}

int levee_get_or_create(levee_context **ret, const struct levee_options *options,
                        levee_setup_fn setup, void *arg, struct levee_error *err)
{
    err_clear(err);
    if (!ret || !setup) {
        return err_set(err, LEVEE_EINVALID, "levee_get_or_create: %s is NULL",
                       ret ? "setup" : "ret");
    }
    int code = check_options(options, err);
    if (code) {
        return code;
    }
    levee_context *ctx = mem_zalloc(sizeof *ctx);
    if (!ctx) {
        return err_nomem(err, sizeof *ctx);
    }
    (void)pthread_mutex_init(&ctx->fail_mutex, NULL);
    (void)pthread_mutex_init(&ctx->owned_mutex, NULL);
    rt_accumulators_init(&ctx->accumulators);
    rt_shared_init(&ctx->shared);
    rt_loop_init(ctx);
    rt_ckpt_init(ctx);
    struct levee_error local = {0};
    code = create(ctx, options, setup, arg, err ? err : &local);
    if (code) {
        levee_free(ctx);
        return code;
    }
    *ret = ctx;
    return LEVEE_OK;
}

/* ---- the end ---- */

static void close_lanes(levee_context *ctx)
{
    struct io *io = ctx->io;

    for (size_t i = 0; ctx->graph && i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s && s->lane && s->lane != ctx->driver) {
            io->ops->lane_close(s->lane);
        }
    }
    if (ctx->graph) {
        rt_reread_close(ctx);
    }
    if (ctx->driver) {
        io->ops->lane_close(ctx->driver);
    }
    if (ctx->ckpt_lane) {
        io->ops->lane_close(ctx->ckpt_lane);
    }
    wal_close(ctx->wal);
    if (ctx->loop) {
        io->ops->lane_close(ctx->loop);
    }
}

static void free_batches(levee_context *ctx)
{
    rt_batch_free(ctx->computing);
    for (struct link *l; (l = fifo_pop(&ctx->committing)) != NULL;) {
        rt_batch_free(CONTAINER_OF(l, struct rt_batch, link));
    }
    for (struct link *l; (l = fifo_pop(&ctx->logged)) != NULL;) {
        rt_logged_free(CONTAINER_OF(l, struct rt_logged_batch, link));
    }
    for (struct link *l; (l = fifo_pop(&ctx->hints)) != NULL;) {
        mem_free(CONTAINER_OF(l, struct wal_frame, link));
    }
}

static void free_graph(levee_context *ctx)
{
    struct rt_graph *g = ctx->graph;

    for (size_t i = 0; g && i < g->sink_count; i++) {
        rt_sink_free(g->sinks[i]->sink);
    }
    for (size_t i = 0; g && i < g->source_count; i++) {
        rt_source_free(g->sources[i]->source);
    }
    rt_graph_free(g);
}

static bool stopped(void *arg)
{
    return atomic_load(&((levee_context *)arg)->life) == RT_STOPPED;
}

void levee_free(levee_context *ctx)
{
    if (!ctx) {
        return;
    }
    int life = atomic_load(&ctx->life);
    if (life == RT_STARTED || life == RT_STOPPING) {
        (void)levee_stop(ctx, NULL);
        (void)ctx->io->ops->wait(ctx->io, stopped, ctx, UINT64_MAX);
        atomic_store(&ctx->life, RT_STOPPED); /* on a crashed simulated machine nothing answers */
    }
    if (ctx->io) {
        close_lanes(ctx);
    }
    rt_engine_stop(ctx->engine);
    free_batches(ctx);
    rt_engine_close(ctx->engine);
    rt_ckpt_release(ctx);
    free_graph(ctx);
    if (ctx->has_facts) {
        rec_facts_release(&ctx->facts);
    }
    if (ctx->dir_open) {
        rec_dir_close(&ctx->dir);
    }
    buf_release(&ctx->letters.bytes);
    for (size_t i = ctx->owned_count; i-- > 0;) {
        ctx->owned[i].destructor(ctx->owned[i].arg);
    }
    mem_free(ctx->owned);
    mem_free((void *)(uintptr_t)ctx->opt.directory);
    if (ctx->io_owned) {
        io_free(ctx->io);
    }
    (void)pthread_mutex_destroy(&ctx->fail_mutex);
    (void)pthread_mutex_destroy(&ctx->owned_mutex);
    rt_accumulators_release(&ctx->accumulators);
    rt_shared_release(&ctx->shared);
    mem_free(ctx);
}

/* ---- small things ---- */

int levee_context_status(levee_context *ctx, struct levee_error *err)
{
    if (!ctx) {
        return err_set(err, LEVEE_EINVALID, "no context");
    }
    err_copy(err, &ctx->graph->error);
    return ctx->graph->error.code;
}

void *levee_own(levee_context *ctx, void *arg, void (*destructor)(void *))
{
    bool ok;

    if (!ctx || !destructor) {
        return arg;
    }
    pthread_mutex_lock(&ctx->owned_mutex);
    ok = mem_grow((void **)&ctx->owned, &ctx->owned_cap, ctx->owned_count + 1, sizeof *ctx->owned);
    if (ok) {
        ctx->owned[ctx->owned_count++] = (struct rt_owned){arg, destructor};
    }
    pthread_mutex_unlock(&ctx->owned_mutex);
    if (!ok) {
        destructor(arg);
        return NULL;
    }
    return arg;
}

void levee_context_metrics(levee_context *ctx, struct levee_metrics *ret)
{
    struct wal_stats w = {0};

    if (ctx->wal) {
        wal_stats(ctx->wal, &w);
    }
    *ret = (struct levee_metrics){
        .records_received = counter_get(&ctx->count.received),
        .records_duplicate = counter_get(&ctx->count.duplicate),
        .records_processed = counter_get(&ctx->count.processed),
        .dead_letters = counter_get(&ctx->count.dead_letters),
        .blocks = counter_get(&ctx->count.blocks),
        .bytes_received = counter_get(&ctx->count.bytes_received),
        .bytes_logged = w.written_bytes,
        .log_syncs = w.syncs,
        .log_groups = w.groups,
        .batches = counter_get(&ctx->count.batches),
        .batches_replayed = counter_get(&ctx->count.replayed),
        .checkpoints = counter_get(&ctx->count.checkpoints),
        .buffered_bytes = atomic_load(&ctx->buffered),
        .buffered_bytes_max = atomic_load(&ctx->buffered_max),
        .recovery_ns = ctx->recovery_ns,
        .log_bytes = ctx->wal ? wal_bytes(ctx->wal) : 0,
        .tail_dropped = ctx->tail_dropped,
        .last_batch = atomic_load(&ctx->shown_batch),
        .last_checkpoint_batch = atomic_load(&ctx->shown_ckpt),
        .state_keys = atomic_load(&ctx->shown_keys),
        .state_bytes = atomic_load(&ctx->shown_state_bytes),
        .records_late = atomic_load(&ctx->shown_late),
    };
}

int levee_state_each(levee_context *ctx, const char *uid,
                     int (*each)(void *arg, struct levee_slice key, struct levee_slice value),
                     void *arg, struct levee_error *err)
{
    if (!ctx || !uid || !each) {
        return err_set(err, LEVEE_EINVALID, "levee_state_each: an argument is NULL");
    }
    if (atomic_load(&ctx->life) != RT_STOPPED || !ctx->engine) {
        return err_set(err, LEVEE_ESTATE, "levee_state_each: the context is %s",
                       rt_life_name((enum rt_life)atomic_load(&ctx->life)));
    }
    int code = rt_engine_each(ctx->engine, rt_uid_hash(uid), each, arg);
    return code == LEVEE_ENOTFOUND
               ? err_set(err, code, "no operator with state has the uid %s", uid)
               : code;
}

uint32_t levee_version(void)
{
    return LEVEE_VERSION_MAJOR << 16 | LEVEE_VERSION_MINOR << 8 | LEVEE_VERSION_PATCH;
}

struct rt_graph *rt_context_graph(levee_context *ctx)
{
    return ctx ? ctx->graph : NULL;
}

struct io *rt_context_io(levee_context *ctx)
{
    return ctx->io;
}

levee_context *rt_stream_context(levee_stream *s)
{
    return s->graph->ctx;
}
