#define _XOPEN_SOURCE 700 /* nftw */ /* NOLINT(bugprone-reserved-identifier) */
#include "tests/integration/test_kafka_source_rig.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t rig_now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- texts ---- */

/* FNV-1a: shares nothing with the hashes of the library. */
static uint64_t fnv(struct levee_slice s)
{
    uint64_t h = 14695981039346656037u;

    for (size_t i = 0; i < s.len; i++) {
        h = (h ^ s.data[i]) * 1099511628211u;
    }
    return h;
}

static size_t put(struct levee_slice s, char *out, size_t size)
{
    if (!s.data) {
        return (size_t)snprintf(out, size, "null");
    }
    bool plain = s.len <= 24;
    for (size_t i = 0; i < s.len && plain; i++) {
        plain = s.data[i] > ' ' && s.data[i] < 127;
    }
    return plain ? (size_t)snprintf(out, size, "\"%.*s\"", (int)s.len, (const char *)s.data)
                 : (size_t)snprintf(out, size, "%zu bytes %016" PRIx64, s.len, fnv(s));
}

void rig_text_of(struct levee_slice key, struct levee_slice value, int64_t time_ms,
                 char out[RIG_TEXT])
{
    size_t n = put(key, out, RIG_TEXT);

    n += (size_t)snprintf(out + n, RIG_TEXT - n, " = ");
    n += put(value, out + n, RIG_TEXT - n);
    (void)snprintf(out + n, RIG_TEXT - n, " at %" PRId64, time_ms);
}

void rig_text(const struct levee_record *record, char out[RIG_TEXT])
{
    rig_text_of(record->key, record->value, record->time_ms, out);
}

void rig_text_timeless(const struct levee_record *record, char out[RIG_TEXT])
{
    rig_text_of(record->key, record->value, 0, out);
}

/* ---- the graph ---- */

static int describe(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rig *r = arg;
    char text[RIG_TEXT];

    (r->text ? r->text : rig_text)(in, text);
    if (r->poison && strcmp(r->poison, text) == 0) {
        return RIG_POISONED;
    }
    return levee_emit_copy(out, levee_text(text),
                           (struct levee_slice){(const uint8_t *)"\1\0\0\0\0\0\0\0", 8});
}

static int one(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)in;
    (void)arg;
    return levee_emit_i64(out, levee_text("total"), 1);
}

static int ignore(levee_batch *batch, const struct levee_token *token, void *arg,
                  struct levee_error *err)
{
    (void)batch;
    (void)token;
    (void)arg;
    (void)err;
    return LEVEE_OK;
}

static void wait_on(struct rig *r, int64_t end_ms)
{
    struct timespec t = {end_ms / 1000, end_ms % 1000 * 1000000};

    (void)pthread_cond_timedwait(&r->changed, &r->mutex, &t);
}

void rig_wait_ms(struct rig *r, int ms)
{
    pthread_mutex_lock(&r->mutex);
    wait_on(r, rig_now_ms() + ms);
    pthread_mutex_unlock(&r->mutex);
}

static int see_total(levee_batch *batch, const struct levee_token *token, void *arg,
                     struct levee_error *err)
{
    struct rig *r = arg;

    (void)token;
    (void)err;
    pthread_mutex_lock(&r->mutex);
    for (size_t p = 0; p < levee_batch_partitions(batch); p++) {
        size_t n;
        const struct levee_record *records = levee_batch_records(batch, p, &n);
        for (size_t i = 0; i < n; i++) {
            r->total = levee_i64(records[i].value);
        }
    }
    pthread_cond_broadcast(&r->changed);
    for (int64_t end = rig_now_ms() + r->hold_ms; r->hold_ms && rig_now_ms() < end;) {
        wait_on(r, end);
    }
    pthread_mutex_unlock(&r->mutex);
    return LEVEE_OK;
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct rig *r = arg;

    r->source = levee_kafka_source(ctx, r->uid ? r->uid : "in", &r->kafka);
    levee_stream *seen = levee_update_state_by_key(levee_map(r->source, describe, r), "seen", NULL,
                                                   levee_update_sum_i64, NULL);
    levee_stream *total = levee_update_state_by_key(levee_map(r->source, one, NULL), "total", NULL,
                                                    levee_update_sum_i64, NULL);
    r->derived = seen;
    (void)levee_foreach_batch(seen, "ignore", ignore, NULL);
    (void)levee_foreach_batch(total, "see", see_total, r);
    return levee_context_status(ctx, err);
}

/* ---- what levee tells ---- */

