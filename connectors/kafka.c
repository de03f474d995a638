/*
 * The Kafka source: topics, read exactly once. This file is the receiver as the runtime sees it:
 * building it, its thread's life, what it tells. kafka_source.h says what the other files do.
 */
#include "connectors/kafka_source.h"

#include <stdio.h>

/* ---- for all parts ---- */

uint64_t kafka_now(const struct kafka_source *s)
{
    return s->io->ops->now_ns(s->io);
}

static bool stop_asked(void *arg)
{
    return atomic_load(&((struct kafka_source *)arg)->stop);
}

bool kafka_sleep(struct kafka_source *s, uint64_t ns)
{
    return !s->io->ops->wait(s->io, stop_asked, s, kafka_now(s) + ns);
}

int kafka_stopped(const struct kafka_source *s, struct levee_error *err)
{
    return err_set(err, LEVEE_ESTOPPED, "source %s: reading was stopped",
                   levee_inlet_uid(s->inlet));
}

void kafka_report(struct kafka_source *s, const char *what)
{
    uint64_t now = kafka_now(s);
    struct levee_error err = {0};

    if (s->reported_ns && now < s->reported_ns + KAFKA_REPORT_NS) {
        return;
    }
    s->reported_ns = now;
    err_set(&err, LEVEE_EBROKER, "Kafka at %s: %s", s->config.brokers, what);
    if (s->client_error[0]) {
        err_where(&err, "%s", s->client_error);
    }
    levee_inlet_report(s->inlet, &err);
}

int kafka_no_answer(struct kafka_source *s, const char *about, rd_kafka_resp_err_t code,
                    int *timeout_ms, struct levee_error *err)
{
    if (kafka_forbidden(code)) {
        err_set(err, LEVEE_EACCESS, "source %s: no permission to read Kafka's %s",
                levee_inlet_uid(s->inlet), about);
        err_where(err, "brokers %s", s->config.brokers);
        err_found(err, "%s", rd_kafka_err2str(code));
        return LEVEE_EACCESS;
    }
    *timeout_ms = kafka_ask_longer(*timeout_ms, code);
    kafka_report(s, rd_kafka_err2str(code));
    return kafka_sleep(s, KAFKA_SECOND_NS / 10) ? LEVEE_OK : kafka_stopped(s, err);
}

/* ---- life ---- */

/* Runs on the receiver's thread, inside a poll. One connection that ends is nothing to talk about:
 * brokers close those that are idle. */
static void keep_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka_source *s = opaque;
    bool permanent = code == RD_KAFKA_RESP_ERR__AUTHENTICATION || code == RD_KAFKA_RESP_ERR__SSL;

    (void)rk;
    if (permanent && !s->denied) {
        s->denied = true;
        s->reported_ns = 0; /* more to the point than what was told before it */
    }
    (void)snprintf(s->client_error, sizeof s->client_error, "%s: %s",
                   rd_kafka_err2name((rd_kafka_resp_err_t)code), reason);
    if (code != RD_KAFKA_RESP_ERR__TRANSPORT) {
        kafka_report(s, rd_kafka_err2str((rd_kafka_resp_err_t)code));
    }
}

static int open_client(struct kafka_source *s, struct levee_error *err)
{
    const char *uid = levee_inlet_uid(s->inlet);
    rd_kafka_conf_t *conf = NULL;
    int code = kafka_source_conf(&s->config, uid, &conf, err);

    if (code) {
        return code;
    }
    rd_kafka_conf_set_opaque(conf, s);
    rd_kafka_conf_set_error_cb(conf, keep_error);
    if ((code = kafka_client_new(RD_KAFKA_CONSUMER, conf, &s->rk, err)) != LEVEE_OK) {
        err_context(err, "source %s", uid);
        return code;
    }
    (void)rd_kafka_poll_set_consumer(s->rk);
    kafka_flow_open(s);
    return LEVEE_OK;
}

static void close_client(struct kafka_source *s)
{
    struct levee_error told = {0};

    kafka_flow_close(s);
    kafka_topics_release(s);
    if (!kafka_destroy(s->io, s->rk)) {
        err_set(&told, LEVEE_EBROKER,
                "the Kafka client did not end and was left behind with its threads");
        levee_inlet_report(s->inlet, &told);
    }
    s->rk = NULL;
}

/* The client ends on the thread that has used it: a lane must not wait for it. */
static void *run(void *arg)
{
    struct kafka_source *s = arg;
    struct levee_error err = {0};
    int code = kafka_receive(s, &err);

    if (code != LEVEE_OK && code != LEVEE_ESTOPPED && !atomic_load(&s->stop)) {
        levee_inlet_fail(s->inlet, &err, true);
    }
    atomic_store(&s->stop, true); /* for the group's thread */
    s->io->ops->notify(s->io);
    kafka_group_stop(s);
    close_client(s);
    return NULL;
}

