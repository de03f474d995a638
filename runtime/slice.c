/*
 * levee_slice: records of recent batches for other threads. A query waits until no batch is being
 * computed, is answered by the loop with a copy, and read by the thread that asked: state is never
 * seen while it changes, and a slow reader holds nobody up.
 */
#include "runtime/context.h"

struct rt_slice_query {
    struct link link;
    uint32_t table;
    int64_t from_ms, to_ms;
    struct buf bytes;
    int code;
    levee_context *ctx;
    _Atomic bool done;
};

static void answer(levee_context *ctx, struct rt_slice_query *q)
{
    q->code = rt_engine_slice(ctx->engine, q->table, q->from_ms, q->to_ms, &q->bytes);
    atomic_store(&q->done, true);
}

void rt_slices_answer(levee_context *ctx)
{
    struct fifo all;

    if (ctx->computing || !atomic_load(&ctx->slices_asked)) {
        return;
    }
    pthread_mutex_lock(&ctx->fail_mutex);
    all = ctx->slices;
    fifo_init(&ctx->slices);
    atomic_store(&ctx->slices_asked, false);
    pthread_mutex_unlock(&ctx->fail_mutex);
    for (struct link *l = all.head, *next; l; l = next) {
        next = l->next; /* once answered it is its owner's again */
        answer(ctx, CONTAINER_OF(l, struct rt_slice_query, link));
    }
    ctx->io->ops->notify(ctx->io);
}

static bool is_done(void *arg)
{
    const struct rt_slice_query *q = arg;

    return atomic_load(&q->done) || atomic_load(&q->ctx->life) == RT_STOPPED;
}

/* Asks the loop, or looks itself when there is none any more. */
static int ask(levee_context *ctx, struct rt_slice_query *q)
{
    if (atomic_load(&ctx->life) != RT_STOPPED) {
        pthread_mutex_lock(&ctx->fail_mutex);
        fifo_push(&ctx->slices, &q->link);
        atomic_store(&ctx->slices_asked, true);
        pthread_mutex_unlock(&ctx->fail_mutex);
        rt_pump_soon(ctx);
        (void)ctx->io->ops->wait(ctx->io, is_done, q, UINT64_MAX);
    }
    pthread_mutex_lock(&ctx->fail_mutex);
    if (!atomic_load(&q->done)) { /* stopped before it was answered: nobody else looks any more */
        fifo_init(&ctx->slices);
        answer(ctx, q);
    }
    pthread_mutex_unlock(&ctx->fail_mutex);
    return q->code;
}

static int hand_over(struct levee_slice bytes, levee_slice_fn each, void *arg)
{
    struct cursor all = cursor_of(bytes);
    int rc = 0;

    while (cur_left(&all) && rc == 0) {
        int64_t time_ms = (int64_t)cur_u64(&all);
        struct cursor c = cursor_of(cur_slice(&all));
        while (cur_left(&c) && rc == 0) {
            struct levee_record r;
            r.key = cur_slice(&c);
            r.value = cur_slice(&c);
            r.time_ms = (int64_t)cur_u64(&c);
            ASSERT(!c.bad);
            rc = each(arg, time_ms, &r);
        }
    }
    return rc;
}

int levee_slice_each(levee_context *ctx, const char *uid, int64_t from_ms, int64_t to_ms,
                     levee_slice_fn each, void *arg, struct levee_error *err)
{
    if (!ctx || !uid || !each || from_ms < 0) {
        err_set(err, LEVEE_EINVALID,
                "levee_slice_each %s: an argument is missing, or a time negative",
                uid ? uid : "(no uid)");
        err_found(err, "%lld to %lld", (long long)from_ms, (long long)to_ms);
        return LEVEE_EINVALID;
    }
    int life = atomic_load(&ctx->life);
    if (life == RT_INITIALISED || life == RT_STARTING || !ctx->engine) {
        return err_set(err, LEVEE_ESTATE, "levee_slice_each: the context is %s",
                       rt_life_name((enum rt_life)life));
    }
    struct rt_slice_query q = {
        .table = rt_uid_hash(uid), .from_ms = from_ms, .to_ms = to_ms, .ctx = ctx};
    int code = ask(ctx, &q);
    if (code == LEVEE_ENOTFOUND) {
        err_set(err, code, "no levee_remember has the uid %s", uid);
    } else if (code) {
        err_nomem(err, q.bytes.len);
    } else {
        code = hand_over(buf_view(&q.bytes), each, arg);
    }
    buf_release(&q.bytes);
    return code;
}
