/*
 * The loop: decides what happens next. Everything below runs on the loop lane, in small steps: a
 * step looks at the whole context and does what can be done now (rt_pump), so there is one place
 * that knows the order of things and no step waits for another.
 *
 *   started ──▶ stopping ──▶ stopped          stopping: by levee_stop (now), levee_drain /
 * stop_at_end (after what was received is done and checkpointed), or a failure (why is kept).
 *
 * Batch time: multiples of the interval, strictly increasing (4d.8). Within a life it follows the
 * boot-time clock from a wall-clock reading at start; a wall clock behind the last batch is not
 * believed.
 */
#include "runtime/context.h"

/* Batches that sinks at work lack: commit n overlaps work on n + 1. And those, all in all, that are
 * kept for a sink which waits for what is down. */
#define COMMITTING_MAX 2u
#define AHEAD_MAX      1024u
#define HINT_DELAY_NS  200000000u /* an idle context writes its last hints down after this */

const char *rt_life_name(enum rt_life life)
{
    static const char *const names[] = {"initialised", "starting", "started", "stopping",
                                        "stopped"};

    return names[life];
}

/* ---- clock ---- */

/* Of the newest batch that there is, those that are to be replayed included. */
int64_t rt_newest_time(const levee_context *ctx)
{
    int64_t last = ctx->last_time;

    for (struct link *l = ctx->logged.head; l; l = l->next) {
        int64_t t = CONTAINER_OF(l, struct rt_logged_batch, link)->header.time_ms;
        last = t > last ? t : last;
    }
    return last;
}

void rt_clock_start(levee_context *ctx)
{
    int64_t last = rt_newest_time(ctx);

    ctx->mono0_ns = ctx->io->ops->now_ns(ctx->io);
    ctx->wall0_ms = ctx->io->ops->wall_ms(ctx->io);
    if (ctx->wall0_ms < last) {
        ctx->wall0_ms = last;
    }
    if (ctx->last_batch == 0 && !ctx->logged.head) {
        ctx->last_time = rt_clock_due(ctx); /* the first batch ends an interval that was seen */
    }
}

static int64_t clock_ms(levee_context *ctx)
{
    return ctx->wall0_ms + (int64_t)((ctx->io->ops->now_ns(ctx->io) - ctx->mono0_ns) / 1000000u);
}

int64_t rt_clock_due(levee_context *ctx)
{
    int64_t now = clock_ms(ctx);

    return now - now % (int64_t)ctx->opt.batch_interval_ms;
}

uint64_t rt_clock_next_ns(levee_context *ctx)
{
    int64_t next = rt_clock_due(ctx) + (int64_t)ctx->opt.batch_interval_ms;

    return ctx->mono0_ns + (uint64_t)(next - ctx->wall0_ms) * 1000000u;
}

/* ---- frames nobody waits for ---- */

int rt_append(levee_context *ctx, struct wal_frame *first, struct levee_error *err)
{
    struct fifo chain = ctx->hints;

    if (!ctx->hints.head) {
        return first ? wal_append(ctx->wal, first, err) : LEVEE_OK;
    }
    *chain.tail = first ? &first->link : NULL;
    fifo_init(&ctx->hints);
    struct wal_frame *head = CONTAINER_OF(chain.head, struct wal_frame, link);
    int code = wal_append(ctx->wal, head, err);
    if (code) { /* no done is called: the hints are still ours */
        for (struct link *l = chain.head, *next; l && (!first || l != &first->link); l = next) {
            next = l->next;
            struct wal_frame *f = CONTAINER_OF(l, struct wal_frame, link);
            f->done(f, code);
        }
    }
    return code;
}

static void run_hints(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, done_hint_task);
    struct levee_error err = {0};

    ctx->hint_timed = false;
    if (atomic_load(&ctx->life) == RT_STARTED && !ctx->computing &&
        rt_append(ctx, NULL, &err) != LEVEE_OK) {
        rt_fail(ctx, &err);
    }
}

void rt_hint(levee_context *ctx, uint16_t type, uint64_t seq)
{
    struct wal_frame *f = rt_frame_new(type, 0, seq, slice_of(NULL, 0));

    if (!f) {
        return; /* it is only a hint */
    }
    fifo_push(&ctx->hints, &f->link);
    if (!ctx->hint_timed) {
        ctx->hint_timed = true;
        ctx->io->ops->lane_post_at(ctx->loop, &ctx->done_hint_task,
                                   ctx->io->ops->now_ns(ctx->io) + HINT_DELAY_NS);
    }
}

