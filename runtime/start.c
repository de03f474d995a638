/*
 * levee_start: look, decide, then touch (4d.11).
 *
 *   look     sinks' tokens, checkpoint into memory, log above it                 nothing is written
 *   decide   rec_plan for the log, rec_judge_sink for every sink, the clock      a refusal leaves
 * every byte as it was touch    rec_apply (the first durable act), the log opens under a new epoch,
 * SINK_INIT for new sinks go       lanes start; the loop replays logged batches and receives at the
 * same time
 */
#include "runtime/context.h"

static int look_at_sinks(levee_context *ctx, struct levee_error *err)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        s->added = true; /* until checkpoint or log know it */
        int code = rt_sink_look(s, err);
        if (code) {
            err_context(err, "sink %s", s->node->uid);
            return code;
        }
        if (!s->reachable) {
            rt_say(ctx, 1, "waiting for %s: it cannot be reached", s->node->uid);
        }
    }
    return LEVEE_OK;
}

static int judge_sinks(levee_context *ctx, struct levee_error *err)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        int code = rt_sink_search(s, err);
        if (code == LEVEE_OK) {
            code = rt_sink_judge(s, err);
        }
        if (code) {
            return code;
        }
    }
    return LEVEE_OK;
}

static uint64_t epoch_floor(levee_context *ctx)
{
    uint64_t floor = 0;

    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        const struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s->reachable && s->token_state == LEVEE_TOKEN_FOUND && s->token.epoch > floor) {
            floor = s->token.epoch;
        }
    }
    return floor;
}

static int check_clock(levee_context *ctx, struct levee_error *err)
{
    int64_t last = rt_newest_time(ctx), now = ctx->io->ops->wall_ms(ctx->io);
    int64_t ahead = last ? now - last : 0;
    if (ctx->opt.max_clock_jump_ms && ahead > (int64_t)ctx->opt.max_clock_jump_ms &&
        !ctx->opt.accept_clock_jump) {
        err_set(err, LEVEE_ECLOCK_JUMP, "the clock is far ahead of the last batch");
        err_expected(err, "at most %u ms", ctx->opt.max_clock_jump_ms);
        err_found(err, "%lld ms", (long long)ahead);
        return LEVEE_ECLOCK_JUMP;
    }
    return LEVEE_OK;
}

static void wal_has_failed(void *arg, const struct levee_error *err)
{
    rt_fail(arg, err);
}

static void wal_space(void *arg, bool short_of_space)
{
    rt_say(arg, 1,
           short_of_space ? "no room for the next log segment: sources wait"
                          : "there is room for log segments again");
}

static void wal_options_of(levee_context *ctx, struct wal_options *ret)
{
    *ret = (struct wal_options){
        .dir = ctx->dir.wal,
        .context = ctx->dir.context,
        .segment_bytes = ctx->opt.segment_bytes,
        .gather = rt_inlet_gather,
        .gather_arg = ctx,
        .failed = wal_has_failed,
        .space = wal_space,
        .failed_arg = ctx,
    };
}

static int open_engine(levee_context *ctx, struct levee_error *err)
{
    struct rt_engine_options o = {
        .io = ctx->io,
        .loop = ctx->loop,
        .workers = ctx->opt.workers,
        .retries = ctx->opt.function_retries,
        .on_failure = ctx->opt.on_failure,
        .state_bytes_max = ctx->opt.state_bytes_max,
        .verify_state = ctx->opt.verify_state,
    };

    ctx->graph->frozen = true;
    return rt_engine_open(ctx->graph, &o, &ctx->engine, err);
}

static int open_lanes(levee_context *ctx, struct levee_error *err)
{
    struct io *io = ctx->io;
    int code = io->ops->lane_open(io, "loop", &ctx->loop, err);

    if (code == LEVEE_OK) {
        code = io->ops->lane_open(io, "driver", &ctx->driver, err);
    }
    if (code == LEVEE_OK) {
        code = io->ops->lane_open(io, "checkpoint", &ctx->ckpt_lane, err);
    }
    for (size_t i = 0; i < ctx->graph->sink_count && code == LEVEE_OK; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s->ops) {
            code = io->ops->lane_open(io, "sink", &s->lane, err);
        } else {
            s->lane = ctx->driver;
        }
    }
    return code;
}

static int announce_sinks(levee_context *ctx, struct levee_error *err)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s->known) {
            continue;
        }
        struct wal_frame *f =
            rt_frame_new(WAL_SINK_INIT, s->table, ctx->newest_open_at_start, slice_of(NULL, 0));
        int code = f ? wal_append(ctx->wal, f, err) : err_nomem(err, sizeof *f);
        if (code) {
            mem_free(f);
            return code;
        }
        s->known = true; /* durable before any BATCH_RESULT, so before its first write */
        s->start_batch = ctx->newest_open_at_start;
    }
    return LEVEE_OK;
}