static void forget(struct kafka_source *s)
{
    struct counter *const shown[] = {
        &s->shown.topics, &s->shown.partitions,  &s->shown.verified, &s->shown.absent,
        &s->shown.gaps,   &s->shown.gap_offsets, &s->shown.commits,  &s->shown.commit_failures};
    char context[UUID_TEXT];

    s->ended = s->parked = s->denied = false;
    s->reported_ns = s->looked_ns = s->ticket = 0;
    s->looks_failed = 0;
    s->client_error[0] = 0;
    for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
        atomic_store(&shown[i]->v, 0);
    }
    atomic_store(&s->group.durable_ticket, 0);
    atomic_store(&s->group.told_ns, 0);
    atomic_store(&s->stop, false);
    s->unprocessed_at_start = rt_source_has_input(CONTAINER_OF(s->inlet, struct rt_source, inlet));
    (void)snprintf(s->group.text, sizeof s->group.text, "levee %s %s",
                   uuid_format(&s->inlet->ctx->dir.context, context), levee_inlet_uid(s->inlet));
}

static int kafka_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct kafka_source *s = self;

    s->inlet = inlet;
    forget(s);
    int code = open_client(s, err);
    if (code) {
        return code;
    }
    int sys = pthread_create(&s->thread, NULL, run, s);
    if (sys) {
        kafka_flow_close(s);
        rd_kafka_destroy(s->rk); /* it has not met a broker */
        return err_sys(err, LEVEE_ETHREAD, sys, "source %s", levee_inlet_uid(inlet));
    }
    s->running = true;
    return LEVEE_OK;
}

static void kafka_stop(void *self)
{
    struct kafka_source *s = self;

    if (!s->running) {
        return; /* start had failed */
    }
    atomic_store(&s->stop, true);
    s->io->ops->notify(s->io);
    (void)pthread_join(s->thread, NULL);
    s->running = false;
}

static void kafka_durable(void *self, uint64_t ticket)
{
    atomic_store(&((struct kafka_source *)self)->group.durable_ticket, ticket);
}

static void kafka_ready(void *self)
{
    struct kafka_source *s = self;

    atomic_store(&s->ready, true);
    s->io->ops->notify(s->io);
}

static void kafka_free(void *self)
{
    struct kafka_source *s = self;

    kafka_reread_close(s);
    kafka_config_release(&s->config);
    buf_release(&s->scratch);
    mem_free(s->group.mark.next);
    (void)pthread_mutex_destroy(&s->group.mutex);
    mem_free(s);
}

static const struct levee_receiver_ops kafka_ops = {
    .version = 1,
    .start = kafka_start,
    .stop = kafka_stop,
    .durable = kafka_durable,
    .ready = kafka_ready,
    .destroy = kafka_free,
    .read = kafka_read_again,
};

int levee_kafka_source_status(levee_stream *source, struct levee_kafka_status *ret)
{
    const struct levee_inlet *in = rt_stream_inlet(source);

    if (!in || in->ops != &kafka_ops || !ret) {
        return LEVEE_EINVALID;
    }
    const struct kafka_source *s = in->self;
    *ret = (struct levee_kafka_status){
        .topics = counter_get(&s->shown.topics),
        .partitions = counter_get(&s->shown.partitions),
        .verified = counter_get(&s->shown.verified),
        .absent = counter_get(&s->shown.absent),
        .gaps = counter_get(&s->shown.gaps),
        .gap_offsets = counter_get(&s->shown.gap_offsets),
        .commits = counter_get(&s->shown.commits),
        .commit_failures = counter_get(&s->shown.commit_failures),
    };
    return LEVEE_OK;
}

/* ---- building ---- */

static struct kafka_source *source_new(levee_context *ctx)
{
    struct kafka_source *s = mem_zalloc(sizeof *s);

    if (s && pthread_mutex_init(&s->group.mutex, NULL) != 0) {
        mem_free(s);
        return NULL;
    }
    if (s) {
        s->io = rt_context_io(ctx);
    }
    return s;
}

/* Everything that can be wrong without asking a broker. */
static int configure(struct kafka_source *s, const struct levee_kafka_options *o, const char *uid,
                     struct levee_error *err)
{
    rd_kafka_conf_t *conf = NULL;
    int code = kafka_config_copy(o, &s->config, err);

    if (code == LEVEE_OK) {
        code = kafka_source_conf(&s->config, uid, &conf, err);
    }
    if (code == LEVEE_OK) {
        rd_kafka_conf_destroy(conf);
    }
    return code;
}

levee_stream *levee_kafka_source_at(levee_context *ctx, const char *uid,
                                    const struct levee_kafka_options *o, const char *file, int line)
{
    struct rt_graph *g = rt_context_graph(ctx);
    const char *name = uid ? uid : "(no uid)";
    struct levee_error err = {0};

    if (!g) {
        return NULL;
    }
    if (!o) {
        return rt_graph_fail(g, file, line, LEVEE_EINVALID, "kafka source %s: no options", name);
    }
    struct kafka_source *s = source_new(ctx);
    if (!s) {
        return rt_graph_fail(g, file, line, LEVEE_ENOMEM, "kafka source %s", name);
    }
    if (configure(s, o, name, &err) != LEVEE_OK) {
        kafka_free(s);
        return rt_graph_fail(g, file, line, err.code, "kafka source %s: %s%s%s", name, err.what,
                             err.found[0] ? ": " : "", err.found);
    }
    levee_stream *stream =
        levee_receiver_source_at(ctx, uid,
                                 &(struct levee_receiver_options){.partitions = KAFKA_INPUTS,
                                                                  .reliable = true,
                                                                  .replayable = true,
                                                                  .holes = true,
                                                                  .positions = s->config.positions,
                                                                  .identity = true},
                                 &kafka_ops, s, file, line);
    if (!stream) {
        kafka_free(s);
    }
    return stream;
}