/* ---- the pump ---- */

/* Batches at the head of the queue that every sink has. */
static void finish_batches(levee_context *ctx)
{
    while (ctx->committing.head) {
        struct rt_batch *b = CONTAINER_OF(ctx->committing.head, struct rt_batch, link);
        if (b->stage != RT_SINKING || b->sinks_left > 0) {
            return;
        }
        (void)fifo_pop(&ctx->committing);
        b->stage = RT_BATCH_DONE;
        ASSERT(b->header.id == ctx->done_batch + 1);
        ctx->done_batch = b->header.id;
        rt_accumulators_publish(b);
        ctx->committing_bytes -= b->compute.bytes;
        if (!(b->logged && b->logged->done)) {
            rt_hint(ctx, WAL_BATCH_DONE, b->header.id);
        }
        crash_at(ctx->io, CP_BATCH_AFTER_DONE);
        rt_listen_batch(b, 2, NULL);
        rt_batch_free(b);
    }
}

static bool any_input(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        if (rt_source_has_input(ctx->graph->sources[i]->source)) {
            return true;
        }
    }
    return false;
}

static bool all_exhausted(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        if (!rt_source_exhausted(ctx->graph->sources[i]->source)) {
            return false;
        }
    }
    return ctx->graph->source_count > 0;
}

/* Blocks that are open or on their way into the waiting queue. */
static bool all_sealed(levee_context *ctx)
{
    bool sealed = true;

    for (size_t i = 0; i < ctx->graph->source_count && sealed; i++) {
        struct levee_inlet *in = &ctx->graph->sources[i]->source->inlet;
        pthread_mutex_lock(&in->mutex);
        sealed = !in->generation_used;
        pthread_mutex_unlock(&in->mutex);
    }
    return sealed;
}

static bool nothing_in_flight(levee_context *ctx)
{
    return !ctx->computing && !ctx->committing.head && !ctx->logged.head;
}

static void start_next_batch(levee_context *ctx)
{
    struct levee_error err = {0};
    int code = LEVEE_OK;

    if (ctx->computing || ctx->committing.count >= AHEAD_MAX ||
        (ctx->committing.count >= COMMITTING_MAX && rt_sinks_lack(ctx) >= COMMITTING_MAX) ||
        (ctx->committing.count && ctx->committing_bytes > ctx->opt.output_bytes)) {
        return;
    }
    struct link *next = ctx->logged.head;
    if ((next || rt_sinks_judged(ctx)) &&
        rt_reread_needed(ctx, next ? CONTAINER_OF(next, struct rt_logged_batch, link) : NULL)) {
        return; /* and again when they are there */
    }
    if (next) {
        (void)fifo_pop(&ctx->logged);
        code = rt_batch_open(ctx, CONTAINER_OF(next, struct rt_logged_batch, link), 0, 0, &err);
    } else if (rt_sinks_judged(ctx)) {
        int64_t due = rt_clock_due(ctx);
        if (due <= ctx->last_time || !(any_input(ctx) || ctx->opt.empty_batches ||
                                       rt_engine_wants_empty_batch(ctx->engine, due))) {
            return;
        }
        int64_t ticks =
            ctx->last_batch ? (due - ctx->last_time) / (int64_t)ctx->opt.batch_interval_ms : 1;
        code =
            rt_batch_open(ctx, NULL, due, ticks > UINT32_MAX ? UINT32_MAX : (uint32_t)ticks, &err);
    }
    if (code) {
        rt_fail(ctx, &err);
    }
}

static void become_stopped(levee_context *ctx)
{
    struct levee_error err = {0};

    if (!ctx->failed && rt_append(ctx, NULL, &err) != LEVEE_OK) {
        ctx->failed = true;
        ctx->why = err;
    }
    rt_show(ctx);
    crash_at(ctx->io, CP_STOP_AFTER_DRAIN);
    atomic_store(&ctx->life, RT_STOPPED);
    ctx->io->ops->notify(ctx->io);
}

/* What the last records have completed by event time is due in a batch without input. */
static bool event_due(levee_context *ctx)
{
    return rt_engine_event_due(ctx->engine, ctx->last_time + (int64_t)ctx->opt.batch_interval_ms);
}