/* A directory that has never run. */
static int start_fresh(levee_context *ctx, const struct rec_dir_options *dir,
                       struct levee_error *err)
{
    struct wal_options w;
    int code = judge_sinks(ctx, err);

    if (code == LEVEE_OK) {
        code = rec_dir_create(&ctx->dir, dir, err);
    }
    if (code == LEVEE_OK) {
        code = rt_engine_loaded(ctx->engine, NULL, 0, err);
    }
    if (code == LEVEE_OK) {
        code = ckpt_store_init(&ctx->ckpt.store, ctx->io, rt_ckpt_format(ctx), ctx->dir.ckpt);
    }
    if (code == LEVEE_OK) {
        wal_options_of(ctx, &w);
        code = wal_open(ctx->io, &w, NULL, &ctx->wal, err);
    }
    return code;
}

static int start_again(levee_context *ctx, struct levee_error *err)
{
    struct rec_plan plan = {0};
    struct rec_report report = {0};
    struct wal_options w;
    int code = rec_plan(&ctx->facts, epoch_floor(ctx), &plan, err);

    if (code == LEVEE_OK) {
        code = rt_ckpt_load(ctx, err);
    }
    if (code == LEVEE_OK) {
        code = rt_replay_read(ctx, plan.keep_to, err);
    }
    ctx->newest_open_at_start = ctx->last_batch + ctx->logged.count;
    if (code == LEVEE_OK && ((code = check_clock(ctx, err)) || (code = judge_sinks(ctx, err)))) {
        return code;
    }
    if (code) {
        return code;
    }
    crash_at(ctx->io, CP_REC_AFTER_STATE);
    wal_options_of(ctx, &w);
    code = rec_apply(&ctx->dir, &w, &plan, &ctx->facts, &report, err);
    if (code) {
        return code;
    }
    if (report.text[0]) {
        rt_say(ctx, 1, "recovery: %s", report.text);
    }
    ctx->tail_dropped = report.dropped_groups;
    ctx->ckpt.store = ctx->facts.store; /* the store moves to its new owner */
    ctx->facts.store = (struct ckpt_store){0};
    return wal_open(ctx->io, &w, &ctx->facts.wal, &ctx->wal, err);
}

static bool has_started(void *arg)
{
    return atomic_load(&((levee_context *)arg)->life) >= RT_STARTED;
}

int levee_start(levee_context *ctx, struct levee_error *err)
{
    struct levee_error local = {0};
    int code, expected = RT_INITIALISED;

    if (!ctx) {
        return err_set(err, LEVEE_EINVALID, "levee_start: no context");
    }
    code = io_check_fork(ctx->io, err);
    if (code) {
        return code;
    }
    err = err ? err : &local;
    err_clear(err);
    if (!atomic_compare_exchange_strong(&ctx->life, &expected, RT_STARTING)) {
        return err_set(err, LEVEE_ESTATE, "levee_start: the context is %s",
                       rt_life_name((enum rt_life)expected));
    }
    ctx->start_ns = ctx->io->ops->now_ns(ctx->io);
    struct rec_frozen frozen[RT_FROZEN_COUNT];
    struct rec_dir_options dir;
    rt_dir_options(ctx, frozen, &dir);
    code = open_lanes(ctx, err);
    if (code == LEVEE_OK) {
        code = open_engine(ctx, err);
    }
    if (code == LEVEE_OK) {
        code = look_at_sinks(ctx, err);
    }
    if (code == LEVEE_OK) {
        code = ctx->has_facts ? start_again(ctx, err) : start_fresh(ctx, &dir, err);
    }
    if (code == LEVEE_OK) {
        code = rt_shared_start(ctx, err);
    }
    if (code == LEVEE_OK) {
        code = rt_reread_open(ctx, err);
    }
    if (code == LEVEE_OK) {
        code = announce_sinks(ctx, err);
    }
    if (code) {
        ctx->why = *err;
        atomic_store(&ctx->life, RT_STOPPED);
        return code;
    }
    rt_clock_start(ctx);
    ctx->recovery_ns = ctx->io->ops->now_ns(ctx->io) - ctx->start_ns;
    ctx->last_ckpt_ns = ctx->io->ops->now_ns(ctx->io);
    rt_report_start(ctx);
    ctx->io->ops->lane_post(ctx->loop, &ctx->start_task);
    if (!ctx->io->ops->wait(ctx->io, has_started, ctx, UINT64_MAX)) {
        return err_set(err, LEVEE_ECRASHED, "the simulated machine lost power");
    }
    return LEVEE_OK;
}