static void on_started(void *arg, const char *uid)
{
    struct rig *r = arg;

    (void)uid;
    pthread_mutex_lock(&r->mutex);
    r->starts++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

static void on_error(void *arg, const char *uid, const struct levee_error *err)
{
    struct rig *r = arg;

    (void)uid;
    pthread_mutex_lock(&r->mutex);
    r->errors++;
    r->error = *err;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

static void on_stopped(void *arg, const char *uid)
{
    struct rig *r = arg;

    (void)uid;
    pthread_mutex_lock(&r->mutex);
    r->stops++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

static const struct levee_listener listener = {.version = 1,
                                               .receiver_started = on_started,
                                               .receiver_error = on_error,
                                               .receiver_stopped = on_stopped};

static void on_line(void *arg, int level, const char *line)
{
    struct rig *r = arg;

    (void)level;
    pthread_mutex_lock(&r->mutex);
    size_t n = strlen(r->log);
    (void)snprintf(r->log + n, sizeof r->log - n, "%s\n", line);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

/* ---- life ---- */

void rig_open(struct rig *r, const char *brokers, const char *topic)
{
    const char *tmp = getenv("TMPDIR");
    pthread_condattr_t attr;

    *r = (struct rig){.kafka = {.brokers = brokers, .topic = topic, .look_ms = 100},
                      .levee = {.batch_interval_ms = 10,
                                .workers = 1,
                                .segment_bytes = 4u << 20,
                                .program_id = "rig",
                                .log = on_line,
                                .listener = &listener}};
    (void)snprintf(r->directory, sizeof r->directory, "%s/levee-kafka-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(r->directory));
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&r->mutex, NULL);
    (void)pthread_cond_init(&r->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void rig_close(struct rig *r)
{
    rig_down(r);
    (void)nftw(r->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    (void)pthread_cond_destroy(&r->changed);
    (void)pthread_mutex_destroy(&r->mutex);
}

static int start(struct rig *r, struct levee_error *err)
{
    r->levee.directory = r->directory;
    r->levee.log_arg = r->levee.listener_arg = r;
    r->starts = r->stops = r->errors = 0;
    r->log[0] = '\0';
    ck_assert_ptr_null(r->ctx);
    int code = levee_get_or_create(&r->ctx, &r->levee, build, r, err);
    return code ? code : levee_start(r->ctx, err);
}

void rig_up(struct rig *r)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_msg(start(r, &err) == LEVEE_OK, "%s", levee_error_format(&err, line, sizeof line));
}

int rig_refused(struct rig *r, struct levee_error *err)
{
    int code = start(r, err);

    ck_assert_int_ne(code, LEVEE_OK);
    ck_assert_int_eq(code, err->code);
    rig_down(r);
    return code;
}

void rig_down(struct rig *r)
{
    levee_free(r->ctx);
    r->ctx = NULL;
}

static void too_late(struct rig *r, const char *what)
{
    char line[1024];

    ck_abort_msg("waited in vain for %s: %" PRId64 " records, %u errors, the last: %s\n%s", what,
                 r->total, r->errors, levee_error_format(&r->error, line, sizeof line), r->log);
}

void rig_await(struct rig *r, int64_t total)
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;

    pthread_mutex_lock(&r->mutex);
    while (r->total < total && rig_now_ms() < end) {
        wait_on(r, end);
    }
    if (r->total < total) {
        too_late(r, "records");
    }
    pthread_mutex_unlock(&r->mutex);
}

struct levee_kafka_status rig_status(struct rig *r)
{
    struct levee_kafka_status status = {0};

    ck_assert_int_eq(levee_kafka_source_status(r->source, &status), LEVEE_OK);
    return status;
}

void rig_await_partitions(struct rig *r, uint64_t count)
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;

    pthread_mutex_lock(&r->mutex);
    while (rig_status(r).partitions < count && rig_now_ms() < end) {
        wait_on(r, rig_now_ms() + 5); /* nobody tells us */
    }
    if (rig_status(r).partitions < count) {
        too_late(r, "partitions");
    }
    pthread_mutex_unlock(&r->mutex);
}

void rig_await_error(struct rig *r, unsigned count)
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;

    pthread_mutex_lock(&r->mutex);
    while (r->errors < count && rig_now_ms() < end) {
        wait_on(r, end);
    }
    if (r->errors < count) {
        too_late(r, "an error");
    }
    pthread_mutex_unlock(&r->mutex);
}

bool rig_said(struct rig *r, const char *text)
{
    pthread_mutex_lock(&r->mutex);
    bool said = strstr(r->log, text) != NULL;
    pthread_mutex_unlock(&r->mutex);
    return said;
}

void rig_await_said(struct rig *r, const char *text)
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;

    pthread_mutex_lock(&r->mutex);
    while (!strstr(r->log, text) && rig_now_ms() < end) {
        wait_on(r, end);
    }
    if (!strstr(r->log, text)) {
        too_late(r, text);
    }
    pthread_mutex_unlock(&r->mutex);
}

int rig_end(struct rig *r, struct levee_error *err)
{
    int code = levee_await_for(r->ctx, RIG_PATIENCE_MS, err);

    if (code == LEVEE_ETIMEOUT) {
        pthread_mutex_lock(&r->mutex);
        too_late(r, "the end");
    }
    return code;
}

void rig_drain(struct rig *r)
{
    struct levee_error err = {0};
    char line[1024];

    ck_assert_int_eq(levee_drain(r->ctx, 0, &err), LEVEE_OK);
    ck_assert_msg(rig_end(r, &err) == LEVEE_OK, "%s", levee_error_format(&err, line, sizeof line));
}

/* ---- the oracle ---- */

void rig_expect(struct rig_expected *e, const char *text)
{
    if (e->count == e->cap) {
        e->cap = e->cap ? e->cap * 2 : 256;
        e->texts = realloc(e->texts, e->cap * sizeof *e->texts);
        MUST(e->texts);
    }
    (void)snprintf(e->texts[e->count++], RIG_TEXT, "%s", text);
}

void rig_expect_message(struct rig_expected *e, const struct broker_message *m)
{
    char text[RIG_TEXT];

    rig_text_of(m->key, m->value, m->timestamp_ms, text);
    rig_expect(e, text);
}

void rig_expect_numbers(struct rig_expected *e, uint64_t first, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char digits[24], text[RIG_TEXT];
        (void)snprintf(digits, sizeof digits, "%" PRIu64, first + i);
        rig_text_of((struct levee_slice){0}, levee_text(digits), 0, text);
        rig_expect(e, text);
    }
}

void rig_expected_release(struct rig_expected *e)
{
    free(e->texts);
    *e = (struct rig_expected){0};
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* One entry of the state, as often as it was counted. */
static int collect(void *arg, struct levee_slice key, struct levee_slice value)
{
    char text[RIG_TEXT];

    MUST(key.len < sizeof text);
    memcpy(text, key.data, key.len);
    text[key.len] = '\0';
    for (int64_t n = levee_i64(value); n > 0; n--) {
        rig_expect(arg, text);
    }
    return 0;
}

void rig_must_hold(struct rig *r, struct rig_expected *e)
{
    struct rig_expected held = {0};
    struct levee_error err = {0};
    size_t i = 0;

    ck_assert_int_eq(levee_state_each(r->ctx, "seen", collect, &held, &err), LEVEE_OK);
    if (held.count > 1) {
        qsort(held.texts, held.count, sizeof *held.texts, by_text);
    }
    if (e->count > 1) {
        qsort(e->texts, e->count, sizeof *e->texts, by_text);
    }
    while (i < held.count && i < e->count && strcmp(held.texts[i], e->texts[i]) == 0) {
        i++;
    }
    ck_assert_msg(i == held.count && i == e->count,
                  "%zu records, not %zu; number %zu is %s, not %s", held.count, e->count, i,
                  i < held.count ? held.texts[i] : "none", i < e->count ? e->texts[i] : "none");
    rig_expected_release(&held);
}

/* ---- on a real broker ---- */

bool rig_open_on(struct rig *r, struct broker *b, const char *topic, int partitions, int replicas,
                 const char *const *config)
{
    if (!broker_usable(b)) {
        return false;
    }
    BROKER_MUST(b, broker_topic_create(b, topic, partitions, replicas, config));
    rig_open(r, broker_address(b), topic);
    r->text = rig_text_timeless;
    return true;
}

void rig_send_numbers(struct rig *r, struct broker *b, struct rig_expected *e, int32_t partition,
                      uint64_t first, size_t count, const struct broker_how *how)
{
    BROKER_MUST(b, broker_send_numbers(b, r->kafka.topic, partition, first, count, how));
    if (!how || how->end == BROKER_COMMIT) {
        rig_expect_numbers(e, first, count);
    }
}

void rig_finish(struct rig *r, struct rig_expected *e)
{
    rig_await(r, (int64_t)e->count);
    rig_drain(r);
    rig_must_hold(r, e);
    rig_close(r);
    rig_expected_release(e);
}