/* Drained: what was received is done. One last checkpoint, so that the next start replays nothing.
 */
static void advance_drain(levee_context *ctx)
{
    struct levee_error err = {0};

    if (!nothing_in_flight(ctx) || !all_sealed(ctx) || any_input(ctx) || event_due(ctx) ||
        !rt_ckpt_idle(ctx)) {
        return;
    }
    if (ctx->ckpt.last_batch < ctx->last_batch && !ctx->final_ckpt) {
        ctx->final_ckpt = true;
        if (rt_ckpt_gather(ctx, &err) != LEVEE_OK) {
            rt_fail(ctx, &err);
            return;
        }
        rt_ckpt_advance(ctx);
        return;
    }
    become_stopped(ctx);
}

static void begin_stopping(levee_context *ctx)
{
    if (atomic_load(&ctx->life) == RT_STARTED) {
        atomic_store(&ctx->life, RT_STOPPING);
        crash_at(ctx->io, CP_STOP_BEFORE_DRAIN);
    }
    if (!ctx->receivers_stopped) {
        rt_source_stop_all(ctx);
    }
}

void rt_pump(levee_context *ctx)
{
    int life = atomic_load(&ctx->life);

    if (life != RT_STARTED && life != RT_STOPPING) {
        return;
    }
    bool now = ctx->failed || ctx->stop_requested;
    finish_batches(ctx);
    rt_ckpt_advance(ctx);
    rt_slices_answer(ctx);
    if (!now) {
        start_next_batch(ctx);
        rt_sinks_next(ctx);
        finish_batches(ctx); /* a batch that no sink needed */
        if (life == RT_STARTED && ctx->opt.stop_at_end && nothing_in_flight(ctx) &&
            all_exhausted(ctx)) {
            ctx->draining = true;
            begin_stopping(ctx);
        }
        if (ctx->draining) {
            advance_drain(ctx);
        }
    } else {
        begin_stopping(ctx);
        if (!ctx->computing && rt_sinks_idle(ctx) && rt_reread_idle(ctx) && rt_ckpt_idle(ctx)) {
            become_stopped(ctx);
        }
    }
}

static void run_pump(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, pump_task);

    atomic_store(&ctx->pump_posted, false);
    rt_pump(ctx);
}

void rt_pump_soon(levee_context *ctx)
{
    if (!atomic_exchange(&ctx->pump_posted, true)) {
        ctx->io->ops->lane_post(ctx->loop, &ctx->pump_task);
    }
}

static void run_tick(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, tick_task);

    if (atomic_load(&ctx->life) == RT_STOPPED) {
        return;
    }
    rt_pump(ctx);
    ctx->io->ops->lane_post_at(ctx->loop, &ctx->tick_task, rt_clock_next_ns(ctx));
}

/* ---- failing and stopping ---- */

/* The first failure counts. Loop. */
static void take_failure(levee_context *ctx)
{
    if (!ctx->failed) {
        pthread_mutex_lock(&ctx->fail_mutex);
        ctx->why = ctx->fail_error;
        pthread_mutex_unlock(&ctx->fail_mutex);
        ctx->failed = true;
    }
}

static void run_fail(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, fail_task);

    take_failure(ctx);
    rt_pump(ctx);
}

/*
 * On the loop a failure holds at once, not when its task runs: the pump must not open another batch
 * in between. A batch that failed has taken its blocks with it; its number given to other blocks
 * would lose them (f72 found a second BATCH_OPEN 9).
 */
void rt_fail(levee_context *ctx, const struct levee_error *err)
{
    pthread_mutex_lock(&ctx->fail_mutex);
    bool first = !ctx->fail_set;
    if (first) {
        ctx->fail_set = true;
        ctx->fail_error = *err;
    }
    pthread_mutex_unlock(&ctx->fail_mutex);
    if (ctx->io->ops->lane_current(ctx->loop)) {
        take_failure(ctx);
    }
    if (first) {
        ctx->io->ops->lane_post(ctx->loop, &ctx->fail_task);
    }
}

static void run_deadline(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, drain_deadline_task);

    ctx->stop_requested = true;
    rt_pump(ctx);
}

static void run_stop(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, stop_task);

    ctx->stop_requested = true;
    rt_pump(ctx);
}

static void run_drain(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, drain_task);
    uint32_t deadline = atomic_load(&ctx->user_drain_ms);

    if (atomic_load(&ctx->life) == RT_STARTED && !ctx->draining) {
        ctx->draining = true;
        begin_stopping(ctx);
        if (deadline) {
            ctx->io->ops->lane_post_at(ctx->loop, &ctx->drain_deadline_task,
                                       ctx->io->ops->now_ns(ctx->io) +
                                           (uint64_t)deadline * 1000000u);
        }
    }
    rt_pump(ctx);
}

static void run_start(struct io_task *t)
{
    levee_context *ctx = CONTAINER_OF(t, levee_context, start_task);

    rt_ckpt_start(ctx);
    rt_sinks_start(ctx);
    rt_source_start_all(ctx); /* first: who has come back from levee_start may push at once */
    atomic_store(&ctx->life, RT_STARTED);
    ctx->io->ops->lane_post_at(ctx->loop, &ctx->tick_task, rt_clock_next_ns(ctx));
    ctx->io->ops->notify(ctx->io);
    rt_pump(ctx);
}

void rt_loop_init(levee_context *ctx)
{
    ctx->pump_task.run = run_pump;
    ctx->tick_task.run = run_tick;
    ctx->fail_task.run = run_fail;
    ctx->stop_task.run = run_stop;
    ctx->drain_task.run = run_drain;
    ctx->start_task.run = run_start;
    ctx->done_hint_task.run = run_hints;
    ctx->drain_deadline_task.run = run_deadline;
    fifo_init(&ctx->committing);
    fifo_init(&ctx->logged);
    fifo_init(&ctx->hints);
    fifo_init(&ctx->slices);
}

/* ---- the public side: any thread ---- */

static int ask_to_stop(levee_context *ctx, bool drain, uint32_t deadline_ms,
                       struct levee_error *err)
{
    if (!ctx) {
        return err_set(err, LEVEE_EINVALID, "no context");
    }
    int code = io_check_fork(ctx->io, err);
    if (code) {
        return code;
    }
    enum rt_life life = (enum rt_life)atomic_load(&ctx->life);
    if (life != RT_STARTED && life != RT_STOPPING) {
        return err_set(err, LEVEE_ESTATE, "%s: the context is %s",
                       drain ? "levee_drain" : "levee_stop", rt_life_name(life));
    }
    if (!atomic_exchange(drain ? &ctx->user_drain : &ctx->user_stop, true)) {
        atomic_store(&ctx->user_drain_ms, deadline_ms);
        ctx->io->ops->lane_post(ctx->loop, drain ? &ctx->drain_task : &ctx->stop_task);
    }
    return LEVEE_OK;
}

int levee_stop(levee_context *ctx, struct levee_error *err)
{
    return ask_to_stop(ctx, false, 0, err);
}

int levee_drain(levee_context *ctx, uint32_t deadline_ms, struct levee_error *err)
{
    return ask_to_stop(ctx, true, deadline_ms, err);
}

static bool is_stopped(void *arg)
{
    return atomic_load(&((levee_context *)arg)->life) == RT_STOPPED;
}

static int await_until(levee_context *ctx, uint64_t deadline_ns, struct levee_error *err)
{
    if (!ctx) {
        return err_set(err, LEVEE_EINVALID, "no context");
    }
    int code = io_check_fork(ctx->io, err);
    if (code) {
        return code;
    }
    if (atomic_load(&ctx->life) < RT_STARTED) {
        return err_set(err, LEVEE_ESTATE, "levee_await: the context is %s",
                       rt_life_name((enum rt_life)atomic_load(&ctx->life)));
    }
    if (!ctx->io->ops->wait(ctx->io, is_stopped, ctx, deadline_ns)) {
        bool crashed = ctx->io->simulated && deadline_ns == UINT64_MAX;
        return crashed ? err_set(err, LEVEE_ECRASHED, "the simulated machine lost power")
                       : err_set(err, LEVEE_ETIMEOUT, "still running");
    }
    err_copy(err, &ctx->why);
    return ctx->why.code;
}

int levee_await(levee_context *ctx, struct levee_error *err)
{
    return await_until(ctx, UINT64_MAX, err);
}

int levee_await_for(levee_context *ctx, uint32_t timeout_ms, struct levee_error *err)
{
    uint64_t now = ctx ? ctx->io->ops->now_ns(ctx->io) : 0;

    return await_until(ctx, now + (uint64_t)timeout_ms * 1000000u, err);
}
